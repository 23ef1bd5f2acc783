"""Blocks of pictures read as wholes, the most recently used ones kept; what cannot be read is counted and listed."""

# Shape suffixes: C channels, H rows, W columns.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

import numpy as np

from ringmoe.bands import band_specs
from ringmoe.errors import DataError
from ringmoe.pictures import BLOCK_PX, READ_ERRORS, Lost, Source, blocks_of, reason, whole

Pixels: TypeAlias = tuple[np.ndarray, np.ndarray]
"""(C, h, w) float32 and validity (h, w)."""


@dataclass(frozen=True)
class Reading:
    """How pixels come from the disk."""

    room_bytes: int = 1 << 30
    """Memory for blocks kept, per list of bands; a larger block is read window by window."""
    round_bytes: int = 1 << 29
    """Where a list of bands has more, its chips are drawn from so much of it at a time."""
    round_steps: int = 64
    """Batches for which it is drawn from before the next round's blocks take their turn."""
    most_lost: float = 0.05
    """Share of the blocks that may be unreadable; a run stops above it."""


class Losses:
    """What could not be read; too much of it stops the run.

    Parameters
    ----------
    total
        Blocks there are, those included that are lost from the start.
    most
        Share of them that may be lost.
    """

    def __init__(self, total: int, most: float, lost: Iterable[Lost] = ()) -> None:
        self._total, self._most, self._lock = total, most, Lock()
        self._reasons = {each.name: each.reason for each in lost}
        self._check()

    @property
    def list(self) -> tuple[Lost, ...]:
        """By name."""
        with self._lock:
            return tuple(Lost(name, reason) for name, reason in sorted(self._reasons.items()))

    def add(self, lost: Lost) -> None:
        """Take note; DataError when it is too much."""
        with self._lock:
            self._reasons.setdefault(*lost)
        self._check()

    def _check(self) -> None:
        lost = self.list
        if len(lost) > self._most * self._total:
            named = [f"{each.name} ({each.reason})" for each in lost[:5]]
            raise DataError(
                f"{len(lost)} of {self._total} blocks of pixels cannot be read",
                item="; ".join(named) + ("; ..." if len(lost) > len(named) else ""),
                enough=f"at most {self._most:.0%} of them unreadable (Reading.most_lost)",
                todo="ingest or copy these again, or leave them out",
            )


class Blocks:
    """The blocks of some sources, for any number of threads.

    Parameters
    ----------
    sources
        Of any bands.
    room_bytes
        Memory for blocks kept; larger blocks are read window by window.
    losses
        Told what cannot be read.
    described
        Whether pixels count that lack a channel, as a contract of described bands allows.
    """

    def __init__(self, sources: Sequence[Source], room_bytes: int, losses: Losses, *, described: bool) -> None:
        self.sources, self.all, self.losses, self.described = sources, blocks_of(sources), losses, described
        self._pixel_bytes = [4 * len(band_specs(source.attrs)) + 1 for source in sources]
        self._first: dict[tuple[int, int], int] = {}
        for number, block in enumerate(self.all):
            self._first.setdefault((block.source, block.picture), number)
        self._room_bytes, self._used_bytes = room_bytes, 0
        self._kept: OrderedDict[int, Pixels] = OrderedDict()
        self._bad: set[int] = set()
        self._lock, self._gates = Lock(), [Lock() for _ in self.all]

    def size(self, number: int) -> int:
        """Bytes of a block in memory."""
        return self.all[number].pixels * self._pixel_bytes[self.all[number].source]

    def window(self, source: int, picture: int, rows: slice, columns: slice) -> Pixels | None:
        """A rectangle of a picture, through the block of its first pixel; see `crop`."""
        across = -(-self.sources[source].pictures[picture].width // BLOCK_PX)
        number = self._first[source, picture] + rows.start // BLOCK_PX * across + columns.start // BLOCK_PX
        return self.crop(number, rows, columns)

    def crop(self, number: int, rows: slice, columns: slice) -> Pixels | None:
        """A rectangle of the picture that a block is of; None where it cannot be read.

        Raises
        ------
        DataError
            When too much cannot be read.
        """
        block = self.all[number]
        inside = rows.start >= block.rows.start and columns.start >= block.columns.start
        inside = inside and rows.stop <= block.rows.stop and columns.stop <= block.columns.stop
        if not inside or not self._is_kept(number):
            return self._read(number, rows, columns)
        whole = self._whole(number)
        if whole is None:
            return None
        y, x = block.rows.start, block.columns.start
        rows, columns = slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)
        return whole[0][:, rows, columns], whole[1][rows, columns]

    def warm(self, number: int) -> None:
        """Have a block at hand before it is asked for."""
        if self._is_kept(number):
            self._whole(number)

    def _is_kept(self, number: int) -> bool:
        return not self.sources[self.all[number].source].mapped and self.size(number) <= self._room_bytes

    def _whole(self, number: int) -> Pixels | None:
        with self._gates[number]:  # two threads never read one block
            with self._lock:
                if number in self._kept:
                    self._kept.move_to_end(number)
                    return self._kept[number]
                if number in self._bad:
                    return None
            found = self._read(number, self.all[number].rows, self.all[number].columns)
            with self._lock:
                self._keep(number, found)
            return found

    def _keep(self, number: int, found: Pixels | None) -> None:
        if found is None:
            self._bad.add(number)
            return
        self._kept[number] = found
        self._used_bytes += self.size(number)
        while self._used_bytes > self._room_bytes:
            self._used_bytes -= self.size(self._kept.popitem(last=False)[0])

    def _read(self, number: int, rows: slice, columns: slice) -> Pixels | None:
        block = self.all[number]
        source = self.sources[block.source]
        try:
            pixels, valid = source.read(block.picture, rows, columns)
            return pixels, valid if self.described else whole(pixels, valid)
        except READ_ERRORS as error:
            picture = source.pictures[block.picture]
            corner = f" row {block.rows.start} column {block.columns.start}" if block.pixels < picture.pixels else ""
            self.losses.add(Lost(picture.name + corner, reason(error)))
            return None
