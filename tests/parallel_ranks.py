"""What the tests of many devices start by torchrun: training on one fixed batch, layout by layout; rank 0 tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.errors import TrainingError
from ringmoe.loop import TrainConfig, fit
from ringmoe.masking import mask_batch
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import Objective, ObjectiveConfig
from ringmoe.parallel import (
    Layout,
    clip_gradients,
    distribute,
    over_ranks,
    part_of,
    ranks_of_torchrun,
    same_on_all_ranks,
)
from ringmoe.recompute import Recompute, recompute

Moments: TypeAlias = Literal["float32", "bfloat16", "8bit"]
STEPS = 20
RATE = 0.005
"""Low enough that a route which rounding flips does not grow into another run within STEPS."""
CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2))
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


def laid(
    dtype: torch.dtype, layout: Layout | None, config: RingMoEConfig, what: Recompute = "nothing", views: float = 0.0
) -> Laid:
    """A model and its objective over the ranks, or in one process, and this rank's part of the batch."""
    model = recompute(made(config, dtype), what)
    over = {} if layout is None else over_ranks()
    objective = Objective(model, ObjectiveConfig(views=views), **over).to(dtype)
    batch = batch_of(dtype)
    masks = mask_batch(batch, generator=torch.Generator().manual_seed(0))
    if layout is not None:
        distribute(model, layout, beside=objective)
        rank, ranks = dist.get_rank(), dist.get_world_size()
        if views:  # pairs stay together: an image and the one half a batch after it
            batch, masks = every(batch, masks, rank, ranks)
        else:
            masks = {m: mask[rank * len(mask) // ranks : (rank + 1) * len(mask) // ranks] for m, mask in masks.items()}
            batch = dict(part_of(batch, rank, ranks))
    return Laid(nn.ModuleList([model, objective]), lambda: objective(model(batch, masks), batch, masks).total)


def every(
    batch: dict[Modality, Chips], masks: dict[Modality, Tensor], rank: int, ranks: int
) -> tuple[dict[Modality, Chips], dict[Modality, Tensor]]:
    """Of a batch of pairs, first ones before second ones, a rank's pairs."""
    part = slice(rank, None, ranks)
    mine = {m: Chips(c.pixels_BCHW[part], c.valid_BHW[part]) for m, c in batch.items()}
    return mine, {m: mask[part] for m, mask in masks.items()}


class Laid(NamedTuple):
    """What is trained, and its loss on the fixed batch."""

    module: nn.Module
    loss: Callable[[], Tensor]


def losses(dtype: torch.dtype, steps: int, layout: Layout | None = None, **how: Any) -> list[float]:
    """Loss of every step; each rank works on its part, the loss is the whole batch's. No layout: one process."""
    module, loss_of = laid(dtype, layout, how.pop("config", CONFIG), **how)
    parameters = list(module.parameters())
    optimiser = torch.optim.SGD(parameters, lr=RATE)
    found = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()
        clip_gradients(parameters, 1.0)
        optimiser.step()
        found.append(loss.item())
    return found


def fitted(folder: Path | None, batches: int, layout: Layout | None, moments: Moments = "float32") -> list[float]:
    """Losses of the training loop over eight steps, kept in a folder after four; fewer batches stop it early."""
    module, loss_of = laid(torch.float64, layout, CONFIG)
    config = TrainConfig(
        steps=8, warmup=2, threads=1, keep_in=None if folder is None else str(folder), keep_every=4, moments=moments
    )
    found: list[float] = []
    listen = lambda step: found.append(step.loss)  # noqa: E731
    with suppress(TrainingError):
        fit(module, lambda _: (loss_of(), {}), [0] * batches, config, size=lambda _: 1, on_step=listen)
    return found


def compared(ranks: int, steps: int) -> dict[str, list[float]]:
    """Losses of every layout."""
    told = {}
    for name in ("trunk", "experts", "both"):
        told[f"{torch.float64}/{name}"] = losses(torch.float64, steps, CASES[name](ranks))
    told[f"{torch.float32}/both"] = losses(torch.float32, steps, CASES["both"](ranks))
    told["uneven"] = losses(torch.float64, 3, CASES["both"](ranks), config=UNEVEN)
    told["branches"] = losses(torch.float64, 3, CASES["both"](ranks), what="branches")
    told["views"] = losses(torch.float64, 3, CASES["both"](ranks), views=1.0)
    told["same"] = [float(same_on_all_ranks(text, torch.device("cpu"))) for text in ("one", f"of {dist.get_rank()}")]
    told["activations"] = losses(torch.float64, 3, CASES["both"](ranks), what="activations")
    return told


CASES = {
    "trunk": lambda ranks: Layout(shards=ranks),
    "experts": lambda ranks: Layout(experts=ranks),
    "both": lambda ranks: Layout(shards=ranks, experts=ranks),
    "half": lambda ranks: Layout(shards=ranks // 2, experts=ranks // 2),
}
UNEVEN = replace(CONFIG, collaborative=3)


def main() -> None:
    """`parallel_ranks.py FOLDER two|two_more|four`; the losses go to FOLDER, a JSON file each."""
    folder, which = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    with ranks_of_torchrun(patience_s=600):
        ranks = dist.get_world_size()
        if which == "two_more":
            told = {f"{torch.float32}/{n}": losses(torch.float32, STEPS, CASES[n](ranks)) for n in ("trunk", "experts")}
        elif which == "two":
            told = compared(ranks, STEPS)
            told["kept"] = fitted(folder / "float32", 4, CASES["both"](ranks))
            told["kept in bytes"] = fitted(folder / "8bit", 4, CASES["both"](ranks), "8bit")
        else:
            told = {"half": losses(torch.float64, 3, CASES["half"](ranks), config=UNEVEN)}
            told["kept"] = fitted(folder / "float32", 8, CASES["half"](ranks))
        if dist.get_rank() == 0:
            (folder / f"{which}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
