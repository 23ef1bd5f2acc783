"""Checkpoint -> smaller checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from torch import nn

from catalog.ledger import Ledger, file_digest
from catalog.search import Raster
from flows import prune_report, segment, sizes
from flows.cutting import (
    IN_MEMORY,
    Cut,
    Goal,
    Hands,
    cut,
    may_be_dense,
    parameters,
    result_parameters,
    slice_parameters,
)
from flows.models import TAUGHT, Draft, described, has_head, is_taught, machine, once, open_checkpoint, properties_of
from flows.prune_checks import check_means, check_memory, check_profile, check_room
from flows.recovery import (
    Ground,
    encoder_of,
    everything,
    exam,
    ground_of,
    modality_of,
    on_device,
    recover,
    scored,
    taught_by,
)
from flows.refs import AdaptRequest, ItemRef, PruneRequest, Where
from flows.select import identities, of_sensor
from flows.stac import labels_to_learn
from flows.streamed import InFiles, folder_of, open_streamed
from ringmoe import checkpoint
from ringmoe.checkpoint import Checkpoint
from ringmoe.prune import slice_modalities, survivors_of_blocks
from ringmoe.tasks.segmentation import Segmenter
from ringmoe.usage_file import read_usage, write_usage

RESULTS_VERSION = 5

LEARNING = {"refit", "steps", "distil_rate", "rate"}
"""Of a request: what decides nothing where models stay in files."""

MARGIN_BYTES = 32 * 2**20
"""Room beside the weights: report, profile, item."""


class Pixels(NamedTuple):
    """What a model is pruned on."""

    cubes: Sequence[ItemRef]
    """All; those of the sensor are learned from, and how all that the parent can take are routed is shown."""
    labels: Sequence[Raster]
    """None where the parent has no head: then its features alone are recovered."""


class Series(NamedTuple):
    """What stands around one of several models, each made of the one before."""

    teacher: ItemRef | None = None
    """Whom all learn from; None for the parent."""
    further: tuple[PruneRequest, ...] = ()
    """What is asked of those after it: where one of them cannot be, this one is not made either."""


ALONE = Series()
"""The only one."""


def series_of(request: PruneRequest, counts: Sequence[int]) -> tuple[PruneRequest, ...]:
    """One request for each number of experts; a profile is of the first one's parent alone."""
    steps = [request.model_copy(update={"to": str(count)}) for count in counts]
    return (steps[0], *(step.model_copy(update={"profile": None}) for step in steps[1:]))


def draft(
    parent: ItemRef,
    pixels: Pixels,
    request: PruneRequest,
    task_request: AdaptRequest,
    where: Where,
    series: Series = ALONE,
) -> Draft:
    """The checkpoint that a parent, a teacher, the pixels it will work on and parameters determine."""
    of_sensor(pixels.cubes, task_request.sensor)
    whose = parent if request.streamed else series.teacher or parent
    inputs = {
        "parent": parent.checksum,
        "teacher": whose.checksum,
        "cubes": sorted([c.id, c.checksum] for c in pixels.cubes),
        "labels": identities(pixels.labels),
        "request": request.model_dump(mode="json", exclude={"profile"} | (LEARNING if request.streamed else set())),
        "profile": None if request.profile is None else file_digest(request.profile),
        "task": task_request.model_dump(mode="json"),
        "machine": machine(where),
    }
    return Draft(
        "prune",
        RESULTS_VERSION,
        inputs,
        (parent, *(() if whose.id == parent.id else (whose,)), *pixels.cubes),
        lambda folder: make(folder, (parent, whose), pixels, (request, *series.further), task_request, where),
        where.threads,
    )


def make(
    folder: Path,
    models: tuple[ItemRef, ItemRef],
    pixels: Pixels,
    requests: Sequence[PruneRequest],
    task_request: AdaptRequest,
    where: Where,
) -> Mapping[str, Any]:
    """Slice, keep experts, integrate; then learn from the teacher and from labels; and tell all of it.

    Parameters
    ----------
    folder
        The checkpoint's; report, pictures and profile go beside it.
    models
        Parent and teacher.
    requests
        What is asked of this model, and then of those to be made of it.
    """
    base, ground, goal = _agreed(models, pixels, requests, task_request, where)
    request, provenance = goal.request, _provenance(models[0], goal.request)
    known = None if request.profile is None else read_usage(request.profile)

    def cut_by(hands: Hands) -> prune_report.Seen:
        found = cut(base.model, goal, ground.batches(), known, hands)
        shown = islice(everything(base, pixels.cubes, task_request).stream(), prune_report.SHOWN)
        return prune_report.Seen(found, hands.profiled(base.model, map(on_device, shown)), ground)

    if request.streamed:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            seen = cut_by(InFiles(Path(scratch), provenance))
            encoder = seen.cut.stages[-1][1]
            folder_of(encoder).rename(folder)
        student: nn.Module = segment.segmenter_of(base, encoder) if base.head_config else encoder
    else:
        seen = cut_by(IN_MEMORY)
        student, seen = _recovered(base, models, seen, goal, where)
        _save(folder, student, provenance | {"stages": [[name, parameters(model)] for name, model in seen.cut.stages]})
    write_usage(folder.parent / "profile.safetensors", seen.cut.usage)
    told = prune_report.write(folder.parent, seen, models[0].id, request, task_request)
    slice_alone = len(seen.cut.stages) == 2
    return _describe(student, base, seen.cut) | {
        TAUGHT: is_taught(properties_of(models[0])) if slice_alone else not request.streamed,
        "ringmoe:params": [parameters(model) for _, model in seen.cut.stages],
        "ringmoe:stages": [name for name, _ in seen.cut.stages],
        "ringmoe:scores": {stage: dict(score.values) for stage, score in seen.measured.items()},
        **told,
    }


def _recovered(
    base: Checkpoint, models: tuple[ItemRef, ItemRef], seen: prune_report.Seen, goal: Goal, where: Where
) -> tuple[nn.Module, prune_report.Seen]:
    """What was cut, after it learned from its teacher and from labels; scored before and after."""
    teacher = _teacher(base, models, seen.cut, goal).eval()
    student = taught_by(teacher, seen.cut.stages[-1][1])
    base.model.cpu()  # what learns and what teaches need the room
    questions = exam(teacher, seen.ground)
    measured = {"teacher": scored(teacher, questions), "pruned": scored(student, questions)}
    histories = {}
    if seen.cut.stages[-1][1].config != seen.cut.stages[1][1].config:  # else it is the slice, which gives the same bits
        for name, history in recover(student, teacher, seen.ground, goal.request, where):
            histories[name] = history
            measured[name] = scored(student, questions)
    return student, seen._replace(measured=measured, histories=histories)


def _agreed(
    models: tuple[ItemRef, ItemRef],
    pixels: Pixels,
    requests: Sequence[PruneRequest],
    task_request: AdaptRequest,
    where: Where,
) -> tuple[Checkpoint, Ground, Goal]:
    """All that can be refused is refused here, before there is work: of this model, and of those to be made of it."""
    parent, streamed = models[0], requests[0].streamed
    base = open_streamed(parent)
    modality = modality_of(base, task_request)
    dtype = base.model.state_dict()["norm.weight"].dtype if streamed else torch.float32
    head = sum(t.numel() for t in base.head_state.values())
    goals = [Goal(request, modality, head, dtype) for request in requests]
    needed = sum(result_parameters(base.model, goal) * dtype.itemsize + MARGIN_BYTES for goal in goals)
    if streamed:  # the slice lies there while it is cut, and, before it becomes dense, what is left of it too
        slices = 2 if any(may_be_dense(goal) for goal in goals) else 1
        needed += slices * slice_parameters(base.model, modality) * dtype.itemsize
    for goal in goals:
        check_means(base.model, goal)
    check_profile(base.model, goals[0])
    check_room(where.published, needed)
    if not streamed:
        check_memory(models)
    ground = ground_of(base, of_sensor(pixels.cubes, task_request.sensor), pixels.labels, task_request)
    if not streamed:
        base = open_checkpoint(parent)
    return base, ground, goals[0]


def _teacher(base: Checkpoint, models: tuple[ItemRef, ItemRef], found: Cut, goal: Goal) -> nn.Module:
    """The teacher's slice, which answers as all of it does, with its head."""
    if models[0].id == models[1].id:
        whole, sliced = base, found.stages[1][1]
    else:
        whole = open_checkpoint(models[1])
        sliced = slice_modalities(whole.model, [goal.modality])
    return taught_by(segment.segmenter_of(whole) if whole.head_config else whole.model, sliced)


def _provenance(parent: ItemRef, request: PruneRequest) -> dict[str, Any]:
    return {"step": "prune", "parent": parent.id, "request": request.model_dump(mode="json", exclude={"profile"})}


def _save(folder: Path, student: nn.Module, provenance: Mapping[str, Any]) -> None:
    if isinstance(student, Segmenter):
        segment.save(folder, student, provenance)
    else:
        checkpoint.save(folder, encoder_of(student), provenance=provenance)


def _describe(student: nn.Module, base: Checkpoint, found: Cut) -> dict[str, Any]:
    dense = not any(left.slots for left in survivors_of_blocks(found.stages[-1][1]))
    name = f"RingMoE pruned to {'one dense expert' if dense else 'fewer experts'} a block"
    if isinstance(student, Segmenter):
        return segment.describe(student, name, base)
    return described(encoder_of(student), name)


@task(name="prune", cache_policy=NO_CACHE)
def prune_task(
    parent: ItemRef,
    cubes: list[ItemRef],
    request: PruneRequest,
    task_request: AdaptRequest,
    where: Where,
    series: Series = ALONE,
) -> ItemRef:
    """One smaller checkpoint, on the GPU where there is one."""
    labels = labels_to_learn(where, task_request.area, task_request.period) if has_head(parent) else ()
    made = once(draft(parent, Pixels(cubes, labels), request, task_request, where, series), Ledger(where.published))
    if made.fresh:
        prune_report.show(made)
    return made


@flow(name="prune")
def prune(
    parent: ItemRef, cubes: list[ItemRef], request: PruneRequest, task_request: AdaptRequest, where: Where
) -> ItemRef:
    """A model to a smaller one; one already made is only looked up.

    Of several numbers of experts each gives a model, which is the next one's parent; all learn from the first parent,
    if they learn.
    Where one of them cannot be, none is made that is not there yet.
    """
    asked = None if request.to is None else sizes.parse(request.to)
    if not isinstance(asked, sizes.Slots) or len(asked.counts) == 1:
        return prune_task(parent, cubes, request, task_request, where)
    made, steps = parent, series_of(request, asked.counts)
    for place, step in enumerate(steps):
        made = prune_task(made, cubes, step, task_request, where, Series(parent, steps[place + 1 :]))
    return made
