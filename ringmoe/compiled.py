"""A model compiled block by block, if its losses while training stay those of the eager one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ringmoe.backbone import RingMoE
from ringmoe.determinism import deterministic
from ringmoe.errors import ConfigError

TOLERANCE = 1e-4
"""Largest relative difference of a loss; a top-1 route that flips by rounding moves one by 1e-5 to 1e-4 in float32."""


def compile_blocks(model: RingMoE, *, backend: str | Callable[..., Any] = "inductor") -> RingMoE:
    """Have torch compile every block, in place: equal blocks share their code, names of tensors stay."""
    for block in model.blocks():
        block.compile(backend=backend)
    return model


def compile_checked(
    model: RingMoE,
    loss_of: Callable[[RingMoE, int], Tensor],
    *,
    steps: int = 5,
    tolerance: float = TOLERANCE,
    backend: str | Callable[..., Any] = "inductor",
) -> RingMoE:
    """Compile a model's blocks, in place, after a copy trained so gave the losses that an eager copy gave.

    Compiled training that drifts from eager training has been seen elsewhere only after thousands of steps; this gate
    finds what is wrong from the start.

    Parameters
    ----------
    model
        Not trained by this; two copies are held for as long as it takes.
    loss_of
        Loss of a model at a step, the same each time it is called for the same weights.
    steps
        Steps of AdamW compared.
    tolerance
        Of the relative difference of each step's loss.

    Raises
    ------
    ConfigError
        The losses differ by more, or this machine cannot compile it; the model stays eager.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second, which those who do not compile are spared

    eager = _losses(copy.deepcopy(model), loss_of, steps)
    try:
        compiled = _losses(compile_blocks(copy.deepcopy(model), backend=backend), loss_of, steps)
    except TorchDynamoException as error:
        raise ConfigError(
            "The model cannot be compiled here",
            item=str(error).partition("\n")[0] or type(error).__name__,
            enough="a compiler that torch finds, for this device and dtype",
            todo="train without compiling, or with another version of torch",
        ) from error
    apart = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(eager, compiled, strict=True))
    if not apart <= tolerance:
        raise ConfigError(
            "The compiled model does not train like the eager one",
            item=f"losses {apart:.1e} apart within {steps} steps",
            enough=f"a relative difference of {tolerance:.0e}",
            todo="train without compiling, or with another version of torch",
        )
    return compile_blocks(model, backend=backend)


def _losses(model: RingMoE, loss_of: Callable[[RingMoE, int], Tensor], steps: int) -> list[float]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for step in range(steps):
        with deterministic(seed=step, device=model.norm.weight.device):
            loss = loss_of(model, step)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append(float(loss.detach()))
    return found
