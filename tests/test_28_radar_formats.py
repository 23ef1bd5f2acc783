"""Radar products by values: each layout becomes a valid item, and its pixels what a closed form says they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import tiny_products
import tiny_radar as tiny
import xarray as xr
from rasterio.warp import transform_bounds

from catalog import laws
from catalog.calibrate.constants import calibrate, provenance
from catalog.errors import GeolocationError
from catalog.formats import geometry_of, palsar2, sentinel1_slc
from catalog.metadata import sentinel1_bursts
from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sentinel-1-slc": tiny.sentinel1_slc,
    "palsar-2 mosaic": tiny.palsar2_mosaic,
    "palsar-2 L1.5": tiny.palsar2_scene,
    "palsar-2 L1.1": lambda folder: tiny.palsar2_scene(folder, "1.1"),
    "gaofen-3 L2": tiny.gaofen3_l2,
    "capella": tiny.capella_json,
}


def scenes(folder: Path, out: Path) -> list[Scene]:
    found = register(folder, out)
    assert found.failed == ()
    return [Scene.from_item(item) for item in found.items]


def one(make: Callable[[Path], Path], path: Path) -> Scene:
    (path / "product").mkdir()
    return scenes(make(path / "product"), path / "out")[0]


def calibrated(scene: Scene, quantity: str = "") -> tuple[xr.DataArray, xr.DataArray]:
    """Digital numbers and what becomes of them."""
    dn = read_native(scene)
    return dn, calibrate(dn, laws.constants_of(scene, list(scene.bands)), quantity or scene.quantity)


@pytest.mark.parametrize("kind", MAKERS)
def test_each_layout_becomes_a_valid_item(kind: str, tmp_path: Path, validate_offline: Callable[[Any], None]) -> None:
    """Every item passes the core and the extensions it declares; calibrated pixels carry quantity and units."""
    (tmp_path / "product").mkdir()
    found = register(MAKERS[kind](tmp_path / "product"), tmp_path / "out")
    assert found.failed == ()
    for path in (tmp_path / "out").rglob("*.json"):
        validate_offline(path)
    for item in found.items:
        scene = Scene.from_item(item)
        dn, values = calibrated(scene)
        assert values.attrs["quantity"] == scene.quantity
        assert values.attrs["units"] == "1"
        assert values.dtype == (np.complex64 if scene.encoding == "complex" else np.float32)
        np.testing.assert_array_equal(np.isnan(values), np.isnan(dn))
        assert provenance(laws.constants_of(scene, list(scene.bands)))["source"]


def test_slc_bursts_are_products_of_their_own(tmp_path: Path) -> None:
    """Two swaths of two bursts are four items, each with the lines of its burst alone, and zeros as no-data."""
    first, second, third, _ = found = scenes(tiny.sentinel1_slc(tmp_path / "p"), tmp_path / "out")
    names = [f"{tiny.SLC_STEM}_{part}" for part in ("IW1_B1", "IW1_B2", "IW2_B1", "IW2_B2")]
    assert [s.id for s in found] == names
    assert first.datetime < second.datetime
    assert first.datetime == third.datetime
    assert second.properties["ringmoe:burst"] == {"number": 2, "first_line": 12, "lines": 12}
    whole = rasterio.open(next((tmp_path / "p").glob("*/measurement/*iw1-slc-vv*.tiff"))).read(1)
    for scene, lines in ((first, slice(0, 12)), (second, slice(12, 24))):
        values = read_native(scene, ["VV"]).values[0]
        np.testing.assert_array_equal(np.nan_to_num(values), whole[lines])
    assert (first.sensor, first.encoding, first.geolocation) == ("sentinel-1-slc", "complex", "radar-grid")
    assert list(first.bands) == ["VV", "VH"]
    assert first.properties["ringmoe:bursts"] == {"count": 2, "lines": 12, "samples": 20}
    assert np.isnan(read_native(first).values[:, :2]).all()


@pytest.mark.parametrize(
    ("quantity", "gains"), [("sigma_nought", tiny.SIGMA), ("beta_nought", tiny.BETA), ("gamma_nought", tiny.GAMMA)]
)
def test_slc_takes_the_table_of_its_quantity(quantity: str, gains: tuple[float, float], tmp_path: Path) -> None:
    """S = DN / A with A linear between its nodes, of the table that the scene's quantity names; the phase stays."""
    item = register(tiny.sentinel1_slc(tmp_path / "p"), tmp_path / "out").items[0]
    item.properties["ringmoe:quantity"] = f"{quantity}_amplitude"
    dn, values = calibrated(Scene.from_item(item))
    gain = gains[0] + (gains[1] - gains[0]) * np.arange(tiny.BURST_SAMPLES) / tiny.BURST_SAMPLES
    np.testing.assert_allclose(values.values[:, 2:], dn.values[:, 2:] / gain, rtol=1e-6)
    assert values.attrs["quantity"] == f"{quantity}_amplitude"


def test_slc_records_its_noise_and_keeps_it(tmp_path: Path) -> None:
    """The level is 10 log10(noise azimuth / A^2), least where the gain is greatest; without a file it is unknown."""
    safe = tiny.sentinel1_slc(tmp_path / "p", swaths=("IW1",))
    scene, _ = scenes(safe, tmp_path / "out")
    record = provenance(laws.constants_of(scene, ["VV", "VH"]))
    high, low = (10 * np.log10(tiny.NOISE * tiny.AZIMUTH / a**2) for a in tiny.SIGMA)
    assert record["noise_level_db"]["VH"]["min"] == pytest.approx(low, abs=1e-4)
    assert record["noise_level_db"]["VH"]["max"] == pytest.approx(high, abs=1e-4)
    next((safe / "annotation" / "calibration").glob("noise-*-vh-*.xml")).unlink()
    scene, _ = scenes(safe, tmp_path / "out2")
    record = provenance(laws.constants_of(scene, ["VV", "VH"]))
    assert record["noise_level_unknown"] == ["VH"]
    assert list(record["noise_level_db"]) == ["VV"]


def test_bursts_keep_their_parameters(tmp_path: Path) -> None:
    """Times, valid samples, Doppler and FM rate are those of the annotation; each burst has a grid of its own."""
    scene = scenes(tiny.sentinel1_slc(tmp_path / "p"), tmp_path / "out")[0]
    timing = sentinel1_bursts.read_bursts(Path(scene.metadata["annotation-VV"]))
    assert [b.azimuth_time_s for b in timing.bursts] == [0.0, 2.75]
    assert timing.bursts[0].sensing_time_s == 1.0
    assert timing.bursts[1].first_valid.tolist() == [-1, *[1] * 10, -1]
    assert timing.fm_rate[0].coefficients.tolist() == [-2320.0, 4.5e5, -7.9e7]
    assert timing.doppler_centroid[0].t0_s == 5.35e-3
    grids = sentinel1_slc.burst_geometry(scene)
    assert [g.first_line_s for g in grids] == [0.0, 2.75]
    assert grids[0].range_pixel_spacing_m == pytest.approx(2.329562, abs=1e-6)
    assert grids[0].conversion_origin_m[0] == pytest.approx(299_792_458.0 * 5.3e-3 / 2)
    assert geometry_of(scene).first_line_s == 0.0
    later = scenes(tiny.sentinel1_slc(tmp_path / "p2"), tmp_path / "out2")[1]
    assert geometry_of(later).first_line_s == 2.75
    swath = replace(scene, properties={k: v for k, v in scene.properties.items() if k != "ringmoe:burst"})
    with pytest.raises(GeolocationError, match="2 bursts that overlap"):
        geometry_of(swath)


def test_grd_takes_the_table_of_its_quantity_and_says_that_noise_is_left(tmp_path: Path) -> None:
    """sigma, beta and gamma nought by their own tables; a missing noise file leaves the noise in, and is recorded."""
    safe = tiny_products.sentinel1(tmp_path / "p")
    item = register(safe, tmp_path / "out").items[0]
    for quantity, (near, far) in (
        ("sigma_nought", (400.0, 500.0)),
        ("beta_nought", (300.0, 300.0)),
        ("gamma_nought", (350.0, 450.0)),
    ):
        item.properties["ringmoe:quantity"] = quantity
        dn, values = calibrated(Scene.from_item(item))
        pixel = np.arange(40)
        expected = (dn.values**2 - (20 + 10 * pixel / 40)) / (near + (far - near) * pixel / 40) ** 2
        np.testing.assert_allclose(values.values, expected, rtol=2e-6)
    next((safe / "annotation" / "calibration").glob("noise-*-vh-*.xml")).unlink()
    record = provenance(laws.constants_of(scenes(safe, tmp_path / "out2")[0], ["VV", "VH"]))
    assert record["noise_removed"] is False
    assert record["noise"] == "left in: no noise file of VH"


def test_mosaic_is_gamma_nought(tmp_path: Path) -> None:
    """10 log10(DN^2) - 83 dB, no-data 0, for a year and not for an instant."""
    scene = one(tiny.palsar2_mosaic, tmp_path)
    dn, values = calibrated(scene)
    assert (scene.quantity, scene.level, scene.collection) == ("gamma_nought", "MOSAIC", "alos-2-mosaic")
    np.testing.assert_allclose(10 * np.log10(values[:, 1:]), 20 * np.log10(dn[:, 1:]) - 83.0, atol=1e-4)
    assert np.isnan(values[:, 0]).all()
    assert list(scene.quality) == ["PALSAR_MASK"]
    assert (scene.properties["start_datetime"], scene.properties["end_datetime"]) == (
        "2020-01-01T00:00:00Z",
        "2020-12-31T23:59:59Z",
    )
    assert "-83" in str(provenance(laws.constants_of(scene, ["HH"])))


@pytest.mark.parametrize("level", ["1.5", "2.1", "3.1"])
def test_projected_scene_is_sigma_nought(level: str, tmp_path: Path) -> None:
    """10 log10(DN^2) + CF dB, CF as the leader has it, else -83."""
    scene = one(lambda folder: tiny.palsar2_scene(folder, level, factor="-82.5000000"), tmp_path)
    dn, values = calibrated(scene)
    np.testing.assert_allclose(10 * np.log10(values), 20 * np.log10(dn) - 82.5, atol=1e-4)
    assert scene.quantity == "sigma_nought"
    assert (scene.level, scene.collection) == (f"L{level}", f"alos-2-l{level}")
    assert scene.properties["sat:orbit_state"] == "ascending"
    (tmp_path / "plain").mkdir()
    plain = one(lambda folder: tiny.palsar2_scene(folder, level, factor=None), tmp_path / "plain")
    constants = laws.constants_of(plain, ["HH"])
    assert (constants.constant_db, constants.source[:5]) == ({"HH": -83.0}, "JAXA:")


def test_complex_scene_takes_thirty_two_decibels_more(tmp_path: Path) -> None:
    """10 log10|S|^2 = 10 log10(I^2 + Q^2) - 83 - 32, phase kept."""
    scene = one(lambda folder: tiny.palsar2_scene(folder, "1.1"), tmp_path)
    dn, values = calibrated(scene)
    assert (scene.encoding, scene.quantity) == ("complex", "sigma_nought_amplitude")
    np.testing.assert_allclose(20 * np.log10(np.abs(values)), 20 * np.log10(np.abs(dn)) - 115.0, atol=1e-4)
    np.testing.assert_allclose(np.angle(values), np.angle(dn), atol=1e-6)
    with pytest.raises(GeolocationError, match="slant range"):
        palsar2.geometry(scene)


def test_gaofen3_full_scale_follows_the_level(tmp_path: Path) -> None:
    """L1A: 20 log10(|DN| Q / 32767) - K, complex; L2: 20 log10(DN Q / 65535) - K, detected, on a map."""
    qualify = {"HH": 3214.5, "HV": 912.25, "VH": 905.0, "VV": 2988.75}
    constant = {"HH": 12.5, "HV": 10.25, "VH": 10.25, "VV": 12.0}
    for name, make, full in (("one", tiny_products.gaofen3, 32767.0), ("two", tiny.gaofen3_l2, 65535.0)):
        (tmp_path / name).mkdir()
        scene = one(make, tmp_path / name)
        dn, values = calibrated(scene)
        power = np.abs(values) ** 2 if scene.encoding == "complex" else values
        for band in scene.bands:
            expected = 20 * np.log10(np.abs(dn.sel(band=band)) * qualify[band] / full) - constant[band]
            np.testing.assert_allclose(10 * np.log10(power.sel(band=band)), expected, atol=1e-4)
        assert provenance(laws.constants_of(scene, ["HV"]))["full_scale"] == full
    assert (scene.encoding, scene.geolocation, scene.collection) == ("dn", "affine", "gaofen-3-l2")


def test_capella_extended_json_gives_factor_radiometry_and_noise(tmp_path: Path) -> None:
    """S = factor DN, a factor per channel; the radiometry named is the quantity; the noise level is kept."""
    scene = one(tiny.capella_json, tmp_path)
    dn, values = calibrated(scene)
    assert scene.quantity == values.attrs["quantity"] == "beta_nought_amplitude"
    np.testing.assert_allclose(values.sel(band="VV"), 2e-4 * dn.sel(band="VV"), rtol=1e-6)
    np.testing.assert_allclose(values.sel(band="HH"), 1e-4 * dn.sel(band="HH"), rtol=1e-6)
    assert provenance(laws.constants_of(scene, ["HH", "VV"]))["noise_level_db"] == {"HH": -19.5, "VV": -20.5}
    assert (scene.platform, scene.properties["sar:instrument_mode"]) == ("capella-5", "stripmap")
    assert scene.properties["start_datetime"] == "2024-06-18T10:00:00.250000Z"


def test_a_terrain_corrected_archive_ships_power(tmp_path: Path) -> None:
    """Level RTC: the stored float32 is gamma nought, negatives included; -32768 and exact zeros are no data."""
    stored = np.full((1, 40, 50), 0.25, "float32")
    stored[0, 3, 4], stored[0, 5, 6], stored[0, 7, 8] = -32768.0, 0.0, -0.01
    path = tiny_products.write_tif(tmp_path / "vv.tif", stored, crs=tiny_products.UTM, nodata=-32768.0)
    with rasterio.open(path) as source:
        place = tuple(source.transform)[:6]
        west, south, east, north = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    about = {"platform": "sentinel-1a", "processing:level": "RTC", "ringmoe:geolocation": "affine"}
    shape = {"type": "Polygon", "coordinates": [ring]}
    item = pystac.Item("S1A_RTC", shape, [west, south, east, north], datetime(2024, 6, 17, tzinfo=UTC), about)
    asset = pystac.Asset(str(path), roles=["data"])
    asset.extra_fields = {"bands": [{"name": "VV"}], "proj:code": tiny_products.UTM, "proj:shape": [40, 50]}
    asset.extra_fields |= {"proj:transform": list(place), "data_type": "float32", "nodata": -32768.0}
    item.add_asset("vv", asset)
    scene = Scene.from_item(item)
    _, power = calibrated(scene)
    assert (scene.quantity, power.attrs["quantity"]) == ("gamma_nought", "gamma_nought")
    assert np.isnan(power.values[0, 3, 4])
    assert np.isnan(power.values[0, 5, 6])
    assert power.values[0, 7, 8] == np.float32(-0.01)
    assert int(np.isnan(power.values).sum()) == 2
    assert provenance(laws.constants_of(scene, ["VV"]))["law"] == "the stored number"
