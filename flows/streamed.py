"""Pruning from file to file, for models that no memory holds: what `flows.cutting` does, block by block."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from flows.models import check_published, device
from flows.refs import ItemRef, PruneRequest
from ringmoe.backbone import RingMoE
from ringmoe.checkpoint import HEAD, Checkpoint
from ringmoe.modality import Batch, Modality
from ringmoe.moe import Survivors
from ringmoe.ondisk import OnDisk, open_on_disk
from ringmoe.stream import Streaming, integrate_streamed, select_streamed
from ringmoe.usage import Usage
from ringmoe.walk import profile_streamed


def open_streamed(ref: ItemRef) -> Checkpoint:
    """A published checkpoint, its head in memory and its encoder left in its files, whose checksums are compared.

    Raises
    ------
    CheckpointError
        The files are not what was published.
    PruneError
        Their weights are quantised.
    """
    check_published(ref)
    opened = open_on_disk(ref.asset, verify=False)
    told, tensors = opened.told, opened.tensors
    head = {name.removeprefix(HEAD): tensors[name] for name in tensors if name.startswith(HEAD)}
    return Checkpoint(opened.model, told.contract, told.config, head, told.head_config, told.provenance, told.digest)


class InFiles:
    """Models in checkpoints, of which the memory holds a block for every GPU, or one.

    Parameters
    ----------
    scratch
        A folder of its own for what is made on the way; a model there is removed when the next one is made of it.
    provenance
        What the checkpoints say of their origin.
    """

    def __init__(self, scratch: Path, provenance: Mapping[str, Any]) -> None:
        gpus = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        self.how = Streaming(devices=gpus or ("cpu",), verify=False, provenance=provenance)
        self.scratch, self.names = scratch, map(str, count())

    def sliced(self, model: RingMoE, modality: Modality) -> RingMoE:
        """As `ringmoe.stream.select_streamed`."""
        out = self._next()
        select_streamed(folder_of(model), out, modalities=[modality], how=self.how)
        return self._made(out, model)

    def profiled(self, model: RingMoE, batches: Iterable[Batch]) -> Usage:
        """As `ringmoe.walk.profile_streamed`."""
        return profile_streamed(folder_of(model), batches, device=device(), verify=False)

    def kept(self, model: RingMoE, usage: Usage, left: Sequence[Survivors]) -> RingMoE:
        """As `ringmoe.stream.select_streamed`."""
        out = self._next()
        select_streamed(folder_of(model), out, survivors=left, usage=usage, how=self.how)
        return self._made(out, model)

    def dense(self, model: RingMoE, usage: Usage, request: PruneRequest, batches: Iterable[Batch]) -> RingMoE:
        """As `ringmoe.stream.integrate_streamed`; it is not refitted."""
        out = self._next()
        integrate_streamed(folder_of(model), out, usage, request.method, how=self.how)
        return self._made(out, model)

    def _next(self) -> Path:
        return self.scratch / next(self.names)

    def _made(self, out: Path, parent: RingMoE) -> OnDisk:
        if folder_of(parent).parent == self.scratch:
            shutil.rmtree(folder_of(parent))
        return open_on_disk(out, verify=False).model


def folder_of(model: RingMoE) -> Path:
    """Where the weights of a model in files are."""
    assert isinstance(model, OnDisk)
    return model.stored.folder
