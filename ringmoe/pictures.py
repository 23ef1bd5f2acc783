"""Pictures and their sources: what chips are cut from, be it a look of a cube, an image file or a memory map."""

# Shape suffixes: C channels, H rows, W columns.

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

READ_ERRORS = (OSError, ValueError, RuntimeError, KeyError, EOFError, zlib.error)
"""What readers of Zarr, GDAL and NumPy raise for a file that is missing, cut short or damaged."""

BLOCK_PX = 1024
"""Side of what is read at once: the side of a cube's shards."""


class Place(NamedTuple):
    """Where a picture's pixels lie, on an axis-parallel grid."""

    crs: str
    """As in EPSG:32632."""
    left_m: float
    """Left edge of the first column, in units of the CRS, as all that follows."""
    top_m: float
    """Upper edge of the first row."""
    pixel_m: float
    """Side of a pixel; rows go south."""


@dataclass(frozen=True)
class Picture:
    """One look of a cube, or one image."""

    name: str
    """As people find it again: tile and date, or file."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    place: Place | None = None
    """None where it lies on no axis-parallel grid, as in radar geometry."""
    day: float | None = None
    """Days since 1970-01-01; None where unknown."""

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.height * self.width


class Lost(NamedTuple):
    """A part of the data that cannot be read."""

    name: str
    """Picture, and the first row and column of the block where it has several."""
    reason: str
    """What the reader said."""


def reason(error: Exception) -> str:
    """What a reader said, in one line: GDAL says it in the exception before the last."""
    said = error.__cause__ or error
    return f"{type(said).__name__}: {said}"


class Source(Protocol):
    """Pictures of one sensor: equal bands, quantity, units and pixel size."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes as of a cube: sensor, modality, quantity, units, gsd_m, bands, tile."""

    @property
    def pictures(self) -> Sequence[Picture]:
        """What can be read, in a fixed order."""

    @property
    def lost(self) -> Sequence[Lost]:
        """What could not even be opened."""

    @property
    def mapped(self) -> bool:
        """Whether reading costs no more than copying, so that blocks need not be kept."""

    def read(self, picture: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, h, w), float32 in physical units, and validity (h, w); one of READ_ERRORS where that fails.

        A pixel is valid where something usable was measured; a channel that is NaN there is absent there.
        """


class Block(NamedTuple):
    """A rectangle of a picture that is read, and lost, as one."""

    source: int
    """Place of its source in a list."""
    picture: int
    """Place of its picture in the source."""
    rows: slice
    """Rows of the picture."""
    columns: slice
    """Columns of the picture."""

    @property
    def pixels(self) -> int:
        """How many it has."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


def in_parts(values_CHW: np.ndarray) -> np.ndarray:
    """Complex bands as two channels each, real then imaginary, (2 C, h, w); both NaN where either is not finite."""
    known_CHW = np.isfinite(values_CHW)
    parts = [np.where(known_CHW, part, np.nan) for part in (values_CHW.real, values_CHW.imag)]
    return np.stack(parts, axis=1).reshape(-1, *values_CHW.shape[1:])


def whole(pixels_CHW: np.ndarray, valid_HW: np.ndarray) -> np.ndarray:
    """Where every channel was measured, (h, w): all that an embedding of one list of bands can take."""
    return np.asarray(valid_HW & np.isfinite(pixels_CHW).all(axis=0))


def blocks_of(sources: Sequence[Source]) -> list[Block]:
    """All pictures of some sources cut along the shards of their files, in a fixed order."""
    return [
        Block(i, k, rows, columns)
        for i, source in enumerate(sources)
        for k, picture in enumerate(source.pictures)
        for rows in _cuts(picture.height)
        for columns in _cuts(picture.width)
    ]


def _cuts(length: int) -> list[slice]:
    return [slice(start, min(start + BLOCK_PX, length)) for start in range(0, length, BLOCK_PX)]
