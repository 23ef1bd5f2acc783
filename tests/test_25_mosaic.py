"""Cubes over an area and a period as one lazy Dataset: every pixel from its tile and date, none invented."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from test_21_cube import description, layers
from test_23_publish import FOOTPRINT, SOURCES

from catalog import cube, publish
from catalog.errors import CubeError, NothingFound
from catalog.ledger import Ledger
from catalog.mosaic import TASKS_PER_CHUNK, open_area
from catalog.sensors import Quality

ROWS, COLUMNS = 30, 20


def tile(row: int, column: int, crs: str = "EPSG:32632", step: float = 10.0) -> GeoBox:
    """The tile at a row and column of a grid of tiles."""
    corner = Affine(step, 0, 600_000.0 + column * COLUMNS * step, 0, -step, 5_000_000.0 - row * ROWS * step)
    return GeoBox((ROWS, COLUMNS), corner, crs)


def published(
    root: Path, name: str, box: GeoBox, value: float, scenes: tuple[str, ...], created: str = "2025-09-01T00:00:00Z"
) -> None:
    """A cube whose first scene is filled with a value, the second with ten times that."""
    data, quality = layers(box)
    filled = xr.ones_like(data) * np.float32([[[[value]]], [[[10 * value]]]])
    count = len(scenes)
    about = replace(description(box, count=count), tile=name, scenes=scenes, coregistration=({},) * count)
    dataset = cube.assemble(about, filled[:count].astype("float32"), xr.full_like(quality, 1)[:count])
    ledger = Ledger(root)
    folder = ledger.attempt("cubes", name)
    cube.write(folder / "cube.zarr", dataset)
    item: dict[str, Any] = publish.cube_item(ledger, name, folder, dataset, SOURCES, FOOTPRINT)
    item["properties"]["created"] = created
    path = ledger.item_path("cubes", name)
    path.unlink()
    ledger.commit("cubes", name, item)


def test_tiles_and_dates_come_together_lazily(tmp_path: Path) -> None:
    """Three of four tiles, one of which lacks the second date: each value in its place, NaN and NO_DATA elsewhere."""
    published(tmp_path, "a", tile(0, 0), 1.0, ("s0", "s1"))
    published(tmp_path, "b", tile(0, 1), 2.0, ("s0",))
    published(tmp_path, "c", tile(1, 1), 3.0, ("s0", "s1"))
    area = open_area(tmp_path, "sentinel-2")
    assert dask.is_dask_collection(area["data"].data)
    assert dict(area.sizes) == {"time": 2, "band": 2, "y": 2 * ROWS, "x": 2 * COLUMNS}
    assert area.attrs["scenes"] == ["s0", "s1"]
    wanted = np.full((2, 2, 2), np.nan)
    wanted[0, 0, 0], wanted[0, 0, 1], wanted[0, 1, 1] = 1, 2, 3
    wanted[1, 0, 0], wanted[1, 1, 1] = 10, 30
    spread = wanted.repeat(ROWS, axis=1).repeat(COLUMNS, axis=2)
    for band in area["band"].values:
        np.testing.assert_array_equal(area["data"].sel(band=band).values, spread.astype("float32"))
    np.testing.assert_array_equal(area["quality"].values == Quality.NO_DATA, np.isnan(spread))
    assert area.rio.crs.to_epsg() == 32632
    assert list(area.rio.transform())[:6] == list(tile(0, 0).affine)[:6]
    assert float(area["x"][-1]) == 600_000.0 + 2 * COLUMNS * 10 - 5


def test_the_newest_cube_of_a_scene_counts(tmp_path: Path) -> None:
    """Two cubes of one tile hold the same scene: the pixels are those of the one made last."""
    published(tmp_path, "z-old", tile(0, 0), 1.0, ("s0",), "2025-09-01T00:00:00Z")
    published(tmp_path, "a-new", tile(0, 0), 7.0, ("s0",), "2025-09-02T00:00:00Z")
    area = open_area(tmp_path, "sentinel-2")
    assert area.sizes["time"] == 1
    assert np.unique(area["data"].values).tolist() == [7.0]


def test_a_period_takes_whole_days(tmp_path: Path) -> None:
    """The first and the last day belong to it; a period without a look is refused with the box it was asked for."""
    published(tmp_path, "a", tile(0, 0), 1.0, ("s0", "s1"))
    assert open_area(tmp_path, "sentinel-2", end="2025-05-10").attrs["scenes"] == ["s0"]
    assert open_area(tmp_path, "sentinel-2", start="2025-08-08", end="2025-08-08").attrs["scenes"] == ["s1"]
    with pytest.raises(NothingFound, match="2025-06-01 and 2025-06-30"):
        open_area(tmp_path, "sentinel-2", start="2025-06-01", end="2025-06-30")
    with pytest.raises(NothingFound):
        open_area(tmp_path, "sentinel-2", bbox=(100.0, 10.0, 101.0, 11.0))
    with pytest.raises(NothingFound):
        open_area(tmp_path, "landsat")


ODD = {
    "CRS": tile(0, 1, crs="EPSG:32633"),
    "pixel size": tile(0, 1, step=20.0),
    "grids of tiles": GeoBox((ROWS, COLUMNS), tile(0, 0).affine * Affine.translation(3, 0), "EPSG:32632"),
}


@pytest.mark.parametrize("what", ODD)
def test_grids_are_never_mixed(what: str, tmp_path: Path) -> None:
    """Another zone, another pixel size or a shifted grid is refused and named; naming the zone chooses one."""
    published(tmp_path, "a", tile(0, 0), 1.0, ("s0",))
    published(tmp_path, "b", ODD[what], 2.0, ("s0",))
    with pytest.raises(CubeError) as refused:
        open_area(tmp_path, "sentinel-2")
    assert what in str(refused.value)
    if what == "CRS":
        chosen = open_area(tmp_path, "sentinel-2", crs="EPSG:32633")
        assert np.unique(chosen["data"].values).tolist() == [2.0]


def test_a_graph_stays_below_what_is_counted_for_it(tmp_path: Path) -> None:
    """The tasks of real areas, gaps included, are no more than the number by which a larger one is refused."""
    for row, column in ((0, 0), (0, 1), (1, 2)):
        published(tmp_path, f"t{row}{column}", tile(row, column), 1.0, ("s0", "s1"))
    area = open_area(tmp_path, "sentinel-2")
    chunks = 2 * 2 * 3
    tasks = len(dict(area.__dask_graph__()))
    assert tasks <= TASKS_PER_CHUNK * chunks


def test_an_area_too_large_for_one_graph_is_refused_by_its_number(tmp_path: Path) -> None:
    """400 tiles of 5,120 x 5,120 at two dates: refused before a store is opened (there is none), by the number."""
    published(tmp_path, "a", tile(0, 0), 1.0, ("s0", "s1"))
    item = json.loads((tmp_path / "cubes" / "a" / "a.json").read_text())
    item["properties"]["ringmoe:shape"] = [5120, 5120]
    for number in range(400):
        folder = tmp_path / "cubes" / f"n{number}"
        folder.mkdir()
        said = {**item["properties"], "ringmoe:tile": f"t{number}"}
        (folder / f"n{number}.json").write_text(json.dumps({**item, "id": f"n{number}", "properties": said}))
    with pytest.raises(CubeError, match="200,020 tasks"):
        open_area(tmp_path, "sentinel-2")
    with pytest.raises(CubeError, match="100,010 tasks"):
        open_area(tmp_path, "sentinel-2", end="2025-05-10")


def test_tiles_far_apart_are_refused_by_the_gaps_between_them(tmp_path: Path) -> None:
    """Two tiles at the ends of a diagonal of 150 x 150: the empty places count, for the graph holds them."""
    published(tmp_path, "a", tile(0, 0), 1.0, ("s0",))
    published(tmp_path, "b", tile(149, 149), 1.0, ("s0",))
    with pytest.raises(CubeError, match="150 x 150 tiles"):
        open_area(tmp_path, "sentinel-2")
