"""A budget for a whole model, spent over its blocks where it costs least.

Of each block and kind of expert a ladder says what is lost and what is saved for every number of experts gone; one
rung of each is chosen so that the whole fits and the sum of what blocks lose is least: the knapsack of multiple choice,
solved exactly (dynamic programming over ways that nothing beats), unless it has more than MOST_WAYS of these.
Shape legend: F ways not beaten so far, N rungs of a ladder, X ways to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.criteria import Criterion, Dropped, Kind, Router, lost, to_keep
from ringmoe.errors import PruneError
from ringmoe.moe import Survivors
from ringmoe.presets import describe
from ringmoe.prune import survivors_of_blocks, with_survivors, without
from ringmoe.quantise import check_exact
from ringmoe.usage import Usage

Unit = Literal["params", "flops", "bytes", "share"]

ROUNDING = 1e-12
"""Share of the whole that a budget may be missed by, so that what can just be reached is."""

MOST_WAYS = 1 << 16
"""Ways remembered from block to block; of more, evenly spread ones are."""

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
    """The least and the greatest that the model can take; the amount of the budget does not matter.

    Raises
    ------
    PruneError
        The weights are quantised.
    """
    check_exact(model)
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
    steps = _cheapest(ladders, whole * (1 - ROUNDING) - room)
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

    saved: float
    lost: float
    kept: tuple[tuple[int, ...], ...]
    """Ids by router: one a modality, or the one of the collaborative experts."""


class _Ladder(NamedTuple):
    """The ways worth a thought, from all experts down: the best of every number of them."""

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
                found.append(_Ladder(block, kind, [w._replace(saved=saved(w.kept)) for w in ways]))
    return found


def _router_ways(usage: Usage, router: Router, choice: Choice) -> list[_Rung]:
    """What one router loses by 0, 1, 2, ... experts gone."""
    ids, found = router.survivors(usage), []
    for count in range(len(ids), min(choice.least, len(ids)) - 1, -1):
        kept = to_keep(usage, router, count, choice.criterion, choice.dropped) if ids else ()
        gone = tuple(e for e in ids if e not in kept)
        less = lost(usage, router, gone, choice.criterion, choice.dropped) if gone else 0.0
        found.append(_Rung(0.0, less, (kept,)))
    return found


def _ways(routers: list[list[_Rung]]) -> list[_Rung]:
    """The same of several routers: for each number of experts gone, from which of them."""
    found = [_Rung(0.0, 0.0, ())]
    for ways in routers:
        best: dict[int, _Rung] = {}
        for i, before in enumerate(found):
            for j, way in enumerate(ways):
                both = _Rung(0.0, before.lost + way.lost, before.kept + way.kept)
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


def _cheapest(ladders: list[_Ladder], to_save: float) -> list[int]:
    """The rung of every ladder: of all that save enough, those that lose least together.

    Ladder by ladder, of all ways so far only those are kept that nothing saves as much as and loses less.
    """
    if to_save <= 0:
        return [0] * len(ladders)
    saved_F = lost_F = torch.zeros(1, dtype=torch.float64)
    picked: list[Tensor] = []
    for ladder in ladders:
        saved_N, lost_N = (torch.tensor(row, dtype=torch.float64) for row in list(zip(*ladder.rungs, strict=True))[:2])
        saved_X = (saved_F[:, None] + saved_N).flatten().clamp(max=to_save)
        lost_X = (lost_F[:, None] + lost_N).flatten()
        order_X = lost_X.argsort(stable=True)
        order_X = order_X[saved_X[order_X].argsort(descending=True, stable=True)]
        before_X = F.pad(lost_X[order_X].cummin(0).values[:-1], (1, 0), value=float("inf"))
        pick_F = order_X[lost_X[order_X] < before_X]
        if len(pick_F) > MOST_WAYS:
            pick_F = pick_F[torch.linspace(0, len(pick_F) - 1, MOST_WAYS, dtype=torch.float64).long()]
        saved_F, lost_F = saved_X[pick_F], lost_X[pick_F]
        picked.append(pick_F)
    rungs, at = [], 0
    for ladder, pick_F in zip(reversed(ladders), reversed(picked), strict=True):
        at, rung = divmod(int(pick_F[at]), len(ladder.rungs))
        rungs.append(rung)
    return rungs[::-1]
