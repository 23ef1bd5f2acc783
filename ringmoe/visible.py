"""The units of an image that the model may see, and nothing else of it: cut out, and put into windows for attention.

A unit of 32 px is an image of its own to embedding, merging, experts and norms; its tokens meet those of other units
in the windows of the whole image, where the places of hidden tokens are no keys.
Shape legend: B image, C channel, H row, W column, X visible unit or token, S place in the windows of all images,
n window, N place in a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ringmoe.attention import Windows, WindowAttention
from ringmoe.errors import InputError
from ringmoe.masking import UNIT_PX
from ringmoe.modality import Chips


class Places(NamedTuple):
    """Where visible units, or the tokens of them, stand in images of one size."""

    images: int
    """How many there are."""
    rows: int
    """Height of an image, in what stands there."""
    cols: int
    """Width of an image."""
    index_X: Tensor
    """Image, row and column as one number, long: (image * rows + row) * cols + col."""

    @classmethod
    def of(cls, chips: Chips, unit_X: Tensor | None) -> Places:
        """Of the units given, as by `ringmoe.masking.units_of` their mask; of all of them where that is None.

        Raises
        ------
        InputError
            The units do not ascend, or are not of these chips; looked at where that takes no synchronisation.
        """
        rows, cols = (side // UNIT_PX for side in chips.pixels_BCHW.shape[-2:])
        units, device = len(chips) * rows * cols, chips.pixels_BCHW.device
        if unit_X is None:
            return cls(len(chips), rows, cols, torch.arange(units, device=device))
        if unit_X.device.type == "cpu" and not _ascends(unit_X, units):
            raise InputError(
                "What is visible are no units of these chips",
                item=f"{len(unit_X)} units, chips of {units}",
                enough=f"whole numbers from 0 to {units - 1} that ascend",
                todo="take them from the chips' own mask with units_of",
            )
        return cls(len(chips), rows, cols, unit_X.to(device, non_blocking=True))

    @property
    def coordinates_X(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image, row and column."""
        line_X = self.index_X // self.cols
        return line_X // self.rows, line_X % self.rows, self.index_X % self.cols

    def finer(self, times: int) -> Places:
        """Of the `times` by `times` tokens of each unit, unit after unit, row by row."""
        image_X, row_X, col_X = (c[:, None, None] for c in self.coordinates_X)
        step = torch.arange(times, device=self.index_X.device)
        rows, cols = self.rows * times, self.cols * times
        line = image_X * rows + row_X * times + step[:, None]
        return Places(self.images, rows, cols, (line * cols + col_X * times + step).flatten())

    def slots(self, windows: Windows) -> Tensor:
        """Place of each token in the windows of all images, laid one after the other: (X,)."""
        image_X, row_X, col_X = self.coordinates_X
        (high, wide), (down, across) = windows.win, windows.grid
        row_X = (row_X - windows.shift[0]) % (high * down)
        col_X = (col_X - windows.shift[1]) % (wide * across)
        window_X = (image_X * down + row_X // high) * across + col_X // wide
        return (window_X * high + row_X % high) * wide + col_X % wide


def joined(places: Sequence[Places]) -> tuple[Places, ...]:
    """Images of one size that follow each other, as one run of images."""
    runs = []
    for (rows, cols), run in groupby(places, key=lambda p: (p.rows, p.cols)):
        images, indices = 0, []
        for each in run:
            indices.append(each.index_X + images * rows * cols)
            images += each.images
        runs.append(Places(images, rows, cols, indices[0] if len(indices) == 1 else torch.cat(indices)))
    return tuple(runs)


def cut_out(chips: Chips, units: Places) -> Chips:
    """Each visible unit as a chip of its own, (X, C, 32, 32)."""
    image_X, row_X, col_X = units.coordinates_X
    shape = (len(chips), -1, units.rows, UNIT_PX, units.cols, UNIT_PX)
    pixels = chips.pixels_BCHW.view(shape).permute(0, 2, 4, 1, 3, 5)[image_X, row_X, col_X]
    valid = chips.valid_BHW.view(shape).permute(0, 2, 4, 1, 3, 5)[image_X, row_X, col_X, 0]
    return Chips(pixels, valid, chips.bands, None if chips.gsd_B is None else chips.gsd_B[image_X])


def attend(attention: WindowAttention, x_XC: Tensor, places: Places) -> Tensor:
    """What the attention makes of visible tokens, (X, C): projections on them alone, hidden places are no keys."""
    windows = attention.windows(places.rows, places.cols)
    slot_X, slots = places.slots(windows), places.images * windows.slots
    qkv_SC = spread_out(attention.queries_keys_values(x_XC), slot_X, slots)
    hidden_S = torch.ones(slots, dtype=torch.bool, device=x_XC.device).index_fill_(0, slot_X, False)  # noqa: FBT003
    tokens = windows.win[0] * windows.win[1]
    y_nhND = attention.attend(qkv_SC.view(-1, tokens, qkv_SC.shape[-1]), windows, hidden_S.view(-1, tokens))
    return attention.proj(gathered(y_nhND.transpose(1, 2).reshape(slots, -1), slot_X))


def whole_maps(x_XC: Tensor, runs: Sequence[Places]) -> Tensor:
    """Tokens of runs of images with those that are hidden, which are 0, between them."""
    parts = x_XC.split([len(p.index_X) for p in runs])
    return torch.cat(
        [spread_out(x, p.index_X, p.images * p.rows * p.cols) for x, p in zip(parts, runs, strict=True)]
    )


def spread_out(x_XC: Tensor, slot_X: Tensor, slots: int) -> Tensor:
    """Rows put into the slots given, all others 0, (S, C)."""
    return _SpreadOut.apply(x_XC, slot_X, slots)  # type: ignore[no-any-return, no-untyped-call]


def gathered(y_SC: Tensor, slot_X: Tensor) -> Tensor:
    """The rows of the slots given, each slot at most once, (X, C)."""
    return _Gathered.apply(y_SC, slot_X)  # type: ignore[no-any-return, no-untyped-call]


class _SpreadOut(torch.autograd.Function):
    """Each slot is written at most once, so that neither way needs a sum."""

    @staticmethod
    def forward(ctx: Any, x_XC: Tensor, slot_X: Tensor, slots: int) -> Tensor:
        ctx.save_for_backward(slot_X)
        return x_XC.new_zeros(slots, x_XC.shape[1]).index_copy_(0, slot_X, x_XC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Gathered(torch.autograd.Function):
    """The inverse; the gradient of a slot that nobody reads is 0."""

    @staticmethod
    def forward(ctx: Any, y_SC: Tensor, slot_X: Tensor) -> Tensor:
        ctx.save_for_backward(slot_X)
        ctx.slots = len(y_SC)
        return y_SC.index_select(0, slot_X)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        slot_X, grad_XC = ctx.saved_tensors[0], grads[0]
        return grad_XC.new_zeros(ctx.slots, grad_XC.shape[1]).index_copy_(0, slot_X, grad_XC), None


def _ascends(unit_X: Tensor, units: int) -> bool:
    if unit_X.ndim != 1 or unit_X.dtype != torch.long:
        return False
    return bool(((unit_X >= 0) & (unit_X < units)).all()) and bool((unit_X.diff() > 0).all())
