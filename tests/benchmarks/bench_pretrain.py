"""Frozen features after a short pre-training on real sets and the sandbox, beside what takes no training."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from pretrain_draws import contract_of  # noqa: E402
from pretrain_run import ROWS, Learned, Recipe, ask, learn, summary  # noqa: E402
from pretrain_sets import Corpus, read_all, thinned  # noqa: E402
from turns import machine  # noqa: E402

from ringmoe.evaluate import Probed  # noqa: E402

PROBES = ("knn", "linear", "few_shot", "retrieval")


def tables_of(corpus: Corpus, run: Learned, recipe: Recipe, seed: int) -> dict[str, dict[str, Probed]]:
    """The table of every task for one seed."""
    found, models = {}, {"pretrained": run.model, "untrained": run.untrained}
    for task in corpus.tasks:
        begun = time.perf_counter()
        table = found[task.name] = ask(models, task, seed=seed, asked_px=recipe.asked_px)
        told = ", ".join(f"{row} {table[row].knn:.3f} / {table[row].linear:.3f}" for row in ROWS)
        print(f"seed {seed}, {task.name}: {told}; {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return found


def figures_of(tables: dict[str, list[dict[str, Probed]]]) -> dict[str, Any]:
    """By probe, data set and row; rows of single stages under `stages`."""
    figures: dict[str, Any] = {probe: {} for probe in PROBES} | {"stages": {}}
    for name, found in tables.items():
        for probe in PROBES:
            means = summary(found, probe)
            figures[probe][name] = {k: v for k, v in means.items() if "/" not in k}
            figures["stages"].setdefault(probe, {})[name] = {k: v for k, v in means.items() if "/" in k}
    return figures


def verdict(figures: dict[str, Any]) -> dict[str, bool]:
    """Whether the scenes' classes are told apart as well as they ought to be."""
    found = {}
    for probe in ("knn", "linear"):
        row = figures[probe].get("rsscn7")
        if row:
            found[f"{probe}_5_points_above_untrained"] = row["pretrained"] >= row["untrained"] + 0.05
            baselines = max(row["image_statistics"], row["random_features"])
            found[f"{probe}_above_baselines"] = row["pretrained"] > baselines
            found[f"{probe}_above_76"] = row["pretrained"] > 0.76
    return found


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="10 steps, a quarter of the images: figures that mean nothing"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of pre-training, for each seed")
    parser.add_argument("--steps", type=int, default=0, help="instead of minutes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="to share the seeds out over processes")
    parser.add_argument("--preset", default=Recipe.preset)
    parser.add_argument("--chip", type=int, default=Recipe.chip_px)
    parser.add_argument("--asked", type=int, default=Recipe.asked_px, help="side of the scenes asked about, in pixels")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--rate", type=float, default=Recipe.rate)
    parser.add_argument("--share", type=float, default=Recipe.share)
    parser.add_argument("--texture", type=float, default=Recipe().objective.texture)
    parser.add_argument("--views", type=float, default=Recipe().objective.views)
    parser.add_argument("--light", type=float, default=Recipe().objective.light, help="between two views")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=Recipe.precision)
    parser.add_argument("--whole", action="store_true", help="what is hidden passes the experts too, as mask tokens")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    begun = time.perf_counter()
    corpus = thinned(read_all(sandbox_px=128), 4) if options.quick else read_all()
    for name in corpus.skipped:
        print(f"skipped {name}", file=sys.stderr)
    contract = contract_of(corpus.scenes)
    recipe = Recipe(
        options.preset,
        objective=replace(Recipe().objective, texture=options.texture, views=options.views, light=options.light),
        chip_px=options.chip,
        asked_px=options.asked,
        batch=options.batch,
        rate=options.rate,
        share=options.share,
        sparse=not options.whole,
        precision=options.precision,
    )
    steps, seeds = (10, 1) if options.quick else (options.steps, options.seeds)
    runs, tables = [], []
    for seed in range(options.first_seed, options.first_seed + seeds):  # every seed as many steps as the first
        runs.append(learn(recipe, corpus.scenes, contract, seed=seed, steps=steps, minutes=options.minutes))
        steps = len(runs[0].history.loss) + len(runs[0].history.skipped)
        tables.append(tables_of(corpus, runs[-1], recipe, seed))
    figures = figures_of({task.name: [each[task.name] for each in tables] for task in corpus.tasks})
    about = {
        "steps": steps,
        "images": runs[0].history.images,
        "seconds": round(sum(run.history.seconds for run in runs) / len(runs), 1),
        "seconds_by_seed": [round(run.history.seconds, 1) for run in runs],
        "seconds_in_all": round(time.perf_counter() - begun, 1),
        "images_per_second": round(sum(r.history.images_per_second for r in runs) / len(runs), 2),
        "parameters": sum(p.numel() for p in runs[0].model.parameters()),
        "terms_last": {k: round(sum(v[-20:]) / len(v[-20:]), 4) for k, v in runs[0].history.terms.items()},
        "skipped": list(corpus.skipped),
        "options": vars(options),
    }
    print(json.dumps({"name": "pretrain", "quick": options.quick, **verdict(figures), **figures, **about, **machine()}))


if __name__ == "__main__":
    main()
