"""Router, three kinds of expert, and the layer that sums them.

Every token gets the sum of a modal-specialized expert (chosen by its modality's router), a collaborative expert
(chosen by one router for all) and the shared expert: RingMoE, arXiv 2504.03166, section on the RMoE layer.
Shape legend: T token, C width, H hidden width, M modality, E expert, R router, K kind of routed expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
    runs: tuple[tuple[int, int], ...]
    """Modality and number of its tokens, in the order they lie in the batch."""


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
    constant_gate: bool = False
    """Ablation alone: every gate is 1, as in the public code, and the task's loss never reaches the router."""

    def __init__(self, dim: int, experts: int, kept: tuple[tuple[int, ...], ...], first: int) -> None:
        super().__init__()
        self.experts, self.whole = experts, all(len(ids) == experts for ids in kept)
        self.weight = nn.Parameter(torch.empty(len(kept), experts, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.register_buffer("alive_RE", None, persistent=False)
        self.register_buffer("slot_RE", None, persistent=False)
        self.keep(kept, first, self.weight.device)

    def keep(self, kept: tuple[tuple[int, ...], ...], first: int, device: torch.device | str) -> None:
        """Set which experts survive and where they stand in the stack; no parameter changes."""
        alive_RE = torch.zeros(len(kept), self.experts, dtype=torch.bool, device="cpu")
        for row, ids in enumerate(kept):
            alive_RE[row, list(ids)] = True
        slot_RE = (alive_RE.flatten().cumsum(0) - 1).clamp(min=0).view_as(alive_RE) + first
        self.alive_RE, self.slot_RE = alive_RE.to(device), slot_RE.to(device)

    def forward(self, x_TC: Tensor, groups: TokenGroups) -> tuple[Routes, Tensor]:
        """Routes of the tokens, and the place in the stack of the expert each was sent to."""
        exact = torch.promote_types(x_TC.dtype, torch.float32)
        with torch.autocast(x_TC.device.type, enabled=False):
            logits_TE = self._logits(x_TC.to(exact), self.weight.to(exact), groups.runs)
            scores_TE = torch.softmax(logits_TE, -1)
            lse_T = torch.logsumexp(logits_TE, -1)
            counted_MT = groups.counted_MT.to(exact)
            router_T = groups.modality_T if len(self.weight) > 1 else torch.zeros_like(groups.modality_T)
            offered_TE = scores_TE if self.whole else scores_TE.where(self.alive_RE[router_T], -1.0)
            best_T, ids_T = offered_TE.max(-1)
            chosen_TE = F.one_hot(ids_T, self.experts).to(exact)
            gates_T = best_T if self.whole else best_T.clamp(min=0)
            routes = Routes(
                ids_T=ids_T,
                gates_T=(gates_T > 0).to(exact) if self.constant_gate else gates_T,
                scores_TE=scores_TE,
                load_ME=counted_MT @ chosen_TE,
                mass_ME=counted_MT @ scores_TE,
                z_M=counted_MT @ lse_T.square(),
            )
        return routes, self.slot_RE[router_T, ids_T]

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
        kinds, tokens = slots_KT.shape
        dtype = compute_dtype(x_TC)
        slots_X, order_X = torch.sort(slots_KT.flatten(), stable=True)
        inverse_X = torch.empty_like(order_X).scatter_(0, order_X, torch.arange(len(order_X), device=order_X.device))
        x_XC = _Permute.apply(x_TC.to(dtype).repeat(kinds, 1), order_X, inverse_X)
        run = grouped if grouped_path(x_TC.device, dtype, *self.w1_ECH.shape[1:]) else expert_by_expert
        y_XC = run(x_XC, slots_X, self.w1_ECH, self.b1_EH, self.w2_EHC, self.b2_EC)
        return _Permute.apply(y_XC, inverse_X, order_X).view(kinds, tokens, -1)


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
        self.specialized = Router(dim, specialized, survivors.specialized, 0) if first else None
        self.collaborative = Router(dim, collaborative, common, first) if survivors.collaborative else None
        self.experts = Experts(dim, hidden, survivors.slots) if survivors.slots else None
        self.shared = (
            nn.Sequential(nn.Linear(dim, shared * hidden), nn.GELU(), nn.Linear(shared * hidden, dim))
            if shared
            else None
        )

    def keep(self, survivors: Survivors, device: torch.device | str) -> None:
        """Set anew where the routers' survivors stand, as after building the layer without memory."""
        if self.specialized is not None:
            self.specialized.keep(survivors.specialized, 0, device)
        if self.collaborative is not None:
            self.collaborative.keep((survivors.collaborative,), sum(map(len, survivors.specialized)), device)

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


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype matrix products run in: autocast's where it is on, else the tensor's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def grouped_path(device: torch.device, dtype: torch.dtype, dim: int, hidden: int) -> bool:
    """Whether the grouped matrix product serves this device, dtype and shape; fixed, never timed at run time.

    On CUDA its kernel takes bfloat16 alone, in rows of whole 16 bytes, and nothing there waits for the host. On a CPU
    it is itself a loop of products, and expert by expert is faster because what one expert needs stays in the cache.
    """
    fits = not any(width * dtype.itemsize % 16 for width in (dim, hidden))
    return device.type != "cpu" and dtype == torch.bfloat16 and fits and _GROUPED_MM is not None


_GROUPED_MM = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def grouped(x_XC: Tensor, slots_X: Tensor, w1_ECH: Tensor, b1_EH: Tensor, w2_EHC: Tensor, b2_EC: Tensor) -> Tensor:
    """The experts on rows sorted by slot, each layer one grouped matrix product."""
    assert _GROUPED_MM is not None
    chosen_XE = F.one_hot(slots_X, len(w1_ECH))
    ends_E = chosen_XE.sum(0).cumsum(0).to(torch.int32)
    chosen_XE = chosen_XE.to(x_XC.dtype)
    w1_ECH, b1_EH, w2_EHC, b2_EC = (p.to(x_XC.dtype) for p in (w1_ECH, b1_EH, w2_EHC, b2_EC))
    h_XH = F.gelu(_AddBias.apply(_GROUPED_MM(x_XC, w1_ECH, offs=ends_E), b1_EH, slots_X, chosen_XE))
    return _AddBias.apply(_GROUPED_MM(h_XH, w2_EHC, offs=ends_E), b2_EC, slots_X, chosen_XE)


def expert_by_expert(
    x_XC: Tensor, slots_X: Tensor, w1_ECH: Tensor, b1_EH: Tensor, w2_EHC: Tensor, b2_EC: Tensor
) -> Tensor:
    """The same, one expert after the other: on a CPU, in double precision and at odd widths."""
    return _ExpertByExpert.apply(x_XC, slots_X, w1_ECH, b1_EH, w2_EHC, b2_EC)


class _ExpertByExpert(torch.autograd.Function):
    """Both layers of an expert on its rows, while they are in the cache; results go where they belong, uncopied.

    Weights of another dtype are cast one expert at a time, and their gradients back.
    """

    @staticmethod
    def forward(ctx: Any, x_XC: Tensor, slots_X: Tensor, *weights: Tensor) -> Tensor:
        w1_ECH, b1_EH, w2_EHC, b2_EC = weights
        runs = _runs(slots_X, len(w1_ECH))
        dtype = x_XC.dtype
        h_XH = x_XC.new_empty(len(x_XC), w1_ECH.shape[2])
        a_XH = torch.empty_like(h_XH)
        y_XC = x_XC.new_empty(len(x_XC), w2_EHC.shape[2])
        for e, rows in runs:
            torch.addmm(b1_EH[e].to(dtype), x_XC[rows], w1_ECH[e].to(dtype), out=h_XH[rows])
            torch.ops.aten.gelu.out(h_XH[rows], out=a_XH[rows])
            torch.addmm(b2_EC[e].to(dtype), a_XH[rows], w2_EHC[e].to(dtype), out=y_XC[rows])
        ctx.runs = runs
        ctx.save_for_backward(x_XC, h_XH, a_XH, *weights)
        return y_XC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_XC, h_XH, a_XH, w1_ECH, b1_EH, w2_EHC, b2_EC = ctx.saved_tensors
        dtype, grad_y_XC = x_XC.dtype, grads[0].contiguous()
        grad_x_XC = torch.empty_like(x_XC)
        d_w1, d_b1, d_w2, d_b2 = (_grad_of(w, ctx.runs) for w in (w1_ECH, b1_EH, w2_EHC, b2_EC))
        for e, rows in ctx.runs:
            g_YC = grad_y_XC[rows]
            _product_into(d_w2[e], a_XH[rows].t(), g_YC)
            d_b2[e] = g_YC.sum(0)
            g_YH = torch.ops.aten.gelu_backward(g_YC @ w2_EHC[e].to(dtype).t(), h_XH[rows])
            _product_into(d_w1[e], x_XC[rows].t(), g_YH)
            d_b1[e] = g_YH.sum(0)
            torch.mm(g_YH, w1_ECH[e].to(dtype).t(), out=grad_x_XC[rows])
        return grad_x_XC, None, d_w1, d_b1, d_w2, d_b2


def _runs(slots_X: Tensor, count: int) -> list[tuple[int, slice]]:
    """Experts that have rows, and which; the only place where the host reads what the routers decided."""
    ends = torch.bincount(slots_X, minlength=count).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    return [(e, slice(start, end)) for e, (start, end) in enumerate(zip(starts, ends, strict=True)) if end > start]


def _product_into(target: Tensor, left: Tensor, right: Tensor) -> None:
    """A product written in place, cast where the target is of another dtype."""
    if target.dtype == left.dtype:
        torch.mm(left, right, out=target)
    else:
        target.copy_(left @ right)


def _grad_of(weight: Tensor, runs: list[tuple[int, slice]]) -> Tensor:
    """Room for a stack's gradient: 0 only where an expert has no rows, the rest is written."""
    return torch.empty_like(weight) if len(runs) == len(weight) else torch.zeros_like(weight)


class _Permute(torch.autograd.Function):
    """Rows in another order; the gradient goes back by the inverse order, without sums that depend on timing."""

    @staticmethod
    def forward(ctx: Any, x_XC: Tensor, order_X: Tensor, inverse_X: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_X)
        return x_XC.index_select(0, order_X)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _AddBias(torch.autograd.Function):
    """Adds each row's own expert's bias; its gradient is a matrix product, far faster than a scattered sum."""

    @staticmethod
    def forward(ctx: Any, x_XN: Tensor, bias_EN: Tensor, slots_X: Tensor, chosen_XE: Tensor) -> Tensor:
        ctx.save_for_backward(chosen_XE)
        return x_XN + bias_EN.index_select(0, slots_X)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_XN = grads[0].contiguous()
        return grad_XN, ctx.saved_tensors[0].t() @ grad_XN, None, None
