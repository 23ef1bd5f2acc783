"""Parcels to a map and a table of areas; status, search and gc for machines; help a newcomer can work from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from command_line import Finished, Run, copy_of, ringmoe
from shapely.affinity import rotate, translate
from shapely.geometry import Polygon, box
from typer.testing import CliRunner

from flows import cli

UTM = "EPSG:32633"
VERBS: dict[str, tuple[str, ...]] = {
    "sandbox": ("--seed", "--size", "--home"),
    "register": ("products", "--labels", "--dem"),
    "search": ("--bbox", "--area", "--from", "--to", "--sensor"),
    "plan": ("--pilot", "--tile"),
    "ingest": ("--bbox", "--tile", "--engine", "--sensor"),
    "composite": ("--method", "--every", "--from", "--to"),
    "pretrain": ("--preset", "--steps", "--seed"),
    "adapt": ("--model", "--sensor", "--steps"),
    "prune": ("--method", "--model"),
    "infer": ("--model", "--bbox", "--from"),
    "publish": ("--home",),
    "map": ("--parcels", "--from", "--to", "--model"),
    "run": ("--sandbox", "--products", "--train-bbox", "--map-bbox", "--quick"),
    "serve": ("--cron", "--days"),
    "status": ("--home",),
    "gc": ("--home",),
}


def fields(small: Run) -> dict[str, Polygon]:
    """Parcels in the map's zone: one on the pixel grid, one turned, one of 7 m by 9 m inside a pixel, in the east."""
    with rasterio.open(next(small.home.glob("sandbox/truth/east/landcover_20250808.tif"))) as source:
        west, south = source.bounds.left, source.bounds.bottom
    square = box(west + 400, south + 400, west + 700, south + 600)
    return {
        "square": square,
        "turned": rotate(translate(square, 500, 700), 30),
        "tiny": box(west + 1501, south + 1500.5, west + 1508, south + 1509.5),
    }


@pytest.fixture(scope="module")
def mapped(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished, list[dict[str, Any]]]:
    """`ringmoe map` of parcels that are drawn in degrees; the home, how it ended, and what --json wrote."""
    folder = tmp_path_factory.mktemp("parcels")
    home = copy_of(small_run.home, folder / "home")
    shapes = fields(small_run)
    frame = gpd.GeoDataFrame({"name": list(shapes)}, geometry=list(shapes.values()), crs=UTM)
    frame.to_crs(4326).to_file(folder / "parcels.gpkg")
    period = ("--from", "2025-05-01", "--to", "2025-08-31")
    done = ringmoe(home, "map", "--parcels", str(folder / "parcels.gpkg"), *period, "--json", str(folder / "maps.json"))
    assert done.code == 0, done.said
    return home, done, json.loads((folder / "maps.json").read_text())


def table(mapped: tuple[Path, Finished, list[dict[str, Any]]]) -> tuple[pd.DataFrame, dict[str, Any]]:
    (found,) = mapped[2]
    record = Path(found["href"])
    item = json.loads(record.read_text())
    return pd.read_csv(record.parent / item["assets"]["parcels"]["href"]), item


def test_the_table_has_a_row_per_parcel_and_class(
    mapped: tuple[Path, Finished, list[dict[str, Any]]], small_run: Run
) -> None:
    """Every parcel with every class of the model; on the ground, areas add up to what of the parcel is mapped."""
    rows, item = table(mapped)
    shapes = fields(small_run)
    classes = [c["title"] for c in item["assets"]["classes"]["classification:classes"] if c["value"]]
    assert list(rows["class_name"]) == classes * len(shapes)
    assert not rows.duplicated(["parcel", "class_id"]).any()
    for (_, found), shape in zip(rows.groupby("parcel", sort=False), shapes.values(), strict=True):
        scale, coverage = found["areal_scale"].iloc[0], found["coverage"].iloc[0]
        assert coverage > 0.9
        assert scale == pytest.approx(1.0, abs=3e-3)
        assert found["area_m2"].sum() == pytest.approx(coverage * shape.area / scale, rel=5e-3)
        assert found["share"].sum() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(rows["area_ha"], rows["area_m2"] / 1e4, atol=1e-4)


def test_the_map_is_published_with_the_table(mapped: tuple[Path, Finished, list[dict[str, Any]]]) -> None:
    """One map on the grid of the parcels, with classes, confidence and both tables; found again by a second call."""
    _, item = table(mapped)
    assert {"classes", "confidence", "areas", "parcels"} <= set(item["assets"])
    assert item["properties"]["proj:code"] == UTM
    assert mapped[2][0]["fresh"]


def test_cubes_that_exist_are_not_made_again(mapped: tuple[Path, Finished, list[dict[str, Any]]]) -> None:
    """The parcels' tile was ingested before: no cube is new."""
    assert len(list(mapped[0].glob("catalog/cubes/*/*.json"))) == 8


def after_table(done: Finished) -> Any:
    """What --json - printed behind the table."""
    start = min(k for k in (done.out.find("\n{\n"), done.out.find("\n[\n"), done.out.find("\n[]")) if k >= 0)
    return json.loads(done.out[start:])


@pytest.fixture
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    monkeypatch.setenv("COLUMNS", "300")
    yield
    os.environ.clear()
    os.environ.update(before)


def invoke(*words: str | Path) -> Finished:
    done = CliRunner().invoke(cli.app, [str(w) for w in words])
    return Finished(done.exit_code, done.stdout, done.stderr, 0.0)


@pytest.mark.usefixtures("quiet_environment")
def test_status_and_gc_for_machines(small_run: Run, tmp_path: Path) -> None:
    """Counts, failures and what is unfinished as JSON; gc removes what no item names once it is old, nothing else."""
    home = copy_of(small_run.home, tmp_path / "home")
    found = after_table(invoke("status", "--home", home, "--json", "-"))
    assert found["finished"] == {"cubes": 8, "composites": 0, "models": 3, "maps": 1, "versions": 4}
    assert found["failed"] == found["unfinished"] == found["stale"] == []
    assert [name.split("_")[0] for name in found["latest"]] == ["gaofen-3", "sentinel-1", "sentinel-2", "worldview"]
    dead = home / "catalog" / "cubes" / "gone" / "attempt-1"
    (dead / "cube.zarr").mkdir(parents=True)
    for folder in (dead / "cube.zarr", dead):
        os.utime(folder, (0, 0))
    assert after_table(invoke("status", "--home", home, "--json", "-"))["unfinished"] == [str(dead)]
    before = sorted(p for p in home.glob("catalog/**/*") if "gone" not in str(p))
    assert invoke("gc", "--home", home).code == 0
    assert not dead.exists()
    assert sorted(p for p in home.glob("catalog/**/*") if "gone" not in str(p)) == before


@pytest.mark.usefixtures("quiet_environment")
def test_search_for_machines(small_run: Run) -> None:
    """Scenes of a sensor and a period, with sensor, time, level and id."""
    period = ("--from", "2025-08-08", "--to", "2025-08-08")
    done = invoke("search", "--home", small_run.home, "--sensor", "sentinel-2", *period, "--json", "-")
    assert done.code == 0, done.said
    scenes = after_table(done)["scenes"]
    assert len(scenes) == 2
    assert {s["level"] for s in scenes} == {"L2A"}
    assert all(s["id"].startswith("S2B_MSIL2A_20250808") and s["time"].startswith("2025-08-08T10:10") for s in scenes)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--help ends with 0, tells in a sentence what the verb does, and names its options."""
    monkeypatch.setenv("COLUMNS", "200")
    done = invoke(verb, "--help")
    assert done.code == 0
    for option in VERBS[verb]:
        assert option in done.out, option
    sentence = " ".join(done.out.split("\n\n")[1].split())
    assert sentence.endswith(".")
    assert len(sentence.split()) >= 5


def test_the_first_page_names_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ringmoe --help` lists all verbs and says where to start; no verb is missing from this test."""
    monkeypatch.setenv("COLUMNS", "200")
    done = invoke("--help")
    assert done.code == 0
    assert "ringmoe run --sandbox" in done.out
    names = {c.name or getattr(c.callback, "__name__", "") for c in cli.app.registered_commands}
    assert names == set(VERBS)
    assert all(name in done.out for name in names)
