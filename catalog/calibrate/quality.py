"""The sensors' own quality layers to one vocabulary, combined by precedence, cloud and shadow grown by metres."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_edt

from catalog.errors import CalibrationError
from catalog.sensors import Quality

PRECEDENCE: tuple[Quality, ...] = (
    Quality.BORDER,
    Quality.NO_DATA,
    Quality.SATURATED,
    Quality.CLOUD,
    Quality.SHADOW,
    Quality.CIRRUS,
    Quality.SNOW,
    Quality.CLEAR,
)
"""Where several things are true of a pixel the first of these is said: why there is no number, that there is none, that
it is wrong, then what hides the ground, the denser first, then the ground itself."""

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

CMASK: Mapping[int, Quality] = {127: Quality.CLEAR, 255: Quality.CLOUD}
"""CBERS cloud mask: 255 is cloud, or no data, which the bands tell; other codes are no-data."""

PALSAR_MASK: Mapping[int, Quality] = {
    50: Quality.CLEAR,
    100: Quality.SHADOW,
    150: Quality.SHADOW,
    255: Quality.CLEAR,
}
"""PALSAR mosaic: water, layover, radar shadow, land; layover shows several grounds in one pixel, so it counts as hidden
ground does. 0 and other codes are no-data."""

QA_PIXEL: Mapping[int, Quality] = {
    0: Quality.NO_DATA,
    1: Quality.CLOUD,
    2: Quality.CIRRUS,
    3: Quality.CLOUD,
    4: Quality.SHADOW,
    5: Quality.SNOW,
}
"""Landsat Collection 2 bit to quality: fill, dilated cloud, cirrus, cloud, shadow, snow; bit 7 (water) is clear."""

QA_RADSAT: Mapping[int, Quality] = dict.fromkeys(range(7), Quality.SATURATED) | {11: Quality.SHADOW}
"""Bits 0 to 6 are bands 1 to 7 saturated; bit 11 is ground that terrain hides, which counts as shadow."""

UDM2: tuple[tuple[int, Quality], ...] = (
    (2, Quality.SNOW),
    (3, Quality.SHADOW),
    (4, Quality.CIRRUS),
    (5, Quality.CLOUD),
    (6, Quality.CLOUD),
)
"""Raster band, from 1, to quality: snow, shadow, light haze (the ground shows through), heavy haze, cloud. Band 1 is
clear, 7 confidence in per cent, 8 the older unusable data mask in bits: 0 black fill, 1 cloud, 2 to 7 bands without
data. Where heavy haze is no longer told apart (UDM 2.1) band 5 is 0 and band 4 holds all haze."""


@dataclass(frozen=True)
class Decoder:
    """How one kind of quality layer is read."""

    bands: tuple[int, ...]
    """Raster bands that it takes, from 1."""
    decode: Callable[[np.ndarray], np.ndarray]
    """(band, y, x) codes to (y, x) uint8 quality."""


def decode_scl(codes: np.ndarray) -> np.ndarray:
    """Quality of Sentinel-2 scene classes, (1, y, x) to (y, x) uint8."""
    return _of_classes(SCL)[codes[0].clip(0, 255).astype("uint8")]


def decode_cmask(codes: np.ndarray) -> np.ndarray:
    """Quality of a CBERS cloud mask, (1, y, x) to (y, x) uint8."""
    return _of_classes(CMASK)[codes[0].clip(0, 255).astype("uint8")]


def decode_palsar_mask(codes: np.ndarray) -> np.ndarray:
    """Quality of a PALSAR mosaic's mask, (1, y, x) to (y, x) uint8."""
    return _of_classes(PALSAR_MASK)[codes[0].clip(0, 255).astype("uint8")]


def decode_qa_pixel(codes: np.ndarray) -> np.ndarray:
    """Quality of Landsat QA_PIXEL bits, (1, y, x) to (y, x) uint8.

    Source: Landsat 8-9 Collection 2 Level 2 Science Product Guide (USGS LSDS-1619), table 6-2.
    """
    return _BY_QA_PIXEL[codes[0].clip(0, 65_535).astype("uint16")]


def decode_qa_radsat(codes: np.ndarray) -> np.ndarray:
    """Quality of Landsat QA_RADSAT bits, (1, y, x) to (y, x) uint8: saturated, shadow or clear.

    Source: Landsat 8-9 Collection 2 Level 2 Science Product Guide (USGS LSDS-1619), table 6-3.
    """
    return _BY_QA_RADSAT[codes[0].clip(0, 65_535).astype("uint16")]


def decode_udm2(codes: np.ndarray) -> np.ndarray:
    """Quality of a PlanetScope usable data mask, (8, y, x) to (y, x) uint8.

    Source: Planet, Usable Data Mask, https://docs.planet.com/data/imagery/udm/ and PSScene, band metadata of
    ortho_udm2. A pixel that lacks one band or is in none of the classes, clear included, has no data.
    """
    known = np.where(codes[0] == 1, np.uint8(Quality.CLEAR), np.uint8(Quality.NO_DATA))
    flags = [(codes[band - 1] == 1, quality) for band, quality in UDM2]
    flags += [((codes[7].astype("uint8") & 0b1111_1101) != 0, Quality.NO_DATA)]
    for said, quality in sorted(flags, key=lambda f: -PRECEDENCE.index(f[1])):
        known[said] = quality
    return known


def _of_classes(classes: Mapping[int, Quality]) -> np.ndarray:
    """(256,) quality of every code; those that are not named are no-data."""
    table = np.full(256, Quality.NO_DATA, dtype="uint8")
    for code, quality in classes.items():
        table[code] = quality
    return table


def _of_bits(bits: Mapping[int, Quality]) -> np.ndarray:
    """(65536,) quality of every 16-bit code; of several bits the one of highest precedence counts."""
    table = np.full(65_536, Quality.CLEAR, dtype="uint8")
    codes = np.arange(65_536)
    for bit, quality in sorted(bits.items(), key=lambda b: -PRECEDENCE.index(b[1])):
        table[(codes >> bit) & 1 == 1] = quality
    return table


_BY_QA_PIXEL, _BY_QA_RADSAT = _of_bits(QA_PIXEL), _of_bits(QA_RADSAT)

DECODERS: Mapping[str, Decoder] = {
    "SCL": Decoder((1,), decode_scl),
    "QA_PIXEL": Decoder((1,), decode_qa_pixel),
    "QA_RADSAT": Decoder((1,), decode_qa_radsat),
    "CMASK": Decoder((1,), decode_cmask),
    "PALSAR_MASK": Decoder((1,), decode_palsar_mask),
    "UDM2": Decoder((1, 2, 3, 4, 5, 6, 7, 8), decode_udm2),
}
"""Layer name to how it is read; a new kind of layer is a line here."""


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
    return described(_decoded(scl, "SCL", missing=0), valid)


def from_qa_pixel(qa: xr.DataArray, valid: xr.DataArray) -> xr.DataArray:
    """Quality of a Landsat Collection 2 scene from its QA_PIXEL bits.

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
    return described(_decoded(qa, "QA_PIXEL", missing=1), valid)


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
    clear = xr.full_like(valid, Quality.CLEAR, dtype="uint8")
    return described(clear, valid, source="measured or not; no layer shipped")


def combined(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Of several quality layers on one grid, each (y, x) uint8, the quality of highest PRECEDENCE at every pixel."""
    if len(layers) == 1:
        return layers[0]
    rank = np.empty(len(PRECEDENCE), dtype="uint8")
    rank[[int(q) for q in PRECEDENCE]] = np.arange(len(PRECEDENCE))
    best = np.minimum.reduce([rank[layer] for layer in layers])
    return np.array([int(q) for q in PRECEDENCE], dtype="uint8")[best]


def grown(quality: np.ndarray, distance_m: float, pixel_m: float) -> np.ndarray:
    """Cloud and shadow spread to every pixel whose centre is within a distance of one of theirs.

    Parameters
    ----------
    quality
        (y, x) uint8, values of catalog.sensors.Quality.
    distance_m
        Euclidean, in metres; 0 changes nothing.
    pixel_m
        Side of a pixel in metres.

    Returns
    -------
    (y, x) uint8; what they spread over keeps its quality where that is of higher PRECEDENCE.

    Raises
    ------
    CalibrationError
        For a distance below 0 or one that is no number.
    """
    if not (np.isfinite(distance_m) and distance_m >= 0):
        raise CalibrationError(
            f"clouds cannot grow by {distance_m} m", item="dilate_m", enough="0 m or more", todo="pass metres, as 120"
        )
    layers = [quality]
    for kind in (Quality.CLOUD, Quality.SHADOW) if distance_m else ():
        if (seeds := quality == kind).any():
            near = distance_transform_edt(~seeds, sampling=pixel_m) <= distance_m * (1 + 1e-9)
            layers.append(np.where(near, np.uint8(kind), np.uint8(Quality.CLEAR)))
    return combined(layers)


def described(quality: xr.DataArray, valid: xr.DataArray, source: str = "the product's own layer") -> xr.DataArray:
    """A quality layer with its attributes; NO_DATA where nothing was measured."""
    if quality.sizes != valid.sizes:
        raise CalibrationError(
            f"the quality layer is {dict(quality.sizes)}, the bands are {dict(valid.sizes)}",
            item="quality",
            enough="both on one grid",
            todo="resample the layer by nearest onto the bands' grid",
        )
    quality = xr.where(valid.astype(bool), quality, np.uint8(Quality.NO_DATA)).astype("uint8", copy=False)
    quality.attrs = {
        "long_name": "what a pixel is good for",
        "units": "1",
        "flag_values": [int(q) for q in Quality],
        "flag_meanings": " ".join(q.name.lower() for q in Quality),
        "source": source,
    }
    quality.name = "quality"
    return quality


def _decoded(layer: xr.DataArray, name: str, missing: int) -> xr.DataArray:
    if layer.dtype.kind not in "iuf":
        raise CalibrationError(
            f"a quality layer of type {layer.dtype} holds no codes", item=name, enough="integers, or floats with NaN"
        )
    codes = layer.fillna(missing) if layer.dtype.kind == "f" else layer
    decode = DECODERS[name].decode
    return xr.apply_ufunc(lambda c: decode(c[None]), codes, dask="parallelized", output_dtypes=["uint8"])
