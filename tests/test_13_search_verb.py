"""`ringmoe search` asks providers in order, keeps what they answered, and tells who answered and what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import tiny_products as tiny
from stac_faults import Faulty, sentinel2, serving
from typer.testing import CliRunner, Result

from catalog.errors import CatalogError
from catalog.providers import Provider
from catalog.register import register
from flows.cli import app

PERIOD = ("--from", "2024-05-01", "--to", "2024-06-30")
BOX = ("--bbox", "11.2,46.2,11.8,46.8", "--sensor", "sentinel-2")
BOTH = ("--provider", "earth-search", "--provider", "planetary-computer")


def search(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["search", "--home", str(home), *PERIOD, *words, "--json", str(home / "found.json")])


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two providers on this machine; the second has one overpass more, and another across the antimeridian."""
    days = ("2024-05-03", "2024-05-06", "2024-06-02")
    first = [sentinel2(f"one-{day}", f"{day}T10:20:31Z") for day in days[:2]]
    second = [{**sentinel2(f"two-{day}", f"{day}T10:12:00Z"), "collection": "sentinel-2-l2a"} for day in days]
    fiji = sentinel2("fiji", "2024-06-02T22:00:00Z", tile="01KAB", bbox=(-179.5, -17, -178.5, -16))
    with serving(Faulty([*first, fiji])) as one, serving(Faulty(second)) as other:
        table = {
            "earth-search": Provider("earth-search", one.url),
            "planetary-computer": Provider("planetary-computer", other.url),
        }
        monkeypatch.setattr("flows.stac.PROVIDERS", MappingProxyType(table))
        yield one, other


def told(home: Path) -> dict[str, Any]:
    return json.loads((home / "found.json").read_text())


def ids(home: Path) -> list[str]:
    return [row["id"] for row in told(home)["scenes"]]


def test_providers_are_asked_filled_kept_and_replayed(two: Any, tmp_path: Path) -> None:
    """Two months of the first, the gap filled from the second; the same again without asking anybody."""
    options = (*BOX, "--provider", "earth-search", "--fill", "planetary-computer")
    done = search(tmp_path, *options)
    assert done.exit_code == 0, done.output
    assert ids(tmp_path) == ["one-2024-05-03", "one-2024-05-06", "two-2024-06-02"]
    by = [row["provider"] for row in told(tmp_path)["scenes"]]
    assert by == ["earth-search", "earth-search", "planetary-computer"]
    assert [row["provider"] for row in told(tmp_path)["answers"]] == ["earth-search"] * 2 + ["planetary-computer"] * 2
    assert told(tmp_path)["verified"]
    asked = [len(server.seen) for server in two]
    for words in ((), ("--offline",)):
        again = search(tmp_path, *options, *words)
        assert again.exit_code == 0, again.output
        assert again.output == done.output
    assert [len(server.seen) for server in two] == asked
    assert len(list((tmp_path / "searches").glob("*.json"))) == 4


def test_a_gap_report_lists_and_does_not_fill(two: Any, tmp_path: Path) -> None:
    """What the second has beyond the first: platform, time, place and id; the scenes stay the first's."""
    done = search(tmp_path, *BOX, "--provider", "earth-search", "--gaps", "planetary-computer")
    assert done.exit_code == 0, done.output
    assert "Only planetary-computer has" in done.output
    assert ids(tmp_path) == ["one-2024-05-03", "one-2024-05-06"]
    gap = ["planetary-computer", "sentinel-2a", "2024-06-02T10:12:00+00:00", "32TPS", "two-2024-06-02"]
    assert told(tmp_path)["gaps"] == [gap]


def test_the_next_provider_steps_in_and_the_reason_is_told(two: Any, tmp_path: Path) -> None:
    """In the order named: the first answers 400 to all, the second's scenes come, and why is said."""
    two[0].faults = lambda number, path: "400"
    done = search(tmp_path, *BOX, *BOTH)
    assert done.exit_code == 0, done.output
    assert ids(tmp_path) == ["two-2024-05-03", "two-2024-05-06", "two-2024-06-02"]
    assert "Did not answer" in done.output
    assert all("400" in row["failures"]["earth-search"] for row in told(tmp_path)["answers"])
    turned = search(tmp_path, *BOX, *BOTH[2:], *BOTH[:2])
    assert turned.exit_code == 0
    assert all(not row["failures"] for row in told(tmp_path)["answers"])


def test_a_box_across_the_antimeridian_is_searched(two: Any, tmp_path: Path) -> None:
    """West beyond east, from the terminal; both halves are asked for."""
    done = search(tmp_path, "--bbox=178,-18,-178,-15", "--sensor", "sentinel-2", *BOTH[:2])
    assert done.exit_code == 0, done.output
    assert ids(tmp_path) == ["fiji"]
    places = [body["intersects"]["type"] for body in two[0].pages()]
    assert places == ["MultiPolygon"] * 2


def test_duplicates_and_what_cannot_be_read_are_told(two: Any, tmp_path: Path) -> None:
    """An older baseline is left out with the step that decided; a lying item is listed and ends with an error."""
    old = sentinel2("old", "2024-05-03T10:20:31Z", **{"s2:processing_baseline": "04.00"})
    lying = sentinel2("lying", "2024-05-09T10:20:31Z", **{"proj:epsg": 32645})
    two[0].items = [*two[0].items, old, lying]
    done = search(tmp_path, *BOX, *BOTH[:2])
    assert isinstance(done.exception, CatalogError)
    assert "1 items cannot be read as scenes; everything else is done" in done.exception.what
    assert done.exception.item == "sentinel-2-c1-l2a/lying"
    assert "EPSG:32632, in whose zone it lies" in done.exception.enough
    assert ids(tmp_path) == ["one-2024-05-03", "one-2024-05-06"]
    assert told(tmp_path)["duplicates"] == [{"kept": "one-2024-05-03", "dropped": ["old"], "why": "baseline"}]
    assert "a grid does not fit its zone: EPSG:32645" in told(tmp_path)["unreadable"][0][1]
    assert "One of each overpass" in done.output


def test_a_registered_item_that_lies_does_not_hide_the_others(tmp_path: Path) -> None:
    """Three Landsat scenes, one without a CRS: two are found, the third is named, and the code is no 0."""
    for day in (1, 2, 3):
        folder = tmp_path / "products" / f"landsat{day}"
        folder.mkdir(parents=True)
        tiny.landsat(folder, date=f"2021-07-{day:02d}")
    register(tmp_path / "products", tmp_path / "scenes")
    path = next(tmp_path.glob("scenes/*/*20210702*/*.json"))
    item = json.loads(path.read_text())
    item["properties"].pop("proj:code", None)
    for asset in item["assets"].values():
        asset.pop("proj:code", None)
    path.write_text(json.dumps(item))
    words = ["search", "--home", str(tmp_path), "--sensor", "landsat", "--json", str(tmp_path / "found.json")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, CatalogError)
    assert "an item names no CRS for its pixels" in done.exception.enough
    assert [row["time"][:10] for row in told(tmp_path)["scenes"]] == ["2021-07-01", "2021-07-03"]
    assert {row["provider"] for row in told(tmp_path)["scenes"]} == {"local"}
    assert path.stem in told(tmp_path)["unreadable"][0][0]


def test_an_unknown_provider_is_refused(tmp_path: Path) -> None:
    """It names those there are."""
    done = search(tmp_path, "--bbox", "11,46,12,47", "--provider", "nasa")
    assert isinstance(done.exception, CatalogError)
    assert "there is no provider nasa" in done.exception.what
    assert "local, earth-search" in done.exception.enough
