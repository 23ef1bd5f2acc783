"""Images a second of the backbone, forward and training step, beside timm's Swin V2 of equal activated work."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

import timm_reference  # noqa: E402
from turns import in_turn, machine  # noqa: E402

from ringmoe import presets  # noqa: E402
from ringmoe.allocator import freed_memory_kept  # noqa: E402
from ringmoe.backbone import RingMoE, RingMoEConfig  # noqa: E402
from ringmoe.compiled import compile_blocks  # noqa: E402
from ringmoe.loop import TrainConfig, parameter_groups  # noqa: E402
from ringmoe.modality import Batch, Chips, Modality  # noqa: E402

PIXELS = 192
CONTRACT = presets.paper_contract()


def batch_of(images: int, modalities: tuple[Modality, ...], pixels: int, device: str) -> dict[Modality, Chips]:
    """As many images of every modality, all of them valid."""
    count = images // len(modalities)
    return {
        m: Chips(
            torch.randn(count, len(CONTRACT.inputs[m].bands), pixels, pixels, device=device),
            torch.ones(count, pixels, pixels, dtype=torch.bool, device=device),
        )
        for m in modalities
    }


def forward_of(model: nn.Module, batch: Batch | Tensor) -> Tensor:
    """Last map of all images; both models end with the same norm."""
    if isinstance(batch, Tensor):
        return model.forward_features(batch)  # type: ignore[operator, no-any-return]
    return torch.cat([maps[-1] for maps in model(batch).pyramids.values()])


def evaluation(model: nn.Module, batch: Batch | Tensor, dtype: torch.dtype, device: str) -> Callable[[], None]:
    """A forward pass without gradients."""

    def run() -> None:
        model.eval()
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            forward_of(model, batch)

    return run


def training(model: nn.Module, batch: Batch | Tensor, dtype: torch.dtype, device: str) -> Callable[[], None]:
    """A training step: forward, backward, AdamW."""
    config = TrainConfig()
    groups = parameter_groups(model, config.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=1e-5, betas=config.betas, fused=True)

    def run() -> None:
        model.train()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            last = forward_of(model, batch)
        last.float().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return run


def pair(config: RingMoEConfig, images: int, pixels: int, device: str) -> dict[str, tuple[nn.Module, Any]]:
    """Ours on a mixed batch, and timm's model of the same activated work on as many images; timm may be missing."""
    modalities = tuple(CONTRACT.inputs) if config.specialized else (Modality.OPT,)
    ratio = config.mlp_ratio * (config.shared + bool(config.specialized) + bool(config.collaborative))
    torch.manual_seed(0)
    ours = RingMoE(config, CONTRACT.only(list(modalities))).to(device)
    for name, parameter in ours.named_parameters():
        if name.endswith(("specialized.weight", "collaborative.weight")):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    found: dict[str, tuple[nn.Module, Any]] = {"ours": (ours, batch_of(images, modalities, pixels, device))}
    if timm_reference.available():
        theirs = timm_reference.swin(config, 3, pixels, mlp_ratio=ratio).to(device)
        found["timm"] = (theirs, torch.randn(images, 3, pixels, pixels, device=device))
    return found


def measure(
    config: RingMoEConfig, images: int, pixels: int, dtype: torch.dtype, *, rounds: int, device: str
) -> dict[str, float]:
    """Images a second and ratios, both models in turn; on CUDA both eager and both compiled."""
    figures: dict[str, float] = {}
    models = pair(config, images, pixels, device)
    if device == "cuda":
        models |= {f"compiled_{name}": (compiled(name, model), batch) for name, (model, batch) in models.items()}
    for phase, make in (("forward", evaluation), ("train", training)):
        runs = {name: make(model, batch, dtype, device) for name, (model, batch) in models.items()}
        found = in_turn(runs, rounds)
        for name in runs:
            figures[f"{phase}_{name}_images_per_second"] = round(images / found[f"{name}_s"], 3)
        if "timm" in runs:
            figures[f"{phase}_vs_timm"] = found["vs_timm"]
            figures |= {f"{phase}_{k}": v for k, v in found.items() if k.startswith(("vs_", "processor_vs"))}
        if device == "cuda":
            for name in ("timm", "compiled_timm"):
                if name in runs:
                    figures[f"{phase}_compiled_vs_{name}"] = found[f"{name}_s"] / found["compiled_ours_s"]
            torch.cuda.reset_peak_memory_stats()
            runs["compiled_ours"]()
            figures[f"{phase}_peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return figures


def compiled(name: str, model: nn.Module) -> Any:
    """Ours block by block, as the package compiles; the peer whole."""
    return compile_blocks(copy.deepcopy(model)) if name == "ours" else torch.compile(model)


def dense(config: RingMoEConfig) -> RingMoEConfig:
    """The same with one slot a block: Swin V2 itself."""
    return replace(config, specialized=0, collaborative=0)


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 images of 96 px: figures to look at, not to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; 1 on a machine that others use too")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="what autocast computes in"
    )
    parser.add_argument("--only", choices=("tiny", "small"), default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, pixels, rounds = (4, 96, 2) if options.quick else (options.images, PIXELS, options.rounds)
    names = ("tiny",) if options.quick else (options.only,) if options.only else ("tiny", "small")
    figures: dict[str, Any] = {}
    for name in names:
        config = getattr(presets, name)(pixels)
        for key, shape in ((name, config), (f"{name}_one_slot", dense(config))):
            dtype = getattr(torch, options.dtype)
            with freed_memory_kept():  # as in the training loop, and for both models
                figures[key] = measure(shape, images, pixels, dtype, rounds=rounds, device=device)
            print(f"{key}: {figures[key]}", file=sys.stderr)
    ratio = figures[names[0]].get("train_vs_timm")
    about = {"images": images, "pixels": pixels, "dtype": options.dtype, "device": device}
    print(json.dumps({"name": "backbone", "ratio": ratio, "quick": options.quick, **about, **figures, **machine()}))


if __name__ == "__main__":
    main()
