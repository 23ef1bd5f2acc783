"""Masked normalised correlation of windows over all offsets, alone and pooled, and its peaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import maximum_filter

Window = tuple[int, int, int]
"""First row, first column and side in pixels."""

CELL_PX = 128
SMALLEST_PX = 96
MAX_CELLS = 64
LEAST_OVERLAP = 0.15
CHANCE_PAIRINGS = 3
APART_PX = 3
"""Two peaks that lie closer are one."""
AS_GOOD = 0.8
"""A match is as good as another where its correlation reaches this share of the other's."""


@dataclass(frozen=True)
class Surface:
    """The masked correlation of one window at every offset, as the sums it is made of."""

    product: np.ndarray
    """(2 reach + 1, 2 reach + 1) sum of the products of the two fields where both are usable."""
    energy_fixed: np.ndarray
    """The reference's energy where the other is usable."""
    energy_moving: np.ndarray
    """The moving image's energy where the other is usable."""
    centre: tuple[float, float]
    """Row and column of the window's middle."""

    @property
    def correlation(self) -> np.ndarray:
        """-1 to 1."""
        return self.product / np.sqrt(self.energy_fixed * self.energy_moving + 1e-30)


def windows_of(shape: tuple[int, ...], window_px: int) -> tuple[list[Window], list[Window]] | None:
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


def chance_level(fixed: np.ndarray, moving: np.ndarray, windows: list[Window], reach: int) -> float:
    """Pooled correlation that chance gives the same textures: its root mean square over wrongly paired windows."""
    squares = []
    for k in range(1, CHANCE_PAIRINGS + 1):
        wrong = windows[-k * len(windows) // (CHANCE_PAIRINGS + 1) :] + windows
        pairs = [s for w, v in zip(windows, wrong, strict=False) if (s := surface(fixed, moving, w, reach, v))]
        squares += [np.mean(pooled(pairs) ** 2)] if pairs else []
    return max(float(np.sqrt(np.mean(squares))) if squares else 1.0, 1e-6)


def surface(
    fixed: np.ndarray, moving: np.ndarray, window: Window, reach: int, partner: Window | None = None
) -> Surface | None:
    """Masked correlation of one window at offsets up to `reach`; None where too little is usable in both."""
    row, column, side = window
    centre = (row + (side - 1) / 2, column + (side - 1) / 2)
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
    return Surface(product, np.maximum(energy_a, least), np.maximum(energy_b, least), centre)


def pooled(surfaces: list[Surface]) -> np.ndarray:
    """One correlation over all windows, each weighted by its energy."""
    sums = [
        sum(getattr(s, part) / s.energy_fixed.mean() for s in surfaces)
        for part in ("product", "energy_fixed", "energy_moving")
    ]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def peak(correlation: np.ndarray) -> tuple[np.ndarray, float]:
    """Offset of the highest point by a parabola along each axis, NaN at the edge, and its height."""
    reach = correlation.shape[0] // 2
    i, j = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
    height = float(correlation[i, j])
    if not (0 < i < 2 * reach and 0 < j < 2 * reach):
        return np.full(2, np.nan), height
    along = (correlation[i - 1 : i + 2, j], correlation[i, j - 1 : j + 2])
    vertex = [(low - high) / (2 * (low - 2 * mid + high)) for low, mid, high in along]
    return np.array([i, j]) - reach + np.array(vertex), height


def repeats(surfaces: list[Surface]) -> float:
    """How far away, in pixels, another match is as good in most windows; 0 where there is none.

    Ground that repeats itself (rows, roofs, a checkered pattern) matches in several places. Windows that are moved
    differently make more than one peak as well, but none of them shows both.
    """
    whole = pooled(surfaces)
    tops = np.argwhere(whole == maximum_filter(whole, 2 * APART_PX - 1))
    main = np.array(np.unravel_index(int(np.argmax(whole)), whole.shape))
    others = [top for top in tops if np.hypot(*(top - main)) >= APART_PX]
    for other in sorted(others, key=lambda top: -whole[tuple(top)]):
        if whole[tuple(other)] < AS_GOOD * whole[tuple(main)]:
            break
        heights = np.array([[_around(s.correlation, at) for at in (main, other)] for s in surfaces])
        if np.median(heights.min(axis=1) / np.maximum(heights.max(axis=1), 1e-12)) > AS_GOOD:
            return float(np.hypot(*(other - main)))
    return 0.0


def _around(correlation: np.ndarray, at: np.ndarray) -> float:
    row, column = np.maximum(at - 1, 0)
    return float(correlation[row : row + 3, column : column + 3].max())


def inliers(offsets: np.ndarray) -> np.ndarray:
    """(n,) whether offsets lie within three robust standard deviations (MAD) of their median, on both axes."""
    finite = np.isfinite(offsets).all(axis=1)
    if not finite.any():
        return finite
    off = np.abs(offsets - np.median(offsets[finite], axis=0))
    return finite & (off <= 3 * 1.4826 * np.median(off[finite], axis=0) + 0.05).all(axis=1)
