"""Radar images in their own geometry onto the Earth: range-Doppler inverted, at one height or on a DEM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from catalog.errors import GeolocationError
from catalog.geocode.heights import Dem
from catalog.geocode.place import Places, place
from catalog.geocode.range_doppler import (
    ECCENTRICITY_SQUARED,
    SEMI_MAJOR_M,
    SPEED_OF_LIGHT_M_S,
    RadarGrid,
    earth_fixed,
    ground_range_m,
    vertical,
)

LEVELS_M = np.array([-500.0, 2500.0, 9000.0])
STEPS = 12


def place_by_orbit(
    grid: RadarGrid, shape: tuple[int, int], height: float | Sequence[Dem], *, origin: tuple[int, int] = (0, 0)
) -> Places:
    """Longitude, latitude and height of every pixel of a radar image kept in its own geometry.

    The inverse of image_coordinates: at a line's time and a pixel's slant range, (P - S) . V = 0 and |P - S| = R are
    solved for longitude and latitude at one height by Newton's method.

    Parameters
    ----------
    grid
        Orbit, timing and range law, in slant or in ground range.
    shape, height, origin
        As in `place.place`, which says what is returned.

    Raises
    ------
    GeolocationError
        As in `place.place`, or when a line or pixel has no place (outside the orbit, above the satellite's reach).
    """
    return place(lambda rows, columns, h: _invert(grid, rows, columns, h), shape, height, LEVELS_M, origin)


def _invert(grid: RadarGrid, rows: np.ndarray, columns: np.ndarray, height_m: float) -> np.ndarray:
    """Longitude and latitude (2, rows, columns) of lines and pixels at one height."""
    line, pixel = np.meshgrid(rows, columns, indexing="ij")
    time_s = grid.first_line_s + line * grid.line_interval_s
    slant_m = _slant_m(grid, time_s, pixel)
    if grid.bistatic_reference_s is not None:
        time_s = time_s + slant_m / SPEED_OF_LIGHT_M_S - grid.bistatic_reference_s / 2
    orbit = CubicHermiteSpline(grid.orbit_time_s, grid.orbit_position_m, grid.orbit_velocity_m_s, extrapolate=False)
    satellite, velocity = orbit(time_s), orbit.derivative()(time_s)
    ahead = velocity / np.linalg.norm(velocity, axis=-1, keepdims=True)
    longitude, latitude = _first_guess(grid, satellite, ahead, slant_m, height_m)
    for _ in range(STEPS):
        step = _step(longitude, latitude, height_m, satellite, ahead, slant_m)
        longitude, latitude = longitude + step[0], latitude + step[1]
        if np.nanmax(np.abs(step), initial=0.0) < 1e-11:
            break
    found = np.stack([(longitude + 180) % 360 - 180, latitude])
    if not np.isfinite(found).all() or np.abs(step).max() > 1e-8:
        raise GeolocationError(
            f"some pixels have no place {height_m:.0f} m above the ellipsoid",
            item="orbit, timing and range of the image",
            enough="lines within the orbit's time and ranges that reach the ground",
            todo="look at the product's metadata files",
        )
    return found


def _slant_m(grid: RadarGrid, time_s: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Slant range of pixels: the range law inverted by Newton's method."""
    wanted_m = pixel * grid.range_pixel_spacing_m
    slant_m = np.full(pixel.shape, float(np.mean(grid.conversion_origin_m)))
    for _ in range(STEPS):
        off = ground_range_m(grid, time_s, slant_m) - wanted_m
        slope = ground_range_m(grid, time_s, slant_m + 1.0) - ground_range_m(grid, time_s, slant_m)
        slant_m = slant_m - off / slope
        if np.max(np.abs(off)) < 1e-6:
            break
    return slant_m


def _first_guess(
    grid: RadarGrid, satellite: np.ndarray, ahead: np.ndarray, slant_m: np.ndarray, height_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude in degrees on a sphere of the Earth's mean radius."""
    distance = np.linalg.norm(satellite, axis=-1)
    down = -satellite / distance[..., None]
    down = down - np.sum(down * ahead, axis=-1, keepdims=True) * ahead
    down /= np.linalg.norm(down, axis=-1, keepdims=True)
    aside = np.cross(down, ahead) * (1.0 if grid.looks_right else -1.0)
    sine = np.sin(np.arctan2(satellite[..., 2], np.hypot(satellite[..., 0], satellite[..., 1])))
    radius = SEMI_MAJOR_M * np.sqrt(1 - ECCENTRICITY_SQUARED * sine**2) + height_m
    cosine = np.clip((distance**2 + slant_m**2 - radius**2) / (2 * distance * slant_m), -1, 1)[..., None]
    place_m = satellite + slant_m[..., None] * (down * cosine + aside * np.sqrt(1 - cosine**2))
    longitude = np.degrees(np.arctan2(place_m[..., 1], place_m[..., 0]))
    return longitude, np.degrees(np.arctan2(place_m[..., 2], np.hypot(place_m[..., 0], place_m[..., 1])))


def _step(
    longitude: np.ndarray,
    latitude: np.ndarray,
    height_m: float,
    satellite: np.ndarray,
    ahead: np.ndarray,
    slant_m: np.ndarray,
) -> np.ndarray:
    """Newton's step (2, ...) in degrees, from the metres along the track and in range that are left."""
    lon, up = np.radians(longitude), vertical(longitude, latitude)
    east = np.stack([-np.sin(lon), np.cos(lon), 0 * lon], axis=-1)
    look = earth_fixed(longitude, latitude, height_m) - satellite
    range_m = np.linalg.norm(look, axis=-1)
    towards = look / range_m[..., None]
    rows = [[np.sum(v * w, axis=-1) for w in (east, np.cross(up, east))] for v in (ahead, towards)]
    left = -np.sum(look * ahead, axis=-1), slant_m - range_m
    determinant = rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    metres_east = (left[0] * rows[1][1] - rows[0][1] * left[1]) / determinant
    metres_north = (rows[0][0] * left[1] - left[0] * rows[1][0]) / determinant
    radius = SEMI_MAJOR_M + height_m
    return np.degrees(np.stack([metres_east / (radius * np.cos(np.radians(latitude))), metres_north / radius]))
