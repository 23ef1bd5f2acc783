"""Modality: the family of instruments an expert serves, what a channel measures, and the chips of one batch.

Shape legend: B image, C channel, H row, W column.
"""

from __future__ import annotations

import math
import re
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
class BandSpec:
    """What one channel measures."""

    name: str
    """Name in the cube, as in B04 or VV."""
    common_name: str = ""
    """STAC common name, as in red; empty for radar."""
    centre_nm: float | None = None
    """Centre wavelength in nm; None for radar."""
    width_nm: float | None = None
    """Full width at half maximum in nm; None for radar."""
    frequency_ghz: float | None = None
    """Radar centre frequency in GHz; None for optical."""
    polarisation: str | None = None
    """Transmit and receive polarisation, as in VH; None for optical."""
    part: str = ""
    """re or im of a complex band; empty for a real one."""

    @property
    def described(self) -> bool:
        """Whether it says what is measured: a wavelength above 0, or a radar frequency above 0 and a polarisation."""
        optical = self.centre_nm is not None and 0 < self.centre_nm < math.inf
        radar = self.frequency_ghz is not None and 0 < self.frequency_ghz < math.inf
        sent = re.fullmatch("[HVRL]{2}", self.polarisation or "") is not None
        return optical != radar and (optical or sent) and self.part in ("", "re", "im")


@dataclass(frozen=True)
class Chips:
    """Images of one modality, all of one sensor and one size, in physical units."""

    pixels_BCHW: Tensor
    """float32; NaN allowed where invalid. A complex band is two channels, real then imaginary, in band order."""
    valid_BHW: Tensor
    """bool; where something was measured and is usable. A band may still be NaN there: it is then absent there."""
    bands: tuple[BandSpec, ...] = ()
    """What the channels are, in their order; empty for those of the data contract's first sensor of the modality."""
    gsd_B: Tensor | None = None
    """Ground sampling distance of each image in metres, float32, above 0; None for the middle of the contract's."""

    def __post_init__(self) -> None:
        batch, channels, height, width = self.pixels_BCHW.shape
        if tuple(self.valid_BHW.shape) != (batch, height, width) or self.valid_BHW.dtype != torch.bool:
            raise InputError(
                "The mask of a batch has another shape than its pixels, or is no mask",
                item=f"pixels {tuple(self.pixels_BCHW.shape)}, valid {tuple(self.valid_BHW.shape)} "
                f"{self.valid_BHW.dtype}",
                enough=f"a mask of shape {(batch, height, width)}, bool",
                todo="cut pixels and mask with the same window",
            )
        if self.bands and len(self.bands) != channels:
            raise InputError(
                f"Chips of {channels} channels name {len(self.bands)} bands",
                item=", ".join(band.name + band.part for band in self.bands),
                enough="one band for each channel, in the channels' order; a complex band is two",
                todo="name the bands of the pixels, or leave them out for the contract's",
            )
        gsd_B = self.gsd_B
        if gsd_B is not None and (tuple(gsd_B.shape) != (batch,) or not _is_positive(gsd_B)):
            raise InputError(
                "The ground sampling distances of a batch are not one an image, or not above 0",
                item=f"pixels {tuple(self.pixels_BCHW.shape)}, distances {tuple(gsd_B.shape)}",
                enough=f"a tensor of shape {(batch,)}, metres",
                todo="give each image its pixel size in metres",
            )

    def to(self, device: torch.device | str) -> Chips:
        """The same chips on another device."""
        pixels, valid, gsd = (
            None if t is None else t.to(device, non_blocking=True)
            for t in (self.pixels_BCHW, self.valid_BHW, self.gsd_B)
        )
        assert pixels is not None
        assert valid is not None
        return Chips(pixels, valid, self.bands, gsd)

    def __len__(self) -> int:
        return int(self.pixels_BCHW.shape[0])


def _is_positive(metres_B: Tensor) -> bool:
    """Looked at where that takes no synchronisation with a device."""
    return metres_B.device.type != "cpu" or bool((metres_B > 0).all())


Batch: TypeAlias = Mapping[Modality, Chips]
"""Unpaired: the number and the size of the images may differ from modality to modality."""


def run_of(images: int, rank: int, ranks: int) -> slice:
    """Of so many images those that one rank works on: an equal run, give or take one."""
    return slice(rank * images // ranks, (rank + 1) * images // ranks)


def ordered(modalities: Mapping[Modality, object] | tuple[Modality, ...]) -> tuple[Modality, ...]:
    """The modalities given, in the order of the enumeration, which is the order experts are stacked in."""
    return tuple(m for m in Modality if m in modalities)
