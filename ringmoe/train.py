"""Pre-training, adapting to a task, recovering what pruning lost."""

# Shape suffixes: B images, C channels, H rows, W columns.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

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


def distil(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Batch] | Callable[[int], Iterable[Batch]],
    config: TrainConfig,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Teach a pruned model the features of the model it was cut from; no labels needed.

    The loss is the student's squared error at each stage over the variance of the teacher's features there: 1 for a
    student that knows only the mean, 0 for one that agrees.

    Parameters
    ----------
    student, teacher
        RingMoE of the same widths; only the student is trained, in place.
    batches
        Chips of modalities that both know, at least `config.steps` of them.
    """
    device = device_of(student)
    teacher.eval()

    def loss_of(batch: Batch) -> Loss:
        chips = {m: c.to(device) for m, c in batch.items()}
        with torch.no_grad():
            wanted = teacher(chips).pyramids
        return _feature_error(student(chips).pyramids, wanted)

    return fit(student, loss_of, batches, config, size=lambda b: sum(len(c) for c in b.values()), on_step=on_step)


def _feature_error(got: Mapping[Modality, tuple[Tensor, ...]], wanted: Mapping[Modality, tuple[Tensor, ...]]) -> Loss:
    terms = {}
    for modality, pyramid in wanted.items():
        for stage, (mine_BCHW, target_BCHW) in enumerate(zip(got[modality], pyramid, strict=True), start=1):
            target_BCHW = target_BCHW.float()
            spread = target_BCHW.var(dim=(0, 2, 3), correction=0).mean().clamp_min(1e-6)
            terms[f"{modality.value}/stage{stage}"] = (mine_BCHW.float() - target_BCHW).square().mean() / spread
    return torch.stack(list(terms.values())).mean(), terms
