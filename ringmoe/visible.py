"""The units of an image that the model may see, and nothing else of it: cut out, and packed by window for attention.

A unit of 32 px is an image of its own to embedding, merging, experts and norms; its tokens meet those of other units
in the windows of the whole image. Windows are packed: the visible tokens of each, windows of like number together, so
that hidden places are neither queries nor keys. Where everything lies is planned on the CPU, from masks drawn there.
Shape legend: B image, C channel, H row, W column, X visible unit or token, S slot of all packs, n window, K slot of a
window's pack, h head, N place in a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ringmoe.attention import WindowAttention, Windows
from ringmoe.errors import InputError
from ringmoe.masking import UNIT_PX
from ringmoe.modality import Chips


class Pack(NamedTuple):
    """Windows whose visible tokens take the same number of slots."""

    windows: int
    """How many, n."""
    width: int
    """Slots K of each."""
    pair_nKK: Tensor
    """Which of the N x N entries of a window's position bias two slots have, long."""
    spare_nK: Tensor
    """bool; slots without a token."""


class Packs(NamedTuple):
    """The visible tokens of a run of images by window."""

    slot_X: Tensor
    """Each token's slot among those of all packs, laid one after the other; long."""
    packs: tuple[Pack, ...]
    """By width."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where visible units, or the tokens of them, stand in images of one size."""

    images: int
    """How many there are."""
    rows: int
    """Height of an image, in what stands there."""
    cols: int
    """Width of an image."""
    index_X: Tensor
    """Image, row and column as one number, long, on the CPU: (image * rows + row) * cols + col."""
    device: torch.device
    """Of what stands there."""
    planned: dict[Windows, Packs] = field(default_factory=dict)
    """Packs by how images are cut into windows, once asked for."""

    @classmethod
    def of(cls, chips: Chips, unit_X: Tensor | None) -> Places:
        """Of the units given, as by `ringmoe.masking.units_of` their mask; of all of them where that is None.

        Raises
        ------
        InputError
            The units do not ascend, or are not of these chips.
        """
        rows, cols = (side // UNIT_PX for side in chips.pixels_BCHW.shape[-2:])
        units = len(chips) * rows * cols
        unit_X = torch.arange(units, device="cpu") if unit_X is None else unit_X.cpu()
        if not _ascends(unit_X, units):
            raise InputError(
                "What is visible are no units of these chips",
                item=f"{len(unit_X)} units, chips of {units}",
                enough=f"whole numbers from 0 to {units - 1} that ascend",
                todo="take them from the chips' own mask with units_of",
            )
        return cls(len(chips), rows, cols, unit_X, chips.pixels_BCHW.device)

    @property
    def coordinates_X(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image, row and column, on the CPU."""
        line_X = self.index_X // self.cols
        return line_X // self.rows, line_X % self.rows, self.index_X % self.cols

    def there(self, index: Tensor) -> Tensor:
        """A plan's tensor, on the device."""
        return index.to(self.device, non_blocking=True)

    def finer(self, times: int) -> Places:
        """Of the `times` by `times` tokens of each unit, unit after unit, row by row."""
        image_X, row_X, col_X = (c[:, None, None] for c in self.coordinates_X)
        step = torch.arange(times, device="cpu")
        rows, cols = self.rows * times, self.cols * times
        line = image_X * rows + row_X * times + step[:, None]
        return Places(self.images, rows, cols, (line * cols + col_X * times + step).flatten(), self.device)

    def packs(self, windows: Windows) -> Packs:
        """Tokens by window; what a shift rolled over the edge of the image is a window of its own."""
        if windows not in self.planned:
            self.planned[windows] = self._plan(windows)
        return self.planned[windows]

    def _plan(self, windows: Windows) -> Packs:
        (high, wide), (down, across), tokens = windows.win, windows.grid, windows.win[0] * windows.win[1]
        image_X, row_X, col_X = self.coordinates_X
        row_X, col_X = row_X - windows.shift[0] + high, col_X - windows.shift[1] + wide
        window_X = (image_X * (down + 1) + row_X // high) * (across + 1) + col_X // wide
        place_X = row_X % high * wide + col_X % wide
        number_n = torch.bincount(window_X)
        width_n = _width(number_n, tokens)
        widths, order_n = width_n.sort(stable=True)
        start_n = torch.empty_like(widths).scatter_(0, order_n, widths.cumsum(0) - widths)
        order_X = window_X.argsort(stable=True)
        rank_X = torch.arange(len(order_X), device="cpu") - (number_n.cumsum(0) - number_n)[window_X[order_X]]
        slot_X = torch.empty_like(order_X).scatter_(0, order_X, start_n[window_X[order_X]] + rank_X)
        place_S = torch.full((int(widths.sum()),), -1, device="cpu").scatter_(0, slot_X, place_X)
        packs, at = [], 0
        for width, count in zip(*(t.tolist() for t in widths[widths > 0].unique(return_counts=True)), strict=True):
            place_nK = self.there(place_S[at : at + width * count].view(count, width))
            filled_nK = place_nK.clamp(min=0)
            packs.append(Pack(count, width, filled_nK[:, :, None] * tokens + filled_nK[:, None], place_nK < 0))
            at += width * count
        return Packs(self.there(slot_X), tuple(packs))


def _width(number_n: Tensor, tokens: int) -> Tensor:
    """Slots for so many tokens: up to a multiple of 8, about a quarter of a window's, or the whole window's."""
    step = 8 * -(-tokens // 32)
    return (-(-number_n // step) * step).clamp(max=tokens)


def joined(places: Sequence[Places]) -> tuple[Places, ...]:
    """Images of one size that follow each other, as one run of images."""
    runs = []
    for (rows, cols), group in groupby(places, key=lambda p: (p.rows, p.cols)):
        run = list(group)
        images, indices = 0, []
        for each in run:
            indices.append(each.index_X + images * rows * cols)
            images += each.images
        runs.append(Places(images, rows, cols, torch.cat(indices), run[0].device))
    return tuple(runs)


def cut_out(chips: Chips, units: Places) -> Chips:
    """Each of the units as a chip of its own, (X, C, 32, 32)."""
    image_X, row_X, col_X = (units.there(c) for c in units.coordinates_X)
    shape = (len(chips), -1, units.rows, UNIT_PX, units.cols, UNIT_PX)
    pixels = chips.pixels_BCHW.view(shape).permute(0, 2, 4, 1, 3, 5)[image_X, row_X, col_X]
    valid = chips.valid_BHW.view(shape).permute(0, 2, 4, 1, 3, 5)[image_X, row_X, col_X, 0]
    return Chips(pixels, valid, chips.bands, None if chips.gsd_B is None else chips.gsd_B[image_X])


def attend(attention: WindowAttention, x_XC: Tensor, places: Places) -> Tensor:
    """What the attention makes of visible tokens, (X, C), which alone are queries and keys."""
    windows = attention.windows(places.rows, places.cols)
    slot_X, packs = places.packs(windows)
    sizes = [pack.windows * pack.width for pack in packs]
    qkv_SC = spread_out(attention.queries_keys_values(x_XC), slot_X, sum(sizes))
    bias_hNN = attention.position_bias(windows.win).to(qkv_SC.dtype)
    found = []
    for pack, part_SC in zip(packs, qkv_SC.split(sizes), strict=True):
        spare = pack.spare_nK[:, None, None].to(qkv_SC.dtype) * (torch.finfo(qkv_SC.dtype).min / 4)
        bias_nhKK = _Pairs.apply(bias_hNN, pack.pair_nKK) + spare
        y_nhKD = attention.attend(part_SC.view(pack.windows, pack.width, -1), bias_nhKK)
        found.append(y_nhKD.transpose(1, 2).reshape(pack.windows * pack.width, -1))
    return attention.proj(gathered(torch.cat(found), slot_X))


def whole_maps(x_XC: Tensor, runs: Sequence[Places]) -> Tensor:
    """Tokens of runs of images with those that are hidden, which are 0, between them."""
    parts = x_XC.split([len(p.index_X) for p in runs])
    maps = [spread_out(x, p.there(p.index_X), p.images * p.rows * p.cols) for x, p in zip(parts, runs, strict=True)]
    return torch.cat(maps)


class _Pairs(torch.autograd.Function):
    """The position bias of pairs of slots, (n, h, K, K); its gradient is one sum a head over all of them."""

    @staticmethod
    def forward(ctx: Any, bias_hNN: Tensor, pair_nKK: Tensor) -> Tensor:
        ctx.save_for_backward(pair_nKK)
        ctx.shape = bias_hNN.shape
        return torch.stack([bias_NN.take(pair_nKK) for bias_NN in bias_hNN], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        pair_X = ctx.saved_tensors[0].flatten()
        exact = torch.promote_types(grads[0].dtype, torch.float32)
        sums = grads[0].new_zeros(ctx.shape, dtype=exact).flatten(1)
        for sum_N, grad_nKK in zip(sums, grads[0].unbind(1), strict=True):
            sum_N.index_add_(0, pair_X, grad_nKK.flatten().to(exact))
        return sums.view(ctx.shape).to(grads[0].dtype), None


def spread_out(x_XC: Tensor, slot_X: Tensor, slots: int) -> Tensor:
    """Rows put into the slots given, all others 0, (S, C)."""
    return _SpreadOut.apply(x_XC, slot_X, slots)


def gathered(y_SC: Tensor, slot_X: Tensor) -> Tensor:
    """The rows of the slots given, each slot at most once, (X, C)."""
    return _Gathered.apply(y_SC, slot_X)


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
