"""Weights, configuration and data contract, saved and loaded together; no pickle anywhere.

A checkpoint is a folder: `model.safetensors` (encoder tensors, and a head's under "head."), or several such files and
their index where they are large, and `config.json` (configuration, contract, provenance, and the size and sha256 of
the other files). Equal contents give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.errors import CheckpointError, ModelError
from ringmoe.quantise import held
from ringmoe.shards import SHARD_BYTES, SINGLE, File, damaged, read, write

WEIGHTS = SINGLE
CONFIG = "config.json"
FORMAT = 2
HEAD = "head."


@dataclass(frozen=True)
class Checkpoint:
    """What a folder held."""

    model: RingMoE
    """The encoder, in evaluation mode."""
    contract: DataContract
    """What pixels it takes."""
    config: RingMoEConfig
    """Its shape."""
    head_state: Mapping[str, Tensor]
    """Tensors of a task's head by their names in it; empty for a bare encoder."""
    head_config: Mapping[str, Any] | None
    """What builds that head; None for a bare encoder."""
    meta: Mapping[str, Any]
    """Provenance: whatever JSON was given to `save`."""
    digest: str
    """sha256 in hex of the configuration file, which names the sha256 of the weights."""


def save(
    folder: str | os.PathLike[str],
    model: RingMoE,
    *,
    head_state: Mapping[str, Tensor] | None = None,
    head_config: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Write a checkpoint and return its digest; the configuration, written last, makes it whole.

    Parameters
    ----------
    folder
        Made when missing; a checkpoint already there is replaced.
    head_state, head_config
        A task head's tensors, and the JSON that builds it.
    provenance
        JSON without anything that changes from run to run, where equal runs are to give equal bytes.
    shard_bytes
        Weights of more bytes than this go into several files.

    Raises
    ------
    CheckpointError
        The folder cannot be written.
    """
    path = Path(folder)
    tensors = dict(model.state_dict())
    dtypes = {str(t.dtype).removeprefix("torch.") for t in tensors.values()}
    tensors |= {HEAD + name: tensor for name, tensor in (head_state or {}).items()}
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG).unlink(missing_ok=True)
        files = write(path, tensors, shard_bytes)
        return conclude(
            path, Description(model.config, model.contract, tuple(files), dtypes, head_config, provenance or {})
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint cannot be written: {error}",
            item=str(path),
            enough=f"a folder with room for {sum(t.nbytes for t in tensors.values()) / 1e6:.0f} MB",
            todo="free some room or choose another folder",
        ) from error


@dataclass(frozen=True)
class Description:
    """What the configuration of a checkpoint says."""

    config: RingMoEConfig
    """Shape of its encoder."""
    contract: DataContract
    """What pixels it takes."""
    files: tuple[File, ...]
    """Where its tensors are."""
    dtypes: Set[str]
    """Of the encoder's tensors."""
    head_config: Mapping[str, Any] | None = None
    """What builds its head."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """As given to `save`."""
    digest: str = ""
    """sha256 in hex of the configuration file; empty before that is written."""


def conclude(folder: Path, told: Description) -> str:
    """Write the configuration beside weights already there, which makes a checkpoint of them; returns its digest."""
    record = {
        "format": FORMAT,
        "config": asdict(told.config),
        "contract": json.loads(told.contract.to_json()),
        "contract_digest": told.contract.digest(),
        "head": None if told.head_config is None else dict(told.head_config),
        "provenance": dict(told.provenance),
        "weights": {"dtypes": sorted(told.dtypes), "files": [asdict(file) for file in told.files]},
    }
    text = json.dumps(record, sort_keys=True, indent=1, allow_nan=False) + "\n"
    (folder / f"{CONFIG}.partial").write_text(text)
    (folder / f"{CONFIG}.partial").replace(folder / CONFIG)
    return hashlib.sha256(text.encode()).hexdigest()


def describe(folder: str | os.PathLike[str]) -> Description:
    """Read a checkpoint's configuration and none of its weights.

    Raises
    ------
    CheckpointError
        It is missing or damaged.
    """
    path = Path(folder)
    record, digest = _record(path)
    try:
        found = DataContract.from_json(json.dumps(record["contract"]))
        files = tuple(File(**row) for row in record["weights"]["files"])
        dtypes = {str(name) for name in record["weights"]["dtypes"]}
        config = RingMoEConfig.from_row(record["config"])
        return Description(config, found, files, dtypes, record["head"], {**record["provenance"]}, digest)
    except (ModelError, KeyError, TypeError, ValueError) as error:
        raise _builds_nothing(path, error) from error


def _builds_nothing(path: Path, error: Exception) -> CheckpointError:
    return damaged(path / CONFIG, f"its configuration builds no model ({error})")


def load(
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    contract: DataContract | None = None,
    verify: bool = True,
) -> Checkpoint:
    """Read a checkpoint straight to a device; the host holds no second copy of more than one tensor.

    Parameters
    ----------
    folder
        What `save` wrote.
    device
        Where the weights go.
    contract
        The contract the checkpoint must be of; None takes any.
    verify
        Compare the weights' sha256 with the one in the configuration, too; their size always is.

    Raises
    ------
    CheckpointError
        Missing, truncated or altered files, tensors missing, unexpected or of another dtype, or another contract.
    """
    path, told = Path(folder), describe(folder)
    model, found = outline(path, told), told.contract
    if contract is not None and contract.digest() != found.digest():
        raise CheckpointError(
            "The checkpoint was trained on another data contract",
            item=f"{path}: {found.digest()[:12]} of {', '.join(found.inputs)}",
            enough=f"a checkpoint of the contract {contract.digest()[:12]} of {', '.join(contract.inputs)}",
            todo="choose the checkpoint that belongs to these cubes, or drop the contract asked for",
        )
    tensors = read(path, told.files, device, verify=verify)
    head = {name.removeprefix(HEAD): tensors.pop(name) for name in list(tensors) if name.startswith(HEAD)}
    check_names(path, model.state_dict(), tensors, told.dtypes)
    model.filled(tensors)
    meta = {"contract_digest": found.digest(), **told.provenance}
    return Checkpoint(model, found, told.config, head, told.head_config, meta, told.digest)


def outline(path: Path, told: Description) -> RingMoE:
    """The model that a configuration describes, without memory; CheckpointError where it describes none."""
    try:
        with torch.device("meta"):
            return held(RingMoE(told.config, told.contract), told.dtypes)
    except (ModelError, TypeError, ValueError) as error:
        raise _builds_nothing(path, error) from error


def _record(path: Path) -> tuple[dict[str, Any], str]:
    try:
        raw = (path / CONFIG).read_bytes()
        record = json.loads(raw)
        missing = {"format", "config", "contract", "contract_digest", "head", "provenance", "weights"} - set(record)
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path / CONFIG, f"its configuration cannot be read ({type(error).__name__})") from error
    if missing or record["format"] != FORMAT:
        raise damaged(path / CONFIG, f"not a configuration of format {FORMAT}, missing {sorted(missing) or 'nothing'}")
    return record, hashlib.sha256(raw).hexdigest()


def _is_of(dtype: torch.dtype, wanted: torch.dtype, dtypes: Set[str]) -> bool:
    """Whether a tensor is an integer just where the model has integers, and of a dtype the configuration names."""
    fits = dtype.is_floating_point if wanted.is_floating_point else dtype == wanted
    return fits and str(dtype).removeprefix("torch.") in dtypes


def check_names(path: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], dtypes: Set[str]) -> None:
    """Refuse an encoder's tensors that are too many, too few or of another shape or dtype than its configuration's."""
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    strange = [
        f"{name} {tensor.dtype} instead of {' or '.join(sorted(dtypes))}"
        for name, tensor in tensors.items()
        if name in wanted and not _is_of(tensor.dtype, wanted[name].dtype, dtypes)
    ]
    if missing or extra or shapes or strange:
        parts = [f"{len(x)} {what} ({x[0]})" for x, what in ((missing, "missing"), (extra, "unexpected")) if x]
        parts += [f"of another {what}: {x[0]}" for x, what in ((shapes, "shape"), (strange, "dtype")) if x]
        raise CheckpointError(
            "The checkpoint's tensors are not those of its configuration: " + ", ".join(parts),
            item=str(path),
            enough="exactly the tensors that the configuration names",
            todo="load it with the version of the code that saved it",
        )
