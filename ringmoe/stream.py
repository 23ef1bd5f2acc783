"""Checkpoint -> smaller checkpoint, block by block: in the memory of the largest block, not of the model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.checkpoint import HEAD, Description, check_names, conclude, describe, outline
from ringmoe.contract import DataContract
from ringmoe.cut import select
from ringmoe.errors import CheckpointError, PruneError
from ringmoe.modality import Modality, ordered
from ringmoe.moe import Survivors
from ringmoe.shards import SHARD_BYTES
from ringmoe.stored import Part, Stored, Writer, check_room

Change: TypeAlias = Callable[[int, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Number of a block and its tensors, read when they are asked for -> its new tensors."""


@dataclass(frozen=True)
class Streaming:
    """How a checkpoint goes through memory."""

    devices: tuple[torch.device | str, ...] = ("cpu",)
    """Where blocks are worked on, as many at a time, each device on its own; one that stands twice works on two."""
    verify: bool = True
    """Hold the parent's files against their checksums first; their sizes and headers always are."""
    shard_bytes: int = SHARD_BYTES
    """Weights of more bytes than this go into several files."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """As of `ringmoe.checkpoint.save`."""


def select_streamed(
    parent: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    modalities: Sequence[Modality] | None = None,
    survivors: Sequence[Survivors] | None = None,
    how: Streaming = Streaming(),
) -> str:
    """The sub-model of some modalities and some routed experts; the digest of the checkpoint written.

    Parameters
    ----------
    parent
        A checkpoint; it is only read.
    out
        A folder that is not there yet; it appears whole or not at all.
    modalities
        To keep; None for all.
    survivors
        Routed experts to keep of these modalities, block by block; None for all.

    Raises
    ------
    PruneError
        The model has not one of these modalities or experts, or `out` is taken.
    CheckpointError
        The parent is damaged, or `out` cannot be written.
    StorageFull
        The disk has no room; found out before work starts.
    """
    told = describe(parent)
    before = ordered(tuple(told.contract.inputs))
    rows = rows_of(before, before if modalities is None else modalities)
    old = [told.config.survivors_of(i, len(before)) for i in range(sum(told.config.depths))]
    left = [replace(each, specialized=tuple(each.specialized[i] for i in rows)) for each in old]
    new = left if survivors is None else list(survivors)
    check_survivors(left, new)
    config = replace(told.config, survivors=None)
    if any(kept != config.survivors_of(i, len(rows)) for i, kept in enumerate(new)):
        config = replace(config, survivors=tuple(new))
    contract = told.contract.only([before[i] for i in rows])
    return rebuild(
        parent, out, config, contract, lambda i, tensors: select(tensors, old[i], new[i], rows), how=how
    )


def rows_of(modalities: Sequence[Modality], keep: Sequence[Modality]) -> list[int]:
    """Places of the modalities to keep among a model's; PruneError where it has not one of them."""
    if not keep or any(m not in modalities for m in keep):
        raise PruneError(
            f"The model has no sub-model of {', '.join(keep) or 'no modality'}",
            item=f"a model of {', '.join(modalities)}",
            enough="one or more of its modalities",
            todo="name modalities that the checkpoint has learned",
        )
    return [i for i, m in enumerate(modalities) if m in keep]


def check_survivors(old: Sequence[Survivors], new: Sequence[Survivors]) -> None:
    """PruneError where experts are to be kept that a model has not."""
    if len(old) != len(new) or any(len(a.specialized) != len(b.specialized) for a, b in zip(old, new, strict=False)):
        raise PruneError(
            "The experts to keep are those of another model",
            item=f"{len(new)} blocks, {len(new[0].specialized) if new else 0} modalities",
            enough=f"{len(old)} blocks, {len(old[0].specialized)} modalities",
            todo="choose them from a profile of this very model",
        )
    for block, (a, b) in enumerate(zip(old, new, strict=True)):
        pairs = [*zip(a.specialized, b.specialized, strict=True), (a.collaborative, b.collaborative)]
        gone = [sorted(set(wanted) - set(there)) for there, wanted in pairs]
        if any(gone):
            raise PruneError(
                f"Block {block} has no longer an expert that is to be kept",
                item=f"{gone} of the specialized by modality, then of the collaborative ones",
                enough=str(a),
                todo="choose them from a profile of this very model, after its last pruning",
            )


def rebuild(
    parent: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: RingMoEConfig,
    contract: DataContract,
    change: Change,
    *,
    how: Streaming = Streaming(),
) -> str:
    """A checkpoint of another configuration, its blocks made one by one of a parent's; returns its digest.

    Tensors outside blocks are copied where the new model has them, and so is a head. Errors are `select_streamed`'s.
    """
    source, target = Path(parent), Path(out)
    told = describe(source)
    stored = Stored(source, told.files)
    check_names(source, outline(source, told).state_dict(), _encoder(stored.like), told.dtypes)
    with torch.device("meta"):
        model = RingMoE(config, contract)
    like = _like(model, stored.like)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PruneError(
            "The result has no folder of its own",
            item=str(target),
            enough="a folder that is not there yet, or is empty",
            todo="name another folder, or remove this one",
        )
    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)  # what a killed run left
    check_room(target, like)
    if how.verify:
        stored.verify()
    try:
        draft.mkdir(parents=True)
        writer = Writer(draft, like, how.shard_bytes)
        _blocks(model, stored, writer, change, how.devices)
        dtypes = {str(t.dtype).removeprefix("torch.") for name, t in like.items() if not name.startswith(HEAD)}
        files = tuple(writer.finish())
        done = Description(config, contract, files, dtypes, told.head_config, how.provenance)
        digest = conclude(draft, done)
        draft.replace(target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The pruned checkpoint cannot be written: {error}",
            item=str(target),
            enough="a folder that can be written, with room for the result",
            todo="free some room or choose another folder; the parent is as it was",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return digest


def _encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}


def _like(model: RingMoE, parent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What will be written: dtypes are the parent's, those of new tensors that of the norm of their block."""
    norms = {name: parent[f"{name}norm1.weight"].dtype for name in prefixes(model)}
    found = {name: tensor for name, tensor in parent.items() if name.startswith(HEAD)}
    for name, tensor in model.state_dict().items():
        block = ".".join(name.split(".")[:3]) + "."
        dtype = parent[name].dtype if name in parent else norms[block]
        found[name] = tensor.to(dtype)
    return found


def prefixes(model: RingMoE) -> list[str]:
    """What the names of each block's tensors begin with, first block to last."""
    return [f"stages.{stage}.{i}." for stage, depth in enumerate(model.config.depths) for i in range(depth)]


def _blocks(
    model: RingMoE, stored: Stored, writer: Writer, change: Change, devices: Sequence[torch.device | str]
) -> None:
    """Every tensor of the result into its place."""
    names = prefixes(model)

    @torch.no_grad()
    def work(share: int) -> None:
        for index in range(share, len(names), len(devices)):
            tensors = dict(change(index, Part(stored.on(devices[share]), names[index])))
            while tensors:
                name, tensor = tensors.popitem()
                writer.put(names[index] + name, tensor)
                del tensor

    for name in writer.like:
        if not name.startswith(tuple(names)):
            writer.put(name, stored[name])
    if len(devices) == 1:
        work(0)
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        for done in [pool.submit(work, share) for share in range(len(devices))]:
            done.result()
