"""Bands in their files' own geometry: no pixel is moved, no-data becomes NaN, two channels become one complex band."""

from __future__ import annotations

import math
import warnings

import numpy as np
import rioxarray
import xarray as xr
from rasterio.errors import NotGeoreferencedWarning

from catalog.metadata.raster import RasterHeader, opened
from catalog.read.engines import Chunks
from catalog.scene import BandSource


def native_band(source: BandSource, chunks: Chunks) -> xr.DataArray:
    """One band as float32 or complex64, NaN where nothing was measured."""
    first = _stored(source.href, source.index, chunks)
    if source.complex_pair:
        second = _stored(source.href, source.index + 1, chunks)
        values = first.astype(np.float32) + np.complex64(1j) * second.astype(np.float32)
        pair = (first == source.nodata) & (second == source.nodata)
        unmeasured = None if source.nodata is None else pair
    else:
        values = first.astype(np.complex64 if first.dtype.kind == "c" else np.float32)
        missing = source.nodata is None or math.isnan(source.nodata)
        unmeasured = None if missing else first == source.nodata
    hole = np.complex64(complex(math.nan, math.nan)) if values.dtype.kind == "c" else np.float32("nan")
    return values if unmeasured is None else values.where(~unmeasured, hole)


def _stored(href: str, index: int, chunks: Chunks) -> xr.DataArray:
    if chunks is None:
        with opened(href) as src:
            return xr.DataArray(src.read(index), dims=("y", "x"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        lazy = rioxarray.open_rasterio(href, chunks={"band": 1, **chunks}, parse_coordinates=False, lock=False)
    assert isinstance(lazy, xr.DataArray)
    return lazy.isel(band=index - 1, drop=True).drop_vars("spatial_ref", errors="ignore")


def native_coords(header: RasterHeader) -> dict[str, np.ndarray]:
    rows, cols = header.shape
    a, b, c, d, e, f = header.transform or (1.0, 1.0, 0.0, 1.0, 1.0, 0.0)
    if b or d:
        return {"y": np.arange(rows), "x": np.arange(cols)}
    return {"y": f + e * (np.arange(rows) + 0.5), "x": c + a * (np.arange(cols) + 0.5)}
