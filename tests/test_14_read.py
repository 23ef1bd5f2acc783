"""Scenes on a grid: both engines agree, no-data never bleeds, a shift moves the ground, damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_products as tiny
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from catalog.errors import AssetError, CalibrationError, FootprintError, GeolocationError, GridError
from catalog.read import read, read_native, read_quality, read_raster
from catalog.register import register
from catalog.scene import Scene


def _scene(folder: Path, out: Path) -> Scene:
    found = register(folder, out)
    assert found.failed == ()
    return Scene.from_item(found.items[0])


@pytest.fixture
def sentinel2(tmp_path: Path) -> Scene:
    """40 x 40 pixels of 10 m, a ramp with no data in its north-western quarter."""
    return _scene(tiny.sentinel2(tmp_path / "p"), tmp_path / "out")


def _grid(rows: int, cols: int, gsd: float, dx: float = 0.0, dy: float = 0.0, crs: str = tiny.UTM) -> GeoBox:
    return GeoBox((rows, cols), Affine(gsd, 0, tiny.ORIGIN[0] + dx, 0, -gsd, tiny.ORIGIN[1] + dy), crs)


GRIDS = {
    "its own grid": _grid(40, 40, 10.0),
    "half a pixel off": _grid(40, 40, 10.0, 4.0, -3.0),
    "beyond its edge": _grid(60, 60, 10.0, -100.0, 100.0),
    "coarser": _grid(13, 13, 30.0, 3.0, -2.0),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_both_engines_agree_where_nothing_is_interpolated(sentinel2: Scene, grid: GeoBox) -> None:
    """odc-stac and stackstac give the same numbers and the same holes by nearest neighbour."""
    one = read(sentinel2, grid, ["B04", "B11"], resampling="nearest")
    other = read(sentinel2, grid, ["B04", "B11"], resampling="nearest", engine="stackstac")
    assert one.dims == other.dims == ("band", "y", "x")
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one.values, other.values)
    assert np.isfinite(one).any()
    np.testing.assert_array_equal(one.x.values, other.x.values)


def test_engines_agree_on_a_file_of_many_bands_without_nodata(tmp_path: Path) -> None:
    """WorldView's three bands share one file that names no no-data; both engines read the right one."""
    folder = tiny.worldview(_made(tmp_path / "wv"))
    path = next(folder.glob("*.TIF"))
    with rasterio.open(path, "r+") as dst:
        data = dst.read()
        data[:, :4, :4] = 0
        dst.write(data)
    scene = _scene(folder, tmp_path / "out")
    grid = _grid(24, 30, 2.0)
    for engine in ("odc", "stackstac"):
        got = read(scene, grid, resampling="nearest", engine=engine)
        assert got.band.values.tolist() == ["B", "G", "R"]
        expected = data[::-1].astype("float32")
        expected[:, :4, :4] = np.nan
        np.testing.assert_array_equal(got.values, expected)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_coordinates_are_pixel_centres(sentinel2: Scene) -> None:
    """x and y are centres in metres, for either engine."""
    for engine in ("odc", "stackstac"):
        got = read(sentinel2, _grid(40, 40, 10.0), ["B04"], engine=engine)
        assert (got.x.values[0], got.y.values[0]) == (600_005.0, 4_999_995.0)


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_no_data_never_bleeds(tmp_path: Path, resampling: str, engine: str) -> None:
    """Beside a hole every value is a hole or the true one: a constant field stays constant in every resampling."""
    folder = tiny.sentinel2(tmp_path / "p")
    path = next(folder.rglob("*_B04_10m.tif"))
    rng = np.random.default_rng(7)
    data = np.where(rng.random((40, 40)) < 0.3, 0, 5000).astype("uint16")
    tiny.write_tif(path, data)
    scene = _scene(tmp_path / "p", tmp_path / "out")
    got = read(scene, _grid(40, 40, 10.0, 3.7, -4.2), ["B04"], resampling=resampling, engine=engine).values
    finite = got[np.isfinite(got)]
    assert finite.size > 100
    np.testing.assert_allclose(finite, 5000.0, atol=1e-2)


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_a_shift_moves_the_ground_by_what_it_says(sentinel2: Scene, engine: str) -> None:
    """Two pixels east and three north: the ground goes there, as numpy.roll would have it."""
    grid = _grid(40, 40, 10.0)
    still = read(sentinel2, grid, ["B04"], resampling="nearest").values[0]
    moved = read(sentinel2, grid, ["B04"], resampling="nearest", shift_m=(20.0, 30.0), engine=engine).values[0]
    np.testing.assert_array_equal(moved[:-3, 2:], np.roll(still, (-3, 2), (0, 1))[:-3, 2:])


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_sub_pixel_shift_is_folded_into_the_one_resampling(sentinel2: Scene, share: float) -> None:
    """On a plane bilinear is exact: moved by a share of a pixel east, values fall by that share of the slope."""
    grid = _grid(40, 40, 10.0)
    still = read(sentinel2, grid, ["B04"]).values[0, 15:35, 15:35]
    moved = read(sentinel2, grid, ["B04"], shift_m=(10.0 * share, 0.0)).values[0, 15:35, 15:35]
    np.testing.assert_allclose(still - moved, 3.0 * share, atol=1e-3)


def test_coarse_bands_are_interpolated_onto_the_fine_grid(sentinel2: Scene) -> None:
    """A 20 m plane read bilinearly at 10 m is a plane of half the slope."""
    got = read(sentinel2, _grid(40, 40, 10.0), ["B11"]).values[0, 14:36, 14:36]
    np.testing.assert_allclose(np.diff(got, axis=1), 1.5, atol=1e-2)
    np.testing.assert_allclose(np.diff(got, axis=0), 3.5, atol=1e-2)


def test_chunks_make_it_lazy_and_change_nothing(sentinel2: Scene) -> None:
    """A Dask array of the asked chunks computes to what is read at once."""
    grid = _grid(40, 40, 10.0, 4.0, -3.0)
    now = read(sentinel2, grid, ["B04", "B08"])
    for engine in ("odc", "stackstac"):
        later = read(sentinel2, grid, ["B04", "B08"], engine=engine, chunks={"y": 20, "x": 20})
        assert later.chunks is not None
        assert later.chunks[1:] == ((20, 20), (20, 20))
        lazy = later.compute()
        eager = now if engine == "odc" else read(sentinel2, grid, ["B04", "B08"], engine=engine)
        np.testing.assert_allclose(lazy.values, eager.values, atol=1e-3)


def test_quality_is_never_mixed(tmp_path: Path) -> None:
    """Class numbers survive unmixed on a finer, shifted grid; outside is the layer's no-data."""
    folder = tiny.sentinel2(tmp_path / "p")
    classes = np.indices((20, 20)).sum(0) % 2 * 7 + 2
    tiny.write_tif(next(folder.rglob("*_SCL_20m.tif")), classes.astype("uint8"), 20.0)
    scene = _scene(tmp_path / "p", tmp_path / "out")
    got = read_quality(scene, _grid(60, 60, 10.0, -53.0, 41.0), "SCL")
    assert got.dtype == np.uint8
    assert set(np.unique(got)) == {0, 2, 9}
    still = read_quality(scene, _grid(40, 40, 10.0), "SCL").values
    moved = read_quality(scene, _grid(40, 40, 10.0), "SCL", shift_m=(20.0, 0.0)).values
    np.testing.assert_array_equal(moved[:, 2:], still[:, :-2])
    with pytest.raises(GridError, match="no quality layer 'QA_PIXEL'"):
        read_quality(scene, _grid(4, 4, 10.0), "QA_PIXEL")


def test_bit_layers_are_fill_outside(tmp_path: Path) -> None:
    """QA_PIXEL has fill in bit 0, so outside the scene it reads 1, not 0."""
    scene = _scene(tiny.landsat(_made(tmp_path / "p")), tmp_path / "out")
    got = read_quality(scene, _grid(60, 60, 30.0, -300.0, 300.0), "QA_PIXEL").values
    assert got[0, 0] == 1
    assert got[30, 30] == 21824


def test_complex_pairs_become_complex_and_keep_their_pixels(tmp_path: Path) -> None:
    """I and Q are one complex64 band on its own lines and pixels; where both are 0 nothing was measured."""
    folder = tiny.gaofen3(_made(tmp_path / "gf3"))
    scene = _scene(folder, tmp_path / "out")
    got = read_native(scene, ["HV", "HH"])
    with rasterio.open(scene.bands["HV"].href) as src:
        i, q = src.read().astype("float32")
    assert got.dtype == np.complex64
    assert got.band.values.tolist() == ["HV", "HH"]
    np.testing.assert_array_equal(got.values[0, 1:], (i + 1j * q)[1:])
    assert np.isnan(got.values[0, 0]).all()
    assert got.x.values.tolist() == list(range(20))
    lazy = read_native(scene, ["HV", "HH"], chunks={"y": 8, "x": 10})
    assert lazy.chunks is not None
    np.testing.assert_array_equal(lazy.compute().values, got.values)


def test_native_bands_share_a_grid(sentinel2: Scene) -> None:
    """10 and 20 m bands cannot be one native array; 10 m ones can, with their centres."""
    got = read_native(sentinel2, ["B04", "B08"])
    assert got.x.values[0] == 600_005.0
    assert np.isnan(got.values[:, :10, :10]).all()
    with pytest.raises(FootprintError, match="different grids"):
        read_native(sentinel2, ["B04", "B11"])


def test_labels_are_nearest_and_unknown_outside(tmp_path: Path) -> None:
    """A label raster keeps its class numbers and is NaN where it does not reach."""
    path = tiny.write_tif(tmp_path / "labels.tif", np.full((10, 10), 3, "uint8"), 20.0)
    got = read_raster(str(path), _grid(30, 30, 10.0))
    assert (got.values[:20, :20] == 3).all()
    assert np.isnan(got.values[20:]).all()


def test_heights_are_interpolated_around_holes(tmp_path: Path) -> None:
    """Bilinear heights of a plane are a plane; a hole stays a hole."""
    plane = tiny.ramp(20, 20).astype("float32")
    plane[:5, :5] = -9999
    path = tiny.write_tif(tmp_path / "dem.tif", plane, 20.0, nodata=-9999)
    got = read_raster(str(path), _grid(40, 40, 10.0), "bilinear").values
    assert np.isnan(got[:9, :9]).all()
    np.testing.assert_allclose(np.diff(got[20:38, 20:38], axis=1), 1.5, atol=1e-2)
    assert np.nanmin(got) >= 1000


def test_a_missing_or_truncated_file_is_named(sentinel2: Scene) -> None:
    """Item and file are in the error, whether the file is gone or cut off."""
    path = Path(sentinel2.bands["B04"].href)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError) as caught:
        read(sentinel2, _grid(40, 40, 10.0), ["B04"])
    assert sentinel2.id in caught.value.item
    assert str(path) in caught.value.item
    path.unlink()
    with pytest.raises(AssetError, match="missing") as caught:
        read(sentinel2, _grid(40, 40, 10.0), ["B04"])
    assert str(path) in caught.value.item


def test_a_file_that_moved_since_it_was_registered_is_refused(sentinel2: Scene) -> None:
    """Another affine or shape than the item's is a footprint error, not a quiet misplacement."""
    path = Path(sentinel2.bands["B04"].href)
    tiny.write_tif(path, tiny.ramp(40, 40), transform=from_origin(600_010.0, 5_000_000.0, 10.0, 10.0))
    with pytest.raises(FootprintError, match="its affine is"):
        read(sentinel2, _grid(40, 40, 10.0), ["B04"])
    tiny.write_tif(path, tiny.ramp(30, 40))
    with pytest.raises(FootprintError, match="its shape is"):
        read(sentinel2, _grid(40, 40, 10.0), ["B04"])


def test_what_cannot_be_warped_is_refused(tmp_path: Path, sentinel2: Scene) -> None:
    """Radar geometry, decibels, unknown bands, engines and resamplings end in an error, not in a guess."""
    radar = _scene(tiny.sentinel1(_made(tmp_path / "s1")), tmp_path / "o1")
    grid = _grid(4, 4, 10.0)
    with pytest.raises(GeolocationError, match="radar geometry"):
        read(radar, grid)
    decibels = Scene(**{**vars(sentinel2), "encoding": "db"})
    with pytest.raises(CalibrationError, match="no mean of power"):
        read(decibels, grid, ["B04"])
    for wrong in ({"bands": ["B99"]}, {"engine": "other"}, {"resampling": "magic"}):
        with pytest.raises(GridError, match="there is no"):
            read(sentinel2, grid, **wrong)  # type: ignore[arg-type]


def test_stackstac_refuses_a_rotated_grid(sentinel2: Scene) -> None:
    """A grid that stackstac cannot make is refused, and odc-stac serves it."""
    turned = GeoBox((20, 20), Affine.translation(*tiny.ORIGIN) * Affine.rotation(30) * Affine.scale(10, -10), tiny.UTM)
    with pytest.raises(GridError, match="north-up"):
        read(sentinel2, turned, ["B04"], engine="stackstac")
    assert read(sentinel2, turned, ["B04"]).shape == (1, 20, 20)
