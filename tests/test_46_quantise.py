"""Fewer bits: what is lost is bounded, what is saved comes back, and the size is what was promised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ringmoe import presets, quantise
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.checkpoint import load, save
from ringmoe.errors import CheckpointError, ConfigError
from ringmoe.modality import Chips, Modality

CONTRACT = presets.paper_contract().only([Modality.OPT, Modality.MS])
ROUTED = RingMoEConfig(
    dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2), post_norm_init=1.0
)
SMALLER = (
    "qkv.weight",
    "attention.proj.weight",
    "reduction.weight",
    "shared.0.weight",
    "shared.2.weight",
    "w1_ECH",
    "w2_EHC",
)
DENSE = replace(ROUTED, specialized=0, collaborative=0)


def made(config: RingMoEConfig) -> RingMoE:
    torch.manual_seed(0)
    return RingMoE(config, CONTRACT).eval()


def batch() -> dict[Modality, Chips]:
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    return {
        m: Chips(torch.randn(2, len(c.bands), 64, 64, generator=generator), valid) for m, c in CONTRACT.inputs.items()
    }


def features(model: RingMoE) -> Tensor:
    with torch.no_grad():
        return torch.cat([level.float().flatten() for maps in model(batch()).pyramids.values() for level in maps])


def test_rounding_loses_at_most_half_a_step_of_its_channel():
    """Steps are the largest magnitude of a channel over 127; powers of two times whole numbers come back exactly."""
    weight_NC = (
        torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 1, 3, 50, 0])[:, None]
    )
    whole, scale = quantise.rounded(weight_NC, 1)
    assert whole.dtype == torch.int8
    assert whole[:4].abs().amax(1).tolist() == [127] * 4
    assert torch.equal(scale[:4, 0], weight_NC[:4].abs().amax(1) / 127)
    assert ((whole * scale - weight_NC).abs() <= scale * 0.5001).all()
    assert torch.equal((whole * scale)[4], torch.zeros(300))
    exact = torch.arange(-127.0, 128).view(1, -1) * 0.25
    assert torch.equal(torch.mul(*quantise.rounded(exact, 1)), exact)


@pytest.mark.parametrize("config", [DENSE, ROUTED], ids=["dense", "routed"])
def test_weights_that_int8_can_hold_give_the_same_features(config):
    """Every matrix whole numbers of -127 to 127 over 1024: nothing is lost anywhere, the parent is as it was."""
    model = made(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(SMALLER):
                parameter.copy_(torch.randint(-127, 128, parameter.shape, generator=generator) / 1024)
                parameter.select(1, 0).fill_(127 / 1024)  # every channel has the largest
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = quantise.int8(model)
    assert torch.equal(features(small), features(model))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(name.endswith("qkv.weight") for name in small.state_dict())


def test_a_dense_model_keeps_its_features_in_int8_and_bfloat16():
    """A hundredth of their norm in stage 1 and five in stage 4; int8 takes a quarter and scales, bfloat16 half."""
    model = made(DENSE)
    int8, bf16 = (quantise.loss(model, small, batch()) for small in (quantise.int8(model), quantise.bf16(model)))
    same = quantise.loss(model, model, batch())
    assert same.relative_error == (0.0,) * 4
    assert same.size_ratio == 1.0
    for found in (int8, bf16):
        assert 0 < found.relative_error[0] < 0.01
        assert max(found.relative_error) < 0.05
        assert min(found.cosine) > 0.999
    assert bf16.size_ratio == 0.5
    assert 0.25 < int8.size_ratio < 0.4
    whole = sum(t.nbytes for t in quantise.int8(model).state_dict().values())
    assert int8.bytes == whole


@pytest.mark.parametrize("config", [DENSE, ROUTED], ids=["dense", "routed"])
def test_a_quantised_model_goes_through_the_ordinary_door(config, tmp_path):
    """Saved, loaded and saved again: the same features, the same bytes; nothing else has changed its dtype."""
    small = quantise.int8(made(config))
    digest = save(tmp_path / "a", small)
    found = load(tmp_path / "a").model
    assert {t.dtype for t in found.state_dict().values()} == {torch.int8, torch.float32}
    assert torch.equal(features(found), features(small))
    assert save(tmp_path / "b", found) == digest
    half = quantise.bf16(made(config))
    save(tmp_path / "c", half)
    assert torch.equal(features(load(tmp_path / "c").model), features(half))
    assert sum(p.stat().st_size for p in (tmp_path / "a").iterdir()) < 0.7 * sum(
        p.stat().st_size for p in (tmp_path / "c").iterdir()
    )


def test_integers_in_the_place_of_numbers_are_refused(tmp_path):
    """A model that names int8 among its dtypes must hold it where quantised weights are, and nowhere else."""
    small = quantise.int8(made(DENSE))
    small.norm.weight = torch.nn.Parameter(torch.ones(128, dtype=torch.int8), requires_grad=False)
    save(tmp_path, small)
    with pytest.raises(CheckpointError, match=r"another dtype: norm.weight torch.int8"):
        load(tmp_path)


def test_only_float32_is_quantised():
    """Twice, or from bfloat16, the scales would be of rounded weights."""
    for model in (quantise.bf16(made(DENSE)), quantise.int8(made(DENSE))):
        with pytest.raises(ConfigError, match="Only a model in float32") as caught:
            quantise.int8(model)
        assert caught.value.todo
