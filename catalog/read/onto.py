"""One band of an open raster onto a grid: its own window where pixels coincide, else one warp with a steady kernel."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio.warp
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window

COINCIDES = 1e-3
"""Pixels lie on pixels where corners of both agree to this share of one."""
ALONG = 65
"""Points along each edge of a grid by which its place in a raster is found."""
MARGIN_PX = 8
"""Pixels around that place, beside those that the kernel reaches."""
REACH_PX = {Resampling.bilinear: 1, Resampling.cubic: 2, Resampling.cubic_spline: 2, Resampling.lanczos: 3}
"""Reach of the kernels in pixels, of the coarser of raster and grid; 1 for those not named."""
UNMASKED = (Resampling.nearest, Resampling.bilinear, Resampling.cubic)
"""Those that GDAL does in a third of the time where no pixel is without data."""
WINDOW_PX = 1 << 24
"""A larger window is left to GDAL, which reads it in pieces."""


def onto(
    src: DatasetReader, index: int, geobox: GeoBox, method: Resampling, nodata: float | None, out: np.ndarray
) -> None:
    """Write a band of a raster over `out`, which stays as it is where the raster does not reach.

    Nothing is interpolated where the grid's pixels are the raster's. Elsewhere GDAL warps once, with a kernel as wide
    as the ratio of both pixel sizes (its options XSCALE and YSCALE). Left to itself it takes that of the rectangles
    around what is warped, which grows as a grid lies askew in the raster: it blurs, and chunks of a grid differ.
    Places are GDAL's between exact ones, to an eighth of a pixel, as in rasterio, odc-stac and stackstac.

    Parameters
    ----------
    nodata
        Stored number that means nothing was measured: such pixels take no part.
    out
        (y, x) of the grid, filled with what stands for no data: NaN in a floating one, else `nodata` where there is.
    """
    lies = tuple(src.transform)[:6]
    at = _steps(geobox, str(src.crs), lies)
    if at is not None:
        _paste(src, index, at, nodata, out)
        return
    place = under(geobox, str(src.crs), lies, (src.height, src.width), REACH_PX.get(method, 1))
    if place is None:
        return
    window, scale = place
    if window.width * window.height > WINDOW_PX:
        warp_pixels(rasterio.band(src, index), None, src.crs, geobox, method, nodata, out, scale)
    else:
        values = src.read(index, window=window)
        warp_pixels(values, src.window_transform(window), src.crs, geobox, method, nodata, out, scale)


def _paste(src: DatasetReader, index: int, at: tuple[int, int], nodata: float | None, out: np.ndarray) -> None:
    """Copy the window of a raster whose pixels are the grid's, the first of them at row and column `at`."""
    rows, columns = (
        slice(max(-first, 0), min(size - first, n))
        for first, size, n in zip(at, (src.height, src.width), out.shape, strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    window = Window(at[1] + columns.start, at[0] + rows.start, columns.stop - columns.start, rows.stop - rows.start)
    values = src.read(index, window=window)
    target = out[rows, columns]
    if nodata is None or math.isnan(nodata) or out.dtype.kind != "f":
        target[...] = values
    else:
        hole = values == nodata
        target[...] = values
        if hole.any():
            target[hole] = math.nan


def warp_pixels(
    values: np.ndarray | rasterio.Band,
    lies: Affine | None,
    crs: Any,
    geobox: GeoBox,
    method: Resampling,
    nodata: float | None,
    out: np.ndarray,
    scale: tuple[float, float],
) -> None:
    """GDAL's warp over `out`, filled as for `onto`; without masks, which cost as much again, where all is measured."""
    classes = method == Resampling.nearest and out.dtype.kind != "f"  # whose no-data is copied like any other number
    whole = method in UNMASKED and isinstance(values, np.ndarray) and (classes or not _has(values, nodata))
    fill = math.nan if out.dtype.kind == "f" else nodata or 0
    rasterio.warp.reproject(
        values,
        out,
        src_transform=lies,
        src_crs=crs,
        src_nodata=None if whole else nodata,
        dst_transform=geobox.affine,
        dst_crs=str(geobox.crs),
        dst_nodata=None if whole else fill,
        init_dest_nodata=not whole,
        resampling=method,
        XSCALE=scale[0],
        YSCALE=scale[1],
    )


def _has(values: np.ndarray, nodata: float | None) -> bool:
    if nodata is None:
        return False
    return bool((np.isnan(values) if math.isnan(nodata) else values == nodata).any())


@lru_cache(maxsize=64)
def _steps(geobox: GeoBox, crs: str, lies: tuple[float, ...]) -> tuple[int, int] | None:
    """Row and column of a raster at which a grid of the same pixels begins; None where pixels are not the same."""
    if geobox.crs is None or crs in ("", "None") or CRS(crs) != geobox.crs:
        return None
    raster, (rows, columns) = Affine(*lies), geobox.shape
    found = [~raster * (geobox.affine * corner) for corner in ((0, 0), (columns, 0), (0, rows), (columns, rows))]
    x, y = round(found[0][0]), round(found[0][1])
    wanted = ((x, y), (x + columns, y), (x, y + rows), (x + columns, y + rows))
    apart = max(abs(p - q) for one, other in zip(found, wanted, strict=True) for p, q in zip(one, other, strict=True))
    return (y, x) if apart < COINCIDES else None


@lru_cache(maxsize=64)
def under(
    geobox: GeoBox, crs: str, lies: tuple[float, ...], shape: tuple[int, int], reach: int
) -> tuple[Window, tuple[float, float]] | None:
    """The window of a raster that a warp onto a grid needs, and pixels of the grid per pixel of it in x and y."""
    rows, columns = geobox.shape
    down, along = np.linspace(0, rows, ALONG), np.linspace(0, columns, ALONG)
    edges = [(along, 0 * along), (along, 0 * along + rows), (0 * down, down), (0 * down + columns, down)]
    middle = np.array([columns / 2 - 0.5, columns / 2 + 0.5]), np.array([rows / 2 - 0.5, rows / 2 + 0.5])
    centre = (np.array([*middle[0], *[columns / 2] * 2]), np.array([*[rows / 2] * 2, *middle[1]]))
    u, v = (np.concatenate(p) for p in zip(*edges, centre, strict=True))
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    x, y = a * u + b * v + c, d * u + e * v + f
    if geobox.crs is not None and CRS(crs) != geobox.crs:
        x, y = geobox.crs.transformer_to_crs(CRS(crs))(x, y)
    a, b, c, d, e, f = tuple(~Affine(*lies))[:6]
    column, row = a * x + b * y + c, d * x + e * y + f
    known = np.isfinite(column) & np.isfinite(row)
    if not known[:-4].any():
        return None
    per_pixel = [math.hypot(w[-3] - w[-4], w[-1] - w[-2]) for w in (column, row)]
    scale = tuple(float(f"{1 / s:.2g}") if math.isfinite(s) and s > 0 else 1.0 for s in per_pixel)
    first, last = [], []
    for w, s, size in ((column, scale[0], shape[1]), (row, scale[1], shape[0])):
        margin = MARGIN_PX + reach / min(s, 1.0)
        whole = not known.all()
        first.append(0 if whole else min(max(math.floor(np.min(w) - margin), 0), size))
        last.append(size if whole else max(min(math.ceil(np.max(w) + margin), size), 0))
    if first[0] >= last[0] or first[1] >= last[1]:
        return None
    return Window(first[0], first[1], last[0] - first[0], last[1] - first[1]), (scale[0], scale[1])
