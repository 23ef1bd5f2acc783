"""The model's figures: the giant's size, its slots, its distance from timm, its routers' gradient, bands taken away."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

import router_gradient  # noqa: E402
import timm_reference  # noqa: E402
from turns import machine  # noqa: E402

import ringmoe  # noqa: E402
from catalog.sandbox import REGIONS, optics  # noqa: E402
from catalog.sandbox.landscape import draw  # noqa: E402
from catalog.sandbox.regions import grid_over  # noqa: E402
from catalog.sandbox.spectra import BANDS, SPECTRA  # noqa: E402
from catalog.sensors import SENTINEL_2  # noqa: E402
from ringmoe import presets  # noqa: E402
from ringmoe.backbone import RingMoE, RingMoEConfig  # noqa: E402
from ringmoe.modality import BandSpec, Chips, Modality  # noqa: E402

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


KEPT = (12, 10, 7, 4, 2, 1)
"""Of Sentinel-2's 13 bands."""
CHIP_PX = 64


def land(across: int) -> torch.Tensor:
    """So many times so many chips of the sandbox's eastern land in summer, (B, 13, 64, 64), as reflectance at 10 m.

    The sandbox knows ten bands; the others lie on a line between their neighbours, over the logarithm of wavelength.
    """
    region, side = REGIONS[1], CHIP_PX * across
    ground = draw(region, 10.0 * side, seed=7)
    eye = optics.footprint(ground.grid, grid_over(region, ground.size_m, 10.0), (0.0, 0.0), 5.0)
    shade = optics.light(ground, "summer", optics.Sun(35.0, 150.0, 1.0))
    at = np.log([band.centre_nm for band in SENTINEL_2.bands])
    known = np.log([band.centre_nm for name in BANDS for band in SENTINEL_2.bands if band.name == name])
    spectra = np.stack([np.interp(at, known, row) for row in SPECTRA])
    shares = optics.abundances(optics.growth(ground, "summer"), "summer", shade)
    pixels_CHW = sum(s[:, None, None] * optics.see(plane, eye) for s, plane in zip(spectra, shares, strict=True))
    pixels = torch.from_numpy(pixels_CHW.astype(np.float32)).unfold(1, CHIP_PX, CHIP_PX).unfold(2, CHIP_PX, CHIP_PX)
    return pixels.flatten(1, 2).transpose(0, 1)


def bands_kept_cosine(orders: int, across: int = 3) -> dict[str, Any]:
    """Mean cosine of the shipped model's pooled features of all 13 bands with those of some, over orders of leaving
    bands out; and, to hold it against, that of different chips of all bands."""
    encoder, pixels_BCHW = ringmoe.load().freeze(), land(across)
    bands = [BandSpec(b.name, b.common_name, b.centre_nm, b.width_nm) for b in SENTINEL_2.bands]

    def features(rows: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return encoder(pixels_BCHW[:, rows], "ms", bands=[bands[row] for row in rows], gsd_m=10.0).pooled

    whole_BD = features(list(range(len(bands))))
    found: dict[int, list[float]] = {count: [] for count in KEPT}
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(len(bands))
        for count in KEPT:
            some_BD = features(sorted(order[:count].tolist()))
            found[count].append(float(cosine_similarity(some_BD, whole_BD).mean()))
    others_BB = cosine_similarity(whole_BD[:, None], whole_BD[None], dim=-1)
    others = others_BB[~torch.eye(len(whole_BD), dtype=torch.bool)].mean()
    return {
        "bands_kept_cosine": {str(count): round(float(np.mean(values)), 4) for count, values in found.items()},
        "bands_kept_cosine_least": {str(count): round(min(values), 4) for count, values in found.items()},
        "other_chips_cosine": round(float(others), 4),
    }


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="timm at 96 px alone, fewer orders of bands")
    quick = parser.parse_args().quick
    learned = router_gradient.gradient_ratio(constant_gate=False)
    figures = {
        **sizes(),
        "timm_max_difference": timm_max_difference((96,) if quick else (96, 192, 384)),
        "router_gradient_ratio": learned,
        "router_gradient_ratio_constant_gate": router_gradient.gradient_ratio(constant_gate=True),
        **bands_kept_cosine(orders=2 if quick else 10),
    }
    print(json.dumps({"name": "model", "ratio": learned, "quick": quick, **figures, **machine()}))


if __name__ == "__main__":
    main()
