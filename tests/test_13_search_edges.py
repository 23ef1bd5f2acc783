"""The edges of the map: 180 degrees, the poles, grids outside of their zone: searched, planned and made, or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_products as tiny
from odc.geo.geom import Geometry
from odc.geo.geom import box as geobox_of
from own_scenes import found_at
from pyproj import Transformer
from stac_faults import Doc, Faulty, sentinel2, serving

from catalog import cube
from catalog.antimeridian import bbox_of, centre_of, lonlat, split
from catalog.errors import GridError, MetadataError, NothingFound
from catalog.grid import area_from_bbox
from catalog.ingest import ingest
from catalog.ledger import Ledger
from catalog.patience import Patience
from catalog.providers import Provider
from catalog.register import register
from catalog.search import Asking, Query, discover
from catalog.search.dialect import scene_of
from catalog.serve import served
from catalog.units import Unit, plan
from flows.refs import Area

QUICK = Patience(retries=1, first_wait_s=0.001)
TILE_M = 960.0
PLACES = {
    "west of 180": ("EPSG:32660", (816_960.0, -1_880_640.0), "2021-07-01"),
    "east of 180": ("EPSG:32601", (181_440.0, -1_880_640.0), "2021-07-02"),
    "the south": ("EPSG:3031", (256_320.0, 512_640.0), "2021-07-03"),
}
FIJI = (179.9, -17.1, -179.9, -16.9)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three Landsat products at the edges, registered and served."""
    root = tmp_path_factory.mktemp("edges")
    for name, (crs, origin, day) in PLACES.items():
        _landsat(root / "products" / name.replace(" ", "-"), crs, origin, day)
    assert register(root / "products", root / "scenes").failed == ()
    with served(root / "scenes") as address:
        yield address


def _landsat(folder: Path, crs: str, origin: tuple[float, float], day: str) -> Path:
    """A tiny Landsat product elsewhere; Landsat writes the south in the northern zones, and the poles as PS."""
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "UTM", crs)
        patch.setattr(tiny, "ORIGIN", origin)
        tiny.landsat(folder, date=day)
    path = next(folder.glob("*_MTL.json"))
    text = path.read_text().replace('"UTM_ZONE": "32"', f'"UTM_ZONE": "{crs[-2:]}"')
    if crs == "EPSG:3031":
        text = text.replace('"MAP_PROJECTION": "UTM"', '"MAP_PROJECTION": "PS"')
        text = text.replace('"CORNER_UL_LAT_PRODUCT": "45"', '"CORNER_UL_LAT_PRODUCT": "-84"')
        text = text.replace('"PROJECTION_ATTRIBUTES": {', '"PROJECTION_ATTRIBUTES": {"TRUE_SCALE_LAT": "-71.0", ')
    path.write_text(text)
    return folder


def _units(url: str, bbox: tuple[float, ...]) -> tuple[Unit, ...]:
    area = Area.box(bbox)
    scenes = found_at(url, sensors=["landsat"], geometry=area.geometry, start="2021-07-01", end="2021-07-31").scenes
    return plan(scenes, Geometry(area.geometry, "EPSG:4326"), "2021-07", tile_m=TILE_M)


def _at(units: tuple[Unit, ...], crs: str, west: float, north: float) -> Unit:
    """The unit whose tile has this north-western corner."""
    boxes = [(u, u.tile.geobox) for u in units if u.tile]
    (found,) = [u for u, b in boxes if (str(b.crs), b.affine.c, b.affine.f) == (crs, west, north)]
    return found


def _red(unit: Unit, root: Path, x: float, y: float) -> tuple[float, dict[str, Any]]:
    """Reflectance of B4 where a cube has a place of its CRS, and the cube's item."""
    ledger = Ledger(root)
    item = ingest(unit, ledger)
    path = ledger.item_path("cubes", unit.item_id)
    made = cube.open(str(path.parent / item["assets"]["cube"]["href"]))
    return float(made["data"].sel(band="B4").isel(time=0).sel(y=y, x=x, method="nearest")), item


@pytest.mark.parametrize("name", ["west of 180", "east of 180"])
def test_an_area_across_180_is_searched_planned_and_made_on_both_sides(url: str, name: str, tmp_path: Path) -> None:
    """Scenes of zones 60 and 1 in one box, each on tiles of its own zone, pixels where the product has them."""
    units = _units(url, FIJI)
    crs, (west, north), _ = PLACES[name]
    assert {str(u.tile.geobox.crs) for u in units if u.tile} == {"EPSG:32660", "EPSG:32601"}
    unit = _at(units, crs, west, north)
    row, column = 20, 10
    value, item = _red(unit, tmp_path, west + 30 * (column + 0.5), north - 30 * (row + 0.5))
    assert value == pytest.approx((1000 + 7 * row + 3 * column + 8300) * 2.75e-5 - 0.2, abs=1e-6)
    assert item["properties"]["proj:code"] == crs
    assert item["geometry"]["type"] == "Polygon"
    assert (item["bbox"][0] > 179.9) == (name == "west of 180")


def test_half_of_such_an_area_has_half_of_the_scenes(url: str) -> None:
    """Each side alone is what it was; a box that ends at 180 does not wrap."""
    for bbox, crs in (((179.9, -17.1, 180, -16.9), "EPSG:32660"), ((-180, -17.1, -179.9, -16.9), "EPSG:32601")):
        assert {str(u.tile.geobox.crs) for u in _units(url, bbox) if u.tile} == {crs}


def test_a_scene_across_180_covers_tiles_on_both_sides_of_it_in_its_own_zone() -> None:
    """One ring round the Earth, as some catalogues write it: tiles of zone 60 without a gap at 180, none elsewhere."""
    ring = [[179.9, -17.1], [-179.9, -17.1], [-179.9, -16.9], [179.9, -16.9], [179.9, -17.1]]
    item = sentinel2("both", "2024-06-01T22:00:00Z", bbox=(179.0, -17, 179.5, -16))
    item["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    scene = scene_of(item, "earth-search")
    units = plan([scene], area_from_bbox((178, -18, -178, -15)), "2024-06", tile_m=2560.0)
    corners = sorted({u.tile.geobox.extent.boundingbox[0] for u in units if u.tile})
    x, _ = Transformer.from_crs("EPSG:4326", "EPSG:32760", always_xy=True).transform([179.9, 180.1], [-17, -17])
    assert corners[0] <= x[0] < x[1] <= corners[-1] + 2560
    assert np.ptp(corners) == pytest.approx(2560 * (len(corners) - 1))
    assert {str(u.tile.geobox.crs) for u in units if u.tile} == {"EPSG:32760"}
    boxes = [u.tile.geobox.extent for u in units if u.tile]
    middle = float(np.mean(x))
    on_180 = next(e for e in boxes if e.boundingbox[0] < middle < e.boundingbox[2])
    west, south, east, north = bbox_of(lonlat(on_180))
    assert west > 179.9
    assert east < -179.9
    assert -17.2 < south < north < -16.8


def test_a_product_that_itself_crosses_180_is_refused_by_name(tmp_path: Path) -> None:
    """Registration says what to do; nothing is placed round the Earth."""
    _landsat(tmp_path / "products", "EPSG:32660", (818_880.0, -1_880_640.0), "2021-07-01")
    ((folder, reason),) = register(tmp_path / "products", tmp_path / "scenes").failed
    assert Path(folder).name == "products"
    assert "crosses the antimeridian" in reason
    assert "what to do" in reason


def test_a_scene_beyond_80_south_comes_onto_polar_tiles(url: str, tmp_path: Path) -> None:
    """Antarctic polar stereographic, as Landsat delivers it: tiles of EPSG:3031, pixels where the product has them."""
    crs, (west, north), _ = PLACES["the south"]
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(west + 600, north - 600)
    assert lat < -84
    units = _units(url, (lon - 1, lat - 0.1, lon + 1, lat + 0.1))
    assert {str(u.tile.geobox.crs) for u in units if u.tile} == {"EPSG:3031"}
    unit = _at(units, crs, west, north)
    value, item = _red(unit, tmp_path, west + 30 * 10.5, north - 30 * 20.5)
    assert value == pytest.approx((1000 + 7 * 20 + 3 * 10 + 8300) * 2.75e-5 - 0.2, abs=1e-6)
    assert item["bbox"][0] < lon < item["bbox"][2]
    assert item["bbox"][1] < lat < item["bbox"][3]


def test_an_area_round_a_pole_holds_the_scenes_of_every_longitude(url: str) -> None:
    """The whole cap finds the one scene under it."""
    units = _units(url, (-180, -90, 180, -84))
    assert {s.id for u in units for s in u.scenes} == {"LC08_L2SP_192029_20210703_20210720_02_T1"}


def test_footprints_of_polar_tiles_close_at_the_pole_and_split_at_180() -> None:
    """A tile whose corner is the pole reaches 90 degrees over its quarter; ground is neither lost nor doubled."""
    corner = lonlat(geobox_of(0, 0, 2560, 2560, "EPSG:3413"))
    assert bbox_of(corner) == pytest.approx([45, 89.9666, 135, 90], abs=1e-3)
    across = lonlat(geobox_of(-2560, 0, 0, 2560, "EPSG:3413"))
    assert bbox_of(across) == pytest.approx([135, 89.9666, -135, 90], abs=1e-3)
    assert across.is_multi
    assert abs(centre_of(across.json)[0]) == pytest.approx(180)
    assert corner.area == pytest.approx(across.area, rel=1e-6)


def test_rings_across_180_are_cut_and_others_left_alone() -> None:
    """Written round the Earth, or with longitudes beyond 180 on either side: the same two halves; a cap stays a cap."""

    def ring(west: float, east: float) -> dict[str, Any]:
        return {"type": "Polygon", "coordinates": [[[west, 1], [east, 1], [east, 2], [west, 2], [west, 1]]]}

    for west, east in ((179, -179), (179, 181), (-181, -179)):
        halves = Geometry(split(ring(west, east)), "EPSG:4326")
        assert [part.boundingbox.bbox for part in halves.geoms] == [(179, 1, 180, 2), (-180, 1, -179, 2)]
        assert bbox_of(halves) == [179, 1, -179, 2]
    for same in (ring(10, 11), ring(-180, 180), {"type": "Point", "coordinates": [181, 0]}):
        assert split(same) == same


def _one(item: Doc) -> NothingFound:
    """The error of a search that finds this item only."""
    june = Query(("sentinel-2",), start="2024-06-01", end="2024-06-30")
    with serving(Faulty([item])) as api, pytest.raises(NothingFound) as caught:
        discover(june, Asking((Provider("earth-search", api.url),), patience=QUICK))
    return caught.value


def test_a_grid_outside_of_its_zone_is_refused_and_the_fitting_zone_named() -> None:
    """UTM zone 45 for a place at 11.5 degrees east; the neighbouring zone, as wide scenes have it, passes."""
    item = sentinel2("astray", "2024-06-01T10:00:00Z", **{"proj:epsg": 32645})
    with pytest.raises(GridError, match=r"a grid does not fit its zone: EPSG:32645 ends 72\.5 degrees") as caught:
        scene_of(item, "earth-search")
    assert caught.value.item.startswith("item astray of collection sentinel-2-c1-l2a, centre lon 11.5")
    assert caught.value.enough == "EPSG:32632, in whose zone it lies"
    assert caught.value.todo
    assert "astray" in _one(item).item
    assert scene_of(sentinel2("wide", "2024-06-01T10:00:00Z", **{"proj:epsg": 32633}), "earth-search")


@pytest.mark.parametrize(
    ("field", "said"), [("proj:epsg", "names no CRS for its pixels"), ("proj:transform", "gives its pixels no affine")]
)
def test_a_scene_that_nobody_can_place_is_refused(field: str, said: str) -> None:
    """Without a CRS, without an affine: four parts, and a search of nothing else says why nothing came."""
    item = sentinel2("placeless", "2024-06-01T10:00:00Z")
    for holder in (item["properties"], *item["assets"].values()):
        holder.pop(field, None)
    with pytest.raises(MetadataError, match=f"an item {said}") as caught:
        scene_of(item, "earth-search")
    assert "item placeless of collection sentinel-2-c1-l2a, asset red" in caught.value.item
    assert field in caught.value.enough
    assert caught.value.todo
    assert said in _one(item).item


def test_an_asset_listed_twice_with_two_files_is_refused_in_our_own_catalogue_too(url: str) -> None:
    """The same file twice counts once; two files for one band are refused by the names of both assets."""
    scene = found_at(url, sensors=["landsat"]).scenes[0]
    item = json.loads(Path(scene.href).read_text())
    item["assets"]["again"] = dict(item["assets"]["B4"])
    assert scene_of(item, "local").bands["B4"] is not None
    item["assets"]["again"]["href"] = "elsewhere.tif"
    with pytest.raises(MetadataError, match="two assets carry the band B4: B4 and again") as caught:
        scene_of(item, "local")
    assert caught.value.item == f"item {scene.id} of collection landsat-c2-l2"
    assert caught.value.enough
    assert caught.value.todo


@pytest.mark.parametrize(
    "broken", [{"assets": None}, {"properties": {}}, {"geometry": {"type": "Polygon"}}, {"bbox": 3}]
)
def test_what_is_no_item_is_listed_and_the_rest_goes_on(broken: dict[str, Any]) -> None:
    """Junk among good items costs itself only."""
    junk = {**sentinel2("junk", "2024-06-02T10:00:00Z"), **broken}
    with serving(Faulty([sentinel2("good", "2024-06-01T10:00:00Z")])) as api:
        api.page = lambda body: {"type": "FeatureCollection", "features": [*api.items, junk], "links": []}
        asking = Asking((Provider("earth-search", api.url),), patience=QUICK)
        found = discover(Query(("sentinel-2",), start="2024-06-01", end="2024-06-30"), asking)
    assert [s.id for s in found.scenes] == ["good"]
    assert [item for item, _ in found.unreadable] == ["sentinel-2-c1-l2a/junk"]
    assert "enough would have been" in found.unreadable[0][1]


def test_duplicates_of_an_overpass_go_with_the_scene_that_was_taken() -> None:
    """The stated rule: the later baseline; the scene says what it was taken instead of, and the cube repeats it."""
    new = sentinel2("new", "2024-06-01T10:00:00Z")
    old = sentinel2("old", "2024-06-01T10:00:00Z", **{"s2:processing_baseline": "04.00"})
    with serving(Faulty([old, new])) as api:
        asking = Asking((Provider("earth-search", api.url),), patience=QUICK)
        found = discover(Query(("sentinel-2",), start="2024-06-01", end="2024-06-30"), asking)
    (scene,) = found.scenes
    assert scene.id == "new"
    assert scene.properties["ringmoe:instead_of"] == ["sentinel-2-c1-l2a/old"]
    assert [d.why for d in found.duplicates] == ["baseline"]


def test_who_answered_is_in_the_provenance_of_the_cube(url: str, tmp_path: Path) -> None:
    """The item of a cube names the provider of each of its scenes."""
    unit = _units(url, FIJI)[0]
    item = ingest(unit, Ledger(tmp_path))
    assert {p["provider"] for p in item["properties"]["ringmoe:provenance"].values()} == {"local"}
