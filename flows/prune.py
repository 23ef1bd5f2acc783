"""Checkpoint -> smaller checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from torch import nn

from catalog.ledger import Ledger
from catalog.search import Raster
from flows import segment
from flows.models import Draft, device, machine, once, open_checkpoint, recipe_of, told
from flows.refs import AdaptRequest, ItemRef, PruneRequest, Where
from flows.select import identities, of_sensor
from flows.stac import labels_to_learn
from ringmoe.backbone import RingMoE
from ringmoe.data import LabelledSampler
from ringmoe.modality import Batch
from ringmoe.prune import integrate, keep_collaborative, slice_modalities
from ringmoe.tasks.segmentation import Segmenter
from ringmoe.train import adapt as fine_tune
from ringmoe.train import distil
from ringmoe.usage import profile

RESULTS_VERSION = 2

PROFILE_BATCHES = 8
"""Batches over which experts are counted."""


def draft(
    parent: ItemRef,
    cubes: Sequence[ItemRef],
    labels: Sequence[Raster],
    request: PruneRequest,
    task_request: AdaptRequest,
    where: Where,
) -> Draft:
    """The checkpoint that a parent, the pixels it will work on and parameters determine."""
    mine = of_sensor(cubes, task_request.sensor)
    inputs = {
        "parent": parent.checksum,
        "cubes": sorted([c.id, c.checksum] for c in mine),
        "labels": identities(labels),
        "request": request.model_dump(mode="json"),
        "task": task_request.model_dump(mode="json"),
        "machine": machine(where),
    }
    return Draft(
        "prune",
        RESULTS_VERSION,
        inputs,
        (parent, *mine),
        lambda folder: make(folder, parent, mine, labels, request, task_request, where),
        where.threads,
    )


def make(
    folder: Path,
    parent: ItemRef,
    cubes: Sequence[ItemRef],
    labels: Sequence[Raster],
    request: PruneRequest,
    task_request: AdaptRequest,
    where: Where,
) -> Mapping[str, Any]:
    """Modality slice, collaborative experts, dense integration; then features are distilled and the task fine-tuned."""
    base = open_checkpoint(parent)
    teacher = segment.segmenter_of(base).to(device()).eval()
    sampler = segment.sampler_of(segment.labelled(cubes, labels, task_request), base.contract, task_request)
    stages = cut(teacher.backbone, sampler, request)
    student = Segmenter(stages[-1][1].to(device()), teacher.config)
    student.head.load_state_dict(copy.deepcopy(teacher.head.state_dict()))
    student = student.to(device())
    recipe = recipe_of(request, where)
    told_twice = told("prune", 2 * request.steps), told("prune", 2 * request.steps, request.steps)
    distilled = distil(student.backbone, teacher.backbone, _chips(sampler, teacher), recipe, on_step=told_twice[0])
    tuned = fine_tune(student, sampler.stream(request.steps), recipe, on_step=told_twice[1])
    provenance = {
        "step": "prune",
        "parent": parent.id,
        "request": request.model_dump(mode="json"),
        "stages": [[name, parameters(model)] for name, model in stages],
    }
    segment.save(folder, student, provenance)
    return segment.describe(student, "RingMoE pruned to one dense expert a block", base) | {
        "ringmoe:params": [parameters(model) for _, model in stages],
        "ringmoe:stages": [name for name, _ in stages],
        "ringmoe:distilled_first": distilled.loss[0],
        "ringmoe:distilled_last": distilled.loss[-1],
        "ringmoe:loss_last": tuned.loss[-1],
    }


def cut(backbone: RingMoE, sampler: LabelledSampler, request: PruneRequest) -> list[tuple[str, RingMoE]]:
    """The parent and what each step of pruning leaves of it, by name."""
    modality = sampler.modality
    sliced = slice_modalities(backbone, [modality])
    usage = profile(sliced, islice(_batches(sampler), PROFILE_BATCHES))
    kept = keep_collaborative(sliced, usage, keep=request.collaborative)
    usage = profile(kept, islice(_batches(sampler), PROFILE_BATCHES))
    dense = integrate(kept, usage, method=request.method)
    return [
        ("teacher", backbone),
        (f"{modality.value} slice", sliced),
        (f"{request.collaborative} collaborative", kept),
        (f"dense ({request.method})", dense),
    ]


def parameters(model: nn.Module) -> int:
    """Count of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def _batches(sampler: LabelledSampler) -> Iterator[Batch]:
    for chips, _ in sampler.stream():
        yield {sampler.modality: chips.to(device())}


def _chips(sampler: LabelledSampler, teacher: Segmenter) -> Iterator[Batch]:
    for chips, _ in sampler.stream():
        yield {teacher.config.modality: chips}


@task(name="prune", cache_policy=NO_CACHE)
def prune_task(
    parent: ItemRef, cubes: list[ItemRef], request: PruneRequest, task_request: AdaptRequest, where: Where
) -> ItemRef:
    """One smaller checkpoint, on the GPU where there is one."""
    labels = labels_to_learn(where, task_request.area, task_request.period)
    return once(draft(parent, cubes, labels, request, task_request, where), Ledger(where.published))


@flow(name="prune")
def prune(
    parent: ItemRef, cubes: list[ItemRef], request: PruneRequest, task_request: AdaptRequest, where: Where
) -> ItemRef:
    """An adapted model to a small dense one; one already made is only looked up."""
    return prune_task(parent, cubes, request, task_request, where)
