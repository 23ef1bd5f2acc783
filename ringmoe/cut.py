"""What pruning makes of the tensors of one block, wherever they lie: in memory, or each read when it is asked for.

Shape legend: C width, H hidden width, M modality, E expert of a router, S slot in the stack of experts, R router.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ringmoe.moe import Survivors

STACK = tuple(f"experts.experts.{name}" for name in ("w1_ECH", "b1_EH", "w2_EHC", "b2_EC"))
"""Tensors of a block's routed experts by their names in it, slots first."""

MODAL = "experts.specialized.weight"
"""The modalities' routers, one after the other."""

COMMON = "experts.collaborative.weight"
"""The router for all."""


def select(
    tensors: Mapping[str, Tensor], old: Survivors, new: Survivors, rows: Sequence[int]
) -> dict[str, Tensor]:
    """The tensors of a block that some modalities and some routed experts need, as copies.

    Parameters
    ----------
    tensors
        Of the block, by their names in it; asked for one at a time, and only those that are needed.
    old
        Routed experts it has.
    new
        Those to keep, of the modalities to keep.
    rows
        Which modalities are kept, by their place in the model.
    """
    slots = slots_of(old, new, rows)
    index: dict[str, Sequence[int]] = dict.fromkeys(STACK, slots)
    index |= {MODAL: list(rows) if any(new.specialized) else [], COMMON: [0] if new.collaborative else []}
    found = {}
    for name in tensors:
        if name not in index:
            found[name] = tensors[name].detach().clone()
        elif index[name]:
            whole = tensors[name].detach()
            found[name] = whole[torch.tensor(index[name], device=whole.device)]
            del whole
    return found


def slots_of(old: Survivors, new: Survivors, rows: Sequence[int]) -> list[int]:
    """Places in the old stack of the experts of the new one, in the new one's order."""
    order = [(m, e) for m, ids in enumerate(old.specialized) for e in ids] + [(-1, e) for e in old.collaborative]
    place = {expert: i for i, expert in enumerate(order)}
    wanted = [(rows[m], e) for m, ids in enumerate(new.specialized) for e in ids] + [(-1, e) for e in new.collaborative]
    return [place[expert] for expert in wanted]
