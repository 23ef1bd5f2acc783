"""Seeded chance: named random streams, hashed numbers, and smooth random fields that are functions of place."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

FloatArray = NDArray[np.floating]

_UNIT_VARIANCE = 315.0 / 151.0
"""A cubic B-spline over white noise of unit variance has the variance (151/315)^2 in two dimensions."""


def stream(seed: int, *names: str) -> np.random.Generator:
    """An independent generator for each seed and name."""
    return np.random.default_rng([seed, *(zlib.crc32(n.encode()) for n in names)])


def hashed(ids: NDArray[np.unsignedinteger], salt: str) -> NDArray[np.float32]:
    """A uniform number in (0, 1) for every integer, the same wherever that integer appears.

    Parameters
    ----------
    ids
        Any shape, uint32.
    salt
        Name of the quantity drawn.
    """
    with np.errstate(over="ignore"):
        h = ids.astype(np.uint32) ^ np.uint32(zlib.crc32(salt.encode()))
        for factor, shift in ((0x7FEB352D, 15), (0x846CA68B, 16)):
            h ^= h >> np.uint32(16)
            h *= np.uint32(factor)
            h ^= h >> np.uint32(shift)
    return ((h >> np.uint32(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-24)


def hashed_normal(ids: NDArray[np.unsignedinteger], salt: str) -> NDArray[np.float32]:
    """A standard normal number for every integer."""
    return ndtri(hashed(ids, salt)).astype(np.float32)


def smoothstep(t: FloatArray) -> FloatArray:
    """0 below 0, 1 above 1, and 3 t^2 - 2 t^3 between."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True)
class Field:
    """A random field of zero mean and unit variance, twice differentiable, defined at every place of an extent."""

    west_m: float
    """Easting of the lattice's first column."""
    south_m: float
    """Northing of the lattice's first row."""
    step_m: float
    """Lattice spacing; structures are about twice as large."""
    lattice: NDArray[np.float32]
    """White noise, (row, column)."""

    def on(self, x_m: FloatArray, y_m: FloatArray) -> NDArray[np.float32]:
        """Values at the crossings of eastings (cols,) and northings (rows,), as (rows, cols) float32."""
        bx = _spline_weights((x_m - self.west_m) / self.step_m, self.lattice.shape[1])
        by = _spline_weights((y_m - self.south_m) / self.step_m, self.lattice.shape[0])
        across = np.ascontiguousarray((bx @ self.lattice.T).T)
        return np.asarray(by @ across, np.float32)


def field(rng: np.random.Generator, west_m: float, south_m: float, side_m: float, scale_m: float) -> Field:
    """Draw a field whose structures have a size, over a square extent."""
    step = scale_m / 2.0
    count = int(np.ceil(side_m / step)) + 5
    lattice = rng.standard_normal((count, count)).astype(np.float32) * np.float32(_UNIT_VARIANCE)
    return Field(west_m - 2 * step, south_m - 2 * step, step, lattice)


def _spline_weights(t: FloatArray, count: int) -> csr_array:
    """Uniform cubic B-spline basis at positions in lattice steps, (len(t), count) float32."""
    i = np.clip(np.floor(t).astype(np.int64), 1, count - 3)
    f = t - i
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], 1) / 6.0
    rows = np.repeat(np.arange(len(t)), 4)
    columns = (i[:, None] + np.arange(-1, 3)).ravel()
    return csr_array((weights.ravel().astype(np.float32), (rows, columns)), shape=(len(t), count))
