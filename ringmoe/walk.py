"""The profile of a model too large for memory: one block at a time, over the tokens of all batches."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from ringmoe.errors import PruneError
from ringmoe.modality import Batch
from ringmoe.ondisk import fill, open_on_disk, prefixes
from ringmoe.stored import Part
from ringmoe.tally import Tally
from ringmoe.usage import Usage, weights_digest


@torch.no_grad()
def profile_streamed(
    folder: str | os.PathLike[str],
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    verify: bool = True,
) -> Usage:
    """What `ringmoe.usage.profile` tells of a model, in the memory of its largest block and the tokens of all batches.

    Parameters
    ----------
    folder
        A checkpoint.
    batches
        Unmasked chips on that device; all are embedded before the first block is read.
    device
        Where blocks are read to and run.
    verify
        Hold the checkpoint's files against their checksums first.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged.
    PruneError
        The batches hold no measured pixel, or the weights are quantised.
    """
    model = open_on_disk(folder, device, verify=verify).model
    stored, names, size = model.stored, prefixes(model), len(model.modalities)
    outside = {name: stored[name] for name in stored if not name.startswith(tuple(names))}
    model.load_state_dict(outside, strict=False, assign=True)
    walks = [model.walk(batch) for batch in batches]
    for walk in walks:
        next(walk)
    found = []
    for index, (block, name) in enumerate(zip(model.blocks(), names, strict=True)):
        fill(block, Part(stored, name))
        block.experts.keep(model.config.survivors_of(index, size), device)
        tally = Tally(block.experts, size)
        hook = block.experts.register_forward_hook(tally.add)
        for walk in walks:
            next(walk)
        found.append((tally.experts("specialized"), tally.experts("collaborative"), tally.units(), tally.whole()))
        hook.remove()
        block.to("meta")
        del tally  # it holds views of the weights
    specialized, collaborative, units, layers = zip(*found, strict=True)
    if not layers[0].tokens_M.sum() > 0:
        raise PruneError(
            "The profile saw no measured pixel",
            item=str(folder),
            enough="one chip with valid pixels",
            todo="profile on cubes of the region the model will work on",
        )
    return Usage(
        modalities=model.modalities,
        tokens_M=layers[0].tokens_M,
        specialized=specialized,
        collaborative=collaborative,
        units=units,
        layers=layers,
        config=model.config,
        contract_digest=model.contract.digest(),
        weights_digest=weights_digest(stored),
    )
