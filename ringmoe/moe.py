"""Router, three kinds of expert, and the layer that sums them.

Every token gets the sum of a modal-specialized expert (chosen by its modality's router), a collaborative expert
(chosen by one router for all) and the shared expert: RingMoE, arXiv 2504.03166, section on the RMoE layer.
Shape legend: T token, C width, H hidden width, M modality, E expert, R router, K kind of routed expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Routes(NamedTuple):
    """Where one router (or one per modality) sent every token; the balance loss and pruning both read this."""

    ids_T: Tensor
    """Expert chosen, counted within the router's full set, pruned ones included."""
    gates_T: Tensor
    """Un-normalised softmax probability of the expert chosen, float32; 0 where none survives."""
    scores_TE: Tensor
    """Softmax over the full set, float32."""
    load_ME: Tensor
    """Counted tokens sent to each expert, by modality; no gradient."""
    mass_ME: Tensor
    """Sum of the scores of counted tokens, by modality."""
    z_M: Tensor
    """Sum over counted tokens of the squared logarithm of the softmax's denominator, by modality."""


class Routing(NamedTuple):
    """The routes of one block, a kind that the block has not is None."""

    specialized: Routes | None
    collaborative: Routes | None


class TokenGroups(NamedTuple):
    """Which modality each token of a mixed batch belongs to."""

    modality_T: Tensor
    """Index into the model's modalities."""
    counted_MT: Tensor
    """1 where the token is of the modality, is not masked and saw something; else 0. float32."""


@dataclass(frozen=True)
class Survivors:
    """The routed experts a block still has."""

    specialized: tuple[tuple[int, ...], ...]
    """Ids kept, for each modality of the model in order."""
    collaborative: tuple[int, ...]
    """Ids kept."""

    @property
    def slots(self) -> int:
        """Number of routed experts kept."""
        return sum(map(len, self.specialized)) + len(self.collaborative)


class Router(nn.Module):
    """Top-1 routing by softmax, in float32, with one row of experts per router.

    The gate is the probability itself, not normalised by the sum of those chosen, so that the task's loss reaches the
    router. Pruned experts keep their place in the softmax: a token whose expert is gone takes its best survivor with
    that survivor's own probability.

    Parameters
    ----------
    dim
        Width C.
    experts
        Experts E each router chooses from, pruned ones included.
    kept
        Surviving ids, per router.
    first
        Place of the first survivor in the stack of experts.
    """

    alive_RE: Tensor
    slot_RE: Tensor

    def __init__(self, dim: int, experts: int, kept: tuple[tuple[int, ...], ...], first: int) -> None:
        super().__init__()
        self.experts, self.whole = experts, all(len(ids) == experts for ids in kept)
        self.weight = nn.Parameter(torch.empty(len(kept), experts, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)
        alive_RE = torch.zeros(len(kept), experts, dtype=torch.bool, device="cpu")
        for row, ids in enumerate(kept):
            alive_RE[row, list(ids)] = True
        slot_RE = (alive_RE.flatten().cumsum(0) - 1).clamp(min=0).view_as(alive_RE) + first
        self.register_buffer("alive_RE", alive_RE.to(self.weight.device), persistent=False)
        self.register_buffer("slot_RE", slot_RE.to(self.weight.device), persistent=False)

    def forward(self, x_TC: Tensor, groups: TokenGroups) -> tuple[Routes, Tensor]:
        """Routes of the tokens, and the place in the stack of the expert each was sent to."""
        exact = torch.promote_types(x_TC.dtype, torch.float32)
        with torch.autocast(x_TC.device.type, enabled=False):
            logits_TE = self._logits(x_TC.to(exact), self.weight.to(exact), groups.modality_T)
            scores_TE = torch.softmax(logits_TE, -1)
            lse_T = torch.logsumexp(logits_TE, -1)
            counted_MT = groups.counted_MT.to(exact)
            router_T = groups.modality_T if len(self.weight) > 1 else torch.zeros_like(groups.modality_T)
            offered_TE = scores_TE if self.whole else scores_TE.where(self.alive_RE[router_T], -1.0)
            best_T, ids_T = offered_TE.max(-1)
            chosen_TE = F.one_hot(ids_T, self.experts).to(exact)
            routes = Routes(
                ids_T=ids_T,
                gates_T=best_T if self.whole else best_T.clamp(min=0),
                scores_TE=scores_TE,
                load_ME=counted_MT @ chosen_TE,
                mass_ME=counted_MT @ scores_TE,
                z_M=counted_MT @ lse_T.square(),
            )
        return routes, self.slot_RE[router_T, ids_T]

    def _logits(self, x_TC: Tensor, weight_REC: Tensor, modality_T: Tensor) -> Tensor:
        logits_TX = F.linear(x_TC, weight_REC.flatten(0, 1))
        if len(weight_REC) == 1:
            return logits_TX
        index_T1E = modality_T.view(-1, 1, 1).expand(-1, 1, self.experts)
        return logits_TX.view(len(x_TC), -1, self.experts).gather(1, index_T1E)[:, 0]


class Experts(nn.Module):
    """A stack of feed-forward networks, each applied to the tokens sent to it: dropless.

    All routed experts of a block stand in one stack, so that both kinds run in one grouped matrix product.

    Parameters
    ----------
    dim, hidden
        Widths C and H.
    count
        Number of experts in the stack.
    """

    def __init__(self, dim: int, hidden: int, count: int) -> None:
        super().__init__()
        self.w1_ECH = nn.Parameter(torch.empty(count, dim, hidden))
        self.b1_EH = nn.Parameter(torch.zeros(count, hidden))
        self.w2_EHC = nn.Parameter(torch.empty(count, hidden, dim))
        self.b2_EC = nn.Parameter(torch.zeros(count, dim))
        nn.init.trunc_normal_(self.w1_ECH, std=0.02)
        nn.init.trunc_normal_(self.w2_EHC, std=0.02)

    def forward(self, x_TC: Tensor, slots_KT: Tensor, gates_KT: Tensor) -> Tensor:
        """Sum over kinds of gate times expert, (T, C)."""
        if torch.is_autocast_enabled(x_TC.device.type):
            dtype = torch.get_autocast_dtype(x_TC.device.type)
        else:
            dtype = x_TC.dtype
        weights = [p.to(dtype) for p in (self.w1_ECH, self.b1_EH, self.w2_EHC, self.b2_EC)]
        order_X = torch.argsort(slots_KT.flatten(), stable=True)
        slots_X = slots_KT.flatten()[order_X]
        tokens_X = order_X % len(x_TC)
        x_XC = _Gather.apply(x_TC.to(dtype), tokens_X, torch.argsort(order_X), len(slots_KT))
        chosen_XE = F.one_hot(slots_X, len(weights[0])).to(dtype)
        ends_E = chosen_XE.new_zeros(len(weights[0]), dtype=torch.int32)
        ends_E = torch.cumsum(F.one_hot(slots_X, len(weights[0])).sum(0), 0).to(torch.int32, copy=True)
        product = grouped_product if grouped_path(x_XC, weights[0]) else loop_product
        h_XH = F.gelu(_AddBias.apply(product(x_XC, weights[0], ends_E), weights[1], slots_X, chosen_XE))
        y_XC = _AddBias.apply(product(h_XH, weights[2], ends_E), weights[3], slots_X, chosen_XE)
        y_XC = y_XC * gates_KT.flatten()[order_X, None].to(dtype)
        return _Scatter.apply(y_XC, tokens_X, torch.argsort(order_X), len(slots_KT))
