"""Steps of pre-training in turn: dense encoder, sparse encoder, and timm's Swin V2 of equal work in a SimMIM loop."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

import timm_reference  # noqa: E402
from bench_backbone import CONTRACT, batch_of  # noqa: E402
from turns import in_turn, machine  # noqa: E402

from ringmoe import presets  # noqa: E402
from ringmoe.allocator import freed_memory_kept  # noqa: E402
from ringmoe.backbone import STRIDE, RingMoE, RingMoEConfig  # noqa: E402
from ringmoe.loop import TrainConfig, parameter_groups  # noqa: E402
from ringmoe.masking import random_units  # noqa: E402
from ringmoe.objectives import MaskedModelling, Objective  # noqa: E402

TARGETS = {"vs_timm": 0.8, "sparse_vs_dense": 1.6, "sparse_vs_timm": 1.4}
"""Least ratios of step rates asked for on a CPU."""


class SimMIM(nn.Module):
    """The published loop around timm's encoder: masked patches are one learned token, pixels by one convolution."""

    def __init__(self, encoder: Any, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.zeros(encoder.embed_dim))
        self.decoder = nn.Conv2d(encoder.num_features, channels * STRIDE**2, 1)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Absolute error of masked pixels."""
        batch, channels, high, wide = x_BCHW.shape
        drawn = random_units(batch, high // STRIDE, wide // STRIDE, generator=torch.default_generator)
        mask_BHW = drawn.to(x_BCHW.device, non_blocking=True)
        tokens_BHW = mask_BHW.repeat_interleave(STRIDE // 4, 1).repeat_interleave(STRIDE // 4, 2)
        z_BHWC = self.encoder.patch_embed(x_BCHW)
        z_BHWC = torch.where(tokens_BHW[..., None], self.mask_token.to(z_BHWC.dtype), z_BHWC)
        z_BHWC = self.encoder.norm(self.encoder.layers(z_BHWC))
        guess_BCHW = F.pixel_shuffle(self.decoder(z_BHWC.permute(0, 3, 1, 2)), STRIDE)
        pixels_B1HW = mask_BHW.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)[:, None].float()
        return ((guess_BCHW.float() - x_BCHW).abs() * pixels_B1HW).sum() / pixels_B1HW.sum() / channels


def step_of(trained: nn.Module, loss_of: Callable[[], Tensor], dtype: torch.dtype, device: str) -> Callable[[], None]:
    """One step, the same for all: forward, backward, clipping, AdamW."""
    config = TrainConfig()
    groups = parameter_groups(trained, config.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=1e-5, betas=config.betas, fused=True)
    parameters = [p for group in groups for p in group["params"]]

    def run() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return run


def ours(config: RingMoEConfig, batch: Any, *, sparse: bool, compiled: bool, device: str) -> tuple[nn.Module, Any]:
    """Encoder and objective on a mixed batch, with routers that send tokens everywhere, and its loss."""
    torch.manual_seed(0)
    model = RingMoE(config, CONTRACT)
    for name, parameter in model.named_parameters():
        if name.endswith(("specialized.weight", "collaborative.weight")):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    objective = MaskedModelling(Objective(model), sparse=sparse)
    both = nn.ModuleList([model, objective]).to(device)
    encoder = torch.compile(model) if compiled else model
    return both, lambda: objective(encoder, batch)[0]


def theirs(config: RingMoEConfig, images: int, pixels: int, *, compiled: bool, device: str) -> tuple[nn.Module, Any]:
    """The peer on as many images of three bands, and its loss."""
    torch.manual_seed(0)
    encoder = timm_reference.swin(config, 3, pixels, mlp_ratio=3 * config.mlp_ratio)
    peer = SimMIM(encoder, 3).to(device)
    x_BCHW = torch.randn(images, 3, pixels, pixels, device=device)
    run: Any = torch.compile(peer) if compiled else peer
    return peer, lambda: run(x_BCHW)


def measure(options: argparse.Namespace, device: str) -> dict[str, float]:
    """Step rates and their ratios."""
    config = getattr(presets, options.preset)(options.pixels)
    batch, dtype = (
        batch_of(options.images, tuple(CONTRACT.inputs), options.pixels, device),
        getattr(torch, options.dtype),
    )
    how = {"compiled": options.compiled, "device": device}
    models = {name: ours(config, batch, sparse=name == "sparse", **how) for name in ("dense", "sparse")}
    if timm_reference.available():
        models["timm"] = theirs(config, options.images, options.pixels, **how)
    runs = {name: step_of(module, loss_of, dtype, device) for name, (module, loss_of) in models.items()}
    with freed_memory_kept():  # as in the training loop, and for all of them
        found = in_turn(runs, options.rounds, ours="dense")
    figures = {f"{name}_images_per_second": round(options.images / found[f"{name}_s"], 3) for name in runs}
    for clock in ("", "processor_"):
        if f"{clock}vs_sparse" in found:
            figures[f"{clock}sparse_vs_dense"] = round(1 / found[f"{clock}vs_sparse"], 4)
        if f"{clock}vs_timm" in found:
            figures[f"{clock}vs_timm"] = found[f"{clock}vs_timm"]
            figures[f"{clock}sparse_vs_timm"] = round(found[f"{clock}vs_timm"] / found[f"{clock}vs_sparse"], 4)
    return figures


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 images of 96 px: figures to look at, not to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=24, help="in a batch, all modalities together: 24 take 14 GB")
    parser.add_argument("--pixels", type=int, default=192)
    parser.add_argument("--preset", choices=("nano", "tiny", "small", "base"), default="tiny")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; 1 on a machine that others use too")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of autocast")
    parser.add_argument("--compiled", action="store_true", help="compile all encoders alike")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.quick:
        options.preset, options.images, options.pixels, options.rounds = "nano", 4, 96, 2
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = measure(options, device)
    about = {**vars(options), "device": device, "targets": TARGETS}
    print(json.dumps({"name": "train_speed", "ratio": figures.get("vs_timm"), **about, **figures, **machine()}))


if __name__ == "__main__":
    main()
