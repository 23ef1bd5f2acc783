"""Overviews of a cube: means of what was measured, power, the worst quality, and every level in its place."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from test_21_cube import description

from catalog import cube
from catalog.cube import overviews
from catalog.errors import CubeError
from catalog.publish.preview import write_preview
from catalog.sensors import USABLE, Quality

ROWS, COLUMNS = 1101, 640
PLAIN = GeoBox((ROWS, COLUMNS), Affine(10.0, 0, 600_000.0, 0, -10.0, 5_000_000.0), "EPSG:32632")
TURNED = GeoBox((ROWS, COLUMNS), Affine(9.9, 1.0, 600_000.0, 1.0, -9.9, 5_000_000.0), "EPSG:32632")


def pixels(dtype: type, box: GeoBox | None) -> tuple[xr.DataArray, xr.DataArray]:
    """Two dates of two bands: noise with gaps of all sizes, and every quality there is."""
    chance = np.random.default_rng(5)
    values = chance.normal(size=(2, 2, ROWS, COLUMNS))
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * chance.normal(size=values.shape)
    values = values.astype(dtype)
    values[chance.random(values.shape) < 0.3] = np.nan
    values[0, :, :300] = np.nan
    quality = chance.choice([int(q) for q in Quality], (2, ROWS, COLUMNS), p=[0.1, 0.6, 0.1, *[0.04] * 5])
    times = np.array(["2025-05-10", "2025-08-08"], "datetime64[ns]")
    where = cube.pixel_coordinates(box, (ROWS, COLUMNS))
    data = xr.DataArray(values, dims=("time", "band", "y", "x"), coords={"time": times, **where})
    return data, xr.DataArray(quality.astype(np.uint8), dims=("time", "y", "x"))


def written(path: Path, box: GeoBox | None = PLAIN, dtype: type = np.float32) -> xr.Dataset:
    data, quality = pixels(dtype, box)
    share = xr.DataArray((quality.values == Quality.SHADOW).astype(np.float32), dims=quality.dims, attrs={"units": "1"})
    dataset = cube.assemble(description(box), data, quality, layers={"shadow": share})
    cube.write(path, dataset)
    return dataset


def blocks(values: np.ndarray, fill: float) -> np.ndarray:
    """(..., y, x) to (..., y / 2, x / 2, 4), filled up where a side is odd."""
    rows, columns = values.shape[-2:]
    margin = [(0, 0)] * (values.ndim - 2) + [(0, rows % 2), (0, columns % 2)]
    full = np.pad(values, margin, constant_values=fill)
    cut = full.reshape(*full.shape[:-2], full.shape[-2] // 2, 2, full.shape[-1] // 2, 2)
    return np.moveaxis(cut, -3, -2).reshape(*cut.shape[:-4], cut.shape[-4], cut.shape[-2], 4)


def nanmean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(blocks(values, np.nan), axis=-1))


@pytest.mark.parametrize(("side", "count"), [(1, 0), (256, 0), (257, 1), (512, 1), (1536, 3), (2048, 3), (7680, 5)])
def test_a_raster_has_overviews_down_to_a_chunk(side: int, count: int) -> None:
    """None for 256 pixels; each halves the longer side until it is 256 or less."""
    assert overviews.levels(side, 3) == overviews.levels(3, side) == count


def test_each_level_is_the_mean_of_what_was_measured_below(tmp_path: Path) -> None:
    """Reflectance and layers: numpy's nanmean of each two by two pixels, odd last rows by themselves, NaN of none."""
    found = written(tmp_path / "c.zarr")
    below = {"data": found["data"].values, "shadow": found["shadow"].values}
    for level, shape in ((1, (551, 320)), (2, (276, 160)), (3, (138, 80))):
        coarse = cube.open(tmp_path / "c.zarr", level)
        assert (coarse.sizes["y"], coarse.sizes["x"]) == shape
        assert coarse["data"].dtype == np.float32
        for name, values in below.items():
            np.testing.assert_allclose(coarse[name].values, nanmean(values), rtol=1e-5, atol=1e-6)
            below[name] = coarse[name].values
        assert np.isnan(coarse["data"].values[0, :, : 300 >> level]).all()
        assert list(coarse["band"].values) == ["B01", "B02"]
        assert coarse.attrs["gsd_m"] == found.attrs["gsd_m"] * 2**level
    with pytest.raises(CubeError, match="no overview 4"):
        cube.open(tmp_path / "c.zarr", 4)


def test_complex_pixels_become_power(tmp_path: Path) -> None:
    """The mean squared amplitude, as sarsen and every multilook do it; no phase is averaged."""
    found = written(tmp_path / "c.zarr", None, np.complex64)
    coarse = cube.open(tmp_path / "c.zarr", 1)
    assert "data" not in coarse
    power = np.abs(found["data"].values.astype(np.complex128)) ** 2
    np.testing.assert_allclose(coarse["power"].values, nanmean(power), rtol=1e-5)
    assert coarse["power"].dtype == np.float32
    np.testing.assert_allclose(
        cube.open(tmp_path / "c.zarr", 2)["power"].values, nanmean(coarse["power"].values), rtol=1e-5
    )


def test_an_overview_calls_clear_only_what_is_clear_throughout(tmp_path: Path) -> None:
    """The worst quality counts, no data for nothing: usable above means that all measured pixels below are usable."""
    found = written(tmp_path / "c.zarr")
    usable = [int(q) for q in USABLE]
    for level in (1, 2, 3):
        coarse = cube.open(tmp_path / "c.zarr", level)["quality"].values
        below = found["quality"].values if level == 1 else cube.open(tmp_path / "c.zarr", level - 1)["quality"].values
        parts = blocks(below, Quality.NO_DATA)
        measured = parts != Quality.NO_DATA
        np.testing.assert_array_equal(coarse == Quality.NO_DATA, ~measured.any(axis=-1))
        all_usable = (np.isin(parts, usable) | ~measured).all(axis=-1) & measured.any(axis=-1)
        np.testing.assert_array_equal(np.isin(coarse, usable), all_usable)
        np.testing.assert_array_equal(coarse == Quality.CLOUD, (parts == Quality.CLOUD).any(axis=-1))


@pytest.mark.parametrize("box", [PLAIN, TURNED], ids=["north up", "rotated"])
def test_every_level_and_the_preview_lie_in_their_place(box: GeoBox, tmp_path: Path) -> None:
    """rioxarray on each level and rasterio on the COG preview: the cube's CRS and affine, scaled, to 1e-9."""
    written(tmp_path / "c.zarr", box)
    whole = cube.open(tmp_path / "c.zarr")
    preview = write_preview(tmp_path, whole, 0)
    assert preview is not None
    with rasterio.open(preview) as source:
        assert source.crs == whole.rio.crs
        np.testing.assert_allclose(list(source.transform), list(box.affine), rtol=0, atol=1e-9)
    for level in range(4):
        wanted = box.affine * Affine.scale(2**level)
        kept = cube.open(tmp_path / "c.zarr", level)
        bare = xr.open_zarr(tmp_path / "c.zarr", group=str(level) if level else None, decode_coords="all")
        for found in (kept, bare, kept["data"], bare["quality"]):
            assert found.rio.crs.to_epsg() == 32632
            np.testing.assert_allclose(list(found.rio.transform(recalc=False)), list(wanted), rtol=0, atol=1e-9)
        if box is PLAIN:
            np.testing.assert_allclose(list(kept.rio.transform(recalc=True)), list(wanted), rtol=0, atol=1e-9)
            assert kept["x"].attrs["standard_name"] == "projection_x_coordinate"
        own = cube.geobox(kept)
        assert own is not None
        np.testing.assert_allclose(list(own.affine), list(wanted), rtol=0, atol=1e-9)
        assert tuple(own.shape) == (kept.sizes["y"], kept.sizes["x"])


def test_the_store_speaks_geozarr(tmp_path: Path) -> None:
    """Conventions by their ids; CRS, affine, shape and bounds of the whole and of each level; the chain of levels."""
    written(tmp_path / "c.zarr")
    root = dict(zarr.open_group(tmp_path / "c.zarr", mode="r").attrs)
    assert [c["name"] for c in root["zarr_conventions"]] == ["proj", "spatial", "multiscales"]
    assert root["zarr_conventions"][2]["uuid"] == "d35379db-88df-4056-af3a-620245f8e347"
    assert root["proj:code"] == "EPSG:32632"
    assert root["spatial:bbox"] == [600_000.0, 5_000_000.0 - 10 * ROWS, 600_000.0 + 10 * COLUMNS, 5_000_000.0]
    layout = root["multiscales"]["layout"]
    assert [level["asset"] for level in layout] == ["data", "1/data", "2/data", "3/data"]
    assert [level.get("derived_from") for level in layout] == [None, "data", "1/data", "2/data"]
    for number, level in enumerate(layout):
        stored: Any = zarr.open_array(tmp_path / "c.zarr" / level["asset"], mode="r")
        assert level["spatial:transform"] == list(PLAIN.affine * Affine.scale(2**number))[:6]
        assert tuple(level["spatial:shape"]) == stored.shape[-2:]
        assert level["transform"]["scale"] == ([2.0, 2.0] if number else [1.0, 1.0])
        group = dict(zarr.open_group(tmp_path / "c.zarr" / level["asset"][:-5], mode="r").attrs)
        assert group["spatial:transform"] == level["spatial:transform"]
        assert group["proj:code"] == "EPSG:32632"


def test_a_date_is_a_whole_number_of_shards(tmp_path: Path) -> None:
    """At every level a date's shards hold that date alone: writing it touches no file that another date has."""
    data, quality = pixels(np.float32, PLAIN)
    store = tmp_path / "c.zarr"
    cube.create(store, cube.assemble(description(PLAIN), data, quality))

    def of_dates() -> dict[Path, int]:
        names = [Path(group) / name for group in ("", "1", "2", "3") for name in ("data", "quality")]
        return {p: p.stat().st_mtime_ns for n in names for p in (store / n / "c").rglob("*") if p.is_file()}

    cube.write_look(store, 1, data[1], quality[1])
    second = of_dates()
    cube.write_look(store, 0, data[0], quality[0])
    both = of_dates()
    assert {p: both[p] for p in second} == second
    for group in ("", "1", "2", "3"):
        for name in ("data", "quality"):
            array: Any = zarr.open_array(store / group / name, mode="r")
            assert array.shards[0] == array.chunks[0] == 1
            assert all(s % c == 0 for s, c in zip(array.shards, array.chunks, strict=True))
            place = store / group / name / "c"
            assert all(p in second for p in both if p.is_relative_to(place / "1"))
            assert any(p not in second for p in both if p.is_relative_to(place / "0"))


def test_two_workers_write_one_cube_as_one_does(tmp_path: Path) -> None:
    """Dates in any order, by processes that know nothing of each other: the same bytes."""
    from catalog.ledger import tree_digest

    dataset = written(tmp_path / "one.zarr")
    cube.create(tmp_path / "two.zarr", dataset)
    for index in (1, 0):
        layers = {"shadow": dataset["shadow"][index]}
        cube.write_look(tmp_path / "two.zarr", index, dataset["data"][index], dataset["quality"][index], layers)
    cube.finish(tmp_path / "two.zarr", dataset.attrs)
    assert tree_digest(tmp_path / "one.zarr") == tree_digest(tmp_path / "two.zarr")


def test_longitudes_across_the_antimeridian_stay_there(tmp_path: Path) -> None:
    """The mean of 179.9 and -179.9 degrees lies at 180, not at 0."""
    box, (data, quality) = None, pixels(np.complex64, None)
    row = np.where(np.arange(COLUMNS) % 2, -179.9, 179.9)
    places = {
        "longitude": xr.DataArray(np.tile(row, (ROWS, 1)), dims=("y", "x")),
        "latitude": xr.DataArray(np.tile(np.arange(ROWS)[:, None] * 1e-4, (1, COLUMNS)), dims=("y", "x")),
    }
    about = replace(description(box), sensor="gaofen-3")
    cube.write(tmp_path / "c.zarr", cube.assemble(about, data, quality, places))
    coarse = cube.open(tmp_path / "c.zarr", 1)
    np.testing.assert_allclose(np.abs(coarse["longitude"].values), 180.0, atol=1e-9)
    np.testing.assert_allclose(coarse["latitude"].values[0], 0.5e-4, atol=1e-12)
    assert "spatial_ref" not in coarse.variables


FULL = """
import sys
from pathlib import Path
from catalog import cube
from catalog.errors import CubeError, StorageFull
from catalog.ledger import Ledger, no_space_left
from test_21_overviews import written
folder = Ledger(sys.argv[1]).attempt("cubes", "u")
try:
    with no_space_left("u"):
        written(folder / "cube.zarr")
except StorageFull:
    print("full", (folder / "cube.zarr" / "data" / "c" / "0").exists())
try:
    cube.open(folder / "cube.zarr")
except CubeError as error:
    print(error.what)
"""


def test_a_disk_that_fills_while_overviews_are_written(tmp_path: Path) -> None:
    """All pixels of a date found room and its overviews did not: StorageFull, and the store is no cube."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=7m", "small", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", *mounted], check=False).returncode:
        pytest.skip("this machine lets us mount no small disk (unshare -Urm mount -t tmpfs)")
    script = f'{" ".join(mounted)} && exec "$0" "$@"'
    command = ["unshare", "-Urm", "sh", "-c", script, sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    first, second = done.stdout.splitlines()
    assert first == "full True", done.stderr
    assert "begun and not finished" in second
