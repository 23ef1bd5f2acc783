"""Heights, terrain and affines: what a DEM counts from, what relief does to radar, what is refused or never mixes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer, datadir
from pyproj.transformer import TransformerGroup

from catalog.errors import CatalogError, GeolocationError, MetadataError
from catalog.geocode import (
    Dem,
    RadarGrid,
    ellipsoidal_heights,
    flatten,
    gamma_area,
    geocode,
    image_coordinates,
    incidence_angle,
    look_on_terrain,
    refuse_affine,
    sight,
    surroundings,
    terrain_on,
    vertical_reference,
)
from catalog.geocode.terrain import radar_axes
from catalog.register import register_dem
from catalog.search import DEMS, dems
from catalog.serve import served

ORBIT_M, RATE = 7_070_000.0, 1.05e-3
EAST, NORTH = 652_000.0, 142_000.0
"""UTM 31 N, under the orbit's right side."""


def circular(**changes: Any) -> RadarGrid:
    """A satellite on a circle in the plane of y = 0, northbound over longitude 0, looking right, 10 m in slant."""
    time_s = np.arange(0.0, 61.0, 10.0)
    angle, zero = RATE * time_s, np.zeros(time_s.size)
    position = ORBIT_M * np.stack([np.cos(angle), zero, np.sin(angle)], axis=1)
    velocity = ORBIT_M * RATE * np.stack([-np.sin(angle), zero, np.cos(angle)], axis=1)
    grid = RadarGrid.in_slant_range(
        (time_s, position, velocity), (15.0, 1.5e-3, 9000), (830_000.0, 10.0, 9000), looks_right=True
    )
    return dataclasses.replace(grid, **changes)


def tile(n: int = 200, pixel_m: float = 10.0, east: float = EAST, north: float = NORTH) -> GeoBox:
    return GeoBox((n, n), Affine(pixel_m, 0, east, 0, -pixel_m, north), "EPSG:32631")


def write(path: Path, data: np.ndarray, transform: Affine, crs: str | None, nodata: float | None = None) -> str:
    profile = {"driver": "GTiff", "width": data.shape[1], "height": data.shape[0], "count": 1, "dtype": data.dtype}
    with rasterio.open(path, "w", transform=transform, crs=crs, nodata=nodata, **profile) as out:
        out.write(data, 1)
    return str(path)


def level(path: Path, height_m: float, crs: str | None = "EPSG:32631", columns: slice = slice(0, 400)) -> str:
    """400 x 400 pixels of 10 m of one height around the tile, or some columns of it."""
    data = np.full((400, 400), height_m, "float32")[:, columns]
    return write(path, data, Affine(10, 0, EAST - 1000 + 10 * columns.start, 0, -10, NORTH + 1000), crs)


def test_a_slant_range_image_is_placed_by_its_own_law() -> None:
    """Sample = (R - first) / spacing and line = (t - start) / interval, with t and R of the circle's closed form."""
    rng = np.random.default_rng(4)
    longitude, latitude, height_m = rng.uniform(4.2, 4.6, 50), rng.uniform(1.2, 1.4, 50), rng.uniform(-50, 4000, 50)
    place = np.stack(
        Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True).transform(longitude, latitude, height_m)
    )
    angle = np.arctan2(place[2], place[0])
    slant_m = np.linalg.norm(place - ORBIT_M * np.stack([np.cos(angle), 0 * angle, np.sin(angle)]), axis=0)
    line, pixel = image_coordinates(circular(), longitude, latitude, height_m)
    np.testing.assert_allclose(line, (angle / RATE - 15) / 1.5e-3, atol=1e-3)
    np.testing.assert_allclose(pixel, (slant_m - 830_000) / 10, atol=1e-3)
    np.testing.assert_allclose(sight(circular(), longitude, latitude, height_m).slant_m, slant_m, atol=1e-3)


NO_ORBIT = {"orbit_time_s": np.zeros(0), "orbit_position_m": np.zeros((0, 3)), "orbit_velocity_m_s": np.zeros((0, 3))}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (NO_ORBIT, "0 state"),
        ({"first_line_s": 50.0}, "orbit covers"),
        ({"orbit_position_m": np.full((7, 3), np.nan)}, "not a number"),
        ({"line_interval_s": 0.0}, "place nothing"),
        ({"range_pixel_spacing_m": float("nan")}, "place nothing"),
    ],
)  # fmt: skip
def test_an_orbit_that_places_nothing_is_refused_in_four_parts(change: dict[str, Any], told: str) -> None:
    """Empty, too short, not a number, without timing."""
    with pytest.raises(GeolocationError, match=told) as caught:
        circular(**change)
    four_parts(caught.value)


def four_parts(error: CatalogError) -> None:
    assert error.what
    assert error.item
    assert error.enough
    assert error.todo


def test_proj_would_ignore_a_missing_geoid_and_we_refuse(tmp_path: Path) -> None:
    """Without its grid PROJ returns 100.0 m for 100.0 m; we name the grid and how to get it."""
    for reference, code, name in (
        ("EGM2008", "EPSG:9518", "us_nga_egm08_25"),
        ("EGM96", "EPSG:9707", "us_nga_egm96_15"),
    ):
        if TransformerGroup(code, "EPSG:4979", allow_ballpark=False).transformers:
            pytest.skip(f"PROJ has the grid of {reference} here")
        silent = Transformer.from_crs(code, "EPSG:4979", always_xy=True).transform(12.0, 42.0, 100.0)[2]
        assert silent == 100.0
        with pytest.raises(GeolocationError, match=reference) as caught:
            ellipsoidal_heights([Dem(level(tmp_path / f"{reference}.tif", 100.0), reference, id="north")], tile())
        four_parts(caught.value)
        assert name in caught.value.todo
        assert "projsync" in caught.value.todo
        assert "PROJ_DATA" in caught.value.todo


def test_a_grid_that_proj_has_is_used(tmp_path: Path) -> None:
    """With the grid file in PROJ's data folder heights become ellipsoidal: 100 m + 17 m of a constant geoid."""
    step = 0.5
    grid = np.full((361, 721), 17.0, "float32")
    write(
        tmp_path / "us_nga_egm96_15.tif", grid, Affine(step, 0, -180 - step / 2, 0, -step, 90 + step / 2), "EPSG:4979"
    )
    with rasterio.open(tmp_path / "us_nga_egm96_15.tif", "r+") as made:
        made.update_tags(TYPE="VERTICAL_OFFSET_GEOGRAPHIC_TO_VERTICAL")
        made.update_tags(1, DESCRIPTION="geoid_undulation")
        made.set_band_description(1, "geoid_undulation")
    before = datadir.get_data_dir()
    datadir.append_data_dir(str(tmp_path))
    try:
        found = ellipsoidal_heights([Dem(level(tmp_path / "dem.tif", 100.0), "EGM96")], tile(40))
    finally:
        datadir.set_data_dir(before)
    np.testing.assert_allclose(found.values, 117.0, atol=1e-3)


def test_a_geoid_given_as_a_raster_is_added(tmp_path: Path) -> None:
    """h = H + N with N linear in longitude, to a centimetre; one that does not reach the area is refused."""
    step = 0.01
    longitude = 4.0 + (np.arange(100) + 0.5) * step
    n_m = np.broadcast_to(40 + 10 * (longitude - 4), (100, 100)).astype("float32")
    geoid = write(tmp_path / "n.tif", n_m, Affine(step, 0, 4.0, 0, -step, 1.8), "EPSG:4326")
    dem = Dem(level(tmp_path / "dem.tif", 100.0), "NAVD88 height", geoid)
    found = ellipsoidal_heights([dem], tile())
    lon, _ = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(*np.meshgrid(found.x, found.y))
    np.testing.assert_allclose(found.values, 140 + 10 * (lon - 4), atol=0.01)
    far = write(tmp_path / "far.tif", n_m, Affine(step, 0, 40.0, 0, -step, 1.8), "EPSG:4326")
    with pytest.raises(GeolocationError, match="does not reach") as caught:
        ellipsoidal_heights([dataclasses.replace(dem, geoid=far)], tile())
    four_parts(caught.value)


def test_dems_side_by_side_become_one_surface(tmp_path: Path) -> None:
    """Two DEMs of two datums cover a tile together; where none reaches there is NaN, and the first decides."""
    west = Dem(level(tmp_path / "west.tif", 100.0, columns=slice(0, 200)), "ellipsoid")
    east = Dem(level(tmp_path / "east.tif", 50.0, columns=slice(150, 280)), "ellipsoid")
    found = ellipsoidal_heights([west, east], tile()).values
    assert (found[:, :100] == 100).all()
    assert (found[:, 101:180] == 50).all()
    assert np.isnan(found[:, 181:]).all()
    assert (ellipsoidal_heights([east, west], tile()).values[:, 51:180] == 50).all()


def test_unusable_heights_are_refused_in_four_parts(tmp_path: Path) -> None:
    """No CRS, all NaN, elsewhere, an unknown datum, a missing or truncated file."""
    here, far = (Affine(10, 0, EAST, 0, -10, NORTH), "EPSG:32631"), (Affine(10, 0, 0, 0, -10, 0), "EPSG:32631")
    empty = write(tmp_path / "nan.tif", np.full((400, 400), np.nan, "float32"), *here)
    whole = Path(level(tmp_path / "whole.tif", 5.0)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 3])
    bad = (
        Dem(level(tmp_path / "bare.tif", 5.0, crs=None), "ellipsoid"),
        Dem(empty, "ellipsoid"),
        Dem(write(tmp_path / "far.tif", np.ones((9, 9), "float32"), *far), "ellipsoid"),
        Dem(level(tmp_path / "datum.tif", 5.0), "NAVD88 height"),
        Dem(level(tmp_path / "silent.tif", 5.0), ""),
        Dem(str(tmp_path / "none.tif"), "ellipsoid"),
        Dem(str(tmp_path / "cut.tif"), "ellipsoid"),
    )  # fmt: skip
    for dem in bad:
        with pytest.raises(GeolocationError) as caught:
            ellipsoidal_heights([dem], tile())
        four_parts(caught.value)


def test_an_item_of_heights_says_what_they_count_from(tmp_path: Path, validate_offline: Callable[[Any], None]) -> None:
    """By word, by the file's vertical CRS, by Copernicus's file name, else assumed and said so; no contradictions."""
    lonlat = Affine(0.01, 0, 4, 0, -0.01, 2)
    flat = np.full((30, 30), 7.0, "float32")
    cases = (
        (write(tmp_path / "a.tif", flat, lonlat, "EPSG:9707"), None, ("EGM96", "vertical CRS of the file")),
        (write(tmp_path / "b.tif", flat, lonlat, "EPSG:9518"), None, ("EGM2008", "vertical CRS of the file")),
        (write(tmp_path / "c.tif", flat, lonlat, "EPSG:4979"), None, ("ellipsoid", "vertical CRS of the file")),
        (write(tmp_path / "Copernicus_DSM_COG_10_N01_00_E004_00_DEM.tif", flat, lonlat, "EPSG:4326"), None,
         ("EGM2008", "Copernicus DEM by its file name")),
        (write(tmp_path / "d.tif", flat, lonlat, "EPSG:4326"), "EGM96", ("EGM96", "given at registration")),
        (write(tmp_path / "e.tif", flat, lonlat, "EPSG:4326"), None,
         ("ellipsoid", "assumed: the file names no vertical CRS")),
    )  # fmt: skip
    for path, said, (reference, source) in cases:
        (item,) = register_dem(path, tmp_path / "scenes", height_reference=said)
        validate_offline(item)
        assert item.properties["ringmoe:height_reference"] == reference
        assert item.properties["ringmoe:height_reference_source"] == source
    with pytest.raises(MetadataError, match="count from EGM96, you say EGM2008"):
        register_dem(cases[0][0], tmp_path / "other", height_reference="EGM2008")
    with pytest.raises(MetadataError, match="NAVD88"):
        register_dem(cases[5][0], tmp_path / "other", height_reference="NAVD88 height")
    geoid = write(tmp_path / "n.tif", flat, lonlat, "EPSG:4326")
    register_dem(cases[5][0], tmp_path / "given", height_reference="NAVD88 height", geoid=geoid)
    with served(tmp_path / "given") as url:
        (found,) = dems(url, bbox=(3, 1, 5, 3))
    assert (found.height_reference, found.geoid) == ("NAVD88 height", geoid)
    assert DEMS["cop-dem-glo-30"] == ("data", "EGM2008")
    assert vertical_reference("EPSG:5498") == "NAVD88 height"


def test_level_terrain_has_the_ellipsoids_angles_and_gamma_nought() -> None:
    """On level ground the local angle is the ellipsoid's, nothing overlaps, and sigma / area = sigma / cos to 1e-3."""
    grid, box = circular(), tile()
    height = xr.DataArray(np.full((200, 200), 800.0, "float32"), dims=("y", "x"))
    found = look_on_terrain(grid, box, height)
    inner = slice(5, -5)
    lon, lat = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(*np.meshgrid(found.x, found.y))
    np.testing.assert_allclose(found.incidence_angle, incidence_angle(grid, lon, lat, 800.0), atol=1e-4)
    np.testing.assert_allclose(
        found.local_incidence_angle[inner, inner], found.incidence_angle[inner, inner], atol=0.01
    )
    assert int(found.layover.sum()) == int(found.shadow.sum()) == 0
    area = gamma_area(grid, box, height, found.shadow)
    sigma = xr.DataArray(np.full((1, 200, 200), 0.2, "float32"), dims=("band", "y", "x"))
    gamma = flatten(sigma, area, found.incidence_angle).values[0, 20:-20, 20:-20]
    expected = 0.2 / np.cos(np.radians(found.incidence_angle.values))[20:-20, 20:-20]
    np.testing.assert_allclose(gamma, expected, rtol=1e-3)


def away_m(grid: RadarGrid, box: GeoBox) -> np.ndarray:
    """Metres away from the sensor of every pixel, 0 at the tile's centre."""
    centre, away, *_ = radar_axes(grid, box, 0.0)
    column, row = np.meshgrid(np.arange(box.shape[1]) + 0.5, np.arange(box.shape[0]) + 0.5)
    a = box.affine
    return (a.c + a.a * column - centre[0]) * away[0] + (a.f + a.e * row - centre[1]) * away[1]


@pytest.mark.parametrize("slope_deg", [-15.0, 12.0, 20.0])
def test_a_tilted_plane_has_a_closed_form(slope_deg: float) -> None:
    """Tilted by a towards the radar: local angle = theta - a, gamma nought = beta nought tan(theta - a) (Small)."""
    grid, box = circular(), tile(300)
    rise_m = away_m(grid, box) * np.tan(np.radians(slope_deg))
    height = xr.DataArray((1500 + rise_m).astype("float32"), dims=("y", "x"))
    found = look_on_terrain(grid, box, height)
    inner = slice(70, -70)
    theta = np.radians(found.incidence_angle.values[inner, inner])
    local = theta - np.radians(slope_deg)
    np.testing.assert_allclose(found.local_incidence_angle[inner, inner], np.degrees(local), atol=0.05)
    area = gamma_area(grid, box, height, found.shadow).values[inner, inner]
    np.testing.assert_allclose(np.sin(theta) / area, np.tan(local), rtol=5e-3)
    assert np.median(np.abs(np.sin(theta) / area / np.tan(local) - 1)) < 1e-3


def test_a_block_lays_over_and_shades_by_its_height() -> None:
    """A flat block of H: layover from H / tan before its front to H / tan behind it, shadow H tan behind its back."""
    grid, box = circular(), tile(240)
    v, high_m = away_m(grid, box), 300.0
    height = xr.DataArray(np.where((v > -500) & (v < 200), high_m, 0.0).astype("float32"), dims=("y", "x"))
    found = look_on_terrain(grid, box, height)
    tangent = np.tan(np.radians(float(found.incidence_angle.mean())))
    inner = slice(30, -30)
    for name, first, last in (
        ("layover", -500 - high_m / tangent, -500 + high_m / tangent),
        ("shadow", 200.0, 200 + high_m * tangent),
    ):
        inside = (v > first) & (v < last)
        sure = np.minimum(np.abs(v - first), np.abs(v - last)) > 25
        said = found[name].values == 1
        assert (said == inside)[inner, inner][sure[inner, inner]].mean() > 0.995


def test_what_lies_around_a_tile_shades_it(tmp_path: Path) -> None:
    """A ridge outside the tile, on the radar's side, puts the tile's near edge in shadow; power there is masked."""
    grid, box = circular(), tile(100)
    wide = surroundings(grid, box, 400.0)
    v = away_m(grid, wide)
    edge = away_m(grid, box).min()
    ridge = np.where((v > edge - 200) & (v < edge - 50), 400.0, 0.0).astype("float32")
    dem = Dem(write(tmp_path / "ridge.tif", ridge, wide.affine, "EPSG:32631"), "ellipsoid")
    found = terrain_on(grid, box, [dem], area=True)
    assert found.sizes == {"y": 100, "x": 100}
    near = away_m(grid, box) < edge + 150
    assert found.shadow.values[near].mean() > 0.9
    assert found.shadow.values[away_m(grid, box) > edge + 600].max() == 0
    sigma = xr.DataArray(np.ones((1, 100, 100), "float32"), dims=("band", "y", "x"))
    assert np.isnan(flatten(sigma, found.area, found.incidence_angle).values[0][near]).mean() > 0.5
    np.testing.assert_array_equal(found.x, tile(100).coordinates["x"].values)


def test_layers_need_metres() -> None:
    """A grid in degrees is refused."""
    box = GeoBox((9, 9), Affine(1e-4, 0, 4.4, 0, -1e-4, 1.3), "EPSG:4326")
    with pytest.raises(GeolocationError, match="metres"):
        look_on_terrain(circular(), box, xr.DataArray(np.zeros((9, 9)), dims=("y", "x")))


def test_an_invented_affine_is_explained() -> None:
    """A bounding box divided by a shape, either way round; a transposed shape; the identity claims nothing."""
    bounds, shape = (74.2, -46.8, 77.8, -44.9), (16700, 25300)
    for rows, columns in (shape, shape[::-1]):
        made = ((77.8 - 74.2) / columns, 0.0, 74.2, 0.0, -(46.8 - 44.9) / rows, -44.9)
        with pytest.raises(GeolocationError, match="bounding box divided by its shape") as caught:
            refuse_affine("S1A", "radar-grid", made, shape=shape, bounds=bounds)
        four_parts(caught.value)
    with pytest.raises(GeolocationError, match="gives an affine to a product in radar geometry"):
        refuse_affine("S1A", "rpc", (10.0, 0.0, 5e5, 0.0, -10.0, 4e6), shape=shape, bounds=bounds)
    with pytest.raises(GeolocationError, match="exchanged"):
        refuse_affine("S1A", "radar-grid", None, shape=shape[::-1], file_shape=shape)
    refuse_affine("S1A", "radar-grid", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), shape=shape, bounds=bounds, file_shape=shape)


def test_without_a_dem_the_displacement_is_told_per_hundred_metres() -> None:
    """The note names the ellipsoid and 100 m / tan(incidence), and that is where a place 100 m up is seen."""
    grid, box = circular(), tile(41)
    power = xr.DataArray(np.ones((1, 50, 50), "float32"), dims=("band", "y", "x"), coords={"band": ["VV"]})
    note = geocode(power, grid, box, None).attrs["terrain"]
    told_m = float(note.split(" lies ")[1].split(" m ")[0])
    lon, lat = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(EAST + 205, NORTH - 205)
    slant_m = sight(grid, np.array([lon, lon]), np.array([lat, lat]), np.array([0.0, 100.0])).slant_m
    angle = np.radians(incidence_angle(grid, np.array([lon]), np.array([lat]), 0.0)[0])
    assert told_m == pytest.approx((slant_m[0] - slant_m[1]) / np.sin(angle), abs=1.0)
