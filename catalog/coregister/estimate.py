"""Sub-pixel shift of one image onto another, measured on masked windows and confirmed by tie points held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from catalog.coregister.fields import GRADIENT, STRUCTURE, Rule, Smooth, displaced, gradients, smoothed
from catalog.coregister.match import (
    SMALLEST_PX,
    Surface,
    chance_level,
    inliers,
    peak,
    pooled,
    repeats,
    surface,
    windows_of,
)
from catalog.coregister.models import Ties, choose, fit
from catalog.coregister.shift import Method, Shift
from catalog.displacement import Displacement, Model, basis
from catalog.errors import GridError

REFINEMENTS = 2
LEAST_WINDOWS = 2


def estimate_shift(
    reference: np.ndarray,
    moving: np.ndarray,
    reference_usable: np.ndarray,
    moving_usable: np.ndarray,
    pixel_m: float,
    *,
    max_shift_px: int = 8,
    method: Method = "auto",
    models: Sequence[Model] = ("shift",),
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
    models
        What may be fitted, from the simplest on; affine and field count only where the tie points held out bear them
        out, and a shift is always tried.

    Returns
    -------
    Shift with dx_m, dy_m to add to the moving scene's map coordinates; zeros unless accepted; with the
    displacement by place where a larger model was asked for and confirmed.

    Raises
    ------
    GridError
        When the arrays are not of one shape, not real, or the pixel has no size.
    """
    _check(reference, moving, reference_usable, moving_usable, pixel_m)
    rules = {"gradient": (GRADIENT,), "structure": (STRUCTURE,), "auto": (GRADIENT, STRUCTURE)}[method]
    answers = []
    for rule in rules:
        still = smoothed(reference, reference_usable, rule)
        fixed = gradients(still.values, still.weight, rule)
        answer = _measure(fixed, smoothed(moving, moving_usable, rule), pixel_m, max_shift_px, rule, models)
        if answer.verdict == "accepted":
            return answer
        answers.append(answer)
    return next((a for a in answers if a.verdict == "rejected"), answers[0])


@dataclass(frozen=True)
class _Found:
    """What the fitted half of the windows found."""

    total: np.ndarray
    """Rows and columns at which the moving image shows the same."""
    step: np.ndarray
    """The part of it by which the surfaces' image had not been moved yet."""
    shape: tuple[int, ...]
    """Of the images."""
    pixel_m: float
    """Side of a pixel."""


def _measure(
    fixed: np.ndarray, smooth: Smooth, pixel_m: float, reach: int, rule: Rule, models: Sequence[Model]
) -> Shift:
    """The verdict of one measure; see estimate_shift. Offsets are (rows, columns) at which `moving` shows the same."""
    halves = windows_of(fixed.shape, rule.window_px)
    if halves is None:
        return _none(rule, f"the image is smaller than {SMALLEST_PX} pixels")
    total = np.zeros(2)
    for k in range(REFINEMENTS + 1):
        field = gradients(*displaced(smooth, total), rule)
        fitted, held = ([s for w in half if (s := surface(fixed, field, w, reach))] for half in halves)
        if min(len(fitted), len(held)) < LEAST_WINDOWS:
            return _none(rule, "too few windows with texture that both images show")
        if k == 0 and (away_px := repeats(fitted)):
            return _none(rule, f"the ground repeats itself: {away_px:.0f} pixels away it matches as well")
        step, height = peak(pooled(fitted))
        if np.isnan(step).any() or np.abs(total + step).max() > reach:
            return _none(rule, f"the best match lies at the edge of the search, {reach} pixels")
        total = total + step
    chance = [chance_level(fixed, field, half, reach) for half in halves]
    if height < rule.significance * chance[0]:
        return _none(rule, f"no match stands out: {height:.3f} where chance gives {chance[0]:.3f}")
    return _confirm([fitted, held], _Found(total, step, fixed.shape, pixel_m), chance[1], rule, models)


def _confirm(halves: list[list[Surface]], found: _Found, chance: float, rule: Rule, models: Sequence[Model]) -> Shift:
    """Accept the shift only if the windows held out agree with it and come no farther from the reference."""
    fitted, held = halves
    total, step = found.total, found.step
    ties = [_ties(half, total - step, found.shape) for half in halves]
    if len(ties[1].places) < LEAST_WINDOWS:
        return _none(rule, "the windows held out agree on no shift")
    own, height = peak(pooled(held))
    measured = _residuals(ties, total, rule)
    apart_px = float(np.hypot(*(own - step)))
    stands_out = height >= rule.significance_held * chance
    whole = total - step + peak(pooled(fitted + held))[0]  # where confirmed, every window may speak
    deformed = _deformed(measured, ties, found, models)
    if deformed.model != "shift" and stands_out and deformed.rmse_after_px <= rule.agreement_px:
        return _moved(deformed, whole, found.pixel_m)
    if not apart_px <= rule.agreement_px or not stands_out:
        why = f"the windows held out put the match {apart_px:.2f} pixels away, {height / chance:.1f} times chance"
        return replace(measured, verdict="rejected", reason=why)
    if measured.rmse_after_px <= measured.rmse_before_px and measured.after_px <= measured.before_px:
        return _moved(measured, whole, found.pixel_m)
    if np.hypot(*total) <= rule.agreement_px / 2:
        return replace(
            measured,
            ce90_px=float(np.quantile(np.hypot(*ties[1].offsets.T), 0.9)),
            after_px=measured.before_px,
            rmse_after_px=measured.rmse_before_px,
            reason="aligned already",
        )
    why = "the tie points held out would lie farther from the reference than before"
    return replace(measured, verdict="rejected", reason=why)


def _moved(shift: Shift, offset: np.ndarray, pixel_m: float) -> Shift:
    return replace(shift, dx_m=float(-offset[1] * pixel_m), dy_m=float(offset[0] * pixel_m))


def _residuals(ties: list[Ties], total: np.ndarray, rule: Rule) -> Shift:
    """What the tie points held out say of a shift, before anything is decided."""
    before_px, after_px = np.hypot(*ties[1].offsets.T), np.hypot(*(ties[1].offsets - total).T)
    return Shift(
        0.0,
        0.0,
        float(np.quantile(after_px, 0.9)),
        sum(len(t.places) for t in ties),
        rule.name,
        "accepted",
        float(np.median(before_px)),
        float(np.median(after_px)),
        rmse_before_px=_rms(before_px),
        rmse_after_px=_rms(after_px),
    )


def _deformed(shift: Shift, ties: list[Ties], found: _Found, models: Sequence[Model]) -> Shift:
    """The shift, or the larger model that the tie points held out bear out beyond it."""
    model = choose(ties[0], ties[1], models)
    if model == "shift":
        return shift
    terms = basis(ties[1].places, model)
    after_px = np.hypot(*(ties[1].offsets - terms @ fit(ties[0], model)).T)
    if not _rms(after_px) <= min(shift.rmse_before_px, shift.rmse_after_px):
        return shift
    every = Ties(*(np.concatenate([getattr(t, part) for t in ties]) for part in ("places", "offsets")))
    rows, columns = (fit(every, model) * found.pixel_m).T
    height_m, width_m = (n * found.pixel_m for n in found.shape)
    return replace(
        shift,
        ce90_px=float(np.quantile(after_px, 0.9)),
        after_px=float(np.median(after_px)),
        rmse_after_px=_rms(after_px),
        model=model,
        displacement=Displacement(model, tuple(map(float, -columns)), tuple(map(float, rows)), (width_m, height_m)),
    )


def _ties(half: list[Surface], base: np.ndarray, shape: tuple[int, ...]) -> Ties:
    """The windows that agree, as places on the grid and offsets from it."""
    offsets = np.array([peak(s.correlation)[0] for s in half]).reshape(-1, 2)
    kept = inliers(offsets)
    centres = np.array([s.centre for s in half]).reshape(-1, 2)[kept]
    half_size = np.array(shape) / 2
    rows, columns = ((centres + 0.5 - half_size) / half_size).T
    return Ties(np.column_stack([columns, -rows]), offsets[kept] + base)


def _rms(distances_px: np.ndarray) -> float:
    return float(np.sqrt(np.mean(distances_px**2)))


def _none(rule: Rule, reason: str) -> Shift:
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
