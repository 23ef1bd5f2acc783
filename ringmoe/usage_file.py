"""A profile in one file: its tables as safetensors, and what model they are of as JSON in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ringmoe.backbone import RingMoEConfig
from ringmoe.errors import ModelError, PruneError
from ringmoe.modality import Modality
from ringmoe.usage import ExpertUsage, LayerUsage, UnitUsage, Usage, weights_digest

FORMAT = 1
KEY = "ringmoe_usage"
KINDS = ("specialized", "collaborative")


def write_usage(path: str | os.PathLike[str], usage: Usage) -> None:
    """Write a profile; equal profiles give equal bytes.

    Raises
    ------
    PruneError
        The file cannot be written.
    """
    tensors = _tables(usage)
    about = {
        "format": FORMAT,
        "modalities": [m.value for m in usage.modalities],
        "config": asdict(usage.config),
        "contract_digest": usage.contract_digest,
        "weights_digest": usage.weights_digest,
        "tables_digest": weights_digest(tensors),
    }
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    try:
        save_file(tensors, partial, metadata={KEY: json.dumps(about, sort_keys=True)})
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        raise PruneError(
            f"The profile cannot be written: {error}",
            item=str(target),
            enough=f"a folder with room for {sum(t.nbytes for t in tensors.values()) / 1e6:.1f} MB",
            todo="free some room or choose another folder",
        ) from error


def read_usage(path: str | os.PathLike[str]) -> Usage:
    """The profile that `write_usage` wrote.

    Raises
    ------
    PruneError
        The file is missing, truncated, altered or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("format") != FORMAT or about["tables_digest"] != weights_digest(tensors):
            raise ValueError(f"not a profile of format {FORMAT} as it was written")
        return _usage(about, tensors)
    except (OSError, SafetensorError, ModelError, ValueError, KeyError, TypeError) as error:
        raise PruneError(
            f"The profile cannot be read: {error}",
            item=str(path),
            enough="a file that a profile was written to",
            todo="profile the model again",
        ) from error


def _tables(usage: Usage) -> dict[str, Tensor]:
    found = {"tokens_M": usage.tokens_M}
    for block, (layer, units) in enumerate(zip(usage.layers, usage.units, strict=True)):
        found |= _named(f"{block}.layer", layer)
        for slot, pair in enumerate(zip(units.mean, units.std, strict=True)):
            found |= {f"{block}.units.{slot}.{name}": t for name, t in zip(UnitUsage._fields, pair, strict=True)}
        for kind in KINDS:
            used: ExpertUsage | None = getattr(usage, kind)[block]
            found |= {} if used is None else _named(f"{block}.{kind}", used)
    return {name: tensor.clone() for name, tensor in found.items()}


def _named(prefix: str, tables: LayerUsage | ExpertUsage) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tables._asdict().items()}


def _usage(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Usage:
    config = RingMoEConfig.from_row(about["config"])
    blocks = range(sum(config.depths))

    def units(block: int) -> UnitUsage:
        slots = range(sum(name.startswith(f"{block}.units.") for name in tensors) // 2)
        columns = (tuple(tensors[f"{block}.units.{slot}.{name}"] for slot in slots) for name in UnitUsage._fields)
        return UnitUsage(*columns)

    def experts(kind: str, block: int) -> ExpertUsage | None:
        if f"{block}.{kind}.usage_ME" not in tensors:
            return None
        return ExpertUsage(*(tensors[f"{block}.{kind}.{name}"] for name in ExpertUsage._fields))

    layers = (LayerUsage(*(tensors[f"{b}.layer.{name}"] for name in LayerUsage._fields)) for b in blocks)
    return Usage(
        modalities=tuple(Modality(name) for name in about["modalities"]),
        tokens_M=tensors["tokens_M"],
        specialized=tuple(experts("specialized", b) for b in blocks),
        collaborative=tuple(experts("collaborative", b) for b in blocks),
        units=tuple(units(b) for b in blocks),
        layers=tuple(layers),
        config=config,
        contract_digest=about["contract_digest"],
        weights_digest=about["weights_digest"],
    )
