"""Versions and supersession: what is shared stays, what was reprocessed makes stale, what nobody needs goes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_24_ingest as ingesting
from odc.geo.geom import Geometry
from test_24_ingest import TILE, image

from catalog import cube, periods, publish, versions
from catalog.errors import CubeError, StorageFull
from catalog.ingest import ingest
from catalog.ledger import Ledger
from catalog.mosaic import open_area, open_version
from catalog.scene import Scene
from catalog.search import recalled, remembered, superseded
from catalog.stale import removable, remove, stale
from catalog.units import Every, plan

PERIOD = "2025-05-01/2025-08-31"
MGRS = {"ringmoe:tile": "MGRS-32TPQ"}


def look(folder: Path, name: str, when: str, value: int, baseline: str = "03.00", cloud: float = 1.0) -> Scene:
    """A scene of one value: reflectance is the value over ten thousand."""
    path = folder / f"{name}.tif"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        image(path, np.full((256, 256), value, np.uint16))
    made = ingesting.scene(name, path, cloud=cloud)
    said = {**made.properties, **MGRS, "ringmoe:baseline": baseline}
    return dataclasses.replace(made, datetime=datetime.fromisoformat(when).replace(tzinfo=UTC), properties=said)


def season(folder: Path) -> list[Scene]:
    """Two scenes in May, one in July, one in August."""
    days = ("2025-05-10", "2025-05-20", "2025-07-05", "2025-08-08")
    return [look(folder, f"s{k}", f"{day}T10:10:31", 1000 * (k + 1)) for k, day in enumerate(days)]


def run(root: Path, scenes: list[Scene], every: Every = "month") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an ingest does once scenes are found: cubes, then the version."""
    ledger = Ledger(root)
    units = plan(scenes, TILE, PERIOD, tile_m=2560.0, every=every)
    items = [ingest(u, ledger) for u in units]
    return versions.publish_version(ledger, "sentinel-2", [i["id"] for i in items]), items


def stores(root: Path) -> dict[str, int]:
    """Every file of every store with the time it was last written."""
    return {str(p): p.stat().st_mtime_ns for p in root.glob("cubes/*/attempt-*/**/*") if p.is_file()}


def units_of(version: Mapping[str, Any]) -> dict[str, str]:
    return {u["period"]: u["id"] for u in version["properties"]["ringmoe:units"]}


@pytest.mark.parametrize(
    ("every", "periods"),
    [
        ("month", ["2025-05-01/2025-05-31", "2025-07-01/2025-07-31", "2025-08-01/2025-08-31"]),
        ("year", ["2025-05-01/2025-08-31"]),
        ("period", ["2025-05-01/2025-08-31"]),
    ],
)
def test_units_follow_the_calendar(every: Every, periods: list[str], tmp_path: Path) -> None:
    """Each part of the calendar that has a scene is a unit of its days within the period; one reference for all."""
    units = plan(season(tmp_path), TILE, PERIOD, tile_m=2560.0, every=every)
    assert [u.period for u in units] == periods
    assert {u.reference.id for u in units if u.reference} == {"s0"}
    with pytest.raises(CubeError, match="every week"):
        plan(season(tmp_path), TILE, PERIOD, tile_m=2560.0, every="week")  # type: ignore[arg-type]


def test_a_new_scene_makes_its_own_month_again_and_no_other(
    tmp_path: Path, validate_offline: Callable[[Any], None]
) -> None:
    """Two ingests, the second with one scene more: all stores but one are shared to the file; the chain says so."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    first, _ = run(root, scenes)
    before = stores(root)
    clearer = look(tmp_path / "files", "s4", "2025-07-25T10:10:31", 5000, cloud=0.0)
    second, _ = run(root, [*scenes, clearer])
    one, two = units_of(first), units_of(second)
    assert {k: one[k] == two[k] for k in one} == {
        "2025-05-01/2025-05-31": True,
        "2025-07-01/2025-07-31": False,
        "2025-08-01/2025-08-31": True,
    }
    assert {p: t for p, t in stores(root).items() if p in before} == before
    assert [v["properties"]["version"] for v in (first, second)] == ["1", "2"]
    (link,) = (x for x in second["links"] if x["rel"] == "predecessor-version")
    path = Ledger(root).item_path("versions", second["id"])
    assert (path.parent / link["href"]).resolve() == Ledger(root).item_path("versions", first["id"]).resolve()
    for item in (first, second):
        validate_offline(item)
    publish.relink(root)
    collection = json.loads((root / "versions" / "collection.json").read_text())
    assert [x["title"] for x in collection["links"] if x["rel"] == "latest-version"] == [second["id"]]


def test_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    """A second ingest of the same scenes publishes nothing; in another home the version has the same name."""
    scenes = season(tmp_path / "files")
    first, _ = run(tmp_path / "a", scenes)
    assert run(tmp_path / "a", scenes)[0] == first
    assert len(list(Ledger(tmp_path / "a").items("versions"))) == 1
    assert run(tmp_path / "b", scenes)[0]["id"] == first["id"]


def test_a_version_opens_as_one_dataset(tmp_path: Path) -> None:
    """The latest has all dates once, each with its value; the one before opens as it was."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    first, _ = run(root, scenes)
    run(root, [*scenes, look(tmp_path / "files", "s4", "2025-07-25T10:10:31", 5000)])
    area = open_area(root, "sentinel-2")
    assert area.attrs["scenes"] == ["s0", "s1", "s2", "s4", "s3"]
    means = area["data"].mean(("band", "y", "x")).values
    np.testing.assert_allclose(means, [0.1, 0.2, 0.3, 0.5, 0.4], atol=1e-6)
    assert area.attrs["period"] == PERIOD
    old = open_version(Ledger(root).item_path("versions", first["id"]))
    assert old.attrs["scenes"] == ["s0", "s1", "s2", "s3"]
    late = open_area(root, "sentinel-2", start="2025-07-01", end="2025-07-31")
    assert late.attrs["scenes"] == ["s2", "s4"]


def test_a_longer_unit_beside_months_counts_no_date_twice(tmp_path: Path) -> None:
    """Months after a whole period that has more: both are listed, each date read once; all months: the whole goes."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    whole, _ = run(root, scenes, "period")
    part, _ = run(root, scenes[:2])
    assert len(part["properties"]["ringmoe:units"]) == 2
    assert open_area(root, "sentinel-2").attrs["scenes"] == ["s0", "s1", "s2", "s3"]
    months, items = run(root, scenes)
    assert [u["id"] for u in months["properties"]["ringmoe:units"]] == [i["id"] for i in items]
    back, _ = run(root, scenes, "period")
    assert back["properties"]["ringmoe:units"] == whole["properties"]["ringmoe:units"]
    assert back["id"] != whole["id"]
    assert [v["id"] for v in versions.heads(Ledger(root), "sentinel-2")] == [back["id"]]


def test_two_ingests_beside_each_other_are_joined(tmp_path: Path) -> None:
    """Two versions with one predecessor: both count at once, and the next one names both."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    run(root, scenes[:1])
    ledger = Ledger(root)
    run(root, scenes[:3])
    mine = ledger.item_path("versions", versions.heads(ledger, "sentinel-2")[0]["id"])
    mine.rename(tmp_path / "aside.json")
    run(root, [scenes[0], scenes[3]])
    (tmp_path / "aside.json").rename(mine)
    assert len(versions.heads(ledger, "sentinel-2")) == 2
    assert open_area(root, "sentinel-2").attrs["scenes"] == ["s0", "s1", "s2", "s3"]
    joined, _ = run(root, [scenes[0], scenes[3]])
    assert len([x for x in joined["links"] if x["rel"] == "predecessor-version"]) == 2
    assert versions.heads(ledger, "sentinel-2")[0]["id"] == joined["id"]


def test_a_store_that_is_gone_is_named(tmp_path: Path) -> None:
    """The version that lists it opens no more and says why; the next ingest mends it."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    version, items = run(root, scenes)
    shutil.rmtree(root / "cubes" / items[1]["id"])
    for broken in (
        lambda: open_area(root, "sentinel-2"),
        lambda: open_version(Ledger(root).item_path("versions", version["id"])),
    ):
        with pytest.raises(CubeError, match=version["id"]) as refused:
            broken()
        assert items[1]["id"] in refused.value.item
    assert run(root, scenes)[0] == version
    assert open_area(root, "sentinel-2").sizes["time"] == 4
    with pytest.raises(CubeError, match="no item of a version"):
        open_version(root / "versions" / "nothing.json")


def test_a_full_disk_leaves_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the new version's item: StorageFull, nothing of it to be seen, the one before still opens."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    first, _ = run(root, scenes[:2])
    ledger, late = Ledger(root), ingest(plan(scenes[2:], TILE, PERIOD, tile_m=2560.0, every="month")[0], Ledger(root))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull):
            versions.publish_version(ledger, "sentinel-2", [late["id"]])
    assert [i["id"] for _, i in ledger.items("versions")] == [first["id"]]
    assert [p.name for p in (root / "versions").rglob("*") if p.is_file()] == [f"{first['id']}.json"]
    assert open_area(root, "sentinel-2").attrs["scenes"] == ["s0", "s1"]


def test_a_newer_baseline_supersedes_and_nothing_else_does(tmp_path: Path) -> None:
    """The duplicate rule, as far as processing decides; what is remembered of a scene is enough for it."""
    old = look(tmp_path, "old", "2025-05-10T10:10:31", 1000, "02.09")
    new = look(tmp_path, "new", "2025-05-10T10:10:31", 1100, "03.00")
    other_day = look(tmp_path, "other", "2025-05-20T10:10:31", 1100, "03.00")
    same = dataclasses.replace(old, id="listed later", properties={**old.properties, "updated": "2026-01-01T00:00:00Z"})
    kept = [recalled(json.loads(json.dumps(remembered(s)))) for s in (old, new, other_day)]
    assert superseded([old, new, other_day]) == superseded(kept) == {"old": ("new", "baseline")}
    assert superseded([old, same]) == {}
    thin = dataclasses.replace(new, decimated=True)
    assert superseded([old, thin]) == {}


def derived(ledger: Ledger, collection: str, item_id: str, sources: list[tuple[str, str]]) -> None:
    """An item that says it derives from others."""
    links = [{"rel": "derived_from", "title": i, "href": f"../../{c}/{i}/{i}.json"} for c, i in sources]
    ledger.commit(collection, item_id, {"id": item_id, "links": links, "properties": {}, "assets": {}})


def reprocessed(tmp_path: Path) -> tuple[Path, str, str, Scene]:
    """May and July made, a model and a map of May's cube, another map of July's; then May's scene is reprocessed."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    _, (may, july) = run(root, [scenes[0], scenes[2]])
    ledger = Ledger(root)
    derived(ledger, "models", "prune_a", [("cubes", may["id"])])
    derived(ledger, "maps", "landcover_a", [("cubes", july["id"]), ("models", "prune_a")])
    derived(ledger, "maps", "landcover_b", [("cubes", july["id"])])
    newer = look(tmp_path / "files", "s0 again", "2025-05-10T10:10:31", 1500, "03.01", cloud=1.0)
    return root, may["id"], july["id"], newer


def test_what_was_made_of_a_superseded_scene_is_stale_through_to_the_map(tmp_path: Path) -> None:
    """Registered is enough: the cube, all cubes brought onto it, the model and both maps, each with its reason; items
    stay as they are to the byte."""
    root, may, july, newer = reprocessed(tmp_path)
    ledger = Ledger(root)
    bytes_before = {p: p.read_bytes() for p in root.rglob("*.json")}
    assert stale(ledger) == {}
    found = stale(ledger, [newer])
    assert set(found) == {may, july, "prune_a", "landcover_a", "landcover_b"}
    assert found[may].reasons == ("s0 is superseded by s0 again (baseline)",)
    assert found[july].reasons == ("its reference s0 is superseded by s0 again (baseline)",)
    assert found["prune_a"].reasons == (f"derives from {may}, which is stale",)
    assert found["landcover_a"].collection == "maps"
    assert {p: p.read_bytes() for p in root.rglob("*.json")} == bytes_before


def test_the_newer_self_takes_the_place_of_the_older(tmp_path: Path) -> None:
    """After its ingest the latest version lists the newer one's cube only, and the date is read from it, once."""
    root, may, july, newer = reprocessed(tmp_path)
    version, items = run(root, [newer, look(tmp_path / "files", "s2", "2025-07-05T10:10:31", 3000)])
    listed = [u["id"] for u in version["properties"]["ringmoe:units"]]
    assert sorted(listed) == sorted(i["id"] for i in items)
    assert may not in listed
    assert july not in listed
    area = open_area(root, "sentinel-2")
    assert area.attrs["scenes"] == ["s0 again", "s2"]
    np.testing.assert_allclose(area["data"].mean(("band", "y", "x")).values, [0.15, 0.3], atol=1e-6)
    assert set(stale(Ledger(root))) == {may, july, "prune_a", "landcover_a", "landcover_b"}


def test_a_superseded_look_in_a_longer_cube_is_not_read(tmp_path: Path) -> None:
    """The old cube still counts for its other date; the reprocessed one comes from the new cube alone."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    run(root, scenes[:2], "period")
    newer = look(tmp_path / "files", "s0 again", "2025-05-10T10:10:32", 1500, "03.01")
    version, _ = run(root, [newer], "period")
    assert len(version["properties"]["ringmoe:units"]) == 2
    area = open_area(root, "sentinel-2")
    assert area.attrs["scenes"] == ["s0 again", "s1"]
    assert [a["id"] for a in area.attrs["acquisitions"]] == ["s0 again", "s1"]


def test_a_superseded_look_in_a_longer_cube_is_not_composited(tmp_path: Path) -> None:
    """A composite over both cubes takes the reprocessed scene once, and the other date from the older cube."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    run(root, scenes[:2], "period")
    newer = look(tmp_path / "files", "s0 again", "2025-05-10T10:10:32", 1500, "03.01")
    run(root, [newer], "period")
    days = ((date(2025, 5, 1), date(2025, 8, 31)),)
    area = Geometry(TILE.json, "EPSG:4326")
    (unit,) = periods.plan(versions.current(Ledger(root), "sentinel-2"), area, ["sentinel-2"], days, "median").units
    assert [look.scene for look in unit.looks] == ["s0 again", "s1"]
    assert len({look.cube for look in unit.looks}) == 2


def test_only_what_nobody_needs_is_removed(tmp_path: Path) -> None:
    """While maps derive from them superseded cubes stay; told so, maps, model and cubes go, and the latest stays."""
    root, may, july, newer = reprocessed(tmp_path)
    ledger = Ledger(root)
    assert removable(ledger, stale(ledger, [newer])) == []
    assert removable(ledger, stale(ledger, [newer]), derived_too=True) == [
        ("maps", "landcover_a"),
        ("maps", "landcover_b"),
        ("models", "prune_a"),
    ]
    _, items = run(root, [newer, look(tmp_path / "files", "s2", "2025-07-05T10:10:31", 3000)])
    known = stale(ledger)
    assert removable(ledger, known) == []
    going = removable(ledger, known, derived_too=True)
    assert going[-2:] == [("cubes", i) for i in sorted((may, july))]
    assert len(going) == 5
    with pytest.raises(CubeError, match="a latest version lists"):
        remove(ledger, [("cubes", items[0]["id"])])
    remove(ledger, going)
    assert sorted(i["id"] for _, i in ledger.items("cubes")) == sorted(i["id"] for i in items)
    assert list(ledger.items("maps")) == list(ledger.items("models")) == []
    assert open_area(root, "sentinel-2").attrs["scenes"] == ["s0 again", "s2"]
    assert stale(ledger) == {}


def test_a_superseded_cube_that_nothing_derives_from_goes(tmp_path: Path) -> None:
    """One more scene in July: July's older cube is listed by no latest version, and only it is removable."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    first, _ = run(root, scenes)
    run(root, [*scenes, look(tmp_path / "files", "s4", "2025-07-25T10:10:31", 5000)])
    ledger = Ledger(root)
    old = units_of(first)["2025-07-01/2025-07-31"]
    assert removable(ledger, stale(ledger)) == [("cubes", old)]
    remove(ledger, [("cubes", old)])
    assert not (root / "cubes" / old).exists()
    with pytest.raises(CubeError, match="gone"):
        open_version(ledger.item_path("versions", first["id"]))


def test_a_half_written_cube_in_the_catalogue_is_never_listed(tmp_path: Path) -> None:
    """Somebody's unfinished store without an item: versions, areas and staleness do not see it, a reader is refused."""
    root, scenes = tmp_path / "catalog", season(tmp_path / "files")
    version, items = run(root, scenes)
    whole = root / "cubes" / items[0]["id"] / "attempt-1" / "cube.zarr"
    half = root / "cubes" / "sentinel-2_half" / "attempt-1" / "cube.zarr"
    shutil.copytree(whole, half)
    text = json.loads((half / "zarr.json").read_text())
    del text["attributes"]["ringmoe_cube"]
    (half / "zarr.json").write_text(json.dumps(text))
    with pytest.raises(CubeError, match="begun and not finished"):
        cube.open(half)
    with pytest.raises(CubeError, match="something lies where"):
        cube.create(half, cube.open(whole))
    assert run(root, scenes)[0] == version
    assert open_area(root, "sentinel-2").sizes["time"] == 4
    assert stale(Ledger(root)) == {}


def test_a_composite_is_the_same_however_the_calendar_is_cut(tmp_path: Path) -> None:
    """The median over May to August of months' cubes is that of the whole period's cube, to the bit."""
    from flows.ingest import reference_of
    from flows.refs import Area, Period
    from flows.select import composites

    area, period = Area(geometry=TILE.json), Period.model_validate({"start": "2025-05-01", "end": "2025-08-31"})
    found = {}
    for every in ("month", "period"):
        root = tmp_path / every
        _, items = run(root, season(tmp_path / "files"), every)  # type: ignore[arg-type]
        refs = [reference_of(i, Ledger(root).item_path("cubes", i["id"]), fresh=True) for i in items]
        (found[every],) = composites(refs, area, period)
        assert len(refs) == {"month": 3, "period": 1}[every]
    np.testing.assert_array_equal(found["month"]["data"].values, found["period"]["data"].values)
    np.testing.assert_array_equal(found["month"]["looks"].values, found["period"]["looks"].values)
    assert float(np.nanmax(found["month"]["looks"].values)) == 4
    assert found["month"].attrs["period"] == found["period"].attrs["period"]
