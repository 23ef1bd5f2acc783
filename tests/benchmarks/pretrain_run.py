"""One run: a recipe and a corpus to a model, and the tables of what its frozen features are worth."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from pretrain_draws import MIX, is_of_images, labelled_images, labelled_pixels
from pretrain_sets import Scenes, Task

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.data import ChipSampler, Crop
from ringmoe.evaluate import Probed, frozen_pixel_table, frozen_table, probed
from ringmoe.frozen import features, pixel_features
from ringmoe.modality import Modality
from ringmoe.moe import Router
from ringmoe.objectives import MaskedModelling, Objective, ObjectiveConfig
from ringmoe.train import History, Step, TrainConfig, pretrain

PIXEL_SIDE = 64
"""Side of the piece of an image that its pixels are asked about in."""

ROWS = ("pretrained", "untrained", "image_statistics", "random_features")
"""Of every table."""


@dataclass(frozen=True)
class Recipe:
    """How a model is made and taught."""

    preset: str = "nano"
    """Of ringmoe.presets."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """Fields of RingMoEConfig other than the preset's."""
    objective: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig(views=1.0, cut=True, light=0.3))
    """Terms and their weights."""
    chip_px: int = 64
    """Side of a chip in pre-training."""
    asked_px: int = 256
    """Side that whole images are averaged down to before they are asked about."""
    scale: tuple[float, float] = (1.0, 4.0)
    """Factors of the pixel size of optical and multispectral chips."""
    batch: int = 128
    """Chips of a step."""
    rate: float = 5e-4
    """Highest learning rate."""
    share: float = 0.6
    """Share of the units hidden."""
    sparse: bool = True
    """Whether only what is shown passes the experts."""
    constant_gate: bool = False
    """Whether every gate is 1, as in the public code."""
    mix: Mapping[Modality, float] | None = None
    """Share of each modality among the chips; None for the usual one."""
    precision: str = "bfloat16"
    """What autocast computes in."""

    def config(self) -> RingMoEConfig:
        """The model's shape."""
        shape: RingMoEConfig = getattr(presets, self.preset)(self.chip_px)
        return replace(shape, **self.changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Learned:
    """What a run leaves."""

    model: RingMoE
    """Trained."""
    untrained: RingMoE
    """The same before its first step."""
    history: History
    """Losses, images and seconds."""


def build(recipe: Recipe, contract: DataContract, seed: int) -> RingMoE:
    """An untrained model of a recipe."""
    torch.manual_seed(seed)
    model = RingMoE(recipe.config(), contract)
    for module in model.modules():
        if isinstance(module, Router):
            module.constant_gate = recipe.constant_gate
    return model


def learn(
    recipe: Recipe, scenes: Sequence[Scenes], contract: DataContract, *, seed: int, steps: int = 0, minutes: float = 0.0
) -> Learned:
    """Pre-train by masked modelling, for so many steps or for as many as fit into so many minutes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler = sampler_of(recipe, scenes, contract, seed)
    steps = steps or _steps_in(recipe, sampler, contract, minutes, device)
    model, untrained = (build(recipe, contract, seed).to(device) for _ in range(2))
    objective = _objective(recipe, model).to(device)
    config = _config(recipe, steps, seed)
    history = pretrain(model, objective, partial(sampler.stream, workers=1), config, on_step=_told(steps))
    return Learned(model, untrained, history)


def sampler_of(recipe: Recipe, scenes: Sequence[Scenes], contract: DataContract, seed: int) -> ChipSampler:
    """Chips as a recipe wants them."""
    crop = Crop(chip_px=recipe.chip_px, turns=True, scale=recipe.scale, twins=recipe.objective.cut)
    return ChipSampler(scenes, contract, batch=recipe.batch, mix=recipe.mix or MIX, crop=crop, seed=seed)


def _objective(recipe: Recipe, model: RingMoE) -> MaskedModelling:
    more = {"sparse": True} if recipe.sparse else {}
    return MaskedModelling(Objective(model, recipe.objective), share=recipe.share, **more)


def _config(recipe: Recipe, steps: int, seed: int) -> TrainConfig:
    warmup = max(steps // 10, 1)
    how = {"rate": recipe.rate, "warmup": warmup, "precision": recipe.precision}
    return TrainConfig(steps=steps, seed=seed, **how)  # type: ignore[arg-type]


def _steps_in(recipe: Recipe, sampler: ChipSampler, contract: DataContract, minutes: float, device: str) -> int:
    """Steps that fit, by the pace of a few on a model that is thrown away."""
    model = build(recipe, contract, 0).to(device)
    objective = _objective(recipe, model).to(device)
    pretrain(model, objective, sampler.stream, _config(recipe, 2, 0))
    history = pretrain(model, objective, sampler.stream, _config(recipe, 8, 0))
    return max(int(0.95 * minutes * 60 / (history.seconds / 8)), 8)


def _told(steps: int):  # type: ignore[no-untyped-def]
    start = time.perf_counter()

    def tell(step: Step) -> None:
        if step.index % max(steps // 10, 1) == 0 or step.index == steps - 1:
            terms = " ".join(f"{k} {v:.3f}" for k, v in step.terms.items() if not k.startswith(("balance", "z/")))
            print(f"{time.perf_counter() - start:6.0f} s, step {step.index}: {terms}", file=sys.stderr, flush=True)

    return tell


def ask(models: Mapping[str, RingMoE], task: Task, *, seed: int, asked_px: int = Recipe.asked_px) -> dict[str, Probed]:
    """The table of one task."""
    modality = task.sensor.modality
    parts = ((task.train, task.train_labels), (task.test, task.test_labels))
    models = {name: model.to("cpu") for name, model in models.items()}
    if is_of_images(task):
        train, test = (labelled_images(task.sensor, *part, asked_px) for part in parts)
        return frozen_table(models, modality, train, test, seed=seed)
    learned, asked = (labelled_pixels(task.sensor, *part, PIXEL_SIDE, seed) for part in parts)
    return frozen_pixel_table(models, modality, learned, asked, seed=seed)


def ask_one(model: RingMoE, task: Task, *, seed: int, asked_px: int = Recipe.asked_px) -> Probed:
    """What all stages of one model, side by side, are worth on a task: its row of the table alone."""
    modality, model = task.sensor.modality, model.to("cpu")
    found, parts = [], [model.config.dim * 2**stage for stage in range(4)]
    for images, labels in ((task.train, task.train_labels), (task.test, task.test_labels)):
        if is_of_images(task):
            whole = labelled_images(task.sensor, images, labels, asked_px)
            stages = features(model, whole.chips, modality, spread=True)
            parts = [stage.shape[1] for stage in stages]
            found += [torch.cat(stages, 1), whole.labels_N]
        else:
            single = labelled_pixels(task.sensor, images, labels, PIXEL_SIDE, seed)
            places = zip(single.chips, single.rows, single.cols, strict=True)
            found += [torch.cat([pixel_features(model, c, modality, y, x) for c, y, x in places]), single.labels_N]
    return probed(*found, parts=parts)


def summary(tables: Sequence[Mapping[str, Probed]], probe: str) -> dict[str, float]:
    """Means over seeds of one probe, by row, each with its standard deviation beside it."""
    found = {}
    for row in tables[0]:
        values = [getattr(table[row], probe) for table in tables]
        found[row] = round(statistics.fmean(values), 4)
        found[f"{row}_std"] = round(statistics.stdev(values) if len(values) > 1 else 0.0, 4)
    return found
