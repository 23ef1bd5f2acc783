"""The tiling: zones, tiles that cover an area exactly once and do not depend on it, a raster's own grid."""

from __future__ import annotations

import math

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry, box, polygon, unary_union

from catalog.errors import GridError
from catalog.grid import area_from_bbox, crs_of, native, onto, tiles, utm_crs, whole

UTM = "EPSG:32632"


@pytest.mark.parametrize(
    ("longitude", "latitude", "crs"),
    [
        (9.0, 45.0, "EPSG:32632"),
        (11.999, 47.0, "EPSG:32632"),
        (12.0, 47.0, "EPSG:32633"),
        (-180.0, 0.0, "EPSG:32601"),
        (180.0, -10.0, "EPSG:32701"),
        (179.999, 10.0, "EPSG:32660"),
        (-70.5, -33.4, "EPSG:32719"),
        (5.0, 60.0, "EPSG:32631"),
        (0.0, -80.0, "EPSG:32731"),
        (0.0, 84.0, "EPSG:32631"),
    ],
)
def test_the_zone_of_a_place(longitude: float, latitude: float, crs: str) -> None:
    """Zones are six degrees wide from 180 W; their western border is theirs; Norway is no exception."""
    assert utm_crs(longitude, latitude) == crs


@pytest.mark.parametrize("latitude", [84.01, 90.0, -80.01, -90.0, math.nan])
def test_the_poles_have_no_zone(latitude: float) -> None:
    """Beyond 80 S and 84 N there is no UTM, and the refusal names the latitude and the way out."""
    with pytest.raises(GridError) as refused:
        utm_crs(10.0, latitude)
    assert f"{latitude:.2f}" in refused.value.what
    assert "80 S" in refused.value.enough
    assert "EPSG:3413" in refused.value.todo


@pytest.mark.parametrize(
    ("latitude", "crs"),
    [(84.0, "EPSG:32632"), (84.01, "EPSG:3413"), (90.0, "EPSG:3413"), (-80.0, "EPSG:32732"), (-80.01, "EPSG:3031")],
)
def test_beyond_utm_lie_the_polar_grids(latitude: float, crs: str) -> None:
    """Arctic and Antarctic polar stereographic; what is no latitude is refused."""
    assert crs_of(10.0, latitude) == crs
    with pytest.raises(GridError, match=r"no place lies at latitude 90\.01"):
        crs_of(10.0, 90.01)


def test_tiles_cover_the_pole_once() -> None:
    """A cap of half a degree: no gap at the pole or at 180 degrees, no two tiles on the same ground, names unique."""
    cap = area_from_bbox((-180, 89.5, 180, 90))
    found = list(tiles(cap, "EPSG:3413", 30.0))
    ground = onto(cap, "EPSG:3413")
    together = unary_union([t.geobox.extent for t in found])
    assert together is not None
    radius_m = 54_166.0  # of 89.5 N on EPSG:3413, by pyproj
    assert ground.area == pytest.approx(math.pi * radius_m**2, rel=1e-3)
    assert ground.difference(together).area < 900.0
    assert together.area == pytest.approx(len(found) * 15_360.0**2, rel=1e-12)
    assert len({t.id for t in found}) == len(found)
    assert "3413_15360m_E-001_N0000" in {t.id for t in found}


@pytest.mark.parametrize(
    "bbox", [(10, 45, 10, 46), (10, 46, 11, 45), (170, 0, 190, 1), (10, -91, 11, 0), (10, 45, math.nan, 46)]
)
def test_four_numbers_that_are_no_box_are_refused(bbox: tuple[float, ...]) -> None:
    """No width, south beyond north, beyond the Earth, no number."""
    with pytest.raises(GridError) as refused:
        area_from_bbox(bbox)
    assert "antimeridian" in refused.value.todo


def test_a_box_with_west_beyond_east_is_two_halves() -> None:
    """Across the antimeridian, in degrees; one that ends at 180 is one."""
    halves = area_from_bbox((179, -17, -178, -16))
    assert [part.boundingbox.bbox for part in halves.geoms] == [(179, -17, 180, -16), (-180, -17, -178, -16)]
    assert area_from_bbox((180, -17, -178, -16)).boundingbox.bbox == (-180, -17, -178, -16)
    assert not area_from_bbox((179, -17, 180, -16)).is_multi


AREAS = {
    "a box off the corners": box(600_123.0, 5_000_456.0, 607_890.0, 5_006_543.0, UTM),
    "a box on the corners": box(599_040.0, 4_999_680.0, 604_160.0, 5_004_800.0, UTM),
    "a triangle": polygon(
        [(600_000, 5_000_000), (612_000, 5_001_000), (603_000, 5_009_000), (600_000, 5_000_000)], UTM
    ),
    "a box in degrees": area_from_bbox((10.27, 45.14, 10.36, 45.21)),
}


@pytest.mark.parametrize("area", AREAS.values(), ids=AREAS)
def test_tiles_cover_an_area_exactly_once(area: Geometry) -> None:
    """Every place of the area lies in a tile, no two tiles share ground, and none stands apart from the area."""
    found = [t.geobox.extent for t in tiles(area, UTM, 10.0, tile_m=2560.0)]
    local = area.to_crs(UTM, resolution=math.inf)
    together = unary_union(found)
    assert together is not None
    assert local.difference(together).area < 100.0
    assert together.area == pytest.approx(sum(e.area for e in found), rel=1e-12)
    assert all(e.intersection(local).area > 0 for e in found)


def test_the_tiles_of_a_box_on_corners_are_its_own_and_no_more() -> None:
    """A box of two by two tiles gives four, named by column and row, from the north-west row by row."""
    names = [t.id for t in tiles(AREAS["a box on the corners"], UTM, 10.0, tile_m=2560.0)]
    assert names == [f"32632_2560m_E{e:04d}_N{n:04d}" for n in (1954, 1953) for e in (234, 235)]


def test_tiles_do_not_depend_on_the_area() -> None:
    """Two areas that meet give the same tile, pixel for pixel, where they meet."""
    one = {t.id: t.geobox for t in tiles(box(600_000, 5_000_000, 606_000, 5_006_000, UTM), UTM, 10.0, tile_m=2560.0)}
    two = {t.id: t.geobox for t in tiles(box(604_321, 5_004_321, 611_000, 5_011_000, UTM), UTM, 10.0, tile_m=2560.0)}
    assert len(set(one) & set(two)) == 2
    assert all(one[name] == two[name] for name in set(one) & set(two))
    assert len({(b.affine.c, b.affine.f) for b in (one | two).values()}) == len(one | two)


def test_pixels_of_any_size_share_corners() -> None:
    """Instruments of 2, 10 and 30 m get tiles of the same name over the same ground, north up."""
    area = box(600_000, 5_000_000, 600_010, 5_000_010, UTM)
    found = [next(tiles(area, UTM, step)) for step in (2.0, 10.0, 30.0)]
    assert {t.id for t in found} == {"32632_15360m_E0039_N0325"}
    assert [t.geobox.shape for t in found] == [(7680, 7680), (1536, 1536), (512, 512)]
    assert {t.geobox.extent.boundingbox.bbox for t in found} == {(599_040.0, 4_992_000.0, 614_400.0, 5_007_360.0)}
    assert found[1].geobox.affine == Affine(10, 0, 599_040, 0, -10, 5_007_360)


def test_pixels_that_do_not_fill_a_tile_are_refused() -> None:
    """7 m do not divide 2560 m."""
    with pytest.raises(GridError, match=r"7\.0 m do not fill a tile of 2560\.0 m") as refused:
        list(tiles(AREAS["a triangle"], UTM, 7.0, tile_m=2560.0))
    assert "multiple" in refused.value.enough


def test_less_than_a_pixel_makes_no_tile() -> None:
    """An area that spills over a tile's edge by a rounding error does not call for the next tile."""
    area = box(599_040.0, 4_999_680.0, 601_600.0 + 1e-3, 5_002_240.0, UTM)
    assert len(list(tiles(area, UTM, 10.0, tile_m=2560.0))) == 1


def test_an_area_smaller_than_a_pixel_has_its_tile() -> None:
    """A garden of 8 by 8 m has a tile at 30 m, and at most four where tiles meet under it."""
    for x, y, count in ((605_000.0, 5_000_000.0, 1), (599_036.0, 4_992_004.0, 4), (599_040.0, 5_000_000.0, 1)):
        assert len(list(tiles(box(x, y - 8, x + 8, y, UTM), UTM, 30.0))) == count


def test_a_rasters_own_grid_is_kept_to_the_last_digit() -> None:
    """A rotated affine is taken as it is; equal grids give one tile, another affine or shape another."""
    affine = (9.9, 1.2345678901, 600_000.123456789, 1.2, -9.87654321, 5e6)
    tile = native((30, 40), affine, UTM)
    assert tuple(tile.geobox.affine)[:6] == affine
    assert tile.geobox.shape == (30, 40)
    assert tile == native((30, 40), affine, UTM)
    others = [
        native((30, 41), affine, UTM),
        native((30, 40), (*affine[:5], 5e6 + 1), UTM),
        native((30, 40), affine, "EPSG:32633"),
    ]
    assert len({tile.id, *(o.id for o in others)}) == 4


def test_the_whole_of_tiles_holds_them_all() -> None:
    """The GeoBox over two tiles that touch at a corner is two by two tiles, pixel corners kept."""
    boxes = [
        GeoBox((64, 64), Affine(10, 0, 640, 0, -10, 1280), UTM),
        GeoBox((64, 64), Affine(10, 0, 0, 0, -10, 640), UTM),
    ]
    assert whole(boxes) == GeoBox((128, 128), Affine(10, 0, 0, 0, -10, 1280), UTM)
