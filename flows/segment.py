"""Land cover as a task: labelled composites, the segmenter and how it is described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catalog.errors import NothingFound
from catalog.search import Raster
from flows.models import bands_of
from flows.refs import AdaptRequest, ItemRef
from flows.select import composites, label_grid
from ringmoe import checkpoint
from ringmoe.backbone import RingMoE
from ringmoe.bake import bake
from ringmoe.bands import band_specs
from ringmoe.checkpoint import Checkpoint
from ringmoe.contract import DataContract
from ringmoe.data import Crop, Labelled, LabelledSampler
from ringmoe.errors import ConfigError
from ringmoe.modality import Modality
from ringmoe.tasks.segmentation import SegmentationConfig, Segmenter


def labelled(cubes: Sequence[ItemRef], labels: Sequence[Raster], request: AdaptRequest) -> list[Labelled]:
    """Composites of the cubes within the area, with labels on their grid; 0 outside the area.

    Raises
    ------
    NothingFound
        When no label lies on a pixel of the area.
    """
    found = []
    for piece in composites(cubes, request.area, request.period):
        codes = np.where(piece["quality"].values > 0, label_grid(labels, piece), 0)
        if codes.any():
            found.append(Labelled(piece, codes))
    if not found:
        raise NothingFound(
            f"no label lies on a measured pixel of {request.area.name}",
            item=", ".join(r.id for r in labels) or "no label raster",
            enough="a label raster that overlaps a cube within the area",
            todo="register labels of that area (`ringmoe register --labels FILE`) or move the area",
        )
    return found


def encoder_of(base: Checkpoint, sources: Sequence[Labelled]) -> RingMoE:
    """The encoder made for the bands and the pixel size of the cubes labelled, which it then takes alone.

    Raises
    ------
    ContractError
        When a cube does not honour the checkpoint's contract.
    """
    rows = [source.cube.attrs for source in sources]
    for attrs in rows:
        base.contract.check(attrs)
    if not base.contract.described:
        return base.model
    modality, gsd_m = Modality(rows[0]["modality"]), [float(attrs["gsd_m"]) for attrs in rows]
    wanted = base.contract.input_of(modality, band_specs(rows[0]))
    return bake(base.model, {modality: replace(wanted, sensor=rows[0]["sensor"], gsd_m=(min(gsd_m), max(gsd_m)))})


def sampler_of(sources: Sequence[Labelled], contract: DataContract, request: AdaptRequest) -> LabelledSampler:
    """Labelled chips as the request wants them."""
    return LabelledSampler(
        sources, contract, batch=request.chips, crop=Crop(chip_px=request.chip_px), seed=request.seed
    )


def save(folder: Path, segmenter: Segmenter, provenance: Mapping[str, Any]) -> None:
    """Write backbone and head as one checkpoint."""
    checkpoint.save(
        folder,
        segmenter.backbone,
        head_state=segmenter.head.state_dict(),
        head_config=asdict(segmenter.config),
        provenance=provenance,
    )


def segmenter_of(found: Checkpoint, encoder: RingMoE | None = None) -> Segmenter:
    """Backbone and head of an adapted checkpoint; or its head on another encoder."""
    if not found.head_config:
        raise ConfigError(
            "the model has no head: it was pre-trained, not adapted",
            item="--model",
            enough="a model of `ringmoe adapt` or `ringmoe prune`",
            todo="adapt it first, or leave --model out",
        )
    config = dict(found.head_config)
    config["modality"] = Modality(config["modality"])
    config["classes"] = tuple(config["classes"])
    config["class_weights"] = tuple(config["class_weights"])
    segmenter = Segmenter(encoder or found.model, SegmentationConfig(**config))
    segmenter.head.load_state_dict(found.head_state)
    return segmenter


def describe(segmenter: Segmenter, name: str, base: Checkpoint) -> dict[str, Any]:
    """`mlm:*` properties of a model with a segmentation head."""
    classes = [
        {"value": i, "name": n.replace(" ", "_"), "description": n}
        for i, n in enumerate(segmenter.config.classes, start=1)
    ]
    return {
        "mlm:name": name,
        "mlm:architecture": "RingMoE: Swin V2 with modal-specialized, collaborative and shared experts",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__.split("+")[0],
        "mlm:total_parameters": sum(p.numel() for p in segmenter.parameters()),
        "mlm:pretrained": True,
        "mlm:input": bands_of(segmenter.backbone.contract.only([segmenter.config.modality])),
        "mlm:output": [
            {
                "name": "land cover",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(classes), -1, -1],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": classes,
            }
        ],
        "ringmoe:contract": segmenter.backbone.contract.digest(),
    }


_COLOURS = {
    "water": "3B6FB6",
    "broadleaf forest": "2E7D32",
    "conifer forest": "1B5E4A",
    "grassland": "9CCC65",
    "winter crop": "E6C229",
    "summer crop": "F29E4C",
    "built-up": "C0392B",
    "bare and rock": "B8A58A",
    "wetland": "4DB6AC",
}
_OTHERS = ("6A5ACD", "8D6E63", "EC407A", "26C6DA", "7E57C2", "D4E157", "FF7043", "78909C")


def colour(value: int, name: str) -> str:
    """A colour for a class of a map, RRGGBB: the usual one of that land cover, else one by its value."""
    return _COLOURS.get(name, _OTHERS[value % len(_OTHERS)])
