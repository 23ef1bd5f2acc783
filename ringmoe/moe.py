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

from ringmoe.dispatch import compute_dtype, expert_by_expert, grouped, grouped_path

__all__ = ["Experts", "RingMoELayer", "Router", "Routes", "Routing", "Survivors", "TokenGroups", "compute_dtype"]


class Routes(NamedTuple):
    """Where one router (or one per modality) sent every token; the balance loss and pruning both read this."""

    ids_T: Tensor
    """Expert chosen, counted within the router's full set, pruned ones included."""
    gates_T: Tensor
    """Un-normalised softmax probability of the expert chosen, float32; 0 where none survives or it is silent."""
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
    runs: tuple[tuple[int, int], ...]
    """Modality and number of its tokens, in the order they lie in the batch."""


@dataclass(frozen=True)
class Survivors:
    """The routed experts a block still has."""

    specialized: tuple[tuple[int, ...], ...]
    """Ids kept, for each modality of the model in order."""
    collaborative: tuple[int, ...]
    """Ids kept."""
    silent_specialized: tuple[tuple[int, ...], ...] = ()
    """Ids gone whose tokens take nothing instead of their best survivor, for each modality; empty where there are none.

    What they gave on average stands in the shared expert's bias.
    """
    silent_collaborative: tuple[int, ...] = ()
    """The same of the collaborative ones."""

    def __post_init__(self) -> None:
        if not any(self.silent_specialized):
            object.__setattr__(self, "silent_specialized", ())

    def silent_of(self, row: int) -> tuple[int, ...]:
        """Silent specialized experts of a modality."""
        return self.silent_specialized[row] if self.silent_specialized else ()

    @property
    def slots(self) -> int:
        """Number of routed experts kept."""
        return sum(map(len, self.specialized)) + len(self.collaborative)


class Router(nn.Module):
    """Top-1 routing by softmax, in float32, with one row of experts per router.

    The gate is the probability itself, not normalised by the sum of those chosen, so that the task's loss reaches the
    router. Pruned experts keep their place in the softmax: a token whose expert is gone takes its best survivor with
    that survivor's own probability, or nothing where the expert is silent.

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
    silent
        Ids, per router, of experts gone whose tokens take nothing; empty where there are none.
    """

    alive_RE: Tensor
    slot_RE: Tensor
    silent_RE: Tensor | None
    constant_gate: bool = False
    """Ablation alone: every gate is 1, as in the public code, and the task's loss never reaches the router."""

    def __init__(
        self,
        dim: int,
        experts: int,
        kept: tuple[tuple[int, ...], ...],
        first: int,
        silent: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.experts, self.whole = experts, all(len(ids) == experts for ids in kept)
        self.weight = nn.Parameter(torch.empty(len(kept), experts, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.register_buffer("alive_RE", None, persistent=False)
        self.register_buffer("slot_RE", None, persistent=False)
        self.register_buffer("silent_RE", None, persistent=False)
        self.keep(kept, first, self.weight.device, silent)

    def keep(
        self,
        kept: tuple[tuple[int, ...], ...],
        first: int,
        device: torch.device | str,
        silent: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """Set which experts survive and where they stand in the stack; no parameter changes.

        Of one that is gone stands there a survivor of its own router, so that who else shares the stack changes no bit.
        """
        alive_RE = self._marked(kept)
        count_R = alive_RE.sum(1)
        start_R1 = (count_R.cumsum(0) - count_R)[:, None]
        slot_RE = (start_R1 + (alive_RE.cumsum(1) - 1).clamp(min=0)).clamp(max=max(int(count_R.sum()) - 1, 0)) + first
        self.alive_RE, self.slot_RE = alive_RE.to(device), slot_RE.to(device)
        self.silent_RE = self._marked(silent).to(device) if any(silent) else None

    def _marked(self, ids: tuple[tuple[int, ...], ...]) -> Tensor:
        marked_RE = torch.zeros(len(ids), self.experts, dtype=torch.bool, device="cpu")
        for row, mine in enumerate(ids):
            marked_RE[row, list(mine)] = True
        return marked_RE

    def forward(self, x_TC: Tensor, groups: TokenGroups) -> tuple[Routes, Tensor]:
        """Routes of the tokens, and the place in the stack of the expert each was sent to."""
        exact = torch.promote_types(x_TC.dtype, torch.float32)
        with torch.autocast(x_TC.device.type, enabled=False):
            logits_TE = self._logits(x_TC.to(exact), self.weight.to(exact), groups.runs)
            scores_TE = torch.softmax(logits_TE, -1)
            lse_T = torch.logsumexp(logits_TE, -1)
            counted_MT = groups.counted_MT.to(exact)
            router_T = groups.modality_T if len(self.weight) > 1 else torch.zeros_like(groups.modality_T)
            offered_TE = scores_TE if self.whole else scores_TE.where(self._offered_RE()[router_T], -1.0)
            best_T, ids_T = offered_TE.max(-1)
            chosen_TE = F.one_hot(ids_T, self.experts).to(exact)
            gates_T = best_T if self.whole else best_T.clamp(min=0)
            if self.silent_RE is not None:
                gates_T = gates_T.where(self.alive_RE[router_T, ids_T], 0.0)
            routes = Routes(
                ids_T=ids_T,
                gates_T=(gates_T > 0).to(exact) if self.constant_gate else gates_T,
                scores_TE=scores_TE,
                load_ME=counted_MT @ chosen_TE,
                mass_ME=counted_MT @ scores_TE,
                z_M=counted_MT @ lse_T.square(),
            )
        return routes, self.slot_RE[router_T, ids_T]

    def _offered_RE(self) -> Tensor:
        return self.alive_RE if self.silent_RE is None else self.alive_RE | self.silent_RE

    def _logits(self, x_TC: Tensor, weight_REC: Tensor, runs: tuple[tuple[int, int], ...]) -> Tensor:
        """One product per modality present, so that a model of fewer modalities gives the same bits."""
        if len(weight_REC) == 1:
            return F.linear(x_TC, weight_REC[0])
        parts = x_TC.split([tokens for _, tokens in runs])
        return torch.cat([F.linear(part, weight_REC[m]) for part, (m, _) in zip(parts, runs, strict=True)])


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

    def forward(self, x_TC: Tensor, slots_KT: Tensor) -> Tensor:
        """What the expert in slot `slots_KT[k, t]` makes of token t, (K, T, C)."""
        dtype = compute_dtype(x_TC)
        run = grouped if grouped_path(x_TC.device, dtype, *self.w1_ECH.shape[1:]) else expert_by_expert
        return run(x_TC.to(dtype), slots_KT, self.w1_ECH, self.b1_EH, self.w2_EHC, self.b2_EC)


class RingMoELayer(nn.Module):
    """The feed-forward part of a block: specialized + collaborative + shared.

    Parameters
    ----------
    dim, hidden
        Widths C and H of every expert.
    survivors
        Routed experts kept.
    specialized, collaborative
        Experts each router chooses from, pruned ones included; 0 for none.
    shared
        Shared experts; several are one dense network of that many times the hidden width.
    """

    def __init__(
        self, dim: int, hidden: int, *, survivors: Survivors, specialized: int, collaborative: int, shared: int
    ) -> None:
        super().__init__()
        first, common = sum(map(len, survivors.specialized)), (survivors.collaborative,)
        quiet = (survivors.silent_collaborative,)
        self.specialized = (
            Router(dim, specialized, survivors.specialized, 0, survivors.silent_specialized) if first else None
        )
        self.collaborative = Router(dim, collaborative, common, first, quiet) if survivors.collaborative else None
        self.experts = Experts(dim, hidden, survivors.slots) if survivors.slots else None
        self.shared = (
            nn.Sequential(nn.Linear(dim, shared * hidden), nn.GELU(), nn.Linear(shared * hidden, dim))
            if shared
            else None
        )

    def keep(self, survivors: Survivors, device: torch.device | str) -> None:
        """Set anew where the routers' survivors stand, as after building the layer without memory."""
        if self.specialized is not None:
            self.specialized.keep(survivors.specialized, 0, device, survivors.silent_specialized)
        if self.collaborative is not None:
            first, quiet = sum(map(len, survivors.specialized)), (survivors.silent_collaborative,)
            self.collaborative.keep((survivors.collaborative,), first, device, quiet)

    def forward(self, x_TC: Tensor, groups: TokenGroups) -> tuple[Tensor, Routing]:
        """The sum of the experts' answers, (T, C), and where the tokens went."""
        y_TC = torch.zeros_like(x_TC) if self.shared is None else self.shared(x_TC)
        found: list[tuple[Routes, Tensor] | None] = [
            None if router is None else router(x_TC, groups) for router in (self.specialized, self.collaborative)
        ]
        used = [pair for pair in found if pair is not None]
        if self.experts is not None:
            y_KTC = self.experts(x_TC, torch.stack([slots_T for _, slots_T in used]))
            gates_KT1 = torch.stack([routes.gates_T for routes, _ in used])[..., None]
            y_TC = y_TC + (y_KTC * gates_KT1.to(y_KTC.dtype)).sum(0)
        specialized, collaborative = (None if pair is None else pair[0] for pair in found)
        return y_TC, Routing(specialized, collaborative)
