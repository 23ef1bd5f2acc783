"""`ringmoe search --provider` asks public providers, keeps what they answered and fills what one lacks."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from stac_faults import Faulty, sentinel2, serving
from typer.testing import CliRunner, Result

from catalog.providers import Provider
from flows.cli import app

PERIOD = ("--from", "2024-05-01", "--to", "2024-06-30")


def search(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["search", "--home", str(home), *PERIOD, *words])


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two providers on this machine; the second has one overpass more, and another across the antimeridian."""
    days = ("2024-05-03", "2024-05-06", "2024-06-02")
    first = [sentinel2(f"one-{day}", f"{day}T10:20:31Z") for day in days[:2]]
    second = [{**sentinel2(f"two-{day}", f"{day}T10:12:00Z"), "collection": "sentinel-2-l2a"} for day in days]
    fiji = sentinel2("fiji", "2024-06-02T22:00:00Z", tile="01KAB", bbox=(-179.5, -17, -178.5, -16))
    with serving(Faulty([*first, fiji])) as one, serving(Faulty(second)) as other:
        table = {"earth-search": Provider("earth-search", one.url), "planetary-computer": None}
        table["planetary-computer"] = Provider("planetary-computer", other.url)
        monkeypatch.setattr("flows.asking.PROVIDERS", MappingProxyType(table))
        yield one, other


def ids(path: Path) -> list[str]:
    return [row["id"] for row in json.loads(path.read_text())]


def test_providers_are_asked_filled_kept_and_replayed(two: Any, tmp_path: Path) -> None:
    """Two months of the first, the gap filled from the second, then the same again without asking anybody."""
    options = ("--bbox", "11.2,46.2,11.8,46.8", "--provider", "earth-search", "--fill", "planetary-computer")
    kept = ("--keep", str(tmp_path / "kept"), "--json", str(tmp_path / "found.json"))
    done = search(tmp_path, *options, *kept)
    assert done.exit_code == 0, done.output
    assert ids(tmp_path / "found.json") == ["one-2024-05-03", "one-2024-05-06", "two-2024-06-02"]
    assert "Only planetary-computer has" in done.output
    assert "32TPS" in done.output
    asked = [len(server.seen) for server in two]
    again = search(tmp_path, *options, *kept, "--offline")
    assert again.exit_code == 0, again.output
    assert again.output == done.output
    assert [len(server.seen) for server in two] == asked


def test_a_box_across_the_antimeridian_is_searched(two: Any, tmp_path: Path) -> None:
    """West beyond east, from the terminal."""
    done = search(tmp_path, "--bbox=178,-18,-178,-15", "--provider", "earth-search", "--json", str(tmp_path / "x.json"))
    assert done.exit_code == 0, done.output
    assert ids(tmp_path / "x.json") == ["fiji"]


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    """--keep without --provider; a provider that nobody knows."""
    assert search(tmp_path, "--bbox", "11,46,12,47", "--keep", "x").exit_code == 2
    unknown = search(tmp_path, "--bbox", "11,46,12,47", "--provider", "nasa")
    assert unknown.exit_code != 0
    assert "there is no provider nasa" in str(unknown.exception)
