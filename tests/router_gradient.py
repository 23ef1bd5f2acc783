"""How much of the task's gradient reaches the routers after 50 steps from Swin V2's start, with either gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.masking import mask_batch
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.moe import Router
from ringmoe.objectives import Objective, ObjectiveConfig

CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=8, pretrain_windows=(8, 8, 4, 2))
"""Post-norm weights start at zero, as Swin V2 publishes it."""
RATE = 3e-3
"""Of AdamW, without warm-up; what the branches add grows with rate and steps, and the ratio with it."""

TASK_ALONE = ObjectiveConfig(balance=0.0, z=0.0)


def smooth_batch(step: int, images: int = 2, pixels: int = 64) -> Batch:
    """Images with something to guess: noise of 8 px, interpolated."""
    generator = torch.Generator().manual_seed(step)
    found = {}
    for modality in Modality:
        channels = len(CONTRACT.inputs[modality].bands)
        coarse = torch.randn(images, channels, pixels // 8, pixels // 8, generator=generator)
        fine = nn.functional.interpolate(coarse, size=(pixels, pixels), mode="bilinear")
        found[modality] = Chips(fine, torch.ones(images, pixels, pixels, dtype=torch.bool))
    return found


def gradient_ratio(*, constant_gate: bool, steps: int = 50) -> float:
    """Norm of the routers' gradient over that of all other weights of the encoder, of the task's loss alone."""
    torch.manual_seed(0)
    model = RingMoE(CONFIG, CONTRACT)
    objective = Objective(model, TASK_ALONE)
    routers = [module for module in model.modules() if isinstance(module, Router)]
    for router in routers:
        router.constant_gate = constant_gate
    optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=RATE, fused=True)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps + 1):
        batch = smooth_batch(step)
        masks = mask_batch(batch, generator=generator)
        optimiser.zero_grad(set_to_none=True)
        objective(model(batch, masks), batch, masks).total.backward()
        if step < steps:
            optimiser.step()
    of_routers = {id(router.weight) for router in routers}
    return norm(p for p in model.parameters() if id(p) in of_routers) / norm(
        p for p in model.parameters() if id(p) not in of_routers
    )


def norm(parameters: object) -> float:
    """Of all their gradients together; none is 0."""
    squares: list[Tensor] = [p.grad.double().square().sum() for p in parameters if p.grad is not None]  # type: ignore[attr-defined]
    return float(sum(squares, torch.zeros((), dtype=torch.float64)).sqrt())
