"""Tensors in safetensors files, many where they are large: written one file at a time, read tensor by tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
    groups = groups_of(tensors, shard_bytes)
    found = []
    for name, group in groups.items():
        partial = folder / f"{name}.partial"
        save_file({key: _plain(tensors[key]) for key in group}, partial, metadata={"format": "pt"})
        found.append(File(name, partial.stat().st_size, sha256_of(partial)))
        partial.replace(folder / name)
    return found + write_index(folder, groups, sum(t.nbytes for t in tensors.values()))


def groups_of(tensors: Mapping[str, Tensor], shard_bytes: int) -> dict[str, list[str]]:
    """Which tensors go into which file, by the file's name: in the order of their names, so that blocks stay whole."""
    groups = _groups(tensors, shard_bytes)
    names = [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    return dict(zip(names if len(groups) > 1 else [SINGLE], groups, strict=True))


def write_index(folder: Path, groups: Mapping[str, Sequence[str]], total_bytes: int) -> list[File]:
    """The file that says which tensor is where; one file of tensors needs none."""
    if len(groups) == 1:
        return []
    places = {key: name for name, group in groups.items() for key in group}
    text = json.dumps({"metadata": {"total_size": total_bytes}, "weight_map": places}, sort_keys=True, indent=1) + "\n"
    (folder / INDEX).write_text(text)
    return [File(INDEX, len(text.encode()), hashlib.sha256(text.encode()).hexdigest())]


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


def sha256_of(path: Path) -> str:
    """Checksum of a file in hex."""
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
    check_sizes(folder, files)
    found: dict[str, Tensor] = {}
    for file in files:
        path = folder / file.file
        if path.suffix != ".safetensors":
            if verify and sha256_of(path) != file.sha256:
                raise damaged(path, "its sha256 is not the one in the configuration")
            continue
        for name, tensor in _tensors(path, file.sha256 if verify else None):
            if name in found:
                raise damaged(path, f"{name} is in another file too")
            found[name] = tensor.to(device)
    return found


def check_sizes(folder: Path, files: Sequence[File]) -> None:
    """Refuse files that are missing, cut short or elsewhere."""
    for file in files:
        path = folder / file.file
        if path.name != file.file:
            raise damaged(path, "a file of its configuration lies elsewhere")
        size = path.stat().st_size if path.is_file() else 0
        if size != file.bytes:
            raise damaged(path, f"{size} bytes instead of {file.bytes}")


class Place(NamedTuple):
    """Where a tensor lies."""

    start: int
    """Byte of its file."""
    like: Tensor
    """Its shape and dtype, without memory."""


def places_of(path: Path) -> dict[str, Place]:
    """The tensors of a safetensors file in the order they lie there; none is read.

    Raises
    ------
    CheckpointError
        It is no such file, its header does not fit it, or a tensor has a dtype that no model has.
    """
    try:
        with safe_open(path, framework="pt") as checked:  # refuses headers that do not fit the file
            shapes = {key: checked.get_slice(key) for key in checked.keys()}  # noqa: SIM118
            found = {key: (s.get_shape(), DTYPES.get(s.get_dtype())) for key, s in shapes.items()}
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            rows = json.loads(file.read(size))
        places = {}
        for key in sorted(found, key=lambda k: rows[k]["data_offsets"]):
            shape, dtype = found[key]
            if dtype is None:
                raise damaged(path, f"{key} is of dtype {rows[key]['dtype']}")
            start = 8 + size + rows[key]["data_offsets"][0]
            places[key] = Place(start, torch.empty(shape, dtype=dtype, device="meta"))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise damaged(path, f"not a safetensors file ({error})") from error
    return places


def _tensors(path: Path, sha256: str | None) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the order they lie in a file, each in memory of its own: one pass, which is hashed as well."""
    places = places_of(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
            head += file.read(int.from_bytes(head, "little"))
            digest = hashlib.sha256(head)
            for key, place in places.items():
                tensor = torch.empty_like(place.like, device="cpu")
                if tensor.numel():
                    view = tensor.view(-1).view(torch.uint8).numpy().data
                    file.readinto(view)
                    if sha256 is not None:
                        digest.update(view)
                yield key, tensor
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error})") from error
    if sha256 is not None and digest.hexdigest() != sha256:
        raise damaged(path, "its sha256 is not the one in the configuration")


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes by their names in safetensors files."""


def damaged(item: Path, why: str) -> CheckpointError:
    """The refusal of a file that is not as it was saved."""
    return CheckpointError(
        f"The checkpoint is damaged: {why}",
        item=str(item),
        enough="the weights and the configuration as they were saved",
        todo="take it again from where it was published, or train again",
    )
