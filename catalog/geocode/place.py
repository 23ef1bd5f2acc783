"""Every pixel of an image in its own geometry onto the Earth, at one height or on DEMs, whatever model inverts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import map_coordinates

from catalog.errors import GeolocationError
from catalog.geocode.heights import Dem, ellipsoidal_heights, grid_of
from catalog.geocode.rpc_forward import METRES_PER_DEGREE

NODE_STEP = 32
ITERATIONS = 30
AGREES_M = 0.05
Invert = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Lines (n,), pixels (m,) and a height in metres -> longitude and latitude (2, n, m)."""
Places = tuple[xr.DataArray, xr.DataArray, xr.DataArray]


def place(
    invert: Invert, shape: tuple[int, int], height: float | Sequence[Dem], levels_m: np.ndarray, origin: tuple[int, int]
) -> Places:
    """Longitude, latitude and height of every pixel of an image in its own geometry.

    The model is inverted on every 32nd pixel at three heights; between them longitude and latitude are a bicubic spline
    in line and pixel and a parabola in height. On DEMs, place and height are iterated until they agree.

    Parameters
    ----------
    invert
        The model of the image.
    shape, origin
        (lines, pixels) wanted, and (line, pixel) of the first of them.
    height
        One height in metres above the ellipsoid, or DEMs, of which the first that knows a place decides it.
    levels_m
        Three heights that span the terrain.

    Returns
    -------
    longitude, latitude, height
        (y, x) float64, float64 and float32, in degrees and metres, with line and pixel numbers as coordinates; NaN
        where the DEMs end. `longitude.attrs["interpolation_error_m"]` is the largest error at the nodes' midpoints.

    Raises
    ------
    GeolocationError
        When the height is not finite, or a DEM cannot be read, counts from a datum that nobody can convert or covers
        nothing.
    """
    lines = np.arange(origin[0], origin[0] + shape[0], dtype=float)
    pixels = np.arange(origin[1], origin[1] + shape[1], dtype=float)
    if isinstance(height, int | float):
        if not np.isfinite(height):
            raise _refused(f"a height of {height} m places nothing", "height", "metres above the ellipsoid")
        (found,), error_m = _surfaces(invert, lines, pixels, np.array([float(height)]))
        heights_m = np.full(shape, float(height))
    else:
        places, error_m = _surfaces(invert, lines, pixels, levels_m)
        found, heights_m = _meet(_Heights.under(height, places), places, levels_m)
    coords = {"y": lines.astype(int), "x": pixels.astype(int)}

    def layer(data: np.ndarray, name: str, units: str, dtype: str) -> xr.DataArray:
        return xr.DataArray(data.astype(dtype), dims=("y", "x"), coords=coords, name=name, attrs={"units": units})

    return (
        layer(found[0], "longitude", "degrees_east", "float64").assign_attrs(interpolation_error_m=error_m),
        layer(found[1], "latitude", "degrees_north", "float64").assign_attrs(interpolation_error_m=error_m),
        layer(heights_m, "height", "m", "float32"),
    )


@dataclass(frozen=True)
class _Heights:
    """The part of the DEMs under a scene, on the grid of the first."""

    heights_m: np.ndarray
    """(rows, columns) above the ellipsoid, NaN where unknown."""
    to_pixel: rasterio.Affine
    """From the DEM's CRS to column and row."""
    to_crs: Transformer
    """From longitude and latitude to the DEM's CRS."""

    @classmethod
    def under(cls, dems: Sequence[Dem], places: list[np.ndarray]) -> _Heights:
        """Read what lies under places at the lowest and highest levels."""
        crs, affine = grid_of(dems[0])
        to_crs = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        x, y = to_crs.transform(*np.stack([p.reshape(2, -1) for p in places], axis=1).reshape(2, -1))
        column, row = _corners(~affine, x, y)
        shape = (row[1] - row[0], column[1] - column[0])
        geobox = GeoBox(shape, affine * rasterio.Affine.translation(column[0], row[0]), crs)
        heights = ellipsoidal_heights(dems, geobox)
        return cls(heights.values.astype("float64"), ~geobox.affine, to_crs)

    def at(self, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        """Bilinear heights in metres; NaN outside."""
        column, row = _apply(self.to_pixel, *self.to_crs.transform(longitude, latitude))
        return map_coordinates(self.heights_m, [row - 0.5, column - 0.5], order=1, mode="constant", cval=np.nan)


def _corners(to_pixel: rasterio.Affine, x: np.ndarray, y: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and past-the-last column and row under places, with two pixels to spare."""
    columns, rows = _apply(to_pixel, np.array([x.min(), x.min(), x.max(), x.max()]), np.array([y.min(), y.max()] * 2))
    return (int(columns.min()) - 2, int(columns.max()) + 3), (int(rows.min()) - 2, int(rows.max()) + 3)


def _apply(affine: rasterio.Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f = tuple(affine)[:6]
    return a * x + b * y + c, d * x + e * y + f


def _surfaces(
    invert: Invert, lines: np.ndarray, pixels: np.ndarray, levels_m: np.ndarray
) -> tuple[list[np.ndarray], float]:
    """Longitude and latitude (2, y, x) at each level, and the largest error in metres half way between the nodes."""
    rows, columns = _nodes(lines), _nodes(pixels)
    mid_rows, mid_columns = (rows[1:] + rows[:-1]) / 2, (columns[1:] + columns[:-1]) / 2
    surfaces, worst_m = [], 0.0
    for level_m in levels_m:
        splines = [RectBivariateSpline(rows, columns, values) for values in invert(rows, columns, float(level_m))]
        exact = invert(mid_rows, mid_columns, float(level_m))
        off = np.stack([s(mid_rows, mid_columns) for s in splines]) - exact
        off[0] *= np.cos(np.radians(exact[1]))
        worst_m = max(worst_m, float(np.hypot(*off).max()) * METRES_PER_DEGREE)
        surfaces.append(np.stack([s(lines, pixels) for s in splines]))
    return surfaces, worst_m


def _nodes(numbers: np.ndarray) -> np.ndarray:
    """Places to invert the polynomials at, 32 pixels apart or closer, one pixel past both ends, four at least."""
    return np.linspace(numbers[0] - 1, numbers[-1] + 1, max(4, int(np.ceil(numbers.size / NODE_STEP)) + 1))


def _meet(dem: _Heights, places: list[np.ndarray], levels_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's line of sight meets the DEM: place (2, y, x) and height, NaN where it does not."""
    height_m = np.full(places[0].shape[1:], levels_m[1])
    for iteration in range(ITERATIONS):
        place = _at_height(places, levels_m, height_m)
        next_m = dem.at(*place)
        moved_m = np.abs(next_m - height_m)
        step = 1.0 if iteration < ITERATIONS // 2 else 0.5  # steep slopes facing away oscillate under a full step
        height_m = np.where(np.isfinite(next_m), height_m + step * (next_m - height_m), height_m)
        if np.nanmax(moved_m, initial=0.0) < AGREES_M:
            break
    met = moved_m < 1.0
    if not met.any():
        raise _refused("the DEM does not cover the scene", "DEM", "heights under every pixel", "take a larger DEM")
    return np.where(met, place, np.nan), np.where(met, height_m, np.nan)


def _at_height(places: list[np.ndarray], levels_m: np.ndarray, height_m: np.ndarray) -> np.ndarray:
    """The parabola through the places at three levels, per pixel."""
    low, middle, high = levels_m
    weights = (
        (height_m - middle) * (height_m - high) / ((low - middle) * (low - high)),
        (height_m - low) * (height_m - high) / ((middle - low) * (middle - high)),
        (height_m - low) * (height_m - middle) / ((high - low) * (high - middle)),
    )
    return sum((w * p for w, p in zip(weights, places, strict=True)), np.zeros_like(places[0]))


def _refused(
    what: str, item: str, enough: str, todo: str = "look at the product's metadata and the DEM"
) -> GeolocationError:
    return GeolocationError(what, item=item, enough=enough, todo=todo)
