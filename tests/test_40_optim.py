"""Small moments do what large ones do: rounding keeps the mean, nothing freezes, equal seeds give equal bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ringmoe import optim
from ringmoe.optim import LeanAdamW, packed, rounded, unpacked

DRAWS = 1024


def odds(shape: torch.Size, seed: int) -> Tensor:
    return torch.randint(0, 65536, shape, generator=torch.Generator().manual_seed(seed))


def test_rounding_to_bfloat16_keeps_the_mean():
    """Over 1,024 draws the mean is within 5 standard errors of the number; to nearest it is up to half a step away."""
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) * 10.0
    step = 2.0 ** (x.abs().log2().floor() - 7)
    draws = torch.stack([rounded(x, torch.bfloat16, odds(x.shape, i)).float() for i in range(DRAWS)])
    assert ((draws - x).abs() < step).all()
    assert ((draws.mean(0) - x).abs() < 5 * 0.5 * step / DRAWS**0.5).all()
    assert ((x.bfloat16().float() - x).abs() > 5 * 0.5 * step / DRAWS**0.5).any()


@pytest.mark.parametrize(("levels", "power", "dtype"), [(127, 3, torch.int8), (255, 4, torch.uint8)])
def test_a_byte_keeps_the_mean_over_six_orders_of_magnitude(levels, power, dtype):
    """The mean of what is unpacked is what was packed, and the largest of a block comes back exactly."""
    x = torch.logspace(-6, 0, 256)[None].repeat(2, 1)
    x = x if dtype == torch.uint8 else x * torch.tensor([1.0, -1.0]).repeat(128)
    draws = []
    for i in range(DRAWS):
        level, scale = packed(x, levels, power, odds(x.shape, i))
        draws.append(unpacked(level.to(dtype), scale, levels, power))
    mean, spread = torch.stack(draws).mean(0), torch.stack(draws).std(0)
    apart = power / levels * x.abs() ** (1 - 1 / power) + levels**-power  # of two levels, about
    assert ((mean - x).abs() <= 5 * spread / DRAWS**0.5 + 10 * apart / DRAWS).all()
    assert ((draws[0] - x).abs() <= 2 * apart).all()
    assert torch.allclose(draws[0].abs().max(), x.abs().max(), rtol=1e-6)


def regression(optimiser: str, dtype: torch.dtype, seed: int = 0) -> tuple[list[float], Tensor]:
    """Losses of a linear regression whose columns differ in size by a hundred, and the last weights."""
    generator = torch.Generator().manual_seed(1)
    x, size = torch.randn(256, 64, generator=generator), torch.logspace(-2, 0, 64)
    y = x @ (torch.randn(64, 64, generator=generator) * size)
    weight = nn.Parameter(torch.zeros(64, 64, dtype=dtype))
    if optimiser == "float32":
        run: torch.optim.Optimizer = torch.optim.AdamW([weight], lr=0.02, weight_decay=0.01)
    else:
        run = LeanAdamW([{"params": [weight], "weight_decay": 0.01}], lr=0.02, states=optimiser, seed=seed)
    losses = []
    for step in range(200):
        run.param_groups[0]["lr"] = 0.02 * (1 - step / 200)
        loss = (x @ weight.float() - y).square().mean()
        run.zero_grad()
        loss.backward()
        run.step()
        losses.append(loss.item())
    return losses, weight.detach()


@pytest.mark.parametrize(("states", "dtype"), [("8bit", torch.float32), ("bfloat16", torch.bfloat16)])
def test_small_moments_follow_large_ones(states, dtype):
    """At every tenth step the loss is that of torch's AdamW in float32, within 5 %, all the way down."""
    (want, _), (got, _) = regression("float32", torch.float32), regression(states, dtype)
    assert want[-1] < 0.02 * want[0]
    assert got[::10] == pytest.approx(want[::10], rel=0.05)


def test_moments_left_large_give_the_very_step_of_torch():
    """Where a parameter is too small to be packed, it is AdamW to rounding."""
    mine, theirs = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(10))
    lean, torch_s = LeanAdamW([mine], lr=0.1), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for step in range(5):
        mine.grad = theirs.grad = torch.linspace(-1, 1, 10) * (step + 1)
        lean.step()
        torch_s.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("states", ["8bit", "bfloat16"])
def test_the_second_moment_falls_by_a_thousandth_a_step(states):
    """300 steps without gradient leave 0.999^300 = 0.741 of it in the mean; rounded to nearest it would not move."""
    weight = nn.Parameter(torch.zeros(64, 256, dtype=torch.bfloat16))
    run = LeanAdamW([weight], lr=0.0, betas=(0.9, 0.999), states=states)
    weight.grad = torch.rand(64, 256, generator=torch.Generator().manual_seed(0)).add(0.5).bfloat16()
    run.step()

    def second() -> Tensor:
        state = run.state[weight]
        return state["v"].float() if states == "bfloat16" else unpacked(state["v"], state["v_scale"], 255, 4)

    before = second()
    weight.grad = torch.zeros_like(weight)
    for _ in range(300):
        run.step()
    assert (second().sum() / before.sum()).item() == pytest.approx(0.999**300, rel=0.02)
    assert torch.equal((before * 0.999).bfloat16(), before.bfloat16()) or states == "8bit"


def test_equal_seeds_give_equal_bits_whatever_the_chunk(monkeypatch):
    """Another seed rounds otherwise; smaller chunks change nothing."""
    one, other = regression("8bit", torch.bfloat16)[1], regression("8bit", torch.bfloat16, seed=1)[1]
    monkeypatch.setattr(optim, "CHUNK", 64 * 5)
    assert torch.equal(regression("8bit", torch.bfloat16)[1], one)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("states", "bytes_each"), [("8bit", 2 + 2 * 4 / 256), ("bfloat16", 4)])
def test_what_the_moments_take(states, bytes_each):
    """Bytes a parameter: 2.03 and 4."""
    weight = nn.Parameter(torch.ones(64, 1024, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    run = LeanAdamW([weight], states=states)
    run.step()
    held = sum(value.nbytes for name, value in run.state[weight].items() if name != "step")
    assert held / weight.numel() == pytest.approx(bytes_each)
