"""What each part of pre-training is worth: runs of equal steps with one thing changed, paired by seed."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from pretrain_draws import MIX, contract_of  # noqa: E402
from pretrain_run import Recipe, ask_one, learn  # noqa: E402
from pretrain_sets import Corpus, Scenes, read_all, thinned  # noqa: E402
from turns import machine  # noqa: E402

from ringmoe.evaluate import Probed  # noqa: E402
from ringmoe.modality import Modality  # noqa: E402
from ringmoe.objectives import MaskedModelling  # noqa: E402

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t of a two-sided 95 % interval, by the number of pairs."""

RADAR_L1, RADAR_L2 = ("sandbox_sar_l1",), ("ombria_s1", "sen1floods11_s1")
SPECTRAL, OPTICAL = ("sen1floods11_s2", "landsat8_cover"), ("rsscn7", "ombria_s2")
EVERY = (*OPTICAL, *SPECTRAL, *RADAR_L1, *RADAR_L2)
TASKS_OF = {Modality.OPT: OPTICAL, Modality.MS: SPECTRAL, Modality.SAR_L1: RADAR_L1, Modality.SAR_L2: RADAR_L2}
LANDSAT = ("landsat-8", "landsat-5")


@dataclass(frozen=True)
class Variant:
    """One run that differs from the plain one in one thing."""

    recipe: Recipe
    """How it is taught."""
    tasks: tuple[str, ...]
    """What both are asked."""
    scenes: tuple[Scenes, ...]
    """What it learns from."""


def variants(recipe: Recipe, scenes: Sequence[Scenes]) -> dict[str, Variant]:
    """The plain recipe, first, and each change of it; a row's difference is the plain one's figure less its own."""
    every = tuple(scenes)

    def changed(tasks: tuple[str, ...], **what: Any) -> Variant:
        return Variant(replace(recipe, **what), tasks, every)

    def without(tasks: tuple[str, ...], *terms: str) -> Variant:
        off = replace(recipe.objective.terms, **dict.fromkeys(terms, 0.0))
        return changed(tasks, objective=replace(recipe.objective, terms=off))

    shape = recipe.config()
    slots = len(Modality) * shape.specialized + shape.collaborative + shape.shared
    one = {**recipe.changes, "specialized": 0, "collaborative": 0, "shared": 1}
    found = {
        "plain": Variant(recipe, EVERY, every),
        "constant_gate": changed(EVERY, constant_gate=True),
        "without_power": without(RADAR_L1, "power"),
        "without_linear_power": without(RADAR_L1, "linear_power"),
        "without_determinant": without(RADAR_L1, "determinant"),
        "without_sar_l1_physics": without(RADAR_L1, "power", "linear_power", "determinant"),
        "with_eigenvalues": changed(
            RADAR_L1, objective=replace(recipe.objective, terms=replace(recipe.objective.terms, eigenvalues=0.5))
        ),
        "without_speckle": without(RADAR_L2, "speckle"),
        "without_angle": without(SPECTRAL, "angle"),
        "without_ratio": without(SPECTRAL, "ratio"),
        "with_texture": changed(EVERY, objective=replace(recipe.objective, texture=1.0)),
        "without_light": changed((*OPTICAL, *SPECTRAL), objective=replace(recipe.objective, light=0.0)),
        "without_views": changed(EVERY, objective=replace(recipe.objective, views=0.0)),
        "dense_of_equal_flops": changed(EVERY, changes={**one, "mlp_ratio": 3 * shape.mlp_ratio}),
        "dense_of_equal_parameters": changed(EVERY, changes={**one, "mlp_ratio": slots * shape.mlp_ratio}),
    }
    for modality, tasks in TASKS_OF.items():
        alone = tuple(s for s in scenes if s.sensor.modality is modality)
        found[f"{modality.value}_alone"] = Variant(
            replace(recipe, batch=share_of(modality, recipe, scenes)), tasks, alone
        )
    others = tuple(s for s in scenes if s.sensor.name not in LANDSAT)
    found["without_landsat"] = Variant(recipe, ("landsat8_cover",), others)
    if "sparse" in signature(MaskedModelling).parameters:
        found["sparse" if not recipe.sparse else "dense_encoder"] = changed(EVERY, sparse=not recipe.sparse)
    return found


def share_of(modality: Modality, recipe: Recipe, scenes: Sequence[Scenes]) -> int:
    """Chips of a modality in a step of all together: alone it learns from as many, and none is to gain by more."""
    mix = recipe.mix or MIX
    present = {s.sensor.modality for s in scenes}
    return max(2 * round(recipe.batch * mix[modality] / sum(mix[m] for m in present) / 2), 2)


@dataclass(frozen=True)
class Outcome:
    """One run's figures."""

    tables: Mapping[str, Probed]
    """By task, of all stages side by side."""
    seconds: float
    """Of training."""
    parameters: int
    """Of the encoder."""


def outcome(variant: Variant, corpus: Corpus, seed: int, steps: int, minutes: float) -> tuple[Outcome, int]:
    """Train one variant and ask it; and how many steps it had."""
    contract = contract_of(variant.scenes)
    run = learn(variant.recipe, variant.scenes, contract, seed=seed, steps=steps, minutes=minutes)
    tables = {}
    for task in corpus.tasks:
        if task.name in variant.tasks:
            tables[task.name] = ask_one(run.model, task, seed=seed, asked_px=variant.recipe.asked_px)
    size = sum(p.numel() for p in run.model.parameters())
    return Outcome(tables, run.history.seconds, size), len(run.history.loss) + len(run.history.skipped)


def compared(plain: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, Any]:
    """Differences, plain less other, by probe and task: mean, deviation and paired 95 % interval over seeds."""
    row: dict[str, Any] = {}
    for probe in ("knn", "linear"):
        row[probe] = {
            task: difference(
                [
                    (getattr(a.tables[task], probe), getattr(b.tables[task], probe))
                    for a, b in zip(plain, other, strict=True)
                ]
            )
            for task in other[0].tables
        }
    row["seconds"] = round(statistics.median(b.seconds for b in other), 1)
    row["seconds_ratio"] = round(statistics.median(b.seconds / a.seconds for a, b in zip(plain, other, strict=True)), 3)
    row["parameters"] = other[0].parameters
    return row


def difference(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Mean of the differences of pairs, their standard deviation, and half the width of the 95 % interval (t)."""
    apart = [a - b for a, b in pairs]
    if len(apart) < 2:
        return {"difference": round(apart[0], 4)}
    deviation = statistics.stdev(apart)
    half = T_95.get(len(apart), 1.96) * deviation / math.sqrt(len(apart))
    return {
        "difference": round(statistics.fmean(apart), 4),
        "std": round(deviation, 4),
        "low": round(statistics.fmean(apart) - half, 4),
        "high": round(statistics.fmean(apart) + half, 4),
    }


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="6 steps, one seed, a quarter of the images: figures that mean nothing"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of each plain run; every other has as many steps")
    parser.add_argument("--steps", type=int, default=0, help="instead of minutes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None, help="rows; the plain run is always made")
    parser.add_argument("--asked", type=int, default=128, help="side of the scenes asked about, in pixels")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    corpus = thinned(read_all(sandbox_px=128), 4) if options.quick else read_all()
    for name in corpus.skipped:
        print(f"skipped {name}", file=sys.stderr)
    steps, seeds = (6, 1) if options.quick else (options.steps, options.seeds)
    plan = {k: v for k, v in variants(Recipe(asked_px=options.asked), corpus.scenes).items() if v.scenes}
    names = [n for n in plan if n != "plain" and (options.only is None or n in options.only)]
    plain, rows = [], {}
    for seed in range(seeds):
        found, steps = outcome(plan["plain"], corpus, seed, steps, options.minutes)
        plain.append(found)
    print(
        f"plain: {steps} steps, {[{k: (v.knn, v.linear) for k, v in p.tables.items()} for p in plain]}", file=sys.stderr
    )
    for name in names:
        others = [outcome(plan[name], corpus, seed, steps, 0.0)[0] for seed in range(seeds)]
        rows[name] = compared(plain, others)
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    level = {
        probe: {t: round(statistics.fmean(getattr(p.tables[t], probe) for p in plain), 4) for t in plain[0].tables}
        for probe in ("knn", "linear")
    }
    about = {"steps": steps, "seeds": seeds, "plain": level, "skipped": list(corpus.skipped), **machine()}
    print(json.dumps({"name": "ablations", "quick": options.quick, **about, "rows": rows}))


if __name__ == "__main__":
    main()
