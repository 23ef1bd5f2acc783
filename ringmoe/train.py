"""Pre-training, adapting to a task, recovering what pruning lost."""

# Shape suffixes: B images, C channels, H rows, W columns, K classes.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.errors import TrainingError
from ringmoe.history import History, Step
from ringmoe.loop import Loss, TrainConfig, device_of, fit
from ringmoe.modality import Batch, Chips, Modality

__all__ = ["History", "Step", "TrainConfig", "adapt", "distil", "fit", "pretrain"]


def pretrain(
    model: nn.Module,
    objective: Callable[[nn.Module, Batch], Loss],
    batches: Iterable[Batch] | Callable[[int], Iterable[Batch]],
    config: TrainConfig,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Self-supervised training: the objective hides parts of unlabelled chips and scores what the model makes of them.

    Parameters
    ----------
    model
        RingMoE; trained in place.
    objective
        Loss and terms of one batch; its own parameters, where it is a module, are trained too.
    batches
        At least `config.steps` of them, or a function of the step to begin with that gives them.

    Raises
    ------
    TrainingError
        When the loss is not finite `config.patience` steps in a row, or batches run out.
    """
    trained = nn.ModuleList([model, objective] if isinstance(objective, nn.Module) else [model])
    device = device_of(model)
    return fit(
        trained,
        lambda batch: objective(model, {m: chips.to(device) for m, chips in batch.items()}),
        batches,
        config,
        size=lambda batch: sum(len(chips) for chips in batch.values()),
        on_step=on_step,
    )


class Task(Protocol):
    """What `adapt` asks of a model with a head: rooms of `ringmoe.tasks` are such."""

    @property
    def backbone(self) -> nn.Module:
        """What the head stands on."""

    def loss(self, chips: Chips, target: Tensor) -> Loss:
        """What is minimised for labelled chips, and its named terms."""


def adapt(
    task: Task,
    batches: Iterable[tuple[Chips, Tensor]] | Callable[[int], Iterable[tuple[Chips, Tensor]]],
    config: TrainConfig,
    *,
    freeze: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Supervised training of a task's head and, unless frozen, of the backbone under it.

    Parameters
    ----------
    task
        As in `ringmoe.tasks.segmentation.Segmenter`; trained in place.
    batches
        Chips and their labels, at least `config.steps` of them.
    freeze
        Leave the backbone as it is.
    """
    assert isinstance(task, nn.Module)
    device = device_of(task)
    wanted = [p.requires_grad for p in task.backbone.parameters()]
    try:
        if freeze:
            task.backbone.requires_grad_(False)
        return fit(
            task,
            lambda batch: task.loss(batch[0].to(device), batch[1].to(device)),
            batches,
            config,
            size=lambda batch: len(batch[0]),
            on_step=on_step,
        )
    finally:
        for parameter, flag in zip(task.backbone.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)


class Headed(Protocol):
    """What `distil` asks of a model with a head, teacher and student alike: rooms of `ringmoe.tasks` are such."""

    def pyramid_and_logits(self, chips: Chips) -> tuple[tuple[Tensor, ...], Tensor]:
        """Feature maps of chips of the head's modality, and logits_BKHW."""


FEATURES = (3, 4)
"""Stages whose maps a student is taught, counted from 1: what coarse maps say, finer ones are free to reach their way.
"""


def distil(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Batch] | Callable[[int], Iterable[Batch]],
    config: TrainConfig,
    on_step: Callable[[Step], None] | None = None,
    *,
    stages: Sequence[int] = FEATURES,
    temperature: float = 1.0,
) -> History:
    """Teach a pruned model what the model it was cut from makes of chips; no labels needed.

    The loss of a stage is the student's squared error over the variance of the teacher's features there: 1 for a
    student that knows only the mean, 0 for one that agrees. Of models with a head it is the mean of these and
    T^2 KL(teacher || student) of the classes at every valid pixel, T the temperature.

    Parameters
    ----------
    student, teacher
        RingMoE of the same widths, or both such with a head of the same classes (`Headed`); only the student is
        trained, in place, its head too.
    batches
        Chips of modalities that both know, of a head's modality alone, at least `config.steps` of them.
    stages
        Whose maps are compared, 1 to 4.

    Raises
    ------
    TrainingError
        As `fit`; or one has a head and the other none.
    """
    if _headed(student) != _headed(teacher):
        raise TrainingError(
            "A model with a head cannot teach one without, nor the other way round",
            item=f"{type(teacher).__name__} and {type(student).__name__}",
            enough="two encoders, or two models with heads of the same classes",
            todo="give the student the teacher's head, or teach the encoders alone",
        )
    device = device_of(student)
    teacher.eval()

    def loss_of(batch: Batch) -> Loss:
        chips = {m: c.to(device) for m, c in batch.items()}
        with torch.no_grad():
            wanted, answers = _seen(teacher, chips)
        got, mine = _seen(student, chips)
        terms = _feature_error(got, wanted, stages)
        loss = torch.stack(list(terms.values())).mean()
        if answers is not None and mine is not None:
            valid_BHW = next(iter(chips.values())).valid_BHW
            terms["logits"] = _divergence(mine, answers, valid_BHW, temperature)
            loss = loss + terms["logits"]
        return loss, terms

    return fit(student, loss_of, batches, config, size=lambda b: sum(len(c) for c in b.values()), on_step=on_step)


Pyramids: TypeAlias = Mapping[Modality, tuple[Tensor, ...]]


def _headed(model: nn.Module) -> bool:
    return hasattr(model, "pyramid_and_logits")


def _seen(model: nn.Module, batch: Batch) -> tuple[Pyramids, Tensor | None]:
    if not _headed(model):
        return model(batch).pyramids, None
    ((modality, chips),) = batch.items()
    pyramid, logits_BKHW = cast(Headed, model).pyramid_and_logits(chips)
    return {modality: pyramid}, logits_BKHW


def _feature_error(got: Pyramids, wanted: Pyramids, stages: Sequence[int]) -> dict[str, Tensor]:
    terms = {}
    for modality, pyramid in wanted.items():
        for stage in stages:
            mine_BCHW, target_BCHW = got[modality][stage - 1], pyramid[stage - 1].float()
            spread = target_BCHW.var(dim=(0, 2, 3), correction=0).mean().clamp_min(1e-6)
            terms[f"{modality.value}/stage{stage}"] = (mine_BCHW.float() - target_BCHW).square().mean() / spread
    return terms


def _divergence(mine_BKHW: Tensor, wanted_BKHW: Tensor, valid_BHW: Tensor, temperature: float) -> Tensor:
    """Mean over valid pixels of T^2 sum_k p_k (log p_k - log q_k), p the teacher's classes at temperature T."""
    wanted, mine = (F.log_softmax(x.float() / temperature, 1) for x in (wanted_BKHW, mine_BKHW))
    apart_BHW = (wanted.exp() * (wanted - mine)).sum(1) * temperature**2
    return (apart_BHW * valid_BHW).sum() / valid_BHW.sum().clamp_min(1)
