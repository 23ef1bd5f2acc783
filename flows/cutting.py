"""A model and what is asked of it -> the models that pruning leaves on the way there, none of them trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import torch

from flows import sizes
from flows.models import device
from flows.refs import PruneRequest
from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.budget import Budget, Choice, reach, spend
from ringmoe.criteria import Router, to_keep
from ringmoe.errors import PruneError
from ringmoe.modality import Batch, Modality
from ringmoe.moe import Survivors
from ringmoe.prune import (
    Usage,
    integrate,
    profile,
    slice_modalities,
    survivors_of_blocks,
    with_survivors,
    without,
)
from ringmoe.refit import refit

PROFILE_BATCHES = 8
"""Batches over which experts are watched."""


@dataclass(frozen=True)
class Goal:
    """What is asked of a checkpoint."""

    request: PruneRequest
    """All of it."""
    modality: Modality
    """Of the sensor that it will serve."""
    head: int
    """Parameters of the task's head, which stays as it is."""
    dtype: torch.dtype
    """Of the weights."""

    @property
    def asked(self) -> sizes.Slots | sizes.Size | None:
        """How small; None goes all the way to one dense network a block."""
        return None if self.request.to is None else sizes.parse(self.request.to)


class Hands(Protocol):
    """What cuts models; they are left where they are, in memory or in files."""

    def sliced(self, model: RingMoE, modality: Modality) -> RingMoE:
        """The sub-model of a modality."""

    def profiled(self, model: RingMoE, batches: Iterable[Batch]) -> Usage:
        """What its experts do on some chips."""

    def kept(self, model: RingMoE, usage: Usage, left: Sequence[Survivors]) -> RingMoE:
        """It with these experts."""

    def dense(self, model: RingMoE, usage: Usage, request: PruneRequest, batches: Iterable[Batch]) -> RingMoE:
        """It with one network a block."""


class InMemory:
    """Whole models, on the GPU where there is one."""

    def sliced(self, model: RingMoE, modality: Modality) -> RingMoE:
        """As `ringmoe.prune.slice_modalities`."""
        return slice_modalities(model.to(device()), [modality])

    def profiled(self, model: RingMoE, batches: Iterable[Batch]) -> Usage:
        """As `ringmoe.usage.profile`."""
        return profile(model, batches)

    def kept(self, model: RingMoE, usage: Usage, left: Sequence[Survivors]) -> RingMoE:
        """As `ringmoe.prune.with_survivors`."""
        return with_survivors(model, usage, left)

    def dense(self, model: RingMoE, usage: Usage, request: PruneRequest, batches: Iterable[Batch]) -> RingMoE:
        """As `ringmoe.integrate.integrate`, and then refitted where that is asked for."""
        found = integrate(model, usage, method=request.method)
        return refit(found, model, list(batches)) if request.refit and model.config != found.config else found


IN_MEMORY = InMemory()


@dataclass(frozen=True)
class Cut:
    """What pruning left."""

    stages: tuple[tuple[str, RingMoE], ...]
    """The parent and each smaller model by name, the last one the result."""
    usage: Usage
    """Profile of the slice."""


def dense_config(config: RingMoEConfig) -> RingMoEConfig:
    """The same with one network in every block: the least that is left of it."""
    return replace(config, specialized=0, collaborative=0, shared=1, survivors=None)


def parameters(model: torch.nn.Module) -> int:
    """Count of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def result_parameters(parent: RingMoE, goal: Goal) -> int:
    """Most parameters that the result can have, its head counted; nothing is computed yet.

    Raises
    ------
    PruneError
        What is asked for is below what is possible.
    """
    contract = parent.contract.only([goal.modality])
    least = presets.describe(dense_config(parent.config), contract).parameters + goal.head
    asked = goal.asked
    if asked is None:
        return least
    if isinstance(asked, sizes.Slots):
        for count in asked.counts:
            _check_slots(parent, count, goal.modality)
        if asked.counts[-1] == 1:
            return least
        config = replace(parent.config, survivors=_first(parent, asked.counts[-1], goal.modality))
        return presets.describe(config, contract).parameters + goal.head
    room = sizes.fitting(asked, parameters(parent) + goal.head, goal.dtype.itemsize, least)
    return int(min(room, slice_parameters(parent, goal.modality) + goal.head))


def may_be_dense(goal: Goal) -> bool:
    """Whether one network a block may be what comes of it."""
    return not isinstance(goal.asked, sizes.Slots) or goal.asked.counts[-1] == 1


def slice_parameters(parent: RingMoE, modality: Modality) -> int:
    """Parameters of the encoder of one modality, with all of its experts."""
    config = replace(parent.config, survivors=_first(parent, sizes.MOST_SLOTS, modality))
    return presets.describe(config, parent.contract.only([modality])).parameters


def cut(
    parent: RingMoE, goal: Goal, batches: Iterable[Batch], known: Usage | None = None, hands: Hands = IN_MEMORY
) -> Cut:
    """Slice, keep experts, integrate, as far down as it is asked for.

    Parameters
    ----------
    batches
        At least 3 PROFILE_BATCHES of chips that the result will work on.
    known
        A profile of the slice; None profiles it.
    hands
        What cuts.

    Raises
    ------
    PruneError
        The profile is of another checkpoint, or there is no such model.
    """
    source = iter(batches)
    sliced = hands.sliced(parent, goal.modality)
    if known is not None:
        known.check(sliced)
    is_dense = _is_dense(parent, sliced, goal)
    usage = known or hands.profiled(sliced, _some(source))
    stages = [("teacher", parent), (f"{goal.modality.value} slice", sliced)]
    name, left = _pruned(sliced, usage, goal.request) if is_dense else _kept(parent, sliced, usage, goal)
    if list(left) != survivors_of_blocks(sliced):
        stages.append((name, hands.kept(sliced, usage, left)))
    if is_dense:
        base = stages[-1][1]
        seen = usage if base is sliced else hands.profiled(base, _some(source))
        stages.append(
            (f"dense ({goal.request.method})", hands.dense(base, seen, goal.request, islice(source, PROFILE_BATCHES)))
        )
    return Cut(tuple(stages), usage)


def _some(source: Iterable[Batch]) -> list[Batch]:
    return list(islice(source, PROFILE_BATCHES))


def _kept(parent: RingMoE, sliced: RingMoE, usage: Usage, goal: Goal) -> tuple[str, Sequence[Survivors]]:
    """As many experts of the slice as are asked for, and a name for what is left."""
    request, asked = goal.request, goal.asked
    assert asked is not None
    if isinstance(asked, sizes.Slots):
        left = [_slots(usage, i, asked.counts[-1], request) for i in range(len(sliced.blocks()))]
        return f"{asked.counts[-1]} experts a block", left
    room = _room(parent, goal, asked)
    return f"within {asked.text}", spend(sliced, usage, Budget(room, "params"), _choice(request))


def _pruned(sliced: RingMoE, usage: Usage, request: PruneRequest) -> tuple[str, Sequence[Survivors]]:
    """The collaborative experts of the slice that are left before it becomes dense, and a name for that."""
    left = [_fewer(usage, i, None, request.collaborative, request) for i in range(len(sliced.blocks()))]
    return f"{max(len(kept.collaborative) for kept in left)} collaborative", left


def _choice(request: PruneRequest) -> Choice:
    return Choice(("specialized", "collaborative"), 1, request.criterion, request.dropped)


def _room(parent: RingMoE, goal: Goal, asked: sizes.Size) -> float:
    """Parameters that the encoder may have."""
    contract = parent.contract.only([goal.modality])
    least = presets.describe(dense_config(parent.config), contract).parameters + goal.head
    return sizes.fitting(asked, parameters(parent) + goal.head, goal.dtype.itemsize, least) - goal.head


def _is_dense(parent: RingMoE, sliced: RingMoE, goal: Goal) -> bool:
    """Whether nothing but one network a block is small enough."""
    asked = goal.asked
    if asked is None:
        return True
    if isinstance(asked, sizes.Slots):
        return asked.counts[-1] == 1
    can = reach(sliced, Budget(1.0, "params"), _choice(goal.request))
    return _room(parent, goal, asked) < can.least


def _fewer(usage: Usage, block: int, modal: int | None, common: int | None, request: PruneRequest) -> Survivors:
    """What a block keeps: so many experts of each router, all where it is None or there are no more."""
    old = usage.config.survivors_of(block, len(usage.modalities))

    def best(router: Router, ids: tuple[int, ...], count: int | None) -> tuple[int, ...]:
        if count is None or count >= len(ids):
            return ids
        return to_keep(usage, router, count, request.criterion, request.dropped)

    rows = enumerate(old.specialized)
    specialized = tuple(best(Router(block, "specialized", row), ids, modal) for row, ids in rows)
    collaborative = best(Router(block, "collaborative"), old.collaborative, common)
    return without(old, Survivors(specialized, collaborative), request.dropped)


def _slots(usage: Usage, block: int, count: int, request: PruneRequest) -> Survivors:
    """Collaborative experts go first, to the last one, and then specialized ones, to the last."""
    old = usage.config.survivors_of(block, len(usage.modalities))
    modal, common = _shared_out(count - usage.config.shared, len(old.specialized[0]), len(old.collaborative))
    return _fewer(usage, block, modal, common, request)


def _shared_out(routed: int, modal: int, common: int) -> tuple[int, int]:
    """Of so many experts of both kinds, how many stay when so many may, in the order of `_slots`."""
    kept = min(common, max(1, routed - modal))
    return min(modal, max(1, routed - kept)), kept


def _first(parent: RingMoE, count: int, modality: Modality) -> tuple[Survivors, ...]:
    """As many survivors a block as there will be, of the one modality; which ones is not known yet."""
    found, row = [], parent.modalities.index(modality)
    for old in survivors_of_blocks(parent):
        ids = old.specialized[row]
        modal, common = _shared_out(count - parent.config.shared, len(ids), len(old.collaborative))
        found.append(Survivors((ids[:modal],), old.collaborative[:common]))
    return tuple(found)


def _check_slots(parent: RingMoE, count: int, modality: Modality) -> None:
    """PruneError where no block can have so many networks, and not one either."""
    row = parent.modalities.index(modality)
    kinds = {bool(old.specialized[row]) + bool(old.collaborative) for old in survivors_of_blocks(parent)}
    least = parent.config.shared + max(kinds)
    if count != 1 and count < least:
        raise PruneError(
            f"{count} experts a block are below what is possible",
            item=f"a model with {max(kinds)} kinds of routed experts and {parent.config.shared} shared",
            enough=f"1, which is dense, or {least} or more: one of each kind",
            todo="ask for one of these",
        )
