"""Tables evaluated where they are used: the numbers of images of them, in any window, any blocks, and no more read."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from catalog.calibrate import AzimuthBlock, backscatter_from_amplitude, interpolate_lut, lut, noise_power
from catalog.calibrate.constants import AmplitudeTables, BackscatterTables, GainVectors, NoiseVectors, calibrate
from catalog.errors import CalibrationError

ROWS, COLUMNS = 230, 150
LINES, PIXELS = np.array([0, 90, 160, 240]), np.array([0, 40, 77, 160])
CHANCE = np.random.default_rng(11)
GAIN = CHANCE.uniform(300, 700, (4, 4))
NOISE = CHANCE.uniform(100, 900, (4, 4))
BLOCKS = (
    AzimuthBlock(0, 120, 0, 60, [0, 60, 120], [1.0, 1.5, 0.8]),
    AzimuthBlock(100, 229, 61, 149, [100, 229], [0.5, 2.0]),
)
TABLES = BackscatterTables(
    gain={b: GainVectors(LINES, [PIXELS] * 4, GAIN * k) for k, b in ((1.0, "VV"), (0.9, "VH"))},
    noise={b: NoiseVectors(LINES, [PIXELS] * 4, NOISE * k, BLOCKS) for k, b in ((1.0, "VV"), (0.3, "VH"))},
    source="made up",
)


def _image() -> xr.DataArray:
    """(band, y, x) amplitudes with holes, on lines and pixels from 0."""
    values = np.random.default_rng(3).uniform(0, 500, (2, ROWS, COLUMNS)).astype("float32")
    values[:, 20:24, 30:50] = np.nan
    coords = {"band": ["VV", "VH"], "y": np.arange(ROWS), "x": np.arange(COLUMNS)}
    return xr.DataArray(values, dims=("band", "y", "x"), coords=coords)


def _reference(dn: xr.DataArray, noisy: bool) -> np.ndarray:
    """(DN^2 - N f) / A^2 in float64 by scipy, the factor of each block pixel by pixel."""
    rows, columns = np.meshgrid(dn.y.values, dn.x.values, indexing="ij")
    gain = RegularGridInterpolator((LINES, PIXELS), GAIN)((rows, columns))
    noise = RegularGridInterpolator((LINES, PIXELS), NOISE)((rows, columns))
    for b in BLOCKS:
        inside = (rows >= b.first_line) & (rows <= b.last_line) & (columns >= b.first_pixel) & (columns <= b.last_pixel)
        noise = np.where(inside, noise * np.interp(rows, b.lines, b.values), noise)
    power = dn.values.astype(float) ** 2
    both = [power[0] - noise * noisy, power[1] - 0.3 * noise * noisy]
    return np.stack([both[0] / gain**2, both[1] / (0.9 * gain) ** 2])


@pytest.mark.parametrize("noisy", [True, False])
def test_the_law_holds_to_float32(noisy: bool) -> None:
    """Against scipy in float64, relative to the terms: at most 1e-6, and holes stay holes."""
    dn = _image()
    tables = TABLES if noisy else BackscatterTables(TABLES.gain, {}, "made up")
    got = calibrate(dn, tables, "sigma_nought")
    expected = _reference(dn, noisy)
    scale = (dn.values**2 + 1000.0) / 300.0**2
    assert np.nanmax(np.abs(got.values - expected) / scale) < 1e-6
    assert (np.isnan(got.values) == np.isnan(dn.values)).all()
    assert got.dtype == np.float32
    assert got.attrs["noise_removed"] is noisy
    assert (got.attrs["units"], got.dims) == ("1", ("band", "y", "x"))


def test_tables_agree_with_images_of_them() -> None:
    """The same law by look-up tables laid out on every pixel."""
    dn = _image().sel(band=["VV"])
    gain = interpolate_lut(LINES, PIXELS, GAIN, (ROWS, COLUMNS))
    noise = noise_power(LINES, PIXELS, NOISE, BLOCKS, (ROWS, COLUMNS))
    laid_out = backscatter_from_amplitude(dn, gain, noise)
    one = BackscatterTables({"VV": TABLES.gain["VV"]}, {"VV": TABLES.noise["VV"]}, "made up")
    np.testing.assert_allclose(calibrate(dn, one, "sigma_nought").values, laid_out.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blocks", [(230, 150), (64, 64), (17, 150), (1, 33)])
def test_blocks_do_not_matter(blocks: tuple[int, int]) -> None:
    """However an image is divided, it stays lazy, keeps its blocks and gives the same numbers."""
    dn = _image()
    whole = calibrate(dn, TABLES, "sigma_nought").values
    lazy = calibrate(dn.chunk({"band": 1, "y": blocks[0], "x": blocks[1]}), TABLES, "sigma_nought")
    assert lazy.chunks is not None
    assert lazy.chunksizes["y"][0] == blocks[0]
    np.testing.assert_allclose(lazy.values, whole, rtol=1e-5, atol=1e-6)


def test_a_window_has_the_numbers_of_its_place() -> None:
    """Lines and pixels come from the coordinates: a window is calibrated as the image it was cut from."""
    dn = _image()
    whole = calibrate(dn, TABLES, "sigma_nought")
    window = {"y": slice(85, 205), "x": slice(31, 140)}
    got = calibrate(dn.isel(window), TABLES, "sigma_nought")
    np.testing.assert_allclose(got.values, whole.isel(window).values, rtol=1e-5, atol=1e-6)
    thinned = calibrate(dn.isel(y=slice(3, None, 5), x=slice(1, None, 7)), TABLES, "sigma_nought")
    np.testing.assert_allclose(thinned.values, whole.values[:, 3::5, 1::7], rtol=1e-5, atol=1e-6)
    with_phase = dn.isel(window).astype("complex64")
    s = calibrate(with_phase, AmplitudeTables(TABLES.gain, "made up"), "sigma_nought_amplitude").values
    np.testing.assert_allclose(np.abs(s) ** 2, _reference(dn, noisy=False)[:, 85:205, 31:140], rtol=1e-5)


def test_only_blocks_under_a_window_are_read() -> None:
    """Of 8 by 5 blocks of two bands a window over four reads eight blocks, once each."""
    dn = _image().chunk({"band": 1, "y": 30, "x": 30})
    reads: list[tuple[int, ...]] = []

    def load(block: np.ndarray) -> np.ndarray:
        reads.append(block.shape)
        return block

    counted = dn.copy(data=da.map_blocks(load, dn.data, dtype="float32", meta=np.empty((0, 0, 0), "float32")))
    power = calibrate(counted, TABLES, "sigma_nought")
    assert reads == []
    power.isel(y=slice(35, 65), x=slice(65, 95)).compute()
    assert len(reads) == 8


def test_coordinates_of_a_map_are_no_line_numbers() -> None:
    """A y that falls, as of a map, is refused: its tables would be read at metres."""
    with pytest.raises(CalibrationError, match="no line or pixel numbers") as refusal:
        calibrate(_image().assign_coords(y=5e6 - 10.0 * np.arange(ROWS)), TABLES, "sigma_nought")
    assert refusal.value.todo
    with pytest.raises(CalibrationError, match="the table covers"):
        calibrate(_image().assign_coords(y=np.arange(ROWS) + 200), TABLES, "sigma_nought")


def test_stripes_make_up_a_block() -> None:
    """Every line once, in order, STRIPE at a time."""
    assert [i for s in lut.stripes(150) for i in range(s.start, s.stop)] == list(range(150))
    assert max(s.stop - s.start for s in lut.stripes(150)) == lut.STRIPE
