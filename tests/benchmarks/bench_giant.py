"""The 14.7 B model on one GPU: inference and complete training steps, share of the peak, memory; narrowed on a CPU."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from ringmoe import presets  # noqa: E402
from ringmoe.backbone import RingMoE, RingMoEConfig  # noqa: E402
from ringmoe.loop import parameter_groups  # noqa: E402
from ringmoe.masking import mask_batch  # noqa: E402
from ringmoe.modality import Chips, Modality  # noqa: E402
from ringmoe.moe import Router  # noqa: E402
from ringmoe.objectives import Objective  # noqa: E402
from ringmoe.optim import LeanAdamW  # noqa: E402
from ringmoe.parallel import clip_gradients  # noqa: E402
from ringmoe.recompute import recompute  # noqa: E402

PIXELS = 192
CONTRACT = presets.paper_contract()


@dataclass(frozen=True)
class Plan:
    """What is run."""

    config: RingMoEConfig
    """The giant, or one of its depth on narrow widths."""
    device: torch.device
    """Where."""
    images: int
    """In a batch, a quarter of each modality."""
    steps: int
    """Timed, after two that are not."""
    states: str
    """Moments: 8bit or bfloat16."""
    again: str
    """What the backward pass computes again: nothing, activations or branches."""
    compiled: bool
    """Blocks and update through torch.compile."""


def planned(options: argparse.Namespace) -> Plan:
    """The whole giant where there is CUDA; else, as said in the result, the same depth on narrow widths."""
    cuda = torch.cuda.is_available()
    narrow = replace(presets.giant(), dim=16 if options.quick else 32, heads=(1, 2, 4, 8))
    return Plan(
        config=presets.giant() if cuda and not options.narrow else narrow,
        device=torch.device("cuda" if cuda else "cpu"),
        images=options.images or ((64 if options.states == "bfloat16" else 128) if cuda else 4),
        steps=3 if options.quick else options.steps,
        states=options.states,
        again=options.recompute,
        compiled=options.compile,
    )


def built(plan: Plan) -> tuple[RingMoE, Objective]:
    """Model and decoders made on the device itself, in bfloat16, no copy in the host's memory; routers in float32."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with plan.device:
            model = RingMoE(plan.config, CONTRACT)
            objective = Objective(model)
    finally:
        torch.set_default_dtype(before)
    for router in (m for m in model.modules() if isinstance(m, Router)):
        router.float()
    recompute(model, plan.again)  # type: ignore[arg-type]
    for block in model.blocks() if plan.compiled else []:
        block.compile()
    return model, objective


def fixed(plan: Plan) -> tuple[dict[Modality, Chips], dict[Modality, Tensor]]:
    """One batch of smooth noise and its masks, made once and kept on the device."""
    generator = torch.Generator().manual_seed(0)
    each, batch = max(plan.images // len(CONTRACT.inputs), 1), {}
    for modality, contract in CONTRACT.inputs.items():
        coarse = torch.randn(each, len(contract.bands), PIXELS // 8, PIXELS // 8, generator=generator)
        pixels = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
        batch[modality] = Chips(pixels, torch.ones(each, PIXELS, PIXELS, dtype=torch.bool)).to(plan.device)
    masks = mask_batch(batch, generator=generator)
    return batch, {m: mask.to(plan.device) for m, mask in masks.items()}


def peak_tflops(device: torch.device) -> float:
    """What a square product of matrices in bfloat16 reaches, the best of ten."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = min(timed(lambda: a @ b, device) for _ in range(10))
    return 2 * side**3 / best / 1e12


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's queue empty before and after."""
    settled(device)
    began = time.perf_counter()
    work()
    settled(device)
    return time.perf_counter() - began


def settled(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def inference(plan: Plan, model: RingMoE) -> float:
    """Seconds of a forward pass of the whole batch, median."""
    batch, _ = fixed(plan)
    model.eval()
    with torch.inference_mode():
        runs = [timed(lambda: model(batch), plan.device) for _ in range(plan.steps + 2)]
    return statistics.median(runs[2:])


def training(plan: Plan, model: RingMoE, objective: Objective) -> dict[str, Any]:
    """Complete steps on one fixed batch: seconds of their parts, medians, and the loss of each."""
    batch, masks = fixed(plan)
    both = nn.ModuleList([model, objective]).train()
    parameters = list(both.parameters())
    moments: Any = plan.states
    fused = plan.compiled or plan.device.type == "cuda"
    optimiser = LeanAdamW(parameter_groups(both, 0.05), lr=3e-4, states=moments, compiled=fused)
    found: dict[str, list[float]] = {"forward_s": [], "backward_s": [], "update_s": [], "loss": []}

    def update() -> None:
        clip_gradients(parameters, 5.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    for _ in range(plan.steps + 2):
        losses: list[Tensor] = []
        found["forward_s"].append(
            timed(lambda into=losses: into.append(objective(model(batch, masks), batch, masks).total), plan.device)
        )
        found["backward_s"].append(timed(losses[0].backward, plan.device))
        found["update_s"].append(timed(update, plan.device))
        found["loss"].append(losses[0].item())
    told: dict[str, Any] = {name: statistics.median(found[name][2:]) for name in found if name != "loss"}
    return told | {"loss": [round(value, 4) for value in found["loss"]]}


def peak_gb(device: torch.device) -> float:
    """Most memory held at once: the device's, or on a CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measured(plan: Plan) -> dict[str, Any]:
    """All figures of a plan."""
    peak = peak_tflops(plan.device)
    build: list[tuple[RingMoE, Objective]] = []
    built_s = timed(lambda: build.append(built(plan)), plan.device)
    model, objective = build[0]
    images = sum(len(chips) for chips in fixed(plan)[0].values())
    flops = presets.describe(plan.config, CONTRACT, PIXELS).flops
    forward_s, step = inference(plan, model), training(plan, model, objective)
    step_s = step["forward_s"] + step["backward_s"] + step["update_s"]
    return {
        "images_per_second": images / step_s,
        "share_of_peak": 3 * flops * images / step_s / 1e12 / peak,
        "peak_gb": peak_gb(plan.device),
        "params": sum(p.numel() for p in model.parameters()),
        "forward_images_per_second": images / forward_s,
        "forward_share_of_peak": flops * images / forward_s / 1e12 / peak,
        "peak_tflops": peak,
        "tflop_per_image": 3 * flops / 1e12,
        "images": images,
        "build_s": built_s,
        **step,
        "loss_falls": step["loss"][-1] < step["loss"][0],
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three steps; on a CPU half the width")
    parser.add_argument("--narrow", action="store_true", help="the narrowed giant on CUDA, too")
    parser.add_argument("--images", type=int, help="in a batch; 128 on CUDA with 8bit, 64 with bfloat16, 4 on a CPU")
    parser.add_argument("--steps", type=int, default=6, help="timed steps, after two that are not")
    parser.add_argument("--states", choices=["8bit", "bfloat16"], default="8bit", help="AdamW's moments")
    parser.add_argument("--recompute", choices=["nothing", "activations", "branches"], default="branches")
    parser.add_argument("--compile", action="store_true", help="compile the blocks; the update is on CUDA always")
    plan = planned(parser.parse_args())
    whole = plan.config == presets.giant()
    head = {
        "name": "giant",
        "what": "the giant"
        if whole
        else f"a giant narrowed to width {plan.config.dim}: its figures are not the giant's",
        "dtype": "bfloat16",
        "states": plan.states,
        "recompute": plan.again,
        "compiled": plan.compiled,
    }
    print(json.dumps(head | measured(plan) | machine(plan.device)))


if __name__ == "__main__":
    main()
