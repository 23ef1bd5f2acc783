"""What the tests of many devices start by torchrun: training on one fixed batch, layout by layout; rank 0 tells."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.masking import mask_batch
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import Objective
from ringmoe.parallel import Layout, clip_gradients, distribute, part_of, ranks_of_torchrun, summed_over_ranks

CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2))
TWO = (Modality.MS, Modality.SAR_L2)


def made(config: RingMoEConfig = CONFIG, dtype: torch.dtype = torch.float64) -> RingMoE:
    """A model whose experts differ and whose routers have opinions.

    In double precision its branches count fully from the start; in single precision they start at zero, as Swin V2's,
    because a route that flips by rounding then changes little.
    """
    torch.manual_seed(0)
    model = RingMoE(replace(config, post_norm_init=float(dtype == torch.float64)), CONTRACT).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.normal_(std=0.5 if "alized.weight" in name or "collaborative.weight" in name else 0.05)
    return model


def batch_of(dtype: torch.dtype, count: int = 4) -> dict[Modality, Chips]:
    """Of two modalities so many images; the last multispectral one is all no-data, so that ranks' loads differ."""
    generator = torch.Generator().manual_seed(0)
    chips = {}
    for m in TWO:
        pixels = torch.randn(count, len(CONTRACT.inputs[m].bands), 64, 64, generator=generator, dtype=torch.float64)
        chips[m] = Chips(pixels.to(dtype), torch.ones(count, 64, 64, dtype=torch.bool))
    chips[Modality.MS].valid_BHW[-1] = False
    return chips


def losses(dtype: torch.dtype, steps: int, layout: Layout | None = None, config: RingMoEConfig = CONFIG) -> list[float]:
    """Loss of every step; each rank works on its part, the loss is the whole batch's. No layout: one process."""
    model = made(config, dtype)
    objective = Objective(model, summed=None if layout is None else summed_over_ranks()).to(dtype)
    batch = batch_of(dtype)
    masks = mask_batch(batch, generator=torch.Generator().manual_seed(0))
    if layout is not None:
        distribute(model, layout, beside=objective)
        rank, ranks = dist.get_rank(), dist.get_world_size()
        masks = {m: mask[rank * len(mask) // ranks : (rank + 1) * len(mask) // ranks] for m, mask in masks.items()}
        batch = dict(part_of(batch, rank, ranks))
    parameters = [*model.parameters(), *objective.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=0.02)
    found = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = objective(model(batch, masks), batch, masks).total
        loss.backward()
        clip_gradients(parameters, 1.0)
        optimiser.step()
        found.append(loss.item())
    return found


CASES = {
    "trunk": lambda ranks: Layout(shards=ranks),
    "experts": lambda ranks: Layout(experts=ranks),
    "both": lambda ranks: Layout(shards=ranks, experts=ranks),
    "half": lambda ranks: Layout(shards=ranks // 2, experts=ranks // 2),
}


def main() -> None:
    """`parallel_ranks.py OUT STEPS DTYPE,... CASE,...`."""
    out, steps, dtypes, names = sys.argv[1:5]
    torch.set_num_threads(1)
    told = {}
    with ranks_of_torchrun(patience_s=120):
        for dtype in dtypes.split(","):
            for name in names.split(","):
                began = time.perf_counter()
                layout = CASES[name](dist.get_world_size())
                told[f"{dtype}/{name}"] = losses(getattr(torch, dtype), int(steps), layout)
                uneven = replace(CONFIG, collaborative=3)
                told[f"{dtype}/{name}/uneven"] = losses(getattr(torch, dtype), 2, layout, uneven)
                if dist.get_rank() == 0:
                    print(dtype, name, round(time.perf_counter() - began, 1), "s", flush=True)
        if dist.get_rank() == 0:
            Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
