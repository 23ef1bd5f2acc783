"""Calibration laws against closed forms, worked by hand or by independent means."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from catalog import calibrate
from catalog.errors import CalibrationError
from catalog.sensors import Quality

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[2] / "shared" / "realdata"))


def bands(values: object, names: tuple[str, ...] = ("B02", "B03"), dtype: str = "float32") -> xr.DataArray:
    data = np.asarray(values, dtype=dtype)
    data = np.broadcast_to(data, (len(names), *data.shape[-2:])).copy()
    return xr.DataArray(data, dims=("band", "y", "x"), coords={"band": list(names)}, attrs={"scene": "s"})


def test_sentinel2_offset_is_applied_per_band_and_negatives_are_kept() -> None:
    """DN 900 at offset -1000 and 1e-4 is -0.01, at offset 0 it is 0.09, and NaN stays NaN."""
    dn = bands([[900.0, 11000.0, np.nan]])
    rho = calibrate.reflectance_from_dn(dn, {"B02": 1e-4, "B03": 1e-4}, {"B02": -0.1, "B03": 0.0})
    np.testing.assert_allclose(rho.values[:, 0, :2], [[-0.01, 1.0], [0.09, 1.1]], atol=1e-7)
    assert np.isnan(rho.values[:, 0, 2]).all()
    assert (rho.attrs["units"], rho.attrs["quantity"]) == ("1", "surface_reflectance")
    assert rho.attrs["scene"] == "s"
    assert rho.dtype == np.float32


def test_landsat_scale_at_both_ends_of_the_valid_range() -> None:
    """USGS: DN 7273 and 43636 at 2.75e-5 and -0.2 are 0 and 1; level 1 is divided by the sine of the sun."""
    dn = bands([[7273.0, 43636.0]], ("B4",))
    rho = calibrate.reflectance_from_dn(dn, {"B4": 2.75e-5}, {"B4": -0.2})
    np.testing.assert_allclose(rho.values[0, 0], [0.0000075, 0.99999], atol=1e-7)
    toa = calibrate.reflectance_from_dn(
        dn, {"B4": 2e-5}, {"B4": -0.1}, quantity="toa_reflectance", sun_elevation_deg=30.0
    )
    np.testing.assert_allclose(toa.values[0, 0], [2 * 0.04546, 2 * 0.77272], rtol=1e-6)


def test_radiance_and_back_to_reflectance_by_hand() -> None:
    """L = 0.01 * 5000 - 1 = 49; at E = 1500, d = 1 and the sun at 30 degrees rho = 49 pi / 750."""
    radiance = calibrate.radiance_from_dn(bands([[5000.0]], ("R",)), {"R": 0.01}, {"R": -1.0})
    assert radiance.item() == pytest.approx(49.0)
    assert radiance.attrs["units"] == "W m-2 sr-1 um-1"
    rho = calibrate.toa_reflectance_from_radiance(radiance, {"R": 1500.0}, 1.0, 30.0)
    assert rho.item() == pytest.approx(49 * math.pi / 750, rel=1e-6)
    assert rho.attrs["quantity"] == "toa_reflectance"
    per_pixel = calibrate.toa_reflectance_from_radiance(
        radiance, {"R": 1500.0}, 1.0, xr.DataArray([[30.0]], dims=("y", "x"))
    )
    assert per_pixel.dims == ("band", "y", "x")
    assert per_pixel.item() == pytest.approx(rho.item())


@pytest.mark.parametrize(
    ("when", "distance_au"),
    [
        (datetime(2021, 1, 2, 13, 51, tzinfo=UTC), 0.9832571),
        (datetime(2021, 7, 5, 22, 27, tzinfo=UTC), 1.0167292),
        (datetime(2020, 1, 5, 7, 48, tzinfo=UTC), 0.9832436),
        (datetime(2019, 7, 4, 22, 11, tzinfo=UTC), 1.0167543),
    ],
)
def test_earth_sun_distance_at_perihelion_and_aphelion(when: datetime, distance_au: float) -> None:
    """The closed form meets the almanac's perihelia and aphelia to 1e-4 AU."""
    assert calibrate.earth_sun_distance_au(when) == pytest.approx(distance_au, abs=1e-4)


def test_backscatter_removes_noise_in_power_and_keeps_negatives() -> None:
    """(100^2 - 2000) / 200^2 = 0.2 and (10^2 - 2000) / 200^2 = -0.0475."""
    dn = bands([[100.0, 10.0, np.nan]], ("VV", "VH"))
    grid = xr.DataArray(np.full((1, 3), 200.0), dims=("y", "x"))
    noise = xr.DataArray(np.full((1, 3), 2000.0), dims=("y", "x"))
    sigma = calibrate.backscatter_from_amplitude(dn, grid, noise)
    np.testing.assert_allclose(sigma.values[0, 0, :2], [0.2, -0.0475], rtol=1e-6)
    assert sigma.attrs["noise_removed"] is True
    assert calibrate.backscatter_from_amplitude(dn, grid).values[0, 0, 0] == pytest.approx(0.25)
    assert np.isnan(sigma.values[:, 0, 2]).all()


def test_palsar_constant_and_decibels_agree() -> None:
    """20 log10(DN) - 83 dB, in linear power and back in dB."""
    dn = bands([[4000.0]], ("HH",))
    gamma = calibrate.backscatter_from_constant(dn, {"HH": -83.0}, "gamma_nought")
    db = 20 * math.log10(4000) - 83
    assert gamma.item() == pytest.approx(10 ** (db / 10), rel=1e-6)
    assert calibrate.power_to_db(gamma).item() == pytest.approx(db, abs=1e-5)
    assert calibrate.power_from_db(bands([[db]], ("HH",))).item() == pytest.approx(gamma.item(), rel=1e-5)
    assert np.isnan(calibrate.power_to_db(gamma * -1).item())


def test_lut_is_exact_on_a_bilinear_surface_and_continues_within_one_spacing() -> None:
    """Vectors sampled from a bilinear surface give it back everywhere, half a spacing past their end included."""
    surface = lambda line, pixel: 100 + 0.5 * line + 0.25 * pixel + 0.001 * line * pixel  # noqa: E731
    lines, pixels = np.array([-5.0, 10.0, 20.0]), [np.array([0.0, 7, 30]), np.array([0.0, 30]), np.array([0.0, 15, 30])]
    values = [surface(line, p) for line, p in zip(lines, pixels, strict=True)]
    rows, columns = np.meshgrid(np.arange(25), np.arange(33), indexing="ij")
    lut = calibrate.interpolate_lut(lines, pixels, values, (25, 33))
    np.testing.assert_allclose(lut.values, surface(rows, columns), rtol=1e-6)
    lazy = calibrate.interpolate_lut(lines, pixels, values, (20, 30), origin=(5, 3), chunks=8)
    assert lazy.chunks is not None
    np.testing.assert_array_equal(lazy.values, lut.values[5:25, 3:33])
    assert (lazy.y.values[0], lazy.x.values[0]) == (5, 3)


def test_noise_takes_the_factor_of_its_block_only() -> None:
    """Range noise 10 becomes 20 to 40 inside a block whose factor runs from 2 to 4, and stays 10 outside."""
    block = calibrate.AzimuthBlock(2, 6, 1, 3, [2, 6], [2.0, 4.0])
    noise = calibrate.noise_power([0, 9], [0, 9], np.full((2, 2), 10.0), [block], (8, 6)).values
    np.testing.assert_allclose(noise[2:7, 2], [20, 25, 30, 35, 40])
    outside = np.ones((8, 6), bool)
    outside[2:7, 1:4] = False
    assert (noise[outside] == 10).all()


def test_calibration_is_lazy_and_block_sizes_do_not_matter() -> None:
    """A chunked array stays chunked through law and look-up table, and computes to the same numbers."""
    rng = np.random.default_rng(1)
    dn = bands(rng.uniform(0, 500, (40, 30)), ("VV",))
    table = ([0, 20, 40], [0, 15, 30], rng.uniform(300, 400, (3, 3)))
    whole = calibrate.backscatter_from_amplitude(dn, calibrate.interpolate_lut(*table, (40, 30)))
    lazy = calibrate.backscatter_from_amplitude(
        dn.chunk({"y": 16, "x": 16}), calibrate.interpolate_lut(*table, (40, 30), chunks=16)
    )
    assert lazy.chunks is not None
    np.testing.assert_array_equal(lazy.compute().values, whole.values)


def test_gaofen3_power_follows_the_formula_and_phase_is_kept() -> None:
    """|S|^2 in dB is 10 log10((I^2 + Q^2) (Qv / 32767)^2) - K, per polarisation; the phase is untouched."""
    dn = bands([[3000 + 4000j, -1 - 1j]], ("HH", "HV"), dtype="complex64")
    s = calibrate.complex_from_scale(
        dn, calibrate.amplitude_factor({"HH": 150.0, "HV": 30.0}, {"HH": 32.0, "HV": 28.5})
    )
    for i, (qualify, constant) in enumerate([(150.0, 32.0), (30.0, 28.5)]):
        expected_db = 10 * np.log10(np.abs(dn.values[i, 0]) ** 2 * (qualify / 32767) ** 2) - constant
        np.testing.assert_allclose(10 * np.log10(np.abs(s.values[i, 0]) ** 2), expected_db, atol=1e-5)
    np.testing.assert_allclose(np.angle(s.values), np.angle(dn.values), atol=1e-6)
    assert s.dtype == np.complex64
    assert s.attrs["quantity"] == "sigma_nought_amplitude"


def test_capella_scale_per_channel_keeps_the_span() -> None:
    """The span is the sum over channels of (scale |DN|)^2."""
    dn = bands([[1 + 1j, 2 - 3j]], ("HH", "VV"), dtype="complex64")
    s = calibrate.complex_from_scale(dn, {"HH": 2.0, "VV": 0.5})
    np.testing.assert_allclose((np.abs(s) ** 2).sum("band").values[0], [4.25 * 2, 4.25 * 13], rtol=1e-6)


def test_scl_classes_and_missing_pixels() -> None:
    """Each of the twelve classes maps as stated, an unknown one and an unmeasured pixel to no-data."""
    scl = xr.DataArray(np.array([[*range(12), 77, 4]], dtype="uint8"), dims=("y", "x"))
    valid = xr.DataArray(np.array([[True] * 13 + [False]]), dims=("y", "x"))
    q = Quality
    expected = [0, q.SATURATED, q.SHADOW, q.SHADOW, *[q.CLEAR] * 4, q.CLOUD, q.CLOUD, q.CIRRUS, q.SNOW, 0, 0]
    for layer in (scl, scl.astype("float32"), scl.chunk({"x": 5})):
        np.testing.assert_array_equal(calibrate.from_scl(layer, valid).values[0], expected)
    assert calibrate.from_scl(scl.astype("float32").where(scl != 4), valid).values[0, 4] == q.NO_DATA


def test_qa_pixel_values_of_the_usgs_table() -> None:
    """Of the USGS table: clear 21824, water 21952, cloud 22280, shadow 23888, snow 30048, cirrus 54596."""
    codes = [1, 21824, 21952, 22280, 23888, 30048, 54596, 21826]
    q = Quality
    expected = [q.NO_DATA, q.CLEAR, q.CLEAR, q.CLOUD, q.SHADOW, q.SNOW, q.CIRRUS, q.CLOUD]
    qa = xr.DataArray(np.array([codes], dtype="uint16"), dims=("y", "x"))
    valid = xr.ones_like(qa, dtype=bool)
    np.testing.assert_array_equal(calibrate.from_qa_pixel(qa, valid).values[0], expected)
    with_gap = qa.astype("float32").where(qa != 21824)
    assert calibrate.from_qa_pixel(with_gap, valid).values[0, 1] == q.NO_DATA
    assert calibrate.from_qa_pixel(with_gap, valid).dtype == np.uint8


def test_without_a_layer_measured_is_clear_and_says_so() -> None:
    """Clear where measured, no-data elsewhere, and the attribute names the lack of a layer."""
    quality = calibrate.from_valid(xr.DataArray(np.array([[True, False]]), dims=("y", "x")))
    assert quality.values.tolist() == [[1, 0]]
    assert "no layer" in quality.attrs["source"]


GRID = xr.DataArray(np.ones((1, 1)), dims=("y", "x"))
ONE = bands([[1.0]], ("R",))
RADIANCE = calibrate.radiance_from_dn(ONE, {"R": 1.0}, {"R": 0.0})
REFUSED = {
    "zero gain": lambda: calibrate.reflectance_from_dn(ONE, {"R": 0.0}, {"R": 0.0}),
    "NaN gain": lambda: calibrate.radiance_from_dn(ONE, {"R": math.nan}, {"R": 0.0}),
    "NaN offset": lambda: calibrate.reflectance_from_dn(ONE, {"R": 1.0}, {"R": math.nan}),
    "missing band": lambda: calibrate.reflectance_from_dn(ONE, {"G": 1.0}, {"R": 0.0}),
    "unknown quantity": lambda: calibrate.reflectance_from_dn(ONE, {"R": 1.0}, {"R": 0.0}, "albedo"),
    "integers": lambda: calibrate.reflectance_from_dn(ONE.astype("uint16"), {"R": 1.0}, {"R": 0.0}),
    "no band names": lambda: calibrate.reflectance_from_dn(ONE.drop_vars("band"), {"R": 1.0}, {"R": 0.0}),
    "sun below horizon": lambda: calibrate.toa_reflectance_from_radiance(RADIANCE, {"R": 1.0}, 1.0, -3.0),
    "distance in km": lambda: calibrate.toa_reflectance_from_radiance(RADIANCE, {"R": 1.0}, 1.5e8, 30.0),
    "not a radiance": lambda: calibrate.toa_reflectance_from_radiance(ONE, {"R": 1.0}, 1.0, 30.0),
    "complex as amplitude": lambda: calibrate.backscatter_from_amplitude(ONE.astype("complex64"), GRID),
    "real as complex": lambda: calibrate.complex_from_scale(ONE, {"R": 1.0}),
    "wrong full scale": lambda: calibrate.amplitude_factor({"R": 1}, {"R": 1}, 255),
    "table elsewhere": lambda: calibrate.backscatter_from_amplitude(ONE, xr.zeros_like(ONE[0]).pad(x=1)),
    "table of another window": lambda: calibrate.backscatter_from_amplitude(
        ONE.assign_coords(y=[4], x=[0]), GRID.assign_coords(y=[0], x=[0])
    ),
    "zero in the table": lambda: calibrate.interpolate_lut([0, 9], [0, 9], [[1, 0], [1, 1]], (4, 4)),
    "NaN in the table": lambda: calibrate.interpolate_lut([0, 9], [0, 9], [[1, math.nan], [1, 1]], (4, 4)),
    "vectors that go back": lambda: calibrate.interpolate_lut([9, 0], [0, 9], np.ones((2, 2)), (4, 4)),
    "one vector": lambda: calibrate.interpolate_lut([0], [0, 9], np.ones((1, 2)), (4, 4)),
    "table that ends too early": lambda: calibrate.interpolate_lut([0, 9], [0, 9], np.ones((2, 2)), (20, 4)),
    "short vector": lambda: calibrate.interpolate_lut([0, 9], [0, 9], np.ones((2, 3)), (4, 4)),
    "float text layer": lambda: calibrate.from_scl(GRID.astype(str), GRID.astype(bool)),
    "layer of another grid": lambda: calibrate.from_scl(GRID.astype("uint8"), xr.ones_like(GRID.pad(x=1), dtype=bool)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_calibrated_is_refused(name: str) -> None:
    """Each bad input is a CalibrationError that names the item and what would have been enough."""
    with pytest.raises(CalibrationError) as refusal:
        REFUSED[name]()
    assert refusal.value.item
    assert refusal.value.enough


def test_real_slc_tables_against_scipy() -> None:
    """Calibration and noise vectors of a real SLC agree with scipy's interpolation to 1e-6."""
    found = sorted(REALDATA.glob("s1_safe_metadata/*SLC*/annotation/calibration/*-iw1-slc-vv-*.xml"))
    if not found:
        pytest.skip(f"no Sentinel-1 metadata in {REALDATA}")
    calibration, noise = (ElementTree.parse(f).getroot() for f in found)

    def numbers(element: ElementTree.Element, tag: str) -> np.ndarray:
        return np.array(element.findtext(tag, "").split(), dtype=float)

    for vectors, name in ((calibration.findall(".//calibrationVector"), "sigmaNought"),
                          (noise.findall(".//noiseRangeVector"), "noiseRangeLut")):  # fmt: skip
        lines = np.array([int(v.findtext("line", "")) for v in vectors], dtype=float)
        pixels = [numbers(v, "pixel") for v in vectors]
        values = [numbers(v, name) for v in vectors]
        assert all(np.array_equal(p, pixels[0]) for p in pixels)
        origin, shape = (4000, 9000), (500, 700)
        ours = calibrate.interpolate_lut(lines, pixels, values, shape, origin=origin)
        reference = RegularGridInterpolator((lines, pixels[0]), np.array(values))
        rows, columns = np.meshgrid(ours.y, ours.x, indexing="ij")
        np.testing.assert_allclose(ours.values, reference((rows, columns)), rtol=1e-6)
