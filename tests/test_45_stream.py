"""Pruning by stream: what comes out is what pruning in memory gives, byte for byte, and whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from routed_models import CONTRACT, TWO, made

from catalog.errors import StorageFull
from ringmoe import quantise
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.checkpoint import load, save
from ringmoe.errors import CheckpointError, PruneError
from ringmoe.modality import Chips, Modality
from ringmoe.ondisk import open_on_disk
from ringmoe.prune import integrate, keep_experts, profile, slice_modalities
from ringmoe.stream import Streaming, integrate_streamed, select_streamed
from ringmoe.usage import Usage
from ringmoe.walk import profile_streamed

CONFIG = RingMoEConfig(
    dim=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), window=4, pretrain_windows=(4, 4, 4, 2), post_norm_init=1.0
)
SHARDS = Streaming(shard_bytes=3 << 18)


pytestmark = pytest.mark.usefixtures("one_thread")


def batches(*modalities: Modality) -> list[dict[Modality, Chips]]:
    """Two batches of unequal number and size; one image is half no data."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for count, side in ((2, 64), (1, 96)):
        valid = torch.ones(count, side, side, dtype=torch.bool)
        valid[0, : side // 2] = False
        sizes = {m: (count, len(CONTRACT.inputs[m].bands), side, side) for m in modalities}
        found.append({m: Chips(torch.randn(size, generator=generator), valid) for m, size in sizes.items()})
    return found


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    """A checkpoint in several files, with a head."""
    folder = tmp_path_factory.mktemp("stream") / "parent"
    head = {"head_state": {"weight": torch.arange(6.0)}, "head_config": {"kind": "any"}}
    save(folder, made(CONFIG), shard_bytes=1 << 21, provenance={"of": "a test"}, **head)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture(scope="module")
def sliced(parent, tmp_path_factory) -> tuple[Path, RingMoE, Usage]:
    """The sub-model of two modalities, on disk and in memory, and its profile."""
    folder = tmp_path_factory.mktemp("stream") / "sliced"
    select_streamed(parent, folder, modalities=TWO, how=SHARDS)
    model = slice_modalities(load(parent).model, TWO)
    return folder, model, profile(model, batches(*TWO))


def saved(folder: Path, model: RingMoE, **more) -> str:
    return save(folder, model, shard_bytes=SHARDS.shard_bytes, **more)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_a_slice_by_stream_is_the_slice_in_memory(parent, tmp_path):
    """The same files with the same checksums, from two threads too; a head comes along, the parent is as it was."""
    before, found = contents(parent), load(parent)
    head = {"head_state": found.head_state, "head_config": found.head_config}
    for keep in ((Modality.MS,), TWO):
        wanted = saved(tmp_path / f"{len(keep)}-memory", slice_modalities(found.model, keep), **head)
        for devices in (("cpu",), ("cpu", "cpu")):
            out = tmp_path / f"{len(keep)}-{len(devices)}"
            assert select_streamed(parent, out, modalities=keep, how=replace(SHARDS, devices=devices)) == wanted
            assert contents(out) == contents(tmp_path / f"{len(keep)}-memory")
    assert contents(parent) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("dropped", ["survivor", "mean"])
def test_experts_kept_by_stream_are_those_kept_in_memory(sliced, tmp_path, dropped):
    """Unequal numbers of both kinds, with and without means in the bias, and none of a kind."""
    folder, model, usage = sliced
    for name, asked in (("some", {"specialized": 1, "collaborative": 3}), ("none", {"collaborative": 0})):
        small = keep_experts(model, usage, dropped=dropped, **asked)
        head = {"head_state": load(folder).head_state, "head_config": load(folder).head_config}
        out = tmp_path / name
        wanted = saved(tmp_path / f"{name}-memory", small, **head)
        assert select_streamed(folder, out, survivors=small.config.survivors, usage=usage, how=SHARDS) == wanted
        assert contents(out) == contents(tmp_path / f"{name}-memory")


@pytest.mark.parametrize("method", ["neurons", "kc", "ks", "ka"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_integration_by_stream_is_that_in_memory(sliced, tmp_path, method, dtype):
    """Every method, in the dtype of the parent; several files in, several files out."""
    model = keep_experts(*sliced[1:], collaborative=2).to(dtype)
    usage = profile(model, batches(*TWO))
    saved(tmp_path / "parent", model)
    wanted = save(tmp_path / "memory", integrate(model, usage, method), shard_bytes=1 << 17)
    how = Streaming(shard_bytes=1 << 17, devices=("cpu", "cpu"))
    assert integrate_streamed(tmp_path / "parent", tmp_path / "out", usage, method, how=how) == wanted
    assert contents(tmp_path / "out") == contents(tmp_path / "memory")


def test_several_shared_experts_are_integrated_by_stream_too(tmp_path):
    """A shared network that stands for two, and one block with no routed expert."""
    model = made(replace(CONFIG, shared=2))
    usage = profile(model, batches(Modality.OPT))
    saved(tmp_path / "parent", model)
    wanted = saved(tmp_path / "memory", integrate(model, usage, "neurons"))
    assert integrate_streamed(tmp_path / "parent", tmp_path / "out", usage, how=SHARDS) == wanted


def test_the_profile_of_a_model_block_by_block_is_that_of_the_model(sliced):
    """Every number of it, to rounding, over batches of unequal size; and it is taken for a profile of the model."""
    folder, model, usage = sliced
    found = profile_streamed(folder, batches(*TWO))
    found.check(model)
    assert (found.config, found.weights_digest) == (usage.config, usage.weights_digest)
    torch.testing.assert_close(found.tokens_M, usage.tokens_M, rtol=0, atol=0)
    for mine, theirs in ((found.specialized, usage.specialized), (found.collaborative, usage.collaborative)):
        for a, b in zip(mine, theirs, strict=True):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)
    for a, b in zip((*found.units, *found.layers), (*usage.units, *usage.layers), strict=True):
        for x, y in zip(a, b, strict=True):
            for one, other in zip(x, y, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_weights_on_disk_are_a_model_that_profiles_can_be_held_against(sliced, parent):
    """No tensor is read before it is asked for; the profile of another checkpoint is refused."""
    model = open_on_disk(sliced[0]).model
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    sliced[2].check(model)
    with pytest.raises(PruneError, match="another model"):
        sliced[2].check(open_on_disk(parent).model)


def test_what_cannot_be_pruned_by_stream_is_refused_before_anything_is_written(sliced, parent, tmp_path):
    """Modalities and experts the model has not, means without a profile, another profile, a folder that is taken."""
    folder, model, usage = sliced
    out = tmp_path / "out"
    left = [model.config.survivors_of(i, 2) for i in range(5)]
    too_many = [replace(left[0], collaborative=(0, 7)), *left[1:]]
    silent = [replace(each, collaborative=(0, 1, 2), silent_collaborative=(3,)) for each in left]
    for match, asked in (
        ("no sub-model of opt", {"modalities": [Modality.OPT]}),
        ("no sub-model of no modality", {"modalities": []}),
        ("those of another model", {"survivors": left[:3]}),
        ("Block 0 cannot keep experts", {"survivors": too_many}),
        ("without their means", {"survivors": silent}),
    ):
        with pytest.raises(PruneError, match=match) as caught:
            select_streamed(folder, out, **asked)
        assert caught.value.todo
    with pytest.raises(PruneError, match="another model"):
        integrate_streamed(parent, out, usage)
    with pytest.raises(PruneError, match="no method"):
        integrate_streamed(folder, out, usage, "magic")  # type: ignore[arg-type]
    save(tmp_path / "int8", quantise.int8(model))
    with pytest.raises(PruneError, match="Quantised weights"):
        select_streamed(tmp_path / "int8", out)
    for taken in (folder, tmp_path / "int8"):
        with pytest.raises(PruneError, match="no folder of its own"):
            select_streamed(folder, taken)
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


def test_a_profile_without_a_measured_pixel_is_refused(sliced):
    """No batch at all, or one of no data."""
    batch = batches(Modality.MS)[0]
    batch[Modality.MS].valid_BHW[:] = False
    for nothing in ([], [batch]):
        with pytest.raises(PruneError, match="no measured pixel"):
            profile_streamed(sliced[0], nothing)


def test_a_damaged_parent_is_refused(sliced, tmp_path):
    """One bit in one of several files, or its end missing; unless told not to, checksums are looked at."""
    folder = tmp_path / "parent"
    saved(folder, sliced[1])
    path = sorted(folder.glob("model-*.safetensors"))[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    with pytest.raises(CheckpointError, match="sha256"):
        select_streamed(folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match="sha256"):
        profile_streamed(folder, batches(Modality.MS))
    select_streamed(folder, tmp_path / "unseen", how=Streaming(verify=False))
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="bytes instead of"):
        select_streamed(folder, tmp_path / "out", how=Streaming(verify=False))
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_is_refused_before_work_starts(sliced, tmp_path, monkeypatch):
    """No tensor is read and no file written."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("ringmoe.stored.shutil.disk_usage", lambda path: usage(10**9, 0, 10**6))
    monkeypatch.setattr("ringmoe.stored.Stored.__getitem__", lambda *args: pytest.fail("a tensor was read"))
    monkeypatch.setattr("ringmoe.stored.sha256_of", lambda path: pytest.fail("a file was read"))
    with pytest.raises(StorageFull, match="no room for the result") as caught:
        select_streamed(sliced[0], tmp_path / "out", modalities=[Modality.MS])
    assert caught.value.todo
    assert not list(tmp_path.iterdir())


def test_a_failure_midway_leaves_nothing_behind(sliced, tmp_path, monkeypatch):
    """A disk that fills while blocks are written; and the next run is whole, over what a killed one left."""
    from ringmoe import rebuild

    real, count = rebuild.Writer.put, iter(range(1000))

    def failing(self, name, tensor):
        if next(count) == 40:
            raise OSError(28, "No space left on device")
        real(self, name, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(rebuild.Writer, "put", failing)
        with pytest.raises(CheckpointError, match="No space left") as caught:
            select_streamed(sliced[0], tmp_path / "out", how=Streaming(devices=("cpu", "cpu")))
    assert "parent is as it was" in caught.value.todo
    assert not list(tmp_path.iterdir())
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_text("half")
    select_streamed(sliced[0], tmp_path / "out")
    assert load(tmp_path / "out").config == sliced[1].config
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


PEAK = r"""
import pathlib, re, sys
import torch
from ringmoe.modality import Chips, Modality
from ringmoe.stream import integrate_streamed, select_streamed
from ringmoe.walk import profile_streamed

torch.set_num_threads(1)

def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

def work(folder):
    chips = Chips(torch.zeros(1, 4, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool))
    select_streamed(folder, folder.with_name(folder.name + "-1"), modalities=[Modality.MS])
    usage = profile_streamed(folder.with_name(folder.name + "-1"), [{Modality.MS: chips}])
    integrate_streamed(folder.with_name(folder.name + "-1"), folder.with_name(folder.name + "-2"), usage)

work(pathlib.Path(sys.argv[1]))
before = peak()
work(pathlib.Path(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of a process")
def test_pruning_takes_the_memory_of_the_largest_block(tmp_path, root):
    """Slice, profile and integration of 120 MB in a process whose peak grows by at most 1.5 blocks of 45 MB."""
    large = made(replace(CONFIG, dim=32, depths=(2, 2, 2, 2)))
    save(tmp_path / "small", made(CONFIG))
    save(tmp_path / "large", large, shard_bytes=30 << 20)
    size = sum(t.nbytes for t in large.state_dict().values())
    block = sum(t.nbytes for t in large.blocks()[-1].state_dict().values())
    del large
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    back = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # tensors that are let go go back, as those of the giant's size do
    done = subprocess.run(command, cwd=root, env=os.environ | back, capture_output=True, text=True, check=True)
    assert size > 2.5 * block
    assert int(done.stdout) < 1.5 * block, f"{int(done.stdout) / 1e6:.0f} MB for a block of {block / 1e6:.0f} MB"
