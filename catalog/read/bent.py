"""Bands and classes on a grid moved by place, where no affine of a grid can say how: native pixels, one resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from catalog.displacement import Move
from catalog.errors import GridError
from catalog.geocode import resample_map
from catalog.geocode.sampling import Resampling, places
from catalog.metadata.raster import RasterHeader, opened
from catalog.read.classes import Decode
from catalog.scene import BandSource

BENDING = ("nearest", "bilinear")
"""The resamplings that follow a move by place; both sample, so a grid should not be much coarser than the file."""
MARGIN = 3
"""Pixels of the file read around those that the grid shows."""


def bent_band(source: BandSource, header: RasterHeader, geobox: GeoBox, move: Move, resampling: str) -> np.ndarray:
    """A band on a grid, moved by place, in one resampling; only the pixels under the grid are read.

    Returns
    -------
    ndarray (y, x), float32, NaN where nothing was measured or the file does not reach.

    Raises
    ------
    GridError
        For a resampling that cannot follow.
    """
    if resampling not in BENDING:
        raise GridError(
            f"{resampling} cannot follow a move by place",
            item=source.href,
            enough=f"one of {', '.join(BENDING)}",
            todo="name one of these, or move the scene by one shift",
        )
    method: Resampling = "nearest" if resampling == "nearest" else "bilinear"
    nodata = header.nodata if source.nodata is None else source.nodata

    def numbers(codes: np.ndarray) -> np.ndarray:
        return np.where(codes[0] == nodata, math.nan, codes[0].astype("float32"))

    return _bent(source.href, header, geobox, move, ((source.index,), numbers), method)


def bent_classes(
    source: BandSource,
    header: RasterHeader,
    geobox: GeoBox,
    move: Move,
    codes: tuple[Sequence[int], Decode | None],
) -> np.ndarray:
    """A quality layer on a grid, moved by place, by nearest neighbour: (y, x) in its own type, or uint8 as decoded.

    Parameters
    ----------
    codes
        Raster bands from 1 and what decodes them; without it the first band's own numbers.
    """
    bands, decode = codes
    fill = 0 if source.nodata is None or decode else int(source.nodata)
    taken = (bands, decode) if decode else (bands[:1], itemgetter(0))
    values = _bent(source.href, header, geobox, move, taken, "nearest")
    return np.where(np.isfinite(values), values, fill).astype("uint8" if decode else header.dtype)


def _bent(
    href: str,
    header: RasterHeader,
    geobox: GeoBox,
    move: Move,
    taken: tuple[Sequence[int], Decode],
    resampling: Resampling,
) -> np.ndarray:
    """(y, x) float32 of the layer that is made of some raster bands."""
    window = _under(header, geobox, move)
    if window is None or header.transform is None:
        return np.full(tuple(geobox.shape), math.nan, "float32")
    bands, prepare = taken
    with opened(href) as file:
        layer = prepare(file.read(list(bands), window=window))
    own = Affine(*header.transform) * Affine.translation(window.col_off, window.row_off)
    values = xr.DataArray(
        layer[None],
        dims=("band", "y", "x"),
        coords={"band": [0]},
        attrs={"transform": tuple(own)[:6], "crs": header.crs},
    )
    found: np.ndarray = resample_map(values, geobox, shift_m=move, resampling=resampling).values[0]
    return found


def _under(header: RasterHeader, geobox: GeoBox, move: Move) -> Window | None:
    """The window of a file that a grid shows when it is moved, by the grid's border; None where they do not meet."""
    if header.transform is None or header.crs is None:
        return None
    rows, columns = geobox.shape
    sides = (geobox[:1, :], geobox[rows - 1 :, :], geobox[:, :1], geobox[:, columns - 1 :])
    found = [places(side, slice(0, side.shape[0]), move, header.crs) for side in sides]
    x, y = (np.concatenate([f[k].ravel() for f in found]) for k in range(2))
    column, row = ~Affine(*header.transform) * (x, y)
    if not (np.isfinite(column).all() and np.isfinite(row).all()):
        return None
    col0, row0 = max(math.floor(column.min()) - MARGIN, 0), max(math.floor(row.min()) - MARGIN, 0)
    col1 = min(math.ceil(column.max()) + MARGIN, header.shape[1])
    row1 = min(math.ceil(row.max()) + MARGIN, header.shape[0])
    return None if col0 >= col1 or row0 >= row1 else Window(col0, row0, col1 - col0, row1 - row0)
