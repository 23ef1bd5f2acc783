"""What the radiometric products share: the day they show, and what the counts of each are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import optics
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.optics import Sun
from catalog.sandbox.orbit import Ground
from catalog.sandbox.regions import FINE_M, Grid
from catalog.sandbox.spectra import BANDS, SPECTRA

Doubles = NDArray[np.float64]
Layers = Mapping[str, NDArray[np.floating]] | Mapping[str, NDArray[np.complexfloating]]

PATH = (0.060, 0.034, 0.018, 0.014, 0.011, 0.009, 0.008, 0.007, 0.002, 0.001)
"""Reflectance of the air alone, in the bands of the spectra."""
TRANSMITTANCE = (0.78, 0.84, 0.89, 0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.95)
"""Share of the surface's reflectance that reaches a satellite."""


@dataclass(frozen=True)
class Specimen:
    """One product whose counts are known exactly."""

    sensor: str
    """Our name of the instrument."""
    level: str
    """Processing level, as the product names it."""
    quantity: str
    """What its truth is, as in toa_reflectance."""
    folder: Path
    """The product's own folder."""
    truth: Path
    """An .npz of arrays (row, col): BAND is what the counts are worth, NaN where nothing was measured; BAND.drawn what
    was to be counted, where the truth knows it; BAND.counts, of whole radar counts, their amplitude; BAND.gross, where
    noise was taken off, the power with it."""

    def layer(self, name: str) -> NDArray[np.number] | None:
        """One array of the truth, float64 or complex128; None where it holds none of that name."""
        with np.load(self.truth) as layers:
            return np.asarray(layers[name]) if name in layers.files else None

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the truth."""
        with np.load(self.truth) as layers:
            return tuple(name for name in layers.files if "." not in name)


@dataclass(frozen=True)
class Day:
    """A region on one summer day without clouds, lit once for all products."""

    land: Landscape
    """The land."""
    relief: Ground
    """Heights of the region and its margin at 10 m."""
    echo: NDArray[np.float32]
    """Mean covariance on the region's 10 m pixels, (term, row, col), linear power."""
    when: datetime
    """UTC."""
    sun: Sun
    """Where the sun stands over the middle."""
    lit: NDArray[np.float32]
    """Surface reflectance on the land's 2 m grid, (band, row, col), in the bands of the spectra."""
    size_px: int
    """Side of the region in pixels of 10 m, and most that a product has."""

    @property
    def middle(self) -> tuple[int, int]:
        """Row and column of the region's middle on the relief's grid."""
        rows, cols = self.relief.height_m.shape
        return rows // 2, cols // 2

    def grid(self, step_m: float) -> Grid:
        """The region's upper left part in pixels of a size, at most `size_px` of them a side."""
        count = min(self.size_px, int(self.land.size_m / step_m))
        region = self.land.region
        return Grid(region.epsg, region.west_m, region.south_m + self.land.size_m, step_m, count, count)

    def surface(self, grid: Grid, bands: Sequence[str]) -> Doubles:
        """Surface reflectance through square pixels, (band, row, col)."""
        eye = optics.footprint(self.land.grid, grid, (0.0, 0.0), max(0.35 * grid.step_m, 0.6 * FINE_M))
        return np.stack([optics.see(self.lit[BANDS.index(b)], eye).astype(np.float64) for b in bands])

    def top(self, grid: Grid, bands: Sequence[str]) -> Doubles:
        """Top-of-atmosphere reflectance through square pixels, (band, row, col)."""
        return through_air(self.surface(grid, bands), bands)


def through_air(rho: Doubles, bands: Sequence[str]) -> Doubles:
    """Top-of-atmosphere reflectance of a surface, (band, ...)."""
    k = [BANDS.index(b) for b in bands]
    shape = (-1, *([1] * (rho.ndim - 1)))
    return np.array(PATH)[k].reshape(shape) + np.array(TRANSMITTANCE)[k].reshape(shape) * rho


def lit_surface(land: Landscape, season: str, at: Sun) -> NDArray[np.float32]:
    """Surface reflectance on the land's 2 m grid, (band, row, col)."""
    shade, ground = optics.light(land, season, at), optics.growth(land, season)
    rho = np.zeros((len(BANDS), *ground.surface.shape), np.float32)
    for k, plane in enumerate(optics.abundances(ground, season, shade)):
        for b in range(len(BANDS)):
            rho[b] += SPECTRA[k, b] * plane
    return rho


def counted(value: Doubles, step: float, zero: float = 0.0, most: int = 65_535) -> NDArray[np.uint16]:
    """Whole counts of a value: (value - zero) / step, at least 1, since 0 stands for nothing measured."""
    return np.clip(np.rint((value - zero) / step), 1, most).astype(np.uint16)


def keep(root: Path, folder: Path, worth: Layers, drawn: Layers, counts: Layers | None = None) -> Path:
    """Write the truth of a product below root/truth: what counts are worth, what was drawn, amplitudes in counts."""
    path = root / "truth" / f"{folder.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {f"{k}.drawn": v for k, v in drawn.items()} | {f"{k}.counts": v for k, v in (counts or {}).items()}
    np.savez_compressed(path, **dict(worth), **more)  # type: ignore[arg-type]
    return path
