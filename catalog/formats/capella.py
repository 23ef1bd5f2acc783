"""Capella SLC channels that carry their metadata in TIFF tags; complex amplitude with a factor per channel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from catalog.calibrate.constants import AmplitudeFactor
from catalog.errors import CalibrationError, MetadataError
from catalog.formats.outline import ring_lonlat
from catalog.formats.product import Product, ProductFile, by_polarisation
from catalog.metadata import capella
from catalog.metadata.raster import RasterHeader, read_header
from catalog.scene import Scene
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
    """Complex channels whose tags hold Capella's JSON, one file per polarisation; () where the folder has none."""
    headers = {p: read_header(str(path)) for p, path in by_polarisation(folder).items()}
    channels = {p: h for p, h in headers.items() if capella.has_tags(h) and h.dtype.startswith("complex")}
    if not channels:
        return ()
    tags = {p: capella.read_tags(h) for p, h in channels.items()}
    first, header = next(iter(tags.values())), next(iter(channels.values()))
    start, stop, source = _dates(folder, header, first)
    ordered = [b.name for b in CAPELLA.bands if b.name in channels]
    files = tuple(
        ProductFile(
            p,
            Path(channels[p].href),
            (p,),
            scale={p: tags[p].scale_factor},
            gsd_m=_pixel_m(channels[p]),
            header=channels[p],
        )
        for p in ordered
    )
    product = Product(
        id=folder.name,
        sensor=CAPELLA.id,
        level="SLC",
        platform=first.platform or "capella-airborne",
        instruments=("x-sar",),
        start=start,
        stop=stop,
        files=files,
        metadata={},
        geolocation="affine",
        encoding="complex",
        properties={
            "sar:instrument_mode": "airborne" if first.platform is None else "stripmap",
            "sar:frequency_band": "X",
            "sar:center_frequency": first.frequency_ghz or CAPELLA.bands[0].frequency_ghz,
            "sar:polarizations": ordered,
            "sar:product_type": "SLC",
            "ringmoe:datetime_source": source,
        },
    )
    return (product,)


def calibration(scene: Scene, bands: Sequence[str]) -> AmplitudeFactor | None:
    """The scale factor of every channel, as its tags or the item have it."""
    scale = {b: scene.bands[b].scale for b in bands}
    known = {b: float(v) for b, v in scale.items() if v is not None}
    if len(known) != len(scale):
        raise CalibrationError(
            "a complex channel has no scale factor",
            item=f"{scene.id}: {', '.join(b for b in scale if b not in known)}",
            enough="one scale factor per polarisation, in the file's tags or the item's raster:scale",
            todo="fetch the product with its extended metadata",
        )
    return AmplitudeFactor(known, "scale_factor of the file's tags")


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
