"""Swin V2 windowed cosine attention with a log-spaced continuous position bias.

Swin V2: Liu et al., Swin Transformer V2, CVPR 2022, sections 3.2 and 3.3.
Shape legend: B image, H row, W column, C channel, h head, N token of a window, D channel of a head, n window.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LOGIT_SCALE = math.log(100.0)
"""The learned logarithm of the scale is clamped here, as published."""

BIAS_HIDDEN = 512
"""Hidden width of the position-bias network, as published."""


class Windows(NamedTuple):
    """How a map is cut into windows: padded below and on the right, and then rolled up and to the left."""

    size: tuple[int, int]
    """Rows and columns of the map, in tokens."""
    win: tuple[int, int]
    """Sides of a window."""
    grid: tuple[int, int]
    """Windows below and beside each other, those at the edge padded."""
    shift: tuple[int, int]
    """By how much the map is rolled."""


class WindowAttention(nn.Module):
    """Multi-head cosine attention inside (shifted) windows.

    Parameters
    ----------
    dim
        Width C; a multiple of `heads`.
    heads
        Number of heads.
    window
        Side of a window in tokens; clipped where the map is smaller.
    pretrain_window
        Side that the position bias is normalised by: the window this stage had in pre-training.
    shifted
        Whether the windows are shifted by half their side.
    """

    def __init__(self, dim: int, heads: int, window: int, pretrain_window: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.pretrain_window, self.shifted = heads, window, pretrain_window, shifted
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.bias_net = nn.Sequential(
            nn.Linear(2, BIAS_HIDDEN), nn.ReLU(inplace=True), nn.Linear(BIAS_HIDDEN, heads, bias=False)
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Attend inside windows; any height and width. Returns the same shape."""
        batch, rows, cols, _ = x_BHWC.shape
        windows = self.windows(rows, cols)
        win, grid, shift = windows.win, windows.grid, windows.shift
        qkv_BHWC = self.queries_keys_values(x_BHWC)
        pad = (grid[0] * win[0] - rows, grid[1] * win[1] - cols)
        if any(pad):
            qkv_BHWC = F.pad(qkv_BHWC, (0, 0, 0, pad[1], 0, pad[0]))
        if any(shift):
            qkv_BHWC = torch.roll(qkv_BHWC, (-shift[0], -shift[1]), (1, 2))
        qkv_nNC = _windows(qkv_BHWC, win, grid)
        y_nhND = self.attend(qkv_nNC, self._bias(windows, qkv_nNC.shape[0], qkv_nNC.dtype))
        y_BHWC = _unwindows(y_nhND, batch, win, grid)
        if any(shift):
            y_BHWC = torch.roll(y_BHWC, shift, (1, 2))
        return self.proj(y_BHWC[:, :rows, :cols] if any(pad) else y_BHWC)

    def windows(self, rows: int, cols: int) -> Windows:
        """How a map of so many tokens is cut."""
        win = (min(self.window, rows), min(self.window, cols))
        down, across = (
            side // 2 if self.shifted and n > side else 0 for side, n in zip(win, (rows, cols), strict=True)
        )
        return Windows((rows, cols), win, (-(-rows // win[0]), -(-cols // win[1])), (down, across))

    def queries_keys_values(self, x_C: Tensor) -> Tensor:
        """Projections of tokens, (..., 3 C); keys have no bias."""
        return F.linear(x_C, self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))

    def attend(self, qkv_nNC: Tensor, bias_nhNN: Tensor) -> Tensor:
        """Cosine attention of windows laid one after the other, (n, h, N, D), with what is added to the logits."""
        count, tokens, width = qkv_nNC.shape
        q, k, v = qkv_nNC.view(count, tokens, 3, self.heads, width // 3 // self.heads).permute(2, 0, 3, 1, 4)
        scale_h11 = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().to(q.dtype)
        q, k = F.normalize(q, dim=-1) * scale_h11, F.normalize(k, dim=-1)
        if q.device.type == "cpu" and bias_nhNN.requires_grad:
            return _attended(q, k, v, bias_nhNN)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias_nhNN, scale=1.0)

    def _bias(self, windows: Windows, count: int, dtype: torch.dtype) -> Tensor:
        """Position bias of so many windows, and what no query may see: (n, h, N, N), n = 1 where all are alike."""
        bias_1hNN = self.position_bias(windows.win).to(dtype)[None]
        mask_nNN = _mask(windows, dtype, bias_1hNN.device)
        if mask_nNN is None:
            return bias_1hNN
        return (bias_1hNN + mask_nNN[:, None]).repeat(count // len(mask_nNN), 1, 1, 1)

    def position_bias(self, win: tuple[int, int]) -> Tensor:
        """Continuous relative position bias of a window, (h, N, N), between 0 and 16."""
        table_P2, index_NN = _relative(win, self.pretrain_window, self.logit_scale.device)
        with torch.autocast(table_P2.device.type, enabled=False):
            bias_Ph = 16 * torch.sigmoid(self.bias_net(table_P2.to(self.logit_scale.dtype)))
        tokens = win[0] * win[1]
        return bias_Ph.t()[:, index_NN].view(self.heads, tokens, tokens)


def _attended(q_nhND: Tensor, k_nhND: Tensor, v_nhND: Tensor, bias_nhNN: Tensor) -> Tensor:
    """The same in plain products: with a bias that is learned, torch's own on a CPU takes twice as long."""
    logits_nhNN = q_nhND @ k_nhND.transpose(-2, -1) + bias_nhNN
    exact = torch.promote_types(logits_nhNN.dtype, torch.float32)
    return torch.softmax(logits_nhNN, -1, dtype=exact).to(v_nhND.dtype) @ v_nhND


def _windows(x_BHWC: Tensor, win: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    batch, dim = x_BHWC.shape[0], x_BHWC.shape[-1]
    x = x_BHWC.view(batch, grid[0], win[0], grid[1], win[1], dim).transpose(2, 3)
    return x.reshape(batch * grid[0] * grid[1], win[0] * win[1], dim)


def _unwindows(y_nhND: Tensor, batch: int, win: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    heads, depth = y_nhND.shape[1], y_nhND.shape[3]
    y = y_nhND.transpose(1, 2).reshape(batch, grid[0], grid[1], win[0], win[1], heads * depth).transpose(2, 3)
    return y.reshape(batch, grid[0] * win[0], grid[1] * win[1], heads * depth)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _relative(win: tuple[int, int], pretrain_window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Log-spaced coordinates of every offset, (P, 2) in units of log2(8), and which offset a pair of tokens has."""
    offsets = [torch.arange(-(side - 1), side, dtype=torch.float64, device="cpu") for side in win]
    table = torch.stack(torch.meshgrid(*offsets, indexing="ij"), -1).flatten(0, 1)
    table = table / max(pretrain_window - 1, 1) * 8
    table = torch.sign(table) * torch.log2(table.abs() + 1) / 3.0
    sides = [torch.arange(side, device="cpu") for side in win]
    row, col = (c.flatten() for c in torch.meshgrid(sides, indexing="ij"))
    drow = row[:, None] - row[None] + win[0] - 1
    dcol = col[:, None] - col[None] + win[1] - 1
    return table.to(device), (drow * (2 * win[1] - 1) + dcol).flatten().to(device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _mask(windows: Windows, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """What no query may see, (windows of an image, N, N): padding, and across the seam of a shift; None if nothing."""
    size, win, grid, shift = windows
    padded = (grid[0] * win[0], grid[1] * win[1])
    if padded == size and not any(shift):
        return None
    region_HW = torch.zeros(padded, dtype=torch.long, device="cpu")
    for axis in (0, 1):
        place = torch.arange(padded[axis], device="cpu")
        seam = (place >= padded[axis] - win[axis]).long() + (place >= padded[axis] - shift[axis]).long()
        if shift[axis]:
            region_HW += (seam * 3**axis).view(-1, 1) if axis == 0 else (seam * 3**axis).view(1, -1)
    real_HW = torch.zeros(padded, dtype=torch.bool, device="cpu")
    real_HW[: size[0], : size[1]] = True
    real_HW = torch.roll(real_HW, (-shift[0], -shift[1]), (0, 1))
    region_nN = _windows(region_HW[None, ..., None], win, grid)[..., 0]
    real_nN = _windows(real_HW[None, ..., None], win, grid)[..., 0]
    hidden_nNN = (region_nN[:, :, None] != region_nN[:, None]) | ~real_nN[:, None]
    far = torch.finfo(dtype).min / 2
    return torch.zeros(hidden_nNN.shape, dtype=dtype, device="cpu").masked_fill(hidden_nNN, far).to(device)
