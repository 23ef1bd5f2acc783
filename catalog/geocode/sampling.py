"""Values at fractional rows and columns, where no-data weighs nothing; map grids walked in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy.ndimage import map_coordinates

from catalog.displacement import Move, unmoved

Resampling = Literal["nearest", "bilinear"]

BLOCK_ROWS = 256


def sample(
    values: xr.DataArray, row: np.ndarray, column: np.ndarray, resampling: Resampling = "bilinear"
) -> np.ndarray:
    """Values at fractional rows and columns in one resampling.

    Bilinear: the mean of the four neighbours, weighted by how near they are, over those that were measured; a hole
    where they hold less than half of the weight. Nearest: the nearest pixel, hole or not.

    Parameters
    ----------
    values
        (band, y, x), NaN where nothing was measured. May be lazy: only the window needed is computed.
    row, column
        0 at the centre of the first pixel, any one shape; NaN gives NaN.

    Returns
    -------
    ndarray (band, ...), float32, NaN outside and in holes. No number that stood for no data takes part.
    """
    inside = (row > -1) & (row < values.sizes["y"]) & (column > -1) & (column < values.sizes["x"])
    out = np.full((values.sizes["band"], *row.shape), np.nan, dtype="float32")
    if not inside.any():
        return out
    top, left = max(int(row[inside].min()) - 1, 0), max(int(column[inside].min()) - 1, 0)
    window = {"y": slice(top, int(row[inside].max()) + 3), "x": slice(left, int(column[inside].max()) + 3)}
    at = np.stack([row[inside] - top, column[inside] - left])
    order = {"nearest": 0, "bilinear": 1}[resampling]
    for found, target in zip(values.isel(window).transpose("band", "y", "x").values, out, strict=True):
        measured = np.isfinite(found)
        weight = map_coordinates(measured.astype(float), at, order=order, mode="grid-constant")
        total = map_coordinates(np.where(measured, found, 0.0).astype(float), at, order=order, mode="grid-constant")
        with np.errstate(divide="ignore", invalid="ignore"):
            target[inside] = np.where(weight >= 0.5, total / weight, np.nan)
    return out


def row_blocks(rows: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cover `rows` in order."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def places(
    geobox: GeoBox, rows: slice, shift_m: Move = (0.0, 0.0), crs: str = "EPSG:4326"
) -> tuple[np.ndarray, np.ndarray]:
    """x and y in `crs` at which an unmoved scene shows each pixel centre of the rows; degrees, longitude first."""
    column, row = np.meshgrid(np.arange(geobox.shape[1]) + 0.5, np.arange(rows.start, rows.stop) + 0.5)
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    x, y = unmoved(a * column + b * row + c, d * column + e * row + f, shift_m)
    found: tuple[np.ndarray, np.ndarray] = Transformer.from_crs(geobox.crs, crs, always_xy=True).transform(x, y)
    return found
