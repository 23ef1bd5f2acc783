"""A search goes part by part: each is kept once, resumed after a kill, replayed without a network."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import rustac
from stac_faults import Faulty, sentinel2, serving, year_of_scenes

from catalog.errors import CatalogError, ServiceError, StorageFull
from catalog.patience import Patience
from catalog.providers import Provider, at, registered
from catalog.search import Asking, Query, discover
from catalog.search.area import instant, months
from catalog.search.frozen import VERBATIM, Part, freeze, thaw

BOX = (11.2, 46.2, 11.8, 46.8)
YEAR = Query(("sentinel-2",), bbox=BOX, start="2024-01-01", end="2024-12-31")
QUICK = Patience(retries=2, first_wait_s=0.001, longest_wait_s=0.01)


def asking(api: Faulty, keep: Path | None, **more: Any) -> Asking:
    return Asking((Provider("earth-search", api.url, page=10),), keep, patience=QUICK, **more)


def test_a_year_is_twelve_parts_that_share_their_borders() -> None:
    """Months by the calendar, the first and last as long as the period lets them, no instant between two."""
    parts = months(instant("2024-01-15"), instant("2024-12-31", closing=True))
    assert len(parts) == 12
    assert parts[0] == (datetime(2024, 1, 15, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
    assert all(one[1] == other[0] for one, other in pairwise(parts))
    assert parts[-1][1] == instant("2024-12-31", closing=True)
    assert len(months(instant("2023-11-05"), instant("2024-02-10"), 3)) == 2
    assert months(None, instant("2024-02-10")) == ((None, instant("2024-02-10")),)


def test_a_scene_on_the_border_of_two_parts_is_found_once(tmp_path: Path) -> None:
    """Taken at the first instant of a month: both parts hold it, the result holds it once."""
    items = [sentinel2("edge", "2024-02-01T00:00:00Z"), sentinel2("inside", "2024-02-03T10:00:00Z")]
    with serving(Faulty(items)) as api:
        found = discover(replace(YEAR, end="2024-02-29"), asking(api, tmp_path))
    assert [len(p.items) for p in found.parts] == [1, 2]
    assert [s.id for s in found.scenes] == ["edge", "inside"]


def test_a_replay_without_a_network_has_the_same_ids_order_and_content(tmp_path: Path) -> None:
    """Twelve parts kept, the server gone: item for item the same dicts, microseconds and floats included."""
    items = year_of_scenes()
    with serving(Faulty(items)) as api:
        first = discover(YEAR, asking(api, tmp_path))
    again = discover(YEAR, asking(api, tmp_path, offline=True))
    assert [item for part in again.parts for item in part.items] == items
    assert again.parts == first.parts
    assert again.scenes == first.scenes
    assert [s.id for s in again.scenes] == [item["id"] for item in items]
    assert json.dumps(again.record()) == json.dumps(first.record())


def test_kept_parts_are_tables_that_others_read(tmp_path: Path) -> None:
    """Each is stac-geoparquet: another reader finds ids, footprints and properties in its columns."""
    with serving(Faulty(year_of_scenes())) as api:
        found = discover(YEAR, asking(api, tmp_path))
    table = rustac.read_sync(str(tmp_path / f"{found.parts[2].name}.parquet"))["features"]
    assert [row["id"] for row in table] == [item["id"] for item in found.parts[2].items]
    assert table[0]["geometry"]["type"] == "Polygon"
    assert table[0]["properties"]["eo:cloud_cover"] == 12.3456789
    assert json.loads(table[0]["properties"][VERBATIM]) == found.parts[2].items[0]


def test_a_finished_part_is_not_asked_for_again(tmp_path: Path) -> None:
    """The server dies in the eighth month: the second run asks for the last five months only."""
    items = year_of_scenes()
    told: list[tuple[str, bool]] = []

    def note(part: Part, replayed: bool) -> None:
        told.append((part.name.split("-")[2][:6], replayed))

    with serving(Faulty(items)) as api:
        api.faults = lambda number, path: "502" if len(api.pages()) >= 14 else "ok"
        with pytest.raises(ServiceError, match="no provider answers a part") as caught:
            discover(YEAR, asking(api, tmp_path))
    done = len(list(tmp_path.glob("*.json")))
    assert caught.value.todo.endswith("finished parts are kept, and --offline replays them")
    assert 0 < done < 12
    with serving(Faulty(items)) as api:
        found = discover(YEAR, asking(api, tmp_path, told=note))
    assert [replayed for _, replayed in told] == [True] * done + [False] * (12 - done)
    assert {body["datetime"][:7] for body in api.pages()} == {f"2024-{m:02d}" for m in range(done + 1, 13)}
    assert [s.id for s in found.scenes] == [item["id"] for item in items]


SEARCH = """
import sys
from pathlib import Path
from catalog.providers import Provider
from catalog.search import Asking, Query, discover
query = Query(("sentinel-2",), bbox=(11.2, 46.2, 11.8, 46.8), start="2024-01-01", end="2024-12-31")
discover(query, Asking((Provider("earth-search", sys.argv[1], page=10),), Path(sys.argv[2])))
"""


def test_a_killed_search_resumes_with_the_missing_parts_only(tmp_path: Path, root: Path) -> None:
    """SIGKILL in the middle: whole parts and no others are there, and the next run asks for what they lack."""
    items = year_of_scenes()
    keep = tmp_path / "kept"
    killed = threading.Event()

    def fate(number: int, path: str) -> str:
        if len(list(keep.glob("s*.json"))) >= 10:
            killed.wait(300)
        return "slow"

    with serving(Faulty(items, fate)) as api:
        environment = {**os.environ, "PYTHONPATH": str(root)}
        process = subprocess.Popen([sys.executable, "-c", SEARCH, api.url, str(keep)], env=environment)
        until = time.monotonic() + 300
        while len(list(keep.glob("s*.json"))) < 4 and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.set()
        done = {path.stem for path in keep.glob("s*.json")}
    assert 4 <= len(done) < 12
    with serving(Faulty(items)) as api:
        found = discover(YEAR, asking(api, keep))
    assert len({body["datetime"] for body in api.pages()}) == 12 - len(done)
    assert [item for part in found.parts for item in part.items] == items


def test_one_folder_keeps_the_parts_of_any_number_of_searches(tmp_path: Path) -> None:
    """Another area is asked for beside the first; a longer period asks for its new months only; all are replayed."""
    with serving(Faulty(year_of_scenes())) as api:
        spring = replace(YEAR, end="2024-04-30")
        discover(spring, asking(api, tmp_path))
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        discover(replace(spring, bbox=(11.2, 46.2, 11.9, 46.8)), asking(api, tmp_path))
        asked = len(api.pages())
        discover(YEAR, asking(api, tmp_path))
        assert {body["datetime"][:7] for body in api.pages()[asked:]} == {f"2024-{m:02d}" for m in range(4, 13)}
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(discover(YEAR, asking(api, tmp_path, offline=True)).scenes) == 120
    assert len(discover(spring, asking(api, tmp_path, offline=True)).scenes) < 120


def test_a_part_that_may_still_grow_is_asked_again(tmp_path: Path) -> None:
    """Asked within its period, or within 30 days of its end: the next search sees what came since. Later it stands."""
    items = year_of_scenes(10)
    january = replace(YEAR, end="2024-01-31")
    told: list[bool] = []

    def search(api: Faulty, day: str, **more: Any) -> int:
        now = datetime.fromisoformat(f"{day}T00:00:00+00:00")
        how = asking(api, tmp_path, clock=lambda: now, told=lambda part, replayed: told.append(replayed), **more)
        return len(discover(january, how).scenes)

    with serving(Faulty(items[:4])) as api:
        assert search(api, "2024-01-15") == 4
        api.items = items[:7]
        assert search(api, "2024-01-16") == 7
        assert search(api, "2024-02-10") == 7
        api.items = items[:9]
        assert search(api, "2024-02-11", offline=True) == 7
        assert search(api, "2024-03-05") == 9
        api.items = items
        assert search(api, "2025-03-05") == 9
        assert search(api, "2025-03-05", anew=True) == 10
        assert search(api, "2025-03-06") == 10
    assert told == [False, False, False, True, False, True, False, True]


def test_a_catalogue_of_our_own_is_never_replayed_in_place_of_an_answer(tmp_path: Path) -> None:
    """Registered here: nothing is kept. A team's API: kept for a day without a network, asked whenever there is one."""
    items = [i | {"collection": "sentinel-2-l2a"} for i in year_of_scenes(10)]
    old = replace(YEAR, end="2024-01-31")
    with serving(Faulty(items[:5])) as api:
        here = Asking((registered(api.url),), tmp_path / "here", patience=QUICK)
        team = Asking((at("local", api.url),), tmp_path / "team", patience=QUICK)
        assert [len(discover(old, how).scenes) for how in (here, team)] == [5, 5]
        api.items = items
        assert [len(discover(old, how).scenes) for how in (here, team)] == [10, 10]
        asked = len(api.seen)
        assert len(discover(old, replace(team, offline=True)).scenes) == 10
        assert len(api.seen) == asked
        assert len(discover(old, replace(here, offline=True)).scenes) == 10
    assert not (tmp_path / "here").exists()


def test_a_damaged_part_is_refused_and_an_unfinished_one_is_asked_anew(tmp_path: Path) -> None:
    """A changed table is told; a table without its record, as a kill leaves it, counts for nothing."""
    items = year_of_scenes()
    with serving(Faulty(items)) as api:
        parts = discover(YEAR, asking(api, tmp_path)).parts
        (tmp_path / f"{parts[4].name}.json").unlink()
        asked = len(api.pages())
        discover(YEAR, asking(api, tmp_path))
        assert {body["datetime"][:7] for body in api.pages()[asked:]} == {"2024-05"}
        table = tmp_path / f"{parts[5].name}.parquet"
        table.write_bytes(table.read_bytes()[:-10])
        with pytest.raises(CatalogError, match="is damaged: its table is missing or not the one") as caught:
            discover(YEAR, asking(api, tmp_path))
        record = table.with_suffix(".json")
        record.write_text(json.dumps(json.loads(record.read_text()) | {"query": {"sensor": "other"}}))
        with pytest.raises(CatalogError, match="it answers another query"):
            discover(YEAR, asking(api, tmp_path))
        record.write_text("{")
        with pytest.raises(CatalogError, match="its record cannot be read"):
            discover(YEAR, asking(api, tmp_path))
    assert caught.value.item == str(table)
    assert "delete this part's two files" in caught.value.todo


def test_an_offline_search_names_the_part_it_lacks(tmp_path: Path) -> None:
    """No network and a part missing: which, and where."""
    with serving(Faulty(year_of_scenes())) as api:
        parts = discover(YEAR, asking(api, tmp_path)).parts
    (tmp_path / f"{parts[6].name}.json").unlink()
    with pytest.raises(ServiceError, match="was not kept, and no network") as caught:
        discover(YEAR, asking(api, tmp_path, offline=True))
    assert caught.value.item == f"{parts[6].name} in {tmp_path}"


def _part(*items: dict[str, Any]) -> Part:
    return Part("p", {"sensor": "s"}, "earth-search", items, None, False, "2026-01-01T00:00:00+00:00", failures={})


def test_items_that_no_table_suits_are_kept_all_the_same(tmp_path: Path) -> None:
    """A property of two types, no geometry, a null datetime beside a range, none at all: content stays equal."""
    one = sentinel2("one", "2024-01-01T10:00:00.123456Z", odd=1)
    two = sentinel2("two", "2024-01-02T10:00:00Z", odd="text")
    three = {**sentinel2("three", "2024-01-03T10:00:00Z", odd={"a": [1, 2.5e-17]}), "geometry": None}
    four = sentinel2("four", "2024-01-04T10:00:00Z", start_datetime="2024-01-04T09:00:00Z")
    four["properties"]["datetime"] = None
    kept = _part(one, two, three, four)
    freeze(kept, tmp_path)
    assert thaw(tmp_path, "p", {"sensor": "s"}) == kept
    empty = replace(_part(), name="empty")
    freeze(empty, tmp_path)
    assert thaw(tmp_path, "empty", {"sensor": "s"}) == empty
    assert not (tmp_path / "empty.parquet").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_items_that_no_table_can_hold_are_kept_beside_it_in_their_place(tmp_path: Path) -> None:
    """Without a time, without properties, without an address: the record holds them, order and content stay."""
    items = [sentinel2(name, "2024-01-01T10:00:00Z") for name in ("timeless", "a", "bare", "b", "lost")]
    items[0]["properties"]["datetime"] = None
    items[2] = {"type": "Feature", "id": "bare", "collection": "c"}
    del items[4]["assets"]["red"]["href"]
    kept = _part(*items)
    freeze(kept, tmp_path)
    assert thaw(tmp_path, "p", {"sensor": "s"}) == kept
    assert len(rustac.read_sync(str(tmp_path / "p.parquet"))["features"]) == 2


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the table: an error in four parts, no file of that part, earlier parts as they were."""
    first = _part(sentinel2("one", "2024-01-01T10:00:00Z"))
    freeze(first, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(path: str, rows: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("catalog.search.frozen.rustac.write_sync", full)
    with pytest.raises(StorageFull) as caught:
        freeze(replace(first, name="q"), tmp_path)
    assert caught.value.item == str(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert thaw(tmp_path, "p", {"sensor": "s"}) == first
