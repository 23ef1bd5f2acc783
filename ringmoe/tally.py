"""What the experts of one block do with its tokens: running sums, and the means they become.

Shape legend: T token, C width, H hidden width, M modality, E expert of a router, N survivor of a router, A set of
survivors as bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.moe import RingMoELayer, Router, Routes, Routing, TokenGroups

MOST_SETS = 6
"""Survivors of a router up to which every set of them is scored by itself: 64 sets."""

VALUES = 1 << 22
"""Numbers in what one expert makes of the tokens looked at in one go; those of all experts of a kind are held."""


class Network(NamedTuple):
    """The weights of one expert: gelu(x w1 + b1) w2 + b2."""

    w1_CH: Tensor
    """First matrix."""
    b1_H: Tensor
    """First bias."""
    w2_HC: Tensor
    """Second matrix."""
    b2_C: Tensor
    """Second bias."""

    def hidden(self, x_TC: Tensor) -> Tensor:
        """Activations of the hidden units, (T, H)."""
        return F.gelu(x_TC @ self.w1_CH + self.b1_H)


def networks(layer: RingMoELayer) -> list[Network]:
    """The routed experts of a layer, by slot, and then its shared network; views, no copy."""
    found = []
    if layer.experts is not None:
        stacks = (layer.experts.w1_ECH, layer.experts.b1_EH, layer.experts.w2_EHC, layer.experts.b2_EC)
        found = [Network(*(stack[slot] for stack in stacks)) for slot in range(len(stacks[0]))]
    if layer.shared is not None:
        state = dict(layer.shared.named_parameters())
        found.append(Network(state["0.weight"].t(), state["0.bias"], state["2.weight"].t(), state["2.bias"]))
    return found


def routers(layer: RingMoELayer) -> dict[str, Router]:
    """The routers a layer has, by kind."""
    found = {"specialized": layer.specialized, "collaborative": layer.collaborative}
    return {kind: router for kind, router in found.items() if router is not None}


class ExpertUsage(NamedTuple):
    """What the experts of one kind did in one block, float64; 0 where no token came."""

    usage_ME: Tensor
    """Share of a modality's tokens sent to each expert; rows of modalities seen sum to 1."""
    gate_ME: Tensor
    """Mean gate of those tokens."""
    norm_ME: Tensor
    """Mean of gate times norm of the expert's output over those tokens."""
    error_ME: Tensor
    """What the layer's output loses, as squared norm over its own, without the expert: tokens take the next best."""
    energy_ME: Tensor
    """Squared norm of gate times output, summed over those tokens, over all tokens of the modality."""
    mean_MEC: Tensor
    """Gate times output, summed over those tokens, over all tokens of the modality."""
    sets_MA: Tensor
    """`error_ME` for every set of survivors left, as bits of their places in `Survivors`; (M, 0) where too many."""

    @property
    def mass_ME(self) -> Tensor:
        """Sum of gates over those tokens, over all tokens of the modality."""
        return self.usage_ME * self.gate_ME


class UnitUsage(NamedTuple):
    """What the hidden units of a block's networks did: those of the routed experts by slot, then the shared one's."""

    mean: tuple[Tensor, ...]
    """Mean activation over the tokens sent to the network, (H,) each."""
    std: tuple[Tensor, ...]
    """Its standard deviation."""


class LayerUsage(NamedTuple):
    """What came into and out of the experts of one block, float64."""

    tokens_M: Tensor
    """Tokens counted, by modality."""
    energy_M: Tensor
    """Mean squared norm of the sum of the experts, by modality; 0 where there were none."""

    @property
    def share_M(self) -> Tensor:
        """Share of each modality among the tokens."""
        return self.tokens_M / self.tokens_M.sum()


class Tally:
    """Running sums over one block.

    Parameters
    ----------
    layer
        Its experts; not changed.
    modalities
        Number M of the model's modalities.
    """

    def __init__(self, layer: RingMoELayer, modalities: int) -> None:
        self.layer, self.parts, self.size = layer, networks(layer), modalities
        self.tokens_M, self.energy_M = _zeros(modalities), _zeros(modalities)
        self.kinds = {kind: _Kind(router, modalities) for kind, router in routers(layer).items()}
        self.moments = [_zeros(3, network.w1_CH.shape[1]) for network in self.parts]

    def add(self, layer: nn.Module, args: tuple[Tensor, TokenGroups], output: tuple[Tensor, Routing]) -> None:
        """Forward hook of the layer."""
        groups = args[1]
        keep_T = groups.counted_MT.sum(0) > 0
        x_TC, modality_T, y_TC = (t[keep_T] for t in (args[0], groups.modality_T, output[0]))
        self.tokens_M += _by_modality(modality_T, torch.ones(len(x_TC), device=x_TC.device), self.size)
        self.energy_M += _by_modality(modality_T, y_TC.double().square().sum(-1), self.size)
        rows = torch.arange(len(x_TC), device=x_TC.device).split(max(256, VALUES // x_TC.shape[1]))
        for kind, sums in self.kinds.items():
            routes: Routes = getattr(output[1], kind)
            sent = routes.ids_T[keep_T], routes.gates_T[keep_T], routes.scores_TE[keep_T]
            for some_T in rows:
                self._add_kind(sums, x_TC[some_T], modality_T[some_T], *(t[some_T] for t in sent))
        for slot in range(sum(sums.survivors for sums in self.kinds.values()), len(self.parts)):
            self._count_units(slot, self.parts[slot].hidden(x_TC))

    def _add_kind(
        self, sums: _Kind, x_TC: Tensor, modality_T: Tensor, ids_T: Tensor, gates_T: Tensor, scores_TE: Tensor
    ) -> None:
        router = sums.router
        router_T = modality_T if len(router.weight) > 1 else torch.zeros_like(modality_T)
        for row in router_T.unique().tolist():
            x, of_T, sent_T, scores, gates = (t[router_T == row] for t in (x_TC, modality_T, ids_T, scores_TE, gates_T))
            weight_TE = torch.ones_like(scores) if router.constant_gate else scores
            outputs = []
            for expert in sums.alive[row]:
                slot = int(router.slot_RE[row, expert])
                h_TH = self.parts[slot].hidden(x)
                self._count_units(slot, h_TH[sent_T == expert])
                outputs.append((h_TH @ self.parts[slot].w2_HC + self.parts[slot].b2_C) * weight_TE[:, expert, None])
            sums.add(row, _Seen(of_T, sent_T, gates, scores, x, outputs))

    def _count_units(self, slot: int, h_TH: Tensor) -> None:
        h = h_TH.double()
        count_H = torch.full((h.shape[1],), float(len(h)), dtype=h.dtype, device=h.device)
        self.moments[slot] += torch.stack([count_H, h.sum(0), h.square().sum(0)]).cpu()

    def whole(self) -> LayerUsage:
        """Means of the layer."""
        return LayerUsage(self.tokens_M, self.energy_M / self.tokens_M.clamp(min=1))

    def experts(self, kind: str) -> ExpertUsage | None:
        """Means of one kind; None where the block has it not."""
        return self.kinds[kind].means(self.tokens_M, self.energy_M) if kind in self.kinds else None

    def units(self) -> UnitUsage:
        """Means and deviations of the hidden units."""
        means = tuple(total / count.clamp(min=1) for count, total, _ in self.moments)
        variances = (
            square / count.clamp(min=1) - mean**2 for (count, _, square), mean in zip(self.moments, means, strict=True)
        )
        return UnitUsage(means, tuple(v.clamp(min=0).sqrt() for v in variances))


class _Seen(NamedTuple):
    """Tokens of one router."""

    modality_T: Tensor
    ids_T: Tensor
    gates_T: Tensor
    scores_TE: Tensor
    x_TC: Tensor
    outputs: list[Tensor]
    """Of every survivor, weighted by its own score, (T, C)."""


class _Kind:
    """Running sums over the experts of one kind in one block."""

    def __init__(self, router: Router, modalities: int) -> None:
        self.router, self.size = router, modalities
        self.alive = [_ids(row_E) for row_E in router.alive_RE]
        self.silent = [[] for _ in self.alive] if router.silent_RE is None else [_ids(r) for r in router.silent_RE]
        self.survivors = sum(map(len, self.alive))
        most, width = max(map(len, self.alive)), router.weight.shape[2]
        self.sums = _zeros(4, modalities, router.experts)
        self.mean_MEC = _zeros(modalities, router.experts, width)
        self.error_ME = _zeros(modalities, router.experts)
        self.sets_MA = _zeros(modalities, 2**most if most <= MOST_SETS else 0)

    def add(self, row: int, seen: _Seen) -> None:
        """Tokens of the router in a row of the stack of routers."""
        alive, size = self.alive[row], self.size
        nothing_TC = torch.zeros_like(seen.x_TC, dtype=seen.scores_TE.dtype)
        own_TC = nothing_TC
        for y_TC, expert in zip(seen.outputs, alive, strict=True):
            own_TC = torch.where((seen.ids_T == expert)[:, None], y_TC, own_TC)
        norm_T = own_TC.norm(dim=-1).double()
        cell_T = seen.modality_T * self.router.experts + seen.ids_T
        for i, value_T in enumerate((torch.ones_like(norm_T), seen.gates_T.double(), norm_T, norm_T.square())):
            self.sums[i] += torch.bincount(cell_T, value_T, self.sums[i].numel()).view(size, -1).cpu()
        flat_XC = torch.zeros(self.mean_MEC.flatten(0, 1).shape, dtype=torch.float64, device=own_TC.device)
        self.mean_MEC += flat_XC.index_add_(0, cell_T, own_TC.double()).view_as(self.mean_MEC).cpu()
        lost_TN = torch.stack([(y_TC - own_TC).square().sum(-1) for y_TC in (*seen.outputs, nothing_TC)], -1)
        for bits in _masks(len(alive), self.sets_MA.shape[1]):
            lost_M = _by_modality(seen.modality_T, self._without(row, bits, seen.scores_TE, lost_TN), size)
            gone = [expert for place, expert in enumerate(alive) if not bits >> place & 1]
            if len(gone) == 1:
                self.error_ME[:, gone[0]] += lost_M
            if self.sets_MA.shape[1]:
                self.sets_MA[:, bits] += lost_M

    def _without(self, row: int, bits: int, scores_TE: Tensor, lost_TN: Tensor) -> Tensor:
        """Squared distance of the layer's output from what it would be with a set of survivors alone, (T,)."""
        places = [place for place in range(len(self.alive[row])) if bits >> place & 1]
        offered = [self.alive[row][place] for place in places] + self.silent[row]
        if not offered:
            return lost_TN[:, -1]
        best_T = scores_TE[:, offered].argmax(-1)
        column_N = torch.tensor(places + [-1] * len(self.silent[row]), device=lost_TN.device) % lost_TN.shape[1]
        return lost_TN.gather(1, column_N[best_T][:, None])[:, 0]

    def means(self, tokens_M: Tensor, energy_M: Tensor) -> ExpertUsage:
        """What the sums become."""
        count_ME, gate_ME, norm_ME, square_ME = self.sums
        some_ME, tokens_M1, energy_M1 = count_ME.clamp(min=1), tokens_M.clamp(min=1)[:, None], energy_M[:, None]
        loud_M1 = torch.where(energy_M1 > 0, energy_M1, 1.0)
        return ExpertUsage(
            usage_ME=count_ME / count_ME.sum(1, keepdim=True).clamp(min=1),
            gate_ME=gate_ME / some_ME,
            norm_ME=norm_ME / some_ME,
            error_ME=self.error_ME / loud_M1,
            energy_ME=square_ME / tokens_M1,
            mean_MEC=self.mean_MEC / tokens_M1[..., None],
            sets_MA=self.sets_MA / loud_M1,
        )


def _masks(alive: int, room: int) -> Sequence[int]:
    """Sets of survivors to score: all, or those that one is missing from."""
    return range(2**alive) if room else [(2**alive - 1) ^ (1 << place) for place in range(alive)]


def _ids(marked_E: Tensor) -> list[int]:
    return [int(i) for i in marked_E.nonzero()[:, 0].tolist()]


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def _by_modality(modality_T: Tensor, value_T: Tensor, size: int) -> Tensor:
    return torch.bincount(modality_T, value_T.double(), size).cpu()
