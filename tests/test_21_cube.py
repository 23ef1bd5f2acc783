"""The cube on disk: what is written is what is read, and what is no whole cube is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog import cube
from catalog.errors import CubeError
from catalog.ledger import tree_digest
from catalog.sensors import SENSORS, Quality

NORTH_UP = GeoBox((30, 20), Affine(10.0, 0, 600_000.0, 0, -10.0, 5_000_000.0), "EPSG:32632")
ROTATED = GeoBox((30, 20), Affine(9.9, 1.2345678901, 600_000.123456789, 1.2, -9.87654321, 5e6), "EPSG:32632")
TIMES = np.array(["2025-05-10T10:10:31.024", "2025-08-08T10:10:29.024"], "datetime64[ns]")


def description(box: GeoBox | None, sensor: str = "sentinel-2", count: int = 2) -> cube.Description:
    row = SENSORS[sensor]
    return cube.Description(
        sensor=sensor,
        modality=row.modality,
        quantity=next(iter(row.quantities.values())),
        units=row.units,
        gsd_m=10.0,
        bands=row.bands[:2],
        tile="a tile",
        period="2025-05-01/2025-08-31",
        scenes=tuple(f"scene-{k}" for k in range(count)),
        geobox=box,
        provenance={"scene-0": {"offset_dn": {"B02": -1000.0}}},
        coregistration=({"scene": "scene-1", "dx_m": 1.5, "ce90_px": None},),
        notes=("no DEM",),
    )


def layers(
    box: GeoBox | None, dtype: type = np.float32, shape: tuple[int, ...] = (2, 2, 30, 20)
) -> tuple[xr.DataArray, xr.DataArray]:
    chance = np.random.default_rng(7)
    values = chance.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * chance.normal(size=shape)
    values = values.astype(dtype)
    values[0, :, :5] = np.nan
    values[-1, 1, 7, 3] = np.nan
    quality = chance.choice([int(q) for q in Quality], (shape[0], *shape[2:])).astype(np.uint8)
    where = cube.pixel_coordinates(box, shape[2:])
    data = xr.DataArray(values, dims=("time", "band", "y", "x"), coords={"time": TIMES[: shape[0]], **where})
    return data, xr.DataArray(quality, dims=("time", "y", "x"))


def made(box: GeoBox | None = NORTH_UP, dtype: type = np.float32) -> xr.Dataset:
    return cube.assemble(description(box), *layers(box, dtype))


def same(one: xr.Dataset, two: xr.Dataset) -> None:
    for name in one.data_vars:
        assert two[name].dtype == one[name].dtype
        np.testing.assert_array_equal(two[name].values, one[name].values)
        assert two[name].dims == one[name].dims
    for name in ("time", "band", "y", "x"):
        np.testing.assert_array_equal(two[name].values, one[name].values)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_a_cube_is_read_as_it_was_written(dtype: type, tmp_path: Path) -> None:
    """Values to the bit with NaN in its place, quality, times to the millisecond, names and attributes."""
    written = made(dtype=dtype)
    cube.write(tmp_path / "c.zarr", written)
    found = cube.open(tmp_path / "c.zarr")
    same(written, found)
    assert found["data"].dtype == dtype
    assert found["time"].values.tolist() == TIMES.tolist()
    assert list(found["band"].values) == ["B01", "B02"]
    assert json.loads(json.dumps(found.attrs)) == json.loads(json.dumps(written.attrs))
    assert found.attrs["bands"][1]["centre_nm"] == 492.7
    assert found.attrs["provenance"]["scene-0"]["offset_dn"]["B02"] == -1000.0
    assert found.attrs["notes"] == ["no DEM"]
    assert found["data"].attrs["units"] == "1"
    assert found["quality"].attrs["flag_meanings"].split()[2] == "cloud"


def test_many_chunks_and_shards_are_read_as_one(tmp_path: Path) -> None:
    """A raster over the sides of a chunk and of a shard comes back whole, a chunk of nothing but NaN too."""
    box = GeoBox((1100, 270), Affine(10.0, 0, 600_000.0, 0, -10.0, 5_000_000.0), "EPSG:32632")
    data, quality = layers(box, shape=(1, 2, 1100, 270))
    data[:, :, :300, :] = np.nan
    written = cube.assemble(description(box, count=1), data, quality)
    cube.write(tmp_path / "c.zarr", written)
    same(written, cube.open(tmp_path / "c.zarr"))
    stored: Any = zarr.open_group(tmp_path / "c.zarr")["data"]
    assert (stored.chunks, stored.shards) == ((1, 2, 256, 256), (1, 2, 1024, 512))


@pytest.mark.parametrize("box", [NORTH_UP, ROTATED], ids=["north up", "rotated"])
def test_rioxarray_finds_the_place(box: GeoBox, tmp_path: Path) -> None:
    """CRS and affine, rotated or not, are what was written, to 1e-9, for rioxarray and for us."""
    cube.write(tmp_path / "c.zarr", made(box))
    found = cube.open(tmp_path / "c.zarr")
    assert found.rio.crs.to_epsg() == 32632
    assert found["data"].rio.crs.to_epsg() == 32632
    wanted = list(box.affine)
    np.testing.assert_allclose(list(found.rio.transform(recalc=False)), wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(list(found["quality"].rio.transform(recalc=False)), wanted, rtol=0, atol=1e-9)
    assert cube.geobox(found) == box


def test_coordinates_are_pixel_centres_or_numbers() -> None:
    """North up: centres in metres; rotated or in radar geometry: line and pixel numbers."""
    place = cube.pixel_coordinates(NORTH_UP, NORTH_UP.shape)
    assert (place["x"][0], place["x"][-1]) == (600_005.0, 600_195.0)
    assert (place["y"][0], place["y"][-1]) == (4_999_995.0, 4_999_705.0)
    for box in (ROTATED, None):
        numbers = cube.pixel_coordinates(box, (30, 20))
        assert (numbers["y"][0], numbers["y"][-1], numbers["x"][-1]) == (0.0, 29.0, 19.0)


def radar_places() -> dict[str, xr.DataArray]:
    lines, pixels = np.mgrid[:30, :20]
    places: Mapping[str, np.ndarray] = {
        "longitude": 10 + lines * 1e-7 + pixels * 1e-5,
        "latitude": 45 + lines * 1e-5 - pixels * 1e-7,
        "height": (lines + pixels).astype(np.float32),
    }
    return {k: xr.DataArray(v, dims=("y", "x")) for k, v in places.items()}


def test_radar_geometry_keeps_the_place_of_every_pixel(tmp_path: Path) -> None:
    """Longitude and latitude stay float64 to the last digit, height float32, and there is no CRS."""
    data, quality = layers(None, np.complex64, (1, 2, 30, 20))
    written = cube.assemble(description(None, "gaofen-3", 1), data, quality, radar_places())
    cube.write(tmp_path / "c.zarr", written)
    found = cube.open(tmp_path / "c.zarr")
    same(written, found)
    assert (found["longitude"].dtype, found["height"].dtype) == (np.float64, np.float32)
    assert "spatial_ref" not in found.variables
    assert cube.geobox(found) is None


def test_two_writes_give_equal_bytes(tmp_path: Path) -> None:
    """The same cube, written twice, is the same files to the byte."""
    cube.write(tmp_path / "one", made())
    cube.write(tmp_path / "two", made())
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")


def _transposed(data: xr.DataArray, quality: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    return data.transpose("band", "time", "y", "x"), quality


MISFITS: dict[str, Any] = {
    "is (time, band, y, x)": _transposed,
    "data is float64": lambda d, q: (d.astype(np.float64), q),
    "data is complex128": lambda d, q: (d.astype(np.complex128), q),
    "quality is float32": lambda d, q: (d, q.astype(np.float32)),
    "1 bands and 2 times": lambda d, q: (d.isel(band=[0]), q),
    "2 bands and 1 times": lambda d, q: (d.isel(time=[0]), q.isel(time=[0])),
    "quality (30, 19)": lambda d, q: (d, q.isel(x=slice(0, 19))),
    "the grid (30, 20)": lambda d, q: (d.isel(y=slice(1, None)), q.isel(y=slice(1, None))),
    "quality has another count of times": lambda d, q: (d, q.isel(time=[0])),
}


@pytest.mark.parametrize("words", MISFITS)
def test_what_contradicts_the_description_is_refused(words: str) -> None:
    """Dimensions, dtypes, counts and shapes are held against the description, and the refusal says which."""
    with pytest.raises(CubeError) as refused:
        cube.assemble(description(NORTH_UP), *MISFITS[words](*layers(NORTH_UP)))
    assert words in refused.value.what


def _missing(path: Path) -> None:
    return None


def _foreign(path: Path) -> None:
    xr.Dataset({"data": ("x", np.zeros(3))}).to_zarr(path, zarr_format=3, consolidated=False)


def _file(path: Path) -> None:
    path.write_text("no store")


def _empty(path: Path) -> None:
    path.mkdir()


def _torn(path: Path) -> None:
    cube.write(path, made())
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text[: len(text) // 2])


def _without_data(path: Path) -> None:
    cube.write(path, made())
    (path / "data" / "zarr.json").unlink()


def _of_another_schema(path: Path) -> None:
    cube.write(path, made())
    zarr.open_group(path, mode="r+").attrs["ringmoe_cube"] = cube.SCHEMA + 1


@pytest.mark.parametrize("damage", [_missing, _foreign, _file, _empty, _torn, _without_data, _of_another_schema])
def test_what_is_no_cube_is_refused(damage: Any, tmp_path: Path) -> None:
    """A store that is missing, foreign, damaged or of another schema: one error, in four parts, that names it."""
    damage(tmp_path / "c.zarr")
    with pytest.raises(CubeError) as refused:
        cube.open(tmp_path / "c.zarr")
    assert str(tmp_path / "c.zarr") in refused.value.item
    assert refused.value.enough
    assert "ingest" in refused.value.todo


KILLED = """
import os, signal, sys
import zarr
from test_21_cube import cube, made
begun = zarr.open_group
def killed(*args, mode="a", **kwargs):
    if mode == "r+":
        os.kill(os.getpid(), signal.SIGKILL)
    return begun(*args, mode=mode, **kwargs)
zarr.open_group = killed
cube.write(sys.argv[1], made())
"""


def test_a_store_whose_writer_was_killed_is_no_cube(tmp_path: Path) -> None:
    """All arrays lie there, but the mark that is written last does not: refused to a reader, and left as it is by a
    writer, who is told; elsewhere the same cube is written whole."""
    path = tmp_path / "c.zarr"
    run = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parent, check=False)
    assert run.returncode == -signal.SIGKILL
    assert (path / "data" / "zarr.json").exists()
    with pytest.raises(CubeError, match="begun and not finished"):
        cube.open(path)
    left = tree_digest(path)
    with pytest.raises(CubeError, match="something lies where") as refused:
        cube.write(path, made())
    assert str(path) in refused.value.item
    assert tree_digest(path) == left
    cube.write(tmp_path / "d.zarr", made())
    same(made(), cube.open(tmp_path / "d.zarr"))


def test_the_valid_share_counts_pixels_that_show_the_ground() -> None:
    """Clear and snow count; cloud, shadow, cirrus, saturated, border and no data do not."""
    data, quality = layers(NORTH_UP)
    quality[:] = int(Quality.CLOUD)
    quality[0, :15] = int(Quality.CLEAR)
    quality[1, :, :5] = int(Quality.SNOW)
    assert cube.valid_share(cube.assemble(description(NORTH_UP), data, quality)) == pytest.approx((0.5 + 0.25) / 2)


def test_a_description_is_frozen() -> None:
    """A field changes by making another description only."""
    one = description(NORTH_UP)
    assert replace(one, tile="another").tile == "another"
    with pytest.raises(AttributeError):
        one.tile = "another"  # type: ignore[misc]
