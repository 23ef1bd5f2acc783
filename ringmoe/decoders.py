"""Pixels out of features, for pre-training: one plain layer per modality, or bands mixed by what they are.

Where the encoder saw visible tokens alone, an attention block fills in what was hidden before pixels are made.

Shape legend: B image, C channel, H row, W column, R image that bands are mixed from, X row and column
together, T token of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import STRIDE, Block, Features, RingMoEConfig, Span, init_linear
from ringmoe.modality import BandSpec, Modality
from ringmoe.moe import TokenGroups
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
        return y.reshape(batch, width // STRIDE**2, rows * STRIDE, cols * STRIDE)


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


class Completion(nn.Module):
    """Guesses the last map where units were hidden, one learned token each, from those around: a block of the encoder.

    The block has no routed experts, a hidden width four times its own whatever the encoder's, and norms that start at
    1, so that from the first step on a hidden unit is told what is visible.

    Parameters
    ----------
    config
        Of the encoder whose last stage the block is as wide as.
    """

    def __init__(self, config: RingMoEConfig) -> None:
        super().__init__()
        dim = 8 * config.dim
        plain = replace(
            config, specialized=0, collaborative=0, shared=1, survivors=None, mlp_ratio=4, post_norm_init=1.0
        )
        self.block = Block(plain, stage=3, index=0, block=0, modalities=1).apply(init_linear)
        self.norm = nn.LayerNorm(dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, features: Features, masks: Mapping[Modality, Tensor]) -> Features:
        """Features with the last map of all units; masks are bool (B, H/32, W/32), True where a unit was hidden."""
        last = {m: maps[-1].permute(0, 2, 3, 1) for m, maps in features.pyramids.items()}
        spans = tuple(Span(m, *x_BHWC.shape[:3]) for m, x_BHWC in last.items())
        x_TC = torch.cat([x_BHWC.flatten(0, 2) for x_BHWC in last.values()])
        hidden_T = torch.cat([masks[m].flatten() for m in last])
        x_TC = torch.where(hidden_T[:, None], self.mask_token.to(x_TC.dtype), x_TC)
        x_TC = self.norm(self.block(x_TC, spans, _unrouted(x_TC))[0])
        pyramids = {}
        for span, part_TC in zip(spans, x_TC.split([s.tokens for s in spans]), strict=True):
            map_BCHW = part_TC.view(span.batch, span.rows, span.cols, -1).permute(0, 3, 1, 2)
            pyramids[span.modality] = (*features.pyramids[span.modality][:-1], map_BCHW)
        return replace(features, pyramids=pyramids)


def _unrouted(x_TC: Tensor) -> TokenGroups:
    """Of a block without routers: all tokens alike."""
    one_T = torch.ones(len(x_TC), device=x_TC.device)
    return TokenGroups(torch.zeros_like(one_T, dtype=torch.long), one_T[None], ((0, len(x_TC)),))
