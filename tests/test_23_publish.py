"""What is published: COGs that are COGs, items that are valid and tell the truth, links that lead somewhere."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rio_cogeo.cogeo import cog_validate
from test_21_cube import NORTH_UP, ROTATED, description, layers, radar_places

from catalog import cube, publish
from catalog.errors import CubeError, PublishError
from catalog.ledger import Ledger, tree_digest
from catalog.publish import MapClass, Sources

Validate = Callable[[Any], None]
CLASSES = (
    MapClass(1, "water", "0000ff"),
    MapClass(2, "bare soil", "a0522d"),
    MapClass(3, "roads & roofs", "ff0000"),
)
FOOTPRINT = publish.lonlat(NORTH_UP.extent)
SOURCES = Sources(
    [("scene-0", "../../../scenes/s2/scene-0/scene-0.json"), ("scene-1", "https://stac.example/scene-1")],
    datetime(2025, 5, 10, 10, 10, 31, tzinfo=UTC),
    datetime(2025, 8, 8, 10, 10, 29, tzinfo=UTC),
)


@dataclass(frozen=True)
class Rows:
    """Rows of a map as inference would yield them."""

    y0: int
    classes: np.ndarray
    probabilities: np.ndarray


def blocks(classes: np.ndarray, count: int, height: int = 64) -> list[Rows]:
    """A map cut in rows; the winner has 0.6 and more, the others share the rest; NaN where the class is 0."""
    chance = np.random.default_rng(3).uniform(0.6, 1.0, classes.shape)
    probabilities = np.repeat(((1 - chance) / max(count - 1, 1))[None], count, axis=0)
    for value in range(1, count + 1):
        probabilities[value - 1][classes == value] = chance[classes == value]
    probabilities[:, classes == 0] = np.nan
    cuts = range(0, classes.shape[0], height)
    return [Rows(y, classes[y : y + height], probabilities[:, y : y + height]) for y in cuts]


def noise(size: int) -> tuple[list[Rows], GeoBox, Sequence[MapClass], Callable[[int], None]]:
    """What write_map takes after its folder: a map that does not compress."""
    chance = np.random.default_rng(1).integers(1, 255, (size, size)).astype(np.uint8)
    box = GeoBox((size, size), Affine(10.0, 0, 6e5, 0, -10.0, 5e6), "EPSG:32632")
    classes = [MapClass(k, str(k)) for k in range(1, 256)]
    return [Rows(0, chance, np.random.default_rng(2).random((1, size, size)))], box, classes, lambda row: None


def land(box: GeoBox) -> np.ndarray:
    values = np.random.default_rng(5).integers(1, 4, box.shape).astype(np.uint8)
    values[: box.height // 5, :7] = 0
    return values


BIG = GeoBox((700, 530), Affine(10.0, 0, 600_000.0, 0, -10.0, 5_000_000.0), "EPSG:32632")


def test_a_map_is_a_cog_with_its_values_and_place(tmp_path: Path) -> None:
    """Both files are valid COGs with overviews; classes to the pixel, confidence in percent, CRS, affine, no data."""
    classes = land(BIG)
    told: list[int] = []
    pieces = blocks(classes, 3)
    counts = publish.write_map(tmp_path, pieces, BIG, CLASSES, told.append)
    assert counts == {c.name: int((classes == c.value).sum()) for c in CLASSES}
    assert told == [min(k + 64, 700) for k in range(0, 700, 64)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.tif", "confidence.tif"]
    for name in ("classes.tif", "confidence.tif"):
        assert cog_validate(tmp_path / name, strict=True)[:2] == (True, [])
        with rasterio.open(tmp_path / name) as found:
            assert (found.crs.to_epsg(), found.shape, found.dtypes) == (32632, (700, 530), ("uint8",))
            assert found.transform == BIG.affine
            assert len(found.overviews(1)) >= 1
    with rasterio.open(tmp_path / "classes.tif") as found:
        np.testing.assert_array_equal(found.read(1), classes)
        assert found.nodata == 0
        colours = found.colormap(1)
        assert [colours[k][:3] for k in (1, 2, 3)] == [(0, 0, 255), (160, 82, 45), (255, 0, 0)]
        assert colours[0][3] == 0
    with rasterio.open(tmp_path / "confidence.tif") as found:
        assert found.nodata == 255
        percent = np.rint(np.concatenate([p.probabilities.max(axis=0) for p in pieces]) * 100)
        np.testing.assert_array_equal(found.read(1), np.where(classes == 0, 255, percent))


def test_a_map_is_equal_to_the_byte(tmp_path: Path) -> None:
    """Two writes of one map, cut in other rows, give the same files."""
    classes = land(BIG)
    for name, height in (("one", 64), ("two", 100)):
        (tmp_path / name).mkdir()
        publish.write_map(tmp_path / name, blocks(classes, 3, height), BIG, CLASSES, lambda row: None)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")


def test_classes_without_colours_have_no_colour_table(tmp_path: Path) -> None:
    """A map whose classes name no colour is shown by its values, not as all black."""
    plain = [MapClass(k, f"class {k}") for k in (1, 2, 3)]
    publish.write_map(tmp_path, blocks(land(NORTH_UP), 3), NORTH_UP, plain, lambda row: None)
    with rasterio.open(tmp_path / "classes.tif") as found, pytest.raises(ValueError):
        found.colormap(1)


def test_a_rotated_map_keeps_its_affine(tmp_path: Path, validate_offline: Validate) -> None:
    """On a rotated grid the COG has that affine, and its item is valid with the true pixel size."""
    ledger = Ledger(tmp_path)
    folder = ledger.attempt("maps", "m")
    publish.write_map(folder, blocks(land(ROTATED), 3), ROTATED, CLASSES, lambda row: None)
    item = publish.map_item(ledger, "m", folder, ROTATED, CLASSES, SOURCES, {})
    validate_offline(item)
    with rasterio.open(folder / "classes.tif") as found:
        np.testing.assert_allclose(list(found.transform), list(ROTATED.affine), rtol=0, atol=1e-9)
    assert item["properties"]["proj:transform"] == list(ROTATED.affine)[:6]
    side = item["assets"]["classes"]["raster:bands"][0]["spatial_resolution"]
    assert side == pytest.approx(math.hypot(9.9, 1.2))


def _without(number: int) -> Callable[[list[Rows]], list[Rows]]:
    return lambda rows: [b for k, b in enumerate(rows) if k != number]


def _wider(rows: list[Rows]) -> list[Rows]:
    wide = np.ones((10, 21), np.uint8)
    return [Rows(0, wide, np.ones((3, 10, 21))), *rows[1:]]


def _strange(rows: list[Rows]) -> list[Rows]:
    return [Rows(b.y0, np.full_like(b.classes, 9), b.probabilities) for b in rows]


def _repeated(rows: list[Rows]) -> list[Rows]:
    return [rows[0], *rows]


def _longer(rows: list[Rows]) -> list[Rows]:
    return [*rows, Rows(30, rows[0].classes, rows[0].probabilities)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without(1), "rows 10 to 20"),
        (_without(2), "ends at row 20 of 30"),
        (_without(0), "rows 0 to 10"),
        (_repeated, "rows 10 to 0"),
        (_longer, "rows 30 to 40 do not fit"),
        (_wider, "rows 0 to 10 do not fit"),
        (_strange, r"values \[9\] that are no class"),
    ],
)
def test_a_map_with_gaps_or_strange_values_is_refused(
    change: Callable[[list[Rows]], list[Rows]], words: str, tmp_path: Path
) -> None:
    """Rows missing, repeated or too many, a wrong width, a value that is no class: refused, and no map is left."""
    rows = change(blocks(land(NORTH_UP), 3, 10))
    with pytest.raises(PublishError, match=words):
        publish.write_map(tmp_path, rows, NORTH_UP, CLASSES, lambda row: None)
    assert not (tmp_path / "classes.tif").exists()


def published_map(ledger: Ledger, name: str = "m") -> dict[str, Any]:
    folder = ledger.attempt("maps", name)
    publish.write_map(folder, blocks(land(NORTH_UP), 3), NORTH_UP, CLASSES, lambda row: None)
    (folder / "areas.csv").write_text("class,area_ha\nwater,1.5\n")
    (folder / "score.json").write_text('{"accuracy": 0.9}\n')
    tables = [folder / "areas.csv", folder / "score.json"]
    return publish.map_item(ledger, name, folder, NORTH_UP, CLASSES, SOURCES, {"ringmoe:accuracy": 0.9}, tables)


def published_cube(ledger: Ledger, name: str, box: GeoBox | None) -> dict[str, Any]:
    radar = box is None
    layer = layers(box, np.complex64 if radar else np.float32, (1 if radar else 2, 2, 30, 20))
    about = description(box, "gaofen-3" if radar else "sentinel-2", 1 if radar else 2)
    dataset = cube.assemble(about, *layer, radar_places() if radar else None)
    folder = ledger.attempt("cubes", name)
    cube.write(folder / "cube.zarr", dataset)
    return publish.cube_item(ledger, name, folder, dataset, SOURCES, FOOTPRINT)


def published_model(ledger: Ledger, name: str = "model") -> dict[str, Any]:
    folder = ledger.attempt("models", name)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    (folder / "checkpoint" / "config.json").write_text("{}")
    shape = {"shape": [-1, 2, -1, -1], "dim_order": ["batch", "bands", "height", "width"], "data_type": "float32"}
    about = {
        "mlm:name": "a model",
        "mlm:architecture": "RingMoE",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [{"name": "chips", "bands": [], "input": shape}],
        "mlm:output": [{"name": "classes", "tasks": ["semantic-segmentation"], "result": shape}],
        "mlm:total_parameters": 12,
    }
    return publish.model_item(ledger, name, folder, about, FOOTPRINT, SOURCES)


GRIDS = {"north up": NORTH_UP, "rotated": ROTATED, "radar geometry": None}
DEGREES = GeoBox((30, 20), Affine(1e-4, 0, 10.0, 0, -1e-4, 45.0), "EPSG:4326")


@pytest.mark.parametrize("box", [*GRIDS.values(), DEGREES], ids=[*GRIDS, "degrees"])
def test_a_cubes_item_is_valid_and_true(box: GeoBox | None, tmp_path: Path, validate_offline: Validate) -> None:
    """On any grid, and on none, the item passes its schemas; shape, share, quantity and checksum are as it says."""
    ledger = Ledger(tmp_path)
    item = published_cube(ledger, "c", box)
    validate_offline(item)
    validate_offline(ledger.item_path("cubes", "c"))
    store = ledger.item_path("cubes", "c").parent / item["assets"]["cube"]["href"]
    digest, size = tree_digest(store)
    assert (item["assets"]["cube"]["file:checksum"], item["assets"]["cube"]["file:size"]) == (digest, size)
    found, properties = cube.open(store), item["properties"]
    assert properties["ringmoe:valid_share"] == pytest.approx(cube.valid_share(found), abs=1e-6)
    assert properties["ringmoe:shape"] == [30, 20]
    assert properties["ringmoe:quantity"] == found.attrs["quantity"]
    assert properties["start_datetime"] == "2025-05-10T10:10:31Z"
    assert properties["end_datetime"] == "2025-08-08T10:10:29Z"
    dimensions = properties["cube:dimensions"]
    assert dimensions["band"]["values"] == list(found["band"].values)
    assert len(dimensions["time"]["values"]) == found.sizes["time"]
    assert dimensions["x"]["extent"] == [float(found["x"].min()), float(found["x"].max())]
    on_axes = box is not None and not box.affine.b
    assert dimensions["x"]["type"] == ("spatial" if on_axes else "other")
    if on_axes and box is not None and box.crs is not None:
        assert dimensions["x"]["reference_system"] == box.crs.epsg
    assert properties.get("proj:code") == (None if box is None else str(box.crs))
    if box is not None:
        assert properties["proj:shape"] == [30, 20]
        assert properties["proj:transform"] == list(box.affine)[:6]


@pytest.mark.parametrize("box", [NORTH_UP, ROTATED, DEGREES], ids=["north up", "rotated", "degrees"])
def test_cube_and_preview_lie_where_the_grid_does(box: GeoBox, tmp_path: Path) -> None:
    """rioxarray on the store and rasterio on its preview report the grid's CRS and affine to 1e-9; pixels are a date's.

    A rotated grid has no axes in map coordinates: there the store's affine is the geotransform it carries.
    """
    ledger = Ledger(tmp_path)
    item = published_cube(ledger, "c", box)
    folder = ledger.item_path("cubes", "c").parent
    assert cube.open(ledger.item_path("cubes", "c")).equals(cube.open(folder / item["assets"]["cube"]["href"]))
    with pytest.raises(CubeError, match="no item of a cube"):
        cube.open(tmp_path / "nothing.json")
    store = xr.open_zarr(folder / item["assets"]["cube"]["href"], consolidated=False, decode_coords="all")
    assert box.crs is not None
    assert store.rio.crs.to_epsg() == box.crs.epsg
    np.testing.assert_allclose(list(store.rio.transform())[:6], list(box.affine)[:6], rtol=0, atol=1e-9)
    found = cube.open(folder / item["assets"]["cube"]["href"])
    with rasterio.open(folder / item["assets"]["preview"]["href"]) as preview:
        assert preview.crs.to_epsg() == box.crs.epsg
        np.testing.assert_allclose(list(preview.transform)[:6], list(box.affine)[:6], rtol=0, atol=1e-9)
        assert preview.shape == tuple(box.shape)
        dates = [str(t)[:10] for t in found["time"].values]
        shown = found["data"].isel(time=dates.index(preview.tags()["date"]))
        for number, name in enumerate(preview.descriptions, start=1):
            np.testing.assert_array_equal(preview.read(number), shown.sel(band=name).values)


def test_a_maps_item_is_valid_and_true(tmp_path: Path, validate_offline: Validate) -> None:
    """It passes its schemas; the legend is the classes and no data, and every checksum and size is the file's."""
    ledger = Ledger(tmp_path)
    item = published_map(ledger)
    validate_offline(item)
    legend = item["assets"]["classes"]["classification:classes"]
    assert [(c["value"], c["name"], c["title"]) for c in legend] == [
        (0, "no_data", "no data"),
        (1, "water", "water"),
        (2, "bare_soil", "bare soil"),
        (3, "roads_roofs", "roads & roofs"),
    ]
    assert [c.get("color_hint") for c in legend] == [None, "0000FF", "A0522D", "FF0000"]
    assert legend[0]["nodata"] is True
    assert item["assets"]["confidence"]["raster:bands"][0]["scale"] == 0.01
    assert set(item["assets"]) == {"classes", "confidence", "areas", "score"}
    for asset in item["assets"].values():
        content = (ledger.item_path("maps", "m").parent / asset["href"]).read_bytes()
        assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        assert asset["file:size"] == len(content)
    assert item["properties"]["processing:software"]["ringmoe"]
    west, south, east, north = item["bbox"]
    corner = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(600_000.0, 5_000_000.0)
    assert (west, north) == pytest.approx(corner, abs=1e-4)
    assert (east - west) * 111_320 * math.cos(math.radians(45.1)) == pytest.approx(200, abs=8)
    assert (north - south) * 111_132 == pytest.approx(300, abs=8)


def test_a_models_item_is_valid_and_true(tmp_path: Path, validate_offline: Validate) -> None:
    """It passes the mlm schema; the weights are the model asset, with the checksum of the file."""
    ledger = Ledger(tmp_path)
    item = published_model(ledger)
    validate_offline(item)
    weights = item["assets"]["model"]
    assert weights["roles"] == ["mlm:model"]
    assert weights["file:checksum"] == "1220" + hashlib.sha256(b"weights").hexdigest()
    assert (ledger.item_path("models", "model").parent / weights["href"]).read_bytes() == b"weights"
    assert item["assets"]["config"]["roles"] == ["metadata"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Ledger:
    """Two cubes, a model and a map that derives from them, linked; a dead attempt beside them."""
    ledger = Ledger(tmp_path)
    published_cube(ledger, "c-grid", NORTH_UP)
    published_cube(ledger, "c-radar", None)
    published_model(ledger)
    published_map(ledger)
    ledger.attempt("maps", "unfinished")
    publish.relink(tmp_path)
    return ledger


def test_a_reader_walks_the_whole_catalogue(catalogue: Ledger, validate_offline: Validate) -> None:
    """From catalog.json, pystac reaches exactly the finished items, each with its parents, and all of it is valid."""
    top = pystac.Catalog.from_file(str(catalogue.root / "catalog.json"))
    found = {i.id: i for i in top.get_items(recursive=True)}
    assert set(found) == {"c-grid", "c-radar", "model", "m"}
    assert {c.id for c in top.get_children()} == {"cubes", "models", "maps"}
    for item in found.values():
        assert item.get_root() is top
        parent = item.get_parent()
        assert parent is not None
        assert parent.id == item.collection_id
        for asset in item.assets.values():
            assert Path(asset.get_absolute_href() or "").exists()
    for path in [catalogue.root / "catalog.json", *catalogue.root.glob("*/collection.json")]:
        validate_offline(path)
        for link in json.loads(path.read_text())["links"]:
            if link["rel"] != "self":
                assert (path.parent / link["href"]).exists(), link
    cubes = json.loads((catalogue.root / "cubes" / "collection.json").read_text())
    assert cubes["extent"]["temporal"]["interval"] == [["2025-05-10T10:10:31Z", "2025-08-08T10:10:29Z"]]


def test_relinking_changes_nothing_but_what_changed(catalogue: Ledger) -> None:
    """A second relink writes the same bytes; an item that came is listed, one that went is not."""
    files = [catalogue.root / "catalog.json", *sorted(catalogue.root.glob("*/collection.json"))]
    before = [f.read_bytes() for f in files]
    publish.relink(catalogue.root)
    assert [f.read_bytes() for f in files] == before
    published_map(catalogue, "m2")
    catalogue.item_path("maps", "m").unlink()
    catalogue.item_path("models", "model").unlink()
    top = pystac.Catalog.from_file(str(publish.relink(catalogue.root)))
    assert {i.id for i in top.get_items(recursive=True)} == {"c-grid", "c-radar", "m2"}


def test_items_name_what_they_derive_from(tmp_path: Path) -> None:
    """derived_from leads, from the item's own folder, to the sources; addresses on the web are kept."""
    source = tmp_path / "scenes" / "s2" / "scene-0" / "scene-0.json"
    source.parent.mkdir(parents=True)
    source.write_text("{}")
    ledger = Ledger(tmp_path / "published")
    item = published_map(ledger)
    links = [link for link in item["links"] if link["rel"] == "derived_from"]
    assert [link["title"] for link in links] == ["scene-0", "scene-1"]
    assert (ledger.item_path("maps", "m").parent / links[0]["href"]).resolve() == source
    assert links[1]["href"] == "https://stac.example/scene-1"
    reread = pystac.Item.from_file(str(ledger.item_path("maps", "m")))
    assert reread.get_links("derived_from")[0].get_absolute_href() == str(source)


def test_an_empty_catalogue_is_one(tmp_path: Path, validate_offline: Validate) -> None:
    """With nothing published, catalog.json is valid and lists nothing."""
    path = publish.relink(tmp_path / "published")
    validate_offline(path)
    assert list(pystac.Catalog.from_file(str(path)).get_items(recursive=True)) == []
