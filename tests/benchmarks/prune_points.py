"""Every point of the pruning benchmark: a teacher, what each method leaves of it, and the same recovery for all."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import torch
from prune_land import Chipped
from prune_task import Cover, Draws, student_of

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.criteria import Criterion, Dropped
from ringmoe.modality import Batch
from ringmoe.moe import Survivors
from ringmoe.prune import (
    Method,
    Usage,
    integrate,
    keep_experts,
    profile,
    slice_modalities,
    survivors_of_blocks,
    with_survivors,
)
from ringmoe.refit import refit
from ringmoe.train import TrainConfig, adapt, distil

PROFILED = 16
"""Batches over which experts are watched."""
KEPT: dict[int, tuple[int | None, int]] = {6: (None, 1), 3: (1, 1)}
"""Slots of a block to specialized experts (None for all) and collaborative ones kept; one is shared."""
RULES: dict[str, tuple[Criterion, Dropped]] = {
    "frequency": ("usage", "survivor"),
    "norm": ("norm", "survivor"),
    "error": ("error", "survivor"),
    "error_mean": ("error", "mean"),
}
"""By what experts are kept, and what their tokens take; frequency is the paper's."""
OURS = {6: "error", 3: "error", 1: "refit"}
"""What the prune flow does where nothing else is asked."""
METHODS: tuple[Method, ...] = ("ks", "ka", "kc", "neurons")
SCRATCH = "scratch"
"""One network a block that goes through the teacher's whole course, and learns land cover while others recover."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast everything learns."""

    pretrain: int
    """Steps of masked modelling over all modalities."""
    adapt: int
    """Steps on land cover."""
    recover: int
    """Steps of distillation."""
    chip_px: int = 64
    """Side of the chips of masked modelling."""
    rate: float = 1e-3
    """Highest learning rate of land cover and of distillation."""


class Point(NamedTuple):
    """One model to be scored."""

    method: str
    """What made it."""
    slots: int
    """Expert networks of a block."""
    model: Cover
    """With the teacher's heads, or its own."""


def config_of(steps: int, rate: float, seed: int) -> TrainConfig:
    """A tenth of the steps warm up."""
    return TrainConfig(steps=steps, rate=rate, warmup=max(steps // 10, 1), seed=seed)


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dense_config(config: RingMoEConfig) -> RingMoEConfig:
    """The same with one network a block."""
    return replace(config, specialized=0, collaborative=0, shared=1, survivors=None)


def taught(backbone: RingMoE, learned: Chipped, steps: int, rate: float, seed: int) -> Cover:
    """A backbone and new heads, trained on land cover."""
    torch.manual_seed(seed)
    model = Cover(backbone, learned.sensor.modality).to(device())
    start = time.perf_counter()
    history = adapt(model, Draws(learned, seed=seed).labelled(), config_of(steps, rate, seed))
    say(f"{steps} steps of land cover, loss {history.loss[-1]:.3f}, {time.perf_counter() - start:.0f} s")
    return model.eval()


def untaught(config: RingMoEConfig, contract: DataContract, learned: Chipped, seed: int) -> Cover:
    """The teacher's shape before its first step."""
    torch.manual_seed(seed)
    return Cover(RingMoE(config, contract), learned.sensor.modality).to(device()).eval()


def recover(student: Cover, teacher: Cover, learned: Chipped, recipe: Recipe, seed: int) -> float:
    """Distil features of stages 3 and 4 and the classes of pixels, on chips without labels; the last loss."""
    batches = Draws(learned, seed=1000 + seed).unlabelled()
    return distil(student, teacher, batches, config_of(recipe.recover, recipe.rate, seed)).loss[-1]


def sliced(teacher: Cover) -> Cover:
    """The teacher of one modality."""
    return student_of(teacher, slice_modalities(teacher.backbone, [teacher.modality]))


def is_identical(one: Cover, other: Cover, asked: Chipped) -> bool:
    """Whether two models give the same bits on the first batch of chips, in features and in classes."""
    chips = next(asked.batches()).to(device())
    with torch.inference_mode():
        (pyramid, logits), (other_pyramid, other_logits) = (m.pyramid_and_logits(chips) for m in (one, other))
    same = all(torch.equal(a, b) for a, b in zip(pyramid, other_pyramid, strict=True))
    return same and torch.equal(logits, other_logits)


def watched(model: RingMoE, learned: Chipped, seed: int) -> Usage:
    """A profile of a model on chips without labels."""
    return profile(model, islice(_on_device(Draws(learned, batch=64, seed=2000 + seed)), PROFILED))


def _on_device(draws: Draws) -> Iterator[Batch]:
    for batch in draws.unlabelled():
        yield {m: chips.to(device()) for m, chips in batch.items()}


def points(teacher: Cover, learned: Chipped, contract: DataContract, seed: int) -> Iterator[Point]:
    """Everything that is made of a teacher, and a dense model that is not; models are made when they are asked for."""
    base = sliced(teacher)
    usage = watched(base.backbone, learned, seed)
    kept: dict[int, RingMoE] = {}
    for slots, (modal, common) in KEPT.items():
        left = _drawn(base.backbone, modal, common, seed)
        yield Point("random", slots, student_of(teacher, with_survivors(base.backbone, usage, left)))
        for name, (criterion, dropped) in RULES.items():
            smaller = keep_experts(
                base.backbone, usage, specialized=modal, collaborative=common, criterion=criterion, dropped=dropped
            )
            if name == OURS[slots]:
                kept[slots] = smaller
            yield Point(name, slots, student_of(teacher, smaller))
    usage = watched(kept[6], learned, seed)
    for method in METHODS:
        dense = integrate(kept[6], usage, method)
        yield Point(method, 1, student_of(teacher, dense))
        if method == "neurons":
            batches = islice(_on_device(Draws(learned, batch=64, seed=3000 + seed)), PROFILED)
            yield Point("refit", 1, student_of(teacher, refit(dense, kept[6], batches)))
    torch.manual_seed(100 + seed)
    untrained = RingMoE(dense_config(base.backbone.config), contract.only([teacher.modality]))
    yield Point("scratch_distilled", 1, Cover(untrained, teacher.modality).to(device()))


def _drawn(model: RingMoE, modal: int | None, common: int, seed: int) -> list[Survivors]:
    """Survivors drawn by lot."""
    generator = torch.Generator().manual_seed(seed)

    def some(ids: tuple[int, ...], count: int | None) -> tuple[int, ...]:
        order = torch.randperm(len(ids), generator=generator)[: len(ids) if count is None else count]
        return tuple(sorted(ids[i] for i in order.tolist()))

    return [
        Survivors(tuple(some(ids, modal) for ids in old.specialized), some(old.collaborative, common))
        for old in survivors_of_blocks(model)
    ]


def say(text: str) -> None:
    """To whoever watches."""
    print(text, file=sys.stderr, flush=True)
