"""Class layers on a grid: decoded on their own pixels, then nearest or mode, never a mean of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import rasterio.warp
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window

from catalog.metadata.raster import RasterHeader, opened

CLASS_RESAMPLINGS = ("nearest", "mode")
"""The only resamplings that keep classes."""
COARSER = 1.1
"""A grid is coarser than a layer where its pixels have more than this many times the area of the layer's."""
MARGIN = 3
"""Pixels of the layer read around a grid, and around the edge of a pixel of it."""

Decode = Callable[[np.ndarray], np.ndarray]
"""Codes (band, y, x) to classes (y, x) uint8, 0 for no data."""


def coarser(geobox: GeoBox, header: RasterHeader) -> bool:
    """Whether pixels of a grid cover clearly more ground than those of a raster, by area in the raster's pixels."""
    if header.transform is None or header.crs is None:
        return False
    row, column = (n // 2 for n in geobox.shape)
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    corners = [(column, row), (column + 1, row), (column, row + 1)]
    xs, ys = rasterio.warp.transform(
        str(geobox.crs), header.crs, [a * i + b * j + c for i, j in corners], [d * i + e * j + f for i, j in corners]
    )
    area = abs((xs[1] - xs[0]) * (ys[2] - ys[0]) - (xs[2] - xs[0]) * (ys[1] - ys[0]))
    p, q, _, r, s, _ = header.transform
    return bool(area > COARSER * abs(p * s - q * r))


def warp_classes(href: str, geobox: GeoBox, method: Resampling, bands: Sequence[int], decode: Decode) -> np.ndarray:
    """Classes (y, x) uint8 of a file on a grid, 0 where it has none; only the pixels under the grid are read."""
    values = np.zeros(tuple(geobox.shape), dtype="uint8")
    with opened(href) as src:
        window = _under(src, geobox)
        if window is None:
            return values
        classes = decode(src.read(list(bands), window=window))
        rasterio.warp.reproject(
            classes,
            values,
            src_transform=src.window_transform(window),
            src_crs=src.crs,
            src_nodata=0,
            dst_transform=geobox.affine,
            dst_crs=str(geobox.crs),
            dst_nodata=0,
            resampling=method,
        )
    return values


def _under(src: DatasetReader, geobox: GeoBox) -> Window | None:
    """The window of a file that holds a grid and a margin around it; None where they do not meet."""
    left, bottom, right, top = geobox.boundingbox.bbox
    west, south, east, north = rasterio.warp.transform_bounds(str(geobox.crs), src.crs, left, bottom, right, top)
    places = [~src.transform * (x, y) for x in (west, east) for y in (south, north)]
    columns, rows = zip(*places, strict=True)
    col0, row0 = max(math.floor(min(columns)) - MARGIN, 0), max(math.floor(min(rows)) - MARGIN, 0)
    col1, row1 = min(math.ceil(max(columns)) + MARGIN, src.width), min(math.ceil(max(rows)) + MARGIN, src.height)
    return None if col0 >= col1 or row0 >= row1 else Window(col0, row0, col1 - col0, row1 - row0)
