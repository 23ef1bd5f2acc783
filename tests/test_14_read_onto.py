"""One band onto a grid: exact windows, bilinear against its definition, and what odc-stac and GDAL say of the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import odc.stac
import pytest
import rasterio
import tiny_products as tiny
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from scipy.ndimage import map_coordinates

from catalog.read import read
from catalog.read.engines import bare_item
from catalog.read.files import checked
from catalog.read.onto import onto
from catalog.register import register
from catalog.scene import Scene

SIDE = 400
HERE = Affine(10.0, 0, 300_000.0, 0, -10.0, 5_000_000.0)
EAST = "EPSG:32633"
"""300 km east of this zone's western edge: its grid is turned by degrees against the next zone's."""
ASKEW = GeoBox((250, 250), Affine(10.0, 0, 773_500.0, 0, -10.0, 5_001_500.0), "EPSG:32632")


def _raster(path: Path, values: np.ndarray, nodata: float | None = None) -> Path:
    return tiny.write_tif(path, values, transform=HERE, crs=EAST, nodata=nodata)


def _onto(path: Path, grid: GeoBox, method: Resampling, nodata: float | None = None) -> np.ndarray:
    out = np.full(tuple(grid.shape), np.nan, "float32")
    with rasterio.open(path) as src:
        onto(src, 1, grid, method, nodata, out)
    return out


@pytest.fixture
def noise() -> np.ndarray:
    """Nothing to see twice: any blur or displacement shows."""
    return np.random.default_rng(3).integers(1000, 3000, (SIDE, SIDE)).astype("uint16")


def _places(grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the raster, from pixel centres, of every pixel of a grid, by PROJ itself."""
    row, column = np.meshgrid(*(np.arange(n) + 0.5 for n in grid.shape), indexing="ij")
    x, y = grid.affine * (column, row)
    assert grid.crs is not None
    x, y = grid.crs.transformer_to_crs(GeoBox((1, 1), HERE, EAST).crs)(x, y)
    column, row = ~HERE * (x, y)
    return row - 0.5, column - 0.5


@pytest.mark.parametrize("method", [Resampling.nearest, Resampling.bilinear, Resampling.cubic, Resampling.average])
def test_a_grid_of_the_rasters_own_pixels_is_a_window(tmp_path: Path, noise: np.ndarray, method: Resampling) -> None:
    """Whole pixels east, south and beyond the edge: the numbers themselves, whatever the resampling."""
    path = _raster(tmp_path / "a.tif", noise)
    for row, column in ((30, 50), (-20, 350), (390, -7)):
        grid = GeoBox((60, 80), HERE @ Affine.translation(column, row), EAST)
        wanted = np.full((60, 80), np.nan)
        rows = slice(max(row, 0), min(row + 60, SIDE))
        columns = slice(max(column, 0), min(column + 80, SIDE))
        wanted[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = noise[
            rows, columns
        ]
        np.testing.assert_array_equal(_onto(path, grid, method), wanted)


def test_a_shift_of_a_hundredth_of_a_pixel_is_not_left_out(tmp_path: Path) -> None:
    """On a ramp of 100 DN per pixel the values fall by 1."""
    ramp = np.broadcast_to(100.0 * np.arange(SIDE), (SIDE, SIDE)).astype("float32")
    path = _raster(tmp_path / "a.tif", ramp)
    grid = GeoBox((50, 50), HERE @ Affine.translation(20 - 0.01, 20), EAST)
    np.testing.assert_allclose(_onto(path, grid, Resampling.bilinear), ramp[20:70, 20:70] - 1.0, atol=0.05)


def test_bilinear_is_bilinear_on_a_grid_that_lies_askew(tmp_path: Path, noise: np.ndarray) -> None:
    """Against SciPy at PROJ's places: within what an eighth of a pixel makes, not blurred as GDAL's guess is."""
    path = _raster(tmp_path / "a.tif", noise)
    got = _onto(path, ASKEW, Resampling.bilinear)
    row, column = _places(ASKEW)
    inside = (np.minimum(row, column) > 1) & (np.maximum(row, column) < SIDE - 2)
    assert inside.sum() > 20_000
    wanted = map_coordinates(noise.astype(float), [row, column], order=1)
    apart = np.abs(got - wanted)[inside]
    assert np.median(apart) < 5.0
    assert apart.max() < 2000 * 2 * 0.125
    guess = np.full((250, 250), np.nan, "float32")
    with rasterio.open(path) as src:
        rasterio.warp.reproject(
            rasterio.band(src, 1),
            guess,
            dst_transform=ASKEW.affine,
            dst_crs=str(ASKEW.crs),
            dst_nodata=np.nan,
            resampling=Resampling.bilinear,
        )
    assert np.median(np.abs(guess - wanted)[inside]) > 3 * np.median(apart)


@pytest.mark.parametrize("method", [Resampling.nearest, Resampling.bilinear, Resampling.cubic])
def test_a_hole_changes_nothing_but_its_surroundings(tmp_path: Path, noise: np.ndarray, method: Resampling) -> None:
    """With and without masks GDAL gives the same numbers and the same edge; only beside the hole they differ."""
    whole = _onto(_raster(tmp_path / "a.tif", noise, 0), ASKEW, method, 0)
    noise[200, 200] = 0
    holed = _onto(_raster(tmp_path / "b.tif", noise, 0), ASKEW, method, 0)
    row, column = _places(ASKEW)
    far = np.hypot(row - 200, column - 200) > 4
    assert np.isfinite(whole).sum() > 20_000
    np.testing.assert_array_equal(holed[far], whole[far])
    assert np.array_equal(holed, whole, equal_nan=True) is False


def test_chunks_of_a_grid_agree_with_the_whole(tmp_path: Path, noise: np.ndarray) -> None:
    """Cut in four it is what it is in one, but for places that GDAL rounds to an eighth of a pixel."""
    smooth = map_coordinates(noise.astype(float), np.indices((SIDE, SIDE)) / 20.0, order=1).astype("float32")
    path = _raster(tmp_path / "a.tif", smooth)
    whole = _onto(path, ASKEW, Resampling.bilinear)
    halves = slice(None, 120), slice(120, None)
    parts = np.block([[_onto(path, ASKEW[r, c], Resampling.bilinear) for c in halves] for r in halves])
    slope = np.nanmax(np.abs(np.gradient(smooth)))
    np.testing.assert_array_equal(np.isnan(parts), np.isnan(whole))
    assert np.nanmax(np.abs(parts - whole)) < 0.125 * 2 * slope


@pytest.mark.parametrize(("factor", "method"), [(3, Resampling.average), (5, Resampling.average)])
def test_coarser_pixels_are_means_of_what_they_cover(
    tmp_path: Path, noise: np.ndarray, factor: int, method: Resampling
) -> None:
    """Three and five pixels a side, aligned: block means."""
    path = _raster(tmp_path / "a.tif", noise)
    grid = GeoBox((60, 60), HERE @ Affine.scale(factor), EAST)
    blocks = noise[: 60 * factor, : 60 * factor].reshape(60, factor, 60, factor).mean((1, 3))
    np.testing.assert_allclose(_onto(path, grid, method), blocks, atol=0.01)


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
def test_odc_stac_by_itself_says_the_same_on_a_grid_of_its_crs(tmp_path: Path, resampling: str) -> None:
    """Half a pixel off, its driver and ours agree to a thousandth of a DN, holes included."""
    found = register(tiny.sentinel2(tmp_path / "p"), tmp_path / "out")
    scene = Scene.from_item(found.items[0])
    grid = GeoBox((40, 40), Affine(10.0, 0, tiny.ORIGIN[0] + 4, 0, -10.0, tiny.ORIGIN[1] - 3), tiny.UTM)
    source = scene.bands["B04"]
    plain = odc.stac.load(
        [bare_item(scene, source, checked(scene, source))],
        bands=["B04"],
        geobox=grid,
        resampling=resampling,
        dtype="float32",
        nodata=np.nan,
    )
    for chunks in (None, {"y": 40, "x": 40}):
        ours = read(scene, grid, ["B04"], resampling=resampling, chunks=chunks).values[0]
        np.testing.assert_allclose(ours, plain["B04"].values[0], atol=1e-3)
