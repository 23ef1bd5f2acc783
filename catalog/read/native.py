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
    parts = [_stored(source.href, source.index, chunks)]
    if source.complex_pair:
        parts.append(_stored(source.href, source.index + 1, chunks))
    kind = np.complex64 if source.complex_pair or parts[0].dtype.kind == "c" else np.float32
    nodata = None if source.nodata is None or math.isnan(source.nodata) else source.nodata
    values: xr.DataArray = xr.apply_ufunc(
        _measured, *parts, kwargs={"nodata": nodata, "kind": kind}, dask="parallelized", output_dtypes=[kind]
    )
    return values


def _measured(*parts: np.ndarray, nodata: float | None, kind: type[np.generic]) -> np.ndarray:
    """One block, NaN where all parts hold the no-data number; in few passes, for large images wait for this."""
    values = np.empty(parts[0].shape, dtype=kind)
    if len(parts) == 2:
        values.real, values.imag = parts
    else:
        values[...] = parts[0]
    if nodata is not None:
        hole = complex(math.nan, math.nan) if kind is np.complex64 else math.nan
        np.copyto(values, hole, where=np.logical_and.reduce([part == nodata for part in parts]))
    return values


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
