"""Shifts are measured to a fraction of a pixel under clouds and noise, and never invented."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.ndimage import fourier_shift, gaussian_filter
from scipy.ndimage import shift as spline_shift
from scipy.spatial import cKDTree

from catalog.coregister import Shift, estimate_shift
from catalog.errors import GridError

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[2] / "shared" / "realdata"))
SIZE, MARGIN, PIXEL_M = 256, 32, 10.0
ALL = np.ones((SIZE, SIZE), dtype=bool)


def texture(rng: np.random.Generator) -> np.ndarray:
    """Band-limited random ground, periodic, with room to be shifted."""
    side = SIZE + 2 * MARGIN
    return gaussian_filter(rng.standard_normal((side, side)), 1.5, mode="wrap") * 5


def fields(rng: np.random.Generator) -> np.ndarray:
    """Polygons of constant reflectance, about 18 pixels wide, drawn at half a pixel and averaged."""
    side = SIZE + 2 * MARGIN
    seeds = rng.uniform(0, side, ((side // 18) ** 2, 2))
    places = np.stack(np.mgrid[: 2 * side, : 2 * side], axis=-1) / 2
    owner = cKDTree(seeds).query(places.reshape(-1, 2))[1]
    image = rng.uniform(0.03, 0.4, len(seeds))[owner].reshape(side, 2, side, 2).mean((1, 3))
    return gaussian_filter(image, 0.6, mode="wrap")


def inner(image: np.ndarray) -> np.ndarray:
    return image[MARGIN:-MARGIN, MARGIN:-MARGIN]


def moved(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The image with its content moved by (rows, columns), exactly, by the Fourier shift theorem."""
    return np.fft.ifft2(fourier_shift(np.fft.fft2(image), offset)).real


def clouds(rng: np.random.Generator, share: float) -> np.ndarray:
    """Usable pixels: all but a share in blobs."""
    noise = gaussian_filter(rng.standard_normal((SIZE, SIZE)), SIZE / 20)
    return noise <= np.quantile(noise, 1 - share) if share else ALL.copy()


def error_px(shift: Shift, offset: np.ndarray) -> float:
    """Distance of the shift found from the one that undoes an offset of (rows, columns)."""
    return float(np.hypot(shift.dx_m / PIXEL_M + offset[1], shift.dy_m / PIXEL_M - offset[0]))


def test_sign_and_units_of_a_shift() -> None:
    """Content two pixels too far south and three too far east wants +20 m of y and -30 m of x."""
    image = texture(np.random.default_rng(1))
    shift = estimate_shift(inner(image), inner(moved(image, np.array([2.0, 3.0]))), ALL, ALL, PIXEL_M)
    assert (shift.verdict, shift.method) == ("accepted", "gradient")
    assert (shift.dx_m, shift.dy_m) == pytest.approx((-30.0, 20.0), abs=0.2)
    assert shift.before_px == pytest.approx(np.hypot(2, 3), abs=0.1)
    assert shift.after_px < 0.1
    assert shift.points > 10


@pytest.mark.parametrize("ground", [texture, fields], ids=["texture", "fields"])
@pytest.mark.parametrize(("share", "noise"), [(0.0, 0.05), (0.3, 0.3), (0.5, 0.3)])
def test_known_shifts_under_clouds_and_noise(ground: object, share: float, noise: float) -> None:
    """Bright clouds over up to half of each image, another contrast, noise: median error at most 0.15 px."""
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(3):
        image = ground(rng)  # type: ignore[operator]
        offset = rng.uniform(-5, 5, 2)
        pair = [inner(image), 0.8 * inner(moved(image, offset)) + 0.02]
        usable = [clouds(rng, share), clouds(rng, share)]
        pair = [
            np.where(u, p + noise * image.std() * rng.standard_normal(p.shape), 5 * image.std())
            for p, u in zip(pair, usable, strict=True)
        ]
        shift = estimate_shift(*pair, *usable, PIXEL_M)
        assert shift.verdict == "accepted"
        assert shift.after_px < shift.before_px
        errors.append(error_px(shift, offset))
    assert np.median(errors) <= 0.15
    assert max(errors) <= 0.5


def test_the_same_mask_on_both_is_not_mistaken_for_ground() -> None:
    """A frame of no-data that both images share does not pull a shift of four pixels to zero."""
    rng = np.random.default_rng(2)
    image = fields(rng)
    usable = clouds(rng, 0.4)
    offset = np.array([-4.0, 1.5])
    pair = [np.where(usable, inner(p), np.nan) for p in (image, moved(image, offset))]
    shift = estimate_shift(*pair, usable, usable, PIXEL_M)
    assert shift.verdict == "accepted"
    assert error_px(shift, offset) < 0.15


def test_contrast_that_swaps_between_modalities() -> None:
    """Speckled power in which bright fields are dark is matched by structure to half a pixel."""
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(3):
        image = fields(rng)
        offset = rng.uniform(-3, 3, 2)
        power = np.exp(-10 * inner(moved(image, offset))) * rng.gamma(4.4, 1 / 4.4, (SIZE, SIZE))
        shift = estimate_shift(inner(image), power, ALL, ALL, PIXEL_M, method="structure")
        assert shift.verdict == "accepted"
        errors.append(error_px(shift, offset))
    assert np.median(errors) <= 0.5


def test_already_aligned_images_are_left_alone() -> None:
    """At no shift, with noise, the answer is accepted and moves nothing by more than a tenth of a pixel."""
    rng = np.random.default_rng(5)
    image = inner(texture(rng))
    shift = estimate_shift(image, image + 0.5 * image.std() * rng.standard_normal(image.shape), ALL, ALL, PIXEL_M)
    assert shift.verdict == "accepted"
    assert error_px(shift, np.zeros(2)) < 0.1
    assert shift.after_px <= shift.before_px


@pytest.mark.parametrize("method", ["gradient", "structure", "auto"])
def test_unrelated_images_are_never_accepted(method: str) -> None:
    """Independent scenes, masked alike or not, get no shift."""
    rng = np.random.default_rng(6)
    for k in range(6):
        ground = (texture, fields)[k % 2]
        masks = [clouds(rng, 0.4 * (k % 3 > 0)) for _ in range(2)]
        masks = [masks[0], masks[0]] if k % 3 == 2 else masks
        shift = estimate_shift(inner(ground(rng)), inner(ground(rng)), *masks, PIXEL_M, method=method)  # type: ignore[arg-type]
        assert shift.verdict != "accepted"
        assert (shift.dx_m, shift.dy_m) == (0.0, 0.0)
        assert shift.reason


def test_what_shows_nothing_is_not_estimable() -> None:
    """Constant images, everything under cloud, NaN everywhere and tiny images say so."""
    image = inner(texture(np.random.default_rng(8)))
    cases = [
        (np.ones_like(image), np.ones_like(image), ALL, ALL),
        (image, image, ~ALL, ALL),
        (image, np.full_like(image, np.nan), ALL, ALL),
        (image[:40, :40], image[:40, :40], ALL[:40, :40], ALL[:40, :40]),
    ]
    for case in cases:
        shift = estimate_shift(*case, PIXEL_M)
        assert shift.verdict == "not estimable"
        assert np.isnan(shift.ce90_px)
        assert shift.reason


def test_a_shift_beyond_the_search_is_not_accepted() -> None:
    """Twelve pixels are not found within eight, and no other number is given for them."""
    image = texture(np.random.default_rng(9))
    shift = estimate_shift(inner(image), inner(moved(image, np.array([12.0, -12.0]))), ALL, ALL, PIXEL_M)
    assert shift.verdict != "accepted"
    wide = estimate_shift(
        inner(image), inner(moved(image, np.array([12.0, -12.0]))), ALL, ALL, PIXEL_M, max_shift_px=16
    )
    assert error_px(wide, np.array([12.0, -12.0])) < 0.1


def test_images_that_cannot_be_compared_are_refused() -> None:
    """Different shapes, complex pixels and a pixel without size are GridErrors."""
    image = np.zeros((128, 128))
    mask = np.ones((128, 128), bool)
    for case in (
        (image[:64], image, mask, mask, 10.0),
        (image.astype(complex), image, mask, mask, 10.0),
        (image, image, mask, mask, 0.0),
    ):
        with pytest.raises(GridError):
            estimate_shift(*case)


def test_real_radar_against_optics_closes() -> None:
    """On S1 and S2 chips two known shifts differ as applied: median closure at most 0.7 px, none wrong."""
    chips = sorted(REALDATA.glob("ombria/OmbriaS1/test/BEFORE/*.png"))[::4]
    if not chips:
        pytest.skip(f"no S1 and S2 chips in {REALDATA}")
    rng = np.random.default_rng(0)
    closures = []
    for chip in chips:
        with rasterio.open(chip) as s1:
            radar = s1.read(1).astype(float)
        with rasterio.open(str(chip).replace("OmbriaS1", "OmbriaS2").replace("S1_", "S2_")) as s2:
            optics = s2.read().mean(0)
        offsets = rng.uniform(-4, 4, (2, 2))
        shifts = []
        for offset in offsets:
            seen = spline_shift(np.ones_like(radar), offset, order=1) > 0.99
            shifted = spline_shift(radar, offset, order=3, mode="nearest")
            shifts.append(estimate_shift(optics, shifted, ALL, seen, 1.0, method="structure"))
        if all(s.verdict == "accepted" for s in shifts):
            measured = np.array([[s.dy_m, -s.dx_m] for s in shifts])
            closures.append(np.hypot(*(measured[0] - measured[1] - (offsets[0] - offsets[1]))))
    assert len(closures) >= len(chips) / 3
    assert np.median(closures) <= 0.7
    assert max(closures) <= 1.5
