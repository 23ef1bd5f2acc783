"""How far a scene is moved on the map: by one shift, or as a function of place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.interpolate import BSpline, NdBSpline

Model = Literal["shift", "affine", "field"]

KNOTS = 5
"""Cubic B-splines of a field along each axis."""
_AXIS = np.concatenate([[-1.0] * 3, np.linspace(-1, 1, KNOTS - 2), [1.0] * 3])


@dataclass(frozen=True)
class Displacement:
    """Metres to add to a scene's map coordinates, as a function of place on the reference."""

    model: Model
    """shift (constant), affine (linear in east and north) or field (cubic B-splines)."""
    dx_m: tuple[float, ...]
    """Coefficients of the displacement east: of 1; of 1, east, north as shares of the half size; or of KNOTS squared
    B-splines, north fastest."""
    dy_m: tuple[float, ...]
    """The same for the displacement north."""
    size_m: tuple[float, float]
    """Width and height of the area that it was measured on."""
    centre_m: tuple[float, float] = (0.0, 0.0)
    """x and y of that area's centre on the map."""

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Displacement east and north in metres at map coordinates in metres, any one shape.

        A field keeps the value of its border beyond the area that it was measured on; an affine goes on.
        """
        places = np.stack([(v - c) / (s / 2) for v, c, s in zip((x, y), self.centre_m, self.size_m, strict=True)], -1)
        terms = np.stack([self.dx_m, self.dy_m], -1)
        if self.model == "field":
            found = NdBSpline((_AXIS, _AXIS), terms.reshape(KNOTS, KNOTS, 2), 3)(np.clip(places, -1, 1))
        else:
            found = terms[0] + (places @ terms[1:] if self.model == "affine" else np.zeros_like(places))
        return found[..., 0], found[..., 1]


Move = tuple[float, float] | Displacement
"""Metres east and north to add to a scene's map coordinates: (dx, dy) everywhere, or by place."""


def basis(places: np.ndarray, model: Model) -> np.ndarray:
    """(n, terms) the functions of place that a model sums, at (n, 2) shares of the half width and height: -1 to 1."""
    if model == "shift":
        return np.ones((len(places), 1))
    if model == "affine":
        return np.column_stack([np.ones(len(places)), places])
    east, north = (BSpline.design_matrix(np.clip(places[:, k], -1, 1), _AXIS, 3).toarray() for k in range(2))
    return (east[:, :, None] * north[:, None, :]).reshape(len(places), -1)


def unmoved(x: np.ndarray, y: np.ndarray, move: Move) -> tuple[np.ndarray, np.ndarray]:
    """The map coordinates at which a scene shows, before it is moved, what it shows at x, y after it."""
    dx_m, dy_m = move.at(x, y) if isinstance(move, Displacement) else move
    return x - dx_m, y - dy_m


def moved_grid(geobox: GeoBox, move: Move) -> GeoBox | None:
    """Where the ground of a grid lies in a scene that is to be moved: read on it, the scene lies on the reference.

    Returns
    -------
    GeoBox of the same shape and CRS, whose affine holds the move; None for a field, which no affine holds.
    """
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    if not isinstance(move, Displacement):
        return GeoBox(geobox.shape, Affine(a, b, c - move[0], d, e, f - move[1]), geobox.crs)
    if move.model == "field":
        return None
    (dx, dx_e, dx_n), (dy, dy_e, dy_n) = ((*terms, 0.0, 0.0)[:3] for terms in (move.dx_m, move.dy_m))
    half_w, half_h = move.size_m[0] / 2, move.size_m[1] / 2
    back = Affine(1 - dx_e / half_w, -dx_n / half_h, -dx, -dy_e / half_w, 1 - dy_n / half_h, -dy)
    x, y = move.centre_m
    placed = Affine.translation(x, y) * back * Affine.translation(-x, -y)
    return GeoBox(geobox.shape, placed * Affine(a, b, c, d, e, f), geobox.crs)
