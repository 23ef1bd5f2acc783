"""A product is reprocessed: from its registration on, what was made of the older one is called stale and not chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_products as tiny
from command_line import ringmoe
from odc.geo.geom import Geometry
from test_25_versions import derived

from catalog import cube, units, versions
from catalog.ingest import ingest
from catalog.ledger import Ledger
from catalog.register import register
from catalog.register.catalogue import load
from catalog.scene import Scene
from catalog.search import best_of_each
from flows import shelf
from flows.refs import Area, Where
from flows.settings import Settings

PERIOD = "2024-06-01/2024-06-30"
OLDER, NEWER = ("N0510", "05.10", "20240615T141122"), ("N0511", "05.11", "20250101T080000")


def reprocess(safe: Path) -> Path:
    """The same acquisition under a newer baseline: names, XML, and pixels that are a hundred digital numbers more."""
    newer = safe.with_name(safe.name.replace(OLDER[0], NEWER[0]).replace(OLDER[2], NEWER[2]))
    shutil.copytree(safe, newer)
    for path in newer.rglob("*.xml"):
        text = path.read_text()
        for old, new in zip(OLDER, NEWER, strict=True):
            text = text.replace(old, new)
        path.write_text(text)
    for path in newer.rglob("*_B*.tif"):
        with rasterio.open(path, "r+") as image:
            values = image.read(1)
            image.write(np.where(values > 0, values + 100, 0).astype(values.dtype), 1)
    return newer


def make(where: Where, scenes: list[Scene]) -> str:
    """Ingest scenes as the flow does once they are found; the id of their one cube."""
    ledger, area = Ledger(where.published), Geometry(dict(scenes[0].geometry), "EPSG:4326")
    (unit,) = units.plan(scenes, area, PERIOD, tile_m=400.0)
    ingest(unit, ledger)
    versions.publish_version(ledger, "sentinel-2", [unit.item_id])
    return unit.item_id


def model(where: Where, item_id: str, created: str, source: str) -> None:
    """A checkpoint's item that derives from a cube."""
    ledger = Ledger(where.published)
    derived(ledger, "models", item_id, [("cubes", source)])
    path = ledger.item_path("models", item_id)
    item = json.loads(path.read_text())
    item["properties"]["created"] = created
    files = {"model": "model.safetensors", "config": "config.json"}
    item["assets"] = {k: {"href": f"./attempt-1/checkpoint/{v}", "file:checksum": "1220"} for k, v in files.items()}
    path.write_text(json.dumps(item))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One product made into a cube, a model and a map."""
    place = tmp_path / "home"
    where = Where.of(Settings(home=place))
    found = register(tiny.sentinel2(place / "products"), where.scenes)
    old = make(where, [Scene.from_item(found.items[0])])
    model(where, "prune_old", "2025-09-02T00:00:00Z", old)
    derived(Ledger(where.published), "maps", "landcover_old", [("models", "prune_old"), ("cubes", old)])
    return place


def test_registration_makes_stale_and_the_next_ingest_mends(home: Path) -> None:
    """The search keeps the newer baseline; cube, model and map are stale through lineage; then the shelf has only what
    is made of the newer one, and prefers an older model that is not stale."""
    where = Where.of(Settings(home=home))
    assert shelf.outdated(where) == {}
    (old,) = (item for _, item in Ledger(where.published).items("cubes"))
    register(reprocess(next((home / "products").glob("*.SAFE"))), where.scenes)
    outdated = shelf.outdated(where)
    assert set(outdated) == {old["id"], "prune_old", "landcover_old"}
    assert "(baseline)" in outdated[old["id"]].reasons[0]
    assert [r.id for r in shelf.cubes(where, Area(geometry=old["geometry"]))] == [old["id"]]
    kept, dropped = best_of_each([Scene.from_item(i) for i in load(where.scenes)])
    assert [NEWER[0] in s.id for s in kept] == [True]
    assert dropped[0].why == "baseline"
    new = make(where, list(kept))
    (ref,) = shelf.cubes(where, Area(geometry=old["geometry"]))
    assert ref.id == new != old["id"]
    before = cube.open(Path(where.published) / "cubes" / old["id"] / "attempt-1" / "cube.zarr")["data"]
    apart = (cube.open(ref.asset)["data"] - before).mean()
    assert float(apart) == pytest.approx(0.01, abs=1e-5)
    model(where, "prune_new", "2025-09-01T00:00:00Z", new)
    assert shelf.model(where, "prune", None).id == "prune_new"
    assert shelf.model(where, "prune", "prune_old").id == "prune_old"


def test_status_lists_and_gc_removes_when_told(home: Path, tmp_path: Path) -> None:
    """`ringmoe status` names the stale items with their reasons; `ringmoe gc` lists, and removes with its options."""
    where = Where.of(Settings(home=home))
    register(reprocess(next((home / "products").glob("*.SAFE"))), where.scenes)
    ledger, told = Ledger(where.published), tmp_path / "told.json"
    (old,) = (item["id"] for _, item in ledger.items("cubes"))
    done = ringmoe(home, "status", "--json", str(told))
    assert done.code == 0, done.said
    said = json.loads(told.read_text())
    assert [(s["collection"], s["id"]) for s in said["stale"]] == [
        ("cubes", old),
        ("models", "prune_old"),
        ("maps", "landcover_old"),
    ]
    assert "is superseded by" in done.out
    assert said["finished"]["versions"] == 1
    kept, _ = best_of_each([Scene.from_item(i) for i in load(where.scenes)])
    new = make(where, list(kept))
    done = ringmoe(home, "gc", "--superseded")
    assert done.code == 0, done.said
    assert {i["id"] for _, i in ledger.items("cubes")} == {old, new}
    done = ringmoe(home, "gc", "--derived-too")
    assert done.code == 0, done.said
    assert {i["id"] for _, i in ledger.items("cubes")} == {new}
    assert list(ledger.items("maps")) == list(ledger.items("models")) == []
