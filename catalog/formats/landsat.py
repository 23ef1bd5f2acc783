"""Landsat Collection 2 folders with an MTL; reflectance at level 1, per pixel by its sun angles, and level 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from rasterio.windows import Window

from catalog.calibrate.constants import ReflectanceScale
from catalog.errors import CalibrationError
from catalog.formats.optics import complete, counts, sun_up
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.metadata import landsat
from catalog.metadata.raster import opened, read_header
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import LANDSAT

_NODES = 33
"""Points along each side of the grid that the sun's angles are kept on; between them they are as good as linear."""
_AGREES_DEG = 3.0
"""How far the angle band may lie from SUN_ELEVATION anywhere: half a scene, twice over."""


def calibration(scene: Scene, bands: Sequence[str]) -> ReflectanceScale | None:
    """REFLECTANCE_MULT and REFLECTANCE_ADD of the MTL, level 1 still to be divided by the sun's; None without it.

    Level 1: rho = (M DN + A) / sin(sun elevation), per pixel where the product ships its solar zenith band, else by
    SUN_ELEVATION at the scene's centre. Level 2: rho = M DN + A.
    Source: Landsat 8-9 Collection 2 Level 1 and Level 2 Data Format Control Books; Using the USGS Level-1 Product.
    """
    if "mtl" not in scene.metadata:
        return None
    path = metadata_file(scene, "mtl")
    found = landsat.read_mtl(path)
    sun: float | xr.DataArray | None = None
    told: dict[str, object] = {}
    if not found.level.startswith("L2"):
        sun = sun_up(path, "SUN_ELEVATION", found.sun_elevation_deg)
        told = {"sun": "SUN_ELEVATION, of the scene's centre"}
        if "sza" in scene.metadata:
            sun, told = sun_elevation(metadata_file(scene, "sza"), found.sun_elevation_deg)
    return ReflectanceScale(
        scale=complete(path, "REFLECTANCE_MULT_BAND_n", list(bands), found.mult),
        offset=complete(path, "REFLECTANCE_ADD_BAND_n", list(bands), found.add),
        source=f"REFLECTANCE_MULT and REFLECTANCE_ADD of {path.name}",
        sun_elevation_deg=sun,
        record=told,
    )


def sun_elevation(path: Path, centre_deg: float) -> tuple[xr.DataArray, dict[str, object]]:
    """Elevation of the sun over a scene by its solar zenith band, as a quadratic surface in map coordinates.

    The band holds hundredths of degrees, rounded, with 0 outside the image; the surface through it is smoother than
    its steps and goes on where the band ends.

    Parameters
    ----------
    path
        The `_SZA.TIF`, int16.
    centre_deg
        SUN_ELEVATION of the MTL, to check it against.

    Returns
    -------
    elevation
        (y, x) float64, degrees, on a coarse grid whose outermost points are the raster's corners.
    record
        The band, and how far the surface lies from it.

    Raises
    ------
    CalibrationError
        The band is empty, contradicts SUN_ELEVATION, or is no such band.
    """
    header = read_header(str(path))
    with opened(str(path)) as src:
        step = max(1, max(header.shape) // 256)
        lines = range(0, src.height, step)  # read line by line: overviews may have averaged angles with fill
        stored = np.stack([src.read(1, window=Window(0, line, src.width, 1))[0, ::step] for line in lines])
    a, _, west, _, e, north = header.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    width, height = a * header.shape[1], e * header.shape[0]
    v, u = ((np.arange(0, n, step) + 0.5) / n * 2 - 1 for n in header.shape)
    seen = stored != (0 if header.nodata is None else header.nodata)
    if not seen.any():
        raise _contradicts(path, "holds no angle")
    elevation = 90.0 - stored.astype(float) / 100.0
    far = float(np.abs(elevation[seen] - centre_deg).max())
    if far > _AGREES_DEG:
        raise _contradicts(path, f"lies up to {far:.1f} degrees from the SUN_ELEVATION of {centre_deg:g}")
    terms = _quadratic(*np.meshgrid(u, v))
    solved = np.linalg.lstsq(terms[seen], elevation[seen], rcond=None)[0]
    residual = float(np.abs(terms[seen] @ solved - elevation[seen]).max())
    along = np.linspace(-1.0, 1.0, _NODES)
    surface = xr.DataArray(
        _quadratic(*np.meshgrid(along, along)) @ solved,
        dims=("y", "x"),
        coords={"y": north + height * (along + 1) / 2, "x": west + width * (along + 1) / 2},
        attrs={"units": "degrees", "long_name": "sun elevation"},
    )
    return surface, {"sun": f"per pixel, {path.name}", "sun_surface_residual_deg": round(residual, 6)}


def _quadratic(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


def _contradicts(path: Path, problem: str) -> CalibrationError:
    return CalibrationError(
        f"a solar zenith band {problem}",
        item=str(path),
        enough="hundredths of degrees that agree with the MTL's SUN_ELEVATION",
        todo="fetch the band again, or take it out of the folder to calibrate by SUN_ELEVATION",
    )


def products(folder: Path) -> tuple[Product, ...]:
    """A Collection 2 folder with an MTL; () where the folder is none."""
    found = [p for ending in ("json", "xml", "txt") for p in sorted(folder.glob(f"*_MTL.{ending}"))]
    if not found:
        return ()
    mtl = landsat.read_mtl(found[0])
    if mtl.platform not in LANDSAT.platforms:
        raise refuse(found[0], "SPACECRAFT_ID", f"is {mtl.platform}", f"one of {', '.join(LANDSAT.platforms)}")
    expected = ExpectedGrid((mtl.lines, mtl.samples), mtl.crs, mtl.transform)
    sun = folder / mtl.files["SZA"] if "SZA" in mtl.files else None
    product = Product(
        id=mtl.product_id,
        sensor=LANDSAT.id,
        level=mtl.level,
        platform=mtl.platform,
        instruments=mtl.instruments,
        start=mtl.acquired,
        stop=mtl.acquired,
        files=_files(folder, mtl, expected),
        metadata={"mtl": found[0]} | ({"sza": sun} if sun is not None and sun.exists() else {}),
        geolocation="affine",
        encoding="dn",
        properties={
            "eo:cloud_cover": mtl.cloud_cover,
            "view:sun_elevation": mtl.sun_elevation_deg,
            "view:sun_azimuth": mtl.sun_azimuth_deg % 360.0,
            "ringmoe:tile": f"WRS2-{mtl.wrs[0]:03d}{mtl.wrs[1]:03d}",
            "ringmoe:offset_source": f"REFLECTANCE_ADD of {found[0].name}",
        },
    )
    return (product,)


def _files(folder: Path, mtl: landsat.LandsatMetadata, expected: ExpectedGrid) -> tuple[ProductFile, ...]:
    named = {b.name: folder / mtl.files[b.name] for b in LANDSAT.bands if b.name in mtl.files}
    # At level 1 scale and offset make no reflectance before the sun's angle divides them: the item must not say so.
    scale, offset = (mtl.mult, mtl.add) if mtl.level.startswith("L2") else ({}, {})
    files = [
        ProductFile(b, path, (b,), expected, scale=_of(scale, b), offset=_of(offset, b), header=counts(path))
        for b, path in named.items()
    ]
    # Bit 0 of QA_PIXEL is fill, so 1 stands for no data though the files name none.
    layers = (("QA_PIXEL", 1), ("QA_RADSAT", None))
    files += [ProductFile(n, folder / mtl.files[n], expected=expected, nodata=v) for n, v in layers if n in mtl.files]
    return tuple(files)


def _of(values: Mapping[str, float], band: str) -> dict[str, float]:
    return {band: values[band]} if band in values else {}
