"""The sensors' own quality layers to one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from catalog.errors import CalibrationError
from catalog.sensors import Quality

SCL: Mapping[int, Quality] = {
    1: Quality.SATURATED,
    2: Quality.SHADOW,
    3: Quality.SHADOW,
    4: Quality.CLEAR,
    5: Quality.CLEAR,
    6: Quality.CLEAR,
    7: Quality.CLEAR,
    8: Quality.CLOUD,
    9: Quality.CLOUD,
    10: Quality.CIRRUS,
    11: Quality.SNOW,
}
"""Sentinel-2 scene classification; 2 is cast shadow, 7 unclassified; 0 and codes it does not know are no-data."""

QA_PIXEL_BITS: tuple[tuple[int, Quality], ...] = (
    (5, Quality.SNOW),
    (2, Quality.CIRRUS),
    (4, Quality.SHADOW),
    (1, Quality.CLOUD),
    (3, Quality.CLOUD),
)
"""Landsat Collection 2 bits, a later one overrules an earlier one: snow, cirrus, shadow, dilated cloud, cloud."""

QA_PIXEL_FILL = 0


def from_scl(scl: xr.DataArray, valid: xr.DataArray) -> xr.DataArray:
    """Quality of a Sentinel-2 L2A scene from its scene classification.

    Parameters
    ----------
    scl
        (y, x), class 0 to 11, integer, or float with NaN for no-data; resampled by nearest or mode only.
    valid
        (y, x), bool, true where the bands were measured.

    Returns
    -------
    DataArray (y, x), uint8, values of catalog.sensors.Quality.
    """
    table = np.full(256, Quality.NO_DATA, dtype="uint8")
    for code, quality in SCL.items():
        table[code] = quality
    codes = _codes(scl, "SCL").clip(0, 255).astype("uint8")
    return _described(_lookup(codes, table), valid)


def from_qa_pixel(qa: xr.DataArray, valid: xr.DataArray) -> xr.DataArray:
    """Quality of a Landsat Collection 2 scene from its QA_PIXEL bits.

    Source: Landsat 8-9 Collection 2 Level 2 Science Product Guide, table 6-2. Cloud overrules shadow, shadow cirrus,
    cirrus snow; bit 0 is fill; bit 7 (water) is clear.

    Parameters
    ----------
    qa
        (y, x), 16 bits, integer, or float with NaN for no-data.
    valid
        (y, x), bool, true where the bands were measured.

    Returns
    -------
    DataArray (y, x), uint8, values of catalog.sensors.Quality.
    """
    table = np.full(65_536, Quality.CLEAR, dtype="uint8")
    codes = np.arange(65_536)
    for bit, quality in QA_PIXEL_BITS:
        table[(codes >> bit) & 1 == 1] = quality
    table[(codes >> QA_PIXEL_FILL) & 1 == 1] = Quality.NO_DATA
    missing_as_fill = _codes(qa, "QA_PIXEL", missing=1 << QA_PIXEL_FILL)
    return _described(_lookup(missing_as_fill.clip(0, 65_535).astype("uint16"), table), valid)


def from_valid(valid: xr.DataArray) -> xr.DataArray:
    """Quality where the sensor ships no layer of its own: clear where something was measured.

    Parameters
    ----------
    valid
        (y, x), bool, true where the bands were measured.

    Returns
    -------
    DataArray (y, x), uint8, CLEAR or NO_DATA; `attrs["source"]` says that clouds, if any, are not marked.
    """
    return _described(
        xr.full_like(valid, Quality.CLEAR, dtype="uint8"), valid, source="measured or not; no layer shipped"
    )


def _codes(layer: xr.DataArray, name: str, missing: int = 0) -> xr.DataArray:
    if layer.dtype.kind not in "iuf":
        raise CalibrationError(
            f"a quality layer of type {layer.dtype} holds no codes", item=name, enough="integers, or floats with NaN"
        )
    return layer.fillna(missing) if layer.dtype.kind == "f" else layer


def _lookup(codes: xr.DataArray, table: np.ndarray) -> xr.DataArray:
    return xr.apply_ufunc(lambda c: table[c], codes, dask="parallelized", output_dtypes=["uint8"])


def _described(quality: xr.DataArray, valid: xr.DataArray, source: str = "the product's own layer") -> xr.DataArray:
    if quality.sizes != valid.sizes:
        raise CalibrationError(
            f"the quality layer is {dict(quality.sizes)}, the bands are {dict(valid.sizes)}",
            item="quality",
            enough="both on one grid",
            todo="resample the layer by nearest onto the bands' grid",
        )
    quality = quality.where(valid.astype(bool), np.uint8(Quality.NO_DATA)).astype("uint8")
    quality.attrs = {
        "long_name": "what a pixel is good for",
        "units": "1",
        "flag_values": [int(q) for q in Quality],
        "flag_meanings": " ".join(q.name.lower() for q in Quality),
        "source": source,
    }
    quality.name = "quality"
    return quality
