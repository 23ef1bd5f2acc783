"""Many experts -> one dense network a block, of the hidden width of a single expert: a plain Swin V2.

Shape legend: C width, H hidden width of a network, X hidden units of several networks side by side, R rank.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.backbone import Block, RingMoE
from ringmoe.errors import PruneError
from ringmoe.moe import Survivors
from ringmoe.usage import Network, Usage, networks

Method = Literal["neurons", "kc", "ks", "ka"]
"""Keep the hidden units that matter; compress each expert by SVD; select one expert; average the experts."""

RANK_STEP = 8
"""Ranks that an expert is compressed to are multiples of this."""


class Part(NamedTuple):
    """One network of a block and what it weighs in the block's output, float64."""

    network: Network
    """The expert."""
    weight: float
    """Its share of the tokens times its mean gate; 1 for the shared expert."""
    mean_H: Tensor
    """Of its hidden units over the tokens sent to it."""
    std_H: Tensor
    """The same."""


def integrate(model: RingMoE, usage: Usage, method: Method = "neurons") -> RingMoE:
    """One dense network per block, of the hidden width of a single expert: a plain Swin V2.

    A routed expert reaches the output times its share of the tokens times its mean gate, the shared one times 1; every
    method folds that weight in. Network by network, the methods are

    - neurons: of all hidden units, those with the greatest weight * |w2| * std(activation); what the others give on
      average stays in the bias.
    - kc: first matrix U_r^T W1, second w W2 U_r, with U of the singular value decomposition of W1 (H x C), and ranks
      given where w times the singular value is greatest (knowledge gathering, arXiv 2201.10890).
    - ks: the one network with the greatest weight, which is a shared one where there is one.
    - ka: the weighted average.

    Raises
    ------
    PruneError
        The profile is of another model, the method is unknown, or a block has no network left.
    """
    usage.check(model)
    config = replace(model.config, specialized=0, collaborative=0, shared=1, survivors=None)
    tensors = {name: t.detach().clone() for name, t in model.state_dict().items() if ".experts." not in name}
    places = {id(block): name for name, block in model.named_modules() if isinstance(block, Block)}
    for index, block in enumerate(model.blocks()):
        parts = weighted(usage, index, networks(block.experts))
        dense = dense_block(parts, block.norm1.weight.numel() * config.mlp_ratio, method)
        like, prefix = block.norm1.weight, f"{places[id(block)]}.experts."
        tensors |= {prefix + name: value.to(like).contiguous() for name, value in dense.items()}
    return RingMoE.from_tensors(config, model.contract, tensors)


def weighted(usage: Usage, block: int, found: list[Network]) -> list[Part]:
    """The networks of a block with their weights and moments; several shared experts stand as as many networks.

    Parameters
    ----------
    found
        Routed experts by slot and then the shared network, as of `ringmoe.usage.networks`; any dtype and device.
    """
    weights = _weights(usage, block, usage.config.survivors_of(block, len(usage.modalities)))
    exact = [Network(*(t.detach().double().cpu() for t in network)) for network in found]
    units, count = usage.units[block], usage.config.shared
    routed, shared = exact[: len(weights)], exact[len(weights) :]
    parts = [Part(*row) for row in zip(routed, weights, units.mean, units.std, strict=False)]
    for network in shared:
        means, stds = units.mean[-1].chunk(count), units.std[-1].chunk(count)
        columns = (network.w1_CH.chunk(count, 1), network.b1_H.chunk(count), network.w2_HC.chunk(count), means, stds)
        for w1, b1, w2, mean_H, std_H in zip(*columns, strict=True):
            parts.append(Part(Network(w1, b1, w2, network.b2_C / count), 1.0, mean_H, std_H))
    return parts


def _weights(usage: Usage, block: int, kept: Survivors) -> list[float]:
    """Usage times mean gate of every routed expert, by slot."""
    modal, common, share_M = usage.specialized[block], usage.collaborative[block], usage.layers[block].share_M
    found: list[float] = []
    if modal is not None:
        weight_ME = share_M[:, None] * modal.mass_ME
        found += [float(weight_ME[m, e]) for m, ids in enumerate(kept.specialized) for e in ids]
    if common is not None:
        weight_E = share_M @ common.mass_ME
        found += [float(weight_E[e]) for e in kept.collaborative]
    return found


def dense_block(parts: list[Part], hidden: int, method: Method) -> dict[str, Tensor]:
    """The tensors of a block's `experts` once its networks are one of so many hidden units, float64.

    Raises
    ------
    PruneError
        The method is unknown, or there is no network.
    """
    methods = {"neurons": neurons, "kc": compressed, "ks": selected, "ka": averaged}
    if method not in methods or not parts:
        raise PruneError(
            f"There is no method {method}" if parts else "There is no expert to make a dense network of",
            item="integrate",
            enough=", ".join(methods) if parts else "one expert in every block",
            todo="name one of them" if parts else "keep one",
        )
    dense = methods[method](parts, hidden)
    names = ("shared.0.weight", "shared.0.bias", "shared.2.weight", "shared.2.bias")
    return dict(zip(names, (dense.w1_CH.t(), dense.b1_H, dense.w2_HC.t(), dense.b2_C), strict=True))


def side_by_side(parts: list[Part]) -> Network:
    """One network of all hidden units, weights folded into the second matrix and bias: sum_p w_p E_p(x), exactly."""
    return Network(
        torch.cat([p.network.w1_CH for p in parts], 1),
        torch.cat([p.network.b1_H for p in parts]),
        torch.cat([p.weight * p.network.w2_HC for p in parts]),
        torch.stack([p.weight * p.network.b2_C for p in parts]).sum(0),
    )


def neurons(parts: list[Part], hidden: int) -> Network:
    """The hidden units that matter most; exact where there is room for all."""
    whole = side_by_side(parts)
    mean_X, std_X = torch.cat([p.mean_H for p in parts]), torch.cat([p.std_H for p in parts])
    order_X = torch.argsort(whole.w2_HC.norm(dim=1) * std_X, descending=True, stable=True)
    keep, drop = order_X[:hidden].sort().values, order_X[hidden:]
    b2_C = whole.b2_C + mean_X[drop] @ whole.w2_HC[drop]
    return _wide(Network(whole.w1_CH[:, keep], whole.b1_H[keep], whole.w2_HC[keep], b2_C), hidden)


def compressed(parts: list[Part], hidden: int) -> Network:
    """Knowledge gathering: fc1' = U_r^T W1, fc2' = w W2 U_r, biases likewise; ranks are multiples of 8, at most C.

    Singular vectors have no sign of their own and a GELU is not odd: each is turned so that its sum is not negative,
    as units that rise together then rise in the compressed one, too.
    """
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
        u_HR = u_HR * torch.where(u_HR.sum(0) < 0, -1.0, 1.0).to(u_HR)
        w1_CR, w2_RC = network.w1_CH @ u_HR, u_HR.t() @ network.w2_HC
        small.append(part._replace(network=Network(w1_CR, network.b1_H @ u_HR, w2_RC, network.b2_C)))
    return _wide(side_by_side(small), hidden)


def selected(parts: list[Part], hidden: int) -> Network:
    """The one network with the greatest weight."""
    return _wide(side_by_side([max(parts, key=lambda p: p.weight)]), hidden)


def averaged(parts: list[Part], hidden: int) -> Network:
    """The mean of the networks by their weights, times the sum of these."""
    total = sum(p.weight for p in parts) or 1.0
    w1_CH = torch.stack([p.weight / total * p.network.w1_CH for p in parts]).sum(0)
    b1_H = torch.stack([p.weight / total * p.network.b1_H for p in parts]).sum(0)
    w2_HC = torch.stack([p.weight * p.network.w2_HC for p in parts]).sum(0)
    return _wide(Network(w1_CH, b1_H, w2_HC, side_by_side(parts).b2_C), hidden)


def _wide(network: Network, hidden: int) -> Network:
    """The same network with units that give nothing, up to a hidden width."""
    rest = hidden - len(network.b1_H)
    w1_CH, b1_H = F.pad(network.w1_CH, (0, rest)), F.pad(network.b1_H, (0, rest))
    return Network(w1_CH, b1_H, F.pad(network.w2_HC, (0, 0, 0, rest)), network.b2_C)
