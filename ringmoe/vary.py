"""Chips varied as physics allows: mirrored, turned by quarters, scaled with their ground sampling distance.

No value is ever changed but by averaging neighbours that were measured: reflectance has no colour jitter. Scale is
varied for optical and multispectral chips alone. Between complex pixels nothing may be interpolated, for their phase is
that of the speckle; and averaged power has another number of looks than the contract says.
"""

# Shape suffixes: C channels, H rows, W columns, S side of the chip, K taps.

from __future__ import annotations

import math

import numpy as np

from ringmoe.modality import Modality

SCALED = (Modality.OPT, Modality.MS)
"""Modalities whose pixels may be averaged."""


def window_side(rng: np.random.Generator, side: int, scale: tuple[float, float], most: int) -> int:
    """Whole pixels of a picture that become a chip of so many: a factor from `scale`, its logarithm uniform.

    A window larger than the chip is no larger than `most`, the shorter side of the picture.
    """
    low, high = (math.log(factor) for factor in scale)
    return min(max(1, round(side * math.exp(rng.uniform(low, high)))), max(side, most))


def resampled(pixels_CHW: np.ndarray, valid_HW: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A square window as a chip of another number of pixels over the same ground.

    Each pixel is the mean of those around it, weighted by a triangle as wide as the larger of both pixels, balanced
    about the new pixel's centre; pixels that are not valid, or lack a channel, do not count in it, and a pixel with
    less than half of its weight known is none.

    Parameters
    ----------
    pixels_CHW
        Physical units; NaN where not valid, and where a channel is missing.
    valid_HW
        bool.

    Returns
    -------
    pixels_CSS, valid_SS
        float32, NaN where no known pixel is near; bool, true where any channel is known.
    """
    index_SK, weight_SK = taps(valid_HW.shape[-1], side)
    known_CHW = valid_HW & np.isfinite(pixels_CHW)
    if known_CHW.all():
        return _along_both(pixels_CHW, index_SK, weight_SK), np.ones((side, side), dtype=bool)
    alike_CHW = known_CHW[:1] if (known_CHW == known_CHW[:1]).all() else known_CHW
    total_CSS = _along_both(alike_CHW.astype(np.float32), index_SK, weight_SK)
    sums_CSS = _along_both(np.where(known_CHW, pixels_CHW, np.float32(0)), index_SK, weight_SK)
    with np.errstate(invalid="ignore", divide="ignore"):
        found_CSS = np.where(total_CSS > 1e-6, sums_CSS / total_CSS, np.float32(np.nan))
    enough_CSS = total_CSS >= 0.5 - 1e-6
    valid_SS = np.asarray(enough_CSS.any(axis=0))
    return np.where(valid_SS & ~enough_CSS, np.float32(np.nan), found_CSS).astype(np.float32), valid_SS


def nearest(labels_HW: np.ndarray, side: int) -> np.ndarray:
    """Labels of a square window on the pixels of a chip: the label at each pixel's centre."""
    length = labels_HW.shape[-1]
    index = np.minimum(((np.arange(side) + 0.5) * length / side).astype(np.int64), length - 1)
    return labels_HW[index][:, index]


def taps(length: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `length` pixels each of `side` pixels is the mean of, and their weights, both (S, K).

    Weights add up to 1 and, but at the edges, have their centre at the pixel's: what is linear stays so.
    """
    ratio = length / side
    reach = max(1.0, ratio)
    centre_S = (np.arange(side) + 0.5) * ratio - 0.5
    steps_K = np.arange(-math.ceil(reach), math.ceil(reach) + 1)
    index_SK = np.rint(centre_S)[:, None].astype(np.int64) + steps_K
    off_SK = index_SK - centre_S[:, None]
    weight_SK = np.maximum(0.0, 1 - np.abs(off_SK) / reach)
    first_S1, second_S1 = ((weight_SK * off_SK**n).sum(axis=1, keepdims=True) for n in (1, 2))
    weight_SK *= 1 - off_SK * first_S1 / np.maximum(second_S1, 1e-12)  # a triangle cut into pixels leans to one side
    weight_SK[(index_SK < 0) | (index_SK >= length)] = 0.0
    weight_SK /= weight_SK.sum(axis=1, keepdims=True)
    return np.clip(index_SK, 0, length - 1), weight_SK.astype(np.float32)


def _along_both(x_CHW: np.ndarray, index_SK: np.ndarray, weight_SK: np.ndarray) -> np.ndarray:
    """Weighted sums along rows, then columns."""
    return _along(_along(x_CHW, index_SK, weight_SK[:, :, None], axis=1), index_SK, weight_SK, axis=2)


def _along(x: np.ndarray, index_SK: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Tap by tap, so that the bits depend on no library's threads; `take` and products leave Python's lock."""
    total = np.take(x, index_SK[:, 0], axis=axis, mode="clip")
    total *= weight[:, 0]
    for k in range(1, index_SK.shape[1]):
        part = np.take(x, index_SK[:, k], axis=axis, mode="clip")
        part *= weight[:, k]
        total += part
    return total


class Orientation:
    """One of the eight ways to lay a square, or of the four without a quarter turn.

    Parameters
    ----------
    turns
        Whether quarter turns are drawn too: never for chips in radar geometry, where rows and columns are different
        things.
    """

    def __init__(self, rng: np.random.Generator, turns: bool) -> None:
        self._flips = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
        self._turned = turns and rng.random() < 0.5

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The values, (..., H, W), laid that way."""
        values = np.flip(values, self._flips)
        return np.swapaxes(values, -2, -1) if self._turned else values
