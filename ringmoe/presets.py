"""Named configurations, from one that trains on two cores to the 14.7 B one, and what any of them costs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import BandSpec, DataContract, InputContract
from ringmoe.modality import Modality
from ringmoe.moe import Survivors


def _swin(dim: int, depths: tuple[int, ...], heads: int, window: int, pixels: int) -> RingMoEConfig:
    """A configuration of spectral embedding whose position bias is normalised by its windows at `pixels` px."""
    sides = [pixels // 4 // 2**stage for stage in range(4)]
    return RingMoEConfig(
        dim=dim,
        depths=depths,
        heads=tuple(heads * 2**stage for stage in range(4)),
        window=window,
        pretrain_windows=tuple(min(window, side) for side in sides),
        embedding="spectral",
    )


def nano(pixels: int = 64) -> RingMoEConfig:
    """About 30 M parameters, 21 experts a block; trains on two cores. Windows of 8 fill maps of 64 px exactly."""
    return _swin(32, (2, 2, 2, 2), 1, 8, pixels)


def tiny(pixels: int = 192) -> RingMoEConfig:
    """The width and depth of Swin-T."""
    return _swin(96, (2, 2, 6, 2), 3, 12, pixels)


def small(pixels: int = 192) -> RingMoEConfig:
    """The width and depth of Swin-S."""
    return _swin(96, (2, 2, 18, 2), 3, 12, pixels)


def base(pixels: int = 192) -> RingMoEConfig:
    """The width and depth of Swin-B."""
    return _swin(128, (2, 2, 18, 2), 4, 12, pixels)


def large(pixels: int = 192) -> RingMoEConfig:
    """The width and depth of Swin-L."""
    return _swin(192, (2, 2, 18, 2), 6, 12, pixels)


def giant(pixels: int = 192) -> RingMoEConfig:
    """The paper's, with its fixed embedding: 14.7 B parameters, 2.4 B activated for one token."""
    return replace(_swin(448, (2, 2, 18, 2), 14, 12, pixels), embedding="fixed")


def pruned(config: RingMoEConfig, *, modalities: int, specialized: int, collaborative: int) -> RingMoEConfig:
    """The same shape with the first so many experts of each kind left in every block."""
    left = Survivors((tuple(range(specialized)),) * modalities, tuple(range(collaborative)))
    return replace(config, survivors=(left,) * sum(config.depths))


@dataclass(frozen=True)
class Cost:
    """What a configuration takes."""

    parameters: int
    """Of the encoder."""
    activated: int
    """Of those, used for one token; the embedding of one modality counted."""
    slots: tuple[int, ...]
    """Experts of each block, routed and shared."""
    flops: float
    """Of the forward pass of one image of one modality; a multiplication and an addition are two."""


def describe(config: RingMoEConfig, contract: DataContract, pixels: int = 192) -> Cost:
    """Parameters and FLOPs of a configuration, on the meta device: nothing is allocated."""
    with torch.device("meta"):
        model = RingMoE(config, contract)
    blocks = model.blocks()
    idle = _size(model.embed) - _size(model.embedding(model.modalities[0]))
    for block in blocks:
        layer = block.experts
        if layer.experts is not None:
            used = (layer.specialized is not None) + (layer.collaborative is not None)
            count = len(layer.experts.w1_ECH)
            idle += _size(layer.experts) // count * (count - used)
        if layer.specialized is not None:
            idle += _size(layer.specialized) * (len(model.modalities) - 1) // len(model.modalities)
    slots = tuple(config.shared + (0 if b.experts.experts is None else len(b.experts.experts.w1_ECH)) for b in blocks)
    total = _size(model)
    return Cost(total, total - idle, slots, _flops(model, pixels))


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _flops(model: RingMoE, pixels: int) -> float:
    """2 sum_blocks N (4 C^2 + 2 w C + experts 2 C H + routers C E) + merging and embedding; w tokens to a window."""
    config, macs = model.config, 0.0
    first = next(iter(model.contract.inputs.values()))
    block = 0
    for stage, depth in enumerate(config.depths):
        dim, side = config.dim * 2**stage, pixels // config.patch // 2**stage
        tokens, window = side**2, min(config.window, side) ** 2
        macs += tokens * (len(first.bands) * config.patch**2 * dim if stage == 0 else 2 * dim**2)
        for layer in (b.experts for b in model.blocks()[block : block + depth]):
            routers = [r for r in (layer.specialized, layer.collaborative) if r is not None]
            used = config.shared + len(routers)
            macs += tokens * (4 * dim**2 + 2 * window * dim + used * 2 * dim * dim * config.mlp_ratio)
            macs += tokens * sum(r.experts * dim for r in routers)
        block += depth
    return 2 * macs


def paper_contract() -> DataContract:
    """The public configuration's channels, 3 optical, 4 multispectral, 8 complex and 3 detected; unit statistics.

    The paper names no satellites; wavelengths are those of blue, green, red and near infrared, the radar's is C band.
    """
    light = {"blue": (490.0, 65.0), "green": (560.0, 35.0), "red": (665.0, 30.0), "nir": (842.0, 115.0)}
    colours = {name: BandSpec(name, name, *where) for name, where in light.items()}
    quad = [(pair, part) for pair in ("HH", "HV", "VH", "VV") for part in ("re", "im")]
    channels = {
        Modality.OPT: [colours[name] for name in ("red", "green", "blue")],
        Modality.MS: [colours[name] for name in ("blue", "green", "red", "nir")],
        Modality.SAR_L1: [BandSpec(pair, frequency_ghz=5.4, polarisation=pair, part=part) for pair, part in quad],
        Modality.SAR_L2: [BandSpec(f"HH{i}", frequency_ghz=5.4, polarisation="HH") for i in range(3)],
    }
    return DataContract({m: _of_unit_statistics(m, tuple(bands)) for m, bands in channels.items()})


def _of_unit_statistics(modality: Modality, bands: tuple[BandSpec, ...]) -> InputContract:
    return InputContract(
        modality=modality,
        sensor="any",
        bands=bands,
        quantity="any",
        units="1",
        transform="identity",
        mean=(0.0,) * len(bands),
        std=(1.0,) * len(bands),
        gsd_m=(0.1, 30.0),
    )
