"""Cut a big raster into tiles, blend the answers."""

# Shape suffixes: K channels of the answer, H rows, W columns.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ringmoe.errors import TileError

FLOOR = 1e-3
"""Least blend weight: no pixel of a tile is ever worth nothing, so no sum of weights is ever zero."""


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels in a raster."""

    y0: int
    """First row."""
    x0: int
    """First column."""
    h: int
    """Rows."""
    w: int
    """Columns."""


@dataclass(frozen=True)
class Strip:
    """Finished rows of a blended raster, over its whole width."""

    y0: int
    """First row."""
    values_KHW: Tensor
    """Blended answers, float32."""


def plan(height: int, width: int, tile: int, overlap: int) -> tuple[Window, ...]:
    """Windows that cover a raster, rows of windows from the top, each row from the left.

    Windows step by `tile - overlap`; the last of a row or column is moved back to end at the raster's edge, so that
    every window is `tile` wide. Where the raster is smaller than a tile, the window is as small as the raster.

    Parameters
    ----------
    height, width
        The raster's size in pixels, at least 1.
    tile
        Side of a window in pixels.
    overlap
        Pixels that neighbouring windows share at least, from 0 to half a tile.

    Raises
    ------
    TileError
        When the raster is empty or the overlap does not fit the tile.
    """
    if height < 1 or width < 1:
        raise TileError(
            "a raster without pixels cannot be cut into tiles",
            item=f"{height} x {width} pixels",
            enough="at least one row and one column",
            todo="check the area of interest: it may lie outside the cube",
        )
    if tile < 1 or not 0 <= overlap <= tile // 2:
        raise TileError(
            "tiles cannot overlap like that",
            item=f"tile {tile}, overlap {overlap}",
            enough="a tile of at least one pixel and an overlap between 0 and half of it",
            todo="choose a smaller overlap or a larger tile",
        )
    columns = _starts(width, tile, overlap)
    h, w = min(tile, height), min(tile, width)
    return tuple(Window(y0, x0, h, w) for y0 in _starts(height, tile, overlap) for x0 in columns)


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    if length <= tile:
        return (0,)
    stride = tile - overlap
    count = math.ceil((length - tile) / stride) + 1
    return tuple(min(i * stride, length - tile) for i in range(count))


def blend_weights(h: int, w: int, overlap: int) -> Tensor:
    """Weight of each pixel of a tile in the blend: one inside, a raised cosine over the overlap at each edge.

    ``sin^2(pi/2 (i + 1/2) / overlap)`` for the i-th pixel from an edge; two tiles that overlap regularly have weights
    that sum to one. Never below `FLOOR`.

    Returns
    -------
    Tensor
        (h, w), float32, in [FLOOR, 1].
    """
    return torch.outer(_taper(h, overlap), _taper(w, overlap)).clamp_(min=FLOOR).to(torch.float32)


def _taper(n: int, overlap: int) -> Tensor:
    from_edge = torch.arange(n, dtype=torch.float64)
    from_edge = torch.minimum(from_edge, n - 1 - from_edge) + 0.5
    ramp = (from_edge / max(overlap, 1)).clamp(max=1.0)
    return torch.sin(ramp * (math.pi / 2)) ** 2 if overlap else torch.ones(n, dtype=torch.float64)


class Blender:
    """Weighted mean of overlapping tiles, finished rows handed out as soon as no later tile can touch them.

    Holds `(channels + 1) x tile x width` numbers, whatever the raster's height. Tiles may come in any order: they are
    added in the plan's order (an early one waits), so that the rounding, too, is always the same.

    Parameters
    ----------
    windows
        What `plan` returned.
    channels
        Channels of the answers.
    overlap
        The plan's overlap in pixels; it shapes the weights.
    device
        Where the sums are kept.
    """

    def __init__(
        self, windows: Sequence[Window], channels: int, overlap: int, device: torch.device | str = "cpu"
    ) -> None:
        self.windows = tuple(windows)
        first = self.windows[0]
        self.height = max(w.y0 + w.h for w in self.windows)
        width = max(w.x0 + w.w for w in self.windows)
        self._turn = {window: i for i, window in enumerate(self.windows)}
        self._early: dict[int, Tensor] = {}
        self._next = 0
        self._top = 0
        self._weights_HW = blend_weights(first.h, first.w, overlap).to(device)
        self._sums_KHW = torch.zeros(channels + 1, first.h, width, device=device)

    def add(self, window: Window, values_KHW: Tensor) -> Iterator[Strip]:
        """Take one tile's answer, (K, h, w) in any float dtype; yield the rows that it finishes.

        Raises
        ------
        TileError
            When the window is not of the plan or was added before.
        """
        turn = self._turn.get(window)
        if turn is None or turn < self._next or turn in self._early:
            raise TileError(
                "a tile that the plan does not expect cannot be blended",
                item=str(window),
                enough="each window of the plan, once",
                todo="blend the answers to the windows that plan() returned, and only those",
            )
        self._early[turn] = values_KHW
        while self._next in self._early:
            yield from self._take(self.windows[self._next], self._early.pop(self._next))
            self._next += 1

    def _take(self, window: Window, values_KHW: Tensor) -> Iterator[Strip]:
        rows, columns = slice(window.y0 - self._top, window.y0 - self._top + window.h), slice(window.x0, None)
        target_KHW = self._sums_KHW[:, rows, columns][:, :, : window.w]
        target_KHW[:-1] += values_KHW.to(self._sums_KHW) * self._weights_HW
        target_KHW[-1] += self._weights_HW
        last = self._next + 1 == len(self.windows)
        bottom = self.height if last else self.windows[self._next + 1].y0
        if bottom > self._top:
            yield self._flush(bottom)

    def _flush(self, bottom: int) -> Strip:
        n = bottom - self._top
        strip = Strip(self._top, self._sums_KHW[:-1, :n] / self._sums_KHW[-1, :n])
        kept_KHW = self._sums_KHW[:, n:].clone()
        self._sums_KHW.zero_()
        self._sums_KHW[:, : kept_KHW.shape[1]] = kept_KHW
        self._top = bottom
        return strip
