"""Class layers on a grid: decoded on their own pixels, then nearest or mode, never a mean of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import rasterio.warp
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from catalog.metadata.raster import RasterHeader, opened
from catalog.read.onto import under, warp_pixels

COARSER = 1.1
"""A grid is coarser than a layer where its pixels have more than this many times the area of the layer's."""

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
        place = under(geobox, str(src.crs), tuple(src.transform)[:6], src.shape, 1)
        if place is not None:
            window, scale = place
            classes = decode(src.read(list(bands), window=window))
            warp_pixels(classes, src.window_transform(window), src.crs, geobox, method, 0, values, scale)
    return values
