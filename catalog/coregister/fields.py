"""Images as fields of gradients, in which brightness and contrast matter little and clouds leave no edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.ndimage import shift as spline_shift


@dataclass(frozen=True)
class Rule:
    """What a measure demands."""

    name: str
    """As in Shift.method."""
    sigma_px: float
    """Smoothing before the gradient is taken."""
    window_px: int
    """Side of a window."""
    agreement_px: float
    """How close the two halves of the tie points must come."""
    significance: float
    """How many times the correlation that chance gives the fitted half's peak must reach."""
    significance_held: float
    """The same for the half held out."""
    double_angle: bool
    """Whether opposite gradients count as equal, as they must when dark and bright swap between modalities."""


LENGTH_CAP = 0.7
"""Gradients count no more than this quantile of their lengths: an edge that one image alone has (a cloud's rim or a
border that no mask names) would outweigh the ground otherwise."""

GRADIENT = Rule("gradient", 1.0, 64, 0.4, 5.0, 3.5, False)
STRUCTURE = Rule("structure", 1.5, 96, 1.0, 4.5, 3.5, True)


@dataclass(frozen=True)
class Smooth:
    """An image smoothed over its usable pixels."""

    values: np.ndarray
    """(y, x) filled everywhere."""
    weight: np.ndarray
    """(y, x) share of usable pixels under the smoothing, 0 where the pixel itself is not usable."""


def smoothed(image: np.ndarray, usable: np.ndarray, rule: Rule) -> Smooth:
    """Gaussian mean over usable pixels, after a stretch that no single bright target or cloud rim dominates."""
    usable = usable.astype(bool) & np.isfinite(image)
    if not usable.any():
        return Smooth(np.zeros(image.shape), np.zeros(image.shape))
    low, high = np.quantile(image[usable], [0.01, 0.99])
    values = np.where(usable, np.clip(image, low, high), 0.0).astype(float)
    if rule.double_angle and low > 0 and high > 4 * low:
        values = np.where(usable, np.log(np.maximum(values, low)), 0.0)
    weight = gaussian_filter(usable.astype(float), rule.sigma_px, mode="nearest")
    mean = gaussian_filter(values, rule.sigma_px, mode="nearest") / np.maximum(weight, 1e-6)
    fill = float(np.median(mean[usable]))
    return Smooth(np.where(weight > 1e-3, mean, fill), np.where(usable, weight, 0.0))


def displaced(smooth: Smooth, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and weight as seen at x + offset, by cubic splines; weight 0 outside."""
    if not offset.any():
        return smooth.values, smooth.weight
    values = spline_shift(smooth.values, -offset, order=3, mode="nearest")
    return values, spline_shift(smooth.weight, -offset, order=1, mode="constant", cval=0.0)


def gradients(values: np.ndarray, weight: np.ndarray, rule: Rule) -> np.ndarray:
    """Complex gradient (x + iy) of capped length, 0 where it is not usable; between modalities its angle doubled and
    the root of its length.
    """
    down, right = np.gradient(values)
    gradient = np.where(weight > 0.7, right + 1j * down, 0.0)
    length = np.abs(gradient)
    unit = gradient / np.maximum(length, 1e-12 + 1e-9 * length.max(initial=0.0))
    if rule.double_angle:
        return np.sqrt(length) * unit**2
    cap = float(np.quantile(length[length > 0], LENGTH_CAP)) if length.any() else 0.0
    return np.minimum(length, cap) * unit
