"""What a model's experts do with given data: how often, how strongly, what is lost without them, and with which units.

Shape legend: M modality, E expert of a router, L block, C width, H hidden width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.errors import PruneError
from ringmoe.modality import Batch, Modality
from ringmoe.quantise import check_exact
from ringmoe.tally import ExpertUsage, LayerUsage, Network, Tally, UnitUsage, networks, routers

__all__ = [
    "ExpertUsage",
    "LayerUsage",
    "Network",
    "UnitUsage",
    "Usage",
    "networks",
    "profile",
    "routers",
    "similarity",
    "weights_digest",
]

HASHED = 1 << 24
"""Values made float32 at a time, to be hashed."""


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
    layers: tuple[LayerUsage, ...]
    """One per block."""
    config: RingMoEConfig
    """Of the model profiled."""
    contract_digest: str
    """Of the model profiled."""
    weights_digest: str
    """Of the model profiled: `weights_digest` of its tensors."""

    @property
    def share_M(self) -> Tensor:
        """Share of each modality among the tokens."""
        return self.tokens_M / self.tokens_M.sum()

    def check(self, model: RingMoE) -> None:
        """PruneError where the profile is of another model, or of other weights of this one."""
        same = self.config == model.config and self.contract_digest == model.contract.digest()
        if same and self.weights_digest == weights_digest(model.state_dict()):
            return
        raise PruneError(
            "The profile is of another model" if not same else "The profile is of another checkpoint of this model",
            item=f"a profile over {', '.join(self.modalities)}, a model of {', '.join(model.modalities)}",
            enough="a profile of this very model, after its last pruning and training",
            todo="profile the model again",
        )


@torch.no_grad()
def profile(model: RingMoE, batches: Iterable[Batch]) -> Usage:
    """How often, how strongly and with which hidden units every expert is used on unmasked chips, and its absence felt.

    Tokens that saw only no-data are left out. All survivors of a router see all its tokens, so that the layer's output
    without any of them is known, not estimated; what one layer loses is told as if all others were whole.

    Raises
    ------
    PruneError
        The batches hold no measured pixel, or the weights are quantised.
    """
    check_exact(model)
    blocks, training = model.blocks(), model.training
    tallies = [Tally(block.experts, len(model.modalities)) for block in blocks]
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
        layers=tuple(t.whole() for t in tallies),
        config=model.config,
        contract_digest=model.contract.digest(),
        weights_digest=weights_digest(model.state_dict()),
    )


def similarity(usage: Usage) -> Tensor:
    """How alike modalities choose collaborative experts, (M, M): 1 alike, 0 no expert in common, NaN not seen.

    1 - sqrt(JS), averaged over blocks; JS = H((p + q) / 2) - (H(p) + H(q)) / 2 in bits is the divergence of Jensen and
    Shannon between the shares p and q of two modalities' tokens (Lin 1991, IEEE Trans. Inf. Theory 37(1)), whose root
    is a distance (Endres and Schindelin 2003, ibid. 49(7)).

    Raises
    ------
    PruneError
        No block has collaborative experts.
    """
    tables = [used.usage_ME for used in usage.collaborative if used is not None]
    if not tables:
        raise PruneError(
            "Modalities cannot be compared by their routes",
            item="a model without collaborative experts",
            enough="a router that all modalities share, in one block",
            todo="profile the model before its collaborative experts are pruned",
        )
    p_LME = torch.stack(tables)
    p_LMME, q_LMME = p_LME[:, :, None], p_LME[:, None]
    divergence_LMM = _bits((p_LMME + q_LMME) / 2) - (_bits(p_LMME) + _bits(q_LMME)) / 2
    alike_MM = (1 - divergence_LMM.clamp(0, 1).sqrt()).mean(0)
    unseen_M = usage.tokens_M == 0
    return alike_MM.masked_fill(unseen_M[:, None] | unseen_M[None], float("nan"))


def _bits(p: Tensor) -> Tensor:
    """Entropy over the last axis, in bits."""
    return torch.special.entr(p).sum(-1) / torch.log(torch.tensor(2.0, dtype=p.dtype))


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 in hex over names, shapes and values, read one tensor at a time; bfloat16 counts as the float32 it is."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        dtype = torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype
        values = hashlib.sha256()
        for part in tensor.flatten().split(HASHED):
            values.update(part.to(dtype).view(torch.uint8).numpy().data)
        whole.update(f"{name} {dtype} {tuple(tensor.shape)} {values.hexdigest()}\n".encode())
    return whole.hexdigest()
