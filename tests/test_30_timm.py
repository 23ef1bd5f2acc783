"""Attention, block and whole dense models against timm's Swin V2, in double precision."""

from __future__ import annotations

import pytest
import timm_reference
import torch
from torch import Tensor, nn

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.modality import Chips, Modality

pytestmark = [
    pytest.mark.skipif(not timm_reference.available(), reason="timm is not installed"),
    pytest.mark.usefixtures("one_thread"),
]

CLOSE = 1e-10
"""Largest difference of a value; features are of the order of 1."""


def config_of(pixels: int) -> RingMoEConfig:
    """Tiny's windows and a shift in every stage that is wide enough, at a third of its width; nothing is routed."""
    maps = [pixels // 4 // 2**stage for stage in range(4)]
    return RingMoEConfig(
        dim=32,
        depths=(2, 2, 2, 2),
        heads=(1, 2, 4, 8),
        window=12,
        pretrain_windows=tuple(min(12, side) for side in maps),
        specialized=0,
        collaborative=0,
        post_norm_init=1.0,
    )


def model_of(pixels: int) -> RingMoE:
    """A model far from its start: biases, norms and scales that matter."""
    torch.manual_seed(pixels)
    model = RingMoE(config_of(pixels), presets.paper_contract().only([Modality.OPT])).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight", "norm1.weight", "norm2.weight")):
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
        elif name.endswith("logit_scale"):
            nn.init.uniform_(parameter, 1.0, 5.5)
    return model


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("pixels", [96, 192, 384])
def test_a_dense_model_gives_what_timm_gives(pixels):
    """Every level of the pyramid; timm's levels are normed as ours are."""
    model = model_of(pixels)
    reference, levels = timm_reference.twin(model, 3, pixels), []
    for layer in reference.layers:
        layer.register_forward_hook(lambda _, __, y: levels.append(nn.functional.layer_norm(y, y.shape[-1:])))
    x = torch.randn(1, 3, pixels, pixels, dtype=torch.float64)
    with torch.no_grad():
        last = reference.forward_features(x)
        ours = model({Modality.OPT: Chips(x, torch.ones(1, pixels, pixels, dtype=torch.bool))}).pyramids[Modality.OPT]
    for mine, theirs in zip(ours, [*levels[:3], last], strict=True):
        assert largest(mine.permute(0, 2, 3, 1), theirs) < CLOSE


@pytest.mark.parametrize("index", [0, 1])
def test_attention_and_its_gradients_are_timms(index):
    """Windows whole and shifted, of a stage wide enough for four of them; value, input gradient, weights' gradients."""
    model = model_of(192)
    ours, theirs = model.stages[1][index].attention, timm_reference.twin(model, 3, 192).layers[1].blocks[index]
    x = torch.randn(2, 24, 24, 64, dtype=torch.float64)
    cotangent = torch.randn_like(x)
    values = [x.clone().requires_grad_() for _ in range(2)]
    results = [ours(values[0]), theirs._attn(values[1])]
    assert largest(*results) < CLOSE
    for result in results:
        (result * cotangent).sum().backward()
    assert largest(values[0].grad, values[1].grad) < CLOSE
    named = dict(theirs.attn.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = named[name.replace("bias_net", "cpb_mlp")].grad
        assert largest(parameter.grad, gradient) < CLOSE * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("index", [0, 1])
def test_a_block_is_timms(index):
    """Attention, post-norms and the network, in one residual block."""
    model = model_of(192)
    ours, theirs = model.stages[1][index], timm_reference.twin(model, 3, 192).layers[1].blocks[index]
    x = torch.randn(2, 24, 24, 64, dtype=torch.float64)
    flat = x.flatten(0, 2)
    with torch.no_grad():
        attended = flat + ours.norm1(ours.attention(x).flatten(0, 2))
        mine = attended + ours.norm2(ours.experts.shared(attended))
        assert largest(mine.view_as(x), theirs(x)) < CLOSE
