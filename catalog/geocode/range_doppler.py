"""Where the radar saw a place: range-Doppler from orbit, timing and height."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.polynomial.polynomial import polyval
from scipy.interpolate import CubicHermiteSpline

from catalog.errors import GeolocationError

SEMI_MAJOR_M = 6_378_137.0
FLATTENING = 1 / 298.257223563
ECCENTRICITY_SQUARED = FLATTENING * (2 - FLATTENING)
SPEED_OF_LIGHT_M_S = 299_792_458.0


@dataclass(frozen=True)
class RadarGrid:
    """What places a radar's pixels: orbit, timing and the slant to ground range law; `in_slant_range` for an SLC."""

    orbit_time_s: np.ndarray
    """(N,) seconds since any epoch, increasing."""
    orbit_position_m: np.ndarray
    """(N, 3) Earth-fixed x, y, z."""
    orbit_velocity_m_s: np.ndarray
    """(N, 3) Earth-fixed x, y, z."""
    first_line_s: float
    """Zero-Doppler time of line 0, since the orbit's epoch."""
    line_interval_s: float
    """Time from one line to the next."""
    conversion_time_s: np.ndarray
    """(M,) azimuth time of each slant to ground range polynomial, increasing."""
    conversion_origin_m: np.ndarray
    """(M,) slant range about which each polynomial is written."""
    conversion_coefficients: np.ndarray
    """(M, K) ground range in metres = sum over k of c_k (slant range - origin)^k."""
    range_pixel_spacing_m: float
    """Ground range from one sample to the next; slant range in a slant-range image."""
    lines: int
    """Rows of the whole image."""
    samples: int
    """Columns of the whole image."""
    conversion_between: Literal["linear", "nearest"] = "linear"
    """Between two polynomials: linear as lines are formed, or nearest as IPF computes its annotated grid points."""
    bistatic_reference_s: float | None = None
    """Two-way slant range time at which line times are zero-Doppler times; elsewhere they differ by half the
    difference to it (the bulk bistatic correction of Sentinel-1's IPF). None where they do at every range."""
    looks_right: bool = True
    """Which side of the flight the antenna looks to."""

    def __post_init__(self) -> None:
        n, m = np.size(self.orbit_time_s), np.size(self.conversion_time_s)
        spacings = (self.line_interval_s, self.range_pixel_spacing_m)
        if not np.all(np.isfinite(spacings)) or min(spacings) <= 0:
            raise _refused(
                f"a line interval of {spacings[0]} s and a pixel spacing of {spacings[1]} m place nothing",
                "line interval, range pixel spacing",
                "both above zero",
            )
        shapes = np.shape(self.orbit_position_m) == np.shape(self.orbit_velocity_m_s) == (n, 3)
        rows = np.ndim(self.conversion_coefficients) == 2 and len(self.conversion_coefficients) == m
        if n < 2 or m < 1 or not shapes or not rows or np.size(self.conversion_origin_m) != m:
            raise _refused(
                f"{n} state vectors and {m} range polynomials do not fit together",
                "orbit or coordinate conversion",
                "two state vectors or more, one polynomial or more, each with its time",
            )
        if np.any(np.diff(self.orbit_time_s) <= 0) or np.any(np.diff(self.conversion_time_s) <= 0):
            raise _refused("times go backwards", "orbit or coordinate conversion", "increasing times")
        last_line_s = self.first_line_s + (self.lines - 1) * self.line_interval_s
        if self.first_line_s < self.orbit_time_s[0] or last_line_s > self.orbit_time_s[-1]:
            raise _refused(
                f"the orbit covers {self.orbit_time_s[0]:.1f} to {self.orbit_time_s[-1]:.1f} s, "
                f"the image {self.first_line_s:.1f} to {last_line_s:.1f} s",
                "orbit",
                "state vectors before the first line and after the last",
            )
        vectors = (self.orbit_position_m, self.orbit_velocity_m_s)
        if not all(np.isfinite(v).all() for v in vectors):
            raise _refused("a state vector is not a number", "orbit", "finite positions and velocities")

    @classmethod
    def in_slant_range(
        cls,
        orbit: tuple[np.ndarray, np.ndarray, np.ndarray],
        lines: tuple[float, float, int],
        samples: tuple[float, float, int],
        *,
        bistatic_reference_s: float | None = None,
        looks_right: bool = True,
    ) -> Self:
        """The grid of an image kept in slant range: sample = (slant range - first) / spacing.

        Parameters
        ----------
        orbit
            Times (N,), positions (N, 3) and velocities (N, 3), as in the fields.
        lines
            Zero-Doppler time of line 0 in seconds, line interval in seconds, count.
        samples
            Slant range of sample 0 in metres, spacing in metres (c / 2 over the range sampling rate), count.
        """
        time_s, position_m, velocity_m_s = orbit
        return cls(
            orbit_time_s=time_s,
            orbit_position_m=position_m,
            orbit_velocity_m_s=velocity_m_s,
            first_line_s=lines[0],
            line_interval_s=lines[1],
            conversion_time_s=np.array([lines[0]]),
            conversion_origin_m=np.array([samples[0]]),
            conversion_coefficients=np.array([[0.0, 1.0]]),
            range_pixel_spacing_m=samples[1],
            lines=lines[2],
            samples=samples[2],
            bistatic_reference_s=bistatic_reference_s,
            looks_right=looks_right,
        )


@dataclass(frozen=True)
class Sight:
    """How the radar saw places, arrays of one shape; NaN where it did not."""

    time_s: np.ndarray
    """Zero-Doppler time since the orbit's epoch."""
    slant_m: np.ndarray
    """Distance from the satellite."""
    towards: np.ndarray
    """(..., 3) unit vectors from the place to the satellite, Earth-fixed."""
    place_m: np.ndarray
    """(..., 3) the place, Earth-fixed."""
    satellite_m: np.ndarray
    """(..., 3) the satellite at that time, Earth-fixed."""


def sight(grid: RadarGrid, longitude: np.ndarray, latitude: np.ndarray, height_m: np.ndarray | float) -> Sight:
    """Zero-Doppler time, distance and direction of the radar as seen from places; inputs as in image_coordinates."""
    time_s, position, _, target = _zero_doppler(grid, longitude, latitude, height_m)
    back = np.where(np.isfinite(time_s)[..., None], position - target, np.nan)
    slant_m = np.linalg.norm(back, axis=-1)
    return Sight(time_s, slant_m, back / slant_m[..., None], target, position)


def image_coordinates(
    grid: RadarGrid, longitude: np.ndarray, latitude: np.ndarray, height_m: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Line and pixel at which the radar saw a place, by range-Doppler.

    The zero-Doppler time t solves (P - S(t)) . V(t) = 0 by Newton's method on a cubic Hermite orbit S; its slant range
    becomes ground range by the product's polynomials, interpolated in time. Source: Sentinel-1 Level-1 Detailed
    Algorithm Definition, 9.15; Curlander and McDonough, Synthetic Aperture Radar (1991), 8.2.

    Parameters
    ----------
    grid
        Orbit, timing and range law.
    longitude, latitude
        Degrees WGS 84, any shape.
    height_m
        Above the WGS 84 ellipsoid (not the geoid), the same shape or one number.

    Returns
    -------
    line, pixel
        float64, the shape of longitude, 0 at the centre of the first; beyond 0..lines-1 and 0..samples-1 for places
        outside the image, NaN where the orbit ends before them, on the other side of the track and at NaN heights.
    """
    time_s, position, velocity, target = _zero_doppler(grid, longitude, latitude, height_m)
    look = target - position
    slant_m = np.linalg.norm(look, axis=-1)
    bistatic_s = 0.0
    if grid.bistatic_reference_s is not None:
        bistatic_s = slant_m / SPEED_OF_LIGHT_M_S - grid.bistatic_reference_s / 2
    line = (time_s - bistatic_s - grid.first_line_s) / grid.line_interval_s
    pixel = ground_range_m(grid, time_s, slant_m) / grid.range_pixel_spacing_m
    to_the_right = np.sum(np.cross(velocity, position) * look, axis=-1) > 0
    line = np.where(to_the_right == grid.looks_right, line, np.nan)
    return line, np.where(np.isfinite(line), pixel, np.nan)


def bistatic_reference_s(
    grid: RadarGrid, line: np.ndarray, azimuth_time_s: np.ndarray, slant_range_time_s: np.ndarray
) -> float | None:
    """The range at which line times are zero-Doppler times, from the product's annotated geolocation points.

    Their azimuth times differ from their lines' times by (tau - reference) / 2 where the processor corrected the
    bistatic delay in bulk (Small and Schubert, Guide to Sentinel-1 Geocoding, UZH-S1-GC-AD, 2019), by nothing else.

    Parameters
    ----------
    grid
        Its first line and line interval are used.
    line, azimuth_time_s, slant_range_time_s
        (n,) of each point; times since the grid's epoch, slant range time two-way.

    Returns
    -------
    Seconds, or None where the times agree to a twentieth of a line.

    Raises
    ------
    GeolocationError
        When the difference is neither.
    """
    late_s = azimuth_time_s - (grid.first_line_s + line * grid.line_interval_s)
    if np.max(np.abs(late_s)) < 0.05 * grid.line_interval_s:
        return None
    reference_s = float(np.median(slant_range_time_s - 2 * late_s))
    unexplained_s = late_s - (slant_range_time_s - reference_s) / 2
    # The last row of points is rounded to the acquisition's end, so a few may stray.
    if np.median(np.abs(unexplained_s)) > 0.05 * grid.line_interval_s:
        raise _refused(
            f"line times and annotated times differ by {np.max(np.abs(late_s)):.2e} s, not as a bulk correction",
            "geolocation grid",
            "differences of half the slant range time, or none",
        )
    return reference_s


def incidence_angle(
    grid: RadarGrid, longitude: np.ndarray, latitude: np.ndarray, height_m: np.ndarray | float
) -> np.ndarray:
    """Angle between the look and the ellipsoid's vertical at a place, in degrees; inputs as in image_coordinates."""
    _, position, _, target = _zero_doppler(grid, longitude, latitude, height_m)
    look = position - target
    up = vertical(longitude, latitude)
    return np.degrees(np.arccos(np.sum(look * up, axis=-1) / np.linalg.norm(look, axis=-1)))


def _refused(what: str, item: str, enough: str, todo: str = "look at the product's metadata files") -> GeolocationError:
    return GeolocationError(what, item=item, enough=enough, todo=todo)


def vertical(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Unit normals of the ellipsoid, (..., 3), Earth-fixed."""
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def earth_fixed(longitude: np.ndarray, latitude: np.ndarray, height_m: np.ndarray | float) -> np.ndarray:
    """Earth-fixed x, y, z in metres, (..., 3), of geodetic coordinates on WGS 84."""
    up = vertical(longitude, latitude)
    prime_vertical_m = SEMI_MAJOR_M / np.sqrt(1 - ECCENTRICITY_SQUARED * up[..., 2] ** 2)
    scale = np.stack([prime_vertical_m, prime_vertical_m, prime_vertical_m * (1 - ECCENTRICITY_SQUARED)], axis=-1)
    return (scale + np.asarray(height_m, dtype=float)[..., None]) * up


def _zero_doppler(
    grid: RadarGrid, longitude: np.ndarray, latitude: np.ndarray, height_m: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Zero-Doppler time, the satellite's position and velocity then, and the target; NaN time outside the orbit."""
    target = earth_fixed(np.asarray(longitude, float), np.asarray(latitude, float), height_m)
    origin_s = float(grid.orbit_time_s[0])
    orbit = CubicHermiteSpline(grid.orbit_time_s - origin_s, grid.orbit_position_m, grid.orbit_velocity_m_s)
    speed, acceleration = orbit.derivative(), orbit.derivative(2)
    end_s = float(grid.orbit_time_s[-1]) - origin_s
    time_s = np.full(target.shape[:-1], grid.first_line_s - origin_s + grid.lines * grid.line_interval_s / 2)
    for _ in range(6):
        velocity, look = speed(time_s), target - orbit(time_s)
        doppler = np.sum(look * velocity, axis=-1)
        slope = np.sum(look * acceleration(time_s), axis=-1) - np.sum(velocity**2, axis=-1)
        step = doppler / slope
        time_s = np.clip(time_s - step, -1.0, end_s + 1.0)
        if np.nanmax(np.abs(step), initial=0.0) < 1e-9:
            break
    position, velocity = orbit(time_s), speed(time_s)
    inside = (time_s >= 0) & (time_s <= end_s) & (np.abs(step) < 1e-6)
    return np.where(inside, time_s + origin_s, np.nan), position, velocity, target


def ground_range_m(grid: RadarGrid, time_s: np.ndarray, slant_m: np.ndarray) -> np.ndarray:
    """Ground range by the polynomials before and after in time, weighted linearly; held past the first and last."""
    times = np.asarray(grid.conversion_time_s, dtype=float)
    at = np.clip(np.nan_to_num(time_s, nan=times[0]), times[0], times[-1])
    before = np.clip(np.searchsorted(times, at, side="right") - 1, 0, max(times.size - 2, 0))
    after = np.minimum(before + 1, times.size - 1)
    span_s = np.where(after > before, times[after] - times[before], 1.0)
    weight = (at - times[before]) / span_s
    if grid.conversion_between == "nearest":
        weight = np.round(weight)
    return (1 - weight) * _polynomial(grid, before, slant_m) + weight * _polynomial(grid, after, slant_m)


def _polynomial(grid: RadarGrid, which: np.ndarray, slant_m: np.ndarray) -> np.ndarray:
    from_origin = slant_m - np.asarray(grid.conversion_origin_m)[which]
    coefficients = np.moveaxis(np.asarray(grid.conversion_coefficients)[which], -1, 0)
    return polyval(from_origin, coefficients, tensor=False)
