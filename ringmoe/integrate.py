"""Many experts -> one dense network a block, of the hidden width of a single expert: a plain Swin V2.

Shape legend: C width, H hidden width of a network, X hidden units of several networks side by side, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.backbone import Block, RingMoE
from ringmoe.errors import PruneError
from ringmoe.moe import Survivors
from ringmoe.quantise import check_exact
from ringmoe.usage import Network, Usage, networks

Method = Literal["neurons", "kc", "ks", "ka"]
"""Keep the hidden units that matter; compress each expert by SVD; select one expert; average the experts."""

RANK_STEP = 8
"""Ranks that an expert is compressed to are multiples of this."""


class Part(NamedTuple):
    """One network of a block and what it weighs in the block's output."""

    network: Network
    """The expert, as it is kept: any dtype and device."""
    weight: float
    """Its share of the tokens times its mean gate; 1 for the shared expert."""
    mean_H: Tensor
    """Of its hidden units over the tokens sent to it, float64."""
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
        The weights are quantised, the profile is of another model, the method is unknown, or a block has no network
        left.
    """
    check_exact(model)
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

    None is copied: each method computes in float64 and holds one of them so at a time, as far as it can.

    Parameters
    ----------
    found
        Routed experts by slot and then the shared network, as of `ringmoe.usage.networks`; any dtype and device.
    """
    weights = _weights(usage, block, usage.config.survivors_of(block, len(usage.modalities)))
    units, count = usage.units[block], usage.config.shared
    routed, shared = found[: len(weights)], found[len(weights) :]
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


def folded(part: Part) -> Network:
    """A network with its weight in the second matrix and bias, float64: w E(x)."""
    w1_CH, b1_H, w2_HC, b2_C = (t.detach().double().cpu() for t in part.network)
    return Network(w1_CH, b1_H, part.weight * w2_HC, part.weight * b2_C)


def side_by_side(found: Sequence[Network]) -> Network:
    """One network of all hidden units: the sum of the networks, exactly."""
    return Network(
        torch.cat([n.w1_CH for n in found], 1),
        torch.cat([n.b1_H for n in found]),
        torch.cat([n.w2_HC for n in found]),
        torch.stack([n.b2_C for n in found]).sum(0),
    )


def neurons(parts: list[Part], hidden: int) -> Network:
    """The hidden units that matter most; exact where there is room for all."""
    scores = [folded(p).w2_HC.norm(dim=1) * p.std_H for p in parts]
    chosen_X = torch.zeros(sum(map(len, scores)), dtype=torch.bool)
    chosen_X[torch.argsort(torch.cat(scores), descending=True, stable=True)[:hidden]] = True
    kept = []
    for part, keep_H in zip(parts, chosen_X.split([len(score_H) for score_H in scores]), strict=True):
        w1_CH, b1_H, w2_HC, b2_C = folded(part)
        b2_C = b2_C + part.mean_H[~keep_H] @ w2_HC[~keep_H]
        kept.append(Network(w1_CH[:, keep_H], b1_H[keep_H], w2_HC[keep_H], b2_C))
    return _wide(side_by_side(kept), hidden)


def compressed(parts: list[Part], hidden: int) -> Network:
    """Knowledge gathering: fc1' = U_r^T W1, fc2' = w W2 U_r, biases likewise; ranks are multiples of 8, at most C.

    Singular vectors have no sign of their own and a GELU is not odd: each is turned so that its sum is not negative,
    as units that rise together then rise in the compressed one, too.
    """
    values = [torch.linalg.svdvals(p.network.w1_CH.detach().double().cpu()) for p in parts]
    offers = [
        (-part.weight * float(values_R[start : start + RANK_STEP].norm()), start, i)
        for i, (part, values_R) in enumerate(zip(parts, values, strict=True))
        for start in range(0, len(values_R) // RANK_STEP * RANK_STEP, RANK_STEP)
    ]
    ranks = [0] * len(parts)
    for _, _, i in sorted(offers)[: hidden // RANK_STEP]:
        ranks[i] += RANK_STEP
    return _wide(side_by_side([_of_rank(folded(p), rank) for p, rank in zip(parts, ranks, strict=True)]), hidden)


def _of_rank(network: Network, rank: int) -> Network:
    u_HR = torch.linalg.svd(network.w1_CH.t(), full_matrices=False)[0][:, :rank]
    u_HR = u_HR * torch.where(u_HR.sum(0) < 0, -1.0, 1.0).to(u_HR)
    return Network(network.w1_CH @ u_HR, network.b1_H @ u_HR, u_HR.t() @ network.w2_HC, network.b2_C)


def selected(parts: list[Part], hidden: int) -> Network:
    """The one network with the greatest weight."""
    return _wide(folded(max(parts, key=lambda p: p.weight)), hidden)


def averaged(parts: list[Part], hidden: int) -> Network:
    """The mean of the networks by their weights, times the sum of these."""
    total = sum(p.weight for p in parts) or 1.0
    w1_CH, b1_H, w2_HC, b2_C = (torch.zeros_like(t, dtype=torch.float64, device="cpu") for t in parts[0].network)
    for part in parts:
        exact = folded(part)
        w1_CH += part.weight / total * exact.w1_CH
        b1_H += part.weight / total * exact.b1_H
        w2_HC += exact.w2_HC
        b2_C += exact.b2_C
    return _wide(Network(w1_CH, b1_H, w2_HC, b2_C), hidden)


def _wide(network: Network, hidden: int) -> Network:
    """The same network with units that give nothing, up to a hidden width."""
    rest = hidden - len(network.b1_H)
    w1_CH, b1_H = F.pad(network.w1_CH, (0, rest)), F.pad(network.b1_H, (0, rest))
    return Network(w1_CH, b1_H, F.pad(network.w2_HC, (0, 0, 0, rest)), network.b2_C)
