"""Moves by place are folded into the one resampling, whatever brings a scene onto the grid, and end in the cube."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_products as tiny
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.warp import transform
from scipy.ndimage import gaussian_filter, map_coordinates
from test_17_geocode import circular_grid, geobox_at, ramp
from test_24_ingest import PERIOD, UTM, WEST, ground, scene
from test_29_rpc import tilted

from catalog import cube, matching
from catalog.displacement import Displacement, Move, basis, moved_grid
from catalog.errors import GridError
from catalog.geocode import geocode, geocode_by_rpc, resample_map
from catalog.ingest import ingest
from catalog.ledger import Ledger, file_digest
from catalog.read import read, read_quality
from catalog.scene import BandSource, Scene
from catalog.units import Unit, plan

NORTH = 5_002_240.0
SIDE = 256
GRID = GeoBox((SIDE, SIDE), Affine(10.0, 0, WEST, 0, -10.0, NORTH), UTM)
CENTRE = (WEST + 1280.0, NORTH - 1280.0)


def turned(box: GeoBox, grow: float = 1.0) -> Displacement:
    """A shift with rotation and scale of two pixels at the border of a grid."""
    width, height = (abs(n * r) for n, r in zip(box.shape[::-1], (box.resolution.x, box.resolution.y), strict=True))
    x, y = box.affine * (box.shape[1] / 2, box.shape[0] / 2)
    return Displacement("affine", (13.0, 20 * grow, -9.0), (-6.0, 9.0, 15 * grow), (width, height), (x, y))


def waved() -> Displacement:
    """A smooth field of up to two pixels."""
    rows, columns = np.mgrid[:5, :5]
    east, north = 20 * np.sin(1.3 * columns + 0.4), 15 * np.cos(1.1 * rows)
    return Displacement("field", tuple(east.ravel()), tuple(north.ravel()), (2560.0, 2560.0), CENTRE)


@pytest.fixture
def plane(tmp_path: Path) -> Scene:
    """2000 + 3 column + 5 row, which bilinear interpolation keeps; and a layer that numbers its columns."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    where = Affine(10.0, 0, WEST, 0, -10.0, NORTH)
    path = tiny.write_tif(
        tmp_path / "a.tif", (2000 + 3 * columns + 5 * rows).astype("uint16"), transform=where, nodata=0
    )
    layer = tiny.write_tif(tmp_path / "scl.tif", columns.astype("uint8"), transform=where)
    known = scene("a", path)
    source = BandSource("SCL", str(layer), dtype="uint8", shape=(SIDE, SIDE), transform=tuple(where)[:6], crs=UTM)
    return replace(known, quality={"SCL": source})


def shown(move: Move, box: GeoBox = GRID) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the plane, 0 at the first pixel's centre, that each pixel of a grid shows after a move."""
    row, column = np.mgrid[: box.shape[0], : box.shape[1]] + 0.5
    x, y = box.affine * (column, row)
    dx, dy = move.at(x, y) if isinstance(move, Displacement) else move
    return (x - dx - WEST) / 10 - 0.5, (NORTH - y + dy) / 10 - 0.5


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
@pytest.mark.parametrize("move", [(13.0, -6.0), turned(GRID), waved()], ids=["shift", "affine", "field"])
def test_an_optical_scene_is_read_where_the_move_says(plane: Scene, engine: str, move: Move) -> None:
    """On a plane one bilinear resampling is exact: every pixel is the plane at x - dx(x, y), y - dy(x, y).

    stackstac's own warp rounds to the type of the file.
    """
    column, row = shown(move)
    rounded = 0.5 if engine == "stackstac" and isinstance(move, tuple) else 0.0
    inside = (column > 0) & (row > 0) & (column < SIDE - 1) & (row < SIDE - 1)
    got = read(plane, GRID, ["B04"], shift_m=move, engine=engine).values[0]
    np.testing.assert_allclose(got[inside], (2000 + 3 * column + 5 * row)[inside], rtol=0, atol=0.05 + rounded)
    assert np.isnan(got[(column < -1) | (row < -1) | (column > SIDE) | (row > SIDE)]).all()


@pytest.mark.parametrize("move", [turned(GRID), waved()], ids=["affine", "field"])
def test_a_part_of_the_grid_is_moved_as_the_whole(plane: Scene, move: Move) -> None:
    """Displacement belongs to places on the map: a window of the tile shows what the tile shows there."""
    whole = read(plane, GRID, ["B04"], shift_m=move).values[0]
    part = read(plane, GRID[100:180, 60:150], ["B04"], shift_m=move).values[0]
    np.testing.assert_allclose(part, whole[100:180, 60:150], rtol=0, atol=0.02)
    afar = GeoBox((20, 20), Affine(10.0, 0, WEST + 1e5, 0, -10.0, NORTH), UTM)
    assert np.isnan(read(plane, afar, ["B04"], shift_m=move).values).all()


@pytest.mark.parametrize("move", [turned(GRID), waved()], ids=["affine", "field"])
@pytest.mark.parametrize("decoded", [False, True], ids=["codes", "decoded"])
def test_classes_move_with_their_pixels_and_are_not_mixed(plane: Scene, move: Move, decoded: bool) -> None:
    """Each pixel holds the class of the nearest pixel at its place before the move."""
    column, row = shown(move)
    nearest = np.rint(column)
    sure = (np.abs(column - nearest) < 0.45) & (nearest >= 1) & (nearest < SIDE) & (row > 0) & (row < SIDE - 1)
    decode = (lambda codes: codes[0]) if decoded else None
    got = read_quality(plane, GRID, "SCL", shift_m=move, decode=decode).values
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[sure], nearest[sure])


def test_a_field_is_followed_by_samples_only(plane: Scene) -> None:
    """Cubic or average along a field: a GridError that names what would do."""
    with pytest.raises(GridError, match="cannot follow") as refused:
        read(plane, GRID, ["B04"], shift_m=waved(), resampling="cubic")
    assert "bilinear" in refused.value.enough


def test_no_data_weighs_nothing_along_a_field(tmp_path: Path) -> None:
    """A constant with holes stays that constant; a hole stays a hole."""
    digital = np.full((SIDE, SIDE), 3000, np.uint16)
    digital[100:120, 80:130] = 0
    path = tiny.write_tif(
        tmp_path / "h.tif", digital, transform=Affine(10.0, 0, WEST, 0, -10.0, NORTH), nodata=0
    )  # fmt: skip
    got = read(scene("h", path), GRID, ["B04"], shift_m=waved()).values
    assert set(np.unique(got[np.isfinite(got)])) == {3000.0}
    column, row = shown(waved())
    assert np.isnan(got[0][(column > 81) & (column < 128) & (row > 101) & (row < 118)]).all()


def test_radar_rpc_and_geocoded_power_are_moved_by_place() -> None:
    """Each lands as on the grid that holds the affine; and an affine without slopes is the shift, bit for bit."""
    radar, power, box = circular_grid(), ramp(circular_grid()), geobox_at(4.37, 1.29)
    image = xr.DataArray(np.random.default_rng(0).uniform(1, 2, (1, 900, 900)), dims=("band", "y", "x"))
    image = image.assign_coords(band=["B"])
    model = tilted()
    (x,), (y,) = transform("EPSG:4326", UTM, [model.long_off], [model.lat_off])
    near = GeoBox((60, 60), Affine(10.0, 0, x - 300, 0, -10.0, y + 300), UTM)
    placed = image.isel(y=slice(0, 80), x=slice(0, 80)).assign_attrs(transform=tuple(near.affine)[:6], crs=UTM)
    for call, grid in (
        (lambda g, m: geocode(power, radar, g, None, shift_m=m).values, box),
        (lambda g, m: geocode_by_rpc(image, model, g, None, shift_m=m).values, near),
        (lambda g, m: resample_map(placed, g, shift_m=m).values, near),
    ):
        move = turned(grid)
        held = moved_grid(grid, move)
        assert held is not None
        assert np.isfinite(call(grid, move)).mean() > 0.1
        np.testing.assert_allclose(call(grid, move), call(held, (0.0, 0.0)), rtol=0, atol=1e-4)
        level = Displacement("affine", (13.0, 0.0, 0.0), (-6.0, 0.0, 0.0), move.size_m, move.centre_m)
        np.testing.assert_array_equal(call(grid, level), call(grid, (13.0, -6.0)))


def pair(folder: Path, kind: str) -> Unit:
    """Two scenes of one texture over a tile of 512 pixels, of which the second shows it bent as `kind` says."""
    side = 512
    texture = gaussian_filter(np.random.default_rng(11).normal(size=(side + 64, side + 64)), 1.5)
    digital = 3000 + 4000 * texture / np.abs(texture).max()
    v, u = (np.mgrid[:side, :side] - (side - 1) / 2) / (side / 2)
    bend = {
        "affine": np.stack([1.0 + 1.2 * v - 1.4 * u, -2.0 + 1.4 * v + 1.2 * u]),
        "field": np.stack([1.7 * np.cos(2.6 * u), 1.7 * np.cos(2.6 * v + 0.5)]),
        "stranger": np.zeros((2, side, side)),
    }[kind]
    at = np.mgrid[:side, :side] + 32.0
    still = map_coordinates(digital, at, order=3)
    moving = map_coordinates(digital[::-1, ::-1].T if kind == "stranger" else digital, at + bend, order=3)
    place = GeoBox((side, side), Affine(10.0, 0, WEST, 0, -10.0, NORTH), UTM)
    paths = [
        tiny.write_tif(folder / f"{name}.tif", image.round().astype(np.uint16), transform=place.affine, nodata=0)
        for name, image in (("still", still), ("moved", moving))
    ]
    scenes = [
        scene(path.stem, path, cloud=float(k), day=5 * k, place=place, checksum=file_digest(path))
        for k, path in enumerate(paths)
    ]
    (unit,) = plan(scenes, ground(0, 0, 5120, 5120), PERIOD, tile_m=5120.0)
    return unit


@pytest.mark.parametrize("kind", ["affine", "field"])
def test_a_bent_scene_lies_on_the_reference_in_the_cube(tmp_path: Path, kind: str) -> None:
    """The model is found, told in cube and item with its errors held out, and what is left is interpolation."""
    unit, ledger = pair(tmp_path, kind), Ledger(tmp_path / "published")
    item = ingest(unit, ledger)
    found = cube.open(ledger.item_path("cubes", unit.item_id).parent / item["assets"]["cube"]["href"])
    _, told = item["properties"]["ringmoe:coregistration"]
    assert told == found.attrs["coregistration"][1] == json.loads(json.dumps(told))
    assert (told["verdict"], told["model"], told["method"]) == ("accepted", kind, "structure")
    assert told["points"] > 20
    assert told["rmse_after_m"] < 0.5 * told["rmse_before_m"]
    assert told["ce90_m"] == pytest.approx(10 * told["ce90_px"], abs=1e-3)
    assert len(told["displacement"]["dx_m"]) == basis(np.zeros((1, 2)), kind).shape[1]  # type: ignore[arg-type]
    inner = found["data"].isel(band=0, y=slice(8, -8), x=slice(8, -8)).values
    before = read(unit.scenes[1], unit.tile.geobox, ["B04"]).values[0, 8:-8, 8:-8] / 1e4  # type: ignore[union-attr]
    assert np.nanmean(np.abs(inner[1] - inner[0])) < 0.25 * np.nanmean(np.abs(before - inner[0]))


def test_what_was_not_accepted_moves_nothing_and_tells_no_number(tmp_path: Path) -> None:
    """Against another place's image: no shift in the record, the pixels as they are, and the reason why."""
    unit = pair(tmp_path, "stranger")
    match = matching.Matcher(unit).match(unit.scenes[1])
    assert match.move == (0.0, 0.0)
    assert match.record["verdict"] != "accepted"
    assert [match.record[k] for k in ("dx_m", "dy_m", "model", "displacement")] == [None] * 4
    assert match.record["reason"]
    itself = matching.Matcher(unit).match(unit.scenes[0])
    assert itself.record["reason"] == "this scene is the reference"
