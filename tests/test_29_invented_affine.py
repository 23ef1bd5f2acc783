"""An affine on a radar product is refused where it shows: in a catalogue that is searched, in a scene that is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pystac
import pytest
import tiny_products as tiny
from own_scenes import search

from catalog.errors import GeolocationError, NothingFound
from catalog.geocode.affine import invented
from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene
from catalog.serve import served


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of one Sentinel-1 GRD."""
    folder = tmp_path_factory.mktemp("affine")
    (folder / "products").mkdir()
    tiny.sentinel1(folder / "products")
    assert register(folder / "products", folder / "catalog").failed == ()
    return folder / "catalog"


def item_path(root: Path) -> Path:
    return next(p for p in root.glob("*/*/*.json") if "S1A" in p.name)


def with_fields(item: dict[str, Any], **fields: Any) -> dict[str, Any]:
    item["assets"]["VV"].update(fields)
    return item


def made_up(item: dict[str, Any]) -> list[float]:
    """The bounding box over the shape."""
    west, south, east, north = item["bbox"]
    rows, columns = item["assets"]["VV"]["proj:shape"]
    return [(east - west) / columns, 0.0, west, 0.0, -(north - south) / rows, north]


def test_a_true_item_is_found_and_placed(root: Path) -> None:
    """Nothing is claimed, and the scene is read."""
    with served(root) as url:
        (found,) = search(url, sensors=["sentinel-1"])
    assert found.bands["VV"].transform is None
    assert read_native(found, ["VV"]).shape[1:] == found.bands["VV"].shape


def test_a_search_refuses_an_invented_affine(root: Path, tmp_path: Path) -> None:
    """The error names the item and says where such an affine is from."""
    path = item_path(root)
    before = path.read_text()
    try:
        item = json.loads(before)
        path.write_text(json.dumps(with_fields(item, **{"proj:transform": made_up(item), "proj:code": "EPSG:4326"})))
        with served(root) as url, pytest.raises(NothingFound, match="no provider has a scene of sentinel-1") as caught:
            search(url, sensors=["sentinel-1"])
    finally:
        path.write_text(before)
    assert path.stem in caught.value.item
    assert "bounding box divided by its shape" in caught.value.item
    assert all((caught.value.enough, caught.value.todo))


def test_reading_refuses_an_affine_and_a_turned_shape(root: Path) -> None:
    """A scene whose item claims an affine, and one whose shape has rows and columns exchanged."""
    item = pystac.Item.from_file(str(item_path(root)))
    scene = Scene.from_item(item)
    source = scene.bands["VV"]
    assert source.shape is not None
    affine = tuple(made_up(item.to_dict()))
    for changed, told in (
        (dataclasses.replace(source, transform=affine), "bounding box divided by its shape"),
        (dataclasses.replace(source, transform=(10.0, 0.0, 5e5, 0.0, -10.0, 4e6)), "gives an affine"),
        (dataclasses.replace(source, shape=source.shape[::-1]), "rows and columns are exchanged"),
    ):
        lying = dataclasses.replace(scene, bands={"VV": changed})
        with pytest.raises(GeolocationError, match=told) as caught:
            read_native(lying)
        assert all((caught.value.item, caught.value.enough, caught.value.todo))


def test_a_true_affine_does_not_look_invented() -> None:
    """A UTM raster's own affine over its bounds in degrees, and a rotated one."""
    assert not invented((10.0, 0.0, 600_000.0, 0.0, -10.0, 4_600_000.0), (100, 100), (11.0, 41.0, 11.01, 41.01))
    assert not invented((0.1, 0.01, 1.0, 0.01, -0.1, 2.0), (10, 10), (1.0, 1.0, 2.0, 2.0))
    assert invented((0.1, 0.0, 1.0, 0.0, -0.1, 2.0), (10, 10), (1.0, 1.0, 2.0, 2.0))
