"""A TIFF's own directory: how many bytes the file must have for every tag and block it lists (TIFF 6, BigTIFF)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by field type."""

_INTEGERS = {3: "u2", 4: "u4", 16: "u8"}
_BLOCKS = ((273, 279), (324, 325))
"""Tags of strips and of tiles: offsets, byte counts."""


@dataclass(frozen=True)
class _Entry:
    kind: int
    count: int
    place: int
    """Where the values lie in the file."""

    @property
    def end(self) -> int:
        return self.place + self.count * _SIZES.get(self.kind, 1)


def bytes_needed(path: Path) -> int | None:
    """The size a TIFF must at least have; None where the file is no TIFF.

    A directory that itself lies beyond the end counts: the file then needs at least one byte more than it has.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2], "")
        if not order or len(start) < 16:
            return None
        (magic,) = struct.unpack(order + "H", start[2:4])
        if magic not in (42, 43):
            return None
        big = magic == 43
        try:
            return max(
                (_directory_end(file, order, big, d) for d in _directories(file, order, big, start)), default=size
            )
        except (struct.error, ValueError):
            return size + 1


def _directories(file: BinaryIO, order: str, big: bool, start: bytes) -> Iterator[dict[int, _Entry]]:
    """The directories of a file, each a tag to its entry."""
    (place,) = struct.unpack(order + ("Q" if big else "I"), start[8:16] if big else start[4:8])
    seen: set[int] = set()
    while place and place not in seen:
        seen.add(place)
        file.seek(place)
        head, step, inline = (8, 20, 8) if big else (2, 12, 4)
        (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(head))
        body = file.read(count * step)
        entries = {}
        for k in range(count):
            tag, kind, number = struct.unpack(
                order + ("HHQ" if big else "HHI"), body[k * step : k * step + step - inline]
            )
            within = place + head + k * step + step - inline
            if number * _SIZES.get(kind, 1) > inline:
                value = body[(k + 1) * step - inline : (k + 1) * step]
                (within,) = struct.unpack(order + ("Q" if big else "I"), value)
            entries[tag] = _Entry(kind, number, within)
        yield entries
        file.seek(place + head + count * step)
        (place,) = struct.unpack(order + ("Q" if big else "I"), file.read(inline))


def _directory_end(file: BinaryIO, order: str, big: bool, entries: dict[int, _Entry]) -> int:
    """The last byte that one directory's values and blocks reach."""
    end = max((entry.end for entry in entries.values()), default=0)
    for offsets, lengths in _BLOCKS:
        if offsets in entries and lengths in entries:
            starts, sizes = (_values(file, order, entries[tag]) for tag in (offsets, lengths))
            end = max(end, int((starts + sizes).max()))
    return end


def _values(file: BinaryIO, order: str, entry: _Entry) -> np.ndarray:
    kind = np.dtype(order + _INTEGERS[entry.kind])
    file.seek(entry.place)
    raw = file.read(entry.count * kind.itemsize)
    return np.frombuffer(raw, kind, count=entry.count).astype(np.uint64)
