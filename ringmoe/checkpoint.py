"""Weights, configuration and data contract, saved and loaded together; no pickle anywhere.

A checkpoint is a folder: `model.safetensors` (encoder tensors, and a head's under "head."), or several such files and
their index where they are large, and `config.json` (configuration, contract, provenance, and the size and sha256 of
the other files). Equal contents give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.errors import CheckpointError, ModelError
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
        record = {
            "format": FORMAT,
            "config": asdict(model.config),
            "contract": json.loads(model.contract.to_json()),
            "contract_digest": model.contract.digest(),
            "head": None if head_config is None else dict(head_config),
            "provenance": dict(provenance or {}),
            "weights": {"dtypes": sorted(dtypes), "files": [asdict(file) for file in files]},
        }
        text = json.dumps(record, sort_keys=True, indent=1, allow_nan=False) + "\n"
        (path / f"{CONFIG}.partial").write_text(text)
        (path / f"{CONFIG}.partial").replace(path / CONFIG)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint cannot be written: {error}",
            item=str(path),
            enough=f"a folder with room for {sum(t.nbytes for t in tensors.values()) / 1e6:.0f} MB",
            todo="free some room or choose another folder",
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()


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
    path = Path(folder)
    record, digest = _record(path)
    try:
        found = DataContract.from_json(json.dumps(record["contract"]))
        config = RingMoEConfig.from_row(record["config"])
        with torch.device("meta"):
            wanted = RingMoE(config, found).state_dict()
        files = [File(**row) for row in record["weights"]["files"]]
        dtypes = {str(name) for name in record["weights"]["dtypes"]}
    except (ModelError, KeyError, TypeError, ValueError) as error:
        raise damaged(path / CONFIG, f"its configuration builds no model ({error})") from error
    if contract is not None and contract.digest() != found.digest():
        raise CheckpointError(
            "The checkpoint was trained on another data contract",
            item=f"{path}: {found.digest()[:12]} of {', '.join(found.inputs)}",
            enough=f"a checkpoint of the contract {contract.digest()[:12]} of {', '.join(contract.inputs)}",
            todo="choose the checkpoint that belongs to these cubes, or drop the contract asked for",
        )
    tensors = read(path, files, device, verify=verify)
    head = {name.removeprefix(HEAD): tensors.pop(name) for name in list(tensors) if name.startswith(HEAD)}
    _check_names(path, wanted, tensors, dtypes)
    model = RingMoE.from_tensors(config, found, tensors)
    meta = {"contract_digest": record["contract_digest"], **record["provenance"]}
    return Checkpoint(model, found, config, head, record["head"], meta, digest)


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


def _check_names(path: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], dtypes: set[str]) -> None:
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    strange = [
        f"{name} {tensor.dtype} instead of {' or '.join(sorted(dtypes))}"
        for name, tensor in tensors.items()
        if name in wanted and not (tensor.is_floating_point() and str(tensor.dtype).removeprefix("torch.") in dtypes)
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
