"""A budget for a whole model, spent over its blocks where it costs least.

Experts of one router are alternatives: of each block and kind a list says what is lost and what is saved for every
number of experts gone. Of that list only its lower convex hull counts, and its steps, over all blocks, are taken in the
order of loss per saving until the model fits; so nothing else of its size loses less, up to the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.criteria import Criterion, Dropped, Kind, Router, lost, to_keep
from ringmoe.errors import PruneError
from ringmoe.moe import Survivors
from ringmoe.presets import describe
from ringmoe.prune import survivors_of_blocks, with_survivors, without
from ringmoe.usage import Usage

Unit = Literal["params", "flops", "bytes", "share"]

ROUNDING = 1e-12
"""Share of the whole that a budget may be missed by, so that what can just be reached is."""

UNITS: tuple[Unit, ...] = ("params", "flops", "bytes", "share")


@dataclass(frozen=True)
class Budget:
    """What a whole encoder may take."""

    amount: float
    """At most this; above 0."""
    unit: Unit
    """Parameters; FLOPs of one image of one modality, a multiplication and an addition being two; bytes of weights; or
    parameters as a share of the parent's."""
    dtype: torch.dtype = torch.float32
    """Of the weights that bytes are counted of."""
    pixels: int = 192
    """Side of the image that FLOPs are counted of."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS or not 0 < self.amount < float("inf"):
            raise PruneError(
                "That is no budget",
                item=f"{self.amount} {self.unit}",
                enough=f"a number above 0 of {', '.join(UNITS)}",
                todo="say how much of what the model may take",
            )

    def spent(self, config: RingMoEConfig, contract: DataContract) -> float:
        """What a model takes, in the budget's unit; a share counts parameters."""
        cost = describe(config, contract, self.pixels)
        if self.unit == "flops":
            return cost.flops
        return float(cost.parameters * (self.dtype.itemsize if self.unit == "bytes" else 1))


@dataclass(frozen=True)
class Choice:
    """How a budget is spent."""

    kinds: tuple[Kind, ...] = ("collaborative",)
    """Experts that may go."""
    least: int = 1
    """Fewest experts that a router keeps; 0 lets a kind leave a block, which alone saves FLOPs."""
    criterion: Criterion = "error"
    """Of what is lost; usage counts the tokens of a layer that are sent elsewhere."""
    dropped: Dropped = "survivor"
    """What becomes of tokens whose expert is gone."""


class Reach(NamedTuple):
    """What budgets pruning can meet, in a budget's unit."""

    least: float
    """With as few experts as may be left."""
    greatest: float
    """With all of them."""


def reach(model: RingMoE, budget: Budget, choice: Choice | None = None) -> Reach:
    """The least and the greatest that the model can take; the amount of the budget does not matter."""
    choice, full = choice or Choice(), survivors_of_blocks(model)
    fewest = [_fewest(old, choice) for old in full]
    least, greatest = (budget.spent(replace(model.config, survivors=tuple(s)), model.contract) for s in (fewest, full))
    return Reach(least / greatest, 1.0) if budget.unit == "share" else Reach(least, greatest)


def _fewest(old: Survivors, choice: Choice) -> Survivors:
    modal = tuple(ids[: choice.least] for ids in old.specialized)
    common = old.collaborative[: choice.least]
    return Survivors(
        modal if "specialized" in choice.kinds else old.specialized,
        common if "collaborative" in choice.kinds else old.collaborative,
    )


def spend(model: RingMoE, usage: Usage, budget: Budget, choice: Choice | None = None) -> tuple[Survivors, ...]:
    """The routed experts of every block that lose least within a budget.

    Parameters
    ----------
    usage
        Profile of this model.

    Raises
    ------
    PruneError
        The profile is of another model, or no choice of experts fits the budget.
    """
    usage.check(model)
    choice = choice or Choice()
    can = reach(model, budget, choice)
    if budget.amount < can.least:
        raise PruneError(
            f"No choice of experts fits {budget.amount:,.6g} {budget.unit}",
            item=f"a model of {can.greatest:,.6g} with {', '.join(choice.kinds)} experts to go",
            enough=f"from {can.least:,.6g} to {can.greatest:,.6g} {budget.unit}"
            + ("; FLOPs fall only where the last expert of a kind leaves a block" if budget.unit == "flops" else ""),
            todo="raise the budget, let more kinds or all experts of a kind go, or integrate into a dense model",
        )
    ladders = _ladders(model, usage, budget, choice)
    whole = _spent(model, budget)
    room = budget.amount * (whole if budget.unit == "share" else 1)
    steps = _taken(ladders, whole * (1 - ROUNDING) - room)
    left = survivors_of_blocks(model)
    for ladder, step in zip(ladders, steps, strict=True):
        old, rung = left[ladder.block], ladder.rungs[step]
        kept = replace(old, specialized=rung.kept) if ladder.kind == "specialized" else _common(old, rung.kept[0])
        left[ladder.block] = without(old, kept, choice.dropped)
    return tuple(left)


def keep_within(model: RingMoE, usage: Usage, budget: Budget, choice: Choice | None = None) -> RingMoE:
    """The model with the experts that `spend` chooses; the parent is not touched."""
    return with_survivors(model, usage, spend(model, usage, budget, choice))


def loss_of(usage: Usage, left: Sequence[Survivors], choice: Choice | None = None) -> float:
    """What all blocks together lose, each by itself, when these of the experts profiled are left."""
    choice, total = choice or Choice(), 0.0
    for block, new in enumerate(left):
        old = usage.config.survivors_of(block, len(usage.modalities))
        rows = [(Router(block, "collaborative"), old.collaborative, new.collaborative)]
        for row, (had, kept) in enumerate(zip(old.specialized, new.specialized, strict=True)):
            rows.append((Router(block, "specialized", row), had, kept))
        for router, had, kept in rows:
            gone = tuple(e for e in had if e not in kept)
            total += lost(usage, router, gone, choice.criterion, choice.dropped) if gone else 0.0
    return total


class _Rung(NamedTuple):
    """One way to leave a kind of experts in a block."""

    lost: float
    saved: float
    kept: tuple[tuple[int, ...], ...]
    """Ids by router: one a modality, or the one of the collaborative experts."""


class _Ladder(NamedTuple):
    """The ways worth taking, from all experts down, by rising loss per saving."""

    block: int
    kind: Kind
    rungs: list[_Rung]


def _spent(model: RingMoE, budget: Budget) -> float:
    return budget.spent(model.config, model.contract)


def _common(old: Survivors, kept: tuple[int, ...]) -> Survivors:
    return replace(old, collaborative=kept)


def _ladders(model: RingMoE, usage: Usage, budget: Budget, choice: Choice) -> list[_Ladder]:
    found = []
    for block, old in enumerate(survivors_of_blocks(model)):
        for kind in choice.kinds:
            rows = old.specialized if kind == "specialized" else (old.collaborative,)
            if any(rows):
                saved = _savings(model, budget, block, kind)
                ways = _ways([_router_ways(usage, Router(block, kind, row), choice) for row in range(len(rows))])
                found.append(_Ladder(block, kind, _hull([w._replace(saved=saved(w.kept)) for w in ways])))
    return found


def _router_ways(usage: Usage, router: Router, choice: Choice) -> list[_Rung]:
    """What one router loses by 0, 1, 2, ... experts gone."""
    ids, found = router.survivors(usage), []
    for count in range(len(ids), min(choice.least, len(ids)) - 1, -1):
        kept = to_keep(usage, router, count, choice.criterion, choice.dropped) if ids else ()
        gone = tuple(e for e in ids if e not in kept)
        found.append(_Rung(lost(usage, router, gone, choice.criterion, choice.dropped) if gone else 0.0, 0.0, (kept,)))
    return found


def _ways(routers: list[list[_Rung]]) -> list[_Rung]:
    """The same of several routers: for each number of experts gone, from which of them."""
    found = [_Rung(0.0, 0.0, ())]
    for ways in routers:
        best: dict[int, _Rung] = {}
        for i, before in enumerate(found):
            for j, way in enumerate(ways):
                both = _Rung(before.lost + way.lost, 0.0, before.kept + way.kept)
                if i + j not in best or both.lost < best[i + j].lost:
                    best[i + j] = both
        found = [best[count] for count in sorted(best)]
    return found


def _savings(model: RingMoE, budget: Budget, block: int, kind: Kind) -> Callable[[tuple[tuple[int, ...], ...]], float]:
    """What a block's kind of experts saves, in the budget's unit, when some are left."""
    layer = model.blocks()[block].experts
    router = layer.specialized if kind == "specialized" else layer.collaborative
    assert layer.experts is not None
    assert router is not None
    _, dim, hidden = layer.experts.w1_ECH.shape
    old = survivors_of_blocks(model)[block]
    had = sum(map(len, old.specialized)) if kind == "specialized" else len(old.collaborative)
    expert, itself = 2 * dim * hidden + hidden + dim, router.weight.numel()
    stage = next(i for i, depth in enumerate(accumulate(model.config.depths)) if block < depth)
    tokens = (budget.pixels // model.config.patch >> stage) ** 2
    flops = 2.0 * tokens * (2 * dim * hidden + router.experts * dim)

    def saved(kept: tuple[tuple[int, ...], ...]) -> float:
        left = sum(map(len, kept))
        if budget.unit == "flops":
            return flops if not left else 0.0
        scale = budget.dtype.itemsize if budget.unit == "bytes" else 1
        return float(scale * ((had - left) * expert + (0 if left else itself)))

    return saved


def _hull(ways: list[_Rung]) -> list[_Rung]:
    """The lower convex hull of loss over saving, from nothing saved on."""
    found: list[_Rung] = []
    for way in sorted(ways, key=lambda w: (w.saved, w.lost)):
        if found and way.saved == found[-1].saved:
            continue
        while len(found) > 1 and _slope(found[-1], way) <= _slope(found[-2], found[-1]):
            found.pop()
        found.append(way)
    return found


def _slope(before: _Rung, after: _Rung) -> float:
    return (after.lost - before.lost) / (after.saved - before.saved)


def _taken(ladders: list[_Ladder], to_save: float) -> list[int]:
    """The rung of every ladder: the cheapest steps first, until enough is saved.

    Steps differ in size, and the one that reaches the goal may overshoot it by far: each that would is tried, with
    those before it taken back that are then not needed, and left out after that. The best of all these is returned.
    """
    steps = sorted(
        (_slope(*pair), place, rung)
        for place, ladder in enumerate(ladders)
        for rung, pair in enumerate(pairwise(ladder.rungs), 1)
    )
    at, closed = [0] * len(ladders), set()
    found = [at.copy()] if to_save <= 0 else []
    for _, place, rung in steps:
        if place in closed:
            continue
        tried = at.copy()
        tried[place] = rung
        if _sum_of(ladders, tried).saved < to_save:
            at = tried
        else:
            found.append(_trimmed(ladders, steps, tried, to_save))
            closed.add(place)
    return min(found, key=lambda rungs: _sum_of(ladders, rungs).lost)


def _trimmed(ladders: list[_Ladder], steps: list[tuple[float, int, int]], at: list[int], to_save: float) -> list[int]:
    """Dear steps that are not needed go back."""
    for _, place, rung in reversed(steps):
        if at[place] == rung:
            less = at.copy()
            less[place] = rung - 1
            at = less if _sum_of(ladders, less).saved >= to_save else at
    return at


def _sum_of(ladders: list[_Ladder], at: list[int]) -> _Rung:
    rungs = [ladder.rungs[rung] for ladder, rung in zip(ladders, at, strict=True)]
    return _Rung(sum(r.lost for r in rungs), sum(r.saved for r in rungs), ())
