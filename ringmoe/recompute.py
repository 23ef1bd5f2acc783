"""What the backward pass computes again instead of keeping it: the expert branches, where nearly all of it is."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ringmoe.backbone import RingMoE

Recompute: TypeAlias = Literal["nothing", "activations", "branches"]
"""`activations`: products of matrices are kept, GELU, biases and permutations done again, which costs no products and
halves what is kept. `branches`: every expert branch is done again, a third more work in all, and least memory."""


def recompute(model: RingMoE, what: Recompute) -> RingMoE:
    """Say what the expert branch of every block computes again in the backward pass, in place; values stay the same.

    Attention is never done again. To be called before a model is laid over ranks, and once.
    """
    if what == "nothing":
        return model
    again: Any = partial(checkpoint, use_reentrant=False)
    if what == "activations":
        again = partial(again, context_fn=partial(create_selective_checkpoint_contexts, _policy))
    for block in model.blocks():
        block.experts.forward = partial(again, block.experts.forward)  # type: ignore[method-assign]
    return model


_COSTLY = {"mm", "addmm", "bmm", "grouped_mm", "_grouped_mm", "all_to_all_single", "sort"}
"""Operators whose results are kept: products of matrices, and what travelled between ranks."""


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what is costly; what writes into a tensor it was given must be done again, or that tensor stays empty."""
    if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable:
        return CheckpointPolicy.PREFER_RECOMPUTE
    name = operator._schema.name.rsplit("::", 1)[-1]
    return CheckpointPolicy.MUST_SAVE if name in _COSTLY else CheckpointPolicy.PREFER_RECOMPUTE
