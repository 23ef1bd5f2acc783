"""Weights, configuration and data contract, saved and loaded together; no pickle anywhere.

A checkpoint is a folder of two files: `model.safetensors` (encoder tensors, and a head's under "head.") and
`config.json` (configuration, contract, provenance, and the size and sha256 of the weights). Equal contents give equal
bytes.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.errors import CheckpointError, ModelError
from ringmoe.moe import Survivors

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
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

    Raises
    ------
    CheckpointError
        The folder cannot be written.
    """
    path = Path(folder)
    tensors = {name: _plain(tensor) for name, tensor in model.state_dict().items()}
    tensors |= {HEAD + name: _plain(tensor) for name, tensor in (head_state or {}).items()}
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG).unlink(missing_ok=True)
        partial = path / f"{WEIGHTS}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        record = {
            "format": FORMAT,
            "config": asdict(model.config),
            "contract": json.loads(model.contract.to_json()),
            "contract_digest": model.contract.digest(),
            "head": None if head_config is None else dict(head_config),
            "provenance": dict(provenance or {}),
            "weights": {"file": WEIGHTS, "bytes": partial.stat().st_size, "sha256": _sha256(partial)},
        }
        text = json.dumps(record, sort_keys=True, indent=1, allow_nan=False) + "\n"
        partial.replace(path / WEIGHTS)
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
    """Read a checkpoint straight to a device.

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
        Missing, truncated or altered files, tensors missing or unexpected, or another contract.
    """
    path = Path(folder)
    record, digest = _record(path)
    try:
        found = DataContract.from_json(json.dumps(record["contract"]))
        config = _config(record["config"])
        with torch.device("meta"):
            wanted = RingMoE(config, found).state_dict()
    except (ModelError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path / CONFIG, f"its configuration builds no model ({error})") from error
    if contract is not None and contract.digest() != found.digest():
        raise CheckpointError(
            "The checkpoint was trained on another data contract",
            item=f"{path}: {found.digest()[:12]} of {', '.join(found.inputs)}",
            enough=f"a checkpoint of the contract {contract.digest()[:12]} of {', '.join(contract.inputs)}",
            todo="choose the checkpoint that belongs to these cubes, or drop the contract asked for",
        )
    _check_weights(path / WEIGHTS, record["weights"], verify=verify)
    tensors = _read(path / WEIGHTS, device)
    head = {name.removeprefix(HEAD): tensors.pop(name) for name in list(tensors) if name.startswith(HEAD)}
    _check_names(path, wanted, tensors)
    model = RingMoE.from_tensors(config, found, tensors)
    meta = {"contract_digest": record["contract_digest"], **record["provenance"]}
    return Checkpoint(model, found, config, head, record["head"], meta, digest)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(item: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint is damaged: {why}",
        item=str(item),
        enough=f"the files {WEIGHTS} and {CONFIG} as they were saved",
        todo="take it again from where it was published, or train again",
    )


def _record(path: Path) -> tuple[dict[str, Any], str]:
    try:
        raw = (path / CONFIG).read_bytes()
        record = json.loads(raw)
        missing = {"format", "config", "contract", "contract_digest", "head", "provenance", "weights"} - set(record)
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path / CONFIG, f"its configuration cannot be read ({type(error).__name__})") from error
    if missing or record["format"] != FORMAT:
        raise _damaged(path / CONFIG, f"not a configuration of format {FORMAT}, missing {sorted(missing) or 'nothing'}")
    return record, hashlib.sha256(raw).hexdigest()


def _config(row: Mapping[str, Any]) -> RingMoEConfig:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    if fields.get("survivors") is not None:
        fields["survivors"] = tuple(
            Survivors(tuple(map(tuple, block["specialized"])), tuple(block["collaborative"]))
            for block in row["survivors"]
        )
    return RingMoEConfig(**fields)


def _check_weights(path: Path, wanted: Mapping[str, Any], *, verify: bool) -> None:
    size = path.stat().st_size if path.is_file() else -1
    if size != wanted["bytes"]:
        raise _damaged(path, f"{max(size, 0)} bytes instead of {wanted['bytes']}")
    if verify and _sha256(path) != wanted["sha256"]:
        raise _damaged(path, "its sha256 is not the one in the configuration")


def _read(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: _aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _damaged(path, f"not a safetensors file ({error})") from error


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy where it starts at an address that grouped products refuse."""
    return tensor.clone() if tensor.data_ptr() % 64 else tensor


def _check_names(path: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if missing or extra or shapes:
        parts = [f"{len(x)} {what} ({x[0]})" for x, what in ((missing, "missing"), (extra, "unexpected")) if x]
        parts += [f"of another shape: {shapes[0]}"] if shapes else []
        raise CheckpointError(
            "The checkpoint's tensors are not those of its configuration: " + ", ".join(parts),
            item=str(path),
            enough="exactly the tensors that the configuration names",
            todo="load it with the version of the code that saved it",
        )
