"""Looks of cubes as arrays of channels and validity."""

# Shape suffixes: C channels, H rows, W columns.
# xarray is imported where it is used only: this file must import where only torch and numpy are installed.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from catalog.sensors import USABLE

if TYPE_CHECKING:
    import xarray as xr


def open_cubes(uris: Sequence[str]) -> list[xr.Dataset]:
    """Open cubes by address; the pixels stay where they are until a sampler asks for them.

    Raises
    ------
    CubeError
        When a cube is damaged or of another schema.
    """
    from catalog import cube

    return [cube.open(uri) for uri in uris]


def chips_from(piece: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and validity of a piece of one time of a cube, or of a composite.

    Parameters
    ----------
    piece
        `data` with dims (band, y, x), float32 or complex64, physical units, NaN where nothing was measured; `quality`
        with dims (y, x), `catalog.sensors.Quality`, where the piece has one.

    Returns
    -------
    pixels, valid
        (C, h, w) float32, a complex band as two channels (re, im) in band order; (h, w) bool, true where every
        channel was measured and the quality is usable.
    """
    values = np.asarray(piece["data"].transpose("band", "y", "x").values)
    if np.iscomplexobj(values):
        parts = np.stack([values.real, values.imag], axis=1)
        values = parts.reshape(-1, *values.shape[1:])
    pixels = np.ascontiguousarray(values, dtype=np.float32)
    valid = np.asarray(np.isfinite(pixels).all(axis=0))
    if "quality" in piece:
        quality = np.asarray(piece["quality"].transpose("y", "x").values)
        valid &= np.isin(quality, [int(q) for q in USABLE])
    return pixels, valid


def times(cube: xr.Dataset) -> int:
    """How many looks a cube holds; 1 for a composite, which has no dimension time."""
    return int(cube.sizes.get("time", 1))


def look(cube: xr.Dataset, time: int) -> xr.Dataset:
    """One look of a cube, dims (band, y, x); a composite is its own only look."""
    return cube.isel(time=time) if "time" in cube.sizes else cube


@dataclass
class Looks:
    """Looks of a list of cubes as arrays, the most recently used ones kept in memory."""

    cubes: Sequence[xr.Dataset]
    """The cubes, of one modality."""
    room_bytes: int
    """Memory for whole looks; a look larger than that is read chip by chip."""
    kept: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=OrderedDict)
    """Whole looks by (cube, time)."""

    def crop(self, cube: int, time: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, h, w) and validity (h, w) of a rectangle of one look."""
        piece = look(self.cubes[cube], time)
        size = piece["data"].nbytes
        if size > self.room_bytes:
            return chips_from(piece.isel(y=rows, x=columns))
        key = (cube, time)
        if key not in self.kept:
            self.kept[key] = chips_from(piece)
            while sum(p.nbytes for p, _ in self.kept.values()) > self.room_bytes:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        pixels, valid = self.kept[key]
        return pixels[:, rows, columns], valid[rows, columns]
