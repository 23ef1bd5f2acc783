"""Small models whose experts differ and whose routers have opinions, and batches for them."""

from __future__ import annotations

import torch
from torch import Tensor

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.modality import Chips, Modality
from ringmoe.moe import RingMoELayer, TokenGroups

CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(
    dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2), post_norm_init=1.0
)
TWO = (Modality.MS, Modality.SAR_L2)


def made(config: RingMoEConfig = CONFIG) -> RingMoE:
    """A model of all modalities, the same at every call."""
    torch.manual_seed(0)
    model = RingMoE(config, CONTRACT).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.normal_(std=0.5 if "router" in name or "alized.weight" in name else 0.1)
    return model


def batch_of(*modalities: Modality, count: int = 2, seed: int = 0) -> dict[Modality, Chips]:
    """Noise of 64 px, all valid."""
    generator = torch.Generator().manual_seed(seed)
    return {
        m: Chips(
            torch.randn(count, len(CONTRACT.inputs[m].bands), 64, 64, generator=generator),
            torch.ones(count, 64, 64, dtype=torch.bool),
        )
        for m in modalities
    }


def last(model: RingMoE, batch: dict[Modality, Chips]) -> Tensor:
    """All features, as one vector."""
    with torch.no_grad():
        return torch.cat([level.flatten() for maps in model(batch).pyramids.values() for level in maps])


def inputs_of(model: RingMoE, batch: dict[Modality, Chips]) -> list[tuple[Tensor, TokenGroups]]:
    """What comes into the experts of every block."""
    found: list[tuple[Tensor, TokenGroups]] = []
    hooks = [b.experts.register_forward_hook(lambda _, args, __: found.append(args)) for b in model.blocks()]
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def answer(layer: RingMoELayer, given: tuple[Tensor, TokenGroups]) -> Tensor:
    """The sum of a layer's experts, (T, C), double."""
    return layer(*given)[0].double()
