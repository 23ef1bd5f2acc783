"""Tensors in safetensors files, many where they are large: written one file at a time, read tensor by tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ringmoe.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

SHARD_BYTES = 4 << 30
"""Tensors of more bytes than this together go into several files of at most so many (or of one larger tensor)."""


@dataclass(frozen=True)
class File:
    """A file that was written."""

    file: str
    """Its name in the folder."""
    bytes: int
    """Its size."""
    sha256: str
    """Its checksum in hex."""


def write(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> list[File]:
    """Write tensors, from any device, holding no more than one file's worth of them in host memory at a time.

    Beside several files lies the index that other readers of safetensors look for.

    Raises
    ------
    OSError, SafetensorError
        The folder cannot be written.
    """
    for old in [*folder.glob("model*.safetensors"), *folder.glob("model*.safetensors.partial"), folder / INDEX]:
        old.unlink(missing_ok=True)
    groups = _groups(tensors, shard_bytes)
    names = [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    names = names if len(groups) > 1 else [SINGLE]
    found = []
    for name, group in zip(names, groups, strict=True):
        partial = folder / f"{name}.partial"
        save_file({key: _plain(tensors[key]) for key in group}, partial, metadata={"format": "pt"})
        found.append(File(name, partial.stat().st_size, _sha256(partial)))
        partial.replace(folder / name)
    if len(groups) > 1:
        places = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        total = sum(t.nbytes for t in tensors.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, sort_keys=True, indent=1) + "\n"
        (folder / INDEX).write_text(text)
        found.append(File(INDEX, len(text.encode()), hashlib.sha256(text.encode()).hexdigest()))
    return found


def _groups(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    room = shard_bytes
    for name in sorted(tensors):
        size = tensors[name].nbytes
        if size > room and groups[-1]:
            groups.append([])
            room = shard_bytes
        groups[-1].append(name)
        room -= size
    return groups


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path, files: Sequence[File], device: torch.device | str, *, verify: bool = True) -> dict[str, Tensor]:
    """Tensors of all files on a device; the host never holds a second copy of more than one tensor.

    Parameters
    ----------
    verify
        Compare checksums too, while reading; sizes always are.

    Raises
    ------
    CheckpointError
        A file is missing, truncated, altered, or names a tensor that another one has.
    """
    for file in files:
        path = folder / file.file
        if path.name != file.file:
            raise damaged(path, "a file of its configuration lies elsewhere")
        size = path.stat().st_size if path.is_file() else 0
        if size != file.bytes:
            raise damaged(path, f"{size} bytes instead of {file.bytes}")
    found: dict[str, Tensor] = {}
    for file in files:
        path = folder / file.file
        if path.suffix != ".safetensors":
            if verify and _sha256(path) != file.sha256:
                raise damaged(path, "its sha256 is not the one in the configuration")
            continue
        for name, tensor in _tensors(path, file.sha256 if verify else None):
            if name in found:
                raise damaged(path, f"{name} is in another file too")
            found[name] = tensor.to(device)
    return found


def _tensors(path: Path, sha256: str | None) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the order they lie in a file, each in memory of its own: one pass, which is hashed as well."""
    try:
        with safe_open(path, framework="pt") as checked:  # refuses headers that do not fit the file
            shapes = {key: checked.get_slice(key) for key in checked.keys()}  # noqa: SIM118
            empty = {key: (s.get_shape(), _DTYPES.get(s.get_dtype())) for key, s in shapes.items()}
        with path.open("rb") as file:
            head = file.read(8)
            head += file.read(int.from_bytes(head, "little"))
            digest = hashlib.sha256(head)
            rows = json.loads(head[8:])
            for key in sorted(empty, key=lambda k: rows[k]["data_offsets"]):
                shape, dtype = empty[key]
                if dtype is None:
                    raise damaged(path, f"{key} is of dtype {rows[key]['dtype']}")
                tensor = torch.empty(shape, dtype=dtype)
                if tensor.numel():
                    view = tensor.view(-1).view(torch.uint8).numpy().data
                    file.readinto(view)
                    if sha256 is not None:
                        digest.update(view)
                yield key, tensor
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise damaged(path, f"not a safetensors file ({error})") from error
    if sha256 is not None and digest.hexdigest() != sha256:
        raise damaged(path, "its sha256 is not the one in the configuration")


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def damaged(item: Path, why: str) -> CheckpointError:
    """The refusal of a file that is not as it was saved."""
    return CheckpointError(
        f"The checkpoint is damaged: {why}",
        item=str(item),
        enough="the weights and the configuration as they were saved",
        todo="take it again from where it was published, or train again",
    )
