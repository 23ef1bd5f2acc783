"""A block's dense network of the units that matter, with one of its networks in double precision at a time.

Shape legend: C width, H hidden width of a network, X hidden units of several networks side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ringmoe.integrate import Method, Part, dense_block, side_by_side, weighted
from ringmoe.usage import Network, Usage


def dense_within_memory(
    usage: Usage, block: int, found: Sequence[Network], hidden: int, method: Method
) -> dict[str, Tensor]:
    """What `ringmoe.integrate.dense_block` makes of all networks of a block; parameters as of `weighted`.

    Neurons are chosen one by one, so networks are first cut down, one after the other, to those that will be; every
    other method is given the networks whole. Errors are `dense_block`'s.
    """
    if method != "neurons" or not found:
        return dense_block(weighted(usage, block, list(found)), hidden, method)
    scores = [torch.cat([_scores(part) for part in _parts(usage, block, found, slot)]) for slot in range(len(found))]
    sizes = [len(score_X) for score_X in scores]
    order_X = torch.argsort(torch.cat(scores), descending=True, stable=True)[:hidden]
    chosen_X = torch.zeros(sum(sizes), dtype=torch.bool)
    chosen_X[order_X] = True
    small: list[Part] = []
    given_C = torch.zeros((), dtype=torch.float64)
    for slot, mine_X in enumerate(chosen_X.split(sizes)):
        parts = _parts(usage, block, found, slot)
        for part, keep_H in zip(parts, mine_X.split([len(p.network.b1_H) for p in parts]), strict=True):
            folded = side_by_side([part])
            given_C = given_C + part.mean_H[~keep_H] @ folded.w2_HC[~keep_H]
            small.append(_of_units(part, keep_H))
    dense = dense_block(small, hidden, method)
    return dense | {"shared.2.bias": dense["shared.2.bias"] + given_C}


def _parts(usage: Usage, block: int, found: Sequence[Network], slot: int) -> list[Part]:
    """One network with its weight and moments; several where it is that of several shared experts."""
    routed = len(usage.units[block].mean) - (usage.config.shared > 0)
    none = Network(*(torch.empty((0,) * t.ndim) for t in found[slot]))
    alone = [network if i == slot else none for i, network in enumerate(found)]
    parts = weighted(usage, block, alone[: max(routed, slot + 1)])
    return parts[routed:] if slot >= routed else parts[slot : slot + 1]


def _scores(part: Part) -> Tensor:
    """What units give to the layer's output: weight times |w2| times deviation, (H,)."""
    return side_by_side([part]).w2_HC.norm(dim=1) * part.std_H


def _of_units(part: Part, keep_H: Tensor) -> Part:
    network = part.network
    some = Network(network.w1_CH[:, keep_H], network.b1_H[keep_H], network.w2_HC[keep_H], network.b2_C)
    return Part(some, part.weight, part.mean_H[keep_H], part.std_H[keep_H])
