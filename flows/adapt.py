"""Checkpoint, labels -> checkpoint for a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from catalog.ledger import Ledger
from catalog.search import Raster
from flows import segment
from flows.models import Draft, device, machine, once, open_checkpoint, recipe_of, told
from flows.refs import AdaptRequest, ItemRef, Where
from flows.select import classes_of, identities, of_sensor
from flows.stac import labels_to_learn
from ringmoe.modality import Modality
from ringmoe.tasks.segmentation import SegmentationConfig, Segmenter, balanced
from ringmoe.train import adapt as train

RESULTS_VERSION = 4


def draft(
    parent: ItemRef, cubes: Sequence[ItemRef], labels: Sequence[Raster], request: AdaptRequest, where: Where
) -> Draft:
    """The checkpoint that a parent, labels and parameters determine."""
    mine = of_sensor(cubes, request.sensor)
    inputs = {
        "parent": parent.checksum,
        "cubes": sorted([c.id, c.checksum] for c in mine),
        "labels": identities(labels),
        "request": request.model_dump(mode="json"),
        "machine": machine(where),
    }
    return Draft(
        "adapt",
        RESULTS_VERSION,
        inputs,
        (parent, *mine),
        lambda folder: make(folder, parent, mine, labels, request, where),
        where.threads,
    )


def make(
    folder: Path,
    parent: ItemRef,
    cubes: Sequence[ItemRef],
    labels: Sequence[Raster],
    request: AdaptRequest,
    where: Where,
) -> Mapping[str, Any]:
    """Fine-tune backbone and head on labelled composites and write the checkpoint."""
    base = open_checkpoint(parent)
    sources = segment.labelled(cubes, labels, request)
    encoder = segment.encoder_of(base, sources)
    sampler = segment.sampler_of(sources, encoder.contract, request)
    names = tuple(c.name for c in classes_of(labels))
    counts = [int(sampler.counts[code]) for code in range(1, len(names) + 1)]
    torch.manual_seed(request.seed)
    config = SegmentationConfig(Modality(sampler.modality), names, class_weights=balanced(counts))
    segmenter = Segmenter(encoder.to(device()), config).to(device())
    recipe = recipe_of(request, where)
    history = train(segmenter, sampler.stream(), recipe, on_step=told("adapt", request.steps))
    segment.save(folder, segmenter, {"step": "adapt", "parent": parent.id, "request": request.model_dump(mode="json")})
    edge = max(1, min(10, len(history.loss) // 4))
    return segment.describe(segmenter, f"RingMoE adapted to {request.sensor} land cover", base) | {
        "ringmoe:loss_first": sum(history.loss[:edge]) / edge,
        "ringmoe:loss_last": sum(history.loss[-edge:]) / edge,
        "ringmoe:parent": {"id": parent.id, "checksum": parent.checksum},
        "ringmoe:labelled_pixels": dict(zip(names, counts, strict=True)),
    }


@task(name="adapt", cache_policy=NO_CACHE)
def adapt_task(parent: ItemRef, cubes: list[ItemRef], request: AdaptRequest, where: Where) -> ItemRef:
    """One checkpoint, on the GPU where there is one."""
    labels = labels_to_learn(where, request.area, request.period)
    return once(draft(parent, cubes, labels, request, where), Ledger(where.published))


@flow(name="adapt")
def adapt(parent: ItemRef, cubes: list[ItemRef], request: AdaptRequest, where: Where) -> ItemRef:
    """A pre-trained checkpoint and labels to a model that maps; one already made is only looked up."""
    return adapt_task(parent, cubes, request, where)
