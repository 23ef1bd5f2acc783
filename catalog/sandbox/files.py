"""Rasters and text to disk, the same bytes for the same values."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from catalog.sandbox.regions import Grid


def write_text(path: Path, text: str) -> None:
    """UTF-8 text with Unix line ends; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_json(path: Path, content: object) -> None:
    """JSON with sorted keys."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_map(
    path: Path,
    pixels: NDArray[Any],
    grid: Grid,
    *,
    nodata: float | None = None,
    names: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    colours: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> None:
    """A tiled, losslessly compressed GeoTIFF on a grid.

    Parameters
    ----------
    pixels
        (row, col) or (band, row, col).
    names
        Band descriptions.
    colours
        Palette of a single uint8 band.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = pixels if pixels.ndim == 3 else pixels[None]
    predictor = 3 if np.issubdtype(layers.dtype, np.floating) else 2
    options = {"compress": "deflate", "zlevel": 1, "predictor": predictor, "tiled": True, "blockxsize": 256}
    with rasterio.open(
        path, "w", driver="GTiff", count=len(layers), height=grid.rows, width=grid.cols, dtype=layers.dtype,
        crs=f"EPSG:{grid.epsg}", transform=grid.transform, nodata=nodata, blockysize=256, interleave="band", **options,
    ) as target:  # fmt: skip
        target.write(layers)
        target.update_tags(**(tags or {}))
        for i, name in enumerate(names, 1):
            target.set_band_description(i, name)
        if colours:
            target.write_colormap(1, dict(colours))


def write_jp2(path: Path, pixels: NDArray[Any], grid: Grid) -> None:
    """A reversible JPEG 2000 with its CRS, as Sentinel-2 images are delivered; (row, col)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", count=1, height=grid.rows, width=grid.cols, dtype=pixels.dtype,
        crs=f"EPSG:{grid.epsg}", transform=grid.transform, QUALITY="100", REVERSIBLE="YES",
    ) as target:  # fmt: skip
        target.write(pixels, 1)


def write_radar(
    path: Path, pixels: NDArray[Any], gcps: Sequence[tuple[float, float, float, float, float]] = ()
) -> None:
    """A striped GeoTIFF without an affine, in radar geometry.

    Parameters
    ----------
    pixels
        (line, sample) or (band, line, sample).
    gcps
        Ground control points: line, sample, longitude, latitude, height.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = pixels if pixels.ndim == 3 else pixels[None]
    count, height, width = layers.shape
    place: dict[str, Any] = {}
    if gcps:
        points = [GroundControlPoint(line, sample, lon, lat, z) for line, sample, lon, lat, z in gcps]
        place = {"gcps": points, "crs": "EPSG:4326"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, dtype=layers.dtype, interleave="pixel",
            **place,
        ) as target:  # fmt: skip
            target.write(layers)


def write_radar_complex(
    path: Path, counts: NDArray[np.complexfloating], gcps: Sequence[tuple[float, float, float, float, float]]
) -> None:
    """One channel of complex 16-bit integers (line, sample) in radar geometry, with ground control points."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, cols = counts.shape
    points = [GroundControlPoint(line, sample, lon, lat, z) for line, sample, lon, lat, z in gcps]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=rows, width=cols, dtype="complex_int16", gcps=points,
            crs="EPSG:4326",
        ) as target:  # fmt: skip
            target.write(counts.astype(np.complex64), 1)


def write_complex(
    path: Path, counts: NDArray[np.complexfloating], transform: Affine, crs: str, tags: Mapping[str, str]
) -> None:
    """One channel of complex 16-bit integers (row, col) as a GeoTIFF with a place and tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, cols = counts.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=rows, width=cols, dtype="complex_int16", crs=crs,
        transform=transform,
    ) as target:  # fmt: skip
        target.write(counts.astype(np.complex64), 1)
        target.update_tags(**tags)
