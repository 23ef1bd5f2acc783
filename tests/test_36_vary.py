"""Chips vary as physics allows: turned with their masks, scaled with their pixel size, complex radar untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from noise_cubes import cube_of

from catalog.sensors import GAOFEN_3, SENTINEL_1, SENTINEL_2, Quality
from ringmoe.data import ChipSampler, Crop, Labelled, LabelledSampler
from ringmoe.measure import measure_contract
from ringmoe.modality import Modality
from ringmoe.vary import nearest, resampled, taps, window_side

VARIED = Crop(32, turns=True, scale=(0.5, 2.0))


@pytest.mark.parametrize("length", [20, 32, 45, 64])
def test_a_ramp_stays_a_ramp_over_the_same_ground(length: int) -> None:
    """Values linear in metres are, away from the edge, the value at the new pixel's centre; a constant stays."""
    ramp = np.tile(np.arange(length) + 0.5, (1, length, 1)).astype(np.float32)
    found, valid = resampled(ramp, np.ones((length, length), bool), 32)
    expected = (np.arange(32) + 0.5) * length / 32
    np.testing.assert_allclose(found[0, 16, 3:-3], expected[3:-3], rtol=1e-5)
    assert valid.all()
    constant, _ = resampled(np.full((2, length, length), 0.3, np.float32), np.ones((length, length), bool), 32)
    np.testing.assert_allclose(constant, 0.3, rtol=1e-6)


def test_no_scale_is_no_change() -> None:
    """Pixels of a window of the chip's own side keep their bits."""
    pixels = np.random.default_rng(0).normal(size=(3, 24, 24)).astype(np.float32)
    np.testing.assert_array_equal(resampled(pixels, np.ones((24, 24), bool), 24)[0], pixels)


def test_what_is_not_valid_never_bleeds_into_what_is() -> None:
    """A cloud of value 9 beside ground of 0.1: valid pixels are 0.1, the mask covers the cloud."""
    pixels, valid = np.full((1, 48, 48), 0.1, np.float32), np.ones((48, 48), bool)
    pixels[:, :, 24:], valid[:, 24:] = 9.0, False
    pixels[:, 40:, 30:] = np.nan
    found, seen = resampled(pixels, valid, 32)
    np.testing.assert_allclose(found[0][seen], 0.1, rtol=1e-6)
    np.testing.assert_array_equal(seen, np.tile(np.arange(32) < 16, (32, 1)))


def test_a_channel_that_is_missing_leaves_the_others_alone() -> None:
    """One of two lacks the right half: it is missing there and whole elsewhere, the other as without any hole."""
    pixels, valid = np.random.default_rng(0).random((2, 48, 48)).astype(np.float32), np.ones((48, 48), bool)
    whole = resampled(pixels, valid, 32)[0]
    pixels[1, :, 24:] = np.nan
    found, seen = resampled(pixels, valid, 32)
    assert seen.all()
    np.testing.assert_allclose(found[0], whole[0], rtol=1e-6)
    np.testing.assert_array_equal(np.isfinite(found[1]), np.tile(np.arange(32) < 16, (32, 1)))
    np.testing.assert_allclose(found[1, :, :15], whole[1, :, :15], rtol=1e-6)


def test_weights_of_every_pixel_add_up_to_one() -> None:
    """For windows smaller and larger than the chip."""
    for length in (5, 31, 32, 33, 100):
        index, weight = taps(length, 32)
        np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-6)
        assert index.min() >= 0
        assert index.max() < length


def test_scale_keeps_ground_per_chip() -> None:
    """GSD times 32 px is a whole number of the cube's pixels, factors fill 0.5 to 2, and a linear field keeps its slope
    per metre."""
    cube = cube_of(SENTINEL_2, size=96, n_times=1)
    cube["data"][0] = np.arange(96, dtype=np.float32) * 10.0 + 5.0  # metres east
    contract = measure_contract([cube], described=True).contract
    chips = ChipSampler([cube], contract, batch=64, crop=Crop(32, scale=(0.5, 2.0))).batch(0)[Modality.MS]
    assert chips.gsd_B is not None
    across = (chips.gsd_B * 32 / 10.0).numpy()
    np.testing.assert_allclose(across, np.rint(across), atol=1e-4)
    assert across.min() < 20
    assert across.max() > 50
    slope = (chips.pixels_BCHW[:, 0, 16, 20] - chips.pixels_BCHW[:, 0, 16, 10]).abs() / 10
    torch.testing.assert_close(slope, chips.gsd_B, rtol=1e-4, atol=1e-3)


def test_factors_of_scale_are_even_in_their_logarithm() -> None:
    """As many chips of finer as of coarser pixels, none beyond the limits or the picture."""
    rng = np.random.default_rng(0)
    sides = np.array([window_side(rng, 64, (0.5, 2.0), 1000) for _ in range(4000)])
    assert np.mean(sides < 64) == pytest.approx(0.5, abs=0.03)
    assert sides.min() >= 32
    assert sides.max() <= 128
    assert max(window_side(rng, 64, (0.5, 2.0), 70) for _ in range(100)) <= 70
    assert max(window_side(rng, 64, (0.5, 2.0), 20) for _ in range(100)) <= 64


def test_complex_radar_is_cropped_and_mirrored_by_whole_pixels_only() -> None:
    """Every pixel of every chip is a pixel of the cube, and rows stay rows: mirrored at most, never turned."""
    cube = cube_of(GAOFEN_3, size=64, n_times=1, n_bands=1)
    place = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    cube["data"][0, 0] = place + 1j * place
    contract = measure_contract([cube], described=True).contract
    chips = ChipSampler([cube], contract, batch=64, crop=VARIED).batch(0)[Modality.SAR_L1]
    down = chips.pixels_BCHW[:, :, 1:] - chips.pixels_BCHW[:, :, :-1]
    right = chips.pixels_BCHW[..., 1:] - chips.pixels_BCHW[..., :-1]
    assert set(down.unique().tolist()) == {-64.0, 64.0}
    assert set(right.unique().tolist()) == {-1.0, 1.0}
    assert set(chips.gsd_B.tolist()) == {10.0}


def test_detected_radar_keeps_its_pixels_for_its_looks() -> None:
    """Power is turned, never averaged: speckle of another number of looks would not be the contract's."""
    cube = cube_of(SENTINEL_1, size=64, n_times=1, n_bands=1)
    contract = measure_contract([cube]).contract
    chips = ChipSampler([cube], contract, batch=8, crop=VARIED).batch(0)[Modality.SAR_L2]
    assert np.isin(chips.pixels_BCHW.numpy(), cube["data"].values).all()


def test_all_eight_ways_to_lay_a_chip_turn_up() -> None:
    """Mirrors and quarter turns: eight corners and directions, masks with them."""
    cube = cube_of(SENTINEL_2, size=40, n_times=1)
    place = np.arange(1600, dtype=np.float32).reshape(40, 40)
    cube["data"][0, 0] = place
    cube["quality"][0] = np.where(place % 7 == 0, Quality.CLOUD, Quality.CLEAR)
    contract = measure_contract([cube]).contract
    chips = ChipSampler([cube], contract, batch=64, crop=Crop(16, turns=True)).batch(0)[Modality.MS]
    ways = set()
    for pixels, valid in zip(chips.pixels_BCHW[:, 0].numpy(), chips.valid_BHW.numpy(), strict=True):
        np.testing.assert_array_equal(valid, pixels % 7 != 0)
        ways.add((pixels[1, 0] - pixels[0, 0], pixels[0, 1] - pixels[0, 0]))
    assert len(ways) == 8


def test_labels_are_scaled_by_nearest_neighbour_with_their_pixels() -> None:
    """Where the left half is class 1 of value 0 and the right class 2 of value 1, labels are where the values are."""
    cube = cube_of(SENTINEL_2, size=96, n_times=1)
    halves = np.tile((np.arange(96) >= 48).astype(np.float32), (96, 1))
    cube["data"][0] = halves
    contract = measure_contract([cube]).contract
    source = Labelled(cube, (halves + 1).astype(np.uint8))
    chips, labels_BHW = LabelledSampler([source], contract, batch=32, crop=VARIED).batch(0)
    agree = labels_BHW == (chips.pixels_BCHW[:, 0] > 0.5).long() + 1
    assert agree.float().mean() > 0.98
    assert set(labels_BHW.unique().tolist()) == {1, 2}
    np.testing.assert_array_equal(nearest(np.array([[1, 2], [3, 4]]), 4), np.kron([[1, 2], [3, 4]], np.ones((2, 2))))
