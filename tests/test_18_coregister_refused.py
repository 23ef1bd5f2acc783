"""What cannot be measured gets no number: water, masks, patterns, noise, strangers, seasons, clouds at the edge."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from test_18_coregister import ALL, REALDATA, SIZE, clouds, error_px, fields, inner, moved, texture

from catalog.coregister import Method, Shift, estimate_shift
from catalog.displacement import Model

MODELS: tuple[Model, ...] = ("shift", "affine", "field")
METHODS: tuple[Method, ...] = ("auto", "structure")


def estimate(
    images: tuple[np.ndarray, np.ndarray], usable: tuple[np.ndarray, np.ndarray] = (ALL, ALL), method: Method = "auto"
) -> Shift:
    return estimate_shift(*images, *usable, 10.0, method=method, models=MODELS)


def refused(shift: Shift) -> bool:
    """No number, and a reason."""
    assert shift.reason
    return shift.verdict != "accepted" and (shift.dx_m, shift.dy_m, shift.displacement) == (0.0, 0.0, None)


@pytest.mark.parametrize("method", METHODS)
def test_flat_water_and_noise_are_not_estimable(method: Method) -> None:
    """Glint and noise of two dates share nothing, white or as smooth as waves, on level water or a slope of light."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 0.01, SIZE)[None, :]
    for sigma in (0.0, 1.0, 3.0):
        noise = [gaussian_filter(rng.standard_normal((SIZE, SIZE)), sigma) for _ in range(2)]
        water = [0.03 + slope + 0.002 * n / n.std() for n in noise]
        for pair in (noise, water):
            shift = estimate((pair[0], pair[1]), method=method)
            assert shift.verdict == "not estimable"
            assert refused(shift)
            assert np.isnan(shift.ce90_px)


@pytest.mark.parametrize("method", METHODS)
def test_a_twentieth_left_by_the_masks_is_not_estimable(method: Method) -> None:
    """95 % masked, as one patch, in blobs or sprinkled: too little for tie points that confirm each other."""
    rng = np.random.default_rng(1)
    image = texture(rng)
    pair = inner(image), inner(moved(image, np.array([1.5, -2.0])))
    patch = np.zeros_like(ALL)
    patch[20:77, 30:87] = True
    blobs = gaussian_filter(rng.standard_normal((SIZE, SIZE)), 14)
    for usable in (patch, blobs > np.quantile(blobs, 0.95), rng.uniform(size=ALL.shape) < 0.05):
        shift = estimate(pair, (usable, usable), method)
        assert shift.verdict == "not estimable"
        assert refused(shift)


@pytest.mark.parametrize("method", METHODS)
def test_images_without_common_pixels_are_not_estimable(method: Method) -> None:
    """Two halves that do not overlap, by masks or by NaN."""
    image = texture(np.random.default_rng(2))
    pair = inner(image), inner(moved(image, np.array([1.5, -2.0])))
    half = np.zeros_like(ALL)
    half[:, : SIZE // 2] = True
    holes = np.where(half, pair[0], np.nan), np.where(half, np.nan, pair[1])
    for images, usable in ((pair, (half, ~half)), (holes, (ALL, ALL))):
        shift = estimate(images, usable, method)
        assert shift.verdict == "not estimable"
        assert refused(shift)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("period_px", [5, 6, 7, 9, 12])
def test_ground_that_repeats_itself_is_not_estimable(period_px: int, method: Method) -> None:
    """Roofs or rows of trees in a regular pattern match a period away as well: no shift is picked among equals."""
    rng = np.random.default_rng(period_px)

    def pattern(row: float, column: float) -> np.ndarray:
        waves = [np.sign(np.sin(2 * np.pi * (np.arange(SIZE) - at) / period_px)) for at in (row, column)]
        return gaussian_filter(np.outer(*waves), 0.7) + 0.1 * rng.standard_normal((SIZE, SIZE))

    shift = estimate((pattern(0, 0), pattern(2.0, -2.4)), method=method)
    assert shift.verdict == "not estimable"
    assert refused(shift)
    assert "repeats itself" in shift.reason


def test_a_pattern_on_ground_that_does_not_repeat_is_measured() -> None:
    """Half as much unique texture under the pattern is enough to tell its periods apart."""
    rng = np.random.default_rng(3)
    ground, offset = texture(rng), np.array([2.0, -2.4])
    rows, columns = (np.sin(2 * np.pi * np.arange(SIZE) / 6), np.sin(2 * np.pi * (np.arange(SIZE)) / 6))
    shifted = [np.sin(2 * np.pi * (np.arange(SIZE) - o) / 6) for o in offset]
    pair = 2 * inner(ground) + np.outer(rows, columns), 2 * inner(moved(ground, offset)) + np.outer(*shifted)
    shift = estimate(pair)
    assert shift.verdict == "accepted"
    assert error_px(shift, offset) < 0.1


def test_seasons_swap_the_fields_but_not_their_borders() -> None:
    """Every field with a new reflectance: by structure the shift is found to a quarter of a pixel, or none is told."""
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(4):
        side = SIZE + 64
        seeds = rng.uniform(0, side, ((side // 20) ** 2, 2))
        places = np.stack(np.mgrid[: 2 * side, : 2 * side], axis=-1) / 2
        owner = cKDTree(seeds).query(places.reshape(-1, 2))[1]
        spring, autumn = (
            gaussian_filter(rng.uniform(0.03, 0.4, len(seeds))[owner].reshape(side, 2, side, 2).mean((1, 3)), 0.6)
            for _ in range(2)
        )
        offset = rng.uniform(-3, 3, 2)
        shift = estimate((inner(spring), inner(moved(autumn, offset))), method="structure")
        errors += [error_px(shift, offset)] if shift.verdict == "accepted" else []
    assert len(errors) >= 2
    assert max(errors) < 0.25


@pytest.mark.parametrize("rim_px", [0, 2, 4])
def test_cloud_edges_that_no_mask_has_do_not_lead_the_match(rim_px: int) -> None:
    """Each date's own clouds, whose bright rims reach pixels beyond their masks: right to a seventh of a pixel."""
    rng = np.random.default_rng(5 + rim_px)
    for _ in range(3):
        image, offset = fields(rng), rng.uniform(-3, 3, 2)
        clear = clouds(rng, 0.3), clouds(rng, 0.3)
        rims = [gaussian_filter((~c).astype(float), rim_px or 0.1) * bool(rim_px) for c in clear]
        ground = inner(image), inner(moved(image, offset))
        pair = [g + np.where(c, 0.3 * rim, 0.6) for g, c, rim in zip(ground, clear, rims, strict=True)]
        shift = estimate((pair[0], pair[1]), clear)
        assert shift.verdict == "accepted"
        assert error_px(shift, offset) < 0.15


def test_real_chips_of_two_places_are_not_matched() -> None:
    """Radar of a flood chip against optics of another place: never a number."""
    first = sorted(REALDATA.glob("ombria/OmbriaS2/test/BEFORE/*.png"))[::5]
    if not first:
        pytest.skip(f"no S1 and S2 chips in {REALDATA}")
    others = sorted(REALDATA.glob("ombria/OmbriaS1/test/AFTER/*.png"))[::5]
    for one, other in zip(first, others[1:] + others[:1], strict=True):
        with rasterio.open(one) as s2, rasterio.open(other) as s1:
            pair = s2.read().mean(0), s1.read(1).astype(float)
        assert refused(estimate(pair, method="structure"))


@pytest.mark.slow
def test_of_unrelated_pairs_one_in_a_hundred_is_accepted_at_most() -> None:
    """Four hundred pairs of different ground, masked alike, otherwise or not, by both measures and every model."""
    rng = np.random.default_rng(6)
    wrong = 0
    for k in range(400):
        ground = (texture, fields)
        pair = inner(ground[k % 2](rng)), inner(ground[(k // 2) % 2](rng))
        masks = [clouds(rng, float(rng.uniform(0.1, 0.6))) if k % 3 else ALL for _ in range(2)]
        usable = (masks[0], masks[0]) if k % 3 == 2 else (masks[0], masks[1])
        wrong += estimate(pair, usable, METHODS[k % 2]).verdict == "accepted"
    assert wrong <= 4
