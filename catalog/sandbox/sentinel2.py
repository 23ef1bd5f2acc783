"""Sentinel-2 L2A products as ESA delivers them: SAFE folder, reversible JPEG 2000, product and tile metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import optics
from catalog.sandbox.chance import stream
from catalog.sandbox.files import write_jp2, write_text
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.optics import Clouds, Growth, Sun
from catalog.sandbox.plan import Pass, Product
from catalog.sandbox.regions import STEP_M, Grid, grid_over, mgrs_square
from catalog.sandbox.sentinel2_xml import OFFSET, QUANTIFICATION, TEN_M, Scene, product_xml, tile_xml
from catalog.sandbox.spectra import BANDS, SPECTRA

FloatArray = NDArray[np.floating]

NOISE = (0.0020, 0.008)
"""Standard deviation of the noise in reflectance: a constant, and a share of the signal."""
BLUR = 0.35
"""Gaussian blur of a pixel's response, in pixels."""
_CLOUD = np.array([0.66, 0.65, 0.64, 0.64, 0.64, 0.63, 0.62, 0.62, 0.42, 0.31], np.float32)
"""Reflectance of an opaque cloud in BANDS."""
_SHADOW = 0.55
"""Share of the light that an opaque cloud takes away."""


@dataclass(frozen=True)
class Views:
    """Noise-free surface reflectance of one day, (band, row, col) in BANDS, through pixels of three kinds."""

    truth: NDArray[np.float32]
    """10 m, where it lies."""
    ten: NDArray[np.float32]
    """10 m, displaced."""
    twenty: NDArray[np.float32]
    """20 m, displaced."""


def views(land: Landscape, acquisition: Pass, ground: Growth, shade: FloatArray) -> Views:
    """See the lit ground through the instrument's pixels."""
    eyes = [
        optics.footprint(land.grid, grid_over(land.region, land.size_m, step), shift, BLUR * step)
        for step, shift in ((STEP_M, (0.0, 0.0)), (STEP_M, acquisition.shift_m), (2 * STEP_M, acquisition.shift_m))
    ]
    seen = [np.zeros((len(BANDS), e[0].shape[0], e[1].shape[0]), np.float32) for e in eyes]
    for k, plane in enumerate(optics.abundances(ground, acquisition.season, shade)):
        for out, eye in zip(seen, eyes, strict=True):
            out += SPECTRA[k][:, None, None] * optics.see(plane, eye)
    return Views(*seen)


def write(root: Path, land: Landscape, acquisition: Pass, seen: Views, at: Sun) -> Product:
    """Write one product below a folder.

    Parameters
    ----------
    root
        The products' folder.
    seen
        The land as the instrument sees it that day, without clouds and noise.
    at
        Position of the sun.
    """
    tile = mgrs_square(land.region.epsg, land.region.west_m, land.region.south_m)
    ten, twenty = (grid_over(land.region, land.size_m, s) for s in (STEP_M, 2 * STEP_M))
    sky = optics.clouds(land.seed, land.region, acquisition.date, ten, acquisition.cloud_share, at)
    rng = stream(land.seed, land.region.name, "sentinel-2", acquisition.date)
    scene_of = Scene(acquisition, tile, at, ten, {})
    folder = root / scene_of.folder
    quality: NDArray[np.uint8] = np.zeros((1, 1), np.uint8)
    for grid, clear in ((ten, seen.ten), (twenty, seen.twenty)):
        rho, scl = _sky(clear, sky, grid)
        rho = rho + rng.standard_normal(rho.shape, np.float32) * (NOISE[0] + NOISE[1] * np.abs(rho))
        outside = _outside(grid) if acquisition.wedge else np.zeros((grid.rows, grid.cols), bool)
        dn = np.clip(np.rint(rho * QUANTIFICATION) - OFFSET, 1, 65_535).astype(np.uint16)
        dn[:, outside], scl[outside] = 0, 0
        resolution = round(grid.step_m)
        for band in (b for b in BANDS if (b in TEN_M) == (grid is ten)):
            write_jp2(folder / f"{scene_of.image(band, resolution)}.jp2", dn[BANDS.index(band)], grid)
        quality = scl
    write_jp2(folder / f"{scene_of.image('SCL', 20)}.jp2", quality, twenty)
    shares = {name: 100.0 * float((quality == code).mean()) for code, name in _CLASSES.items()}
    scene = Scene(acquisition, tile, at, ten, shares)
    write_text(folder / "MTD_MSIL2A.xml", product_xml(scene))
    write_text(folder / scene.granule / "MTD_TL.xml", tile_xml(scene))
    valid = max(100.0 - shares["NODATA"], 1e-9)
    clouded = (shares["HIGH"] + shares["MEDIUM"]) / valid
    return Product(
        scene.folder, "sentinel-2", land.region.name, acquisition.date, acquisition.shift_m, round(clouded, 4)
    )


_CLASSES = {
    0: "NODATA", 3: "SHADOW", 4: "VEGETATION", 5: "BARE", 6: "WATER", 7: "UNCLASSIFIED", 8: "MEDIUM", 9: "HIGH",
}  # fmt: skip


def _sky(rho: FloatArray, sky: Clouds | None, grid: Grid) -> tuple[FloatArray, NDArray[np.uint8]]:
    ndvi = (rho[6] - rho[2]) / (rho[6] + rho[2] + 1e-6)
    ndwi = (rho[1] - rho[6]) / (rho[1] + rho[6] + 1e-6)
    scl = np.select([ndwi > 0.1, ndvi > 0.40, ndvi > 0.12], [6, 4, 5], 7).astype(np.uint8)
    if sky is None:
        return rho, scl
    cloud, shadow = sky.thickness(grid), sky.shadow(grid)
    scl[shadow > 0.2] = 3
    scl[cloud > 0.15] = 8
    scl[cloud > 0.6] = 9
    rho = rho * (1.0 - _SHADOW * shadow) * (1.0 - cloud) + _CLOUD[:, None, None] * cloud
    return rho.astype(np.float32), scl


def _outside(grid: Grid) -> NDArray[np.bool_]:
    """What lies beyond a swath edge that runs from top left to bottom left, some 8 % of the tile."""
    row, col = np.mgrid[: grid.rows, : grid.cols]
    return col < (0.04 + 0.08 * row / grid.rows) * grid.cols
