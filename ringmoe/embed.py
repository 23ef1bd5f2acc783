"""Pixels of one modality to tokens: normalised by the contract, one convolution per modality and band list.

Shape legend: B image, C channel or width, H row, W column (of pixels or of tokens).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.contract import LOG_FLOOR, InputContract
from ringmoe.errors import InputError
from ringmoe.modality import Chips


class Tokens(NamedTuple):
    """What the embedding of one modality gives."""

    tokens_BHWC: Tensor
    """One token per patch."""
    counted_BHW: Tensor
    """bool; tokens that stand for measured pixels the model may see: neither masked nor all no-data."""


class PatchEmbed(nn.Module):
    """Normalise, cut into patches, and say what is missing.

    Pixels that are not valid, or not finite, are 0 after normalisation, and a learned embedding weighted by their
    share of the patch tells the model so. Masked patches become one learned token.

    Parameters
    ----------
    contract
        Channels and normalisation of the modality.
    dim
        Width of a token.
    patch
        Side of a patch in pixels.
    """

    def __init__(self, contract: InputContract, dim: int, patch: int) -> None:
        super().__init__()
        self.contract, self.patch = contract, patch
        self.proj = nn.Conv2d(len(contract.bands), dim, patch, patch)
        self.norm = nn.LayerNorm(dim)
        self.no_data = nn.Parameter(torch.zeros(dim))
        self.mask_token = nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.no_data, std=0.02)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, chips: Chips, masked_BHW: Tensor | None, unit: int) -> Tokens:
        """Tokens of the chips.

        Parameters
        ----------
        chips
            Images whose sides are multiples of `unit` pixels.
        masked_BHW
            bool, one per unit of `unit` pixels; True where the model must guess. None masks nothing.
        unit
            Side in pixels of what is masked at once.

        Raises
        ------
        InputError
            The chips have another number of channels, a size that does not fit, or another shape than the mask.
        """
        _check(chips, masked_BHW, self.contract, unit)
        pixels_BCHW, valid_BHW = normalised(chips, self.contract)
        pixels_BCHW = pixels_BCHW.to(self.no_data.dtype)
        valid_B1HW = valid_BHW[:, None].to(pixels_BCHW.dtype)
        present_BHW = F.avg_pool2d(valid_B1HW, self.patch)[:, 0]
        x_BHWC = self.norm(self._project(pixels_BCHW))
        x_BHWC = x_BHWC + (1 - present_BHW)[..., None] * self.no_data
        counted_BHW = present_BHW > 0
        if masked_BHW is not None:
            times = unit // self.patch
            hidden_BHW = masked_BHW.repeat_interleave(times, 1).repeat_interleave(times, 2)
            x_BHWC = torch.where(hidden_BHW[..., None], self.mask_token.to(x_BHWC.dtype), x_BHWC)
            counted_BHW = counted_BHW & ~hidden_BHW
        return Tokens(x_BHWC, counted_BHW)

    def _project(self, pixels_BCHW: Tensor) -> Tensor:
        """The convolution as a matrix product over patches, which a CPU does several times faster; channels last."""
        batch, channels, rows, cols = pixels_BCHW.shape
        side = self.patch
        patches = pixels_BCHW.view(batch, channels, rows // side, side, cols // side, side).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(batch, rows // side, cols // side, channels * side * side)
        return F.linear(flat, self.proj.weight.flatten(1), self.proj.bias)


def normalised(chips: Chips, contract: InputContract) -> tuple[Tensor, Tensor]:
    """Pixels as the contract says, (B, C, H, W), 0 where invalid or not finite, and the mask of the rest, (B, H, W)."""
    x_BCHW = chips.pixels_BCHW
    valid_BHW = chips.valid_BHW & torch.isfinite(x_BCHW).all(1)
    mean_C11, std_C11 = (x_BCHW.new_tensor(v).view(-1, 1, 1) for v in (contract.mean, contract.std))
    if contract.transform == "log":
        x_BCHW = torch.log(x_BCHW.clamp(min=0) + LOG_FLOOR)
    return ((x_BCHW - mean_C11) / std_C11).where(valid_BHW[:, None], 0.0), valid_BHW


def _check(chips: Chips, masked_BHW: Tensor | None, contract: InputContract, unit: int) -> None:
    batch, channels, rows, cols = chips.pixels_BCHW.shape
    if channels != len(contract.bands):
        raise InputError(
            f"Chips of {contract.modality} have {channels} channels",
            item=f"pixels {tuple(chips.pixels_BCHW.shape)}",
            enough=f"{len(contract.bands)} channels: {', '.join(b.name + b.part for b in contract.bands)}",
            todo="cut the chips from a cube that honours the checkpoint's contract",
        )
    if rows % unit or cols % unit or not rows or not cols or not chips.pixels_BCHW.is_floating_point():
        raise InputError(
            f"Chips of {contract.modality} cannot be cut into patches",
            item=f"{rows} by {cols} px, {chips.pixels_BCHW.dtype}",
            enough=f"floating-point pixels, height and width multiples of {unit}",
            todo="pad the image and mark the padding invalid, or cut another size",
        )
    if masked_BHW is not None and tuple(masked_BHW.shape) != (batch, rows // unit, cols // unit):
        raise InputError(
            f"The mask of {contract.modality} does not fit its chips",
            item=f"mask {tuple(masked_BHW.shape)}, pixels {tuple(chips.pixels_BCHW.shape)}",
            enough=f"a mask of shape {(batch, rows // unit, cols // unit)}",
            todo="draw the mask from the chips' size",
        )
