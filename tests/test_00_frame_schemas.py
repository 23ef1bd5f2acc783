"""The kept schemas are sound, and validation without a network says no where it should."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

SCHEMAS = sorted((Path(__file__).parent / "schemas").glob("*.json"))
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"


@pytest.fixture
def item_with_projection() -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [PROJECTION],
        "id": "somewhere",
        "geometry": {"type": "Point", "coordinates": [12.5, 41.9]},
        "bbox": [12.5, 41.9, 12.5, 41.9],
        "properties": {"datetime": "2026-06-01T10:00:00Z", "proj:code": "EPSG:32633"},
        "links": [],
        "assets": {},
    }


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_each_kept_schema_is_a_schema_and_is_listed(path: Path) -> None:
    """A kept file is valid JSON Schema and SOURCES.md names it with its licence."""
    Draft7Validator.check_schema(json.loads(path.read_text()))
    assert path.name in (path.parent / "SOURCES.md").read_text()


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_each_kept_schema_resolves_without_a_network(path: Path, schema_registry: Any) -> None:
    """Every reference out of a kept schema leads to a kept schema."""
    for reference in outer_references(json.loads(path.read_text())):
        schema_registry.resolver().lookup(reference)


def outer_references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [ref for part in node for ref in outer_references(part)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if str(node.get("$ref", "#")).startswith("http") else []
    return own + [ref for part in node.values() for ref in outer_references(part)]


def test_a_sound_item_passes(validate_offline: Callable[[Any], None], item_with_projection: dict[str, Any]) -> None:
    """An item that keeps to STAC 1.1.0 and its extension passes, as a dict and as a pystac item."""
    import pystac

    validate_offline(item_with_projection)
    validate_offline(pystac.Item.from_dict(copy.deepcopy(item_with_projection)))


def test_a_broken_field_fails(validate_offline: Callable[[Any], None], item_with_projection: dict[str, Any]) -> None:
    """A field that breaks its extension's schema is named."""
    item_with_projection["properties"]["proj:code"] = 32633
    with pytest.raises(pytest.fail.Exception, match="proj:code"):
        validate_offline(item_with_projection)


def test_an_unknown_extension_fails(
    validate_offline: Callable[[Any], None], item_with_projection: dict[str, Any]
) -> None:
    """An extension whose schema is not kept is an error, not a silence."""
    item_with_projection["stac_extensions"] = [PROJECTION.replace("v2.0.0", "v9.9.9")]
    with pytest.raises(Exception, match=r"v9\.9\.9"):
        validate_offline(item_with_projection)
