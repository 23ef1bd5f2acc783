"""A shift, an affine or a smooth field fitted to tie points with outliers, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catalog.displacement import KNOTS, Model, basis

STIFFNESS = 0.001
"""Weight of a field's squared second differences beside its squared residuals, per tie point."""
ROUNDS = 12
LEAST_TIES: dict[Model, int] = {"shift": 2, "affine": 8, "field": 20}
"""Tie points below which a model is not tried."""
LEAST_GAIN = 0.9
"""A model of more parameters must bring the error held out to this share of the simpler one's."""
SURE = 2.0
"""Standard errors by which the gain of a larger model must differ from nothing."""
CROWD = 4.0
"""Windows of one cell overlap: this many tie points say as much as one."""


@dataclass(frozen=True)
class Ties:
    """Places at which one image was found in another."""

    places: np.ndarray
    """(n, 2) east and north of the grid's centre, as shares of half its width and height: -1 to 1."""
    offsets: np.ndarray
    """(n, 2) rows and columns at which the moving image shows what the reference shows there, in pixels."""


def fit(ties: Ties, model: Model) -> np.ndarray:
    """(terms, 2) coefficients of rows and columns that the bulk of the tie points agrees on.

    Least squares, repeated with Tukey's weights (Beaton and Tukey, Technometrics 16, 1974) at the scale of the median
    absolute residual, from a start that minimises absolute residuals; a field's second differences are held small.
    """
    terms = basis(ties.places, model)
    stiff = _stiffness(model, len(ties.places))
    weight = np.ones(len(terms))
    coefficients = np.zeros((terms.shape[1], 2))
    for k in range(ROUNDS):
        left = np.vstack([terms * weight[:, None], stiff])
        right = np.vstack([ties.offsets * weight[:, None], np.zeros((len(stiff), 2))])
        coefficients = np.linalg.lstsq(left, right, rcond=None)[0]
        distance = np.hypot(*(ties.offsets - terms @ coefficients).T)
        if k < ROUNDS // 2:
            weight = 1 / np.sqrt(np.maximum(distance, 0.05))
        else:
            scale = 4.685 * max(1.4826 * float(np.median(distance)), 0.05)
            weight = np.maximum(1 - (distance / scale) ** 2, 0)
    return coefficients


def choose(fitted: Ties, held: Ties, models: Sequence[Model]) -> Model:
    """The simplest model that carries from the tie points fitted to those held out no worse than any larger one.

    A larger model is taken when it lowers the root mean square distance of the tie points held out to LEAST_GAIN of the
    simpler one's, and the mean gain in squared distance is more than SURE of its standard errors, with CROWD
    overlapping windows counted as one.
    """
    best: Model = "shift"
    least = squares(held, fit(fitted, best), best)
    for model in models:
        if model == "shift" or len(fitted.places) < LEAST_TIES[model]:
            continue
        left = squares(held, fit(fitted, model), model)
        gain = least - left
        sure = gain.mean() > SURE * gain.std() / np.sqrt(max(len(gain) / CROWD, 1.0))
        if sure and left.mean() < LEAST_GAIN**2 * least.mean():
            best, least = model, left
    return best


def squares(ties: Ties, coefficients: np.ndarray, model: Model) -> np.ndarray:
    """(n,) squared distance in pixels of tie points from a model."""
    found: np.ndarray = ((ties.offsets - basis(ties.places, model) @ coefficients) ** 2).sum(axis=1)
    return found


def _stiffness(model: Model, count: int) -> np.ndarray:
    """Rows that punish a field's second differences along both axes; none for the other models."""
    if model != "field":
        return np.zeros((0, 1 if model == "shift" else 3))
    second = np.diff(np.eye(KNOTS), 2, axis=0)
    same = np.eye(KNOTS)
    return np.sqrt(STIFFNESS * count / KNOTS**2) * np.vstack([np.kron(second, same), np.kron(same, second)])
