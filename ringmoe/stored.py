"""Tensors of a checkpoint that is larger than memory: each read from its own bytes, each written to its own place.

Nothing is mapped, because mapped pages count as memory of the process that touched them.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from catalog.errors import StorageFull
from ringmoe.shards import DTYPES, SHARD_BYTES, File, Place, check_sizes, damaged, groups_of, places_of, sha256_of
from ringmoe.shards import write_index as index_of

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I8", "U8", "BOOL")
"""Dtypes as safetensors orders them within a file."""

CONFIG_BYTES = 1 << 20
"""Room taken for the configuration and the index of a checkpoint."""


class Stored(Mapping[str, Tensor]):
    """The tensors of a checkpoint's files by name, read anew whenever one is asked for, into memory of their own.

    Parameters
    ----------
    folder, files
        As the checkpoint's configuration names them; sizes and headers are checked here, checksums by `verify`.
    device
        Where tensors go.

    Raises
    ------
    CheckpointError
        A file is missing, truncated, or names a tensor that another one has.
    """

    def __init__(self, folder: Path, files: Sequence[File], device: torch.device | str = "cpu") -> None:
        check_sizes(folder, files)
        self.folder, self.files, self.device = folder, tuple(files), device
        self._places: dict[str, tuple[Path, Place]] = {}
        for path in (folder / file.file for file in files if file.file.endswith(".safetensors")):
            for name, place in places_of(path).items():
                if name in self._places:
                    raise damaged(path, f"{name} is in another file too")
                self._places[name] = path, place

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Tensor:
        path, place = self._places[name]
        tensor = torch.empty_like(place.like, device="cpu")
        if tensor.numel():
            _read_into(path, place.start, tensor.view(-1).view(torch.uint8).numpy().data, name)
        return tensor.to(self.device)

    @property
    def like(self) -> dict[str, Tensor]:
        """Every tensor's shape and dtype, without memory."""
        return {name: place.like for name, (_, place) in self._places.items()}

    def on(self, device: torch.device | str) -> Stored:
        """The same tensors, read to another device."""
        other = copy.copy(self)
        other.device = device
        return other

    def only(self, names: Iterable[str]) -> Stored:
        """Some of the tensors; `verify` still takes whole files."""
        other = copy.copy(self)
        other._places = {name: self._places[name] for name in names}
        return other

    def verify(self) -> None:
        """Hold all files against their checksums, in one pass over them; CheckpointError where one differs."""
        for file in self.files:
            if sha256_of(self.folder / file.file) != file.sha256:
                raise damaged(self.folder / file.file, "its sha256 is not the one in the configuration")


class Part(Mapping[str, Tensor]):
    """The tensors below a prefix, by their names without it.

    Parameters
    ----------
    whole
        Where they are looked up, when they are asked for and no sooner.
    prefix
        As in "stages.3.1.".
    """

    def __init__(self, whole: Mapping[str, Tensor], prefix: str) -> None:
        self._whole, self._prefix = whole, prefix
        self._names = [name.removeprefix(prefix) for name in whole if name.startswith(prefix)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        return self._whole[self._prefix + name]


def _read_into(path: Path, start: int, view: memoryview, name: str) -> None:
    """Bytes of a file from an offset on; one system call gives 2 GiB at most."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while view:
                count = os.preadv(descriptor, [view], start)
                if not count:
                    raise damaged(path, f"it ends within {name}")
                view, start = view[count:], start + count
        finally:
            os.close(descriptor)
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error})") from error


class Writer:
    """Safetensors files laid out before any tensor is known; byte for byte what `ringmoe.shards.write` makes of them.

    Parameters
    ----------
    folder
        There, and without weights.
    like
        Shape and dtype of every tensor that will come.
    shard_bytes
        Tensors of more bytes than this together go into several files.
    """

    def __init__(self, folder: Path, like: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.like = folder, dict(like)
        self._groups = groups_of(self.like, shard_bytes)
        self._open: dict[str, tuple[Path, int]] = {}
        for file, group in self._groups.items():
            head, starts = header({name: self.like[name] for name in group})
            (folder / file).write_bytes(head)
            self._open |= {name: (folder / file, start) for name, start in starts.items()}

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, from any device and any thread, once; its memory may be let go then."""
        path, start = self._open.pop(name)
        like = self.like[name]
        assert tensor.shape == like.shape, f"{name}: {tuple(tensor.shape)} instead of {tuple(like.shape)}"
        assert tensor.dtype == like.dtype, f"{name}: {tensor.dtype} instead of {like.dtype}"
        if not tensor.numel():
            return
        plain = tensor.detach().to("cpu").contiguous()
        view = plain.view(-1).view(torch.uint8).numpy().data
        descriptor = os.open(path, os.O_WRONLY)
        try:
            while view:
                count = os.pwrite(descriptor, view, start)
                view, start = view[count:], start + count
        finally:
            os.close(descriptor)

    def finish(self) -> list[File]:
        """The files, once every tensor has come."""
        assert not self._open, f"never written: {', '.join(sorted(self._open))}"
        paths = [self.folder / name for name in self._groups]
        found = [File(path.name, path.stat().st_size, sha256_of(path)) for path in paths]
        return found + index_of(self.folder, self._groups, sum(like.nbytes for like in self.like.values()))


def header(like: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a safetensors file of tensors like these, and at which byte of the file each begins.

    The format: its length in 8 bytes, JSON padded with spaces to whole 8 bytes, then the tensors one after the other.
    """
    order = sorted(like, key=lambda name: (_ORDER.index(_NAMES[like[name].dtype]), name))
    rows: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ends, end = {}, 0
    for name in order:
        start, end = end, end + like[name].nbytes
        ends[name] = start
        rows[name] = {"dtype": _NAMES[like[name].dtype], "shape": list(like[name].shape), "data_offsets": [start, end]}
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, {name: 8 + len(text) + start for name, start in ends.items()}


def check_room(folder: Path, like: Mapping[str, Tensor]) -> None:
    """StorageFull where the disk of a folder has no room for tensors like these; before any of them is made."""
    wanted = sum(tensor.nbytes for tensor in like.values()) + 256 * len(like) + CONFIG_BYTES
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < wanted:
        raise StorageFull(
            f"The disk has no room for the result: {free / 1e9:.2f} GB are free",
            item=str(folder),
            enough=f"{wanted / 1e9:.2f} GB",
            todo="free some room or choose another folder; nothing was written",
        )
