"""Expert usage -> fewer experts -> a smaller RingMoE; the parent is never touched.

Shape legend: C width, H hidden width, E slot in the stack of experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ringmoe.backbone import Block, RingMoE
from ringmoe.criteria import Criterion, Dropped, Router, left_bias, to_keep
from ringmoe.errors import PruneError
from ringmoe.integrate import Method, integrate
from ringmoe.modality import Modality
from ringmoe.moe import Survivors
from ringmoe.quantise import check_exact
from ringmoe.usage import Usage, profile

__all__ = [
    "Criterion",
    "Dropped",
    "Method",
    "Usage",
    "block_tensors",
    "integrate",
    "keep_collaborative",
    "keep_experts",
    "profile",
    "slice_modalities",
    "survivors_of_blocks",
    "with_survivors",
]

STACKS = ("w1_ECH", "b1_EH", "w2_EHC", "b2_EC")


def slice_modalities(model: RingMoE, keep: Sequence[Modality]) -> RingMoE:
    """The sub-model of some modalities: batches of them give the same bits as the parent.

    Raises
    ------
    PruneError
        The model has not one of them, none is to be kept, or the weights are quantised.
    """
    check_exact(model)
    if not keep or any(m not in model.modalities for m in keep):
        raise PruneError(
            f"The model has no sub-model of {', '.join(keep) or 'no modality'}",
            item=f"a model of {', '.join(model.modalities)}",
            enough="one or more of its modalities",
            todo="name modalities that the checkpoint has learned",
        )
    rows = [i for i, m in enumerate(model.modalities) if m in keep]
    left = [
        replace(
            old,
            specialized=tuple(old.specialized[i] for i in rows),
            silent_specialized=tuple(old.silent_of(i) for i in rows),
        )
        for old in survivors_of_blocks(model)
    ]
    return _select(model, rows, left, {})


def keep_experts(
    model: RingMoE,
    usage: Usage,
    *,
    specialized: int | float | None = None,
    collaborative: int | float | None = None,
    criterion: Criterion = "usage",
    dropped: Dropped = "survivor",
) -> RingMoE:
    """A model with the most active experts of each kind left in every block.

    Routers keep their full softmax: a token whose expert is gone takes its best survivor with that one's probability,
    or nothing, and what the experts gone gave on average goes into the shared expert's bias.

    Parameters
    ----------
    usage
        Profile of this model.
    specialized, collaborative
        Experts to keep per router: a number (int), or a share of those left (float, at least one is kept where there
        is one); None for all.
    criterion
        What is active; by error, the experts kept are those that, together, lose the least.
    dropped
        What becomes of the tokens of experts that go. Means are exact for what was profiled: the mean output of a layer
        stays, over the modalities together, as long as what comes into it does.

    Raises
    ------
    PruneError
        The weights are quantised, the profile is of another model, there are not so many experts, or none is shared
        that could take the means.
    """
    check_exact(model)
    usage.check(model)
    left = []
    for block, old in enumerate(survivors_of_blocks(model)):
        modal, common = old.specialized, old.collaborative
        if specialized is not None and usage.specialized[block] is not None:
            rows = [Router(block, "specialized", row) for row in range(len(old.specialized))]
            modal = tuple(
                to_keep(usage, r, _count(specialized, old.specialized[r.row]), criterion, dropped) for r in rows
            )
        if collaborative is not None and usage.collaborative[block] is not None:
            count = _count(collaborative, old.collaborative)
            common = to_keep(usage, Router(block, "collaborative"), count, criterion, dropped)
        left.append(without(old, Survivors(modal, common), dropped))
    return _keep(model, usage, left)


def keep_collaborative(model: RingMoE, usage: Usage, keep: int | float = 0.25) -> RingMoE:
    """The paper's step: the most often chosen quarter (or number) of the collaborative experts of every block."""
    return keep_experts(model, usage, collaborative=keep)


def _count(keep: int | float, ids: tuple[int, ...]) -> int:
    return keep if isinstance(keep, int) else min(len(ids), max(1, round(keep * len(ids))))


def without(old: Survivors, kept: Survivors, dropped: Dropped) -> Survivors:
    """Survivors of which some go, and whose tokens take the next best or nothing; those silent before stay so."""
    modal, common = list(map(old.silent_of, range(len(old.specialized)))), old.silent_collaborative
    if dropped == "mean":
        pairs = zip(old.specialized, kept.specialized, modal, strict=True)
        modal = [_joined(had, keep, silent) for had, keep, silent in pairs]
        common = _joined(old.collaborative, kept.collaborative, common)
    return replace(kept, silent_specialized=tuple(modal), silent_collaborative=common)


def _joined(had: tuple[int, ...], keep: tuple[int, ...], silent: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*had, *silent} - {*keep}))


def survivors_of_blocks(model: RingMoE) -> list[Survivors]:
    """The routed experts that every block has."""
    return [model.config.survivors_of(i, len(model.modalities)) for i in range(len(model.blocks()))]


def with_survivors(model: RingMoE, usage: Usage, left: Sequence[Survivors]) -> RingMoE:
    """The model with these experts in its blocks, as `ringmoe.budget` chooses them; means of those newly silent kept.

    Raises
    ------
    PruneError
        The weights are quantised, the profile is of another model, a block is to keep what it has not, or no shared
        expert could take the means.
    """
    check_exact(model)
    usage.check(model)
    return _keep(model, usage, left)


def _keep(model: RingMoE, usage: Usage, left: Sequence[Survivors]) -> RingMoE:
    olds = survivors_of_blocks(model)
    wrong = [i for i, (old, new) in enumerate(zip(olds, left, strict=True)) if not _within(old, new)]
    if wrong:
        raise PruneError(
            f"Block {wrong[0]} cannot keep experts that it has not",
            item=str(left[wrong[0]]),
            enough=f"some of {olds[wrong[0]]}",
            todo="choose survivors from a profile of this model",
        )
    biases = {i: silenced(usage, i, old, new) for i, (old, new) in enumerate(zip(olds, left, strict=True))}
    found = {i: bias_C for i, bias_C in biases.items() if bias_C is not None}
    if found and not model.config.shared:
        raise PruneError(
            "There is no shared expert whose bias could take the means",
            item=f"a model of {', '.join(model.modalities)}",
            enough="one shared expert",
            todo="let tokens take their best survivor",
        )
    return _select(model, list(range(len(model.modalities))), left, found)


def _within(old: Survivors, new: Survivors) -> bool:
    pairs = [(old.collaborative, new.collaborative), *zip(old.specialized, new.specialized, strict=True)]
    return all(set(mine) <= set(had) for had, mine in pairs)


def silenced(usage: Usage, block: int, old: Survivors, new: Survivors) -> Tensor | None:
    """What the experts that fall silent gave on average, (C,), for the shared expert's bias; None where none does."""
    routers = [(Router(block, "collaborative"), old.collaborative, new.silent_collaborative)]
    for row, had in enumerate(old.specialized):
        routers.append((Router(block, "specialized", row), had, new.silent_of(row)))
    gone = [(router, tuple(e for e in had if e in silent)) for router, had, silent in routers]
    terms = [left_bias(usage, router, ids) for router, ids in gone if ids]
    return torch.stack(terms).sum(0) if terms else None


def block_tensors(
    tensors: Mapping[str, Tensor], old: Survivors, new: Survivors, rows: Sequence[int], bias_C: Tensor | None = None
) -> dict[str, Tensor]:
    """The experts' part of one block, cut down; what stays as it is comes back as it is, without a copy.

    Parameters
    ----------
    tensors
        Of a block's `experts`, by their names in it, as in `experts.w1_ECH` or `shared.2.bias`.
    old, new
        Routed experts it has and keeps.
    rows
        Modalities it keeps, by their places in the old model.
    bias_C
        Added to the shared expert's bias.
    """
    kinds = {"specialized.weight": any(new.specialized), "collaborative.weight": bool(new.collaborative)}
    kinds |= {f"experts.{name}": new.slots > 0 for name in STACKS}
    found = {name: tensor for name, tensor in tensors.items() if kinds.get(name, True)}
    slots = _slots(old, new, rows)
    for name in (f"experts.{stack}" for stack in STACKS):
        if name in found and slots != list(range(old.slots)):
            found[name] = found[name][torch.tensor(slots, device=found[name].device)]
    if "specialized.weight" in found and list(rows) != list(range(len(old.specialized))):
        found["specialized.weight"] = found["specialized.weight"][list(rows)]
    if bias_C is not None:
        bias = found["shared.2.bias"]
        found["shared.2.bias"] = (bias.double() + bias_C.to(bias.device)).to(bias.dtype)
    return found


def _select(model: RingMoE, rows: list[int], left: Sequence[Survivors], biases: Mapping[int, Tensor]) -> RingMoE:
    """The model of some modalities (by row) and some routed experts; tensors are copied."""
    config = replace(model.config, survivors=None)
    contract = model.contract.only([model.modalities[i] for i in rows])
    if any(new != config.survivors_of(i, len(rows)) for i, new in enumerate(left)):
        config = replace(config, survivors=tuple(left))
    tensors = {name: t.detach() for name, t in model.state_dict().items()}
    places = {id(block): f"{name}.experts." for name, block in model.named_modules() if isinstance(block, Block)}
    for index, (block, old, new) in enumerate(zip(model.blocks(), survivors_of_blocks(model), left, strict=True)):
        prefix = places[id(block)]
        mine = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        cut = block_tensors(mine, old, new, rows, biases.get(index))
        tensors |= {prefix + name: tensor for name, tensor in cut.items()}
    with torch.device("meta"):
        wanted = RingMoE(config, contract).state_dict()
    return RingMoE.from_tensors(config, contract, {name: tensors[name].clone() for name in wanted})


def _slots(old: Survivors, new: Survivors, rows: Sequence[int]) -> list[int]:
    """Places in the old stack of the experts of the new one, in the new one's order."""
    order = [(m, e) for m, ids in enumerate(old.specialized) for e in ids] + [(-1, e) for e in old.collaborative]
    place = {expert: i for i, expert in enumerate(order)}
    wanted = [(rows[m], e) for m, ids in enumerate(new.specialized) for e in ids] + [(-1, e) for e in new.collaborative]
    return [place[expert] for expert in wanted]
