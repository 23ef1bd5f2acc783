"""Expert usage -> fewer experts -> a smaller RingMoE; the parent is never touched.

Shape legend: T token, C width, H hidden width, M modality, E expert of a router, S slot in the stack of experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ringmoe.backbone import Block, RingMoE
from ringmoe.errors import PruneError
from ringmoe.modality import Modality
from ringmoe.moe import Survivors
from ringmoe.usage import ExpertUsage, Network, Usage, networks, profile

__all__ = ["Usage", "integrate", "keep_collaborative", "keep_experts", "profile", "slice_modalities"]

Criterion = Literal["usage", "norm"]
"""Keep by how often an expert is chosen, as in the paper, or by what it adds: share times gate times output norm."""

Method = Literal["neurons", "kc", "ks", "ka"]
"""Keep the hidden units that matter; compress each expert by SVD; select one expert; average the experts."""

RANK_STEP = 8
"""Ranks that an expert is compressed to are multiples of this."""


def slice_modalities(model: RingMoE, keep: Sequence[Modality]) -> RingMoE:
    """The sub-model of some modalities: batches of them give the same bits as the parent.

    Raises
    ------
    PruneError
        The model has not one of them, or none is to be kept.
    """
    if not keep or any(m not in model.modalities for m in keep):
        raise PruneError(
            f"The model has no sub-model of {', '.join(keep) or 'no modality'}",
            item=f"a model of {', '.join(model.modalities)}",
            enough="one or more of its modalities",
            todo="name modalities that the checkpoint has learned",
        )
    rows = [i for i, m in enumerate(model.modalities) if m in keep]
    left = [Survivors(tuple(old.specialized[i] for i in rows), old.collaborative) for old in survivors_of_blocks(model)]
    return _select(model, rows, left)


def keep_experts(
    model: RingMoE,
    usage: Usage,
    *,
    specialized: int | float | None = None,
    collaborative: int | float | None = None,
    criterion: Criterion = "usage",
) -> RingMoE:
    """A model with the most active experts of each kind left in every block.

    Routers keep their full softmax: a token whose expert is gone takes its best survivor with that one's probability.

    Parameters
    ----------
    usage
        Profile of this model.
    specialized, collaborative
        Experts to keep per router: a number (int), or a share of those left (float, at least one is kept); None for
        all.
    criterion
        What is active.
    """
    _check_usage(model, usage)
    left = []
    for old, modal, common in zip(survivors_of_blocks(model), usage.specialized, usage.collaborative, strict=True):
        kept_modal, kept_common = old.specialized, old.collaborative
        if specialized is not None and modal is not None:
            score_ME = _scores(modal, criterion)
            kept_modal = tuple(_best(score_ME[m], ids, specialized) for m, ids in enumerate(old.specialized))
        if collaborative is not None and common is not None:
            kept_common = _best(usage.share_M @ _scores(common, criterion), old.collaborative, collaborative)
        left.append(Survivors(kept_modal, kept_common))
    return _select(model, list(range(len(model.modalities))), left)


def keep_collaborative(model: RingMoE, usage: Usage, keep: int | float = 0.25) -> RingMoE:
    """The paper's step: the most often chosen quarter (or number) of the collaborative experts of every block."""
    return keep_experts(model, usage, collaborative=keep)


def _scores(used: ExpertUsage, criterion: Criterion) -> Tensor:
    return used.usage_ME if criterion == "usage" else used.usage_ME * used.norm_ME


def _best(score_E: Tensor, ids: tuple[int, ...], keep: int | float) -> tuple[int, ...]:
    count = keep if isinstance(keep, int) else max(1, round(keep * len(ids)))
    if not 0 <= count <= len(ids):
        raise PruneError(
            f"{keep} experts cannot be kept",
            item=f"a router with {len(ids)} experts left",
            enough=f"a number from 0 to {len(ids)}, or a share from 0.0 to 1.0",
            todo="ask for fewer",
        )
    return tuple(sorted(sorted(ids, key=lambda e: (-float(score_E[e]), e))[:count]))


def survivors_of_blocks(model: RingMoE) -> list[Survivors]:
    """The routed experts that every block has."""
    return [model.config.survivors_of(i, len(model.modalities)) for i in range(len(model.blocks()))]


def _select(model: RingMoE, rows: list[int], left: list[Survivors]) -> RingMoE:
    """The model of some modalities (by row) and some routed experts; tensors are copied."""
    config = replace(model.config, survivors=None)
    contract = model.contract.only([model.modalities[i] for i in rows])
    if any(new != config.survivors_of(i, len(rows)) for i, new in enumerate(left)):
        config = replace(config, survivors=tuple(left))
    with torch.device("meta"):
        wanted = set(RingMoE(config, contract).state_dict())
    tensors = {name: t.detach().clone() for name, t in model.state_dict().items() if name in wanted}
    places = {id(block): name for name, block in model.named_modules() if isinstance(block, Block)}
    for block, old, new in zip(model.blocks(), survivors_of_blocks(model), left, strict=True):
        name = places[id(block)]
        index = torch.tensor(_slots(old, new, rows), dtype=torch.long)
        for key in (f"{name}.experts.experts.{part}" for part in ("w1_ECH", "b1_EH", "w2_EHC", "b2_EC")):
            if key in tensors:
                tensors[key] = tensors[key][index.to(tensors[key].device)]
        key = f"{name}.experts.specialized.weight"
        if key in tensors:
            tensors[key] = tensors[key][rows].clone()
    return RingMoE.from_tensors(config, contract, tensors)


def _slots(old: Survivors, new: Survivors, rows: list[int]) -> list[int]:
    """Places in the old stack of the experts of the new one, in the new one's order."""
    order = [(m, e) for m, ids in enumerate(old.specialized) for e in ids] + [(-1, e) for e in old.collaborative]
    place = {expert: i for i, expert in enumerate(order)}
    wanted = [(rows[m], e) for m, ids in enumerate(new.specialized) for e in ids] + [(-1, e) for e in new.collaborative]
    return [place[expert] for expert in wanted]


def _check_usage(model: RingMoE, usage: Usage) -> None:
    if usage.config != model.config or usage.contract_digest != model.contract.digest():
        raise PruneError(
            "The profile is of another model",
            item=f"a profile over {', '.join(usage.modalities)}, a model of {', '.join(model.modalities)}",
            enough="a profile of this very model, after its last pruning",
            todo="profile the model again",
        )


def integrate(model: RingMoE, usage: Usage, method: Method = "neurons") -> RingMoE:
    """One dense network per block, of the hidden width of a single expert: a plain Swin V2.

    A routed expert reaches the output times its share of the tokens times its mean gate, the shared one times 1; every
    method folds that weight in. Network by network, the methods are

    - neurons: of all hidden units, those with the greatest weight * |w2| * std(activation); what the others give on
      average stays in the bias.
    - kc: first matrix U_r^T W1, second w W2 U_r, with U of the singular value decomposition of W1 (H x C), and ranks
      given where w times the singular value is greatest (knowledge gathering, arXiv 2201.10890).
    - ks: the one network with the greatest weight.
    - ka: the weighted average.

    Raises
    ------
    PruneError
        The profile is of another model, or the method is unknown.
    """
    _check_usage(model, usage)
    methods = {"neurons": _neurons, "kc": _compress, "ks": _choose, "ka": _average}
    if method not in methods:
        raise PruneError(
            f"There is no method {method}", item="integrate", enough=", ".join(methods), todo="name one of them"
        )
    config = replace(model.config, specialized=0, collaborative=0, shared=1, survivors=None)
    places = {id(block): name for name, block in model.named_modules() if isinstance(block, Block)}
    with torch.device("meta"):
        wanted = set(RingMoE(config, model.contract).state_dict())
    tensors = {name: t.detach().clone() for name, t in model.state_dict().items() if name in wanted}
    for index, block in enumerate(model.blocks()):
        parts = _weighted(model, usage, index)
        hidden = block.norm1.weight.numel() * config.mlp_ratio
        dense = methods[method](parts, hidden)
        key, like = f"{places[id(block)]}.experts.shared", block.norm1.weight
        for name, value in (
            ("0.weight", dense.w1_CH.t()),
            ("0.bias", dense.b1_H),
            ("2.weight", dense.w2_HC.t()),
            ("2.bias", dense.b2_C),
        ):
            tensors[f"{key}.{name}"] = value.to(like).contiguous()
    return RingMoE.from_tensors(config, model.contract, tensors)


class _Part(NamedTuple):
    """One network of a block and what it weighs in the block's output, float64."""

    network: Network
    weight: float
    mean_H: Tensor
    std_H: Tensor


def _weighted(model: RingMoE, usage: Usage, index: int) -> list[_Part]:
    """The networks of a block with their weights and moments; several shared experts stand as as many networks."""
    layer, kept = model.blocks()[index].experts, survivors_of_blocks(model)[index]
    weights: list[float] = []
    modal, common = usage.specialized[index], usage.collaborative[index]
    if modal is not None:
        share_ME = usage.share_M[:, None] * modal.usage_ME * modal.gate_ME
        weights += [float(share_ME[m, e]) for m, ids in enumerate(kept.specialized) for e in ids]
    if common is not None:
        share_E = usage.share_M @ (common.usage_ME * common.gate_ME)
        weights += [float(share_E[e]) for e in kept.collaborative]
    found = []
    exact = [Network(*(t.detach().double().cpu() for t in network)) for network in networks(layer)]
    for slot, network in enumerate(exact):
        mean_H, std_H = usage.units[index].mean[slot], usage.units[index].std[slot]
        if slot < len(weights):
            found.append(_Part(network, weights[slot], mean_H, std_H))
            continue
        count = model.config.shared
        pieces = zip(
            network.w1_CH.chunk(count, 1),
            network.b1_H.chunk(count),
            network.w2_HC.chunk(count),
            mean_H.chunk(count),
            std_H.chunk(count),
            strict=True,
        )
        found += [_Part(Network(w1, b1, w2, network.b2_C / count), 1.0, m, s) for w1, b1, w2, m, s in pieces]
    return found


def _stack(parts: list[_Part]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All networks side by side along the hidden axis, weights folded into the second matrix and bias."""
    return (
        torch.cat([p.network.w1_CH for p in parts], 1),
        torch.cat([p.network.b1_H for p in parts]),
        torch.cat([p.weight * p.network.w2_HC for p in parts]),
        torch.stack([p.weight * p.network.b2_C for p in parts]).sum(0),
    )


def _neurons(parts: list[_Part], hidden: int) -> Network:
    w1_CX, b1_X, w2_XC, b2_C = _stack(parts)
    mean_X, std_X = torch.cat([p.mean_H for p in parts]), torch.cat([p.std_H for p in parts])
    order_X = torch.argsort(w2_XC.norm(dim=1) * std_X, descending=True, stable=True)
    keep, drop = order_X[:hidden].sort().values, order_X[hidden:]
    return Network(w1_CX[:, keep], b1_X[keep], w2_XC[keep], b2_C + mean_X[drop] @ w2_XC[drop])


def _compress(parts: list[_Part], hidden: int) -> Network:
    decomposed = [torch.linalg.svd(p.network.w1_CH.t(), full_matrices=False) for p in parts]
    offers = [
        (-part.weight * float(values[start : start + RANK_STEP].norm()), start, i)
        for i, (part, (_, values, _)) in enumerate(zip(parts, decomposed, strict=True))
        for start in range(0, len(values) // RANK_STEP * RANK_STEP, RANK_STEP)
    ]
    ranks = [0] * len(parts)
    for _, _, i in sorted(offers)[: hidden // RANK_STEP]:
        ranks[i] += RANK_STEP
    small = []
    for part, (u_HC, _, _), rank in zip(parts, decomposed, ranks, strict=True):
        u_HR, network = u_HC[:, :rank], part.network
        w1_CR, w2_RC = network.w1_CH @ u_HR, u_HR.t() @ network.w2_HC
        small.append(part._replace(network=Network(w1_CR, network.b1_H @ u_HR, w2_RC, network.b2_C)))
    w1_CX, b1_X, w2_XC, b2_C = _stack(small)
    rest = hidden - len(b1_X)
    pad = torch.nn.functional.pad
    return Network(pad(w1_CX, (0, rest)), pad(b1_X, (0, rest)), pad(w2_XC, (0, 0, 0, rest)), b2_C)


def _choose(parts: list[_Part], hidden: int) -> Network:
    best = max(parts, key=lambda p: p.weight)
    return Network(*_stack([best]))


def _average(parts: list[_Part], hidden: int) -> Network:
    total = sum(p.weight for p in parts) or 1.0
    w1_CH = torch.stack([p.weight / total * p.network.w1_CH for p in parts]).sum(0)
    b1_H = torch.stack([p.weight / total * p.network.b1_H for p in parts]).sum(0)
    w2_HC = torch.stack([p.weight * p.network.w2_HC for p in parts]).sum(0)
    return Network(w1_CH, b1_H, w2_HC, _stack(parts)[3])
