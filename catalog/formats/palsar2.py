"""ALOS-2 PALSAR-2: yearly gamma nought mosaics and scenes of level 1.1 to 3.1; one calibration constant each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from catalog.calibrate.constants import AmplitudeFactor, BackscatterConstant
from catalog.errors import FootprintError, GeolocationError, MetadataError
from catalog.formats.product import ExpectedGrid, Product, ProductFile, by_polarisation, checked_header
from catalog.metadata import palsar2
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import ALOS_2

CALIBRATION_DB = -83.0
"""Of the mosaic and of every scene whose leader file says nothing else. JAXA, Calibration Result of ALOS-2/PALSAR-2
JAXA Standard Products, https://www.eorc.jaxa.jp/ALOS-2/en/calval/calval_index_20141120.htm"""
COMPLEX_DB = -32.0
"""Added to the factor at level 1.1: 10 log10(I^2 + Q^2) - 83 - 32. The same document, A."""


def products(folder: Path) -> tuple[Product, ...]:
    """A scene with its summary.txt, else the tiles of a yearly mosaic by their names; () where the folder is neither.

    Raises
    ------
    MetadataError, AssetError
        Naming the file and the field: a polarisation that is missing, complex pixels above level 1.1.
    """
    summary = folder / "summary.txt"
    if summary.exists() and any(folder.glob("*ALOS2*")):
        return (_scene(folder, palsar2.read_summary(summary)),)
    return _mosaics(folder)


def calibration(scene: Scene, bands: Sequence[str]) -> BackscatterConstant | AmplitudeFactor:
    """The constant of the level, by the leader file where there is one, else by JAXA's document.

    It makes sigma nought of a scene and gamma nought of a mosaic. Level 1.1 stays complex: S = DN 10^((CF - 32) / 20),
    so that 10 log10 |S|^2 = 10 log10(I^2 + Q^2) + CF - 32.
    """
    factor_db, source = CALIBRATION_DB, "JAXA: calibration result of PALSAR-2 standard products"
    if "leader" in scene.metadata:
        path = metadata_file(scene, "leader")
        factor_db, source = palsar2.calibration_factor_db(path), f"calibration factor of {path.name}"
        if not -100.0 < factor_db < -60.0:
            problem = f"{factor_db} dB is none that JAXA has published"
            raise refuse(path, "radiometric data record, calibration factor", problem, "one near -83 dB")
    record = {"calibration_factor_db": factor_db, "level": scene.level}
    if scene.level == "L1.1":
        amplitude = 10 ** ((factor_db + COMPLEX_DB) / 20)
        return AmplitudeFactor(dict.fromkeys(bands, amplitude), source, record | {"complex_db": COMPLEX_DB})
    return BackscatterConstant(dict.fromkeys(bands, factor_db), source, record)


def geometry(scene: Scene) -> None:
    """Level 1.1 lies in slant range and its leader's orbit is not read here.

    Raises
    ------
    GeolocationError
        Always.
    """
    raise GeolocationError(
        "PALSAR-2 pixels in slant range cannot be placed",
        item=f"{scene.id} ({scene.level})",
        enough="a scene of level 1.5, 2.1 or 3.1, which is projected",
        todo="take the scene at one of these levels",
    )


def _scene(folder: Path, summary: palsar2.Palsar2Summary) -> Product:
    images = by_polarisation(folder)
    if not images:
        raise unreadable(str(folder / f"IMG-HH-{summary.scene_id}-{summary.product_id}.tif"), "missing")
    phase = summary.level == "1.1"
    order = [b.name for b in ALOS_2.bands if b.name in images]
    for name in order:
        twins = sorted(p.name for p in folder.glob(f"IMG-{name}-*") if p.suffix.lower() in (".tif", ".tiff"))
        if len(twins) > 1:
            problem = f"are {len(twins)} files, {twins[0]} to {twins[-1]}: ScanSAR of level 1.1, a file per scan"
            raise refuse(folder, f"IMG-{name}", problem, "one file per polarisation")
    leaders = sorted(folder.glob("LED-*"))
    return Product(
        id=f"{summary.scene_id}-{summary.product_id}",
        sensor=ALOS_2.id,
        level=f"L{summary.level}",
        platform="alos-2",
        instruments=("palsar-2",),
        start=summary.start,
        stop=summary.stop,
        files=tuple(_image(images[name], name, summary) for name in order),
        metadata={"summary": summary.path, **({"leader": leaders[0]} if leaders else {})},
        geolocation="radar-grid" if phase else "affine",
        encoding="complex" if phase else "dn",
        footprint_lonlat=summary.corners_lonlat if phase else (),
        properties={
            **_sar(order, "SLC" if phase else "GRD"),
            "sar:instrument_mode": summary.mode,
            "sar:observation_direction": summary.look,
            "sat:orbit_state": summary.orbit_state,
        },
    )


def _image(path: Path, polarisation: str, summary: palsar2.Palsar2Summary) -> ProductFile:
    """One channel: complex and of the summary's size at level 1.1, detected and on a map above."""
    phase = summary.level == "1.1"
    header = checked_header(path, "complex" if phase else "real")
    if not phase and (header.crs is None or header.transform is None):
        raise FootprintError(
            "a projected scene has no place on the Earth",
            item=header.href,
            enough="a GeoTIFF with a CRS and an affine, as option G delivers it",
            todo="fetch the geocoded GeoTIFF of the scene",
        )
    known = phase and summary.lines is not None and summary.samples is not None
    expected = ExpectedGrid((summary.lines or 0, summary.samples or 0)) if known else None
    return ProductFile(polarisation, path, (polarisation,), expected, nodata=0, gsd_m=summary.spacing_m, header=header)


def _mosaics(folder: Path) -> tuple[Product, ...]:
    tiles: dict[tuple[str, int], dict[str, Path]] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff")):
        if found := palsar2.read_mosaic_name(path):
            tiles.setdefault((found.tile, found.year), {})[found.polarisation] = path
    return tuple(_mosaic(tile, year, images) for (tile, year), images in sorted(tiles.items()))


def _mosaic(tile: str, year: int, images: Mapping[str, Path]) -> Product:
    order = [b.name for b in ALOS_2.bands if b.name in images]
    if year < 2014:
        raise MetadataError(
            f"a mosaic of {year} is of the first ALOS, not of ALOS-2",
            item=str(images[order[0]]),
            enough="a mosaic of 2014 or later",
            todo="take a later year",
        )
    start = datetime(year, 1, 1, tzinfo=UTC)
    beside = images[order[0]].parent
    masks = sorted(p for p in beside.glob(f"{tile}_{year - 2000:02d}_mask*") if p.suffix.lower() in (".tif", ".tiff"))
    return Product(
        id=f"{tile}_{year}_palsar2_mosaic",
        sensor=ALOS_2.id,
        level="MOSAIC",
        platform="alos-2",
        instruments=("palsar-2",),
        start=start,
        stop=start.replace(year=year + 1) - timedelta(seconds=1),
        files=(
            *(
                ProductFile(n, images[n], (n,), nodata=0, gsd_m=25.0, header=checked_header(images[n], "real"))
                for n in order
            ),
            *(ProductFile("PALSAR_MASK", path, nodata=0) for path in masks),
        ),
        metadata={},
        geolocation="affine",
        encoding="dn",
        properties={
            **_sar(order, "RTC"),
            "sar:instrument_mode": "FBD",
            "ringmoe:datetime_source": "the year in the files' names: a mosaic of many passes",
        },
    )


def _sar(polarisations: Sequence[str], kind: str) -> dict[str, object]:
    return {
        "sar:frequency_band": "L",
        "sar:center_frequency": ALOS_2.bands[0].frequency_ghz,
        "sar:polarizations": list(polarisations),
        "sar:product_type": kind,
    }
