"""Products in their own geometry onto the Earth by rational polynomials, at one height or on a DEM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import map_coordinates

from catalog.errors import GeolocationError
from catalog.geocode.heights import Dem, ellipsoidal_heights, grid_of
from catalog.geocode.rpc_forward import METRES_PER_DEGREE, check_rpc

NODE_STEP = 32
ITERATIONS = 30
AGREES_M = 0.05
PIXEL_ERROR = 1e-6
"""GDAL stops inverting at a tenth of a pixel unless told otherwise."""


def place_by_rpc(
    rpcs: RPC, shape: tuple[int, int], height: float | Sequence[Dem], *, origin: tuple[int, int] = (0, 0)
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Longitude, latitude and height of every pixel of a product kept in its own geometry.

    The polynomials are inverted on every 32nd pixel at three heights; between them longitude and latitude are a
    bicubic spline in line and pixel and a parabola in height. On a DEM, place and height are iterated until they agree.

    Parameters
    ----------
    rpcs
        Rational polynomial coefficients; their heights are ellipsoidal.
    shape
        (lines, pixels) wanted.
    height
        One height in metres above the ellipsoid, or DEMs, of which the first that knows a place decides it.
    origin
        (line, pixel) of the first of them.

    Returns
    -------
    longitude, latitude, height
        (y, x) float64, float64 and float32, in degrees and metres, with line and pixel numbers as coordinates; NaN
        where the DEM ends. `longitude.attrs["interpolation_error_m"]` is the largest error at the nodes' midpoints.

    Raises
    ------
    GeolocationError
        When the height is not finite, the polynomials place nothing (a scale of zero), or a DEM cannot be read, counts
        from a datum that nobody can convert or covers nothing.
    """
    check_rpc(rpcs)
    lines = np.arange(origin[0], origin[0] + shape[0], dtype=float)
    pixels = np.arange(origin[1], origin[1] + shape[1], dtype=float)
    if isinstance(height, int | float):
        if not np.isfinite(height):
            raise _refused(f"a height of {height} m places nothing", "height", "metres above the ellipsoid")
        (place,), error_m = _surfaces(rpcs, lines, pixels, np.array([float(height)]))
        heights_m = np.full(shape, float(height))
    else:
        levels_m = rpcs.height_off + rpcs.height_scale * np.array([-1.0, 0.0, 1.0])
        places, error_m = _surfaces(rpcs, lines, pixels, levels_m)
        place, heights_m = _meet(_Dem.under(height, places), places, levels_m)
    coords = {"y": lines.astype(int), "x": pixels.astype(int)}
    note = {"interpolation_error_m": error_m}

    def layer(data: np.ndarray, name: str, units: str, dtype: str) -> xr.DataArray:
        return xr.DataArray(data.astype(dtype), dims=("y", "x"), coords=coords, name=name, attrs={"units": units})

    return (
        layer(place[0], "longitude", "degrees_east", "float64").assign_attrs(note),
        layer(place[1], "latitude", "degrees_north", "float64").assign_attrs(note),
        layer(heights_m, "height", "m", "float32"),
    )


@dataclass(frozen=True)
class _Dem:
    """The part of the DEMs under a scene, on the grid of the first."""

    heights_m: np.ndarray
    """(rows, columns) above the ellipsoid, NaN where unknown."""
    to_pixel: rasterio.Affine
    """From the DEM's CRS to column and row."""
    to_crs: Transformer
    """From longitude and latitude to the DEM's CRS."""

    @classmethod
    def under(cls, dems: Sequence[Dem], places: list[np.ndarray]) -> _Dem:
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


def _surfaces(rpcs: RPC, lines: np.ndarray, pixels: np.ndarray, levels_m: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Longitude and latitude (2, y, x) at each level, and the largest error in metres half way between the nodes."""
    rows, columns = _nodes(lines), _nodes(pixels)
    mid_rows, mid_columns = (rows[1:] + rows[:-1]) / 2, (columns[1:] + columns[:-1]) / 2
    surfaces, worst_m = [], 0.0
    with RPCTransformer(rpcs, RPC_PIXEL_ERROR_THRESHOLD=PIXEL_ERROR) as transformer:
        for level_m in levels_m:
            nodes = _invert(transformer, rows, columns, level_m)
            splines = [RectBivariateSpline(rows, columns, values) for values in nodes]
            exact = _invert(transformer, mid_rows, mid_columns, level_m)
            off = np.stack([s(mid_rows, mid_columns) for s in splines]) - exact
            off[0] *= np.cos(np.radians(exact[1]))
            worst_m = max(worst_m, float(np.hypot(*off).max()) * METRES_PER_DEGREE)
            surfaces.append(np.stack([s(lines, pixels) for s in splines]))
    return surfaces, worst_m


def _nodes(numbers: np.ndarray) -> np.ndarray:
    """Places to invert the polynomials at, 32 pixels apart or closer, one pixel past both ends, four at least."""
    return np.linspace(numbers[0] - 1, numbers[-1] + 1, max(4, int(np.ceil(numbers.size / NODE_STEP)) + 1))


def _invert(transformer: RPCTransformer, rows: np.ndarray, columns: np.ndarray, height_m: float) -> np.ndarray:
    """Longitude and latitude (2, rows, columns) of pixel centres at one height."""
    row, column = np.meshgrid(rows, columns, indexing="ij")
    # GDAL counts from pixel corners, RPC from pixel centres: "center" adds the half pixel that GDAL takes off.
    heights = np.full(row.size, height_m)
    longitude, latitude = transformer.xy(row.ravel(), column.ravel(), zs=heights, offset="center")
    placed = np.stack([np.reshape(longitude, row.shape), np.reshape(latitude, row.shape)])
    if not np.isfinite(placed).all():
        raise _refused("the rational polynomials cannot be inverted", "RPC", "coefficients valid over the whole image")
    return placed


def _meet(dem: _Dem, places: list[np.ndarray], levels_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    what: str, item: str, enough: str, todo: str = "look at the product's RPC file and the DEM"
) -> GeolocationError:
    return GeolocationError(what, item=item, enough=enough, todo=todo)
