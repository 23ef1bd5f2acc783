"""Radar geometry: an orbit seen from the turning Earth, zero-Doppler times, and image frames solved on the relief."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.ndimage import map_coordinates
from scipy.optimize import root

from catalog.sandbox.regions import Grid

FloatArray = NDArray[np.floating]
Numbers = float | np.floating[Any] | FloatArray

LIGHT_M_S = 299_792_458.0
EARTH_GM = 3.986004418e14
EARTH_TURN = 7.2921150e-5
_A, _F = 6_378_137.0, 1.0 / 298.257223563
_E2 = _F * (2.0 - _F)


def ecef(longitude_deg: Numbers, latitude_deg: Numbers, height_m: Numbers) -> FloatArray:
    """Earth-centred, Earth-fixed metres (..., 3) of places on WGS 84."""
    lon, lat = np.radians(longitude_deg), np.radians(latitude_deg)
    n = _A / np.sqrt(1.0 - _E2 * np.sin(lat) ** 2)
    flat = (n + height_m) * np.cos(lat)
    return np.stack([flat * np.cos(lon), flat * np.sin(lon), (n * (1.0 - _E2) + height_m) * np.sin(lat)], -1)


def vertical(longitude_deg: Numbers, latitude_deg: Numbers) -> FloatArray:
    """Unit normal of the ellipsoid, (..., 3)."""
    lon, lat = np.radians(longitude_deg), np.radians(latitude_deg)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


@dataclass(frozen=True)
class Orbit:
    """A circular orbit about the turning Earth; time is in seconds from the moment it passes abeam of its target."""

    radius_m: float
    """Distance from the Earth's centre."""
    inclination: float
    """Radians."""
    node: float
    """Earth-fixed longitude of the ascending node at time 0, radians."""
    phase: float
    """Angle from the node at time 0, radians."""

    @property
    def rate(self) -> float:
        """Radians per second along the orbit."""
        return float(np.sqrt(EARTH_GM / self.radius_m**3))

    def state(self, t_s: FloatArray | float) -> tuple[FloatArray, FloatArray]:
        """Earth-fixed position in m and velocity in m/s, (..., 3) each."""
        t = np.asarray(t_s, np.float64)
        u, turn = self.phase + self.rate * t, self.node - EARTH_TURN * t
        ci, si = np.cos(self.inclination), np.sin(self.inclination)
        c, s = np.cos(turn), np.sin(turn)

        def fixed(x: FloatArray, y: FloatArray) -> FloatArray:
            return np.stack([c * x - s * ci * y, s * x + c * ci * y, si * y], -1)

        position = self.radius_m * fixed(np.cos(u), np.sin(u))
        velocity = self.radius_m * self.rate * fixed(-np.sin(u), np.cos(u))
        spin = EARTH_TURN * np.stack([-position[..., 1], position[..., 0], np.zeros_like(t)], -1)
        return position, velocity - spin

    def abeam(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Zero-Doppler time in s, where (P - S(t)) . V(t) = 0, and slant range in m of Earth-fixed points (..., 3)."""
        t = np.zeros(points.shape[:-1])
        for _ in range(6):
            position, velocity = self.state(t)
            line = points - position
            doppler = np.einsum("...i,...i", line, velocity)
            pull = -(self.rate**2) * np.einsum("...i,...i", line, position)
            t = t - doppler / (pull - np.einsum("...i,...i", velocity, velocity))
        return t, np.linalg.norm(points - self.state(t)[0], axis=-1)


def orbit_over(longitude_deg: float, latitude_deg: float, height_m: float, *, altitude_m: float, inclination_deg: float,
               incidence_deg: float, descending: bool) -> Orbit:  # fmt: skip
    """The orbit that passes abeam of a place at time 0, sees it on its right, under an incidence angle.

    Parameters
    ----------
    altitude_m
        Above the sphere of 6371 km.
    incidence_deg
        Between the line of sight and the ellipsoid's normal at the place.
    """
    place = ecef(longitude_deg, latitude_deg, height_m)
    normal = vertical(longitude_deg, latitude_deg)
    radius, tilt = 6_371_000.0 + altitude_m, np.radians(inclination_deg)
    away = np.radians(incidence_deg) - np.arcsin(6_371_000.0 * np.sin(np.radians(incidence_deg)) / radius)
    towards = np.radians(104.0 if descending else 258.0)
    lat = np.radians(latitude_deg) + away * np.cos(towards)
    lon = np.radians(longitude_deg) + away * np.sin(towards) / np.cos(lat)
    u = np.arcsin(np.clip(np.sin(lat) / np.sin(tilt), -1, 1))
    u = np.pi - u if descending else u
    node = lon - np.arctan2(np.cos(tilt) * np.sin(u), np.cos(u))

    def miss(unknown: FloatArray) -> list[float]:
        position, velocity = Orbit(radius, tilt, unknown[0], unknown[1]).state(0.0)
        sight = position - place
        distance = np.linalg.norm(sight)
        cosine = sight @ normal / distance
        return [sight @ velocity / distance / 7000.0, np.arccos(cosine) - np.radians(incidence_deg)]

    solved = root(miss, [node, u], tol=1e-14)
    return Orbit(radius, float(tilt), float(solved.x[0]), float(solved.x[1]))


@dataclass(frozen=True)
class Ground:
    """The relief of a region and its margin as a radar needs it."""

    grid: Grid
    """10 m pixels."""
    height_m: NDArray[np.float32]
    """(rows, cols) above the ellipsoid."""
    longitude_deg: FloatArray
    """(rows, cols)."""
    latitude_deg: FloatArray
    """(rows, cols)."""

    def at(self, x_m: FloatArray, y_m: FloatArray, layer: FloatArray) -> FloatArray:
        """A layer (rows, cols) at map positions, linear between pixel centres."""
        row, col = self.index(x_m, y_m)
        return map_coordinates(layer, [row, col], order=1, mode="nearest")

    def index(self, x_m: FloatArray, y_m: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Fractional row and column of map positions; whole numbers are pixel centres."""
        return (self.grid.north_m - y_m) / self.grid.step_m - 0.5, (x_m - self.grid.west_m) / self.grid.step_m - 0.5

    def incidence_deg(self, orbit: Orbit) -> FloatArray:
        """Angle between the line of sight and the terrain's normal, (rows, cols), for the satellite at time 0."""
        middle = self.height_m.shape[0] // 2, self.height_m.shape[1] // 2
        lon, lat = self.longitude_deg[middle], self.latitude_deg[middle]
        sight = orbit.state(0.0)[0] - ecef(lon, lat, float(self.height_m[middle]))
        sight = sight / np.linalg.norm(sight)
        up = vertical(lon, lat)
        east = np.array([-np.sin(np.radians(lon)), np.cos(np.radians(lon)), 0.0])
        e, n, z = sight @ east, sight @ np.cross(up, east), sight @ up
        south, gx = np.gradient(self.height_m, self.grid.step_m)
        cosine = (z - e * gx + n * south) / np.sqrt(1.0 + gx**2 + south**2)
        return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def ground_of(grid: Grid, height_m: NDArray[np.float32]) -> Ground:
    """Join heights with the latitudes and longitudes of their pixels."""
    x, y = np.meshgrid(grid.x_m, grid.y_m)
    lon, lat = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(x, y)
    return Ground(grid, height_m, lon, lat)


@dataclass(frozen=True)
class Frame:
    """A radar image: lines are zero-Doppler times, samples are slant ranges through a law of their own."""

    orbit: Orbit
    """The satellite's path."""
    first_s: float
    """Time of line 0."""
    line_s: float
    """Seconds from line to line."""
    lines: int
    """Number of lines."""
    samples: int
    """Number of samples."""
    sample_of: Callable[[FloatArray], FloatArray]
    """Slant range in metres to sample number."""

    def project(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Line and sample of Earth-fixed points (..., 3); whole numbers are pixel centres."""
        t, slant = self.orbit.abeam(points)
        return (t - self.first_s) / self.line_s, self.sample_of(slant)


@dataclass(frozen=True)
class Footing:
    """A frame's line and sample at every pixel of the ground, and the way back."""

    ground: Ground
    """The relief."""
    line: FloatArray
    """(rows, cols)."""
    sample: FloatArray
    """(rows, cols)."""

    def locate(self, line: FloatArray, sample: FloatArray, tolerance: float = 0.002) -> tuple[FloatArray, FloatArray]:
        """Map positions in metres that an image shows at lines and samples, by fixed point iteration.

        Parameters
        ----------
        line, sample
            Any one shape.
        tolerance
            In pixels; positions in layover may stay worse.
        """
        grid = self.ground.grid
        x, y = (a.ravel()[::37] for a in np.meshgrid(grid.x_m, grid.y_m))
        basis = np.stack([np.ones_like(x), x - x.mean(), y - y.mean()], 1)
        known = np.stack([self.line.ravel()[::37], self.sample.ravel()[::37]], 1)
        fit = np.linalg.lstsq(basis, known, rcond=None)[0]
        back = np.linalg.inv(fit[1:].T)
        first = np.einsum("ij,j...->i...", back, np.stack([line - fit[0, 0], sample - fit[0, 1]]))
        start = np.stack([first[0] + x.mean(), first[1] + y.mean()])
        if line.ndim == 2 and min(line.shape) > 64:
            nodes = [np.unique(np.append(np.arange(0, n, 6), n - 1)) for n in line.shape]
            at = np.ix_(*nodes)
            coarse = self._walk(np.stack([s[at] for s in start]), line[at], sample[at], back, tolerance)
            axes = [np.interp(np.arange(n), k, np.arange(len(k))) for n, k in zip(line.shape, nodes, strict=True)]
            where = np.meshgrid(*axes, indexing="ij")
            start = np.stack([map_coordinates(c, where, order=1) for c in coarse])
        px, py = self._walk(start, line, sample, back, tolerance)
        return px, py

    def _walk(self, start: FloatArray, line: FloatArray, sample: FloatArray, back: FloatArray, tolerance: float
              ) -> FloatArray:  # fmt: skip
        at = start
        for _ in range(40):
            where = self.ground.index(at[0], at[1])
            seen = [map_coordinates(layer, where, order=1, mode="nearest") for layer in (self.line, self.sample)]
            misses = np.stack([line - seen[0], sample - seen[1]])
            at = at + 0.9 * np.einsum("ij,j...->i...", back, misses)
            if np.quantile(np.abs(misses).ravel()[::7] if misses.size > 4000 else np.abs(misses), 0.999) < tolerance:
                break
        return at


def stand(frame: Frame, ground: Ground) -> Footing:
    """Project every pixel of the ground into a frame."""
    points = ecef(ground.longitude_deg, ground.latitude_deg, ground.height_m.astype(np.float64))
    return Footing(ground, *frame.project(points))
