"""Cubes -> checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from catalog.ledger import Ledger
from flows.models import Draft, bands_of, device, machine, once, recipe_of, told
from flows.refs import ItemRef, PretrainRequest, Where
from flows.select import within
from ringmoe import checkpoint, presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.data import EQUAL_MIX, ChipSampler, Crop
from ringmoe.errors import ConfigError
from ringmoe.measure import measure_contract
from ringmoe.objectives import MaskedModelling, Objective
from ringmoe.train import pretrain as train

RESULTS_VERSION = 4


def draft(cubes: Sequence[ItemRef], request: PretrainRequest, where: Where) -> Draft:
    """The checkpoint that these cubes and parameters determine."""
    inputs = {
        "cubes": sorted([c.id, c.checksum] for c in cubes),
        "request": request.model_dump(mode="json"),
        "machine": machine(where),
    }
    return Draft(
        "pretrain",
        RESULTS_VERSION,
        inputs,
        tuple(cubes),
        lambda folder: make(folder, cubes, request, where),
        where.threads,
    )


def make(folder: Path, cubes: Sequence[ItemRef], request: PretrainRequest, where: Where) -> Mapping[str, Any]:
    """Pre-train by masked modelling on all modalities at once and write the checkpoint."""
    datasets = within(cubes, request.area)
    shape = preset(request)
    measured = measure_contract(datasets, described=shape.embedding == "spectral", seed=request.seed)
    used = [datasets[i] for i in measured.used]
    torch.manual_seed(request.seed)
    model = RingMoE(shape, measured.contract).to(device())
    objective = MaskedModelling(Objective(model)).to(device())
    sampler = ChipSampler(
        used,
        measured.contract,
        batch=request.chips,
        mix=EQUAL_MIX,
        crop=Crop(chip_px=request.chip_px),
        seed=request.seed,
    )
    config = recipe_of(request, where)
    history = train(model, objective, sampler.stream, config, on_step=told("pretrain", request.steps))
    edge = max(1, min(10, len(history.loss) // 4))
    provenance = {
        "step": "pretrain",
        "cubes": [c.id for c in cubes],
        "request": request.model_dump(mode="json"),
        "left_out": [[datasets[o.index].attrs["tile"], o.reason] for o in measured.left_out],
    }
    checkpoint.save(folder, model, provenance=provenance)
    return {
        "mlm:name": f"RingMoE {request.preset} pre-trained",
        "mlm:architecture": "RingMoE: Swin V2 with modal-specialized, collaborative and shared experts",
        "mlm:tasks": ["similarity-search"],  # mlm 1.4 has no word nearer to features
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__.split("+")[0],
        "mlm:total_parameters": sum(p.numel() for p in model.parameters()),
        "mlm:pretrained": True,
        "mlm:input": bands_of(measured.contract),
        "mlm:output": [
            {
                "name": "feature pyramid",
                "tasks": ["similarity-search"],
                "result": {
                    "shape": [-1, model.config.dim * 8, -1, -1],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
            }
        ],
        "ringmoe:contract": measured.contract.digest(),
        "ringmoe:loss_first": sum(history.loss[:edge]) / edge,
        "ringmoe:loss_last": sum(history.loss[-edge:]) / edge,
        "ringmoe:terms_last": {k: sum(v[-edge:]) / len(v[-edge:]) for k, v in history.terms.items()},
        "ringmoe:images": history.images,
        "ringmoe:skipped_steps": len(history.skipped),
        "ringmoe:left_out": provenance["left_out"],
    }


def preset(request: PretrainRequest) -> RingMoEConfig:
    """The configuration a request names, for its chips.

    Raises
    ------
    ConfigError
        When there is no preset of that name.
    """
    known = {
        "nano": presets.nano,
        "tiny": presets.tiny,
        "small": presets.small,
        "base": presets.base,
        "large": presets.large,
        "giant": presets.giant,
    }
    if request.preset not in known:
        raise ConfigError(
            f"there is no preset {request.preset}",
            item="--preset",
            enough=f"one of {', '.join(known)}",
            todo="choose one of these",
        )
    return known[request.preset](request.chip_px)


@task(name="pretrain", cache_policy=NO_CACHE)
def pretrain_task(cubes: list[ItemRef], request: PretrainRequest, where: Where) -> ItemRef:
    """One checkpoint, on the GPU where there is one."""
    return once(draft(cubes, request, where), Ledger(where.published))


@flow(name="pretrain", validate_parameters=False)
def pretrain(cubes: list[ItemRef], request: PretrainRequest, where: Where) -> ItemRef:
    """Cubes to a pre-trained checkpoint; one already made is only looked up."""
    return pretrain_task(cubes, request, where)
