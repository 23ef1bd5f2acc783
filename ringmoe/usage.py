"""What a model's experts do with given data: how often, how strongly, and with which hidden units.

Shape legend: T token, C width, H hidden width, M modality, E expert of a router.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.errors import PruneError
from ringmoe.modality import Batch, Modality
from ringmoe.moe import RingMoELayer, Router, TokenGroups


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
    """What the experts of one kind did in one block, float64."""

    usage_ME: Tensor
    """Share of a modality's tokens sent to each expert; rows of modalities seen sum to 1."""
    gate_ME: Tensor
    """Mean gate of those tokens; 0 where there were none."""
    norm_ME: Tensor
    """Mean of gate times norm of the expert's output over those tokens; 0 where there were none."""


class UnitUsage(NamedTuple):
    """What the hidden units of a block's networks did: those of the routed experts by slot, then the shared one's."""

    mean: tuple[Tensor, ...]
    """Mean activation over the tokens sent to the network, (H,) each."""
    std: tuple[Tensor, ...]
    """Its standard deviation."""


@dataclass(frozen=True)
class Usage:
    """What a model did with the batches it was profiled on."""

    modalities: tuple[Modality, ...]
    """Rows M of every table."""
    tokens_M: Tensor
    """Tokens of the first stage that were counted, by modality."""
    specialized: tuple[ExpertUsage | None, ...]
    """One per block; the table's row is the modality whose experts they are."""
    collaborative: tuple[ExpertUsage | None, ...]
    """One per block."""
    units: tuple[UnitUsage, ...]
    """One per block."""
    config: RingMoEConfig
    """Of the model profiled."""
    contract_digest: str
    """Of the model profiled."""

    @property
    def share_M(self) -> Tensor:
        """Share of each modality among the tokens."""
        return self.tokens_M / self.tokens_M.sum()


@torch.no_grad()
def profile(model: RingMoE, batches: Iterable[Batch]) -> Usage:
    """How often, how strongly and with which hidden units every expert is used on unmasked chips.

    Tokens that saw only no-data are left out.

    Raises
    ------
    PruneError
        The batches hold no measured pixel.
    """
    blocks, training = model.blocks(), model.training
    tallies = [_Tally(block.experts, len(model.modalities)) for block in blocks]
    hooks = [b.experts.register_forward_hook(t.add) for b, t in zip(blocks, tallies, strict=True)]
    try:
        model.eval()
        for batch in batches:
            model(batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not tallies[0].tokens_M.sum() > 0:
        raise PruneError(
            "The profile saw no measured pixel",
            enough="one chip with valid pixels",
            todo="profile on cubes of the region the model will work on",
        )
    return Usage(
        modalities=model.modalities,
        tokens_M=tallies[0].tokens_M,
        specialized=tuple(t.experts("specialized") for t in tallies),
        collaborative=tuple(t.experts("collaborative") for t in tallies),
        units=tuple(t.units() for t in tallies),
        config=model.config,
        contract_digest=model.contract.digest(),
    )


class _Tally:
    """Running sums over one block."""

    def __init__(self, layer: RingMoELayer, modalities: int) -> None:
        self.layer = layer
        self.tokens_M = torch.zeros(modalities, dtype=torch.float64)
        self.sums: dict[str, Tensor] = {}
        for kind, router in routers(layer).items():
            self.sums[kind] = torch.zeros(3, modalities, router.experts, dtype=torch.float64)
        widths = [network.w1_CH.shape[1] for network in networks(layer)]
        self.moments = [torch.zeros(3, width, dtype=torch.float64) for width in widths]

    def add(self, layer: nn.Module, args: tuple[Tensor, TokenGroups], output: tuple[Tensor, NamedTuple]) -> None:
        """Forward hook of a layer."""
        x_TC, groups = args
        counted_T = groups.counted_MT.sum(0) > 0
        x_TC, modality_T = x_TC[counted_T], groups.modality_T[counted_T]
        size = len(self.tokens_M)
        self.tokens_M += torch.bincount(modality_T, minlength=size).cpu()
        parts = networks(self.layer)
        for kind, router in routers(self.layer).items():
            routes = getattr(output[1], kind)
            gates_T, ids_T = routes.gates_T[counted_T], routes.ids_T[counted_T]
            slots_T = router.slot_RE[modality_T if len(router.slot_RE) > 1 else torch.zeros_like(modality_T), ids_T]
            for slot in slots_T.unique().tolist():
                at = slots_T == slot
                y_TC = self._moments(slot, parts[slot], x_TC[at])
                expert, of = int(ids_T[at][0]), modality_T[at]
                weight_T = gates_T[at].double()
                for i, value_T in enumerate((torch.ones_like(weight_T), weight_T, weight_T * y_TC.norm(dim=-1))):
                    self.sums[kind][i, :, expert] += torch.bincount(of, value_T, minlength=size).cpu()
        for slot in range(self.layer_slots, len(parts)):
            self._moments(slot, parts[slot], x_TC)

    @property
    def layer_slots(self) -> int:
        """Routed experts in the stack."""
        return 0 if self.layer.experts is None else len(self.layer.experts.w1_ECH)

    def _moments(self, slot: int, network: Network, x_TC: Tensor) -> Tensor:
        h_TH = F.gelu(x_TC @ network.w1_CH + network.b1_H)
        h = h_TH.double()
        self.moments[slot] += torch.stack([torch.full_like(h[0], len(h)), h.sum(0), h.square().sum(0)]).cpu()
        return h_TH @ network.w2_HC + network.b2_C

    def experts(self, kind: str) -> ExpertUsage | None:
        """Means of one kind."""
        if kind not in self.sums:
            return None
        count_ME, gate_ME, norm_ME = self.sums[kind]
        some_ME = count_ME.clamp(min=1)
        return ExpertUsage(count_ME / count_ME.sum(1, keepdim=True).clamp(min=1), gate_ME / some_ME, norm_ME / some_ME)

    def units(self) -> UnitUsage:
        """Means and deviations of the hidden units."""
        means = tuple(total / count.clamp(min=1) for count, total, _ in self.moments)
        variances = (
            square / count.clamp(min=1) - mean**2 for (count, _, square), mean in zip(self.moments, means, strict=True)
        )
        return UnitUsage(means, tuple(v.clamp(min=0).sqrt() for v in variances))
