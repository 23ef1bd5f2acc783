"""Image sizes: any multiple of 32, windows clipped where the map is smaller, the position bias's own measure."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ringmoe import presets
from ringmoe.attention import WindowAttention
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.modality import Chips, Modality

SHAPE = RingMoEConfig(
    dim=8,
    depths=(2, 2, 2, 2),
    heads=(1, 1, 2, 2),
    window=6,
    pretrain_windows=(6, 6, 6, 3),
    specialized=1,
    collaborative=1,
    post_norm_init=1.0,
)


def model_of(config: RingMoEConfig = SHAPE) -> RingMoE:
    torch.manual_seed(0)
    return RingMoE(config, presets.paper_contract().only([Modality.MS])).double().eval()


def chips(rows: int, cols: int) -> Chips:
    pixels = torch.randn(1, 4, rows, cols, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    return Chips(pixels, torch.ones(1, rows, cols, dtype=torch.bool))


@pytest.mark.parametrize("size", [(32, 32), (32, 160), (96, 64), (224, 96)])
def test_every_multiple_of_32_is_taken(size):
    """Pyramids of the right shape, finite, with a gradient to every pixel, though windows pad, clip and shift."""
    batch = chips(*size)
    batch.pixels_BCHW.requires_grad_()
    found = model_of()({Modality.MS: batch}).pyramids[Modality.MS]
    for level, map_BCHW in enumerate(found):
        assert map_BCHW.shape == (1, 8 * 2**level, size[0] // 4 // 2**level, size[1] // 4 // 2**level)
        assert torch.isfinite(map_BCHW).all()
    weight = torch.randn(found[0].shape, dtype=torch.float64)
    (found[0] * weight).sum().backward()
    assert (batch.pixels_BCHW.grad.abs() > 0).all()


@pytest.mark.parametrize("size", [(32, 160), (224, 96)])
def test_turning_an_image_turns_its_features_where_the_position_bias_is_even(size):
    """Rows for columns: padding, clipping and shifts treat both axes alike."""
    model, batch = model_of(), chips(*size)
    with torch.no_grad():
        model.embedding(Modality.MS).proj.weight.copy_(
            (model.embedding(Modality.MS).proj.weight + model.embedding(Modality.MS).proj.weight.transpose(2, 3)) / 2
        )
        for stage, merge in enumerate(model.merges):
            if stage:
                w = merge.reduction.weight.view(merge.reduction.weight.shape[0], 2, 2, -1)
                w.copy_((w + w.transpose(1, 2)) / 2)
        for block in model.blocks():
            first = block.attention.bias_net[0].weight
            first.copy_(first.mean(1, keepdim=True).expand_as(first))
        turned = Chips(batch.pixels_BCHW.transpose(2, 3).contiguous(), batch.valid_BHW.transpose(1, 2))
        found = (model({Modality.MS: b}).pyramids[Modality.MS] for b in (batch, turned))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a.transpose(2, 3), b, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("window", "pretrained"), [(6, 6), (6, 3), (3, 6), (1, 6)])
def test_the_position_bias_is_measured_in_windows_of_pretraining(window, pretrained):
    """16 sigmoid(net(sign(d) log2(1 + 8 |d| / (W - 1)) / 3)) for every pair, W the window of pre-training."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, window, pretrained, shifted=False).double()
    bias = attention.position_bias((window, window))
    cells = [(r, c) for r in range(window) for c in range(window)]
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            offsets = [(x - y) * 8 / (pretrained - 1) for x, y in zip(a, b, strict=True)]
            place = torch.tensor([math.copysign(math.log2(1 + abs(d)) / 3, d) for d in offsets], dtype=torch.float64)
            torch.testing.assert_close(bias[:, i, j], 16 * torch.sigmoid(attention.bias_net(place)))


def test_presets_keep_the_window_each_stage_had_in_pretraining():
    """Twelve where the map is wider, the map's side where it is not; larger images later change nothing of that."""
    assert presets.giant(192).pretrain_windows == (12, 12, 12, 6)
    assert presets.giant(384).pretrain_windows == (12, 12, 12, 12)
    assert presets.nano(64).pretrain_windows == (8, 8, 4, 2)
    small, large = (model_of(replace(SHAPE, pretrain_windows=w)) for w in ((6, 6, 6, 3), (6, 6, 6, 6)))
    a, b = (m({Modality.MS: chips(96, 96)}).pyramids[Modality.MS] for m in (small, large))
    assert torch.equal(a[2], b[2])
    assert not torch.equal(a[3], b[3])
