"""Planning and making cubes: which tiles, which reference, which units; done once, and failures leave their reason."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_products as tiny
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry, box
from scipy.ndimage import gaussian_filter

from catalog import cube, quantify
from catalog.errors import AssetError, CalibrationError, CatalogError, CubeError, NothingFound
from catalog.ingest import build, ingest
from catalog.ledger import Ledger, file_digest, tree_digest
from catalog.publish import lonlat
from catalog.quantify import Reading
from catalog.register import register
from catalog.scene import BandSource, Scene
from catalog.sensors import SENSORS, Quality
from catalog.units import Unit, plan

UTM = "EPSG:32632"
WEST, NORTH = 599_040.0, 5_002_240.0
"""North-west corner of a tile of 2560 m."""
DAY = datetime(2025, 6, 1, 10, tzinfo=UTC)
PERIOD = "2025-06-01/2025-06-30"


def ground(x: float, y: float, width: float, height: float) -> Geometry:
    """A box in degrees, so many metres east and south of the corner of the tile."""
    return box(WEST + x, NORTH - y - height, WEST + x + width, NORTH - y, UTM).to_crs("EPSG:4326", resolution=math.inf)


def scene(
    name: str,
    path: Path | None = None,
    *,
    sensor: str = "sentinel-2",
    bands: tuple[str, ...] = ("B04",),
    day: int = 0,
    cloud: float | None = None,
    place: GeoBox | None = None,
    checksum: str = "",
    **changes: Any,
) -> Scene:
    """A scene that the item alone calibrates: reflectance is DN / 10000."""
    grid = place or GeoBox((256, 256), Affine(10.0, 0, WEST, 0, -10.0, NORTH), UTM)
    row = SENSORS[sensor]
    level, quantity = next(iter(row.quantities.items()))
    sources = {
        b: BandSource(
            b,
            str(path or f"/nowhere/{name}.tif"),
            dtype="uint16",
            nodata=0.0,
            shape=(grid.height, grid.width),
            transform=tuple(grid.affine)[:6],
            crs=str(grid.crs),
            scale=1e-4,
        )
        for b in bands
    }
    found = Scene(
        id=name,
        href=f"/scenes/{name}/{name}.json",
        sensor=sensor,
        collection=sensor,
        datetime=DAY + timedelta(days=day),
        platform=row.platforms[0],
        level=level,
        format=row.formats[0],
        quantity=quantity,
        geolocation="affine",
        encoding="dn",
        geometry=lonlat(grid.extent),
        bbox=grid.geographic_extent.boundingbox.bbox,
        bands=sources,
        quality={},
        metadata={},
        checksums={"image": checksum or (file_digest(path) if path else f"sum of {name}")},
        decimated=False,
        properties={} if cloud is None else {"eo:cloud_cover": cloud},
    )
    return dataclasses.replace(found, **changes)


def image(path: Path, digital: np.ndarray) -> Path:
    return tiny.write_tif(path, digital, transform=Affine(10.0, 0, WEST, 0, -10.0, NORTH), nodata=0)


def names(units: tuple[Unit, ...]) -> list[str]:
    return [u.tile_id for u in units]


TILE = ground(0, 0, 2560, 2560)
WIDE = GeoBox((768, 768), Affine(10.0, 0, WEST - 2560, 0, -10.0, NORTH + 2560), UTM)
"""Three by three tiles around the tile."""


def test_an_area_takes_the_tiles_it_touches_and_no_more() -> None:
    """A scene of nine tiles gives one unit for an area within a tile, two for one across an edge."""
    wide = [scene("a", place=WIDE)]
    assert names(plan(wide, ground(500, 500, 900, 900), PERIOD, tile_m=2560.0)) == ["32632_2560m_E0234_N1953"]
    assert names(plan(wide, ground(2000, 500, 900, 900), PERIOD, tile_m=2560.0)) == [
        "32632_2560m_E0234_N1953",
        "32632_2560m_E0235_N1953",
    ]


def test_a_parcel_smaller_than_a_hundredth_of_a_tile_is_served() -> None:
    """What counts is how much of the tile a scene covers, not how much of it was asked for."""
    (unit,) = plan([scene("a")], ground(1000, 1000, 40, 30), PERIOD, tile_m=2560.0)
    assert unit.tile_id == "32632_2560m_E0234_N1953"
    assert len(plan([scene("a", place=WIDE)], ground(-20, 1000, 40, 30), PERIOD, tile_m=2560.0)) == 2


def test_the_same_scenes_make_the_same_unit_whatever_was_asked() -> None:
    """Two areas in one tile, asked in any order of scenes, share the unit; so nothing is made twice."""
    scenes = [scene("a", day=3), scene("b", day=1)]
    one = plan(scenes, ground(0, 0, 900, 900), PERIOD, tile_m=2560.0)
    two = plan(scenes[::-1], ground(1500, 1500, 300, 300), PERIOD, tile_m=2560.0)
    assert [u.item_id for u in one] == [u.item_id for u in two]
    assert [s.id for s in one[0].scenes] == ["b", "a"]


def test_a_scene_that_hardly_touches_a_tile_is_left_out() -> None:
    """Under a hundredth of the tile: left out; where no scene covers more, the area has nothing."""
    sliver = scene("s", place=GeoBox((256, 256), Affine(10.0, 0, WEST + 2540, 0, -10.0, NORTH), UTM))
    (unit,) = plan([scene("a"), sliver], TILE, PERIOD, tile_m=2560.0)
    assert [s.id for s in unit.scenes] == ["a"]
    with pytest.raises(NothingFound) as refused:
        plan([sliver], ground(0, 0, 2560, 2560), PERIOD, tile_m=2560.0)
    assert "none of 1 scenes" in refused.value.what
    assert refused.value.item == PERIOD
    with pytest.raises(NothingFound):
        plan([scene("a")], ground(30_000, 0, 900, 900), PERIOD, tile_m=2560.0)


def test_the_reference_is_the_clearest_then_the_earliest() -> None:
    """Least cloud first, then time; a scene of unknown cloud comes last; every sensor of the tile has the same."""
    scenes = [
        scene("cloudy", day=0, cloud=40.0),
        scene("late", day=9, cloud=2.0),
        scene("early", day=4, cloud=2.0),
        scene("unknown", day=1),
        scene("landsat", sensor="landsat", bands=("B4",), day=2, cloud=0.0),
    ]
    units = plan(scenes, TILE, PERIOD, tile_m=15_360.0)
    assert [u.sensor for u in units] == ["landsat", "sentinel-2"]
    assert {u.reference.id for u in units if u.reference} == {"early"}
    (alone,) = plan(scenes[-1:], TILE, PERIOD, tile_m=15_360.0)
    assert alone.reference is None


@pytest.mark.parametrize("turn", [1, -1])
def test_each_sensor_keeps_its_own_pixels_on_a_shared_tile(turn: int) -> None:
    """2 m and 10 m scenes of one tile: units of 1280 and 256 pixels, in whatever order the scenes come."""
    fine = GeoBox((1280, 1280), Affine(2.0, 0, WEST, 0, -2.0, NORTH), UTM)
    scenes = [scene("s2"), scene("wv", sensor="worldview", bands=("R",), place=fine)][::turn]
    units = {u.sensor: u for u in plan(scenes, TILE, PERIOD, tile_m=2560.0)}
    assert {k: u.tile.geobox.shape for k, u in units.items() if u.tile} == {
        "sentinel-2": (256, 256),
        "worldview": (1280, 1280),
    }


TURNED = GeoBox((60, 60), Affine(9.9, 1.0, WEST, 1.0, -9.9, NORTH), UTM)
DEGREES = GeoBox((60, 60), Affine(1e-4, 0, 10.26, 0, -1e-4, 45.167), "EPSG:4326")
OWN_GRID: dict[str, dict[str, Any]] = {
    "decimated": {"decimated": True},
    "rotated": {"place": TURNED},
    "in degrees": {"place": DEGREES},
    "complex": {"sensor": "gaofen-3", "bands": ("HH",), "encoding": "complex"},
}


@pytest.mark.parametrize("kind", OWN_GRID)
def test_some_scenes_stay_on_their_own_raster(kind: str) -> None:
    """Decimated, rotated, geographic or complex: one unit over the scene's raster, whatever part was asked for."""
    odd = scene("a", **OWN_GRID[kind])
    (unit,) = plan([odd], ground(100, 100, 200, 200), PERIOD, tile_m=2560.0)
    source = next(iter(odd.bands.values()))
    assert unit.tile is not None
    assert unit.tile.id.startswith("native_")
    assert tuple(unit.tile.geobox.affine)[:6] == source.transform
    assert unit.tile.geobox.shape == source.shape


def test_complex_scenes_in_radar_geometry_have_no_tile() -> None:
    """One unit a scene, named after it."""
    radar = [scene(n, sensor="gaofen-3", bands=("HH",), geolocation="rpc", encoding="complex") for n in ("a", "b")]
    units = plan(radar, TILE, PERIOD, tile_m=2560.0)
    assert names(units) == ["radar_a", "radar_b"]
    assert all(u.tile is None and u.reference is None for u in units)


def test_scenes_of_other_bands_or_quantities_do_not_share_a_cube() -> None:
    """L1C and L2A, or two bands and one, make a cube each."""
    scenes = [scene("a"), scene("b", day=1, quantity="surface_reflectance"), scene("c", day=2, bands=("B04", "B08"))]
    units = plan(scenes, TILE, PERIOD, tile_m=2560.0)
    assert sorted([s.id for s in u.scenes] for u in units) == [["a"], ["b"], ["c"]]
    assert len({u.item_id for u in units}) == 3


def unit_of(*scenes: Scene, **options: Any) -> Unit:
    (unit,) = (u for u in plan(scenes, TILE, PERIOD, tile_m=2560.0, **options) if u.sensor == scenes[0].sensor)
    return unit


def test_all_that_determines_a_cube_is_in_its_name() -> None:
    """Another checksum, scene, reference, engine or tile gives another unit; another folder or period does not."""
    a, b = scene("a", cloud=5.0), scene("b", day=1, cloud=1.0)
    base = unit_of(a, b)
    others = [
        unit_of(dataclasses.replace(a, checksums={"image": "changed"}), b),
        unit_of(a, dataclasses.replace(b, id="c")),
        unit_of(a),
        unit_of(dataclasses.replace(a, properties={"eo:cloud_cover": 0.5}), b),
        unit_of(a, b, how=Reading(engine="stackstac")),
        plan([a, b], TILE, PERIOD, tile_m=1280.0)[0],
    ]
    assert len({base.id, *(u.id for u in others)}) == 1 + len(others)
    moved = {k: dataclasses.replace(s, href="/elsewhere.tif") for k, s in a.bands.items()}
    assert unit_of(dataclasses.replace(a, bands=moved), b).id == base.id
    assert plan([a, b], TILE, "2025", tile_m=2560.0)[0].id == base.id
    assert base.item_id == f"sentinel-2_32632_2560m_E0234_N1953_{base.id}"


@pytest.fixture
def safe_scene(tmp_path: Path) -> Scene:
    """A tiny Sentinel-2 SAFE, registered: 40 by 40 pixels of 10 m, a quarter by a quarter of it without data."""
    found = register(tiny.sentinel2(tmp_path / "products"), tmp_path / "scenes")
    assert found.failed == ()
    return Scene.from_item(found.items[0])


def test_a_registered_product_becomes_a_cube(
    safe_scene: Scene, tmp_path: Path, validate_offline: Callable[[Any], None]
) -> None:
    """DN of the SAFE come out as (DN - 1000) / 10000 at their place, NaN where the DN is 0; the item is valid."""
    area = Geometry(dict(safe_scene.geometry), "EPSG:4326")
    (unit,) = plan([safe_scene], area, PERIOD, tile_m=400.0)
    ledger = Ledger(tmp_path / "published")
    item = ingest(unit, ledger)
    validate_offline(item)
    path = ledger.item_path("cubes", unit.item_id)
    found = cube.open(path.parent / item["assets"]["cube"]["href"])
    assert found["data"].dims == ("time", "band", "y", "x")
    assert list(found["band"].values) == ["B02", "B03", "B04", "B08", "B11"]
    red = found["data"].sel(band="B04").isel(time=0).values
    expected = (tiny.ramp(40, 40) - 1000.0) / 1e4
    expected[:10, :10] = np.nan
    np.testing.assert_allclose(red, expected.astype(np.float32), atol=1e-7)
    quality = found["quality"].isel(time=0).values
    assert set(np.unique(quality[12:, 12:])) == {int(Quality.CLEAR)}
    assert set(np.unique(quality[:8, :8])) == {int(Quality.NO_DATA)}
    assert (float(found["x"][0]), float(found["y"][0])) == (600_005.0, 4_999_995.0)
    assert item["properties"]["ringmoe:valid_share"] == pytest.approx(cube.valid_share(found), abs=1e-6)
    provenance = item["properties"]["ringmoe:provenance"][safe_scene.id]
    assert (provenance["quantification"], provenance["offset_dn"]["B04"]) == (10_000, -1000)
    (link,) = [x["href"] for x in item["links"] if x["rel"] == "derived_from"]
    assert (path.parent / link).resolve() == Path(safe_scene.href)
    assert json.loads((path.parent / link).read_text())["id"] == safe_scene.id


def test_a_unit_is_made_once(safe_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call reads no pixel, makes no attempt and returns the same item; another home gives equal bytes."""
    (unit,) = plan([safe_scene], Geometry(dict(safe_scene.geometry), "EPSG:4326"), PERIOD, tile_m=400.0)
    ledger = Ledger(tmp_path / "published")
    first = ingest(unit, ledger)
    elsewhere = ingest(unit, Ledger(tmp_path / "elsewhere"))
    assert elsewhere["assets"]["cube"]["file:checksum"] == first["assets"]["cube"]["file:checksum"]

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a finished unit was read again")

    monkeypatch.setattr(quantify, "look", never)
    assert ingest(unit, ledger) == first
    home = ledger.item_path("cubes", unit.item_id).parent
    assert sorted(p.name for p in home.iterdir()) == ["attempt-1", f"{unit.item_id}.json"]
    assert tree_digest(home / "attempt-1" / "cube.zarr")[0] == first["assets"]["cube"]["file:checksum"]


def test_a_failure_names_the_scene_and_is_struck_by_success(tmp_path: Path) -> None:
    """A missing file: AssetError with scene and path, a record with the reason; the file back, the record goes."""
    path = image(tmp_path / "a.tif", np.full((256, 256), 2000, np.uint16))
    unit, ledger = unit_of(scene("scene-a", path)), Ledger(tmp_path / "published")
    path.rename(tmp_path / "aside.tif")
    with pytest.raises(AssetError) as refused:
        ingest(unit, ledger)
    assert "scene-a" in refused.value.item
    assert str(path) in refused.value.item
    (record,) = ledger.failures()
    assert (record["unit"], record["step"]) == (unit.item_id, "ingest")
    assert "scene-a" in record["reason"]
    assert ledger.done("cubes", unit.item_id) is None
    (tmp_path / "aside.tif").rename(path)
    assert ingest(unit, ledger)["id"] == unit.item_id
    assert ledger.failures() == ()


def test_an_error_that_is_none_of_ours_leaves_its_record_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks, `ringmoe status` can tell."""
    path = image(tmp_path / "a.tif", np.full((256, 256), 2000, np.uint16))
    unit, ledger = unit_of(scene("scene-a", path)), Ledger(tmp_path / "published")

    def broken(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(quantify, "look", broken)
    with pytest.raises(ZeroDivisionError):
        ingest(unit, ledger)
    assert "a bug" in ledger.failures()[0]["reason"]


def test_a_scene_that_says_no_scale_is_refused(tmp_path: Path) -> None:
    """Neither metadata nor raster:scale: no quiet reflectance of 2000, but an error that names scene and band."""
    path = image(tmp_path / "a.tif", np.full((256, 256), 2000, np.uint16))
    known = scene("scene-a", path)
    bare: Mapping[str, BandSource] = {k: dataclasses.replace(s, scale=None) for k, s in known.bands.items()}
    with pytest.raises(CalibrationError, match="B04") as refused:
        ingest(unit_of(dataclasses.replace(known, bands=bare)), Ledger(tmp_path / "published"))
    assert refused.value.item == "scene-a"


def test_a_scene_without_a_valid_pixel_is_refused(tmp_path: Path) -> None:
    """Nothing but no data: CubeError that names tile and scene; no item, no attempt, but a record."""
    path = image(tmp_path / "a.tif", np.zeros((256, 256), np.uint16))
    unit, ledger = unit_of(scene("scene-a", path)), Ledger(tmp_path / "published")
    with pytest.raises(CubeError) as refused:
        ingest(unit, ledger)
    assert "scene-a" in refused.value.item
    assert "32632_2560m_E0234_N1953" in refused.value.item
    assert isinstance(refused.value, CatalogError)
    assert ledger.done("cubes", unit.item_id) is None
    assert ledger.dead_attempts() == ()
    assert "no scene leaves a valid pixel" in ledger.failures()[0]["reason"]


def test_a_written_scene_is_let_go_before_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a scene is read no array of an earlier one is alive, so memory does not grow with their number."""
    paths = [image(tmp_path / f"{n}.tif", np.full((256, 256), 2000 + n, np.uint16)) for n in range(3)]
    unit = unit_of(*(scene(f"s{n}", path, day=n) for n, path in enumerate(paths)))
    unit = dataclasses.replace(unit, reference=None)
    plain, seen, alive = quantify.look, [], []

    def watched(*args: Any, **options: Any) -> quantify.Look:
        alive.append([r() is not None for r in seen])
        found = plain(*args, **options)
        seen.extend(weakref.ref(v.values) for v in (found.data, found.quality))
        return found

    monkeypatch.setattr(quantify, "look", watched)
    made = build(unit, tmp_path / "cube.zarr")
    assert alive == [[], [False] * 2, [False] * 4]
    assert [round(float(v), 4) for v in made["data"].mean(("band", "y", "x"))] == [0.2, 0.2001, 0.2002]


def test_all_files_that_fail_are_named_at_once(safe_scene: Scene, tmp_path: Path) -> None:
    """A band and the quality layer gone: one error and one record with both; no layer is left out quietly."""
    (unit,) = plan([safe_scene], Geometry(dict(safe_scene.geometry), "EPSG:4326"), PERIOD, tile_m=400.0)
    for gone in (safe_scene.bands["B08"], safe_scene.quality["SCL"]):
        Path(gone.href).unlink()
    ledger = Ledger(tmp_path / "published")
    with pytest.raises(AssetError, match="2 files") as refused:
        ingest(unit, ledger)
    assert [(f.scene, f.name, f.attempts) for f in refused.value.failed] == [
        (safe_scene.id, "B08", 1),
        (safe_scene.id, "SCL", 1),
    ]
    assert pickle.loads(pickle.dumps(refused.value)).failed == refused.value.failed
    assert all(f.href in ledger.failures()[0]["reason"] for f in refused.value.failed)


def test_a_quality_layer_that_fails_fails_the_unit(safe_scene: Scene, tmp_path: Path) -> None:
    """A cube without it would show clouds as clear under the same id."""
    (unit,) = plan([safe_scene], Geometry(dict(safe_scene.geometry), "EPSG:4326"), PERIOD, tile_m=400.0)
    Path(safe_scene.quality["SCL"].href).unlink()
    ledger = Ledger(tmp_path / "published")
    with pytest.raises(AssetError, match="missing") as refused:
        ingest(unit, ledger)
    assert [f.name for f in refused.value.failed] == ["SCL"]
    assert ledger.done("cubes", unit.item_id) is None


def test_a_displaced_scene_is_brought_onto_the_reference(tmp_path: Path) -> None:
    """A scene 20 m too far east and 10 m too far south: the shift is found, recorded, and gone from the cube."""
    texture = gaussian_filter(np.random.default_rng(11).normal(size=(300, 300)), 1.5)
    digital = (3000 + 4000 * texture / np.abs(texture).max()).round().astype(np.uint16)
    still = image(tmp_path / "a.tif", digital[20:276, 20:276])
    moved = image(tmp_path / "b.tif", digital[19:275, 18:274])
    unit = unit_of(scene("still", still, cloud=0.0), scene("moved", moved, day=5, cloud=9.0))
    ledger = Ledger(tmp_path / "published")
    item = ingest(unit, ledger)
    reference, shift = item["properties"]["ringmoe:coregistration"]
    assert reference["reason"] == "this scene is the reference"
    assert (shift["scene"], shift["reference"], shift["verdict"]) == ("moved", "still", "accepted")
    assert (shift["dx_m"], shift["dy_m"]) == pytest.approx((-20.0, 10.0), abs=1.0)
    assert shift["before_px"] == pytest.approx(math.hypot(2, 1), abs=0.2)
    assert shift["after_px"] < 0.3
    data = cube.open(ledger.item_path("cubes", unit.item_id).parent / item["assets"]["cube"]["href"])["data"]
    inner = data.isel(band=0, y=slice(4, -4), x=slice(4, -4)).values
    apart = np.nanmean(np.abs(inner[1] - inner[0]))
    before = np.abs(digital[23:271, 22:270].astype(float) - digital[24:272, 24:272]).mean() / 1e4
    assert apart < 0.15 * before
