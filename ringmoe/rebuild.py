"""A checkpoint made of another one, block by block: it appears whole or not at all, and the other is only read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.checkpoint import HEAD, Description, conclude
from ringmoe.contract import DataContract
from ringmoe.errors import CheckpointError, PruneError
from ringmoe.ondisk import Opened, prefixes
from ringmoe.shards import SHARD_BYTES
from ringmoe.stored import Part, Stored, Writer, check_room

EXPERTS = "experts."

Change: TypeAlias = Callable[[int, Mapping[str, Tensor]], Iterable[tuple[str, Tensor]]]
"""Number of a block and its experts' tensors, read when they are asked for -> their new tensors by name."""


@dataclass(frozen=True)
class Streaming:
    """How a checkpoint goes through memory."""

    devices: tuple[torch.device | str, ...] = ("cpu",)
    """Where blocks are worked on: as many at a time, each device at one; named twice, a device works on two."""
    verify: bool = True
    """Hold the parent's files against their checksums first; their sizes and headers always are."""
    shard_bytes: int = SHARD_BYTES
    """Weights of more bytes than this go into several files."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """As of `ringmoe.checkpoint.save`."""


PLAIN = Streaming()


def rebuild(
    parent: Opened,
    out: str | os.PathLike[str],
    config: RingMoEConfig,
    contract: DataContract,
    change: Change,
    how: Streaming = PLAIN,
) -> str:
    """A checkpoint of another configuration, the experts of its blocks made one by one of a parent's; its digest.

    All other tensors are copied where the new model has them, and a head's.

    Raises
    ------
    PruneError
        `out` is taken.
    CheckpointError
        It cannot be written, or the parent is damaged.
    StorageFull
        The disk has no room; found out before work starts.
    """
    target = Path(out)
    with torch.device("meta"):
        model = RingMoE(config, contract)
    like = _like(model, parent)
    draft = _draft(target)
    check_room(target, like)
    if how.verify:
        parent.tensors.verify()
    try:
        draft.mkdir(parents=True)
        writer = Writer(draft, like, how.shard_bytes)
        _write(model, parent.tensors, writer, change, how.devices)
        dtypes = {str(t.dtype).removeprefix("torch.") for name, t in like.items() if not name.startswith(HEAD)}
        files = tuple(writer.finish())
        digest = conclude(draft, Description(config, contract, files, dtypes, parent.told.head_config, how.provenance))
        draft.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"The pruned checkpoint cannot be written: {error}",
            item=str(target),
            enough="a folder that can be written, with room for the result",
            todo="free some room or choose another folder; the parent is as it was",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return digest


def _draft(target: Path) -> Path:
    """Where the result grows, beside its place, which must be free; what a killed run left there is removed."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PruneError(
            "The result has no folder of its own",
            item=str(target),
            enough="a folder that is not there yet, or is empty",
            todo="name another folder, or remove this one",
        )
    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    return draft


def _like(model: RingMoE, parent: Opened) -> dict[str, Tensor]:
    """What will be written: dtypes are the parent's, those of new tensors that of the norm of their block."""
    before = parent.tensors.like
    found = {name: tensor for name, tensor in before.items() if name.startswith(HEAD)}
    for name, tensor in model.state_dict().items():
        block = ".".join(name.split(".")[:3])
        found[name] = tensor.to(before[name if name in before else f"{block}.norm1.weight"].dtype)
    return found


def _write(
    model: RingMoE, stored: Stored, writer: Writer, change: Change, devices: Sequence[torch.device | str]
) -> None:
    """Every tensor of the result into its place; a tensor is let go as soon as it is written."""
    names = [prefix + EXPERTS for prefix in prefixes(model)]

    @torch.no_grad()
    def work(share: int) -> None:
        for index in range(share, len(names), len(devices)):
            for name, tensor in change(index, Part(stored.on(devices[share]), names[index])):
                writer.put(names[index] + name, tensor)
                del tensor

    for name in writer.like:
        if not name.startswith(tuple(names)):
            writer.put(name, stored[name])
    if len(devices) == 1:
        work(0)
        return
    threads = torch.get_num_threads()  # a new thread takes its own number, on which the last bits depend
    with ThreadPoolExecutor(len(devices), initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        for done in [pool.submit(work, share) for share in range(len(devices))]:
            done.result()
