"""Graphs that run without this code: what they give is what the model gives, for any number of images."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ringmoe import export, presets, quantise
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.bake import bake
from ringmoe.contract import InputContract
from ringmoe.errors import ExportError
from ringmoe.modality import BandSpec, Chips, Modality

CONFIG = RingMoEConfig(
    dim=8,
    depths=(2, 1, 1, 1),
    heads=(1, 1, 2, 2),
    window=5,
    pretrain_windows=(5, 5, 4, 2),
    specialized=0,
    collaborative=0,
    post_norm_init=1.0,
    embedding="spectral",
)
"""Shifted and padded windows at 64 px: every kind of mask."""

SENSOR = InputContract(
    modality=Modality.SAR_L2,
    sensor="a radar never seen",
    bands=(BandSpec("VV", frequency_ghz=9.6, polarisation="VV"), BandSpec("VH", frequency_ghz=9.6, polarisation="VH")),
    quantity="any",
    units="1",
    transform="log",
    mean=(-2.0, -3.5),
    std=(1.5, 0.7),
    gsd_m=(2.0, 8.0),
)
"""Of logarithmic normalisation, and other statistics than the contract's."""

PIXELS = 64
CLOSE = 1e-4
"""Largest difference of a feature; features are of the order of 1."""


def made(**changes) -> RingMoE:
    torch.manual_seed(0)
    model = RingMoE(replace(CONFIG, **changes), presets.paper_contract().only([Modality.SAR_L2])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(count: int) -> tuple[Tensor, Tensor]:
    """Power, as the contract has it, with a hole, a pixel that is not a number where it counts, and one below 0."""
    generator = torch.Generator().manual_seed(count)
    pixels_BCHW = torch.rand(count, 2, PIXELS, PIXELS, generator=generator)
    valid_BHW = torch.ones(count, PIXELS, PIXELS, dtype=torch.bool)
    valid_BHW[0, 10:30, :20] = False
    pixels_BCHW[0, :, 40:50, 40:50] = torch.nan
    pixels_BCHW[-1, 0, 5, 5] = -0.2
    return pixels_BCHW, valid_BHW


def wanted(model: RingMoE, pixels_BCHW: Tensor, valid_BHW: Tensor) -> tuple[Tensor, ...]:
    """Features of the model that is exported, by its own code: spectral, told bands, statistics and pixel size."""
    contract = replace(model.contract, inputs={Modality.SAR_L2: SENSOR})
    same = RingMoE.from_tensors(model.config, contract, dict(model.state_dict()))
    gsd_B = torch.full((len(pixels_BCHW),), SENSOR.middle_m)
    with torch.no_grad():
        return same({Modality.SAR_L2: Chips(pixels_BCHW, valid_BHW, gsd_B=gsd_B)}).pyramids[Modality.SAR_L2]


def difference(found: tuple[Tensor, ...], model: RingMoE, count: int) -> float:
    pairs = zip(found, wanted(model, *images(count)), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.slow
def test_onnx_gives_the_features_of_the_model_for_any_number_of_images(tmp_path):
    """A spectral model baked for a sensor; one image and five, in onnxruntime; the graph says what it takes."""
    import onnx

    model, path = made(), tmp_path / "model.onnx"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export.save_onnx(model, path, pixels=PIXELS, sensor=SENSOR)
    for count in (1, 5):
        assert difference(export.run_onnx(path, *images(count)), model, count) < CLOSE
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    told = json.loads({row.key: row.value for row in graph.metadata_props}[export.METADATA])
    assert told["input"]["mean"] == list(SENSOR.mean)
    assert (told["gsd_m"], told["pixels"], told["input"]["transform"]) == (4.0, PIXELS, "log")
    assert [output.name for output in graph.graph.output] == list(told["outputs"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_the_program_gives_the_features_of_the_model_and_is_written_and_read(tmp_path):
    """torch.export of the same model, read back; a model of fixed embedding gives the same bits."""
    model, path = made(), tmp_path / "model.pt2"
    export.save_program(model, path, pixels=PIXELS, sensor=SENSOR)
    told = {export.METADATA: ""}
    program = torch.export.load(path, extra_files=told).module()
    for count in (1, 5):
        assert difference(program(*images(count)), model, count) < CLOSE
    assert json.loads(told[export.METADATA])["input"]["sensor"] == SENSOR.sensor
    fixed = made(embedding="fixed")
    pixels_BCHW, valid_BHW = torch.randn(3, 3, 96, 96), torch.rand(3, 96, 96) > 0.1
    graph = export.program(fixed, pixels=96).module()
    with torch.no_grad():
        own = fixed({Modality.SAR_L2: Chips(pixels_BCHW, valid_BHW)}).pyramids[Modality.SAR_L2]
        assert all(torch.equal(a, b) for a, b in zip(graph(pixels_BCHW, valid_BHW), own, strict=True))


@pytest.mark.slow
def test_tracing_leaves_the_model_as_it_was():
    """Constants that the model keeps between calls are values afterwards, also of sizes not seen before the export."""
    model = made(window=3, pretrain_windows=(3, 3, 3, 2))
    export.program(model, pixels=32)
    with torch.no_grad():
        pixels_BCHW, valid_BHW = torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool)
        found = model({Modality.SAR_L2: Chips(pixels_BCHW, valid_BHW)}).pyramids[Modality.SAR_L2]
    assert all(type(level) is Tensor and torch.isfinite(level).all() for level in found)


@pytest.mark.slow
def test_int8_weights_stay_int8_in_the_graph_and_what_differs_is_not_kept(tmp_path, monkeypatch):
    """Every int8 number is in the file, which is less than half of float32's; a runtime that answers otherwise by a
    thousandth is found out, and the file is gone."""
    import onnx

    model, path = made(embedding="fixed", dim=32), tmp_path / "model.onnx"
    small = quantise.int8(model)
    export.save_onnx(model, path, pixels=32, check=False)
    whole = path.stat().st_size
    export.save_onnx(small, path, pixels=32)
    assert path.stat().st_size < 0.5 * whole
    kept = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sum(len(t.raw_data) for t in kept) == sum(b.numel() for b in small.buffers() if b.dtype == torch.int8)
    run = export.run_onnx
    monkeypatch.setattr(export, "run_onnx", lambda *given: tuple(level + 1e-3 for level in run(*given)))
    with pytest.raises(ExportError, match="does not give what the model gives") as caught:
        export.save_onnx(model, path, pixels=32)
    assert "up to 0.001" in caught.value.item
    assert not path.exists()


def test_weights_that_cannot_leave_are_refused(tmp_path):
    """bfloat16 is no ONNX graph that runs; timm takes neither routed experts, nor two modalities, nor int8."""
    with pytest.raises(ExportError, match="Only weights in float32 or int8") as caught:
        export.save_onnx(quantise.bf16(made()), tmp_path / "model.onnx", pixels=64)
    assert caught.value.item == "torch.bfloat16"
    two = RingMoE(CONFIG, presets.paper_contract().only([Modality.OPT, Modality.MS]))
    for model in (made(specialized=1), two):
        with pytest.raises(ExportError, match="Only a dense model of one modality"):
            export.timm_tensors(model)
    with pytest.raises(ExportError, match="no place for quantised weights"):
        export.timm_tensors(quantise.int8(made(embedding="fixed")))


def test_timms_tensors_are_of_the_sensor_asked_for():
    """A spectral model is baked first; what timm does not carry is left out; the model is as it was."""
    model = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = export.timm_tensors(model, SENSOR)
    baked = bake(model, {Modality.SAR_L2: SENSOR}).state_dict()
    assert torch.equal(found["patch_embed.proj.weight"], baked["embed.sar_l2.proj.weight"])
    assert found["patch_embed.proj.weight"].shape == (8, 2, 4, 4)
    assert len(found) == len(baked) - 2
    assert not any(name.endswith(("no_data", "mask_token")) for name in found)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_becomes_no_graph_is_refused(tmp_path, monkeypatch):
    """Routed experts, several modalities, a size that is no multiple of 32, packages that are missing."""
    routed = made(specialized=1)
    two = RingMoE(CONFIG, presets.paper_contract().only([Modality.OPT, Modality.MS]))
    for model, pixels, match in (
        (routed, 64, "Only a dense model of one modality can be exported"),
        (two, 64, "Only a dense model of one modality can be exported"),
        (made(), 65, "No image of this size"),
        (made(), 0, "No image of this size"),
    ):
        with pytest.raises(ExportError, match=match) as caught:
            export.program(model, pixels=pixels)
        assert caught.value.todo
    monkeypatch.setattr("ringmoe.export.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match="not installed") as caught:
        export.save_onnx(made(), tmp_path / "model.onnx", pixels=64)
    assert "ringmoe[export]" in caught.value.todo
    with pytest.raises(ExportError, match="not installed"):
        export.run_onnx(tmp_path / "model.onnx", *images(1))
