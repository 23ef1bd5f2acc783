"""Calibrated pixels onto a map grid in one resampling: by range-Doppler, by rational polynomials or by an affine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.rpc import RPC

from catalog.displacement import Move
from catalog.errors import GeolocationError
from catalog.geocode.range_doppler import RadarGrid, image_coordinates, incidence_angle
from catalog.geocode.rpc_forward import check_rpc, image_of, moved_by_height_m
from catalog.geocode.sampling import Resampling, places, row_blocks, sample

USE_UTM = "take a tile of catalog.grid"
_Where = Callable[[slice], tuple[np.ndarray, np.ndarray]]


def geocode(
    power: xr.DataArray,
    grid: RadarGrid,
    geobox: GeoBox,
    height: xr.DataArray | None,
    *,
    shift_m: Move = (0.0, 0.0),
) -> xr.DataArray:
    """Calibrated power from radar geometry onto a map grid, in one bilinear resampling.

    Parameters
    ----------
    power
        (band, y, x) linear power, NaN where nothing was measured; y and x coordinates are line and pixel numbers (from
        0 without coordinates), equally spaced, so that a window or a decimated image finds its place. May be lazy:
        only the lines and pixels under the grid are computed.
    grid
        Orbit, timing and range law of the whole image.
    geobox
        CRS, affine and shape of the result.
    height
        (y, x) metres above the WGS 84 ellipsoid on `geobox`, NaN where unknown; None takes the ellipsoid itself, and
        the result's attributes say so with the displacement to expect.
    shift_m
        Metres to add to the scene's map coordinates, everywhere or by place, as coregister.Shift measures them.

    Returns
    -------
    DataArray (band, y, x), float32, on `geobox`, NaN outside the image and where fewer than half of the bilinear weight
    was measured.

    Raises
    ------
    GeolocationError
        When the height is on another grid or the power's coordinates are not equally spaced.
    """
    heights_m = _heights_on(geobox, height)
    line_axis, pixel_axis = _axis(power, "y"), _axis(power, "x")

    def where(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        line, pixel = image_coordinates(grid, *places(geobox, rows, shift_m), heights_m[rows])
        return (line - line_axis[0]) / line_axis[1], (pixel - pixel_axis[0]) / pixel_axis[1]

    return _resampled(power, geobox, shift_m, where, _terrain_note(grid, geobox, height))


def geocode_by_rpc(
    values: xr.DataArray,
    rpcs: RPC,
    geobox: GeoBox,
    height: xr.DataArray | None,
    *,
    shift_m: Move = (0.0, 0.0),
) -> xr.DataArray:
    """Pixels of an image that rational polynomials place, onto a map grid in one bilinear resampling.

    Parameters
    ----------
    values
        (band, y, x) in physical units, NaN where nothing was measured; the whole image, or with line and pixel numbers
        as coordinates a part of it. May be lazy.
    rpcs
        Rational polynomials from longitude, latitude and height above the ellipsoid to line and sample.
    geobox, shift_m
        As in `geocode`.
    height
        As in `geocode`; None takes the polynomials' own height offset, and the attributes say so.

    Returns
    -------
    DataArray (band, y, x), float32, as from `geocode`.

    Raises
    ------
    GeolocationError
        As in `geocode`, or when the polynomials place nothing (a scale of zero).
    """
    check_rpc(rpcs)
    heights_m = np.full(geobox.shape, float(rpcs.height_off)) if height is None else _heights_on(geobox, height)
    line_axis, pixel_axis = _axis(values, "y"), _axis(values, "x")

    def where(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        line, pixel = image_of(rpcs, *places(geobox, rows, shift_m), heights_m[rows])
        return (line - line_axis[0]) / line_axis[1], (pixel - pixel_axis[0]) / pixel_axis[1]

    note = "placed at the heights given"
    if height is None:
        moved_m = moved_by_height_m(rpcs, 100.0)
        level = f"at {rpcs.height_off:.0f} m above the ellipsoid, the height offset of the RPC"
        note = f"placed {level}: no DEM; ground 100 m above it lies {moved_m:.0f} m off"
    return _resampled(values, geobox, shift_m, where, {"terrain": note})


def resample_map(
    values: xr.DataArray, geobox: GeoBox, *, shift_m: Move = (0.0, 0.0), resampling: Resampling = "bilinear"
) -> xr.DataArray:
    """Pixels of a geocoded raster onto another map grid, in one resampling: bilinear, or nearest for classes.

    For quantities whose digital numbers must not be mixed: calibrated to power first, then resampled.

    Parameters
    ----------
    values
        (band, y, x) in physical units, NaN where nothing was measured; `attrs["transform"]` and `attrs["crs"]` as
        catalog.read.read_native gives them. May be lazy.
    geobox, shift_m
        As in `geocode`.

    Returns
    -------
    DataArray (band, y, x), float32, as from `geocode`; on the raster's own grid unchanged.

    Raises
    ------
    GeolocationError
        When the raster has no affine or no CRS.
    """
    transform, crs = values.attrs.get("transform"), values.attrs.get("crs")
    if transform is None or crs is None:
        raise _refused("a raster has no affine or no CRS", str(values.name or "values"), "a geocoded raster")
    to_pixel = ~Affine(*transform)

    def where(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        x, y = places(geobox, rows, shift_m, str(crs))
        column, row = to_pixel.a * x + to_pixel.b * y + to_pixel.c, to_pixel.d * x + to_pixel.e * y + to_pixel.f
        return _settled(row - 0.5), _settled(column - 0.5)

    return _resampled(values, geobox, shift_m, where, {}, resampling)


def _settled(position: np.ndarray) -> np.ndarray:
    """Positions within a millionth of a pixel's centre on it: rounding must not open a hole beside a hole."""
    whole = np.round(position)
    return np.where(np.abs(position - whole) < 1e-6, whole, position)


def _resampled(
    values: xr.DataArray,
    geobox: GeoBox,
    shift_m: Move,
    where: _Where,
    attrs: dict[str, str],
    resampling: Resampling = "bilinear",
) -> xr.DataArray:
    """The values at the rows and columns that `where` gives for blocks of rows of the grid."""
    if shift_m != (0.0, 0.0) and geobox.crs is not None and geobox.crs.geographic:
        raise _refused("a shift in metres cannot move a grid in degrees", str(geobox.crs), "a projected grid", USE_UTM)
    out = np.full((values.sizes["band"], *geobox.shape), np.nan, dtype="float32")
    for rows in row_blocks(geobox.shape[0]):
        out[:, rows] = sample(values, *where(rows), resampling)
    kept = {k: v for k, v in values.attrs.items() if k not in ("transform", "crs")}
    return xr.DataArray(
        out,
        dims=("band", "y", "x"),
        coords={"band": values["band"], **xr_coords(geobox, dims=("y", "x"))},
        attrs={**kept, **attrs},
        name=values.name,
    )


def _refused(what: str, item: str, enough: str, todo: str = "look at the product's metadata files") -> GeolocationError:
    return GeolocationError(what, item=item, enough=enough, todo=todo)


def _heights_on(geobox: GeoBox, height: xr.DataArray | None) -> np.ndarray:
    """Heights on the grid in metres, zeros without a DEM; refused on another grid."""
    if height is None:
        return np.zeros(geobox.shape)
    expected = xr_coords(geobox, dims=("y", "x"))
    same = height.dims == ("y", "x") and height.shape == tuple(geobox.shape)
    for axis in ("y", "x"):
        if same and axis in height.coords:
            same = bool(np.allclose(height[axis], expected[axis], rtol=0, atol=1e-3 * abs(geobox.resolution.x)))
    if not same:
        raise _refused(
            f"the heights are {dict(height.sizes)}, not on the grid of {tuple(geobox.shape)}",
            "height",
            "dims (y, x) on the geobox",
            "warp the DEM onto the geobox first, in ellipsoidal heights",
        )
    return height.values.astype(float)


def _axis(power: xr.DataArray, axis: str) -> tuple[float, float]:
    """First line or pixel number and the step, refused unless it is regular."""
    if axis not in power.coords or power.sizes[axis] < 2:
        return (float(power[axis][0]) if axis in power.coords else 0.0), 1.0
    numbers = power[axis].values.astype(float)
    step = (numbers[-1] - numbers[0]) / (numbers.size - 1)
    if step <= 0 or not np.allclose(np.diff(numbers), step, rtol=0, atol=1e-6 * abs(step) + 1e-9):
        raise _refused(f"{axis} is not equally spaced", str(power.name or "power"), "line and pixel numbers", "reindex")
    return numbers[0], step


def _terrain_note(grid: RadarGrid, geobox: GeoBox, height: xr.DataArray | None) -> dict[str, str]:
    if height is not None:
        return {"terrain": "placed at the heights given"}
    row = geobox.shape[0] // 2
    longitude, latitude = places(geobox, slice(row, row + 1))
    angle_deg = float(incidence_angle(grid, longitude[:1, :1], latitude[:1, :1], 0.0)[0, 0])
    per_100_m = 100 / np.tan(np.radians(angle_deg))
    return {"terrain": f"placed on the ellipsoid: ground 100 m above it lies {per_100_m:.0f} m nearer to the sensor"}
