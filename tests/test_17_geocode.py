"""Radar pixels find their places: against closed forms, a real product's annotated points and its own polynomials."""

from __future__ import annotations

import dataclasses
import os
import xml.etree.ElementTree as ElementTree
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.rpc import RPC

from catalog.errors import GeolocationError
from catalog.geocode import (
    Dem,
    RadarGrid,
    bistatic_reference_s,
    geocode,
    image_coordinates,
    incidence_angle,
    place_by_rpc,
    refuse_affine,
)

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[2] / "shared" / "realdata"))
ORBIT_M, RATE = 7_070_000.0, 1.05e-3
SLANT_0_M, SPACING_M = 850_000.0, 10.0
LIGHT = 299_792_458.0


def circular_grid(**changes: object) -> RadarGrid:
    """A satellite on a circle in the plane of y = 0, northbound over longitude 0, looking right."""
    time_s = np.arange(0.0, 61.0, 10.0)
    angle = RATE * time_s
    zero = np.zeros_like(angle)
    grid = RadarGrid(
        orbit_time_s=time_s,
        orbit_position_m=ORBIT_M * np.stack([np.cos(angle), zero, np.sin(angle)], axis=1),
        orbit_velocity_m_s=ORBIT_M * RATE * np.stack([-np.sin(angle), zero, np.cos(angle)], axis=1),
        first_line_s=20.0,
        line_interval_s=1.5e-3,
        conversion_time_s=np.array([15.0, 25.0]),
        conversion_origin_m=np.array([SLANT_0_M, SLANT_0_M]),
        conversion_coefficients=np.array([[0.0, 1.6, 1e-7], [100.0, 1.6, 1e-7]]),
        range_pixel_spacing_m=SPACING_M,
        lines=2000,
        samples=3000,
    )
    return dataclasses.replace(grid, **changes)  # type: ignore[arg-type]


def targets(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.uniform(4.2, 4.6, n), rng.uniform(1.25, 1.4, n), rng.uniform(-50, 3000, n)


def closed_form(lon: np.ndarray, lat: np.ndarray, height_m: np.ndarray) -> tuple[np.ndarray, ...]:
    """Zero-Doppler time, slant range, satellite and target of the circular orbit, with pyproj's ellipsoid."""
    target = np.stack(Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True).transform(lon, lat, height_m))
    angle = np.arctan2(target[2], target[0])
    satellite = ORBIT_M * np.stack([np.cos(angle), 0 * angle, np.sin(angle)])
    return angle / RATE, np.linalg.norm(target - satellite, axis=0), satellite, target


def test_circular_orbit_has_a_closed_form() -> None:
    """On a circle P . V = 0 gives t = atan2(Pz, Px) / rate; line and pixel agree to 0.001."""
    grid = circular_grid()
    longitude, latitude, height_m = targets()
    t, slant_m, satellite, p = closed_form(longitude, latitude, height_m)
    d = slant_m - SLANT_0_M
    ground_m = 1.6 * d + 1e-7 * d**2 + 100 * np.clip((t - 15) / 10, 0, 1)
    line, pixel = image_coordinates(grid, longitude, latitude, height_m)
    np.testing.assert_allclose(line, (t - 20) / 1.5e-3, atol=1e-3)
    np.testing.assert_allclose(pixel, ground_m / SPACING_M, atol=1e-3)
    cosine = np.sum((satellite - p) * up(longitude, latitude), axis=0) / slant_m
    np.testing.assert_allclose(
        incidence_angle(grid, longitude, latitude, height_m), np.degrees(np.arccos(cosine)), atol=1e-6
    )


def up(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def test_bulk_bistatic_correction_moves_lines_by_half_the_range_difference() -> None:
    """With a reference, a line moves by -(2R/c - reference) / 2 over the interval, and the reference is found again."""
    plain, reference_s = circular_grid(), 2 * 870_000.0 / LIGHT
    longitude, latitude, height_m = targets()
    line, pixel = image_coordinates(plain, longitude, latitude, height_m)
    moved, same = image_coordinates(
        dataclasses.replace(plain, bistatic_reference_s=reference_s), longitude, latitude, height_m
    )
    np.testing.assert_array_equal(pixel, same)
    slant_m = closed_form(longitude, latitude, height_m)[1]
    np.testing.assert_allclose((line - moved) * 1.5e-3, slant_m / LIGHT - reference_s / 2, atol=1e-9)
    tau_s = np.linspace(5.3e-3, 6.4e-3, 30)
    lines = np.arange(30.0) * 60
    annotated_s = plain.first_line_s + lines * plain.line_interval_s + (tau_s - reference_s) / 2
    assert bistatic_reference_s(plain, lines, annotated_s, tau_s) == pytest.approx(reference_s, abs=1e-9)
    on_time = plain.first_line_s + lines * plain.line_interval_s
    assert bistatic_reference_s(plain, lines, on_time, tau_s) is None
    with pytest.raises(GeolocationError, match="bulk correction"):
        bistatic_reference_s(plain, lines, on_time + np.linspace(-0.1, 0.1, 30), tau_s)


def test_places_the_radar_cannot_see_are_nan() -> None:
    """The mirror image on the other side of the track, a place beyond the orbit and a NaN height have no pixel."""
    line, pixel = image_coordinates(
        circular_grid(), np.array([-4.4, 4.4, 4.4, 4.4]), np.array([1.3, 40.0, 1.3, 1.3]), np.array([0, 0, np.nan, 0.0])
    )
    assert np.isnan(line).tolist() == [True, True, True, False]
    assert np.isnan(pixel).tolist() == [True, True, True, False]


def ramp(grid: RadarGrid) -> xr.DataArray:
    line, pixel = np.meshgrid(np.arange(grid.lines), np.arange(grid.samples), indexing="ij")
    data = np.stack([1 + 0.001 * line + 0.002 * pixel, 5 - 0.001 * line]).astype("float32")
    return xr.DataArray(data, dims=("band", "y", "x"), coords={"band": ["VV", "VH"]}, attrs={"units": "1"})


def geobox_at(longitude: float, latitude: float, shape: tuple[int, int] = (40, 50)) -> GeoBox:
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True).transform(longitude, latitude)
    return GeoBox(shape, Affine(10, 0, round(x, -1), 0, -10, round(y, -1)), "EPSG:32631")


def test_geocoding_a_ramp_gives_the_ramp_at_each_pixels_coordinates() -> None:
    """A power linear in line and pixel is sampled exactly; outside is NaN; a window and a lazy array change nothing."""
    grid = circular_grid(samples=1720)
    power = ramp(grid)
    longitude, latitude = 4.37, 1.29
    geobox = geobox_at(longitude, latitude)
    height = xr.DataArray(np.linspace(0, 400, 2000).reshape(40, 50), dims=("y", "x"))
    out = geocode(power, grid, geobox, height)
    x, y = np.meshgrid(out.x, out.y)
    lon, lat = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(x, y)
    line, pixel = image_coordinates(grid, lon, lat, height.values)
    inside = (pixel <= grid.samples - 1) & (pixel >= 0) & (line >= 0) & (line <= grid.lines - 1)
    assert inside.mean() > 0.1
    expected = 1 + 0.001 * line + 0.002 * pixel
    np.testing.assert_allclose(out.sel(band="VV").values[inside], expected[inside], atol=2e-6)
    assert np.isnan(out.sel(band="VV").values[pixel > grid.samples]).all()
    assert out.attrs["units"] == "1"
    assert out.odc.geobox == geobox
    top, left = int(line.min()) - 3, int(max(pixel.min(), 0)) - 3
    window = power.isel(y=slice(top, None), x=slice(max(left, 0), None))
    window = window.assign_coords(y=np.arange(top, grid.lines), x=np.arange(max(left, 0), grid.samples))
    xr.testing.assert_allclose(out, geocode(window.chunk({"y": 100}), grid, geobox, height))


def test_a_shift_is_folded_into_the_one_resampling() -> None:
    """A scene shifted by (30, -20) m shows at x + 30, y - 20 what it showed at x, y, up to the radar's curvature."""
    grid = circular_grid()
    power, geobox = ramp(grid), geobox_at(4.37, 1.29)
    still = geocode(power, grid, geobox, None)
    moved = geocode(power, grid, geobox, None, shift_m=(30.0, -20.0))
    np.testing.assert_allclose(moved.values[:, 2:, 3:], still.values[:, :-2, :-3], atol=1e-5)


def test_missing_power_weighs_nothing_and_spreads_less_than_a_pixel() -> None:
    """Where one corner of four is missing a constant stays constant; the hole stays a hole."""
    grid = circular_grid()
    power, geobox = xr.ones_like(ramp(grid)) * 3, geobox_at(4.37, 1.29)
    lon, lat = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(
        geobox.affine.c + 255, geobox.affine.f - 205
    )
    line, pixel = image_coordinates(grid, np.array([lon]), np.array([lat]), 0.0)
    row, column = int(line[0]), int(pixel[0])
    power[:, row - 4 : row + 6, column - 4 : column + 6] = np.nan
    out = geocode(power, grid, geobox, None).values
    assert set(np.unique(out[np.isfinite(out)])) == {3.0}
    assert np.isnan(out[0, 20, 25])
    assert 50 < np.isnan(out[0]).sum() < 250


def test_without_heights_the_result_says_so_with_the_displacement() -> None:
    """The attributes name the ellipsoid and how far 100 m of relief moves a place."""
    grid = circular_grid()
    note = geocode(ramp(grid), grid, geobox_at(4.37, 1.29), None).attrs["terrain"]
    angle = incidence_angle(grid, np.array([4.37]), np.array([1.29]), 0.0)[0]
    assert "ellipsoid" in note
    assert f"{100 / np.tan(np.radians(angle)):.0f} m" in note


def test_bad_geometry_is_refused() -> None:
    """Heights on another grid, an orbit that ends within the image, times that go back, an affine on radar pixels."""
    grid = circular_grid()
    power, geobox = ramp(grid), geobox_at(4.37, 1.29)
    with pytest.raises(GeolocationError, match="heights are"):
        geocode(power, grid, geobox, xr.DataArray(np.zeros((4, 4)), dims=("y", "x")))
    with pytest.raises(GeolocationError, match="not equally spaced"):
        geocode(power[:, :, :3].assign_coords(x=[0, 1, 5]), grid, geobox, None)
    with pytest.raises(GeolocationError, match="orbit covers"):
        circular_grid(first_line_s=59.0)
    with pytest.raises(GeolocationError, match="backwards"):
        circular_grid(conversion_time_s=np.array([25.0, 15.0]))
    with pytest.raises(GeolocationError, match="radar geometry"):
        refuse_affine("S1B_IW_GRDH", "radar-grid", (10.0, 0.0, 500000.0, 0.0, -10.0, 4.6e6))
    refuse_affine("S1B_IW_GRDH", "radar-grid", None)
    refuse_affine("S2A", "affine", (10.0, 0.0, 500000.0, 0.0, -10.0, 4.6e6))


def real_grid() -> tuple[RadarGrid, dict[str, np.ndarray]]:
    """Grid and annotated points of the real GRD, read by hand here so that no parser of ours is between."""
    found = sorted(REALDATA.glob("s1_safe_metadata/*GRDH*/annotation/*-vv-*.xml"))
    if not found:
        pytest.skip(f"no Sentinel-1 metadata in {REALDATA}")
    root = ElementTree.parse(found[0]).getroot()
    epoch = datetime(2021, 4, 1, 5, 25)

    def number(element: ElementTree.Element, tag: str) -> float:
        return float(element.findtext(tag, ""))

    def seconds(element: ElementTree.Element, tag: str) -> float:
        return (datetime.fromisoformat(element.findtext(tag, "")) - epoch).total_seconds()

    orbit, conversion = root.findall(".//orbit"), root.findall(".//coordinateConversionList/coordinateConversion")
    grid = RadarGrid(
        orbit_time_s=np.array([seconds(o, "time") for o in orbit]),
        orbit_position_m=np.array([[number(o, f"position/{c}") for c in "xyz"] for o in orbit]),
        orbit_velocity_m_s=np.array([[number(o, f"velocity/{c}") for c in "xyz"] for o in orbit]),
        first_line_s=seconds(root, ".//productFirstLineUtcTime"),
        line_interval_s=number(root, ".//azimuthTimeInterval"),
        conversion_time_s=np.array([seconds(c, "azimuthTime") for c in conversion]),
        conversion_origin_m=np.array([number(c, "sr0") for c in conversion]),
        conversion_coefficients=np.array(
            [[float(v) for v in c.findtext("srgrCoefficients", "").split()] for c in conversion]
        ),
        range_pixel_spacing_m=number(root, ".//rangePixelSpacing"),
        lines=int(number(root, ".//numberOfLines")),
        samples=int(number(root, ".//numberOfSamples")),
    )
    points = root.findall(".//geolocationGridPoint")
    tags = ("line", "pixel", "longitude", "latitude", "height", "slantRangeTime", "incidenceAngle")
    annotated = {tag: np.array([number(p, tag) for p in points]) for tag in tags}
    annotated["azimuthTime"] = np.array([seconds(p, "azimuthTime") for p in points])
    return grid, annotated


def test_annotated_points_of_a_real_grd_are_reproduced() -> None:
    """The 210 annotated points, 0 to 2300 m high, come out within 0.1 line and 0.1 pixel (0.034 and 0.008)."""
    grid, points = real_grid()
    reference_s = bistatic_reference_s(grid, points["line"], points["azimuthTime"], points["slantRangeTime"])
    assert reference_s == pytest.approx(5.874e-3, abs=1e-6)
    grid = dataclasses.replace(grid, bistatic_reference_s=reference_s, conversion_between="nearest")
    place = points["longitude"], points["latitude"], points["height"]
    line, pixel = image_coordinates(grid, *place)
    assert np.abs(line - points["line"]).max() < 0.1
    assert np.abs(pixel - points["pixel"]).max() < 0.1
    np.testing.assert_allclose(incidence_angle(grid, *place), points["incidenceAngle"], atol=0.05)
    # The points lie 0.09 s before a polynomial each; between polynomials 16 pixels apart that is 1.5 pixels.
    line, pixel = image_coordinates(dataclasses.replace(grid, conversion_between="linear"), *place)
    assert np.abs(pixel - points["pixel"]).max() < 2.0


LON, LAT, SLOPE_PER_M = 12.0, 42.0, 0.004


def tilted_rpc() -> RPC:
    """Line = (42 - latitude) 1e4 + 500, pixel = (longitude - 12) 1e4 + 400 + 0.04 height."""
    one = [1.0, *[0.0] * 19]
    return RPC(
        height_off=500.0,
        height_scale=1000.0,
        lat_off=LAT,
        lat_scale=0.1,
        line_den_coeff=one,
        line_num_coeff=[0.0, 0.0, -1.0, 0.0, *[0.0] * 16],
        line_off=500.0,
        line_scale=1000.0,
        long_off=LON,
        long_scale=0.1,
        samp_den_coeff=one,
        samp_num_coeff=[0.0, 1.0, 0.0, 0.04, *[0.0] * 16],
        samp_off=420.0,
        samp_scale=1000.0,
    )


def plane_dem(path: Path, crs: str = "EPSG:4326") -> str:
    """Heights of 1000 m per degree east of 12, from 0.2 degrees around the scene."""
    step = 0.001
    longitude = LON - 0.2 + (np.arange(400) + 0.5) * step
    heights = np.broadcast_to(300 + 1000 * (longitude - LON), (400, 400)).astype("float32")
    profile = {"driver": "GTiff", "width": 400, "height": 400, "count": 1, "dtype": "float32", "crs": crs}
    with rasterio.open(path, "w", transform=Affine(step, 0, LON - 0.2, 0, -step, LAT + 0.2), **profile) as dem:
        dem.write(heights, 1)
    return str(path)


def test_rpc_at_one_height_has_a_closed_form() -> None:
    """Linear polynomials invert to 1e-9 degrees; the stated error is below a millimetre; a window is a window."""
    longitude, latitude, height = place_by_rpc(tilted_rpc(), (100, 90), 250.0)
    line, pixel = np.meshgrid(np.arange(100), np.arange(90), indexing="ij")
    np.testing.assert_allclose(longitude.values, LON + (pixel - 400 - 0.04 * 250) * 1e-4, atol=1e-9)
    np.testing.assert_allclose(latitude.values, LAT - (line - 500) * 1e-4, atol=1e-9)
    assert (height.values == 250).all()
    assert longitude.attrs["interpolation_error_m"] < 1e-3
    window = place_by_rpc(tilted_rpc(), (10, 20), 250.0, origin=(30, 40))[0]
    np.testing.assert_allclose(window.values, longitude.values[30:40, 40:60], atol=1e-9)
    assert (window.y.values[0], window.x.values[0]) == (30, 40)


def test_rpc_on_a_plane_meets_it_where_algebra_does(tmp_path: Path) -> None:
    """On h = 300 + 1000 (lon - 12), lon - 12 = (pixel - 400 - 12) 1e-4 / 1.004 to a tenth of a metre."""
    longitude, latitude, height = place_by_rpc(
        tilted_rpc(), (60, 90), [Dem(plane_dem(tmp_path / "dem.tif"), "ellipsoid")]
    )
    _, pixel = np.meshgrid(np.arange(60), np.arange(90), indexing="ij")
    east = (pixel - 400 - 0.04 * 300) * 1e-4 / 1.004
    np.testing.assert_allclose(longitude.values, LON + east, atol=1e-6)
    np.testing.assert_allclose(height.values, 300 + 1000 * east, atol=0.1)
    assert np.isfinite(latitude.values).all()


def test_rpc_refuses_what_it_cannot_place(tmp_path: Path) -> None:
    """Heights above a geoid, a missing DEM, a DEM elsewhere and a NaN height are refused, not guessed."""
    geoid = plane_dem(tmp_path / "geoid.tif", "EPSG:9707")
    far = tilted_rpc()
    far.long_off = 40.0
    for height, rpc in (
        ([Dem(geoid, "EGM96")], tilted_rpc()),
        ([Dem(str(tmp_path / "none.tif"), "ellipsoid")], tilted_rpc()),
        ([Dem(plane_dem(tmp_path / "dem.tif"), "ellipsoid")], far),
        (float("nan"), tilted_rpc()),
    ):
        with pytest.raises(GeolocationError):
            place_by_rpc(rpc, (40, 40), height)


def test_rpc_of_a_real_scene_returns_to_its_pixels() -> None:
    """A real product's polynomials, evaluated here at the places found, give the pixels back to 0.01 px."""
    found = sorted(REALDATA.glob("height_s2p_triplet/input/img_01.tif"))
    if not found:
        pytest.skip(f"no RPC scene in {REALDATA}")
    with rasterio.open(found[0]) as scene:
        rpc, shape = scene.rpcs, scene.shape
    longitude, latitude, height = (v.values for v in place_by_rpc(rpc, shape, rpc.height_off))
    x = (longitude - rpc.long_off) / rpc.long_scale
    y = (latitude - rpc.lat_off) / rpc.lat_scale
    z = (height - rpc.height_off) / rpc.height_scale
    one = np.ones_like(x)
    terms = [one, x, y, z, x * y, x * z, y * z, x * x, y * y, z * z, x * y * z, x**3, x * y * y, x * z * z]
    terms += [x * x * y, y**3, y * z * z, x * x * z, y * y * z, z**3]

    def ratio(top: list[float], bottom: list[float]) -> np.ndarray:
        return sum(a * t for a, t in zip(top, terms, strict=True)) / sum(
            b * t for b, t in zip(bottom, terms, strict=True)
        )

    line = ratio(rpc.line_num_coeff, rpc.line_den_coeff) * rpc.line_scale + rpc.line_off
    pixel = ratio(rpc.samp_num_coeff, rpc.samp_den_coeff) * rpc.samp_scale + rpc.samp_off
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    assert np.abs(line - rows).max() < 0.01
    assert np.abs(pixel - columns).max() < 0.01
