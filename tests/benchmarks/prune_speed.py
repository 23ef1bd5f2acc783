"""How fast and how large models of fewer experts are: images a second, latency, memory, and timm's Swin V2 beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import timm_reference
import torch
from bench_backbone import batch_of, evaluation
from prune_land import CHIP_PX, Chipped
from prune_points import dense_config, device
from torch import nn
from turns import in_turn

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.live import most_bytes
from ringmoe.modality import Modality

OPT = Modality.OPT


def clock(found: dict[str, float], name: str) -> float:
    """How many times slower than ours, by processor time where there is such, else by the clock on the wall."""
    return found.get(f"processor_vs_{name}", found[f"vs_{name}"])


def beside_timm(config: RingMoEConfig, images: int, pixels: int, rounds: int) -> dict[str, Any]:
    """One network a block beside timm's Swin V2 of the full model's activated work, and beside our full model.

    Both sides take images of three bands through one convolution; the ratio of work is the activated experts' FLOPs
    over those of one.
    """
    config, contract = replace(config, embedding="fixed"), presets.paper_contract().only([OPT])
    one, where = dense_config(config), str(device())
    used = bool(config.specialized) + bool(config.collaborative) + config.shared
    work = [presets.describe(replace(one, shared=n), contract, pixels).flops for n in (used, 1)]
    found: dict[str, Any] = {"pixels": pixels, "images": images, "flop_ratio": round(work[0] / work[1], 4)}
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {"ours": RingMoE(one, contract), "full": RingMoE(config, contract)}
    if timm_reference.available():
        models["timm"] = timm_reference.swin(config, 3, pixels, mlp_ratio=config.mlp_ratio * used)
    for count, key in ((images, ""), (1, "latency_")):
        batch = batch_of(count, (OPT,), pixels, where)
        runs: dict[str, Callable[[], None]] = {}
        for name, model in models.items():
            given = batch[OPT].pixels_BCHW if name == "timm" else batch
            runs[name] = evaluation(model.to(where).eval(), given, torch.float32, where)
        times = in_turn(runs, rounds)
        found |= {f"{key}{name}_ms": round(1e3 * times[f"{name}_s"], 3) for name in models}
        found |= {f"{key}over_{name}": round(clock(times, name), 4) for name in models if name != "ours"}
        if not key:
            found |= {f"{name}_peak_mb": peak_mb(run) for name, run in runs.items()}
    if "timm" in models:
        found["speed_over_flop_ratio"] = round(found["over_timm"] / found["flop_ratio"], 4)
    return found


def by_shape(models: Mapping[str, RingMoE], asked: Chipped, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Parameters, FLOPs of a chip, bytes of weights, images a second and peak memory of each shape, timed in turn."""
    chips = asked.chips(torch.arange(images) % len(asked)).to(device())
    batch, where = {asked.sensor.modality: chips}, str(device())
    runs = {name: evaluation(model, batch, torch.float32, where) for name, model in models.items()}
    times = in_turn(runs, rounds, ours="1")
    found = {}
    for name, model in models.items():
        size = sum(t.nbytes for t in model.state_dict().values())
        found[name] = {
            "params": presets.describe(model.config, model.contract, CHIP_PX).parameters,
            "flops": presets.describe(model.config, model.contract.only([asked.sensor.modality]), CHIP_PX).flops,
            "bytes": size,
            "images_per_second": round(images / times[f"{name}_s"], 1),
            "memory_mb": round(size / 1e6 + peak_mb(runs[name]), 2),
            "slower_than_one_slot": 1.0 if name == "1" else round(clock(times, name), 4),
        }
    return found


def of_both_sizes(rounds: int, *, quick: bool) -> dict[str, Any]:
    """`beside_timm` of the two widths that the ratio of work is named for; the smaller one's figures stand for it."""
    nano = beside_timm(presets.nano(64), 4 if quick else 32, 64, 2 if quick else rounds)
    tiny_px = 96 if quick else 192
    tiny = beside_timm(presets.tiny(192), 1 if quick else 4, tiny_px, 1 if quick else rounds)
    return {
        "speed_over_flop_ratio": nano.get("speed_over_flop_ratio"),
        "speed_dense_over_full": nano["over_full"],
        "speed": {"nano": nano, "tiny": tiny},
    }


def peak_mb(run: Callable[[], None]) -> float:
    """Most megabytes of tensors that a call has alive at once."""
    return round(most_bytes(run) / 1e6, 2)
