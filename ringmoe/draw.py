"""Chips drawn from pictures of one list of bands, labels beside them where there are any."""

# Shape suffixes: B chips, C channels, H rows, W columns.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from ringmoe.bands import band_specs, places
from ringmoe.blocks import Blocks, Losses, Reading
from ringmoe.contract import DataContract
from ringmoe.errors import DataError
from ringmoe.modality import BandSpec, Chips, Modality
from ringmoe.pictures import Source, blocks_of
from ringmoe.vary import SCALED, Orientation, nearest, resampled, window_side

Key = tuple[int, ...]
"""What a draw is a function of: seed, step and so on."""


@dataclass(frozen=True)
class Crop:
    """How chips are cut."""

    chip_px: int = 64
    """Side of a chip in pixels."""
    least_usable: float = 0.3
    """Least share of usable pixels; a chip with less is drawn again."""
    attempts: int = 100
    """Draws for one chip before giving up."""
    turns: bool = False
    """Turn chips by quarters, beside mirroring them; complex radar never."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and greatest factor of the pixel size, as in (0.7, 1.4); radar stays as it is."""
    twins: bool = False
    """Cut every place twice, the two chips one after the other: windows of scales of their own that share ground."""
    reading: Reading = field(default_factory=Reading)
    """How pixels come from the disk."""


class _Window(NamedTuple):
    """Where a chip is cut."""

    block: int
    """Number of the block."""
    row: int
    """First row in the picture."""
    column: int
    """First column."""
    side: int
    """In pixels of the picture."""


class _Drawn(NamedTuple):
    """One chip of side s."""

    pixels: np.ndarray
    """(C, s, s)."""
    valid: np.ndarray
    """(s, s)."""
    labels: np.ndarray | None
    """(s, s)."""
    gsd_m: float
    """Of its pixels."""
    window: _Window
    """Where it is from."""


class _Round(NamedTuple):
    """The blocks that are drawn from for some steps."""

    blocks: np.ndarray
    """Their numbers."""
    reach: np.ndarray
    """Sum of their pixels up to each."""


class Drawer:
    """Draws chips of sources of one list of bands; what is drawn is a function of the key given alone.

    Parameters
    ----------
    bands
        What the chips say of their bands; nothing for the contract's, and then pixels that lack one do not count.
    labels
        One label raster for each source, on the grid of its pictures.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        bands: tuple[BandSpec, ...],
        labels: Sequence[np.ndarray] | None,
        crop: Crop,
        losses: Losses,
    ) -> None:
        self.sources, self.bands, self.labels, self.crop = sources, bands, labels, crop
        self.modality = Modality(sources[0].attrs["modality"])
        self._gsd_m = [float(source.attrs["gsd_m"]) for source in sources]
        self._blocks = Blocks(sources, crop.reading.room_bytes, losses, described=bool(bands))
        self._sizes = np.array([block.pixels for block in self._blocks.all], dtype=np.float64)
        self.pixels = float(self._sizes.sum())
        self._bytes = np.array([self._blocks.size(number) for number in range(len(self._sizes))])
        self._all = _round_of(np.arange(len(self._sizes)), self._sizes)
        self._is_whole = self._bytes.sum() <= crop.reading.round_bytes or all(source.mapped for source in sources)
        self._rounds: dict[Key, _Round] = {}
        self._lock = Lock()  # readers ahead draw at the same time

    def chips(self, key: Key, step: int, wanted: range) -> tuple[Chips, np.ndarray | None]:
        """Chips by number as a batch, and their labels, (B, s, s), where there are any; each a function of key and
        number. Twins have an even number and the one after it, and come together.

        Raises
        ------
        DataError
            When no draw finds a chip with enough usable pixels.
        """
        group = self._round(key[0], step // self.crop.reading.round_steps)
        drawn: list[_Drawn] = []
        for i in wanted:
            twin = drawn[-1].window if self.crop.twins and i % 2 else None
            drawn.append(self._draw(np.random.default_rng([*key, i]), group, twin))
        pixels_BCHW = torch.from_numpy(np.stack([d.pixels for d in drawn]))
        valid_BHW = torch.from_numpy(np.stack([d.valid for d in drawn]))
        gsd_B = torch.tensor([d.gsd_m for d in drawn]) if self.bands else None
        labels = None if self.labels is None else np.stack([d.labels for d in drawn if d.labels is not None])
        return Chips(pixels_BCHW, valid_BHW, self.bands, gsd_B), labels

    def warm(self, seed: int, step: int) -> None:
        """Read the blocks of the next round that are due at this step: all are there when it begins."""
        if self._is_whole:
            return
        number, at = divmod(step, self.crop.reading.round_steps)
        coming = self._round(seed, number + 1).blocks
        first, last = (len(coming) * i // self.crop.reading.round_steps for i in (at, at + 1))
        for block in coming[first:last]:
            self._blocks.warm(int(block))

    def _round(self, seed: int, number: int) -> _Round:
        """Blocks of one round, drawn by their pixels without repetition; all of them where they are few."""
        if self._is_whole:
            return self._all
        key = (seed, number)
        with self._lock:
            known = self._rounds.get(key)
            if known is not None:
                return known
            room = int(self.crop.reading.round_bytes // self._bytes.max())
            rng = np.random.default_rng([seed, number, list(Modality).index(self.modality)])
            share = self._sizes / self.pixels
            chosen = rng.choice(len(share), size=min(max(room, 1), len(share)), replace=False, p=share)
            found = _round_of(chosen, self._sizes)
            if len(self._rounds) > 3:
                self._rounds.pop(next(iter(self._rounds)))
            self._rounds[key] = found
            return found

    def _draw(self, rng: np.random.Generator, group: _Round, twin: _Window | None) -> _Drawn:
        """A chip with enough usable pixels, of anywhere, or beside a twin."""
        side = self.crop.chip_px
        for attempt in range(self.crop.attempts):
            if attempt == self.crop.attempts // 2:
                group = self._all  # the round may be one cloud
            place = np.searchsorted(group.reach, rng.random() * group.reach[-1], side="right")
            number = int(group.blocks[min(place, len(group.blocks) - 1)])
            found = self._cut(self._window(rng, number) if twin is None else self._beside(rng, twin))
            if found is None:
                continue
            useful = found.valid if found.labels is None else found.valid & (found.labels > 0)
            if useful.sum() >= self.crop.least_usable * useful.size:
                return _laid(Orientation(rng, self._may_turn), _of_side(found, side))
        lost = len(self._blocks.losses.list)
        raise DataError(
            "chips that are all no-data",
            item=f"{sum(len(s.pictures) for s in self.sources)} pictures of {self.modality.value}, "
            f"{self.crop.attempts} chips of {side} px tried" + (f", {lost} blocks unreadable" if lost else ""),
            enough=f"a chip with {self.crop.least_usable:.0%} of its pixels usable"
            + ("" if self.labels is None else " and labelled"),
            todo="choose clearer scenes or a longer period, or accept chips with fewer usable pixels",
        )

    @property
    def _may_turn(self) -> bool:
        return self.crop.turns and self.modality is not Modality.SAR_L1

    def _window(self, rng: np.random.Generator, number: int) -> _Window:
        """A window that begins in a block, where the picture is large enough."""
        block, side = self._blocks.all[number], self._side(rng, number)
        picture = self.sources[block.source].pictures[block.picture]
        row, column = _start(rng, block.rows, side, picture.height), _start(rng, block.columns, side, picture.width)
        return _Window(number, row, column, side)

    def _beside(self, rng: np.random.Generator, twin: _Window) -> _Window:
        """A window of a scale of its own whose middle lies in the middle half of its twin, or the other way round."""
        block, side = self._blocks.all[twin.block], self._side(rng, twin.block)
        picture = self.sources[block.source].pictures[block.picture]
        reach = min(side, twin.side) // 4
        row, column = (
            max(0, min(start + twin.side // 2 - side // 2 + int(rng.integers(-reach, reach + 1)), length - side))
            for start, length in ((twin.row, picture.height), (twin.column, picture.width))
        )
        return _Window(twin.block, row, column, side)

    def _side(self, rng: np.random.Generator, number: int) -> int:
        block = self._blocks.all[number]
        picture = self.sources[block.source].pictures[block.picture]
        if self.modality not in SCALED or self.crop.scale == (1.0, 1.0):
            return self.crop.chip_px
        return window_side(rng, self.crop.chip_px, self.crop.scale, min(picture.height, picture.width))

    def _cut(self, window: _Window) -> _Drawn | None:
        """Pixels of a window, not yet of the chip's side where its scale varies; None where they cannot be read."""
        number, y0, x0, side = window
        block = self._blocks.all[number]
        picture = self.sources[block.source].pictures[block.picture]
        rows, columns = (slice(a, min(a + side, n)) for a, n in ((y0, picture.height), (x0, picture.width)))
        got = self._blocks.crop(number, rows, columns)
        if got is None:
            return None
        labels = None if self.labels is None else pad(self.labels[block.source][rows, columns], side, 0)
        gsd_m = self._gsd_m[block.source] * side / self.crop.chip_px
        return _Drawn(pad(got[0], side, np.nan), pad(got[1], side, False), labels, gsd_m, window)


def _round_of(blocks: np.ndarray, sizes: np.ndarray) -> _Round:
    return _Round(blocks, np.cumsum(sizes[blocks]))


def _start(rng: np.random.Generator, span: slice, side: int, length: int) -> int:
    """Where a window begins: within the block, and where that is too short as near to it as the picture allows."""
    start = int(rng.integers(span.start, max(span.start, span.stop - side) + 1))
    return max(0, min(start, length - side))


def pad(values: np.ndarray, side: int, fill: float | bool) -> np.ndarray:
    """The values, (..., h, w), with rows and columns added up to a side."""
    missing = (side - values.shape[-2], side - values.shape[-1])
    if missing == (0, 0):
        return values
    return np.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, n) for n in missing], constant_values=fill)


def _of_side(window: _Drawn, side: int) -> _Drawn:
    if window.valid.shape[-1] == side:
        return window
    labels = None if window.labels is None else nearest(window.labels, side)
    return _Drawn(*resampled(window.pixels, window.valid, side), labels, window.gsd_m, window.window)


def _laid(way: Orientation, chip: _Drawn) -> _Drawn:
    """The same way for pixels, mask and labels."""
    labels = None if chip.labels is None else way(chip.labels)
    return _Drawn(way(chip.pixels), way(chip.valid), labels, chip.gsd_m, chip.window)


def bands_of(contract: DataContract, attrs: Mapping[str, Any]) -> tuple[BandSpec, ...]:
    """What a source's chips say of their bands: nothing where the contract knows one list only; else as a sensor of it.

    Two satellites of a mission differ by a few nm: their bands go by the contract's names and wavelengths.
    """
    if not contract.described:
        return ()
    own = band_specs(attrs)
    for entry in contract.sensors(Modality(attrs["modality"])):
        rows = places(own, entry.bands)
        if rows is not None:
            return entry.at(rows).bands
    return own


def losses_of(sources: Sequence[Source], reading: Reading) -> Losses:
    """Blocks counted, and what is lost from the start; DataError when that is too much."""
    lost = [each for source in sources for each in source.lost]
    return Losses(len(blocks_of(sources)) + len(lost), reading.most_lost, lost)
