"""Compiling is gated by the losses of training: the same seed, compiled and eager."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ringmoe import moe, presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.compiled import compile_checked
from ringmoe.errors import ConfigError
from ringmoe.modality import Chips, Modality

CONTRACT = presets.paper_contract().only([Modality.MS])
SMALL = RingMoEConfig(
    dim=8,
    depths=(1, 1, 1, 1),
    heads=(1, 1, 2, 2),
    window=4,
    pretrain_windows=(4, 4, 4, 2),
    specialized=2,
    collaborative=2,
    embedding="spectral",
    post_norm_init=0.1,
)


def loss_of(model: RingMoE, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    chips = Chips(torch.randn(2, 4, 64, 64, generator=generator), torch.ones(2, 64, 64, dtype=torch.bool))
    last = model({Modality.MS: chips}).pyramids[Modality.MS][-1]
    return (last - torch.randn(last.shape, generator=generator)).square().mean()


def made(config: RingMoEConfig = SMALL) -> RingMoE:
    torch.manual_seed(0)
    return RingMoE(config, CONTRACT)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """The loop path, which every version of torch can compile in float32 on a CPU; nothing compiled before."""
    monkeypatch.setattr(moe, "grouped_path", lambda *_: False)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("apart", [0.0, 1e-3])
def test_the_gate_is_the_losses_of_every_step(apart):
    """Of as many steps as asked, one loss of the compiled copy off by more than the tolerance, at the last step, keeps
    the model eager; none off, and it is compiled. Nothing is traced here: the loss looks at no block."""
    model, seen = made(), []

    def loss_of_norm(copied: RingMoE, step: int) -> Tensor:
        seen.append((copied is model, is_compiled(copied.blocks()[0]), step))
        off = apart if seen[-1][1] and step == 2 else 0.0
        return copied.norm.weight.square().sum() * (1 + off)

    if apart:
        with pytest.raises(ConfigError, match="does not train like") as caught:
            compile_checked(model, loss_of_norm, steps=3)
        assert "within 3 steps" in caught.value.item
    else:
        compile_checked(model, loss_of_norm, steps=3)
    assert seen == [(False, compiled, step) for compiled in (False, True) for step in range(3)]
    assert [is_compiled(block) for block in model.blocks()] == [not apart] * 4


def test_a_model_that_cannot_be_compiled_is_refused():
    """With what the compiler said; the model stays eager."""
    model = made()

    def loss_of_norm(copied: RingMoE, step: int) -> Tensor:
        if is_compiled(copied.blocks()[0]):
            raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nat line 3")
        return copied.norm.weight.square().sum()

    with pytest.raises(ConfigError, match="cannot be compiled here") as caught:
        compile_checked(model, loss_of_norm)
    assert "no C++ compiler" in caught.value.item
    assert not any(is_compiled(block) for block in model.blocks())


def is_compiled(block: nn.Module) -> bool:
    return block._compiled_call_impl is not None


@pytest.mark.slow
def test_compiled_training_has_the_losses_of_eager_training():
    """Five steps of AdamW in float32 through the traced graphs and their backward; the model itself is not trained."""
    model = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compile_checked(model, loss_of, backend="aot_eager", tolerance=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_a_compiler_that_changes_the_losses_is_refused():
    """Here one that makes the last channels that a graph gives larger than the first; a norm would undo one factor."""

    def tilted(y):
        return y * torch.linspace(0.8, 1.2, y.shape[-1]) if torch.is_floating_point(y) and y.ndim else y

    def careless(graph, _inputs):
        return lambda *args: tuple(tilted(y) for y in graph(*args))

    with pytest.raises(ConfigError, match="does not train like") as caught:
        compile_checked(made(), loss_of, backend=careless, steps=2)
    assert caught.value.enough


@pytest.mark.slow
def test_inductor_passes_the_gate():
    """The compiler that is used, twenty steps, two blocks a stage with shifted windows."""
    compile_checked(made(replace(SMALL, depths=(2, 2, 2, 2))), loss_of, steps=20)
