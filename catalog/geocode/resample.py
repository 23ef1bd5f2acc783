"""Radar power onto a map grid in one resampling; an affine on a product in radar geometry is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Transformer
from scipy.ndimage import map_coordinates

from catalog.errors import GeolocationError
from catalog.geocode.range_doppler import RadarGrid, image_coordinates, incidence_angle

BLOCK_ROWS = 256
USE_UTM = "take a tile of catalog.grid"


def geocode(
    power: xr.DataArray,
    grid: RadarGrid,
    geobox: GeoBox,
    height: xr.DataArray | None,
    *,
    shift_m: tuple[float, float] = (0.0, 0.0),
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
        dx, dy to add to the scene's map coordinates, as coregister.Shift measures it.

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
    if shift_m != (0.0, 0.0) and geobox.crs is not None and geobox.crs.geographic:
        raise _refused("a shift in metres cannot move a grid in degrees", str(geobox.crs), "a projected grid", USE_UTM)
    line_axis, pixel_axis = _axis(power, "y"), _axis(power, "x")
    out = np.full((power.sizes["band"], *geobox.shape), np.nan, dtype="float32")
    for rows in _row_blocks(geobox.shape[0]):
        longitude, latitude = _places(geobox, rows, shift_m)
        line, pixel = image_coordinates(grid, longitude, latitude, heights_m[rows])
        row, column = (line - line_axis[0]) / line_axis[1], (pixel - pixel_axis[0]) / pixel_axis[1]
        out[:, rows] = _sample(power, row, column)
    return xr.DataArray(
        out,
        dims=("band", "y", "x"),
        coords={"band": power["band"], **xr_coords(geobox, dims=("y", "x"))},
        attrs={**power.attrs, **_terrain_note(grid, geobox, height)},
        name=power.name,
    )


def refuse_affine(item: str, geolocation: str, transform: tuple[float, ...] | None) -> None:
    """Refuse an affine on a product in radar geometry: no affine is true there, an invented one misplaces in silence.

    Parameters
    ----------
    item
        The scene, for the error.
    geolocation
        affine, rpc or radar-grid.
    transform
        The affine that the item claims; None or the identity claims nothing.

    Raises
    ------
    GeolocationError
        When a product that has no affine claims one.
    """
    claims = transform is not None and tuple(transform)[:6] not in ((1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0))
    if geolocation != "affine" and claims:
        raise _refused(
            f"the item gives an affine {tuple(transform or ())[:6]} to a product in radar geometry",
            item,
            "no affine, or a product that was geocoded",
            "remove proj:transform; such pixels are placed by orbit, timing and height, or by rational polynomials",
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


def _row_blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS))


def _places(geobox: GeoBox, rows: slice, shift_m: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude at which the unshifted scene shows each pixel centre of the rows."""
    column, row = np.meshgrid(np.arange(geobox.shape[1]) + 0.5, np.arange(rows.start, rows.stop) + 0.5)
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    x, y = a * column + b * row + c, d * column + e * row + f
    to_degrees = Transformer.from_crs(geobox.crs, "EPSG:4326", always_xy=True)
    return to_degrees.transform(x - shift_m[0], y - shift_m[1])


def _sample(power: xr.DataArray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bilinear values (band, ...) at fractional rows and columns; no-data weighs nothing, less than half gives NaN."""
    inside = (row > -1) & (row < power.sizes["y"]) & (column > -1) & (column < power.sizes["x"])
    out = np.full((power.sizes["band"], *row.shape), np.nan, dtype="float32")
    if not inside.any():
        return out
    top, left = max(int(row[inside].min()) - 1, 0), max(int(column[inside].min()) - 1, 0)
    window = {"y": slice(top, int(row[inside].max()) + 3), "x": slice(left, int(column[inside].max()) + 3)}
    at = np.stack([row[inside] - top, column[inside] - left])
    for values, target in zip(power.isel(window).transpose("band", "y", "x").values, out, strict=True):
        measured = np.isfinite(values)
        weight = map_coordinates(measured.astype(float), at, order=1, mode="grid-constant")
        total = map_coordinates(np.where(measured, values, 0.0).astype(float), at, order=1, mode="grid-constant")
        with np.errstate(divide="ignore", invalid="ignore"):
            target[inside] = np.where(weight >= 0.5, total / weight, np.nan)
    return out


def _terrain_note(grid: RadarGrid, geobox: GeoBox, height: xr.DataArray | None) -> dict[str, str]:
    if height is not None:
        return {"terrain": "placed at the heights given"}
    longitude, latitude = (
        np.asarray(v) for v in _places(geobox, slice(geobox.shape[0] // 2, geobox.shape[0] // 2 + 1), (0.0, 0.0))
    )
    angle_deg = float(incidence_angle(grid, longitude[:1, :1], latitude[:1, :1], 0.0)[0, 0])
    per_100_m = 100 / np.tan(np.radians(angle_deg))
    return {"terrain": f"placed on the ellipsoid: ground 100 m above it lies {per_100_m:.0f} m nearer to the sensor"}
