"""Pixels out of features, for pre-training: one plain layer per modality, or bands mixed by what they are.

Shape legend: B image, C channel, H row, W column, R image that bands are mixed from, X row and column together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import STRIDE
from ringmoe.modality import BandSpec
from ringmoe.spectral import BandWeights

RANK = 16
"""Images that bands are mixed from, where bands are known by what they are: spectra vary in few ways."""


class Decoder(nn.Module):
    """SimMIM's: one 1x1 convolution on the last map, then pixels out of its channels."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, channels * STRIDE**2, 1)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, last_BCHW: Tensor, bands: Sequence[BandSpec] = ()) -> Tensor:
        """Pixels (B, C, 32 H, 32 W): the convolution as a matrix product, then its channels laid out as pixels."""
        weight = self.proj.weight.flatten(1)
        y_BHWX = F.linear(last_BCHW.permute(0, 2, 3, 1), weight, self.proj.bias)
        batch, rows, cols, width = y_BHWX.shape
        y = y_BHWX.view(batch, rows, cols, width // STRIDE**2, STRIDE, STRIDE).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(batch, -1, rows * STRIDE, cols * STRIDE)


class BandDecoder(nn.Module):
    """A few images out of the last map, and every band a mixture of them by weights made from what the band is."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.images, self.weights = Decoder(dim, RANK), BandWeights(RANK + 1)

    def forward(self, last_BCHW: Tensor, bands: Sequence[BandSpec]) -> Tensor:
        """Pixels (B, C, 32 H, 32 W) of the bands given."""
        mix_CR, offset_C1 = self.weights(bands).split([RANK, 1], 1)
        images_BRHW = self.images(last_BCHW)
        mixed_BCX = mix_CR.to(images_BRHW.dtype) @ images_BRHW.flatten(2) + offset_C1.to(images_BRHW.dtype)
        return mixed_BCX.unflatten(2, images_BRHW.shape[2:])
