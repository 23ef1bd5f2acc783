"""The model's figures: the giant's parameters, its slots, its distance from timm, what its routers learn from."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

import router_gradient  # noqa: E402
import timm_reference  # noqa: E402
from turns import machine  # noqa: E402

from ringmoe import presets  # noqa: E402
from ringmoe.backbone import RingMoE, RingMoEConfig  # noqa: E402
from ringmoe.modality import Chips, Modality  # noqa: E402

CONTRACT = presets.paper_contract()
SLOTS = {9: (4, 4), 6: (4, 1), 3: (1, 1), 1: (0, 0)}
"""Specialized and collaborative experts of a one-modality model, by slots a block; one more is shared."""


def sizes() -> dict[str, Any]:
    """Encoder parameters of the giant and of what pruning makes of it, on the meta device."""
    whole = presets.describe(presets.giant(), CONTRACT)
    one = CONTRACT.only([Modality.MS])
    slots = {
        str(count): presets.describe(
            presets.pruned(presets.giant(), modalities=1, specialized=modal, collaborative=common), one
        ).parameters
        for count, (modal, common) in SLOTS.items()
    }
    return {
        "giant_params": whole.parameters,
        "giant_activated": whole.activated,
        "giant_tflop_per_image": round(whole.flops / 1e12, 4),
        "slots": slots,
    }


def timm_max_difference(sides: tuple[int, ...]) -> float | None:
    """Largest difference of the last map from timm's with equal weights, float64; None where timm is not installed."""
    if not timm_reference.available():
        return None
    worst = 0.0
    for pixels in sides:
        model = dense_model(presets.tiny(pixels))
        reference = timm_reference.twin(model, 3, pixels)
        x = torch.randn(1, 3, pixels, pixels, dtype=torch.float64)
        chips = Chips(x, torch.ones(1, pixels, pixels, dtype=torch.bool))
        with torch.no_grad():
            ours = model({Modality.OPT: chips}).pyramids[Modality.OPT][-1].permute(0, 2, 3, 1)
            worst = max(worst, float((ours - reference.forward_features(x)).abs().max()))  # type: ignore[operator]
    return worst


def dense_model(config: RingMoEConfig) -> RingMoE:
    """One slot a block, one modality, double precision, post-norms that are not zero."""
    torch.manual_seed(0)
    shape = replace(config, specialized=0, collaborative=0, post_norm_init=1.0, embedding="fixed")
    model = RingMoE(shape, CONTRACT.only([Modality.OPT])).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
    return model


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="timm at 96 px alone")
    quick = parser.parse_args().quick
    learned = router_gradient.gradient_ratio(constant_gate=False)
    figures = {
        **sizes(),
        "timm_max_difference": timm_max_difference((96,) if quick else (96, 192, 384)),
        "router_gradient_ratio": learned,
        "router_gradient_ratio_constant_gate": router_gradient.gradient_ratio(constant_gate=True),
    }
    print(json.dumps({"name": "model", "ratio": learned, "quick": quick, **figures, **machine()}))


if __name__ == "__main__":
    main()
