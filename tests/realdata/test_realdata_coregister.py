"""Real Sentinel-2 pixels moved by known shifts, and two dates of one place, are brought back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.ndimage import fourier_shift, gaussian_filter

from catalog.coregister import estimate_shift

REAL = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata"))
FIELDS = REAL / "ftw_s2_bitemporal" / "inference-img.tif"
SIZE, MARGIN = 256, 32
pytestmark = pytest.mark.skipif(not FIELDS.exists(), reason=f"the two dates of one place are not at {REAL}")


@pytest.fixture(scope="module")
def dates() -> tuple[np.ndarray, np.ndarray]:
    """(y, x) red of two dates, with a margin to be moved in."""
    with rasterio.open(FIELDS) as source:
        first, second = (source.read(band).astype(float) for band in (1, 5))
    side = SIZE + 2 * MARGIN
    return first[:side, 100 : 100 + side], second[:side, 100 : 100 + side]


def moved(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The inner SIZE x SIZE with its content moved by (rows, columns), by the Fourier shift theorem."""
    ramp = np.clip(np.minimum(np.arange(len(image)), np.arange(len(image))[::-1]) / (MARGIN / 2), 0, 1)
    spectrum = np.fft.fft2((image - image.mean()) * np.outer(ramp, ramp))
    return (np.fft.ifft2(fourier_shift(spectrum, offset)).real + image.mean())[MARGIN:-MARGIN, MARGIN:-MARGIN]


def clear(rng: np.random.Generator, share: float) -> np.ndarray:
    """(y, x) usable pixels: all but a share in blobs."""
    blobs = gaussian_filter(rng.standard_normal((SIZE, SIZE)), 14)
    return blobs <= np.quantile(blobs, 1 - share)


def test_known_shifts_of_real_pixels_under_clouds(dates: tuple[np.ndarray, np.ndarray]) -> None:
    """Half of each image under bright clouds: every shift is accepted and right to a tenth of a pixel."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        offset = rng.uniform(-3.5, 3.5, 2)
        usable = clear(rng, 0.5), clear(rng, 0.5)
        looks = [
            np.where(u, image + 0.2 * image.std() * rng.standard_normal(image.shape), 4 * image.max())
            for image, u in zip((moved(dates[0], np.zeros(2)), moved(dates[0], offset)), usable, strict=True)
        ]
        shift = estimate_shift(*looks, *usable, 1.0)
        assert (shift.verdict, shift.method) == ("accepted", "gradient")
        assert np.hypot(shift.dx_m + offset[1], shift.dy_m - offset[0]) < 0.1
        assert shift.rmse_after_px <= shift.rmse_before_px


def test_two_dates_close(dates: tuple[np.ndarray, np.ndarray]) -> None:
    """Of two dates the difference of two answers is that of the two shifts applied, and no larger model is made up."""
    offsets = np.array([[1.7, -2.4], [-3.1, 0.6]])
    ones = np.ones((SIZE, SIZE), bool)
    still = moved(dates[0], np.zeros(2))
    shifts = [
        estimate_shift(still, moved(dates[1], o), ones, ones, 1.0, method="structure", models=("shift", "affine"))
        for o in offsets
    ]
    assert [s.verdict for s in shifts] == ["accepted", "accepted"]
    assert [s.model for s in shifts] == ["shift", "shift"]
    found = np.array([[s.dy_m, -s.dx_m] for s in shifts])
    assert np.hypot(*(found[0] - found[1] - offsets[0] + offsets[1])) < 0.2
    assert np.hypot(*(found - offsets).T).max() < 1.0
