"""The sensor table: complete rows, its page, and agreement with items of real catalogues."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sensor_table import reference

from catalog.formats import format_named
from catalog.sensors import PROVIDERS, SENSORS, Sensor

REAL = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[2] / "shared" / "realdata"))
ROWS = tuple(SENSORS.values())


def test_the_page_of_the_catalogue_is_the_table(root: Path) -> None:
    """catalog/README.md says what the table says; the message is what to paste."""
    page = reference()
    assert (root / "catalog" / "README.md").read_text() == page, f"paste into catalog/README.md:\n{page}"


@pytest.mark.parametrize("row", ROWS, ids=lambda s: s.id)
def test_a_row_says_all_of_an_instrument(row: Sensor) -> None:
    """Platforms, bands with wavelength or frequency, encoding, a local collection, a licence, traps with links."""
    assert row.platforms or row.id.startswith("sentinel-1"), "an item of the same satellite finds another row"
    assert row.licence
    assert row.encoding
    assert row.collections["local"]
    assert set(row.collections) <= set(PROVIDERS)
    assert set(row.assets) <= set(row.collections)
    assert row.traps
    assert all("https://" in trap for trap in row.traps)
    for band in row.bands:
        optical = band.centre_nm is not None and band.width_nm is not None and band.common_name != ""
        radar = band.frequency_ghz is not None and band.polarisation is not None
        assert optical != radar, band
        assert band.gsd_m > 0
        assert row.band(band.common_name or band.name) == band
    for provider in row.assets:
        assert set(row.assets[provider]) <= {b.name for b in row.bands}
    for name in row.formats:
        assert callable(format_named(name).products)


@pytest.mark.parametrize("row", ROWS, ids=lambda s: s.id)
def test_quality_layers_of_a_row_hang_together(row: Sensor) -> None:
    """The layer read first is one of those described; bits and values fit their pixels."""
    names = [q.name for q in row.quality_layers]
    assert len(names) == len(set(names))
    assert row.quality_layer is None or not names or row.quality_layer in names
    for layer in row.quality_layers:
        assert layer.meanings
        assert max(layer.meanings) <= {"bits": 15, "classes": 255, "bands": 8}[layer.kind]


def test_no_platform_belongs_to_two_rows_of_one_collection() -> None:
    """An item finds its row by platform; rows that share one differ in their local collections."""
    seen: dict[tuple[str, str], str] = {}
    for row in ROWS:
        for platform in row.platforms:
            for name in row.collections["local"]:
                assert (platform, name) not in seen, f"{platform} and {name} are of {seen[platform, name]} and {row.id}"
                seen[platform, name] = row.id


def test_irradiance_differs_between_the_satellites_of_a_row() -> None:
    """WorldView-2's red is 1538.85 W m-2 um-1, WorldView-3's 1535.33; an unknown satellite has the row's."""
    row = SENSORS["worldview"]
    assert [row.irradiance_of(p, "R") for p in ("worldview-2", "worldview-3")] == [1538.85, 1535.33]
    assert SENSORS["cbers-4a"].irradiance_of("cbers-4a", "N") == 981.91
    assert SENSORS["sentinel-2"].irradiance_of("sentinel-2a", "B04") is None


def _items(name: str) -> list[dict[str, Any]]:
    held = json.loads((REAL / "stac_items" / "extracted" / name).read_text())
    found = held if isinstance(held, list) else held.get("features", [held])
    return [i for i in found if "assets" in i]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real items are not at {REAL}")
@pytest.mark.parametrize(
    ("file", "sensor", "provider", "missing"),
    [
        ("sentinel-2-c1-l2a.json", "sentinel-2", "earth-search", {"B10"}),
        ("sentinel-2-l1c.json", "sentinel-2", "earth-search", set()),
        ("landsat-c2-l2.json", "landsat", "planetary-computer", set()),
    ],
)
def test_assets_of_real_items_are_where_the_table_says(
    file: str, sensor: str, provider: str, missing: set[str]
) -> None:
    """Every band of a real catalogue's item is found by the asset key of its row, and so are the quality layers."""
    row = SENSORS[sensor]
    items = _items(file)
    assert items
    for item in items:
        assert item["properties"]["platform"] in row.platforms
        assert item["collection"] in row.collections[provider]
        absent = {b.name for b in row.bands if row.asset(provider, b.name) not in item["assets"]}
        assert absent == missing
        if "l1c" not in file:
            assert all(q.assets[provider] in item["assets"] for q in row.quality_layers)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real items are not at {REAL}")
def test_an_item_of_earth_search_names_each_band_as_the_table_does() -> None:
    """eo:bands of a real Sentinel-2 item: the asset blue is B02 and rededge1 is B05."""
    row = SENSORS["sentinel-2"]
    item = _items("sentinel-2-l1c.json")[0]
    named = {item["assets"][row.asset("earth-search", b.name)]["eo:bands"][0]["name"]: b.name for b in row.bands}
    assert all(theirs == ours for theirs, ours in named.items())
