"""What pruning cannot do, said before there is work: no means left, another profile, too little memory or disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from distributed.system import MEMORY_LIMIT

from catalog.errors import StorageFull
from flows.cutting import Goal, may_be_dense, result_parameters, slice_parameters
from flows.refs import ItemRef
from ringmoe import checkpoint, presets
from ringmoe.backbone import RingMoE
from ringmoe.errors import PruneError
from ringmoe.prune import survivors_of_blocks
from ringmoe.usage_file import read_usage


def check_means(parent: RingMoE, goal: Goal) -> None:
    """PruneError where experts will go that are to leave their means, and no shared expert could take these."""
    if goal.request.dropped != "mean" or parent.config.shared:
        return
    some_go = result_parameters(parent, goal) < slice_parameters(parent, goal.modality) + goal.head
    if may_be_dense(goal):
        some_go &= any(len(old.collaborative) > goal.request.collaborative for old in survivors_of_blocks(parent))
    if some_go:
        raise PruneError(
            "there is no shared expert whose bias could take the means of experts that go",
            item=f"a model of {', '.join(m.value for m in parent.modalities)} without shared experts",
            enough="one shared expert a block, or tokens that take their best survivor",
            todo="let them (--dropped survivor)",
        )


def check_profile(parent: RingMoE, goal: Goal) -> None:
    """PruneError where a profile given is of a model of another shape; that of the weights shows at the slice."""
    if goal.request.profile is None:
        return
    known, contract = read_usage(goal.request.profile), parent.contract.only([goal.modality])
    shapes = [replace(config, survivors=None) for config in (known.config, parent.config)]
    if shapes[0] != shapes[1] or known.contract_digest != contract.digest():
        raise PruneError(
            "The profile is of another model",
            item=str(goal.request.profile),
            enough=f"profile.safetensors of a model that was pruned from this parent for {goal.modality.value}",
            todo="name such a profile, or leave --profile out",
        )


def check_memory(models: Sequence[ItemRef]) -> None:
    """PruneError where not even parent and teacher by themselves, in float32, would fit into the memory that is free.

    What a container may have counts, too.
    """
    named = dict.fromkeys(model.asset for model in models)
    told = [checkpoint.describe(asset) for asset in named]
    needed = sum(presets.describe(each.config, each.contract).parameters for each in told) * torch.float32.itemsize
    free = min(psutil.virtual_memory().available, MEMORY_LIMIT)
    if free < needed:
        raise PruneError(
            "the model does not fit into memory",
            item=f"{', '.join(dict.fromkeys(m.id for m in models))}: {needed / 1e9:,.1f} GB in float32, "
            f"{free / 1e9:,.1f} GB free",
            enough=f"{needed / 1e9:,.1f} GB, and as much again as its slice takes",
            todo="cut it from file to file first (--streamed), as to the experts of one modality, and prune what "
            "comes of that; or use a machine with more memory",
        )


def check_room(folder: Path, needed: int) -> None:
    """StorageFull where a disk has not so many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageFull(
            "the disk has no room for the pruned model",
            item=f"{folder}: {free / 1e6:,.0f} MB free",
            enough=f"{needed / 1e6:,.0f} MB",
            todo="free space (`ringmoe gc` removes what killed runs left), choose another home (--home) or ask for a "
            "smaller model (--to)",
        )
