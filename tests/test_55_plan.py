"""`ringmoe plan` against what `ringmoe ingest` then makes: cubes and scenes to the count, gigabytes to a quarter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import ringmoe

from catalog import sandbox

pytestmark = pytest.mark.xdist_group("plan")
WHERE = ("--tile", "640")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registered sandbox of two by two tiles in each region."""
    place = tmp_path_factory.mktemp("plan") / "home"
    sandbox.write(place / "sandbox", size_px=128)
    heights = [word for path in sorted(place.glob("sandbox/dem/*.tif")) for word in ("--dem", str(path))]
    done = ringmoe(place, "register", str(place / "sandbox" / "products"), *heights)
    assert done.code == 0, done.said
    return place


def _planned(home: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = ringmoe(home, "plan", *WHERE, *words, "--json", str(home / "plan.json"))
    assert done.code == 0, done.said
    return {f["sensor"]: f for f in json.loads((home / "plan.json").read_text())}


def _on_disk(home: Path) -> dict[str, tuple[int, int]]:
    """Per sensor: cubes, and bytes of their stores as they lie on disk."""
    found: dict[str, tuple[int, int]] = {}
    for path in (home / "catalog" / "cubes").glob("*/*.json"):
        item = json.loads(path.read_text())
        store = path.parent / item["assets"]["cube"]["href"]
        size = sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
        sensor = item["properties"]["ringmoe:sensor"]
        count, held = found.get(sensor, (0, 0))
        found[sensor] = (count + 1, held + size)
    return found


def test_the_plan_is_what_the_ingest_makes(home: Path) -> None:
    """Before, with a pilot, and after: counts exact, gigabytes within 25 % once a pilot has measured, nothing twice."""
    before = _planned(home)
    assert {f["done"] for f in before.values()} == {0}
    assert not any(f["measured"] or f["seconds"] for f in before.values())
    piloted = _planned(home, "--pilot")
    for sensor, told in piloted.items():
        assert told["units"] == before[sensor]["units"]
        assert told["scenes"] == before[sensor]["scenes"]
        assert told["done"] == min(2, told["units"])
        low, high = told["seconds"]
        assert (low > 0) == (told["done"] < told["units"])
        assert high >= low
    done = ringmoe(home, "ingest", *WHERE)
    assert done.code == 0, done.said
    made = _on_disk(home)
    for sensor, (count, size) in made.items():
        assert count == piloted[sensor]["units"]
        assert size / 1e9 == pytest.approx(piloted[sensor]["gigabytes"], rel=0.25), sensor
    after = _planned(home)
    assert all(f["done"] == f["units"] for f in after.values())
    for sensor, (_, size) in made.items():
        assert after[sensor]["gigabytes"] == pytest.approx(size / 1e9, rel=1e-6)
