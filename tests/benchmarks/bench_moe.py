"""One RMoE layer, forward and backward, beside one-hot capacity dispatch, a loop over experts and a dense network."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from moe_peers import Peer, dense, loop, one_hot  # noqa: E402
from turns import in_turn, machine  # noqa: E402

from ringmoe.moe import RingMoELayer, Survivors, TokenGroups  # noqa: E402

MODALITIES, EXPERTS, RATIO = 4, 4, 4
Case = tuple[str, str, int, int]
"""Device, dtype, width and tokens."""

CPU: tuple[Case, ...] = (
    *(("cpu", "bfloat16", dim, 9216) for dim in (96, 192, 384)),
    ("cpu", "bfloat16", 192, 2304),
    ("cpu", "bfloat16", 384, 2304),
    *(("cpu", "float32", dim, 9216) for dim in (96, 192)),
    ("cpu", "float32", 192, 2304),
)
CUDA: tuple[Case, ...] = tuple(("cuda", "bfloat16", dim, 18432) for dim in (448, 896, 1792))
QUICK: tuple[Case, ...] = (("cpu", "bfloat16", 96, 2304), ("cpu", "float32", 96, 2304))


def layer_of(dim: int) -> RingMoELayer:
    """The paper's layer: 16 specialized, 4 collaborative, 1 shared expert, with routers that spread the tokens."""
    each = tuple(range(EXPERTS))
    kept = Survivors((each,) * MODALITIES, each)
    layer = RingMoELayer(dim, RATIO * dim, survivors=kept, specialized=EXPERTS, collaborative=EXPERTS, shared=1)
    for router in (layer.specialized, layer.collaborative):
        assert router is not None
        nn.init.normal_(router.weight, std=dim**-0.5)
    return layer


def groups_of(tokens: int, device: str) -> TokenGroups:
    """As many tokens of every modality, all of them seen."""
    modality_T = torch.arange(MODALITIES, device=device).repeat_interleave(tokens // MODALITIES)
    counted_MT = (modality_T == torch.arange(MODALITIES, device=device)[:, None]).float()
    return TokenGroups(modality_T, counted_MT, tuple((m, tokens // MODALITIES) for m in range(MODALITIES)))


def passes(case: Case, *, train: bool) -> dict[str, Callable[[], None]]:
    """One pass of each that is compared, on the same weights where it has them; training adds the backward pass."""
    device, kind, dim, tokens = case
    dtype = getattr(torch, kind)
    torch.manual_seed(0)
    layer, groups = layer_of(dim), groups_of(tokens, device)
    parts: dict[str, nn.Module] = {
        "ours": layer,
        "onehot": Peer(layer, one_hot),
        "loop": Peer(layer, loop),
        "dense": dense(dim, 3 * RATIO * dim),
    }
    x_TC = torch.randn(tokens, dim, device=device, dtype=dtype, requires_grad=train)
    cotangent_TC = torch.randn_like(x_TC)

    def one(name: str, part: nn.Module) -> None:
        with torch.set_grad_enabled(train):
            y_TC = part(x_TC) if name == "dense" else part(x_TC, groups)
            y_TC = y_TC[0] if name == "ours" else y_TC
        if train:
            part.zero_grad(set_to_none=True)
            x_TC.grad = None
            y_TC.backward(cotangent_TC)

    return {name: partial(one, name, part.to(device, dtype)) for name, part in parts.items()}


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Times and ratios of training (forward and backward) and, their names with `forward_`, of the forward pass."""
    device, _, dim, tokens = case
    found = in_turn(passes(case, train=True), rounds, seldom=("onehot",))
    work = 6 * tokens * 2 * dim * 3 * RATIO * dim
    found["tflops"] = round(work / found["ours_s"] / 1e12, 3)
    forward = in_turn(passes(case, train=False), rounds, seldom=("onehot",))
    found |= {f"forward_{name}": value for name, value in forward.items()}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        passes(case, train=True)["ours"]()
        found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small layers: figures to look at, not to quote")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose key holds this, as c192")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; 1 on a machine that others use too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = QUICK if options.quick else CPU + (CUDA if torch.cuda.is_available() else ())
    figures: dict[str, Any] = {}
    for case in cases:
        device, dtype, dim, tokens = case
        key = f"{device}.{dtype}.c{dim}.t{tokens}"
        if options.only not in key:
            continue
        found = measure(case, 3 if options.quick else options.rounds)
        print(f"{key}: {found}", file=sys.stderr)
        at = figures.setdefault(device, {}).setdefault(dtype, {}).setdefault(f"c{dim}", {})
        at[f"t{tokens}"] = found
    print(json.dumps({"name": "moe", "ratio": head_ratio(figures), "quick": options.quick, **figures, **machine()}))


def head_ratio(figures: dict[str, Any]) -> float | None:
    """Training throughput over a dense network's, bf16 on the CPU, the widest measured."""
    widths = figures.get("cpu", {}).get("bfloat16", {})
    return next((t["vs_dense"] for c in reversed(widths.values()) for t in c.values()), None)


if __name__ == "__main__":
    main()
