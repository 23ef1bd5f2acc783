"""Folders of radar products: Sentinel-1 GRD SAFE, Gaofen-3 L1A, Capella channels that carry their metadata in tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from catalog.errors import MetadataError, UnknownProduct
from catalog.metadata import capella, gaofen3, sentinel1
from catalog.metadata.raster import RasterHeader, read_header, unreadable
from catalog.metadata.xml import refuse
from catalog.register.geometry import ring_lonlat
from catalog.register.product import ExpectedGrid, Product, ProductFile
from catalog.sensors import CAPELLA, GAOFEN_3, SENTINEL_1

_POLARISATION = re.compile(r"(?:^|[_-])(HH|HV|VH|VV)(?:[_.-]|$)", re.IGNORECASE)
_TIFF = (".tif", ".tiff")

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


def sentinel1_grd(folder: Path) -> tuple[Product, ...]:
    """A GRD SAFE with manifest.safe and annotation; () where the folder is none."""
    if not (folder / "manifest.safe").exists() or not (folder / "annotation").is_dir():
        return ()
    manifest = sentinel1.read_manifest(folder / "manifest.safe")
    if manifest.product_type != "GRD":
        raise UnknownProduct(
            f"a Sentinel-1 {manifest.product_type} cannot be registered",
            item=str(folder),
            enough="the GRD of the same acquisition",
            todo="fetch the GRD",
        )
    metadata = {"manifest": manifest.path}
    files, notes = [], []
    for path in sorted((folder / "annotation").glob("*.xml")):
        note = sentinel1.read_annotation(path)
        notes.append(note)
        tables = folder / "annotation" / "calibration"
        metadata[f"annotation-{note.polarisation}"] = path
        for kind in ("calibration", "noise"):
            table = tables / f"{kind}-{path.name}"
            if not table.exists():
                raise refuse(table, "the file", "is missing", f"the product's {kind} file beside its annotation")
            metadata[f"{kind}-{note.polarisation}"] = table
        files.append(_measurement(folder, path.stem, note))
    if not notes:
        raise refuse(folder / "annotation", "annotation/*.xml", "is missing", "one annotation per polarisation")
    return (_sentinel1(folder, manifest, notes[0], tuple(files), metadata),)


def _measurement(folder: Path, stem: str, note: sentinel1.Annotation) -> ProductFile:
    found = [p for ending in _TIFF if (p := folder / "measurement" / (stem + ending)).exists()]
    if not found:
        raise unreadable(str(folder / "measurement" / f"{stem}.tiff"), "missing")
    spacing = max(note.range_pixel_spacing_m, note.azimuth_pixel_spacing_m)
    expected = ExpectedGrid((note.lines, note.samples))
    return ProductFile(note.polarisation, found[0], (note.polarisation,), expected, gsd_m=spacing)


def _sentinel1(
    folder: Path,
    manifest: sentinel1.Manifest,
    note: sentinel1.Annotation,
    files: tuple[ProductFile, ...],
    metadata: Mapping[str, Path],
) -> Product:
    return Product(
        id=folder.name.removesuffix(".SAFE"),
        sensor=SENTINEL_1.id,
        level="GRD",
        platform=manifest.platform,
        instruments=("c-sar",),
        start=manifest.start,
        stop=manifest.stop,
        files=files,
        metadata=metadata,
        geolocation="radar-grid",
        encoding="dn",
        footprint_lonlat=manifest.footprint_lonlat,
        properties={
            "sar:instrument_mode": manifest.mode,
            "sar:frequency_band": "C",
            "sar:center_frequency": round(note.radar_frequency_hz / 1e9, 9),
            "sar:polarizations": [f.key for f in files],
            "sar:product_type": "GRD",
            "sar:pixel_spacing_range": note.range_pixel_spacing_m,
            "sar:pixel_spacing_azimuth": note.azimuth_pixel_spacing_m,
            "sar:observation_direction": "right",
            "sat:orbit_state": manifest.pass_direction,
            "sat:relative_orbit": manifest.relative_orbit,
            "sat:absolute_orbit": manifest.absolute_orbit,
            "view:incidence_angle": note.incidence_mid_deg,
        },
    )


def gaofen3_l1a(folder: Path) -> tuple[Product, ...]:
    """A Gaofen-3 folder with its .meta.xml and a two-band image per polarisation; () where the folder is none."""
    found = sorted(p for p in folder.iterdir() if p.name.lower().endswith("meta.xml") and "GF3" in p.name.upper())
    if not found:
        return ()
    meta = gaofen3.read_meta(found[0])
    images = _by_polarisation(folder)
    absent = [p for p in meta.polarisations if p not in images]
    if absent:
        stem = found[0].name.removesuffix(".meta.xml")
        raise unreadable(str(folder / f"{stem}_{absent[0]}.tiff"), "missing")
    expected = ExpectedGrid((meta.lines, meta.samples))
    spacing = max(meta.range_spacing_m, meta.azimuth_spacing_m)
    files = tuple(
        ProductFile(p, images[p], (p,), expected, nodata=0, complex_pair=True, gsd_m=spacing)
        for p in gaofen3.POLARISATIONS
        if p in meta.polarisations
    )
    beside = [(f"rpc-{p}", images[p].with_suffix(e)) for p in meta.polarisations for e in (".rpc", ".rpb")]
    product = Product(
        id=re.sub(r"[._]?meta$", "", found[0].stem),
        sensor=GAOFEN_3.id,
        level=meta.level,
        platform=meta.platform,
        instruments=("c-sar",),
        start=meta.start,
        stop=meta.stop,
        files=files,
        metadata={"meta": found[0]} | {role: path for role, path in beside if path.exists()},
        geolocation="rpc",
        encoding="complex",
        footprint_lonlat=meta.corners_lonlat,
        properties={
            "sar:instrument_mode": meta.mode,
            "sar:frequency_band": "C",
            "sar:center_frequency": meta.frequency_ghz,
            "sar:polarizations": list(meta.polarisations),
            "sar:product_type": "SLC",
            "sar:pixel_spacing_range": meta.range_spacing_m,
            "sar:pixel_spacing_azimuth": meta.azimuth_spacing_m,
            "sar:observation_direction": meta.look,
        },
    )
    return (product,)


def capella_slc(folder: Path) -> tuple[Product, ...]:
    """Complex channels whose tags hold Capella's JSON, one file per polarisation; () where the folder has none."""
    headers = {p: read_header(str(path)) for p, path in _by_polarisation(folder).items()}
    channels = {p: h for p, h in headers.items() if capella.has_tags(h) and h.dtype.startswith("complex")}
    if not channels:
        return ()
    tags = {p: capella.read_tags(h) for p, h in channels.items()}
    first, header = next(iter(tags.values())), next(iter(channels.values()))
    start, stop, source = _capella_dates(folder, header, first)
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


def _by_polarisation(folder: Path) -> dict[str, Path]:
    """Polarisation to the TIFF that is named after it."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _TIFF):
        if match := _POLARISATION.search(path.stem):
            found.setdefault(match[1].upper(), path)
    return found


def _pixel_m(header: RasterHeader) -> float:
    """Side of a pixel of a file in a CRS in metres, rotated or not."""
    a, b, _, d, e, _ = header.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    return round(max((a * a + d * d) ** 0.5, (b * b + e * e) ** 0.5), 6)


def _capella_dates(folder: Path, header: RasterHeader, tags: capella.CapellaTags) -> tuple[datetime, datetime, str]:
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
