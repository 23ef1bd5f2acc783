"""Checkpoints: what is saved comes back, byte for byte, and anything else is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.checkpoint import CONFIG, WEIGHTS, load, save
from ringmoe.contract import DataContract
from ringmoe.errors import CheckpointError
from ringmoe.modality import Chips, Modality
from ringmoe.moe import Survivors
from ringmoe.shards import INDEX

CONTRACT = presets.paper_contract()
SHAPE = RingMoEConfig(
    dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2), post_norm_init=1.0
)
PRUNED = replace(SHAPE, survivors=(Survivors(((1,), (0, 2), (3,), ()), (2,)),) * 4)


def made(config: RingMoEConfig = SHAPE) -> RingMoE:
    torch.manual_seed(0)
    return RingMoE(config, CONTRACT).eval()


@pytest.mark.parametrize("config", [SHAPE, PRUNED], ids=["whole", "pruned"])
def test_round_trip_gives_the_same_bits(config, tmp_path):
    """Features, configuration, contract, head and provenance; also of a model whose blocks lost unequal experts."""
    model, head = made(config), {"classify.weight": torch.arange(6.0).view(2, 3)}
    digest = save(
        tmp_path, model, head_state=head, head_config={"kind": "segment", "classes": 2}, provenance={"of": ["a"]}
    )
    found = load(tmp_path, contract=CONTRACT)
    assert (found.config, found.contract, found.digest) == (config, CONTRACT, digest)
    assert torch.equal(found.head_state["classify.weight"], head["classify.weight"])
    assert found.head_config == {"kind": "segment", "classes": 2}
    assert found.meta["of"] == ["a"]
    batch = {Modality.OPT: Chips(torch.randn(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))}
    with torch.no_grad():
        for a, b in zip(model(batch).pyramids[Modality.OPT], found.model(batch).pyramids[Modality.OPT], strict=True):
            assert torch.equal(a, b)
    assert all(p.requires_grad for p in found.model.parameters())


def test_saving_twice_gives_the_same_bytes(tmp_path):
    """No time, no random order, nothing of the place it is written to."""
    digests = [save(tmp_path / name, made(), provenance={"b": 1, "a": 2}) for name in ("one", "two")]
    assert digests[0] == digests[1]
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted([WEIGHTS, CONFIG])


def test_a_truncated_or_altered_file_is_refused(tmp_path):
    """Weights cut short, one bit flipped, configuration cut short or gone."""
    save(tmp_path, made())
    weights, config = (tmp_path / WEIGHTS).read_bytes(), (tmp_path / CONFIG).read_bytes()
    flipped = bytearray(weights)
    flipped[-3] ^= 1
    for name, content in (
        (WEIGHTS, weights[:-100]),
        (WEIGHTS, bytes(flipped)),
        (CONFIG, config[:-40]),
        (CONFIG, b"[]"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged") as caught:
            load(tmp_path)
        assert caught.value.todo
        (tmp_path / WEIGHTS).write_bytes(weights)
        (tmp_path / CONFIG).write_bytes(config)
    load(tmp_path)
    (tmp_path / CONFIG).unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path)


def test_a_tensor_too_many_or_too_few_or_of_another_shape_is_named(tmp_path):
    """Even where sizes and checksums in the configuration agree with the file."""
    save(tmp_path, made())
    tensors = load_file(tmp_path / WEIGHTS)
    without = {k: v for k, v in tensors.items() if k != "norm.bias"}
    for changed, named in (
        (tensors | {"surprise": torch.zeros(1)}, "unexpected .surprise"),
        (without, "missing .norm.bias"),
        (tensors | {"norm.bias": torch.zeros(3)}, "another shape: norm.bias"),
        (tensors | {"norm.bias": tensors["norm.bias"].double()}, "another dtype: norm.bias torch.float64"),
        (tensors | {"norm.bias": tensors["norm.bias"].int()}, "another dtype: norm.bias torch.int32"),
    ):
        save_file(changed, tmp_path / WEIGHTS, metadata={"format": "pt"})
        record = json.loads((tmp_path / CONFIG).read_text())
        record["weights"]["files"][0]["bytes"] = (tmp_path / WEIGHTS).stat().st_size
        (tmp_path / CONFIG).write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=named):
            load(tmp_path, verify=False)


def test_large_weights_go_into_files_that_other_readers_find(tmp_path):
    """Files of at most the size asked for, an index, the same bits back; one file missing or swapped is refused."""
    model = made()
    save(tmp_path, model, shard_bytes=6 << 20)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(files) > 2
    assert all(sum(t.nbytes for t in load_file(f).values()) <= 6 << 20 for f in files)
    assert {name for f in files for name in load_file(f)} == set(index["weight_map"]) == set(model.state_dict())
    assert all(name in load_file(tmp_path / place) for name, place in index["weight_map"].items())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in model.state_dict().values())
    found = load(tmp_path).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    kept = files[1].read_bytes()
    for content in (b"", files[0].read_bytes(), kept[:-4] + bytes(4)):
        files[1].write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            load(tmp_path)
    files[1].unlink()
    with pytest.raises(CheckpointError, match="0 bytes instead of"):
        load(tmp_path)
    save(tmp_path, model)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([WEIGHTS, CONFIG])


def test_a_model_in_bfloat16_comes_back_in_bfloat16(tmp_path):
    """Half the bytes, the same bits."""
    model = made().to(torch.bfloat16)
    save(tmp_path, model)
    found = load(tmp_path).model
    assert {t.dtype for t in found.state_dict().values()} == {torch.bfloat16}
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in found.state_dict().items())


LOADS = """
import pathlib, re, sys
from ringmoe.checkpoint import load

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

load(sys.argv[1])
before = peak()
found = load(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of a process")
def test_loading_holds_no_second_copy_in_memory(tmp_path, root):
    """The peak of a process that loads 160 MB grows by 160 MB, up to a tenth."""
    torch.manual_seed(0)
    large = RingMoE(replace(SHAPE, dim=48, depths=(1, 1, 2, 1)), CONTRACT)
    save(tmp_path / "small", made())
    save(tmp_path / "large", large)
    size = sum(t.nbytes for t in large.state_dict().values())
    command = [sys.executable, "-c", LOADS, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert size > 1e8
    assert 0.8 * size < int(done.stdout) < 1.1 * size, f"{int(done.stdout) / 1e6:.0f} MB for {size / 1e6:.0f} MB"


def test_nothing_in_a_checkpoint_is_pickled(tmp_path, monkeypatch):
    """Saving and loading work where pickle is gone."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("pickle was used")

    for module, names in ((pickle, ("dump", "dumps", "load", "loads")), (torch, ("save", "load"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    save(tmp_path, made(), shard_bytes=6 << 20)
    load(tmp_path)


def test_another_contract_is_refused(tmp_path):
    """One mean changed is another contract."""
    save(tmp_path, made())
    opt = CONTRACT.inputs[Modality.OPT]
    other = DataContract({**CONTRACT.inputs, Modality.OPT: replace(opt, mean=(0.0, 0.0, 0.1))})
    with pytest.raises(CheckpointError, match="another data contract"):
        load(tmp_path, contract=other)


def test_a_folder_that_cannot_be_written_is_an_error_in_four_parts(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        save(tmp_path / "taken", made())
    assert caught.value.enough
