"""A checkpoint as features of any pixels: name the bands and the pixel size, get the pyramid and one vector an image.

Shape legend: B image, C channel or width, H row, W column, D pooled features.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe import checkpoint, shipped
from ringmoe.backbone import RingMoE
from ringmoe.determinism import deterministic
from ringmoe.errors import InputError
from ringmoe.modality import BandSpec, Chips, Modality

__all__ = ["Encoded", "Encoder", "deterministic", "load", "optical", "radar"]


class Encoded(NamedTuple):
    """What the encoder makes of a batch."""

    pyramid: tuple[Tensor, ...]
    """Four maps (B, C, H, W) at strides 4, 8, 16 and 32 pixels, of widths C, 2C, 4C and 8C."""
    pooled: Tensor
    """(B, D), D = 15 C: the mean of each map over what was measured, finest first; 0 where nothing was."""


class Encoder(nn.Module):
    """Pixels to features, whatever the sensor; freeze it, or train it with what stands on it.

    Parameters
    ----------
    backbone
        The model; its contract says which modalities it takes, in which quantity and units.
    """

    def __init__(self, backbone: RingMoE) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self,
        pixels_BCHW: Tensor,
        modality: Modality | str,
        *,
        bands: Sequence[BandSpec] = (),
        gsd_m: float | Sequence[float] | None = None,
        valid_BHW: Tensor | None = None,
    ) -> Encoded:
        """Features of images of one modality.

        Parameters
        ----------
        pixels_BCHW
            Floating point, in the contract's quantity and units, not normalised; NaN where a band has no data. Sides
            are multiples of 32.
        modality
            opt, ms, sar_l1 or sar_l2.
        bands
            What the channels are, in their order; empty for those of the contract's first sensor.
        gsd_m
            Ground sampling distance in metres, of all images or of each; None for the middle of the contract's.
        valid_BHW
            bool; None takes every pixel that is finite in any band.

        Raises
        ------
        InputError, ContractError
            Pixels, bands or distances that the model does not take.
        """
        if pixels_BCHW.ndim != 4 or modality not in set(Modality):
            raise InputError(
                "There are no images of a modality to encode",
                item=f"pixels {tuple(pixels_BCHW.shape)}, modality {modality}",
                enough=f"pixels (B, C, H, W) and one of {', '.join(m.value for m in self.backbone.modalities)}",
                todo="add the missing dimension, or name the modality",
            )
        kind, chips = Modality(modality), _chips(pixels_BCHW, bands, gsd_m, valid_BHW)
        pyramid = self.backbone({kind: chips.to(self.backbone.norm.weight.device)}).pyramids[kind]
        return Encoded(pyramid, _pooled(pyramid, chips.valid_BHW))

    def freeze(self, frozen: bool = True) -> Encoder:
        """Have training leave the weights alone, or no longer; the encoder itself."""
        self.requires_grad_(not frozen)
        return self.train(not frozen)


def load(
    folder: str | os.PathLike[str] = shipped.DEFAULT,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Encoder:
    """The encoder of a checkpoint, weights straight on a device; a head that may be there is left out.

    Parameters
    ----------
    folder
        Of a checkpoint, or the name of one that comes with the package (`ringmoe.shipped`); a folder of the same name
        is ./nano.
    device
        Where the weights go.
    dtype
        Of the weights; None leaves them as they were saved, but makes those that come with the package float32.

    Raises
    ------
    CheckpointError
        The folder holds no whole checkpoint, or the package came without its own.
    """
    ours = folder == shipped.DEFAULT or folder in shipped.names()
    model = checkpoint.load(shipped.folder_of(str(folder)) if ours else folder, device=device).model
    wanted = torch.float32 if ours and dtype is None else dtype
    return Encoder(model if wanted is None else model.to(wanted))


def optical(centre_nm: float, width_nm: float, name: str = "") -> BandSpec:
    """An optical band by its centre wavelength and full width at half maximum, in nm."""
    return BandSpec(name or f"{centre_nm:g} nm", centre_nm=centre_nm, width_nm=width_nm)


def radar(frequency_ghz: float, polarisation: str, part: str = "") -> BandSpec:
    """A radar band by its frequency in GHz and its polarisation, as VH; part is re or im for complex pixels."""
    return BandSpec(polarisation, frequency_ghz=frequency_ghz, polarisation=polarisation, part=part)


def _chips(
    pixels_BCHW: Tensor, bands: Sequence[BandSpec], gsd_m: float | Sequence[float] | None, valid_BHW: Tensor | None
) -> Chips:
    if valid_BHW is None:
        valid_BHW = torch.isfinite(pixels_BCHW).any(1)
    gsd_B = None if gsd_m is None else torch.as_tensor(gsd_m, dtype=torch.float32)
    if gsd_B is not None and gsd_B.ndim == 0:
        gsd_B = gsd_B.expand(len(pixels_BCHW))
    return Chips(pixels_BCHW, valid_BHW, tuple(bands), gsd_B)


def _pooled(pyramid: Sequence[Tensor], valid_BHW: Tensor) -> Tensor:
    """Means of the maps, each token weighed by its share of valid pixels."""
    means = []
    for map_BCHW in pyramid:
        stride = valid_BHW.shape[-1] // map_BCHW.shape[-1]
        share_B1HW = F.avg_pool2d(valid_BHW[:, None].to(map_BCHW), stride)
        means.append((map_BCHW * share_B1HW).sum((2, 3)) / share_B1HW.sum((2, 3)).clamp(min=1e-6))
    return torch.cat(means, 1)
