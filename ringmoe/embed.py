"""Pixels of one modality to tokens: normalised by the contract, cut into patches, told what is missing.

Shape legend: B image, C channel or width, H row, W column (of pixels or of tokens).
"""

from __future__ import annotations

from functools import lru_cache
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
    """The paper's embedding: one convolution for one list of bands.

    Pixels that are not valid, or not finite in a band, are 0 after normalisation, and a learned embedding weighted by
    their share of the patch tells the model so. Masked patches become one learned token.

    Parameters
    ----------
    channels
        Number of bands.
    dim
        Width of a token.
    patch
        Side of a patch in pixels.
    """

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)
        self.no_data = nn.Parameter(torch.zeros(dim))
        self.mask_token = nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.no_data, std=0.02)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, chips: Chips, contract: InputContract, masked_BHW: Tensor | None, unit: int) -> Tokens:
        """Tokens of the chips.

        Parameters
        ----------
        chips
            Images whose sides are multiples of `unit` pixels.
        contract
            Their bands and normalisation.
        masked_BHW
            bool, one per unit of `unit` pixels; True where the model must guess. None masks nothing.
        unit
            Side in pixels of what is masked at once.

        Raises
        ------
        InputError
            The chips have another number of channels, a size that does not fit, or another shape than the mask.
        """
        check_chips(chips, masked_BHW, contract, unit)
        pixels_BCHW, valid_BHW = normalised(chips, contract)
        pixels_BCHW = pixels_BCHW.to(self.no_data.dtype)
        present_BHW = F.avg_pool2d(valid_BHW[:, None].to(pixels_BCHW.dtype), self.patch)[:, 0]
        x_BHWC = self.norm(F.linear(patches(pixels_BCHW, self.patch), self.proj.weight.flatten(1), self.proj.bias))
        return finished(x_BHWC, present_BHW, masked_BHW, unit // self.patch, Learned(self.no_data, self.mask_token))


class Learned(NamedTuple):
    """The two tokens that every embedding learns."""

    no_data: Tensor
    """(C,), added as far as a patch has no data."""
    mask_token: Tensor
    """(C,), in the place of a masked patch."""


def finished(x_BHWC: Tensor, present_BHW: Tensor, masked_BHW: Tensor | None, times: int, learned: Learned) -> Tokens:
    """Tokens told where pixels are missing, and replaced where masked; `times` patches to the side of a mask's unit."""
    x_BHWC = x_BHWC + (1 - present_BHW)[..., None] * learned.no_data
    counted_BHW = present_BHW > 0
    if masked_BHW is not None:
        hidden_BHW = masked_BHW.repeat_interleave(times, 1).repeat_interleave(times, 2)
        x_BHWC = torch.where(hidden_BHW[..., None], learned.mask_token.to(x_BHWC.dtype), x_BHWC)
        counted_BHW = counted_BHW & ~hidden_BHW
    return Tokens(x_BHWC, counted_BHW)


def patches(pixels_BCHW: Tensor, side: int) -> Tensor:
    """Patches as rows, (B, H, W, C x side x side): a CPU does their product faster than the convolution it equals."""
    batch, channels, rows, cols = pixels_BCHW.shape
    cut = pixels_BCHW.view(batch, channels, rows // side, side, cols // side, side).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch, rows // side, cols // side, channels * side * side)


def normalised_bands(chips: Chips, contract: InputContract) -> tuple[Tensor, Tensor]:
    """Pixels as the contract says, (B, C, H, W), 0 where a band is missing, and where it is not, bool (B, C, H, W)."""
    x_BCHW = chips.pixels_BCHW
    seen_BCHW = chips.valid_BHW[:, None] & torch.isfinite(x_BCHW)
    mean_C11, std_C11 = (_per_band(tuple(v), x_BCHW.dtype, x_BCHW.device) for v in (contract.mean, contract.std))
    if contract.transform == "log":
        x_BCHW = torch.log(x_BCHW.clamp(min=0) + LOG_FLOOR)
    return ((x_BCHW - mean_C11) / std_C11).where(seen_BCHW, 0.0), seen_BCHW


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _per_band(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of the contract on a device, (C, 1, 1); kept, because bringing them there waits for the device."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def normalised(chips: Chips, contract: InputContract) -> tuple[Tensor, Tensor]:
    """The same, 0 where any band is missing, and the mask of the rest, bool (B, H, W)."""
    x_BCHW, seen_BCHW = normalised_bands(chips, contract)
    valid_BHW = seen_BCHW.all(1)
    return x_BCHW.where(valid_BHW[:, None], 0.0), valid_BHW


def check_chips(chips: Chips, masked_BHW: Tensor | None, contract: InputContract, unit: int) -> None:
    """Refuse chips that cannot be cut into patches of these bands; see `PatchEmbed.forward`."""
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
