"""Displacement as a function of place: a shift, an affine or a smooth field, fitted to tie points with outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.interpolate import BSpline

Model = Literal["shift", "affine", "field"]

KNOTS = 5
"""Cubic B-splines of a field along each axis."""
STIFFNESS = 0.001
"""Weight of a field's squared second differences beside its squared residuals, per tie point."""
ROUNDS = 12
LEAST_TIES: dict[Model, int] = {"shift": 2, "affine": 8, "field": 20}
"""Tie points below which a model is not tried."""
LEAST_GAIN = 0.9
"""A model of more parameters must bring the error held out to this share of the simpler one's."""


@dataclass(frozen=True)
class Ties:
    """Places at which one image was found in another."""

    places: np.ndarray
    """(n, 2) east and north of the grid's centre, as shares of half its width and height: -1 to 1."""
    offsets: np.ndarray
    """(n, 2) rows and columns at which the moving image shows what the reference shows there, in pixels."""


@dataclass(frozen=True)
class Deformation:
    """Metres to add to a scene's map coordinates, as a function of place on the grid of the reference."""

    model: Model
    """shift (constant), affine (linear in east and north) or field (cubic B-splines)."""
    width_m: float
    """Width of the grid that it was measured on."""
    height_m: float
    """Its height."""
    dx_m: tuple[float, ...]
    """Coefficients of the displacement east: of 1; of 1, east, north as shares of the half size; or of KNOTS squared
    B-splines, north fastest."""
    dy_m: tuple[float, ...]
    """The same for the displacement north."""

    def at(self, east_m: np.ndarray, north_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Displacement east and north in metres at places given in metres from the grid's centre, any one shape."""
        places = np.stack([np.ravel(east_m) / (self.width_m / 2), np.ravel(north_m) / (self.height_m / 2)], axis=1)
        terms = basis(places, self.model)
        shape = np.shape(east_m)
        return (terms @ np.array(self.dx_m)).reshape(shape), (terms @ np.array(self.dy_m)).reshape(shape)


def basis(places: np.ndarray, model: Model) -> np.ndarray:
    """(n, terms) the functions of place that a model sums; places beyond the grid take the value of its border."""
    if model == "shift":
        return np.ones((len(places), 1))
    if model == "affine":
        return np.column_stack([np.ones(len(places)), places])
    inner = np.linspace(-1, 1, KNOTS - 2)
    knots = np.concatenate([[-1.0] * 3, inner, [1.0] * 3])
    east, north = (BSpline.design_matrix(np.clip(places[:, k], -1, 1), knots, 3).toarray() for k in range(2))
    return (east[:, :, None] * north[:, None, :]).reshape(len(places), -1)


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
    """The model that carries furthest from the tie points fitted to those held out; the simpler one unless it pays."""
    best: Model = "shift"
    least = rmse(held, fit(fitted, best), best)
    for model in models:
        if model == "shift" or len(fitted.places) < LEAST_TIES[model]:
            continue
        error = rmse(held, fit(fitted, model), model)
        if error < LEAST_GAIN * least:
            best, least = model, error
    return best


def rmse(ties: Ties, coefficients: np.ndarray, model: Model) -> float:
    """Root mean square distance in pixels of tie points from a model."""
    left = ties.offsets - basis(ties.places, model) @ coefficients
    return float(np.sqrt(np.mean((left**2).sum(axis=1))))


def _stiffness(model: Model, count: int) -> np.ndarray:
    """Rows that punish a field's second differences along both axes; none for the other models."""
    if model != "field":
        return np.zeros((0, 1 if model == "shift" else 3))
    second = np.diff(np.eye(KNOTS), 2, axis=0)
    same = np.eye(KNOTS)
    return np.sqrt(STIFFNESS * count / KNOTS**2) * np.vstack([np.kron(second, same), np.kron(same, second)])
