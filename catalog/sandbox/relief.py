"""Relief and water: a river that falls through its valley, a tributary, a lake, hills and one steeper range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox.chance import Field, field, smoothstep, stream
from catalog.sandbox.regions import RADAR_MARGIN_M, Grid, Region

FloatArray = NDArray[np.floating]

BASE_M = 470.0
"""Height of the river at the southern border, above the WGS 84 ellipsoid."""
FALL = 0.004
"""Fall of the river: metres per metre northwards."""


@dataclass(frozen=True)
class Curve:
    """A winding line: position across as a function of position along, a sum of sines, all in metres."""

    middle_m: float
    """Mean position across."""
    waves: tuple[tuple[float, float, float], ...]
    """Amplitude, wavelength and phase of each sine."""

    def at(self, along_m: FloatArray | np.floating) -> FloatArray:
        """Position across."""
        terms = [a * np.sin(2 * np.pi * along_m / w + p) for a, w, p in self.waves]
        return self.middle_m + np.sum(terms, axis=0)

    def slope(self, along_m: FloatArray) -> FloatArray:
        """Derivative of the position across."""
        terms = [a * 2 * np.pi / w * np.cos(2 * np.pi * along_m / w + p) for a, w, p in self.waves]
        return np.sum(terms, axis=0)

    def distance(self, across_m: FloatArray, along_m: FloatArray) -> FloatArray:
        """Distance to the line, to first order in its curvature; broadcasts."""
        return np.abs(across_m - self.at(along_m)) / np.hypot(1.0, self.slope(along_m))


@dataclass(frozen=True)
class Relief:
    """The ground of one region as functions of place; X and Y below are metres from its lower left corner."""

    region: Region
    """Where it lies."""
    size_m: float
    """Side of the region."""
    river: Curve
    """X of the river at each Y."""
    tributary: Curve
    """Y of the tributary at each X, east of the river."""
    lake: tuple[float, float, float]
    """X, Y and radius of the lake."""
    shore: Field
    """What makes the lake's shore uneven."""
    hills: tuple[tuple[Field, float, float], ...]
    """Fields with their amplitudes in metres on the plain and on the range."""

    def local(self, grid: Grid) -> tuple[FloatArray, FloatArray]:
        """X as (1, cols) and Y as (rows, 1), float32."""
        x = (grid.x_m - self.region.west_m).astype(np.float32)
        y = (grid.y_m - self.region.south_m).astype(np.float32)
        return x[None, :], y[:, None]

    def lake_depth(self, grid: Grid) -> FloatArray:
        """Metres inside the lake's shore; negative outside; (rows, cols)."""
        x, y = self.local(grid)
        cx, cy, radius = self.lake
        return radius * (1 + 0.22 * self.shore.on(grid.x_m, grid.y_m)) - np.hypot(x - cx, (y - cy) / 1.35)

    def range_share(self, grid: Grid) -> FloatArray:
        """0 on the plain to 1 on the steep range in the east; (rows, cols)."""
        x, y = self.local(grid)
        return smoothstep((x - self.river.at(y) - 0.24 * self.size_m) / (0.34 * self.size_m))

    def height(self, grid: Grid) -> NDArray[np.float32]:
        """Height above the WGS 84 ellipsoid in metres, (rows, cols) float32."""
        x, y = self.local(grid)
        size = self.size_m
        away = self.river.distance(x, y)
        share = self.range_share(grid)
        valley = min(0.05 * size, 200.0) * smoothstep((away - 0.10 * size) / (0.5 * size))
        rise = min(0.068 * size, 380.0) * share
        rough = np.zeros(away.shape, np.float32)
        for waves, plain_m, range_m in self.hills:
            rough += waves.on(grid.x_m, grid.y_m) * (plain_m + (range_m - plain_m) * share)
        calm = smoothstep((away - 30.0) / 170.0) * smoothstep((-self.lake_depth(grid) - 5.0) / 120.0)
        return np.asarray(BASE_M + FALL * y + (valley + rise) + rough * calm, np.float32)


def relief(region: Region, size_m: float, seed: int) -> Relief:
    """Draw the ground of a region; its laws are the same everywhere, its shapes follow seed and name."""
    rng = stream(seed, region.name, "relief")
    scale = float(np.clip(size_m / 5120.0, 0.3, 1.0))
    side = size_m + 2 * RADAR_MARGIN_M
    west, south = region.west_m - RADAR_MARGIN_M, region.south_m - RADAR_MARGIN_M

    def winding(middle: float, *amplitudes: tuple[float, float]) -> Curve:
        return Curve(middle, tuple((a * scale, w * scale, float(rng.uniform(0, 2 * np.pi))) for a, w in amplitudes))

    river = winding(size_m * float(rng.uniform(0.30, 0.42)), (230.0, 3900.0), (90.0, 1500.0), (25.0, 600.0))
    tributary = winding(size_m * float(rng.uniform(0.6, 0.75)), (160.0, 2600.0), (40.0, 800.0))
    lake_y = size_m * float(rng.uniform(0.25, 0.4))
    lake = (float(river.at(np.float64(lake_y))), lake_y, float(np.clip(0.07 * size_m, 100.0, 420.0)))
    sizes = ((1500.0, 9.0, 34.0), (700.0, 6.0, 14.0), (320.0, 2.2, 5.0), (140.0, 0.7, 1.4))
    hills = tuple(
        (field(rng, west, south, side, s), plain * max(scale, 0.6), steep * max(scale, 0.5))
        for s, plain, steep in sizes
    )
    return Relief(region, size_m, river, tributary, lake, field(rng, west, south, side, 260.0 * scale), hills)
