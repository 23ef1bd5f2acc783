"""AdamW for models that fill a device: moments of one or two bytes a number, weights in bfloat16, all in place.

Whatever does not fit its format is rounded stochastically: up or down with the odds that keep its mean. To nearest,
a change smaller than half a step would be lost for ever: weights would stop, and a second moment that decays by a
thousandth a step would never fall. Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019; Dettmers
et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022.
Shape legend: R block of a parameter, K number in a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

BLOCK = 256
"""Numbers that share a scale at most; fewer where the last axis is no multiple of it."""

SMALLEST = 4096
"""Parameters of fewer numbers keep moments of float32."""

CHUNK = 1 << 24
"""Numbers updated at once, which bounds what is held beside the model: about 12 such chunks of float32."""

FIRST_LEVELS, FIRST_POWER = 127, 3
"""A first moment is sign * scale * (level / 127)^3: levels lie 2.4 % apart at the top; the lowest is 5e-7."""

SECOND_LEVELS, SECOND_POWER = 255, 4
"""A second moment is scale * (level / 255)^4, never level 0, so that no step is divided by nothing."""


class LeanAdamW(torch.optim.Optimizer):
    """AdamW with small moments; equal seeds give equal bits, whatever the size of a chunk.

    Parameters
    ----------
    params
        Parameters or groups of them, float32 or bfloat16; a group may set `lr` and `weight_decay`.
    lr, betas
        Rate, and decay of the two moments.
    states
        "8bit": one byte a moment and one float32 scale a block. "bfloat16": two bytes a moment.
    seed
        Of the rounding.
    compiled
        Fuse the update by torch.compile; on CUDA it is bound by memory traffic, unfused it takes ten times as long.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        states: Literal["8bit", "bfloat16"] = "8bit",
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": 1e-8, "weight_decay": 0.0})
        self.states, self.seed = states, seed
        fuse: Callable[..., Any] = torch.compile(dynamic=True) if compiled else lambda function: function
        self._in_bytes, self._in_floats = fuse(_update_bytes), fuse(_update_floats)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                index += 1
                if parameter.grad is not None and parameter.numel():
                    self._advance(parameter, group, index)

    def _advance(self, parameter: nn.Parameter, group: dict[str, Any], index: int) -> None:
        state = self.state[parameter]
        if not state:
            state |= self._begin(parameter)
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        weight, grad = _local(parameter), _local(parameter.grad)
        if not weight.numel():
            return
        scalars = [beta1, 1 - beta1, beta2, 1 - beta2, group["lr"] / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)]
        scalars += [group["eps"], 1 - group["lr"] * group["weight_decay"]]
        exact = torch.promote_types(weight.dtype, torch.float32)
        numbers = torch.tensor(scalars, dtype=exact, device=weight.device)
        kept = [_local(state[name]) for name in ("m", "v", "m_scale", "v_scale") if name in state]
        block = _block(parameter) if "m_scale" in state else 1
        tensors = [_blocks(tensor, block) for tensor in (weight, grad.contiguous(), *kept[:2])]
        tensors += [_blocks(scale, 1) for scale in kept[2:]]
        update, key, each = (
            self._in_bytes if block > 1 else self._in_floats,
            _key(self.seed, step, index),
            CHUNK // block,
        )
        for start in range(0, len(tensors[0]), each):
            chunk = (tensor[start : start + each].data for tensor in tensors)  # no views, or each would be compiled
            update(*chunk, numbers, key + start * block)

    def _begin(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Moments of zero, laid over the ranks as their parameter is."""
        step = torch.zeros((), device="cpu")
        block, last = _block(parameter), parameter.shape[-1] if parameter.ndim else 1
        if self.states == "8bit" and block:
            scales = {f"{m}_scale": _beside(parameter, last // block, torch.float32) for m in "mv"}
            moments = {"m": _beside(parameter, last, torch.int8), "v": _beside(parameter, last, torch.uint8)}
            return {"step": step, **moments, **scales}
        large = self.states == "bfloat16" and parameter.numel() >= SMALLEST
        dtype = torch.bfloat16 if large else torch.promote_types(parameter.dtype, torch.float32)
        return {"step": step, "m": _beside(parameter, last, dtype), "v": _beside(parameter, last, dtype)}


def _update_floats(w_RK: Tensor, grad_RK: Tensor, m_RK: Tensor, v_RK: Tensor, numbers: Tensor, offset: int) -> None:
    """One step of a chunk whose moments are floats."""
    odds_RK, more_RK = _dither(w_RK, offset)
    m, v, w = _adamw(w_RK, grad_RK, m_RK.to(numbers.dtype), v_RK.to(numbers.dtype), numbers)
    m_RK.copy_(rounded(m, m_RK.dtype, odds_RK >> 16))
    v_RK.copy_(rounded(v, v_RK.dtype, more_RK & 0xFFFF))
    w_RK.copy_(rounded(w, w_RK.dtype, odds_RK & 0xFFFF))


def _update_bytes(
    w_RK: Tensor,
    grad_RK: Tensor,
    m_RK: Tensor,
    v_RK: Tensor,
    m_scale_R1: Tensor,
    v_scale_R1: Tensor,
    numbers: Tensor,
    offset: int,
) -> None:
    """One step of a chunk whose moments are bytes."""
    odds_RK, more_RK = _dither(w_RK, offset)
    m = unpacked(m_RK, m_scale_R1, FIRST_LEVELS, FIRST_POWER)
    v = unpacked(v_RK, v_scale_R1, SECOND_LEVELS, SECOND_POWER)
    m, v, w = _adamw(w_RK, grad_RK, m, v, numbers)
    levels, scale = packed(m, FIRST_LEVELS, FIRST_POWER, odds_RK >> 16)
    m_RK.copy_(levels)
    m_scale_R1.copy_(scale)
    levels, scale = packed(v, SECOND_LEVELS, SECOND_POWER, more_RK & 0xFFFF)
    v_RK.copy_(levels.clamp(min=1))
    v_scale_R1.copy_(scale)
    w_RK.copy_(rounded(w, w_RK.dtype, odds_RK & 0xFFFF))


def _adamw(w_RK: Tensor, grad_RK: Tensor, m: Tensor, v: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w (1 - rate decay) - rate m' / (sqrt(v') + eps), m' and v' being freed of their start at zero."""
    beta1, rest1, beta2, rest2, rate, unbias, eps, keep = numbers.unbind()
    g = grad_RK.to(numbers.dtype)
    m = m * beta1 + g * rest1
    v = v * beta2 + g * g * rest2
    return m, v, w_RK.to(numbers.dtype) * keep - rate * m / (v.sqrt() * unbias + eps)


def rounded(x: Tensor, dtype: torch.dtype, odds: Tensor) -> Tensor:
    """Numbers in another format; to bfloat16 stochastically, by adding `odds`, uniform in 0..65535, to what is cut."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    bits = x.float().view(torch.int32) + odds.to(torch.int32)
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)


def packed(x_RK: Tensor, levels: int, power: int, odds_RK: Tensor) -> tuple[Tensor, Tensor]:
    """Signed levels, float (R, K), and a scale a block (R, 1): x is sign * scale * (level / levels)^power in the mean.

    `odds_RK`, uniform in 0..65535, says which of the two nearest levels is taken; its mean is x.
    """
    scale_R1 = x_RK.abs().amax(-1, keepdim=True)
    share_RK = x_RK.abs() / scale_R1.clamp(min=torch.finfo(x_RK.dtype).tiny)
    low_RK = (share_RK.pow(1 / power) * levels).floor().clamp(max=levels - 1)
    below_RK, above_RK = (low_RK / levels).pow(power), ((low_RK + 1) / levels).pow(power)
    chance_RK = (share_RK - below_RK) / (above_RK - below_RK)
    level_RK = low_RK + ((odds_RK.to(x_RK.dtype) + 0.5) / 65536 < chance_RK).to(x_RK.dtype)
    return level_RK * x_RK.sign(), scale_R1


def unpacked(level_RK: Tensor, scale_R1: Tensor, levels: int, power: int) -> Tensor:
    """sign * scale * (level / levels)^power, (R, K)."""
    share_RK = level_RK.to(scale_R1.dtype) / levels
    return share_RK.sign() * share_RK.abs().pow(power) * scale_R1


def _dither(w_RK: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Two draws of 32 bits for every number, int64 (R, K): a hash of its place, so that devices and chunks agree."""
    place_RK = (torch.arange(w_RK.numel(), device=w_RK.device) + offset).view_as(w_RK)
    odds_RK = _hash(place_RK & 0xFFFFFFFF)
    return odds_RK, _hash(odds_RK ^ 0x2545F491)


def _hash(x: Tensor) -> Tensor:
    """T. Mueller's integer hash of 32 bits, in int64."""
    for _ in range(2):
        x = (((x >> 16) ^ x) * 0x45D9F3B) & 0xFFFFFFFF
    return (x >> 16) ^ x


def _key(seed: int, step: int, index: int) -> int:
    """Where in the hash's range a parameter's draws of a step begin; ranks draw apart."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    key = 0
    for part in (seed, rank, index, step):
        key = (key ^ (part & 0xFFFFFFFF)) * 0x9E3779B97F4A7C15 % 2**64
        key ^= key >> 29
    return key & 0xFFFFFFFF


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _blocks(tensor: Tensor, block: int) -> Tensor:
    """A view (R, K): one shape for all parameters of a kind, so that a fused update is compiled for few."""
    return tensor.view(-1, block)


def _block(parameter: nn.Parameter) -> int:
    """Numbers to a scale, a power of two from 32 to 256; 0 where moments stay float32."""
    if parameter.ndim < 2 or parameter.numel() < SMALLEST or _local(parameter).shape[-1] != parameter.shape[-1]:
        return 0
    block = math.gcd(parameter.shape[-1], BLOCK)
    return block if block >= 32 else 0


def _beside(parameter: nn.Parameter, last: int, dtype: torch.dtype) -> Tensor:
    """Zeros of a parameter's shape with another last axis, laid over the ranks as it is."""
    mine = _local(parameter)
    shape = (*mine.shape[:-1], last) if parameter.ndim and last != parameter.shape[-1] else mine.shape
    zeros = torch.zeros(shape, dtype=dtype, device=mine.device)
    if not isinstance(parameter, DTensor):
        return zeros
    whole = torch.Size((*parameter.shape[:-1], last if parameter.ndim else 1))
    strides = torch.empty(whole, device="meta").stride()
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(zeros, mesh, placements, run_check=False, shape=whole, stride=strides)
