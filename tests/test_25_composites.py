"""Composites as units of work: planned from items, made window by window, found again, opened like cubes."""

from __future__ import annotations

import datetime as dt
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry, box
from test_21_cube import description

from catalog import compositing, cube, mosaic, periods, publish, versions
from catalog.composite import composite
from catalog.errors import CubeError
from catalog.ledger import Ledger, tree_digest
from catalog.sensors import Quality

WORLD: Geometry = box(-180, -80, 180, 84, "EPSG:4326")
MAY, JUNE, JULY = ((dt.date(2025, m, 1), dt.date(2025, m, d)) for m, d in ((5, 31), (6, 30), (7, 31)))
METHODS = ("median", "medoid", "clearest")


def grid(rows: int, columns: int, column: int = 0) -> GeoBox:
    return GeoBox((rows, columns), Affine(10.0, 0, 600_000.0 + 10 * column, 0, -10.0, 5_000_000.0), "EPSG:32632")


def made_cube(ledger: Ledger, name: str, days: list[str], place: GeoBox, seed: int = 0, tile: str = "t") -> xr.Dataset:
    """A published cube of random values and every quality at these days; scene NAME-DAY."""
    chance = np.random.default_rng(seed)
    shape = (len(days), 2, *place.shape)
    data = chance.uniform(0, 1, shape).astype("float32")
    data[chance.uniform(size=shape) < 0.1] = np.nan
    quality = chance.choice([int(q) for q in Quality], (len(days), *place.shape)).astype("uint8")
    axes = {"time": np.array([f"{d}T10:00:00" for d in days], "datetime64[ns]")}
    axes |= cube.pixel_coordinates(place, place.shape)
    about = replace(
        description(place, count=len(days)),
        tile=tile,
        scenes=tuple(f"{name}-{d}" for d in days),
        coregistration=({},) * len(days),
    )
    dataset = cube.assemble(
        about,
        xr.DataArray(data, dims=("time", "band", "y", "x"), coords=axes),
        xr.DataArray(quality, dims=("time", "y", "x")),
    )
    folder = ledger.attempt("cubes", name)
    cube.write(folder / "cube.zarr", dataset)
    moments = [dt.datetime.fromisoformat(d).replace(tzinfo=dt.UTC) for d in days]
    sources = publish.Sources([(s, f"{s}.json") for s in about.scenes], moments[0], moments[-1])
    publish.cube_item(ledger, name, folder, dataset, sources, publish.lonlat(place.extent))
    return cube.open(folder / "cube.zarr")


def planned(ledger: Ledger, method: str = "median", days: tuple = (MAY, JUNE)) -> periods.Planned:
    return periods.plan(versions.current(ledger, "sentinel-2"), WORLD, ["sentinel-2"], days, method)  # type: ignore[arg-type]


def test_the_calendar_is_cut_to_the_days_asked_for() -> None:
    """Months, quarters and years, the first and the last of them partly; whole is one."""
    first, last = dt.date(2024, 12, 20), dt.date(2025, 2, 10)
    assert [f"{a}/{b}" for a, b in periods.divide(first, last, "month")] == [
        "2024-12-20/2024-12-31",
        "2025-01-01/2025-01-31",
        "2025-02-01/2025-02-10",
    ]
    assert len(periods.divide(first, last, "quarter")) == len(periods.divide(first, last, "year")) == 2
    assert periods.divide(first, last, "whole") == ((first, last),)


@pytest.mark.parametrize("method", METHODS)
def test_a_composite_is_of_all_cubes_of_its_tile_and_month(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validate_offline: Callable[[Any], None]
) -> None:
    """Looks of two cubes, one of which reaches into the next month, read by small windows: pixel for pixel what the
    kernel says of all of them in memory; the item validates, its checksums hold, it derives from both cubes."""
    monkeypatch.setattr(compositing, "WINDOW_BYTES", 256 * 3 * 2 * 4 * 48)
    ledger, place = Ledger(tmp_path), grid(300, 290)
    one = made_cube(ledger, "a", ["2025-05-03", "2025-05-23", "2025-06-02"], place, 1)
    two = made_cube(ledger, "b", ["2025-05-13"], place, 2)
    units = planned(ledger, method).units
    assert [(u.period, len(u.looks)) for u in units] == [("2025-05-01/2025-05-31", 3), ("2025-06-01/2025-06-30", 1)]
    item = compositing.make(units[0], ledger)
    looks = xr.concat([one.isel(time=[0]), two, one.isel(time=[1])], "time", data_vars="all").load()
    looks.attrs["usable_share"] = None
    wanted = composite(looks, method)  # type: ignore[arg-type]
    found = cube.open(ledger.item_path("composites", item["id"]))
    assert dict(found.sizes) == {"time": 1, "band": 2, "y": 300, "x": 290}
    for name in ("data", "quality", "looks", "spread"):
        np.testing.assert_array_equal(found[name].values[0], wanted[name].values, err_msg=name)
    for name in ("first", "last"):
        assert found[name].dtype.kind == "M"
        assert not (np.isnat(found[name].values[0]) ^ np.isnat(wanted[name].values)).any()
        apart = (found[name].values[0] - wanted[name].values) / np.timedelta64(1, "s")
        assert np.nanmax(np.abs(apart[~np.isnat(wanted[name].values)])) < 1e-3
    validate_offline(item)
    assert [x["title"] for x in item["links"] if x["rel"] == "derived_from"] == ["a", "b"]
    assert item["properties"]["ringmoe:composite"] == method
    assert item["properties"]["ringmoe:valid_share"] == pytest.approx(
        float((wanted["looks"] > 0).mean()), abs=0.01
    )  # a usable pixel without one band measured has no look
    folder = ledger.item_path("composites", item["id"]).parent
    assert tree_digest(folder / item["assets"]["cube"]["href"])[0] == item["assets"]["cube"]["file:checksum"]
    with rasterio.open(folder / item["assets"]["preview"]["href"]) as preview:
        assert list(preview.transform)[:6] == list(place.affine)[:6]
        np.testing.assert_array_equal(preview.read(1), wanted["data"].values[0])


def test_a_unit_is_named_by_what_determines_it(tmp_path: Path) -> None:
    """Made once; another method, period or a new cube is another unit; the same cubes are found, not remade."""
    ledger, place = Ledger(tmp_path), grid(30, 20)
    made_cube(ledger, "a", ["2025-05-03", "2025-05-23"], place)
    unit = planned(ledger).units[0]
    compositing.make(unit, ledger)
    compositing.make(unit, ledger)
    assert len(list((tmp_path / "composites" / unit.item_id).glob("attempt-*"))) == 1
    others = {planned(ledger, "medoid").units[0].id, planned(ledger, days=((MAY[0], JUNE[1]),)).units[0].id}
    assert planned(ledger).units[0].id == unit.id
    made_cube(ledger, "b", ["2025-05-13"], place)
    others.add(planned(ledger).units[0].id)
    assert len(others | {unit.id}) == 4


def test_periods_without_scenes_are_said_and_made_of_nothing(tmp_path: Path) -> None:
    """July has none: it is listed with its tile, and no unit stands for it."""
    ledger = Ledger(tmp_path)
    made_cube(ledger, "a", ["2025-05-03"], grid(30, 20))
    found = planned(ledger, days=(MAY, JULY))
    assert [u.period for u in found.units] == ["2025-05-01/2025-05-31"]
    assert found.empty == (("sentinel-2", "t", "2025-07-01/2025-07-31"),)


def test_a_scene_that_two_cubes_hold_counts_once(tmp_path: Path) -> None:
    """The newer cube's pixels count, as when cubes are opened over an area."""
    ledger, place = Ledger(tmp_path), grid(30, 20)
    for number, name in enumerate(("older", "newer")):
        made_cube(ledger, name, ["2025-05-03"], place, number)
        path = ledger.item_path("cubes", name)
        item = json.loads(path.read_text())
        item["properties"]["created"] = f"2025-09-0{number + 1}T00:00:00Z"
        for link in item["links"]:
            link["title"] = "one scene" if link["rel"] == "derived_from" else link.get("title")
        path.write_text(json.dumps(item))
    looks = planned(ledger).units[0].looks
    assert [look.cube for look in looks] == ["newer"]


def test_composites_open_over_an_area(tmp_path: Path) -> None:
    """Two tiles side by side, two months: one Dataset of one method; cubes are opened as before."""
    ledger = Ledger(tmp_path)
    for column, name in ((0, "w"), (20, "e")):
        made_cube(ledger, name, ["2025-05-03", "2025-06-03"], grid(30, 20, column), column, tile=name)
    for method in ("median", "clearest"):
        for unit in planned(ledger, method).units:
            compositing.make(unit, ledger)
    both = mosaic.open_composites(tmp_path, "sentinel-2", "median")
    assert dict(both.sizes) == {"time": 2, "band": 2, "y": 30, "x": 40}
    assert [str(t)[:10] for t in both["time"].values] == ["2025-05-01", "2025-06-01"]
    west = next(u for u in planned(ledger).units if u.tile == "w")
    alone = cube.open(ledger.item_path("composites", west.item_id))
    np.testing.assert_array_equal(both["data"].values[0, :, :, :20], alone["data"].values[0])
    assert mosaic.open_area(tmp_path, "sentinel-2").sizes["time"] == 4


def test_memory_is_that_of_a_window_however_many_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the looks (and pixels to read) take at most half as much memory again: garbage that Python has not yet
    collected counts too."""
    monkeypatch.setattr(compositing, "WINDOW_BYTES", 2**18)
    peaks = []
    for count in (4, 4, 16):  # the first warms caches up
        ledger = Ledger(tmp_path / str(len(peaks)))
        made_cube(ledger, "a", [f"2025-05-{k + 1:02d}" for k in range(count)], grid(160, 160))
        unit = planned(ledger).units[0]
        tracemalloc.start()
        compositing.build(unit, ledger.root / "alone.zarr")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] <= 1.5 * peaks[1]


def test_a_failure_leaves_its_reason_and_nothing_half_made(tmp_path: Path) -> None:
    """A cube that is gone is named; the attempt's folder is removed."""
    ledger = Ledger(tmp_path)
    made_cube(ledger, "a", ["2025-05-03"], grid(30, 20))
    unit = planned(ledger).units[0]
    for file in (tmp_path / "cubes" / "a").glob("attempt-*/cube.zarr/zarr.json"):
        file.unlink()
    with pytest.raises(CubeError, match="no readable cube"):
        compositing.make(unit, ledger)
    assert [f["unit"] for f in ledger.failures()] == [unit.item_id]
    assert not list((tmp_path / "composites").glob("*/attempt-*"))
