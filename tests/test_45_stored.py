"""Tensors by offset: what is read are the bytes that were saved, what is written the bytes that saving writes."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from catalog.errors import StorageFull
from ringmoe.errors import CheckpointError
from ringmoe.shards import INDEX, write
from ringmoe.stored import Part, Stored, Writer, check_room, header

TENSORS = {
    "b.weight": torch.arange(12.0).view(3, 4),
    "a.weight": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "a.whole": torch.arange(-5, 5, dtype=torch.int8),
    "a.number": torch.tensor(2.5),
    "a.none": torch.zeros(0, 3),
    "ö.weight": torch.arange(5, dtype=torch.float64),
    "b.flag": torch.tensor([True, False, True]),
    "b.half": torch.arange(3, dtype=torch.float16),
    "b.count": torch.arange(4),
    "b.short": torch.arange(4, dtype=torch.int32),
    "b.byte": torch.arange(7, dtype=torch.uint8),
}
"""Every dtype that a checkpoint may hold, a number, nothing, and a name that is not ASCII."""


def like(tensors):
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def test_a_file_laid_out_beforehand_is_the_file_that_safetensors_writes(tmp_path):
    """Byte for byte, dtypes mixed, tensors put in any order."""
    save_file(TENSORS, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    writer = Writer(tmp_path, like(TENSORS))
    for name in reversed(TENSORS):
        writer.put(name, TENSORS[name])
    (file,) = writer.finish()
    assert (tmp_path / file.file).read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    head, starts = header(like(TENSORS))
    assert len(head) == min(starts.values())
    assert len(head) % 8 == 0


def test_several_files_are_those_that_saving_at_once_writes(tmp_path):
    """The same split, the same index, the same checksums; a tensor larger than a file has one of its own."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    wanted = write(tmp_path / "whole", TENSORS, 30)
    writer = Writer(tmp_path / "parts", like(TENSORS), 30)
    for name, tensor in TENSORS.items():
        writer.put(name, tensor.t() if tensor.ndim == 0 else tensor)
    assert writer.finish() == wanted
    assert len(wanted) > 3
    for file in wanted:
        assert (tmp_path / "parts" / file.file).read_bytes() == (tmp_path / "whole" / file.file).read_bytes()


def test_strided_tensors_are_written_as_they_read(tmp_path):
    """A transposed matrix lies in the file row by row."""
    turned = torch.arange(12.0).view(3, 4).t()
    writer = Writer(tmp_path, {"x": turned.to("meta")})
    writer.put("x", turned)
    (file,) = writer.finish()
    assert torch.equal(load_file(tmp_path / file.file)["x"], turned)


def test_each_tensor_is_read_from_its_own_bytes_alone(tmp_path, monkeypatch):
    """One tensor a read, in memory of its own; names, shapes and dtypes without any."""
    files = write(tmp_path, TENSORS, 30)
    stored = Stored(tmp_path, files)
    asked = []
    real = __import__("os").preadv

    def watched(descriptor, views, offset):
        asked.append(sum(len(view) for view in views))
        return real(descriptor, views, offset)

    monkeypatch.setattr("ringmoe.stored.os.preadv", watched)
    assert stored.keys() == TENSORS.keys()
    assert {n: (t.shape, t.dtype) for n, t in stored.like.items()} == {
        n: (t.shape, t.dtype) for n, t in TENSORS.items()
    }
    assert asked == []
    for name, tensor in TENSORS.items():
        asked.clear()
        found = stored[name]
        assert torch.equal(found, tensor)
        assert sum(asked) == tensor.nbytes == found.untyped_storage().nbytes()
    part = Part(stored, "b.")
    assert sorted(part) == sorted(n.removeprefix("b.") for n in TENSORS if n.startswith("b."))
    assert torch.equal(part["count"], TENSORS["b.count"])
    assert "weight" in part
    assert "whole" not in part
    with pytest.raises(KeyError):
        part["whole"]


def test_a_read_that_comes_in_pieces_is_put_together(tmp_path, monkeypatch):
    """Linux gives 2 GiB at most in one call; here three bytes."""
    files = write(tmp_path, TENSORS)
    real = __import__("os").preadv
    monkeypatch.setattr("ringmoe.stored.os.preadv", lambda fd, views, at: real(fd, [views[0][:3]], at))
    stored = Stored(tmp_path, files)
    assert all(torch.equal(stored[name], tensor) for name, tensor in TENSORS.items())


def test_damage_is_refused(tmp_path):
    """Cut short, gone, altered, a tensor twice, an end that vanished after the headers were read."""
    files = write(tmp_path, TENSORS, 30)
    path = tmp_path / files[0].file
    whole = path.read_bytes()
    stored = Stored(tmp_path, files)
    stored.verify()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="sha256"):
        Stored(tmp_path, files).verify()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"{len(whole) - 1} bytes instead of {len(whole)}"):
        Stored(tmp_path, files)
    last = max((n for n in stored if stored._places[n][0] == path), key=lambda n: stored._places[n][1].start)
    with pytest.raises(CheckpointError, match="it ends within"):
        stored[last]
    path.unlink()
    with pytest.raises(CheckpointError, match="0 bytes instead of"):
        Stored(tmp_path, files)
    path.write_bytes(whole)
    twice = tmp_path / "model-00009-of-00009.safetensors"
    shutil.copy(path, twice)
    with pytest.raises(CheckpointError, match="in another file too"):
        Stored(tmp_path, [*files, type(files[0])(twice.name, len(whole), files[0].sha256)])
    (tmp_path / INDEX).unlink()
    with pytest.raises(CheckpointError, match="0 bytes"):
        Stored(tmp_path, files)


def test_a_tensor_that_does_not_fit_or_never_came_is_an_error(tmp_path):
    """Programming errors: another shape, another dtype, one left out, one put twice."""
    writer = Writer(tmp_path, like({"x": torch.zeros(3), "y": torch.zeros(2)}))
    with pytest.raises(AssertionError, match="never written: x, y"):
        writer.finish()
    with pytest.raises(AssertionError, match=r"x: \(2,\) instead of \(3,\)"):
        writer.put("x", torch.zeros(2))


def test_a_disk_too_small_is_told_beforehand(tmp_path, monkeypatch):
    """Needed and free gigabytes; a folder that is not there yet is asked through its parent."""
    usage = namedtuple("usage", "total used free")
    asked = []

    def small(path):
        asked.append(path)
        return usage(10**12, 0, 10**9)

    monkeypatch.setattr("ringmoe.stored.shutil.disk_usage", small)
    check_room(tmp_path / "not" / "there", {"x": torch.empty(10**8, device="meta")})
    with pytest.raises(StorageFull, match=r"1\.00 GB are free") as caught:
        check_room(tmp_path / "not" / "there", {"x": torch.empty(25 * 10**7, device="meta")})
    assert caught.value.enough == "1.00 GB"
    assert asked == [tmp_path, tmp_path]
