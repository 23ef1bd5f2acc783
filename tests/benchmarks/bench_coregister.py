"""Known shifts and bends under clouds, radar to optics by closure and by truth; scikit-image and arosics beside."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from coregister_arosics import ask
from coregister_closure import UPSAMPLE, WRONG_PX, closed
from coregister_trials import HARDEST, SIZE, Trial, bent_trial, error_px, grounds, stranger, trial
from coregister_truth import against_truth
from skimage.registration import phase_cross_correlation

from catalog.coregister import estimate_shift
from catalog.displacement import Model
from catalog.matching import MODELS

MEGAPIXELS = SIZE**2 / 1e6


def peers(case: Trial) -> tuple[float, float, bool, float, float]:
    """Errors of scikit-image without and with masks, whether the masked answer is whole pixels, and their seconds."""
    filled = [np.where(u, i, i[u].mean()) for i, u in zip((case.reference, case.moving), case.usable, strict=True)]
    start = time.process_time()
    plain, _, _ = phase_cross_correlation(*filled, upsample_factor=UPSAMPLE)
    middle = time.process_time()
    masked, _, _ = phase_cross_correlation(
        *filled, upsample_factor=UPSAMPLE, reference_mask=case.usable[0], moving_mask=case.usable[1]
    )
    end = time.process_time()
    errors = [float(np.hypot(*(np.asarray(found) + case.offset))) for found in (plain, masked)]
    return errors[0], errors[1], bool(np.all(np.asarray(masked) % 1 == 0)), middle - start, end - middle


def optical(rng: np.random.Generator, trials: int, arosics_python: str | None) -> dict[str, Any]:
    """Known shifts, any model allowed: ours, scikit-image's and arosics' on the same pairs."""
    sources = grounds(rng)
    names = sorted(sources)
    rows, cases = [], []
    for k in range(trials):
        name = names[k % len(names)]
        case = trial(rng, sources[name][int(rng.integers(len(sources[name])))])
        start = time.process_time()
        shift = estimate_shift(case.reference, case.moving, *case.usable, 1.0, models=MODELS)
        seconds = time.process_time() - start
        plain, masked, whole, plain_s, masked_s = peers(case)
        cases.append(case)
        rows.append(
            {
                "ground": name,
                "accepted": shift.verdict == "accepted",
                "model": shift.model,
                "error": error_px(shift, case.offset),
                "before": float(np.hypot(*case.offset)),
                "masked": case.masked,
                "rmse": (shift.rmse_before_px, shift.rmse_after_px),
                "seconds": seconds,
                "plain": plain,
                "skmasked": masked,
                "whole": whole,
                "times": (plain_s, masked_s),
            }
        )
    with tempfile.TemporaryDirectory() as folder:
        answers = ask(arosics_python, cases, Path(folder))
    return optical_figures(rows) | arosics_figures(answers, cases)


def optical_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and shares of the trials."""
    taken = [r for r in rows if r["accepted"]]
    errors = np.array([r["error"] for r in taken])
    mild = np.array([r["masked"] <= HARDEST for r in taken])
    figures: dict[str, Any] = {
        "trials": len(rows),
        "grounds": sorted({r["ground"] for r in rows}),
        "accept_share": len(taken) / len(rows),
        "median_px": float(np.median(errors)),
        "p95_px": float(np.quantile(errors, 0.95)),
        "wrong_accept_share": float(np.mean(errors > WRONG_PX)),
        "p95_px_joint_mask_to_60": float(np.quantile(errors[mild], 0.95)),
        "masked_share_median": float(np.median([r["masked"] for r in rows])),
        "never_worse": bool(all(r["rmse"][1] <= r["rmse"][0] for r in taken)),
        "truth_worse_share": float(np.mean([r["error"] > max(r["before"], 0.1) for r in taken])),
        "larger_model_share": float(np.mean([r["model"] != "shift" for r in taken])),
        "seconds_per_megapixel": float(np.median([r["seconds"] for r in rows])) / MEGAPIXELS,
    }
    for peer, key, at in (("skimage", "plain", 0), ("skimage_masked", "skmasked", 1)):
        seconds = np.array([r["times"][at] for r in rows])
        figures |= peer_figures(peer, [r[key] for r in rows], len(rows), seconds)
    figures["skimage_masked_whole_pixels_share"] = float(np.mean([r["whole"] for r in rows]))
    return figures


def peer_figures(peer: str, errors: list[float], asked: int, seconds: np.ndarray) -> dict[str, Any]:
    """What a peer's answers, where it gave one, are worth."""
    figures: dict[str, Any] = {
        f"{peer}_accept_share": len(errors) / asked,
        f"{peer}_seconds_per_megapixel": float(np.median(seconds)) / MEGAPIXELS,
    }
    for name, value in (
        ("median_px", lambda e: np.median(e)),
        ("p95_px", lambda e: np.quantile(e, 0.95)),
        ("wrong_accept_share", lambda e: np.mean(e > WRONG_PX)),
    ):
        figures[f"{peer}_{name}"] = float(value(np.array(errors))) if errors else None
    return figures


def arosics_figures(told: dict[str, Any] | str, cases: list[Trial]) -> dict[str, Any]:
    """arosics over one window and over a grid of windows; null and the reason where it did not run."""
    if isinstance(told, str):
        return {"arosics": None, "arosics_reason": told}
    figures, answers = {"arosics": told["version"]}, told["answers"]
    for name in ("global", "local"):
        given = [(a[name], c.offset) for a, c in zip(answers, cases, strict=True) if a[name] is not None]
        errors = [float(np.hypot(*(np.array(found) + offset))) for found, offset in given]
        peer = "arosics" if name == "global" else "arosics_local"
        figures |= peer_figures(peer, errors, len(cases), np.array([a[f"{name}_s"] for a in answers]))
    return figures


def bends(rng: np.random.Generator, trials: int) -> dict[str, Any]:
    """Known shifts, affines and waves: which model was taken, and the error that it and that a shift alone leave."""
    figures: dict[str, Any] = {}
    worse = []
    for model in MODELS:
        kind: Model = model
        taken, errors, alone = [], [], []
        for _ in range(trials):
            case, offset = bent_trial(rng, kind)
            images = (case.reference, case.moving, *case.usable, 1.0)
            found, plain = estimate_shift(*images, models=MODELS), estimate_shift(*images)
            taken.append(found.model if found.verdict == "accepted" else None)
            if found.verdict == "accepted":
                errors.append(error_px(found, offset))
                alone.append(error_px(plain, offset))
        worse += [a > b + 0.05 for a, b in zip(errors, alone, strict=True)]
        key = f"bends_{kind}"
        figures |= {f"{key}_accept_share": len(errors) / trials, f"{key}_taken_share": taken.count(kind) / trials}
        if errors:
            medians = float(np.median(errors)), float(np.median(alone))
            figures |= {f"{key}_rms_px": medians[0], f"{key}_rms_px_shift_alone": medians[1]}
    return figures | {"bends_worse_than_shift_share": float(np.mean(worse)) if worse else None}


def strangers(rng: np.random.Generator, pairs: int) -> dict[str, Any]:
    """Pairs of two different places: the share to which any model is accepted."""
    sources = grounds(rng)
    cases = [stranger(rng, sources) for _ in range(pairs)]
    verdicts = [estimate_shift(c.reference, c.moving, *c.usable, 1.0, models=MODELS).verdict for c in cases]
    return {"unrelated_pairs": pairs, "unrelated_accept_share": verdicts.count("accepted") / max(pairs, 1)}


def main() -> None:
    """Measure and print one JSON object; its parts on stderr as they come. Seconds are the processor's."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="a tenth of the trials")
    options.add_argument("--trials", type=int, default=400)
    options.add_argument("--pairs", type=int, default=160)
    options.add_argument("--landscapes", type=int, default=20)
    options.add_argument("--seed", type=int, default=11)
    options.add_argument("--arosics-python", help="an interpreter that has arosics, asked in the same run")
    chosen = options.parse_args()
    part = 10 if chosen.quick else 1
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    rng = np.random.default_rng(chosen.seed)
    figures: dict[str, Any] = {"name": "coregister", "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    pairs, trials = max(chosen.pairs // part, 1), max(chosen.trials // part, 1)
    for measured in (
        lambda: optical(rng, trials, chosen.arosics_python),
        lambda: closed(rng, "sar_optical", ("S2/BEFORE", "S1/BEFORE"), pairs, "structure"),
        lambda: closed(rng, "sar_optical_flooded", ("S2/AFTER", "S1/AFTER"), pairs, "structure"),
        lambda: closed(rng, "two_dates", ("S2/BEFORE", "S2/AFTER"), pairs, "auto"),
        lambda: against_truth(rng, max(chosen.landscapes // part, 1)),
        lambda: bends(rng, max(trials // 10, 1)),
        lambda: strangers(rng, trials),
    ):
        found = measured()
        figures |= found
        print(json.dumps(found), file=sys.stderr, flush=True)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
