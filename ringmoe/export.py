"""A dense model of one sensor as a graph that runs without this code: torch.export and ONNX, any number of images.

Pixels go in as the data contract has them, in physical units; normalisation is part of the graph.
Shape legend: B image, C channel or width, H row, W column, q k v queries, keys and values.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ringmoe.backbone import STRIDE, RingMoE
from ringmoe.bake import bake
from ringmoe.contract import InputContract
from ringmoe.errors import ExportError
from ringmoe.modality import Chips, Modality
from ringmoe.quantise import is_quantised

METADATA = "ringmoe"
"""Name that a graph carries its description under, as JSON."""

INPUTS = ("pixels", "valid")
OUTPUTS = tuple(f"stride{STRIDE // 8 * 2**stage}" for stage in range(4))

EXTERNAL_BYTES = 3 << 29
"""Weights of more bytes than this lie in a file beside the ONNX graph, which cannot itself be larger than 2 GB."""


CLOSE = 1e-4
"""Largest difference of a feature between a graph in onnxruntime and the model; features are of the order of 1."""

TIMM_NAMES = (
    (r"^embed\.\w+\.", "patch_embed."),
    (r"^merges\.(\d)\.", r"layers.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"layers.\1.blocks.\2."),
    (r"\.attention\.", ".attn."),
    (r"\.bias_net\.", ".cpb_mlp."),
    (r"\.experts\.shared\.0\.", ".mlp.fc1."),
    (r"\.experts\.shared\.2\.", ".mlp.fc2."),
)
"""Our parameters' names and timm's."""


class Pyramid(nn.Module):
    """The model as a function of tensors alone.

    Parameters
    ----------
    model
        Of one modality.
    """

    def __init__(self, model: RingMoE) -> None:
        super().__init__()
        self.model = model

    @property
    def modality(self) -> Modality:
        """The one it takes."""
        return self.model.modalities[0]

    def forward(self, pixels_BCHW: Tensor, valid_BHW: Tensor) -> tuple[Tensor, ...]:
        """Four feature maps (B, C, H, W), finest first."""
        return self.model({self.modality: Chips(pixels_BCHW, valid_BHW)}).pyramids[self.modality]


def program(model: RingMoE, *, pixels: int, sensor: InputContract | None = None) -> torch.export.ExportedProgram:
    """The graph of a dense model for images of one size.

    Parameters
    ----------
    model
        Of one modality and without routed experts; not changed.
    pixels
        Side of the images, a multiple of 32; their number is free.
    sensor
        For which a spectral embedding becomes a convolution, at the middle of its pixel sizes; None for the first one
        of the contract.

    Returns
    -------
    torch.export.ExportedProgram
        Takes pixels float32 (B, C, H, W), where a pixel that is not finite is no data, and their mask, bool (B, H, W).

    Raises
    ------
    ExportError
        The model is no dense one of one modality, or the size cannot be cut into patches.
    """
    return _traced(_graph(model, pixels, sensor), pixels)


def _traced(graph: Pyramid, pixels: int) -> torch.export.ExportedProgram:
    example = _example(graph, pixels)
    with torch.no_grad():
        graph(*example)  # fills the caches of constants, which tracing would fill with tensors of no value
        batch = torch.export.Dim("batch", min=1)
        return torch.export.export(graph, example, dynamic_shapes=({0: batch}, {0: batch}))


def save_program(model: RingMoE, path: Path, *, pixels: int, sensor: InputContract | None = None) -> None:
    """Write the graph as a .pt2 file with its description; parameters and errors as of `program`."""
    made = program(model, pixels=pixels, sensor=sensor)
    torch.export.save(made, path, extra_files={METADATA: json.dumps(description(model, pixels, sensor))})


def save_onnx(
    model: RingMoE, path: Path, *, pixels: int, sensor: InputContract | None = None, check: bool = True
) -> None:
    """Write the graph as an ONNX file with its description; large weights lie beside it, in a file named + .data.

    Weights in int8 stay int8 in the file and are multiplied out where they are used.

    Parameters
    ----------
    model, pixels, sensor
        As of `program`; weights in float32 or int8.
    check
        Run the file in onnxruntime, where that is installed, and hold its features against the model's.

    Raises
    ------
    ExportError
        As of `program`; weights in another dtype; onnx or onnxscript is not installed; or the graph gives features that
        differ by more than `CLOSE`, and is not kept.
    """
    _needs("onnx", "onnxscript")
    dtypes = {tensor.dtype for tensor in model.state_dict().values()}
    if not dtypes <= {torch.float32, torch.int8}:
        raise ExportError(
            "Only weights in float32 or int8 become an ONNX graph",
            item=", ".join(sorted(str(dtype) for dtype in dtypes)),
            enough="torch.float32, or what ringmoe.quantise.int8 makes of it",
            todo="call model.float() first, or write a torch.export program",
        )
    graph = _graph(model, pixels, sensor)
    plain = _without_views(_traced(graph, pixels))
    found = torch.onnx.export(
        plain, dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False, optimize=False
    )
    assert found is not None
    _optimise(found.model)
    found.model.metadata_props[METADATA] = json.dumps(description(model, pixels, sensor))
    size = sum(t.nbytes for t in model.state_dict().values())
    found.save(str(path), external_data=size > EXTERNAL_BYTES)
    if check and importlib.util.find_spec("onnxruntime") is not None:
        _check(graph, path, pixels)


def _optimise(graph: Any) -> None:
    """Fold constants, but for int8 weights: multiplied out in the file, they would take four times the bytes."""
    from onnxscript import optimizer

    def folds(node: Any) -> bool | None:
        return (
            False
            if any(each is not None and each.dtype is not None and each.dtype.name == "INT8" for each in node.inputs)
            else None
        )

    optimizer.optimize_ir(graph, should_fold=folds)


@torch.no_grad()
def _check(graph: Pyramid, path: Path, pixels: int) -> None:
    """ExportError where a graph written does not give the model's features of two images of noise; it is removed."""
    contract = graph.model.contract.inputs[graph.modality]
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(column).view(1, -1, 1, 1) for column in (contract.mean, contract.std))
    pixels_BCHW = mean + std * torch.randn(2, len(contract.bands), pixels, pixels, generator=generator)
    if contract.transform == "log":
        pixels_BCHW = pixels_BCHW.exp()
    valid_BHW = torch.rand(2, pixels, pixels, generator=generator) > 0.1
    device = graph.model.norm.weight.device
    wanted = graph(pixels_BCHW.to(device), valid_BHW.to(device))
    pairs = zip(run_onnx(path, pixels_BCHW, valid_BHW), wanted, strict=True)
    apart = max(float((a - b.cpu()).abs().max()) for a, b in pairs)
    if not apart <= CLOSE:
        for file in (path, Path(f"{path}.data")):
            file.unlink(missing_ok=True)
        raise ExportError(
            "The ONNX graph does not give what the model gives",
            item=f"features that differ by up to {apart:.2g}",
            enough=f"{CLOSE:g} or less",
            todo="try other versions of torch, onnxscript and onnxruntime, or write a torch.export program",
        )


def timm_tensors(model: RingMoE, sensor: InputContract | None = None) -> dict[str, Tensor]:
    """The weights of a dense model by the names of timm's `SwinTransformerV2`, to be loaded with `strict`.

    timm's model is one of the same widths, depths, heads, window and mlp_ratio, without classes:
    `SwinTransformerV2(img_size, in_chans=bands, num_classes=0, embed_dim=dim, ...)`. It knows nothing of no-data, whose
    token, as that of masks, is left out, and nothing of normalisation: it is given pixels normalised as the data
    contract says. Its last map is ours; the finer ones are ours before they are normed.

    Parameters
    ----------
    model
        Of one modality and without routed experts; not changed.
    sensor
        As of `program`.

    Returns
    -------
    dict
        Tensors by name, those of the model itself where it has the fixed embedding.

    Raises
    ------
    ExportError
        The model is no dense one of one modality, or its weights are quantised.
    """
    dense = _dense(model, sensor)
    if is_quantised(dense):
        raise ExportError(
            "timm has no place for quantised weights",
            item=f"a model of {', '.join(model.modalities)} in int8",
            enough="weights in floating point",
            todo="take the model that this one was made of",
        )
    found = {}
    for name, tensor in dense.state_dict().items():
        for ours, timms in TIMM_NAMES:
            name = re.sub(ours, timms, name)
        if not name.endswith(("no_data", "mask_token")):
            found[name] = tensor
    return found


def run_onnx(path: Path, pixels_BCHW: Tensor, valid_BHW: Tensor) -> tuple[Tensor, ...]:
    """What onnxruntime, on the CPU, makes of images; ExportError where it is not installed."""
    _needs("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = dict(zip(INPUTS, (pixels_BCHW.numpy(), valid_BHW.numpy()), strict=True))
    return tuple(torch.from_numpy(level) for level in session.run(list(OUTPUTS), feeds))


def description(model: RingMoE, pixels: int, sensor: InputContract | None = None) -> dict[str, Any]:
    """What a graph takes and gives, as JSON: the contract of its input, the pixel size it is for, and its outputs."""
    contract = sensor or model.contract.inputs[model.modalities[0]]
    return {
        "input": asdict(contract),
        "normalised": "inside the graph",
        "gsd_m": contract.middle_m if model.config.embedding == "spectral" else None,
        "pixels": pixels,
        "outputs": {
            name: {"stride": STRIDE // 8 * 2**stage, "width": model.config.dim * 2**stage}
            for stage, name in enumerate(OUTPUTS)
        },
    }


def _dense(model: RingMoE, sensor: InputContract | None) -> RingMoE:
    """The model with the fixed embedding; ExportError where it is not dense and of one modality."""
    routed = any(block.experts.experts is not None for block in model.blocks())
    if routed or len(model.modalities) != 1:
        raise ExportError(
            "Only a dense model of one modality can be exported",
            item=f"a model of {', '.join(model.modalities)}" + (" with routed experts" if routed else ""),
            enough="one modality and one network a block",
            todo="slice the model to one modality and integrate its experts (ringmoe.prune)",
        )
    return bake(model, None if sensor is None else {model.modalities[0]: sensor})


def _graph(model: RingMoE, pixels: int, sensor: InputContract | None) -> Pyramid:
    dense = _dense(model, sensor)
    if pixels < STRIDE or pixels % STRIDE:
        raise ExportError(
            "No image of this size can be cut into patches",
            item=f"{pixels} px",
            enough=f"a multiple of {STRIDE}",
            todo="choose the size of the tiles that the graph will be given",
        )
    return Pyramid(dense)


def _example(graph: Pyramid, pixels: int) -> tuple[Tensor, Tensor]:
    """Two images: what is traced with one is of one."""
    channels = len(graph.model.contract.inputs[graph.modality].bands)
    device = graph.model.norm.weight.device
    pixels_BCHW = torch.zeros(2, channels, pixels, pixels, device=device)
    return pixels_BCHW, torch.ones(2, pixels, pixels, dtype=torch.bool, device=device)


def _without_views(traced: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same with attention spelt out.

    Tracing takes the memory layout of a fused attention for granted, and views of its result; ONNX's is another.
    """
    for node in traced.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    traced.graph_module.recompile()
    return traced.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attention})


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float,
    enable_gqa: bool = False,
) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) * scale + attn_mask, -1) @ v


def _needs(*packages: str) -> None:
    missing: Sequence[str] = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            "ONNX takes packages that are not installed",
            item=", ".join(missing),
            enough="the extra that holds them",
            todo="pip install 'ringmoe[export]'",
        )
