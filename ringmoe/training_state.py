"""Where a training run stands, kept so that a stopped run goes on, on as many devices as there then are; no pickle.

A folder holds states, each a folder `step-N` of safetensors files, one a rank, and `state.json`. A state is written
beside its final name, checked, and renamed when whole, so that the last good one is whole at any moment.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import empty as empty_dtensor

from ringmoe.errors import CheckpointError

RECORD = "state.json"
FORMAT = 2
PARTIAL = ".partial"
MODULE, MOMENTS = "module.", "optimiser."


@dataclass(frozen=True)
class Kept:
    """A state found."""

    folder: Path
    """Where it lies."""
    step: int
    """Steps done."""
    record: Mapping[str, Any]
    """The JSON that was kept with it."""


def save(
    folder: str | os.PathLike[str],
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Keep a run's weights and moments after so many steps, every rank its own part; older states go.

    Parameters
    ----------
    folder
        Of all states of the run; one that every rank sees.
    module
        What is trained: its parameters and buffers are kept.
    record
        JSON kept beside them, as losses so far.

    Raises
    ------
    CheckpointError
        The state cannot be written.
    """
    return _write(Path(folder), _tensors(module, optimiser), step, dict(record or {}), None)


class Keeper:
    """Keeps states while training goes on: each is copied to the host's memory at once, and written by a thread.

    Where the state before is still being written, the next waits for it. Ranks meet in a group of their own, so that
    what they say of states never mixes with what they say of gradients. Every rank must make and close one together.

    Parameters
    ----------
    folder
        As in `save`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._pool = ThreadPoolExecutor(1, "training-state")
        self._writing: Future[Path] | None = None

    def keep(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, step: int, record: Mapping[str, Any] | None = None
    ) -> None:
        """As `save`, but what is kept may be changed at once; `record` may not.

        Raises
        ------
        CheckpointError
            The state before this one could not be written.
        """
        self.wait()
        copies = {name: _copied(tensor) for name, tensor in _tensors(module, optimiser).items()}
        self._writing = self._pool.submit(_write, self.folder, copies, step, dict(record or {}), self._group)

    def wait(self) -> None:
        """Until the last state lies on the disk; CheckpointError where it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for the last state, and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def _write(
    root: Path, tensors: dict[str, Tensor], step: int, record: Mapping[str, Any], group: dist.ProcessGroup | None
) -> Path:
    """Every rank its own part, then the first one makes the state whole."""
    final, partial = root / _name(step), root / (_name(step) + PARTIAL)
    try:
        if _first():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        _meet(group)
        dcp.save(tensors, storage_writer=_writer(partial), no_dist=not dist.is_initialized(), process_group=group)
        _meet(group)
        if _first():
            _finish(partial, final, {"format": FORMAT, "step": step, "record": record})
        _meet(group)
    except (OSError, dcp.CheckpointException) as error:
        raise CheckpointError(
            f"The state of training cannot be kept: {error}",
            item=str(partial),
            enough="a folder that every rank can write, with room for weights and moments twice",
            todo="free some room or choose another folder; the state before this one is whole",
        ) from error
    return final


def _copied(tensor: Tensor) -> Tensor:
    """The same in the host's memory, its own."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    mine = tensor.to_local().detach().to("cpu", copy=True)
    mesh, placements = tensor.device_mesh, tensor.placements
    return DTensor.from_local(mine, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def latest(folder: str | os.PathLike[str]) -> Kept | None:
    """The last whole state of a folder; None where there is none.

    Raises
    ------
    CheckpointError
        It has been damaged since it was written.
    """
    states = sorted(p for p in Path(folder).glob("step-*") if p.suffix != PARTIAL)
    if not states:
        return None
    path = states[-1]
    try:
        told = json.loads((path / RECORD).read_bytes())
        kept, files = Kept(path, int(told["step"]), told["record"]), dict(told["files"])
        current = told["format"] == FORMAT
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path / RECORD, f"its record cannot be read ({type(error).__name__})") from error
    sizes = {name: (path / name).stat().st_size if (path / name).is_file() else -1 for name in files}
    wrong = [f"{name} has {max(sizes[name], 0)} bytes instead of {size}" for name, size in files.items()
             if sizes[name] != size]  # fmt: skip
    if wrong or not current:
        raise _damaged(path, wrong[0] if wrong else f"not of format {FORMAT}")
    return kept


def restore(kept: Kept, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put a state back, in place, each rank reading only what it holds; the number of ranks may have changed.

    Raises
    ------
    CheckpointError
        The state is of another model or another optimiser.
    """
    reader = dcp.HuggingFaceStorageReader(str(kept.folder))
    found = reader.read_metadata().state_dict_metadata
    wanted = dict(_module_tensors(module))
    moments = {name: entry for name, entry in found.items() if name.startswith(MOMENTS)}
    on_device = {id(p) for group in optimiser.param_groups if group.get("fused") for p in group["params"]}
    for name, parameter in _trained(module, optimiser):
        mine = {key: entry for key, entry in moments.items() if key.startswith(f"{MOMENTS}{name}|")}
        fresh = {
            key: _like(parameter, entry, count_beside=id(parameter) in on_device)
            for key, entry in mine.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        wanted |= fresh
        optimiser.state[parameter] = {key.rsplit("|", 1)[1]: tensor for key, tensor in fresh.items()}
    _check(kept.folder, wanted, found)
    dcp.load(wanted, storage_reader=reader, no_dist=not dist.is_initialized())


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _meet(group: dist.ProcessGroup | None) -> None:
    if dist.is_initialized():
        dist.barrier(group)


def _writer(path: Path) -> dcp.HuggingFaceStorageWriter:
    return dcp.HuggingFaceStorageWriter(str(path), save_distributed=True)


def _finish(partial: Path, final: Path, told: dict[str, Any]) -> None:
    """Name the files and their sizes, bring all to the disk, rename, and only then let older states go."""
    files = {path.name: path.stat().st_size for path in sorted(partial.glob("*.safetensors"))}
    with (partial / RECORD).open("w") as out:
        json.dump(told | {"files": files}, out, sort_keys=True, indent=1)
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if final.exists():  # of the same step of the same run: nothing is gained, and for a moment none would be whole
        shutil.rmtree(partial)
    else:
        partial.replace(final)
    for path in final.parent.glob("step-*"):
        if path != final:
            shutil.rmtree(path, ignore_errors=True)


def _tensors(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything of a run that is kept, by name."""
    moments = {
        f"{MOMENTS}{name}|{key}": value
        for name, parameter in _trained(module, optimiser)
        for key, value in optimiser.state[parameter].items()
    }
    return dict(_module_tensors(module)) | moments


def _module_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.state_dict().items():
        yield MODULE + name, value.detach()


def _trained(module: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    return ((name, p) for name, p in module.named_parameters() if id(p) in held)


def _like(parameter: nn.Parameter, entry: TensorStorageMetadata, *, count_beside: bool) -> Tensor:
    """Room for a moment: laid over the ranks as its parameter where it has as many axes, else whole on every rank.

    A count of steps lies on the CPU, or where a fused optimiser counts on the device (`count_beside`) by its parameter.
    """
    dtype = entry.properties.dtype
    if isinstance(parameter, DTensor) and len(entry.size) == parameter.ndim:
        mesh, placements = parameter.device_mesh, parameter.placements
        return empty_dtensor(*entry.size, dtype=dtype, device_mesh=mesh, placements=placements)
    device = parameter.device if len(entry.size) or count_beside else torch.device("cpu")
    return torch.empty(entry.size, dtype=dtype, device=device)


def _check(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Any]) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    shapes = [name for name in wanted if name in found and tuple(found[name].size) != tuple(wanted[name].shape)]
    if missing or extra or shapes:
        parts = [
            f"{len(names)} {what} ({names[0]})"
            for names, what in ((missing, "missing"), (extra, "unexpected"), (shapes, "of another shape"))
            if names
        ]
        raise CheckpointError(
            "The state of training is of another model: " + ", ".join(parts),
            item=str(path),
            enough="a state kept by a run of the same configuration and optimiser",
            todo="go on with the configuration the run began with, or begin anew in an empty folder",
        )


def _damaged(item: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The state of training is damaged: {why}",
        item=str(item),
        enough="the files as they were kept",
        todo="remove this state and go on from an earlier copy, or begin anew",
    )
