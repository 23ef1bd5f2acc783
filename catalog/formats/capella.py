"""Capella SLC channels with their extended JSON, beside them or in their tags; a scale factor per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from catalog.calibrate.constants import AmplitudeFactor
from catalog.errors import CalibrationError, FootprintError, MetadataError
from catalog.formats.outline import ring_lonlat
from catalog.formats.product import Product, ProductFile, by_polarisation, checked_header
from catalog.metadata import capella
from catalog.metadata.raster import RasterHeader, read_header
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import CAPELLA

_CAMPAIGNS = (
    (
        "assumed: SpaceNet 6 over Rotterdam, 4 to 31 August 2019",
        (4.0, 51.7, 4.7, 52.1),
        datetime(2019, 8, 4, tzinfo=UTC),
        datetime(2019, 8, 31, 23, 59, 59, tzinfo=UTC),
    ),
)
"""Published Capella data whose tags hold no date: name, area (west, south, east, north) and period. The period is
recorded in `ringmoe:datetime_source` as an assumption. https://spacenet.ai/sn6-challenge/"""


def products(folder: Path) -> tuple[Product, ...]:
    """Complex channels with Capella's JSON, one file per polarisation; () where the folder has none.

    Raises
    ------
    MetadataError, AssetError, FootprintError
        Naming the file and the field: a factor that is no number, another polarisation or size, detected pixels,
        channels that are not all of one radiometry, no affine.
    """
    headers = {p: read_header(str(path)) for p, path in by_polarisation(folder).items()}
    known = {p: h for p, h in headers.items() if capella.extended_json(Path(h.href)) or capella.has_tags(h)}
    # Detected pictures made of the channels may lie beside them; an extended JSON of its own makes a file a channel.
    channels = {p: h for p, h in known.items() if capella.extended_json(Path(h.href)) or h.dtype.startswith("complex")}
    if not channels:
        return ()
    tags = {p: _checked(p, checked_header(h.href, "complex")) for p, h in channels.items()}
    first, header = next(iter(tags.values())), next(iter(channels.values()))
    start, stop, source = _dates(folder, header, first)
    ordered = [b.name for b in CAPELLA.bands if b.name in channels]
    return (
        Product(
            id=folder.name,
            sensor=CAPELLA.id,
            level="SLC",
            platform=first.platform or "capella-airborne",
            instruments=("x-sar",),
            start=start,
            stop=stop,
            files=tuple(_channel(p, channels[p], tags[p].scale_factor) for p in ordered),
            metadata={f"extended-{p}": j for p in ordered if (j := capella.extended_json(Path(channels[p].href)))},
            geolocation="affine",
            encoding="complex",
            properties={
                **_properties(first, ordered),
                "ringmoe:datetime_source": source,
                "ringmoe:quantity": f"{_radiometry(folder, tags)}_amplitude",
            },
        ),
    )


def calibration(scene: Scene, bands: Sequence[str]) -> AmplitudeFactor | None:
    """The scale factor of every channel, as the item has it from the channel's metadata, and its noise level."""
    scale = {b: scene.bands[b].scale for b in bands}
    known = {b: float(v) for b, v in scale.items() if v is not None}
    if len(known) != len(scale):
        raise CalibrationError(
            "a complex channel has no scale factor",
            item=f"{scene.id}: {', '.join(b for b in scale if b not in known)}",
            enough="one scale factor per polarisation, in the file's tags or the item's raster:scale",
            todo="fetch the product with its extended metadata",
        )
    sources = {b: metadata_file(scene, f"extended-{b}") for b in bands if f"extended-{b}" in scene.metadata}
    noise = {b: capella.parse(path, path.read_text("utf-8"), "").nesz_db for b, path in sources.items()}
    named = ", ".join(p.name for p in sources.values()) or "the file's tags"
    record = {"noise_level_db": noise} if any(v is not None for v in noise.values()) else {}
    return AmplitudeFactor(known, f"scale_factor of {named}", record)


def _properties(tags: capella.CapellaTags, polarisations: Sequence[str]) -> dict[str, object]:
    assumed = {} if tags.radiometry else {"ringmoe:quantity_source": "assumed: the metadata name no radiometry"}
    return {
        "sar:instrument_mode": tags.mode or ("airborne" if tags.platform is None else "stripmap"),
        "sar:frequency_band": "X",
        "sar:center_frequency": tags.frequency_ghz or CAPELLA.bands[0].frequency_ghz,
        "sar:polarizations": list(polarisations),
        "sar:product_type": "SLC",
        **assumed,
    }


def _checked(polarisation: str, header: RasterHeader) -> capella.CapellaTags:
    """The metadata of a channel, held against its file: polarisation, size and place."""
    tags = capella.read_tags(header)
    path = capella.extended_json(Path(header.href)) or Path(header.href)
    if tags.polarisation not in (None, polarisation):
        problem = f"is {tags.polarisation}, the file is named {polarisation}"
        raise refuse(path, "collect.radar.transmit_polarization and receive_polarization", problem)
    if tags.shape not in (None, header.shape):
        raise refuse(path, "collect.image.rows and columns", f"are {tags.shape}, the file has {header.shape}")
    if header.crs is None or header.transform is None:
        raise FootprintError(
            "a channel has no place on the Earth: its file is in the slant plane",
            item=header.href,
            enough="a file with a CRS and an affine, rotated or not",
            todo="fetch the geocoded complex product, or give the file its georeference",
        )
    return tags


def _radiometry(folder: Path, tags: Mapping[str, capella.CapellaTags]) -> str:
    """What all channels are, sigma nought where none says so."""
    found = {t.radiometry or "sigma_nought" for t in tags.values()}
    if len(found) > 1:
        said = {p: t.radiometry for p, t in tags.items()}
        raise refuse(folder, "collect.image.radiometry", f"differs between channels: {said}", "one radiometry")
    return found.pop()


def _channel(polarisation: str, header: RasterHeader, factor: float) -> ProductFile:
    return ProductFile(
        polarisation,
        Path(header.href),
        (polarisation,),
        scale={polarisation: factor},
        gsd_m=_pixel_m(header),
        header=header,
    )


def _pixel_m(header: RasterHeader) -> float:
    """Side of a pixel of a file in a CRS in metres, rotated or not."""
    a, b, _, d, e, _ = header.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    return round(max((a * a + d * d) ** 0.5, (b * b + e * e) ** 0.5), 6)


def _dates(folder: Path, header: RasterHeader, tags: capella.CapellaTags) -> tuple[datetime, datetime, str]:
    if tags.start is not None:
        return tags.start, tags.stop or tags.start, f"{capella.TAG} collect.start_timestamp"
    places = ring_lonlat(header) if header.crs else ()
    for source, (west, south, east, north), start, stop in _CAMPAIGNS:
        if places and all(west <= x <= east and south <= y <= north for x, y in places):
            return start, stop, source
    raise MetadataError(
        "the tags hold no acquisition time, and the place belongs to no campaign of known dates",
        item=str(folder),
        enough="collect.start_timestamp in the tags",
        todo="fetch the product with its extended metadata",
    )
