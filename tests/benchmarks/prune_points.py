"""Every point of the pruning benchmark: a teacher, what each method leaves of it, and the same recovery for all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import pretrain_run
import torch
from pretrain_sets import Scenes
from prune_land import CHIP_PX, Chipped
from prune_task import Cover, Draws, student_of

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.criteria import Criterion, Dropped
from ringmoe.history import History
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
from ringmoe.quantise import bf16, int8
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
OURS = {6: "error_mean", 3: "error_mean", 1: "refit"}
"""What keeps most of the teacher, by slots."""
METHODS: tuple[Method, ...] = ("ks", "ka", "kc", "neurons")
SCRATCH = "scratch"
"""One network a block that goes through the teacher's whole course, and learns land cover while others recover."""
FEWER: dict[str, Callable[[RingMoE], RingMoE]] = {"int8": int8, "bf16": bf16}
"""Weights in fewer bits, made of what the prune flow makes at one slot, recovered."""
RECOVERIES = {6: 1 + len(RULES), 3: 1 + len(RULES), 1: len(METHODS) + 2}
"""Points of each number of slots, every one of which recovers."""
BEGUN = time.perf_counter()
"""What is told is told by the seconds since then."""


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
    """Highest learning rate of land cover."""
    recover_rate: float = 1e-4
    """Highest learning rate of distillation; at 1e-3 so few steps lost more than they won back."""


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


@dataclass(frozen=True)
class Paces:
    """Seconds of a step on the machine that the benchmark runs on."""

    pretrain: float
    """Of the teacher's masked modelling."""
    adapt: float
    """Of its land cover."""
    dense_pretrain: float
    """Masked modelling with one network a block."""
    dense_adapt: float
    """Its land cover."""
    recover: Mapping[int, float]
    """Distillation into so many slots."""

    def recipe(self, minutes: float, seeds: int) -> Recipe:
        """Steps that take so many minutes of training in all.

        A quarter goes to masked modelling of the teacher and of each seed's dense model from scratch, a quarter to
        their land cover, half to the recoveries and to what the dense model learns meanwhile.
        """
        quarter = 15 * minutes
        recoveries = sum(count * self.recover[slots] for slots, count in RECOVERIES.items())
        steps = (
            quarter / (self.pretrain + seeds * self.dense_pretrain),
            quarter / (self.adapt + seeds * self.dense_adapt),
            2 * quarter / (seeds * (recoveries + self.dense_adapt)),
        )
        return Recipe(*(max(int(n), 10) for n in steps))


def pretraining(chip_px: int, *, dense: bool) -> pretrain_run.Recipe:
    """Masked modelling of the teacher, or of its shape with one network a block."""
    changes: dict[str, object] = {"pretrain_windows": presets.nano(CHIP_PX).pretrain_windows}
    if dense:
        changes |= {"specialized": 0, "collaborative": 0}
    return pretrain_run.Recipe(chip_px=chip_px, changes=changes)


def paces(seen: Sequence[Scenes], contract: DataContract, learned: Chipped, chip_px: int = Recipe.chip_px) -> Paces:
    """By a few steps of each kind on models that are thrown away; the first one of a kind is not counted."""
    modality, config = learned.sensor.modality, pretraining(chip_px, dense=False).config()
    shapes = {
        6: presets.pruned(config, modalities=1, specialized=config.specialized, collaborative=1),
        3: presets.pruned(config, modalities=1, specialized=1, collaborative=1),
        1: dense_config(config),
    }
    learn, own = [], []
    for dense in (False, True):
        plain = pretraining(chip_px, dense=dense)
        learn.append(_pace(lambda n, p=plain: pretrain_run.learn(p, seen, contract, seed=0, steps=n).history, 4))
        model = untaught(plain.config(), contract, learned, 0)
        own.append(_pace(lambda n, m=model: adapt(m, Draws(learned).labelled(), config_of(n, 1e-3, 0)), 6))
    teacher, recovery = untaught(config, contract, learned, 0), {}
    for slots, shape in shapes.items():
        student = untaught(shape, contract.only([modality]), learned, 0)
        recovery[slots] = _pace(
            lambda n, s=student: distil(s, teacher, Draws(learned).unlabelled(), config_of(n, 1e-3, 0)), 6
        )
    return Paces(learn[0], own[0], learn[1], own[1], recovery)


def _pace(run: Callable[[int], History], steps: int) -> float:
    run(1)
    return run(steps).seconds / steps


def course(
    recipe: Recipe,
    seen: Sequence[Scenes],
    contract: DataContract,
    learned: Chipped,
    *,
    seed: int,
    dense: bool,
    more: int,
) -> Cover:
    """Masked modelling over all modalities, and then land cover, so many steps more of it than the teacher had."""
    plain = pretraining(recipe.chip_px, dense=dense)
    base = pretrain_run.learn(plain, seen, contract, seed=seed, steps=recipe.pretrain).model
    return taught(base, learned, recipe.adapt + more, recipe.rate, seed)


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
    return distil(student, teacher, batches, config_of(recipe.recover, recipe.recover_rate, seed)).loss[-1]


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


def fewer_bits(model: Cover) -> Iterator[tuple[str, Cover]]:
    """The same in fewer bits, under the same heads, which stay in float32."""
    for name, made in FEWER.items():
        yield name, student_of(model, made(model.backbone)).eval()


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
    """To whoever watches, with the seconds since the run began."""
    print(f"{time.perf_counter() - BEGUN:6.0f} s: {text}", file=sys.stderr, flush=True)
