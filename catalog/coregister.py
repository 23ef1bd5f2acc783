"""Sub-pixel shift of one image onto another, measured on masked windows and confirmed by tie points held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.ndimage import shift as spline_shift

from catalog.errors import GridError

Method = Literal["auto", "gradient", "structure"]
Verdict = Literal["accepted", "rejected", "not estimable"]
Window = tuple[int, int, int]
"""First row, first column and side in pixels."""

CELL_PX = 128
SMALLEST_PX = 96
MAX_CELLS = 64
REFINEMENTS = 2
LEAST_OVERLAP = 0.15
LEAST_WINDOWS = 2
CHANCE_PAIRINGS = 3


@dataclass(frozen=True)
class Shift:
    """How far one scene lies from another, and what says so."""

    dx_m: float
    """To add to the moving scene's x (east positive) so that it lies on the reference; 0 unless accepted."""
    dy_m: float
    """To add to the moving scene's y (north positive) so that it lies on the reference; 0 unless accepted."""
    ce90_px: float
    """Nine in ten of the tie points held out lie within this of the reference after the shift; NaN unless measured."""
    points: int
    """Tie points used, fitted and held out."""
    method: str
    """gradient (one modality) or structure (between modalities)."""
    verdict: Verdict
    """Whether the tie points held out confirm the shift."""
    before_px: float
    """Median distance of the tie points held out before the shift; NaN unless measured."""
    after_px: float
    """The same after the shift."""
    reason: str = ""
    """Why a shift was not accepted."""


@dataclass(frozen=True)
class _Rule:
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


GRADIENT = _Rule("gradient", 1.0, 64, 0.4, 5.0, 3.5, False)
STRUCTURE = _Rule("structure", 2.0, 96, 1.0, 4.5, 3.5, True)


def estimate_shift(
    reference: np.ndarray,
    moving: np.ndarray,
    reference_usable: np.ndarray,
    moving_usable: np.ndarray,
    pixel_m: float,
    *,
    max_shift_px: int = 8,
    method: Method = "auto",
) -> Shift:
    """Shift that brings `moving` onto `reference`, on the same north-up grid.

    Both images become fields of gradients (complex, compressed in length), so that a different brightness or contrast
    matters little; `structure` squares their direction, so that a swapped contrast matters as little, as between radar
    and optics. Windows of one are correlated with the other over all shifts, counting only pixels usable in both
    (masked normalised correlation; Padfield, IEEE Trans. Image Processing 21, 2012; orientation correlation: Fitch et
    al., BMVC 2002). The windows lie in cells; every other cell is held out. The first half's pooled peak,
    its parabola refined after warping, is the shift; it counts only when the half held out has a peak of its own within
    a stated distance and its tie points lie no farther from the reference than before.

    Parameters
    ----------
    reference, moving
        (y, x) real, one band each, any units; NaN is not usable. Radar as power or amplitude, not dB, is fine.
    reference_usable, moving_usable
        (y, x) bool, false under cloud, shadow and no-data.
    pixel_m
        Side of a pixel in metres.
    max_shift_px
        Largest shift looked for, along each axis.
    method
        gradient within one modality, structure between two; auto tries gradient, then structure.

    Returns
    -------
    Shift with dx_m, dy_m to add to the moving scene's map coordinates; zeros unless accepted.

    Raises
    ------
    GridError
        When the arrays are not of one shape, not real, or the pixel has no size.
    """
    _check(reference, moving, reference_usable, moving_usable, pixel_m)
    rules = {"gradient": (GRADIENT,), "structure": (STRUCTURE,), "auto": (GRADIENT, STRUCTURE)}[method]
    answers = []
    for rule in rules:
        still = _smoothed(reference, reference_usable, rule)
        fixed = _gradients(still.values, still.weight, rule)
        answer = _measure(fixed, _smoothed(moving, moving_usable, rule), pixel_m, max_shift_px, rule)
        if answer.verdict == "accepted":
            return answer
        answers.append(answer)
    return next((a for a in answers if a.verdict == "rejected"), answers[0])


def _measure(fixed: np.ndarray, smooth: _Smooth, pixel_m: float, reach: int, rule: _Rule) -> Shift:
    """The verdict of one measure; see estimate_shift. Offsets are (rows, columns) at which `moving` shows the same."""
    halves = _windows(fixed.shape, rule.window_px)
    if halves is None:
        return _none(rule, f"the image is smaller than {SMALLEST_PX} pixels")
    total = np.zeros(2)
    for _ in range(REFINEMENTS + 1):
        field = _gradients(*_displaced(smooth, total), rule)
        fitted, held = ([s for w in half if (s := _surface(fixed, field, w, reach))] for half in halves)
        if min(len(fitted), len(held)) < LEAST_WINDOWS:
            return _none(rule, "too few windows with texture that both images show")
        step, height = _peak(_pooled(fitted))
        if np.isnan(step).any() or np.abs(total + step).max() > reach:
            return _none(rule, f"the best match lies at the edge of the search, {reach} pixels")
        total = total + step
    chance = [_chance(fixed, field, half, reach) for half in halves]
    if height < rule.significance * chance[0]:
        return _none(rule, f"no match stands out: {height:.3f} where chance gives {chance[0]:.3f}")
    return _confirm(total, step, fitted, held, chance[1], pixel_m, rule)


def _confirm(
    total: np.ndarray,
    step: np.ndarray,
    fitted: list[_Surface],
    held: list[_Surface],
    chance: float,
    pixel_m: float,
    rule: _Rule,
) -> Shift:
    """Accept the shift only if the windows held out agree with it and come no farther from the reference."""
    ties = [_inliers(np.array([_peak(s.correlation)[0] for s in half])) for half in (fitted, held)]
    if len(ties[1]) < LEAST_WINDOWS:
        return _none(rule, "the windows held out agree on no shift")
    own, height = _peak(_pooled(held))
    after_px = np.hypot(*(ties[1] - step).T)
    before_px = np.hypot(*(ties[1] - step + total).T)
    residuals = float(np.median(before_px)), float(np.median(after_px))
    ce90_px, points = float(np.quantile(after_px, 0.9)), len(ties[0]) + len(ties[1])
    apart_px = float(np.hypot(*(own - step)))
    if not apart_px <= rule.agreement_px or height < rule.significance_held * chance:
        why = f"the windows held out put the match {apart_px:.2f} pixels away, {height / chance:.1f} times chance"
        return Shift(0.0, 0.0, ce90_px, points, rule.name, "rejected", *residuals, why)
    if _rms(after_px) <= _rms(before_px) and residuals[1] <= residuals[0]:
        total = total - step + _peak(_pooled(fitted + held))[0]  # confirmed, so every window may speak
        dx_m, dy_m = float(-total[1] * pixel_m), float(total[0] * pixel_m)
        return Shift(dx_m, dy_m, ce90_px, points, rule.name, "accepted", *residuals)
    if np.hypot(*total) <= rule.agreement_px / 2:
        ce90_px = float(np.quantile(before_px, 0.9))
        return Shift(0.0, 0.0, ce90_px, points, rule.name, "accepted", residuals[0], residuals[0], "aligned already")
    why = "the tie points held out would lie farther from the reference than before"
    return Shift(0.0, 0.0, ce90_px, points, rule.name, "rejected", *residuals, why)


@dataclass(frozen=True)
class _Smooth:
    """An image smoothed over its usable pixels."""

    values: np.ndarray
    """(y, x) filled everywhere."""
    weight: np.ndarray
    """(y, x) share of usable pixels under the smoothing, 0 where the pixel itself is not usable."""


@dataclass(frozen=True)
class _Surface:
    """The masked correlation of one window at every offset, as the sums it is made of."""

    product: np.ndarray
    """(2 reach + 1, 2 reach + 1) sum of the products of the two fields where both are usable."""
    energy_fixed: np.ndarray
    """The reference's energy where the other is usable."""
    energy_moving: np.ndarray
    """The moving image's energy where the other is usable."""

    @property
    def correlation(self) -> np.ndarray:
        """-1 to 1."""
        return self.product / np.sqrt(self.energy_fixed * self.energy_moving + 1e-30)


def _smoothed(image: np.ndarray, usable: np.ndarray, rule: _Rule) -> _Smooth:
    """Gaussian mean over usable pixels, after a stretch that no single bright target or cloud rim dominates."""
    usable = usable.astype(bool) & np.isfinite(image)
    if not usable.any():
        return _Smooth(np.zeros(image.shape), np.zeros(image.shape))
    low, high = np.quantile(image[usable], [0.01, 0.99])
    values = np.where(usable, np.clip(image, low, high), 0.0).astype(float)
    if rule.double_angle and low > 0 and high > 4 * low:
        values = np.where(usable, np.log(np.maximum(values, low)), 0.0)
    weight = gaussian_filter(usable.astype(float), rule.sigma_px, mode="nearest")
    mean = gaussian_filter(values, rule.sigma_px, mode="nearest") / np.maximum(weight, 1e-6)
    fill = float(np.median(mean[usable]))
    return _Smooth(np.where(weight > 1e-3, mean, fill), np.where(usable, weight, 0.0))


def _displaced(smooth: _Smooth, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and weight as seen at x + offset, by cubic splines; weight 0 outside."""
    if not offset.any():
        return smooth.values, smooth.weight
    values = spline_shift(smooth.values, -offset, order=3, mode="nearest")
    return values, spline_shift(smooth.weight, -offset, order=1, mode="constant", cval=0.0)


def _gradients(values: np.ndarray, weight: np.ndarray, rule: _Rule) -> np.ndarray:
    """Complex gradient (x + iy), 0 where it is not usable; its angle doubled and the root of its length on demand."""
    down, right = np.gradient(values)
    gradient = np.where(weight > 0.7, right + 1j * down, 0.0)
    length = np.abs(gradient)
    unit = gradient / np.maximum(length, 1e-12 + 1e-9 * length.max(initial=0.0))
    return np.sqrt(length) * unit**2 if rule.double_angle else gradient


def _windows(shape: tuple[int, ...], window_px: int) -> tuple[list[Window], list[Window]] | None:
    """Windows half a window apart (a third for large ones) within cells; every other cell's are held out."""
    if min(shape) < SMALLEST_PX:
        return None
    counts = [max(2, n // CELL_PX) for n in shape]
    sides = [n // c for n, c in zip(shape, counts, strict=True)]
    thin = max(1, int(np.ceil(np.sqrt(counts[0] * counts[1] / MAX_CELLS))))
    halves: tuple[list[Window], list[Window]] = ([], [])
    for i, j in np.ndindex(-(-counts[0] // thin), -(-counts[1] // thin)):
        rows, columns = (_starts(k * thin * side, side, window_px) for k, side in zip((i, j), sides, strict=True))
        side = min(window_px, *sides)
        halves[(i + j) % 2].extend((row, column, side) for row in rows for column in columns)
    return halves


def _starts(first: int, side: int, window_px: int) -> np.ndarray:
    room = max(side - window_px, 0)
    return first + np.linspace(0, room, 1 + int(np.ceil(room / (CELL_PX // 4)))).astype(int)


def _chance(fixed: np.ndarray, moving: np.ndarray, windows: list[Window], reach: int) -> float:
    """Pooled correlation that chance gives the same textures: its root mean square over wrongly paired windows."""
    squares = []
    for k in range(1, CHANCE_PAIRINGS + 1):
        wrong = windows[-k * len(windows) // (CHANCE_PAIRINGS + 1) :] + windows
        pairs = [s for w, v in zip(windows, wrong, strict=False) if (s := _surface(fixed, moving, w, reach, v))]
        squares += [np.mean(_pooled(pairs) ** 2)] if pairs else []
    return max(float(np.sqrt(np.mean(squares))) if squares else 1.0, 1e-6)


def _surface(
    fixed: np.ndarray, moving: np.ndarray, window: Window, reach: int, partner: Window | None = None
) -> _Surface | None:
    """Masked correlation of one window at offsets up to `reach`; None where too little is usable in both."""
    row, column, side = window
    a = fixed[row : row + side, column : column + side]
    row, column, side = partner or window
    b = np.zeros((side + 2 * reach,) * 2, dtype=complex)
    top, left = max(row - reach, 0), max(column - reach, 0)
    seen = moving[top : row + side + reach, left : column + side + reach]
    b[top - row + reach :, left - column + reach :][: seen.shape[0], : seen.shape[1]] = seen
    size = (fft.next_fast_len(b.shape[0]),) * 2
    fields_a = np.stack([a, (a != 0).astype(complex), np.abs(a) ** 2])
    fields_b = np.stack([b, np.abs(b) ** 2, (b != 0).astype(complex)])
    if min(np.count_nonzero(a), np.count_nonzero(b)) < LEAST_OVERLAP * side**2:
        return None
    spectrum = fft.fft2(fields_b, size) * np.conj(fft.fft2(fields_a, size))
    product, energy_b, energy_a = fft.ifft2(spectrum).real[:, : 2 * reach + 1, : 2 * reach + 1]
    least = 1e-6 * max(energy_a.max(), energy_b.max(), 1e-30)
    return _Surface(product, np.maximum(energy_a, least), np.maximum(energy_b, least))


def _pooled(surfaces: list[_Surface]) -> np.ndarray:
    """One correlation over all windows, each weighted by its energy."""
    sums = [
        sum(getattr(s, part) / s.energy_fixed.mean() for s in surfaces)
        for part in ("product", "energy_fixed", "energy_moving")
    ]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def _peak(correlation: np.ndarray) -> tuple[np.ndarray, float]:
    """Offset of the highest point by a parabola along each axis, NaN at the edge, and its height."""
    reach = correlation.shape[0] // 2
    i, j = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
    height = float(correlation[i, j])
    if not (0 < i < 2 * reach and 0 < j < 2 * reach):
        return np.full(2, np.nan), height
    along = (correlation[i - 1 : i + 2, j], correlation[i, j - 1 : j + 2])
    vertex = [(low - high) / (2 * (low - 2 * mid + high)) for low, mid, high in along]
    return np.array([i, j]) - reach + np.array(vertex), height


def _inliers(offsets: np.ndarray) -> np.ndarray:
    """Offsets within three robust standard deviations (median absolute deviation) of their median, on both axes."""
    offsets = offsets[np.isfinite(offsets).all(axis=1)]
    if not len(offsets):
        return offsets
    off = np.abs(offsets - np.median(offsets, axis=0))
    return offsets[(off <= 3 * 1.4826 * np.median(off, axis=0) + 0.05).all(axis=1)]


def _rms(distances_px: np.ndarray) -> float:
    return float(np.sqrt(np.mean(distances_px**2)))


def _none(rule: _Rule, reason: str) -> Shift:
    return Shift(0.0, 0.0, np.nan, 0, rule.name, "not estimable", np.nan, np.nan, reason)


def _check(
    reference: np.ndarray, moving: np.ndarray, reference_usable: np.ndarray, moving_usable: np.ndarray, pixel_m: float
) -> None:
    shapes = {np.shape(a) for a in (reference, moving, reference_usable, moving_usable)}
    if len(shapes) != 1 or np.ndim(reference) != 2 or np.iscomplexobj(reference) or np.iscomplexobj(moving):
        raise GridError(
            f"images and masks of shapes {sorted(shapes)} cannot be matched",
            item="reference, moving",
            enough="real (y, x) arrays of one shape on one grid",
            todo="warp both onto one geobox first; take the amplitude of complex pixels",
        )
    if not pixel_m > 0:
        raise GridError(f"a pixel of {pixel_m} m has no size", item="pixel_m", enough="metres above 0")
