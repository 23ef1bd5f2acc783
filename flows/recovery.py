"""What a pruned model learns on and how it recovers: distilled from its teacher, then, with a head, tuned on labels."""

# Shape suffixes: B images, K classes, H rows, W columns.

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from catalog.search import Raster
from catalog.sensors import SENSORS, Quality
from flows import segment
from flows.models import device, recipe_of, told
from flows.refs import AdaptRequest, ItemRef, PruneRequest, Where
from flows.select import within
from ringmoe.backbone import RingMoE
from ringmoe.checkpoint import Checkpoint
from ringmoe.data import EQUAL_MIX, ChipSampler, Crop, Labelled, LabelledSampler
from ringmoe.errors import ContractError, DataError, PruneError
from ringmoe.evaluate import confusion_matrix, scores
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.tasks.segmentation import Segmenter
from ringmoe.train import FEATURES, History, adapt, distil

ASKED = 8
"""Batches scored on."""
ASKED_FROM = 1_000_000
"""Where no ground can be held out, batches from this number on are scored on; training never comes that far."""
HELD = 8
"""Of so many measured pixels of a cube one, in its last rows, is held out: scored on and never learned from."""
CODES = "codes"
"""Variable of a composite that holds its labels."""
HELD_OUT = "ground held out: the last rows of every cube, which recovery never saw"
SAME_GROUND = "chips drawn anew from the ground that was learned from: too little to hold some of it out"


Asked: TypeAlias = tuple[Batch, Tensor | None]
"""Chips that are scored on, and their labels_BHW where there are some."""


@dataclass(frozen=True)
class Ground:
    """The pixels that a pruned model will work on."""

    modality: Modality
    """Of the sensor it is pruned for."""
    labelled: LabelledSampler | None
    """Chips with labels; None where the parent has no head."""
    plain: ChipSampler | None
    """Chips without, where it has none."""
    asked: Sequence[Asked] = ()
    """Of ground held out; nothing where there is too little."""

    def batch(self, step: int) -> tuple[Batch, Tensor | None]:
        """Chips of a step, and their labels where there are some."""
        if self.labelled is not None:
            chips, labels_BHW = self.labelled.batch(step)
            return {self.modality: chips}, labels_BHW
        assert self.plain is not None
        return self.plain.batch(step), None

    @property
    def scored_on(self) -> str:
        """Where scores are from."""
        return HELD_OUT if self.asked else SAME_GROUND

    def questions(self) -> Iterator[Asked]:
        """Batches to score on."""
        return iter(self.asked) if self.asked else (self.batch(ASKED_FROM + n) for n in range(ASKED))

    def batches(self) -> Iterator[Batch]:
        """Chips without labels, on the device that models are on, from the first step on, without end."""
        return (on_device(self.batch(step)[0]) for step in count())


def on_device(batch: Batch) -> Batch:
    """Chips where models are."""
    return {modality: chips.to(device()) for modality, chips in batch.items()}


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
    modality = modality_of(base, request)
    if base.head_config:
        sources = segment.labelled(cubes, labels, request)
        area = [source.cube.assign({CODES: (("y", "x"), source.labels)}) for source in sources]
    else:
        area = within(cubes, request.area)
    _check(base, area)
    return _held_out(
        area, lambda pieces, batch, crop: _ground(base, modality, pieces, batch, crop, request.seed), request
    )


def modality_of(base: Checkpoint, request: AdaptRequest) -> Modality:
    """That of the sensor asked for; PruneError where the checkpoint, or its head, is of no such modality."""
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
    return modality


def _ground(
    base: Checkpoint, modality: Modality, pieces: Sequence[xr.Dataset], batch: int, crop: Crop, seed: int
) -> Ground:
    """Chips of cubes, or of composites with their labels."""
    if not base.head_config:
        return Ground(
            modality, None, ChipSampler(pieces, base.contract, batch=batch, mix=EQUAL_MIX, crop=crop, seed=seed)
        )
    known = [Labelled(p.drop_vars(CODES), np.where(p["quality"].values > 0, p[CODES].values, 0)) for p in pieces]
    return Ground(modality, LabelledSampler(known, base.contract, batch=batch, crop=crop, seed=seed), None)


def _held_out(
    pieces: Sequence[xr.Dataset], ground: Callable[[Sequence[xr.Dataset], int, Crop], Ground], request: AdaptRequest
) -> Ground:
    """What is learned from, and questions of what is not; none where that would hold no chip."""
    crop = Crop(chip_px=request.chip_px)
    parts = [split(piece, request.chip_px) for piece in pieces]
    held = [part[1] for part in parts if part is not None]
    if held:
        rest = [piece if part is None else part[0] for piece, part in zip(pieces, parts, strict=True)]
        try:
            learned = ground(rest, request.chips, crop)
            learned.batch(0)
            asked = ground(held, -(-request.chips // 2), replace(crop, attempts=10 * crop.attempts))
            return replace(learned, asked=[asked.batch(n) for n in range(ASKED)])
        except DataError:  # clouds, or no label there
            pass
    return ground(pieces, request.chips, crop)


def split(piece: xr.Dataset, side: int) -> tuple[xr.Dataset, xr.Dataset] | None:
    """A cube or composite as two on the same grid, each without data where the other has it.

    Returns
    -------
    tuple or None
        What is learned from, and the last of the rows where something was measured: enough for a `HELD`th of these
        pixels and for a chip; None where they would be more than a third of the rows.
    """
    measured = piece["quality"] != Quality.NO_DATA
    count_Y = np.asarray(measured.sum([name for name in measured.dims if name != "y"]))
    rows = np.flatnonzero(count_Y)
    share_Y = np.cumsum(count_Y) / count_Y.sum()
    first, end = int(np.searchsorted(share_Y, 1 - 1 / HELD, side="right")), int(rows[-1]) + 1
    first = min(first, end - side)
    if first - rows[0] < 2 * (end - first):
        return None
    above = xr.DataArray(np.arange(len(count_Y)) < first, dims="y")
    learned, held = (piece["quality"].where(keep, np.uint8(Quality.NO_DATA)) for keep in (above, ~above))
    return piece.assign(quality=learned), piece.assign(quality=held)


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
    gentle = replace(recipe, rate=request.distil_rate)
    yield "distilled", distil(student, teacher, ground.batches(), gentle, on_step=first)
    if ground.labelled is not None:
        assert isinstance(student, Segmenter)
        yield "tuned", adapt(student, ground.labelled.stream(request.steps), recipe, on_step=second)


class Score(NamedTuple):
    """What a model is worth on the ground's questions, by name of a score."""

    values: Mapping[str, float]
    """Over all questions."""
    deviations: Mapping[str, float]
    """Standard deviation of a question's own value among them."""


class Question(NamedTuple):
    """A batch that is scored on."""

    modality: Modality
    """Of the chips."""
    chips: Chips
    """As they were drawn."""
    labels_BHW: Tensor | None
    """None where there are none."""
    wanted: tuple[Tensor, ...]
    """The teacher's feature maps."""
    classes_BHW: Tensor | None
    """The teacher's; None of an encoder."""


def exam(teacher: nn.Module, ground: Ground) -> list[Question]:
    """The ground's questions with the teacher's answers, which are asked for once."""
    found = []
    for batch, labels_BHW in ground.questions():
        ((modality, chips),) = batch.items()
        found.append(Question(modality, chips, labels_BHW, *_answer(teacher, modality, chips)))
    return found


def scored(model: nn.Module, questions: Sequence[Question]) -> Score:
    """How near a model is to its teacher, and to the labels where there are some.

    Returns
    -------
    Score
        `stage3` and `stage4`: squared error of the features over their variance; with a head `agreement`, the share of
        valid pixels that get the teacher's class, `accuracy` and `mean_iou` on labelled ones.
    """
    found: dict[str, list[float]] = {f"stage{stage}": [] for stage in FEATURES}
    same, pixels, tables = [], [], []
    for modality, chips, labels_BHW, wanted, theirs_BHW in questions:
        mine, got_BHW = _answer(model, modality, chips)
        for stage, ours, target in zip(FEATURES, mine, wanted, strict=True):
            spread = target.var(dim=(0, 2, 3), correction=0).mean().clamp_min(1e-6)
            found[f"stage{stage}"].append(float((ours - target).square().mean() / spread))
        if labels_BHW is not None and got_BHW is not None and theirs_BHW is not None:
            valid_BHW = chips.valid_BHW.cpu()
            same.append(int(((got_BHW == theirs_BHW) & valid_BHW).sum()))
            pixels.append(int(valid_BHW.sum()))
            known = torch.where(valid_BHW, labels_BHW, 0).numpy()
            tables.append(confusion_matrix(known, got_BHW.numpy(), _classes(model)))
    values = {name: float(np.mean(own)) for name, own in found.items()}
    if pixels:
        whole, apart = scores(np.sum(tables, axis=0)), [scores(table) for table in tables]
        values |= {"agreement": sum(same) / sum(pixels), "accuracy": whole.accuracy, "mean_iou": whole.mean_iou}
        found["agreement"] = [a / b for a, b in zip(same, pixels, strict=True)]
        found |= {"accuracy": [each.accuracy for each in apart], "mean_iou": [each.mean_iou for each in apart]}
    deviations = {name: float(np.std(own, ddof=1)) for name, own in found.items()}
    return Score(*({name: round(v, 6) for name, v in row.items()} for row in (values, deviations)))


@torch.inference_mode()
def _answer(model: nn.Module, modality: Modality, chips: Chips) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Feature maps of the stages compared, and class codes of pixels where there is a head."""
    chips, model = chips.to(device()), model.eval()
    if isinstance(model, Segmenter):
        pyramid, logits_BKHW = model.pyramid_and_logits(chips)
        codes_BHW = logits_BKHW.argmax(1).cpu() + 1
    else:
        pyramid, codes_BHW = model({modality: chips}).pyramids[modality], None
    return tuple(pyramid[stage - 1] for stage in FEATURES), codes_BHW


def _classes(model: nn.Module) -> int:
    assert isinstance(model, Segmenter)
    return model.n_classes
