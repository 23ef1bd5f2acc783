"""Computing expert branches again changes no value, and does again what it says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from parallel_ranks import CONFIG, laid
from torch.utils._python_dispatch import TorchDispatchMode


class Counted(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[operator._schema.name.split("::")[1]] += 1
        return operator(*args, **(kwargs or {}))


def step(what: Any) -> tuple[float, list[torch.Tensor], Counter[str]]:
    """Loss, gradients, and the operators of the backward pass."""
    module, loss_of = laid(torch.float32, None, CONFIG, what)
    loss = loss_of()
    with Counted() as counted:
        loss.backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return loss.item(), grads, counted.calls


PRODUCTS = ("mm", "addmm", "grouped_mm", "_grouped_mm")


@pytest.mark.parametrize("what", ["activations", "branches"])
def test_values_and_gradients_are_the_same_to_the_bit(what):
    """What is done again gives what it gave."""
    want, got = step("nothing"), step(what)
    assert got[0] == want[0]
    assert all(torch.equal(a, b) for a, b in zip(want[1], got[1], strict=True))


def test_activations_are_done_again_with_fewer_products_than_branches():
    """Products that were kept are not done again; GELU is, in both."""
    plain, light, heavy = (step(what)[2] for what in ("nothing", "activations", "branches"))
    products = [sum(calls[name] for name in PRODUCTS) for calls in (plain, light, heavy)]
    assert products[0] <= products[1] < products[2]
    assert plain["gelu"] < min(light["gelu"], heavy["gelu"])
