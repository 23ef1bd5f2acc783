"""Modality: the family of instruments an expert serves, and the chips of one batch.

Shape legend: B image, C channel, H row, W column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import torch
from torch import Tensor

from ringmoe.errors import InputError


class Modality(StrEnum):
    """A family of instruments whose pixels mean the same kind of thing."""

    OPT = "opt"
    """High-resolution optical, red green blue."""
    MS = "ms"
    """Multispectral reflectance."""
    SAR_L1 = "sar_l1"
    """Complex single-look radar, real and imaginary part of every polarisation."""
    SAR_L2 = "sar_l2"
    """Detected radar backscatter."""


@dataclass(frozen=True)
class Chips:
    """Images of one modality, all of one size, in physical units."""

    pixels_BCHW: Tensor
    """float32; NaN allowed where invalid. A complex band is two channels, real then imaginary, in band order."""
    valid_BHW: Tensor
    """bool; where something was measured in every band."""

    def __post_init__(self) -> None:
        batch, _, height, width = self.pixels_BCHW.shape
        if tuple(self.valid_BHW.shape) != (batch, height, width):
            raise InputError(
                "The mask of a batch has another shape than its pixels",
                item=f"pixels {tuple(self.pixels_BCHW.shape)}, valid {tuple(self.valid_BHW.shape)}",
                enough=f"a mask of shape {(batch, height, width)}",
                todo="cut pixels and mask with the same window",
            )

    def to(self, device: torch.device | str) -> Chips:
        """The same chips on another device."""
        return Chips(self.pixels_BCHW.to(device, non_blocking=True), self.valid_BHW.to(device, non_blocking=True))

    def __len__(self) -> int:
        return int(self.pixels_BCHW.shape[0])


Batch: TypeAlias = Mapping[Modality, Chips]
"""Unpaired: the number and the size of the images may differ from modality to modality."""


def ordered(modalities: Mapping[Modality, object] | tuple[Modality, ...]) -> tuple[Modality, ...]:
    """The modalities given, in the order of the enumeration, which is the order experts are stacked in."""
    return tuple(m for m in Modality if m in modalities)
