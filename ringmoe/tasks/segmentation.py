"""A class for every pixel: feature pyramid and the pixels themselves to land cover."""

# Shape suffixes: B images, C channels, H rows, W columns, K classes, N pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import RingMoE
from ringmoe.embed import normalised, normalised_bands
from ringmoe.errors import ConfigError
from ringmoe.modality import Chips, Modality

NO_DATA = 0
"""Class code of pixels that nobody knows: ignored in training, written where nothing was measured."""


@dataclass(frozen=True)
class SegmentationConfig:
    """A head for classes of pixels."""

    modality: Modality
    """Whose images it maps."""
    classes: tuple[str, ...]
    """Names of class codes 1, 2, ...; code 0 means no data and has no name here."""
    width: int = 32
    """Channels of the fused map and of the detail branch."""
    class_weights: tuple[float, ...] = ()
    """Weight of each class in the loss, as from `balanced`; empty weighs all alike."""


def balanced(counts: Sequence[int], power: float = 0.5, most: float = 5.0) -> tuple[float, ...]:
    """Class weights from the number of labelled pixels of each class: rare classes count more.

    ``w_k = (mean(n) / n_k) ** power``, over the classes that occur, capped at `most`; a class that does not occur
    weighs 0, since nothing is known of it.

    Parameters
    ----------
    counts
        Labelled pixels of class codes 1, 2, ...
    power
        0 weighs all alike, 1 gives every class the same share of the loss.
    """
    present = [n for n in counts if n > 0]
    mean = sum(present) / max(len(present), 1)
    return tuple(min((mean / n) ** power, most) if n > 0 else 0.0 for n in counts)


class SegmentationHead(nn.Module):
    """Feature pyramid, fused from coarse to fine, meets a few convolutions over the pixels at full resolution.

    The pyramid says what a place is, at four pixels a token; the detail branch says where it ends.

    Parameters
    ----------
    config
        Classes and width.
    pyramid_channels
        Channels of the four maps of the pyramid, finest first.
    pixel_channels
        Channels of the normalised image.
    """

    def __init__(self, config: SegmentationConfig, pyramid_channels: Sequence[int], pixel_channels: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.lateral = nn.ModuleList([nn.Conv2d(c, width, 1) for c in pyramid_channels])
        self.smooth = _convolution(width, width)
        # one more channel tells where pixels are missing
        self.detail = nn.Sequential(_convolution(pixel_channels + 1, width), _convolution(width, width))
        self.fuse = _convolution(2 * width, width)
        self.classify = nn.Conv2d(width, len(config.classes), 1)

    def forward(self, pyramid: Sequence[Tensor], pixels_BCHW: Tensor, valid_BHW: Tensor) -> Tensor:
        """Logits of every class at every pixel.

        Parameters
        ----------
        pyramid
            Four maps (B, C, H, W) at strides 4, 8, 16, 32.
        pixels_BCHW, valid_BHW
            The image normalised by the contract, 0 where missing, and where it is valid.

        Returns
        -------
        Tensor
            logits_BKHW at the image's resolution.
        """
        fused_BCHW = self.lateral[-1](pyramid[-1])
        for lateral, map_BCHW in zip(reversed(self.lateral[:-1]), reversed(pyramid[:-1]), strict=True):
            fused_BCHW = _enlarge(fused_BCHW, map_BCHW) + lateral(map_BCHW)
        context_BCHW = _enlarge(self.smooth(fused_BCHW), pixels_BCHW)
        valid_B1HW = valid_BHW[:, None].to(pixels_BCHW.dtype)
        detail_BCHW = self.detail(torch.cat([pixels_BCHW, valid_B1HW], dim=1))
        return self.classify(self.fuse(torch.cat([context_BCHW, detail_BCHW], dim=1)))


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: no pixel's value depends on what else is in its tile."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The same shape in and out."""
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, PixelNorm(channels_out), nn.GELU())


def _enlarge(x_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    return F.interpolate(x_BCHW, size=like_BCHW.shape[-2:], mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """Backbone and head: images of one modality to logits of every class.

    Parameters
    ----------
    backbone
        RingMoE whose contract has the head's modality.
    config
        Of the head.

    Raises
    ------
    ConfigError
        When the backbone does not know the modality, or weights and classes differ in number.
    """

    def __init__(self, backbone: RingMoE, config: SegmentationConfig) -> None:
        super().__init__()
        if config.modality not in backbone.contract.inputs:
            raise ConfigError(
                f"The backbone does not know the modality {config.modality.value}",
                item="a segmentation head",
                enough=", ".join(m.value for m in backbone.contract.inputs),
                todo="choose another modality, or a checkpoint that was trained on this one",
            )
        if config.class_weights and len(config.class_weights) != len(config.classes):
            raise ConfigError(
                f"{len(config.class_weights)} class weights do not fit {len(config.classes)} classes",
                item="a segmentation head",
                enough="one weight a class, or none",
                todo="compute the weights with balanced() from counts of codes 1 to the number of classes",
            )
        self.backbone, self.config, self.n_classes = backbone, config, len(config.classes)
        widths = [backbone.config.dim * 2**stage for stage in range(4)]
        self.head = SegmentationHead(config, widths, len(backbone.contract.inputs[config.modality].bands))
        self.register_buffer("weights_K", torch.tensor(config.class_weights or (1.0,) * len(config.classes)))

    weights_K: Tensor

    def forward(self, chips: Chips) -> Tensor:
        """logits_BKHW of chips whose sides are multiples of 32 pixels; class code k + 1 stands at index k."""
        return self.pyramid_and_logits(chips)[1]

    def pyramid_and_logits(self, chips: Chips) -> tuple[tuple[Tensor, ...], Tensor]:
        """The feature maps that the head stands on, finest first, and its logits_BKHW."""
        modality = self.config.modality
        pyramid = self.backbone({modality: chips}).pyramids[modality]
        contract = self.backbone.contract
        asked = contract.input_of(modality, chips.bands)
        if not contract.described:
            return pyramid, self.head(pyramid, *normalised(chips, asked))
        pixels_BCHW, seen_BCHW = normalised_bands(chips, asked)
        return pyramid, self.head(pyramid, pixels_BCHW, seen_BCHW.any(1))

    def loss(self, chips: Chips, labels_BHW: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Weighted cross entropy over labelled, valid pixels.

        ``sum_n w(y_n) CE_n / sum_n w(y_n)``; pixels labelled 0 and pixels without data take no part. Zero, with a
        zero gradient, where none is left.

        Parameters
        ----------
        labels_BHW
            int64 class codes, 0 where nobody knows.
        """
        logits_BKHW = self(chips).float()
        ignored_BHW = (labels_BHW == NO_DATA) | ~chips.valid_BHW
        target_BHW = (labels_BHW - 1).masked_fill(ignored_BHW, 0)
        entropy_BHW = -F.log_softmax(logits_BKHW, dim=1).gather(1, target_BHW[:, None])[:, 0]
        weight_BHW = self.weights_K[target_BHW].masked_fill(ignored_BHW, 0.0)
        loss = (entropy_BHW * weight_BHW).sum() / weight_BHW.sum().clamp_min(1e-6)
        return loss, {"cross_entropy": loss}
