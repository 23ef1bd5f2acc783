"""Checkpoints: what is saved comes back, byte for byte, and anything else is refused."""

from __future__ import annotations

import json
from dataclasses import replace

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
    ):
        save_file(changed, tmp_path / WEIGHTS, metadata={"format": "pt"})
        record = json.loads((tmp_path / CONFIG).read_text())
        record["weights"]["bytes"] = (tmp_path / WEIGHTS).stat().st_size
        (tmp_path / CONFIG).write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=named):
            load(tmp_path, verify=False)


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
