"""What a pruned model learns on and how it recovers: distilled from its teacher, then, with a head, tuned on labels."""

# Shape suffixes: B images, K classes, H rows, W columns.

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from catalog.search import Raster
from catalog.sensors import SENSORS
from flows import segment
from flows.models import device, recipe_of, told
from flows.refs import AdaptRequest, ItemRef, PruneRequest, Where
from flows.select import within
from ringmoe.backbone import RingMoE
from ringmoe.checkpoint import Checkpoint
from ringmoe.data import EQUAL_MIX, ChipSampler, Crop, LabelledSampler
from ringmoe.errors import ContractError, PruneError
from ringmoe.evaluate import confusion_matrix, scores
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.tasks.segmentation import Segmenter
from ringmoe.train import FEATURES, History, adapt, distil

ASKED_FROM = 1_000_000
"""Batches from this number on are scored on; training never comes that far."""
ASKED = 2
"""Batches scored on."""


@dataclass(frozen=True)
class Ground:
    """The pixels that a pruned model will work on."""

    modality: Modality
    """Of the sensor it is pruned for."""
    labelled: LabelledSampler | None
    """Chips with labels; None where the parent has no head."""
    plain: ChipSampler | None
    """Chips without, where it has none."""

    def batch(self, step: int) -> tuple[Batch, Tensor | None]:
        """Chips of a step, and their labels where there are some."""
        if self.labelled is not None:
            chips, labels_BHW = self.labelled.batch(step)
            return {self.modality: chips}, labels_BHW
        assert self.plain is not None
        return self.plain.batch(step), None

    def batches(self) -> Iterator[Batch]:
        """Chips without labels, from the first step on, without end."""
        return (self.batch(step)[0] for step in count())


def ground_of(base: Checkpoint, cubes: Sequence[ItemRef], labels: Sequence[Raster], request: AdaptRequest) -> Ground:
    """The chips that a checkpoint's task asks for, or any of the sensor where it has no task.

    Raises
    ------
    PruneError
        The checkpoint knows no such modality, or its head is of another.
    ContractError
        A cube within the area does not honour the checkpoint's contract.
    NothingFound
        No pixel, or no label, lies within the area.
    """
    modality = Modality(SENSORS[request.sensor].modality)
    head = (base.head_config or {}).get("modality", modality.value)
    if modality not in base.contract.inputs or head != modality.value:
        raise PruneError(
            f"the model cannot be pruned for {request.sensor}, whose modality {modality.value} it has not",
            item=f"a model of {', '.join(m.value for m in base.contract.inputs)}"
            + (f" that maps {head}" if base.head_config else ""),
            enough=f"a sensor of {head if base.head_config else ', '.join(m.value for m in base.contract.inputs)}",
            todo="name such a sensor (--for), or another model (--model)",
        )
    if base.head_config:
        sources = segment.labelled(cubes, labels, request)
        _check(base, [source.cube for source in sources])
        return Ground(modality, segment.sampler_of(sources, base.contract, request), None)
    crop = Crop(chip_px=request.chip_px)
    area = within(cubes, request.area)
    _check(base, area)
    plain = ChipSampler(area, base.contract, batch=request.chips, mix=EQUAL_MIX, crop=crop, seed=request.seed)
    return Ground(modality, None, plain)


def _check(base: Checkpoint, cubes: Sequence[xr.Dataset]) -> None:
    """Those elsewhere may be of another pixel size: they are not worked on."""
    for dataset in cubes:
        base.contract.check(dataset.attrs)


def everything(base: Checkpoint, cubes: Sequence[ItemRef], request: AdaptRequest) -> ChipSampler:
    """Chips of every modality that the checkpoint can take, to show how it routes them; other cubes are left out."""
    fitting = [d for d in within(cubes, request.area) if _honours(base, d.attrs)]
    crop = Crop(chip_px=request.chip_px)
    return ChipSampler(fitting, base.contract, batch=request.chips, mix=EQUAL_MIX, crop=crop, seed=request.seed)


def _honours(base: Checkpoint, attrs: Mapping[Any, Any]) -> bool:
    try:
        base.contract.check(attrs)
    except ContractError:
        return False
    return True


def taught_by(teacher: nn.Module, backbone: RingMoE) -> nn.Module:
    """A smaller encoder with a copy of the teacher's head, where it has one."""
    if not isinstance(teacher, Segmenter):
        return backbone.to(device())
    student = Segmenter(backbone.to(device()), teacher.config)
    student.head.load_state_dict(copy.deepcopy(teacher.head.state_dict()))
    return student.to(device())


def encoder_of(model: nn.Module) -> RingMoE:
    """The encoder alone."""
    found = model.backbone if isinstance(model, Segmenter) else model
    assert isinstance(found, RingMoE)
    return found


def recover(
    student: nn.Module, teacher: nn.Module, ground: Ground, request: PruneRequest, where: Where
) -> Iterator[tuple[str, History]]:
    """Distil, then tune where there are labels; the student is trained in place, each step told when it is done."""
    recipe, parts = recipe_of(request, where), 1 + (ground.labelled is not None)
    first, second = (told("prune", parts * request.steps, n * request.steps) for n in range(2))
    yield "distilled", distil(student, teacher, ground.batches(), recipe, on_step=first)
    if ground.labelled is not None:
        assert isinstance(student, Segmenter)
        yield "tuned", adapt(student, ground.labelled.stream(request.steps), recipe, on_step=second)


@torch.inference_mode()
def scored(model: nn.Module, teacher: nn.Module, ground: Ground) -> dict[str, float]:
    """How near a model is to its teacher, and to the labels where there are some, on chips that no step has seen.

    Returns
    -------
    dict
        `stage3` and `stage4`: squared error of the features over their variance; with a head `agreement`, the share of
        valid pixels that get the teacher's class, `accuracy` and `mean_iou` on labelled ones.
    """
    errors: dict[int, list[float]] = {stage: [] for stage in FEATURES}
    same, pixels, tables = 0, 0, []
    for step in range(ASKED_FROM, ASKED_FROM + ASKED):
        batch, labels_BHW = ground.batch(step)
        ((modality, chips),) = ((m, c.to(device())) for m, c in batch.items())
        (mine, got_BHW), (wanted, theirs_BHW) = (_answer(m.eval(), modality, chips) for m in (model, teacher))
        for stage in FEATURES:
            target = wanted[stage - 1]
            spread = target.var(dim=(0, 2, 3), correction=0).mean().clamp_min(1e-6)
            errors[stage].append(float((mine[stage - 1] - target).square().mean() / spread))
        if labels_BHW is not None and got_BHW is not None and theirs_BHW is not None:
            valid_BHW = chips.valid_BHW.cpu()
            same += int(((got_BHW == theirs_BHW) & valid_BHW).sum())
            pixels += int(valid_BHW.sum())
            known = torch.where(valid_BHW, labels_BHW, 0).numpy()
            tables.append(confusion_matrix(known, got_BHW.numpy(), _classes(teacher)))
    found = {f"stage{stage}": float(np.mean(values)) for stage, values in errors.items()}
    if pixels:
        told_right = scores(np.sum(tables, axis=0))
        found |= {"agreement": same / pixels, "accuracy": told_right.accuracy, "mean_iou": told_right.mean_iou}
    return {name: round(value, 6) for name, value in found.items()}


def _answer(model: nn.Module, modality: Modality, chips: Chips) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Feature maps, and class codes of pixels where there is a head."""
    if not isinstance(model, Segmenter):
        return model({modality: chips}).pyramids[modality], None
    pyramid, logits_BKHW = model.pyramid_and_logits(chips)
    return pyramid, logits_BKHW.argmax(1).cpu() + 1


def _classes(model: nn.Module) -> int:
    assert isinstance(model, Segmenter)
    return model.n_classes
