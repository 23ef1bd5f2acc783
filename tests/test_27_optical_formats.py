"""Optical products: each becomes a valid item, its counts reflectance by closed forms; bad metadata is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tiny_optical as tiny
import tiny_products
import xarray as xr
from rasterio.transform import RPCTransformer

from catalog import laws
from catalog.calibrate.constants import calibrate, provenance
from catalog.errors import CalibrationError, CatalogError, MetadataError
from catalog.formats import geometry_of, landsat
from catalog.grid import native
from catalog.metadata import cbers4a, gaofen2, gaofen_coefficients, planetscope, worldview
from catalog.quantify import look
from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene

MAKERS: dict[str, tuple[Callable[[Path], Path], str, str, str, str]] = {
    "landsat level 1": (tiny.landsat1, "landsat", "landsat-c2-l1tp", "toa_reflectance", "affine"),
    "gaofen-2": (tiny.gaofen2, "gaofen-2", "gaofen-2-l1a", "toa_reflectance", "rpc"),
    "gaofen-1 wide": (
        lambda f: tiny.gaofen2(f, "GF1 WFV3"),
        "gaofen-2",
        "gaofen-2-l1a",
        "toa_reflectance",
        "rpc",
    ),
    "worldview xml": (tiny.worldview_xml, "worldview", "worldview", "toa_reflectance", "affine"),
    "worldview basic": (
        lambda f: tiny.worldview_xml(f, projected=False),
        "worldview",
        "worldview",
        "toa_reflectance",
        "rpc",
    ),
    "planet radiance": (tiny.planetscope, "planetscope", "planetscope-l3b", "toa_reflectance", "affine"),
    "planet surface": (
        lambda f: tiny.planetscope(f, "3B_AnalyticMS_SR", xml=False),
        "planetscope",
        "planetscope-sr",
        "surface_reflectance",
        "affine",
    ),
    "planet basic": (
        lambda f: tiny.planetscope(f, "1B_AnalyticMS"),
        "planetscope",
        "planetscope-l1b",
        "toa_reflectance",
        "rpc",
    ),
    "cbers wpm": (tiny.cbers4a, "cbers-4a", "cbers-4a-l4-dn", "toa_reflectance", "affine"),
    "cbers mux": (lambda f: tiny.cbers4a(f, "MUX"), "cbers-4a", "cbers-4a-l4-dn", "toa_reflectance", "affine"),
}


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _scene(folder: Path, out: Path) -> Scene:
    found = register(folder, out)
    assert found.failed == ()
    return Scene.from_item(found.items[0])


def _reason(folder: Path, out: Path) -> str:
    found = register(folder, out)
    assert found.items == ()
    return found.failed[0][1]


def _reflectance(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Stored numbers and what they become, (band, y, x)."""
    bands = list(scene.bands)
    counts = []
    for band in bands:
        with rasterio.open(scene.bands[band].href) as src:
            counts.append(src.read(scene.bands[band].index).astype(float))
    found = calibrate(read_native(scene, bands), laws.constants_of(scene, bands), scene.quantity)
    assert found.attrs["quantity"] == scene.quantity
    return np.stack(counts), found.values


def _distance_au(*when: int) -> float:
    """By Kepler's equation and the mean elements of the Earth (Meeus, 25); not the series under test."""
    days = (datetime(*when, tzinfo=UTC) - datetime(2000, 1, 1, 12, tzinfo=UTC)).total_seconds() / 86_400  # type: ignore[arg-type,misc]
    mean = math.radians(357.52911 + 0.985600281 * days)
    eccentricity = 0.016708634 - 4.2037e-5 * days / 36_525
    anomaly = mean
    for _ in range(20):
        anomaly = mean + eccentricity * math.sin(anomaly)
    return 1.000001018 * (1 - eccentricity * math.cos(anomaly))


@pytest.mark.parametrize("kind", MAKERS)
def test_each_product_becomes_a_valid_item(kind: str, tmp_path: Path, validate_offline: Callable[[Any], None]) -> None:
    """Sensor, collection, quantity and geolocation of every layout; the item passes all schemas it declares."""
    make, sensor, collection, quantity, geolocation = MAKERS[kind]
    found = register(make(_made(tmp_path / "p")), tmp_path / "out")
    assert found.failed == ()
    (item,) = found.items
    validate_offline(item)
    scene = Scene.from_item(item)
    assert (scene.sensor, scene.collection, scene.quantity) == (sensor, collection, quantity)
    assert (scene.geolocation, scene.encoding) == (geolocation, "dn")
    assert len(scene.bands) >= 3
    assert all(s.dtype == "uint16" for s in scene.bands.values())
    assert 0 < scene.properties["view:sun_elevation"] < 90
    record = provenance(laws.constants_of(scene, list(scene.bands)))
    assert record["source"]
    if geolocation == "rpc":
        assert geometry_of(scene).line_off > 0


@pytest.mark.parametrize("form", ["txt", "json", "xml"])
def test_landsat_level_1_by_hand_in_three_forms(form: str, tmp_path: Path) -> None:
    """rho = (2e-5 DN - 0.1) / sin(61.25 deg) by the scene's angle; the item names no scale, which would say less."""
    scene = _scene(tiny.landsat1(_made(tmp_path / "p"), form=form, angles=False), tmp_path / "out")
    counts, rho = _reflectance(scene)
    np.testing.assert_allclose(rho, (2e-5 * counts - 0.1) / math.sin(math.radians(61.25)), rtol=2e-6)
    assert scene.bands["B4"].scale is None


def test_landsat_level_1_by_the_sun_of_every_pixel(tmp_path: Path) -> None:
    """With a zenith plane of 28.75 deg +- 0.95 the worst pixel is right to 2e-5; the scene's angle is off by 0.5 %."""
    scene = _scene(tiny.landsat1(_made(tmp_path / "p")), tmp_path / "out")
    counts, rho = _reflectance(scene)
    exact = (2e-5 * counts - 0.1) / np.cos(np.radians(tiny.sun_zenith(60, 70)))
    assert np.abs(rho - exact).max() < 2e-5
    by_the_scene = (2e-5 * counts - 0.1) / math.sin(math.radians(61.25))
    assert np.abs(by_the_scene / exact - 1).max() > 0.005
    record = provenance(laws.constants_of(scene, ["B4"]))
    assert record["sun_elevation_deg"] == "per pixel"
    assert record["sun_surface_residual_deg"] < 0.006


def test_angles_on_coarser_pixels_are_placed_lazily(tmp_path: Path) -> None:
    """A chunked image stays lazy, in chunks of its own, and gives the same numbers on a part of the scene."""
    scene = _scene(tiny.landsat1(_made(tmp_path / "p")), tmp_path / "out")
    constants = laws.constants_of(scene, ["B4"])
    dn = read_native(scene, ["B4"])
    whole = calibrate(dn, constants, scene.quantity)
    lazy = calibrate(dn.chunk({"y": 16, "x": 20}), constants, scene.quantity)
    assert lazy.chunksizes["y"] == (16, 16, 16, 12)
    np.testing.assert_array_equal(lazy.compute().values, whole.values)
    part = calibrate(dn.isel(y=slice(40, 60), x=slice(3, 17)), constants, scene.quantity)
    np.testing.assert_array_equal(part.values, whole.values[:, 40:60, 3:17])


def test_a_level_1_scene_on_a_tile_has_the_sun_of_the_tile_s_pixels(tmp_path: Path) -> None:
    """On a tile of 45 m across part of the scene the plane of counts and the plane of angles are right to 1e-4."""
    scene = _scene(tiny.landsat1(_made(tmp_path / "p")), tmp_path / "out")
    tile = native((12, 14), (45.0, 0.0, tiny.ORIGIN[0] + 600.0, 0.0, -45.0, tiny.ORIGIN[1] - 500.0), tiny.UTM)
    found = look(scene, tile).data.sel(band="B4")
    col, row = (found.x.values - tiny.ORIGIN[0]) / 30 - 0.5, (tiny.ORIGIN[1] - found.y.values) / 30 - 0.5
    counts = 1000 + 7 * row[:, None] + 3 * col[None, :] + 8400
    zenith = 28.75 + 0.8 * (row[:, None] / 60 - 0.5) + 1.1 * (col[None, :] / 70 - 0.5)
    np.testing.assert_allclose(found.values, (2e-5 * counts - 0.1) / np.cos(np.radians(zenith)), atol=1e-4)


def test_angles_of_another_place_are_refused(tmp_path: Path) -> None:
    """An image in other coordinates than its angles is not given those of their edge."""
    scene = _scene(tiny.landsat1(_made(tmp_path / "p")), tmp_path / "out")
    constants = laws.constants_of(scene, ["B4"])
    dn = read_native(scene, ["B4"])
    with pytest.raises(CalibrationError, match="sun's angles lie at x"):
        calibrate(dn.assign_coords(x=dn.x / 111_320), constants, scene.quantity)


def test_a_zenith_band_that_contradicts_the_mtl_is_refused(tmp_path: Path) -> None:
    """Elevations in place of zeniths, or an empty band, name the band."""
    zenith = tiny.sun_zenith(60, 70)
    for wrong, says in ((90 - zenith, "SUN_ELEVATION of 61.25"), (0 * zenith, "holds no angle")):
        path = tiny_products.write_tif(tmp_path / "a_SZA.TIF", np.rint(100 * wrong).astype("int16"), 30.0, nodata=0)
        with pytest.raises(CalibrationError, match=says) as refused:
            landsat.sun_elevation(path, 61.25)
        assert "a_SZA.TIF" in str(refused.value)


def test_a_landsat_whose_levels_disagree_or_of_another_satellite_is_refused(tmp_path: Path) -> None:
    """PROCESSING_LEVEL against the product id; Landsat 7, whose bands are numbered otherwise."""
    for find, put, says in (("= L1TP", '= "L2SP"', "PROCESSING_LEVEL"), ("LANDSAT_8", "LANDSAT_7", "SPACECRAFT_ID")):
        folder = tiny.landsat1(_made(tmp_path / says))
        path = next(folder.glob("*_MTL.txt"))
        path.write_text(path.read_text().replace('= "L1TP"', "= L1TP").replace(find, put))
        reason = _reason(folder, tmp_path / "out")
        assert says in reason
        assert "_MTL.txt" in reason


def test_gaofen2_by_hand(tmp_path: Path) -> None:
    """rho = pi 0.1934 DN d^2 / (1541.39 cos 25.96 deg) in red of 2018; 0 is no data; the sources are on record."""
    scene = _scene(tiny.gaofen2(_made(tmp_path / "p")), tmp_path / "out")
    counts, rho = _reflectance(scene)
    distance = _distance_au(2018, 6, 15, 10, 10)
    exact = math.pi * 0.1934 * counts[2] * distance**2 / (1541.39 * math.cos(math.radians(25.96)))
    np.testing.assert_allclose(rho[2, 1:], exact[1:], rtol=3e-5)
    assert np.isnan(rho[:, 0]).all()
    record = provenance(laws.constants_of(scene, ["R"]))
    assert (record["camera"], record["coefficients_year"]) == ("GF2 PMS2", 2018)
    assert "sd_radcalcoeff_2018" in record["source"]
    assert record["clock"] == "Beijing time"
    assert scene.datetime == datetime(2018, 6, 15, 10, 10, 30, tzinfo=UTC)


def test_gaofen_bias_is_added(tmp_path: Path) -> None:
    """The cameras of Gaofen-1 had a bias in 2013: L = 0.2082 DN + 4.6186 in blue of PMS1."""
    scene = _scene(tiny.gaofen2(_made(tmp_path / "p"), "GF1 PMS1", "2013-06-15 18:10:30"), tmp_path / "out")
    counts, rho = _reflectance(scene)
    distance = _distance_au(2013, 6, 15, 10, 10)
    radiance = 0.2082 * counts[0] + 4.6186
    exact = math.pi * radiance * distance**2 / (1944.98 * math.cos(math.radians(25.96)))
    np.testing.assert_allclose(rho[0, 1:], exact[1:], rtol=3e-5)


def test_a_gaofen_year_without_coefficients_is_refused_naming_those_there_are(tmp_path: Path) -> None:
    """2022 has none, and no other year stands in for it; nor has a wide camera of 2013."""
    scene = _scene(tiny.gaofen2(_made(tmp_path / "p"), time="2022-06-15 18:10:30"), tmp_path / "out")
    with pytest.raises(CalibrationError, match="GF2 PMS2 for 2022") as refused:
        laws.constants_of(scene, ["R"])
    assert "2014, 2015, 2016, 2017, 2018, 2019, 2020" in str(refused.value)
    assert "CenterTime" in str(refused.value)
    wide = _scene(tiny.gaofen2(_made(tmp_path / "w"), "GF1 WFV1", "2013-06-15 18:10:30"), tmp_path / "out2")
    with pytest.raises(CalibrationError, match="GF1 WFV1 for 2013"):
        laws.constants_of(wide, ["R"])


def test_gaofen_coefficients_of_2017_are_those_of_the_notice() -> None:
    """CRESDA's notice lists them; every camera has four gains above zero a year and an irradiance."""
    notice = {
        "GF1 PMS1": (0.1424, 0.1177, 0.1194, 0.1135),
        "GF1 PMS2": (0.1460, 0.1248, 0.1274, 0.1255),
        "GF1 WFV1": (0.2165, 0.1685, 0.1354, 0.1507),
        "GF1 WFV3": (0.1870, 0.1619, 0.1295, 0.1383),
        "GF1 WFV4": (0.1770, 0.1521, 0.1322, 0.1349),
    }
    for camera, gain in notice.items():
        row = gaofen_coefficients.COEFFICIENTS[camera][2017]
        assert (row.gain, row.bias) == (gain, (0.0, 0.0, 0.0, 0.0))
        assert row.source == gaofen_coefficients.NOTICE
    assert gaofen_coefficients.COEFFICIENTS.keys() == gaofen_coefficients.IRRADIANCE.keys()
    for years in gaofen_coefficients.COEFFICIENTS.values():
        assert all(len(c.gain) == len(c.bias) == 4 and min(c.gain) > 0 for c in years.values())


@pytest.mark.parametrize(
    ("when", "place", "zenith"),
    [
        ((2018, 10, 2, 2, 54, 23), (120.157, -0.016), 14.05),
        ((2020, 5, 23, 5, 3, 8), (88.999, 23.878), 13.7242),
        ((2022, 6, 24, 5, 39, 9), (69.384, 33.304), 25.1707),
        ((2023, 2, 13, 14, 17, 10), (-72.3095, -36.6956), 43.8115),
    ],
)
def test_the_sun_is_where_real_gaofen_files_say(
    when: tuple[int, ...], place: tuple[float, float], zenith: float
) -> None:
    """SolarZenith of four real scenes (Terradue/Stars), at ReceiveTime, to 0.02 degrees."""
    assert gaofen2.sun_zenith_deg(datetime(*when, tzinfo=UTC), *place) == pytest.approx(zenith, abs=0.02)  # type: ignore[arg-type]


def test_gaofen_clocks_are_told_apart_by_the_sun(tmp_path: Path) -> None:
    """The same scene with CenterTime in UTC; an elevation in place of the zenith fits neither clock."""
    path = next(tiny.gaofen2(_made(tmp_path / "u"), time="2018-06-15 10:10:30").glob("*.xml"))
    found = gaofen2.read_scene(path)
    assert (found.clock, found.acquired) == ("UTC", datetime(2018, 6, 15, 10, 10, 30, tzinfo=UTC))
    wrong = next(tiny.gaofen2(_made(tmp_path / "e"), SolarZenith="64.04").glob("*.xml"))
    with pytest.raises(MetadataError, match=r"SolarZenith: is 64\.04 degrees, while"):
        gaofen2.read_scene(wrong)


def test_rational_polynomials_place_an_image(tmp_path: Path) -> None:
    """RPB and RPC.TXT of one plane put the middle of the image at 10.15 E 45.1 N, whatever the height."""
    for name, make in (
        ("gf", tiny.gaofen2),
        ("ps", lambda f: tiny.planetscope(f, "1B_AnalyticMS", 18, 22)),
        ("wv", lambda f: tiny.worldview_xml(f, 18, 22, projected=False)),
    ):
        rpcs = geometry_of(_scene(make(_made(tmp_path / name)), tmp_path / f"out_{name}"))
        with RPCTransformer(rpcs) as place:
            rows, cols = place.rowcol([10.15, 10.0], [45.1, 45.2], zs=[100.0, 900.0], op=float)
        np.testing.assert_allclose([*rows, *cols], [9.0, 0.0, 11.0, 0.0], atol=0.6)


def test_products_without_polynomials_say_so(tmp_path: Path) -> None:
    """The missing file is asked for when a place is."""
    folder = tiny.gaofen2(_made(tmp_path / "p"))
    next(folder.glob("*.rpb")).unlink()
    with pytest.raises(CatalogError, match="no rational polynomials"):
        geometry_of(_scene(folder, tmp_path / "out"))


def test_worldview_xml_says_what_the_imd_says(tmp_path: Path) -> None:
    """The .XML of a delivery and its IMD give the same metadata, but for the path; so does the reflectance."""
    imd = worldview.read_imd(next(tiny_products.worldview(_made(tmp_path / "imd")).glob("*.IMD")))
    xml = worldview.read_imd(next(tiny.worldview_xml(_made(tmp_path / "xml")).glob("*.XML")))
    assert {**vars(imd), "path": None} == {**vars(xml), "path": None}
    scene = _scene(tmp_path / "xml", tmp_path / "out")
    counts, rho = _reflectance(scene)
    gain = 1.1e-2 / 5.74e-2
    distance = _distance_au(2010, 5, 1, 10, 30)
    exact = math.pi * gain * counts[-1] * distance**2 / (1538.85 * math.sin(math.radians(55.25)))
    np.testing.assert_allclose(rho[-1], exact, rtol=3e-5)
    assert list(scene.bands)[-1] == "R"
    left_out = provenance(laws.constants_of(scene, ["R"]))["vendor_adjustment"]
    assert (left_out["applied"], left_out["gain"], left_out["offset"]) == (False, {"R": 0.952}, {"R": -2.512})


def test_a_satellite_of_no_row_is_refused(tmp_path: Path) -> None:
    """GeoEye's bands have other irradiances than WorldView's."""
    folder = tiny_products.worldview(_made(tmp_path / "p"))
    path = next(folder.glob("*.IMD"))
    path.write_text(path.read_text().replace("WV02", "GE01"))
    assert "satId: is of geoeye-1" in _reason(folder, tmp_path / "out")


def test_planet_radiance_by_hand(tmp_path: Path) -> None:
    """rho = DN reflectanceCoefficient; the coefficient is pi d^2 scale / (E sin(sun)) for an irradiance the sun has."""
    scene = _scene(tiny.planetscope(_made(tmp_path / "p")), tmp_path / "out")
    counts, rho = _reflectance(scene)
    coefficients = np.array(tiny.PLANET_COEFFICIENTS)[:, None, None]
    np.testing.assert_allclose(rho, counts * coefficients, rtol=2e-6)
    distance = _distance_au(2015, 11, 19, 2, 57)
    height = math.sin(math.radians(39.42085))
    implied = [math.pi * distance**2 * 0.01 / (c * height) for c in tiny.PLANET_COEFFICIENTS]
    np.testing.assert_allclose(implied, [1983.4, 1849.1, 1670.0, 1090.2], atol=0.1)


def test_planet_surface_reflectance_and_its_masks(tmp_path: Path) -> None:
    """DN / 10,000 with the JSON alone; UDM2 of eight raster bands is listed under its name."""
    scene = _scene(tiny.planetscope(_made(tmp_path / "p"), "3B_AnalyticMS_SR", xml=False), tmp_path / "out")
    counts, rho = _reflectance(scene)
    np.testing.assert_allclose(rho, counts / 10_000, rtol=1e-6)
    assert list(scene.quality) == ["UDM2"]
    assert set(scene.metadata) == {"json"}
    assert scene.properties["eo:cloud_cover"] == 25.0


def test_cbers_by_hand(tmp_path: Path) -> None:
    """rho = pi 0.232504 DN d^2 / (1536.38 sin 44.3386 deg) in red of WPM."""
    scene = _scene(tiny.cbers4a(_made(tmp_path / "p")), tmp_path / "out")
    counts, rho = _reflectance(scene)
    distance = _distance_au(2020, 7, 30, 13, 51)
    exact = math.pi * 0.232504 * counts[2] * distance**2 / (1536.38 * math.sin(math.radians(44.3386)))
    np.testing.assert_allclose(rho[2], exact, rtol=3e-5)


def test_cbers_wide_camera_at_two_levels(tmp_path: Path, validate_offline: Callable[[Any], None]) -> None:
    """One folder, two products: counts with BAND13's coefficient below leftCamera, and reflectance at 1e-4."""
    found = register(tiny.cbers4a(_made(tmp_path / "p"), "WFI", surface=True), tmp_path / "out")
    assert found.failed == ()
    for item in found.items:
        validate_offline(item)
    counts, surface = (Scene.from_item(i) for i in found.items)
    assert (counts.level, surface.level) == ("L4-DN", "L4-SR")
    assert list(surface.quality) == ["CMASK"]
    assert provenance(laws.constants_of(counts, ["B"]))["gain"] == {"B": 0.245}
    stored, rho = _reflectance(surface)
    np.testing.assert_allclose(rho[:, 1:], stored[:, 1:] / 10_000, rtol=1e-6)
    assert np.isnan(rho[:, 0]).all()


def test_cbers_bands_may_lie_in_a_folder_each(tmp_path: Path) -> None:
    """As its catalogue delivers them."""
    folder = tiny.cbers4a(_made(tmp_path / "p"))
    for path in sorted(folder.glob("*_BAND*.*")):
        path.rename(_made(folder / path.stem) / path.name)
    assert list(_scene(folder, tmp_path / "out").bands) == ["B", "G", "R", "N"]


def test_cbers_without_coefficients_is_no_reflectance(tmp_path: Path) -> None:
    """WPM of 2020: registered, and refused where a number would have to be made up."""
    scene = _scene(tiny.cbers4a(_made(tmp_path / "p"), gains=()), tmp_path / "out")
    with pytest.raises(CalibrationError, match="absoluteCalibrationCoefficient is missing for 1") as refused:
        laws.constants_of(scene, ["B"])
    assert "BAND1.xml" in str(refused.value)


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><{root}>&b;</{root}>'
READERS: dict[str, tuple[Callable[[Path], Path], str, Callable[[Path], Any], str]] = {
    "gaofen": (tiny.gaofen2, "*-MSS2.xml", gaofen2.read_scene, "ProductMetaData"),
    "worldview": (tiny.worldview_xml, "*.XML", worldview.read_imd, "isd"),
    "planet": (tiny.planetscope, "*_metadata.xml", planetscope.read_metadata, "EarthObservation"),
    "cbers": (tiny.cbers4a, "*_BAND1.xml", cbers4a.read_scene, "prdf"),
    "landsat": (lambda f: tiny.landsat1(f, form="xml"), "*_MTL.xml", landsat.landsat.read_mtl, "LANDSAT_METADATA_FILE"),
}


@pytest.mark.parametrize("reader", READERS)
def test_xml_that_cannot_be_trusted_is_refused(reader: str, tmp_path: Path) -> None:
    """Missing, cut in half, an entity bomb, another document: each names the file."""
    make, pattern, read, root = READERS[reader]
    path = next(make(_made(tmp_path / "p")).glob(pattern))
    whole = path.read_text()
    for content, says in (
        (whole[: len(whole) // 2], "damaged or cut off"),
        (BOMB.format(root=root), "declares entities"),
        ("<other/>", "root"),
    ):
        path.write_text(content)
        with pytest.raises(MetadataError, match=says) as refused:
            read(path)
        assert refused.value.item == str(path)
    path.unlink()
    with pytest.raises(MetadataError, match="cannot be read"):
        read(path)


FIELDS = [
    ("gaofen", "<SolarZenith>25.96<", "<SolarZenith>NaN<", "SolarZenith"),
    ("gaofen", "<SatelliteID>GF2<", "<SatelliteID>GF9<", "SatelliteID"),
    ("gaofen", "<Bands>1,2,3,4<", "<Bands>1<", "Bands"),
    ("gaofen", "<CenterTime>2018-06-15 18:10:30<", "<CenterTime>noon<", "CenterTime"),
    ("gaofen", "HeightInPixels", "Height", "HeightInPixels"),
    ("worldview", "<ABSCALFACTOR>0.011<", "<ABSCALFACTOR>nan<", "absCalFactor"),
    ("worldview", "<ABSCALFACTOR>0.011<", "<ABSCALFACTOR>0<", "BAND_R"),
    ("worldview", "MEANSUNEL", "MEANSUN", "meanSunEl"),
    ("planet", f"{tiny.PLANET_COEFFICIENTS[0]}", "NaN", "reflectanceCoefficient"),
    ("planet", f"{tiny.PLANET_COEFFICIENTS[0]}", "0", "reflectanceCoefficient of band 1"),
    ("planet", "illuminationElevationAngle", "elevation", "illuminationElevationAngle"),
    ("planet", "2015-11-19T02:57:40+00:00", "yesterday", "acquisitionDateTime"),
    ("cbers", '<band name="1">0.29107<', '<band name="1">nan<', "absoluteCalibrationCoefficient of band 1"),
    ("cbers", '<band name="1">0.29107<', '<band name="1">0<', "absoluteCalibrationCoefficient of band 1"),
    ("cbers", "<elevation>44.3386<", "<elevation>61.0<", "sunPosition/elevation"),
    ("cbers", "<number>4A<", "<number>4<", "satellite/number"),
    ("cbers", "timeStamp", "stamp", "image/timeStamp/center"),
    ("landsat", "<REFLECTANCE_MULT_BAND_4>2.0000E-05<", "<REFLECTANCE_MULT_BAND_4>0<", "REFLECTANCE_MULT_BAND_"),
    ("landsat", "<REFLECTANCE_ADD_BAND_4>-0.100000<", "<REFLECTANCE_ADD_BAND_4>inf<", "REFLECTANCE_ADD_BAND_4"),
]


@pytest.mark.parametrize(("reader", "find", "put", "field"), FIELDS)
def test_a_bad_field_is_named_with_its_file(reader: str, find: str, put: str, field: str, tmp_path: Path) -> None:
    """No number, not finite, zero, missing, contradictory: the error names file and field."""
    make, pattern, read, _ = READERS[reader]
    path = next(make(_made(tmp_path / "p")).glob(pattern))
    text = path.read_text()
    assert find in text
    path.write_text(text.replace(find, put))
    with pytest.raises(MetadataError) as refused:
        read(path)
    assert field in refused.value.what
    assert refused.value.item == str(path)


def test_a_coefficient_that_no_sun_bears_out_is_refused(tmp_path: Path) -> None:
    """A tenth of the coefficient would make the sun ten times as bright: the XML contradicts itself."""
    wrong = (tiny.PLANET_COEFFICIENTS[0] / 10, *tiny.PLANET_COEFFICIENTS[1:])
    scene = _scene(tiny.planetscope(_made(tmp_path / "p"), coefficients=wrong), tmp_path / "out")
    with pytest.raises(CalibrationError, match="reflectanceCoefficient of band 1") as refused:
        laws.constants_of(scene, ["blue"])
    assert "_metadata.xml" in str(refused.value)


def test_a_planet_json_of_another_scene_is_refused(tmp_path: Path) -> None:
    """Its sun or its time is not the XML's: the two files are not of one scene."""
    folder = tiny.planetscope(_made(tmp_path / "p"))
    path = next(folder.glob("*_metadata.json"))
    path.write_text(path.read_text().replace("2015-11-19T02:57:40", "2015-11-19T02:59:40"))
    reason = _reason(folder, tmp_path / "out")
    assert "properties/acquired" in reason
    assert str(path) in reason


def test_the_xml_of_the_image_s_own_bands_is_taken(tmp_path: Path) -> None:
    """A folder with the four and the eight band asset of one scene: each image by its own XML."""
    folder = tiny.planetscope(_made(tmp_path / "p"))
    scene = "20151119_025740_0c74_3B_AnalyticMS"
    eight = np.stack([tiny_products.ramp(20, 26) + 50 * k for k in range(8)])
    tiny_products.write_tif(folder / f"{scene}_8b.tif", eight, 3.0, nodata=0)
    (folder / f"{scene}_8b_metadata.xml").write_text(tiny.planet_xml("3B", 20, 26, tuple(2.5e-5 for _ in range(8))))
    found = register(folder, tmp_path / "out")
    assert found.failed == ()
    four, of_eight = (Scene.from_item(i) for i in found.items)
    assert list(of_eight.bands)[::3] == ["coastal_blue", "green", "rededge"]
    assert laws.constants_of(of_eight, ["rededge"]).scale == {"rededge": 2.5e-5}  # type: ignore[union-attr]
    assert laws.constants_of(four, ["nir"]).scale == {"nir": tiny.PLANET_COEFFICIENTS[3]}  # type: ignore[union-attr]


def test_a_panchromatic_imd_is_refused(tmp_path: Path) -> None:
    """BAND_P alone is none of the bands that the row reads."""
    folder = tiny_products.worldview(_made(tmp_path / "p"))
    path = next(folder.glob("*.IMD"))
    text = path.read_text()
    for name in ("G", "B"):
        start, end = text.index(f"BEGIN_GROUP = BAND_{name}"), text.index(f"END_GROUP = BAND_{name}\n")
        text = text[:start] + text[end + len(f"END_GROUP = BAND_{name}\n") :]
    path.write_text(text.replace("BAND_R", "BAND_P"))
    assert "BAND_: groups are ['P']" in _reason(folder, tmp_path / "out")


def test_coefficients_of_two_cameras_must_agree(tmp_path: Path) -> None:
    """A wide image is of a left and a right camera; two different gains for one image are no gain."""
    path = next(tiny.cbers4a(_made(tmp_path / "p"), "WFI").glob("*_BAND13.xml"))
    text = path.read_text()
    left = text[text.index("<leftCamera>") : text.index("</leftCamera>")]
    right = left.replace("leftCamera", "rightCamera").replace(">0.245<", ">0.31<")
    path.write_text(text.replace("</leftCamera>", f"</leftCamera>{right}</rightCamera>"))
    with pytest.raises(MetadataError, match=r"of one camera and 0\.31 of the other"):
        cbers4a.read_scene(path)


def _night(kind: str, folder: Path) -> tuple[Path, str]:
    """A product with the sun a degree below the horizon, and the field that says so."""
    if kind == "landsat":
        folder = tiny.landsat1(folder, angles=False)
        path = next(folder.glob("*_MTL.txt"))
        path.write_text(path.read_text().replace("SUN_ELEVATION = 61.25", "SUN_ELEVATION = -1.0"))
        return folder, "SUN_ELEVATION"
    if kind == "gaofen":
        return tiny.gaofen2(folder, time="2018-06-16 03:10:00", SolarZenith="91.0"), "SolarZenith"
    if kind == "worldview":
        folder = tiny_products.worldview(folder)
        path = next(folder.glob("*.IMD"))
        path.write_text(path.read_text().replace("meanSunEl = 55.25", "meanSunEl = -1.0"))
        return folder, "meanSunEl"
    if kind == "planet":
        return tiny.planetscope(folder, sun=-1.0), "illuminationElevationAngle"
    return tiny.cbers4a(folder, sun=-1.0, incidence=90), "sunPosition/elevation"


@pytest.mark.parametrize("kind", ["landsat", "gaofen", "worldview", "planet", "cbers"])
def test_a_sun_below_the_horizon_gives_no_reflectance(kind: str, tmp_path: Path) -> None:
    """Registered, since the image is there; calibrating it names the file and its field."""
    folder, field = _night(kind, _made(tmp_path / "p"))
    scene = _scene(folder, tmp_path / "out")
    with pytest.raises(CalibrationError, match="above the horizon") as refused:
        laws.constants_of(scene, list(scene.bands))
    assert refused.value.item.endswith(f": {field}")


@pytest.mark.parametrize("kind", ["landsat", "gaofen", "worldview", "planet", "cbers"])
def test_a_picture_of_eight_bits_or_with_a_band_too_few_is_refused(kind: str, tmp_path: Path) -> None:
    """A stretched copy in place of the counts, or an image of fewer bands than its metadata: the file is named."""
    make, pattern = {
        "landsat": (tiny.landsat1, "*_B4.TIF"),
        "gaofen": (tiny.gaofen2, "*.tiff"),
        "worldview": (tiny.worldview_xml, "*.TIF"),
        "planet": (tiny.planetscope, "*_AnalyticMS.tif"),
        "cbers": (tiny.cbers4a, "*_BAND3.tif"),
    }[kind]
    folder = make(_made(tmp_path / "p"))
    path = next(folder.glob(pattern))
    with rasterio.open(path) as src:
        data, profile = src.read(), src.profile
    placed = {"crs": profile["crs"], "transform": profile["transform"]} if profile["crs"] else {}
    tiny_products.write_tif(path, (data // 256).astype("uint8"), None, **placed)
    reason = _reason(folder, tmp_path / "out")
    assert "pixels of type uint8" in reason
    assert path.name in reason
    wrong = np.concatenate([data, data]) if data.shape[0] == 1 else data[:-1]
    tiny_products.write_tif(path, wrong, None, **placed)
    reason = _reason(folder, tmp_path / "out")
    assert "raster bands, its product says" in reason
    assert path.name in reason


def test_a_folder_with_half_a_product_is_refused(tmp_path: Path) -> None:
    """No image, no XML where the radiance needs it, the panchromatic band alone: each says what is missing."""
    gaofen = tiny.gaofen2(_made(tmp_path / "g"))
    next(gaofen.glob("*.tiff")).unlink()
    assert "a file is missing" in _reason(gaofen, tmp_path / "out")
    planet = tiny.planetscope(_made(tmp_path / "p"), xml=False)
    assert "_metadata.xml" in _reason(planet, tmp_path / "out")
    panchromatic = tiny.gaofen2(_made(tmp_path / "n"))
    for path in list(panchromatic.iterdir()):
        path.rename(path.with_name(path.name.replace("-MSS2", "-PAN2")))
    assert "panchromatic image only" in _reason(panchromatic, tmp_path / "out")
    cbers = tiny.cbers4a(_made(tmp_path / "c"))
    next(cbers.glob("*_BAND2.tif")).unlink()
    assert "BAND2.tif" in _reason(cbers, tmp_path / "out")


def test_a_constant_sun_needs_no_coordinates() -> None:
    """Angles of the image's own shape without coordinates are taken pixel by pixel."""
    from catalog.calibrate import reflectance_from_dn

    dn = xr.DataArray(np.full((1, 1, 2), 10_000.0, "float32"), dims=("band", "y", "x"), coords={"band": ["B4"]})
    sun = xr.DataArray([[30.0, 90.0]], dims=("y", "x"))
    rho = reflectance_from_dn(dn, {"B4": 2e-5}, {"B4": -0.1}, "toa_reflectance", sun_elevation_deg=sun)
    np.testing.assert_allclose(rho.values[0, 0], [0.2, 0.1], rtol=1e-6)
