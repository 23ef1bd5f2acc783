"""Pixels at half the resolution: means of what was measured, power for complex pixels, the worst quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dask.array as da
import numpy as np
import xarray as xr

from catalog.sensors import Quality

SMALLEST = 256
"""There are as many overviews as bring the longer side down to this or less: a raster this small has none."""

SEVERITY = (
    Quality.NO_DATA,
    Quality.CLEAR,
    Quality.SNOW,
    Quality.CIRRUS,
    Quality.SHADOW,
    Quality.SATURATED,
    Quality.BORDER,
    Quality.CLOUD,
)
"""From best to worst. A pixel of an overview has the worst quality below it, no data counting for nothing: it shows the
ground only where every measured pixel below it does, and no cloud is averaged into what is called clear."""

_RANK = np.argsort(np.array(SEVERITY)).astype(np.uint8)
_BY_RANK = np.array(SEVERITY, np.uint8)


def levels(rows: int, columns: int) -> int:
    """How many overviews a raster has."""
    return max(0, int(np.ceil(np.log2(max(rows, columns) / SMALLEST))))


def halved(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All layers of one date at half the resolution, by name.

    `quality` becomes the worst; complex `data` becomes `power`, the mean of its squared amplitude (a multilook: phases
    of neighbouring pixels are independent, so a mean phase would say nothing); other real numbers become the mean of
    those that are not NaN, whole numbers the greatest.

    Parameters
    ----------
    given
        (..., y, x); an odd last row or column stands for itself.
    """
    found: dict[str, np.ndarray] = {}
    for name, values in given.items():
        if name == "quality":
            found[name] = worst(values)
        elif np.iscomplexobj(values):
            found["power"] = mean(values.real**2 + values.imag**2)
        else:
            found[name] = mean(values) if np.issubdtype(values.dtype, np.floating) else _greatest(_quarters(values, 0))
    return found


def mean(values: np.ndarray) -> np.ndarray:
    """(..., y, x) to half the size, dtype kept: the mean of the up to four values that are not NaN, NaN without one."""
    quarters = _quarters(values, np.nan)
    found = np.asarray(((quarters[0] + quarters[1]) + (quarters[2] + quarters[3])) * values.dtype.type(0.25))
    gaps = np.isnan(found)
    if gaps.any():
        parts = np.stack([quarter[gaps] for quarter in quarters])
        seen = ~np.isnan(parts)
        count = seen.sum(axis=0)
        total = np.where(seen, parts, 0).sum(axis=0, dtype=values.dtype)
        found[gaps] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


def worst(quality: np.ndarray) -> np.ndarray:
    """(y, x) uint8, values of catalog.sensors.Quality, to half the size by SEVERITY."""
    return np.asarray(_BY_RANK[_greatest(_quarters(_RANK[quality], 0))])


def _quarters(values: np.ndarray, fill: float) -> list[np.ndarray]:
    """The four pixels below each pixel of half the size, as views; an odd raster is filled up with a value."""
    rows, columns = values.shape[-2:]
    if rows % 2 or columns % 2:
        margin = [(0, 0)] * (values.ndim - 2) + [(0, rows % 2), (0, columns % 2)]
        values = np.pad(values, margin, constant_values=fill)
    return [values[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _greatest(parts: Sequence[np.ndarray]) -> np.ndarray:
    first, second, third, fourth = parts
    return np.asarray(np.maximum(np.maximum(first, second), np.maximum(third, fourth)))


def coarser(layers: xr.Dataset) -> xr.Dataset:
    """The layout of the next overview of a cube: blank layers of every date, places and heights of pixels at half size.

    Parameters
    ----------
    layers
        A cube's layout or that of its overview before, without its coordinates y and x and without spatial_ref.
    """
    found: dict[str, xr.DataArray] = {}
    for key, layer in layers.data_vars.items():
        name, rows, columns = str(key), -(-layer.sizes["y"] // 2), -(-layer.sizes["x"] // 2)
        attrs = dict(layer.attrs)
        if layer.dims == ("y", "x"):
            found[name] = xr.DataArray(_places(name, layer.values), dims=("y", "x"), attrs=attrs)
            continue
        dtype = layer.dtype
        if dtype.kind == "c":
            name, dtype = "power", np.dtype(np.float32)
            attrs |= {"long_name": "multilooked power", "quantity": f"squared {layer.attrs.get('quantity', '')}"}
        blank = da.empty((*layer.shape[:-2], rows, columns), dtype=dtype, chunks=-1)
        attrs["overview"] = "worst quality" if name == "quality" else "mean of what was measured"
        found[name] = xr.DataArray(blank, dims=layer.dims, attrs=attrs)
    return xr.Dataset(found)


def _places(name: str, values: np.ndarray) -> np.ndarray:
    """Longitudes, latitudes or heights at half the size; across the antimeridian they stay together."""
    if name != "longitude" or not np.nanmax(values) - np.nanmin(values) > 180:
        return mean(values)
    return (mean(np.where(values < 0, values + 360, values)) + 180) % 360 - 180
