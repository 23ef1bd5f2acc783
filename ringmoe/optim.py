"""AdamW for models that fill a device: moments of one or two bytes a number, weights in bfloat16, all in place.

Whatever does not fit its format is rounded stochastically: up or down with the odds that keep its mean. To nearest,
a change smaller than half a step would be lost for ever: weights would stop, and a second moment that decays by a
thousandth a step would never fall. Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019; Dettmers
et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022.
Shape legend: R row, L last axis of a parameter, N block of a row, K number in a block.
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
"""A first moment is sign * scale * (level / 127)^3: 2.4 % between levels at the top, 5e-7 of the scale at the bottom."""

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
        rows = _rows(weight)
        kept = [state[name] for name in ("m", "v", "m_scale", "v_scale") if name in state]
        tensors = [rows, grad.reshape(rows.shape), *(_rows(_local(value)) for value in kept)]
        key = _key(self.seed, step, index)
        update = self._in_bytes if "m_scale" in state else self._in_floats
        each = max(1, CHUNK // rows.shape[1])
        for start in range(0, len(rows), each):
            first = torch.tensor(start * rows.shape[1], device=weight.device)
            update(*(tensor[start : start + each] for tensor in tensors), numbers, key, first)

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


def _update_floats(
    w_RL: Tensor, grad_RL: Tensor, m_RL: Tensor, v_RL: Tensor, numbers: Tensor, key: int, first: Tensor
) -> None:
    """One step of a chunk whose moments are floats."""
    odds_RL, more_RL = _dither(w_RL, key, first)
    m, v, w = _adamw(w_RL, grad_RL, m_RL.to(numbers.dtype), v_RL.to(numbers.dtype), numbers)
    m_RL.copy_(rounded(m, m_RL.dtype, odds_RL >> 16))
    v_RL.copy_(rounded(v, v_RL.dtype, more_RL & 0xFFFF))
    w_RL.copy_(rounded(w, w_RL.dtype, odds_RL & 0xFFFF))


def _update_bytes(
    w_RL: Tensor,
    grad_RL: Tensor,
    m_RL: Tensor,
    v_RL: Tensor,
    m_scale_RN: Tensor,
    v_scale_RN: Tensor,
    numbers: Tensor,
    key: int,
    first: Tensor,
) -> None:
    """One step of a chunk whose moments are bytes."""
    odds_RL, more_RL = _dither(w_RL, key, first)
    m = unpacked(m_RL, m_scale_RN, FIRST_LEVELS, FIRST_POWER)
    v = unpacked(v_RL, v_scale_RN, SECOND_LEVELS, SECOND_POWER)
    m, v, w = _adamw(w_RL, grad_RL, m, v, numbers)
    levels, scale = packed(m, m_scale_RN.shape[1], FIRST_LEVELS, FIRST_POWER, odds_RL >> 16)
    m_RL.copy_(levels)
    m_scale_RN.copy_(scale)
    levels, scale = packed(v, v_scale_RN.shape[1], SECOND_LEVELS, SECOND_POWER, more_RL & 0xFFFF)
    v_RL.copy_(levels.clamp(min=1))
    v_scale_RN.copy_(scale)
    w_RL.copy_(rounded(w, w_RL.dtype, odds_RL & 0xFFFF))


def _adamw(w_RL: Tensor, grad_RL: Tensor, m: Tensor, v: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w (1 - rate decay) - rate m' / (sqrt(v') + eps), m' and v' being freed of their start at zero."""
    beta1, rest1, beta2, rest2, rate, unbias, eps, keep = numbers.unbind()
    g = grad_RL.to(numbers.dtype)
    m = m * beta1 + g * rest1
    v = v * beta2 + g * g * rest2
    return m, v, w_RL.to(numbers.dtype) * keep - rate * m / (v.sqrt() * unbias + eps)


def rounded(x: Tensor, dtype: torch.dtype, odds: Tensor) -> Tensor:
    """Numbers in another format; to bfloat16 stochastically, by adding `odds`, uniform in 0..65535, to what is cut."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    bits = x.float().view(torch.int32) + odds.to(torch.int32)
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)


def packed(x_RL: Tensor, blocks: int, levels: int, power: int, odds_RL: Tensor) -> tuple[Tensor, Tensor]:
    """Signed levels, float (R, L), and scales (R, N): x is sign * scale * (level / levels)^power in the mean.

    `odds_RL`, uniform in 0..65535, says which of the two nearest levels is taken; its mean is x.
    """
    x_RNK = x_RL.view(len(x_RL), blocks, -1)
    scale_RN = x_RNK.abs().amax(-1)
    share_RNK = x_RNK.abs() / scale_RN.clamp(min=torch.finfo(x_RL.dtype).tiny)[..., None]
    low_RNK = (share_RNK.pow(1 / power) * levels).floor().clamp(max=levels - 1)
    below, above = (low_RNK / levels).pow(power), ((low_RNK + 1) / levels).pow(power)
    chance_RNK = (share_RNK - below) / (above - below)
    drawn_RNK = (odds_RL.view_as(x_RNK).to(x_RL.dtype) + 0.5) / 65536
    level_RNK = low_RNK + (drawn_RNK < chance_RNK).to(x_RL.dtype)
    return (level_RNK * x_RNK.sign()).view_as(x_RL), scale_RN


def unpacked(level_RL: Tensor, scale_RN: Tensor, levels: int, power: int) -> Tensor:
    """sign * scale * (level / levels)^power, (R, L)."""
    share_RNK = (level_RL.to(scale_RN.dtype) / levels).view(*scale_RN.shape, -1)
    return (share_RNK.sign() * share_RNK.abs().pow(power) * scale_RN[..., None]).view_as(level_RL)


def _dither(w_RL: Tensor, key: int, first: Tensor) -> tuple[Tensor, Tensor]:
    """Two draws of 32 bits for every number, int64 (R, L): a hash of its place, so that devices and chunks agree."""
    place_RL = (torch.arange(w_RL.numel(), device=w_RL.device) + first).view_as(w_RL)
    odds_RL = _hash((place_RL + key) & 0xFFFFFFFF)
    return odds_RL, _hash(odds_RL ^ 0x2545F491)


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


def _rows(tensor: Tensor) -> Tensor:
    return tensor.view(-1, tensor.shape[-1] if tensor.ndim else 1)


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
