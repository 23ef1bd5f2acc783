"""What pruning keeps of a teacher: 21 to 1 expert networks a block, by every method, before and after one recovery."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

import pretrain_run  # noqa: E402
from pretrain_draws import contract_of  # noqa: E402
from pretrain_sets import Scenes, read_all  # noqa: E402
from prune_land import CHIP_PX, Chipped, chipped, lands, scenes  # noqa: E402
from prune_points import (  # noqa: E402
    OURS,
    SCRATCH,
    Recipe,
    device,
    is_identical,
    points,
    recover,
    say,
    sliced,
    taught,
    untaught,
)
from prune_scores import SCORES, TASKS, Bootstrap, Scale, Sums, deviation, points_above, rounded, scored, summed  # noqa: E402
from prune_speed import beside_timm, by_slots  # noqa: E402
from prune_task import Cover  # noqa: E402
from turns import machine  # noqa: E402

from ringmoe import presets  # noqa: E402
from ringmoe.backbone import RingMoE  # noqa: E402
from ringmoe.contract import DataContract  # noqa: E402

KEY = "opt"
"""Modality that is pruned for."""
LEARNED, ASKED = range(1, 5), range(101, 114)
"""Seeds of the landscapes in the west that are learned from, and of those in the east that are asked about."""


@dataclass(frozen=True)
class World:
    """Everything that is the same for all seeds."""

    learned: Chipped
    """Chips to learn from; their labels are the teacher's and the probes' alone."""
    probe: Chipped
    """Those of them that probes are fitted on."""
    asked: Chipped
    """Chips of landscapes that nothing has seen."""
    contract: DataContract
    """Of all four modalities."""
    seen: tuple[Scenes, ...]
    """What masked modelling saw."""
    teacher: Cover
    """21 networks a block."""


def world(recipe: Recipe, *, quick: bool, chips: int, probes: int, real: bool) -> World:
    """Draw the land and train the teacher."""
    size_m = 1280.0 if quick else 5120.0
    west = list(lands(LEARNED[: 2 if quick else None], east=False, size_m=size_m))
    learned = chipped(west, KEY)
    seen = scenes(west[:2])
    del west
    if real:
        corpus = read_all(sandbox_px=128)
        seen += tuple(s for s in corpus.scenes if not s.sensor.name.startswith("sandbox"))
        say(f"real sets to pre-train on, but {', '.join(corpus.skipped) or 'none'}")
    per = int(size_m / (CHIP_PX * learned.sensor.gsd_m)) ** 2
    asked = chipped(lands(ASKED[: math.ceil(chips / per)], east=True, size_m=size_m), KEY)
    asked = asked.part(torch.arange(min(chips, len(asked))))
    chosen = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))[:probes]
    contract = contract_of(seen)
    say(f"{len(learned)} chips to learn from, {len(asked)} asked about")
    teacher = course(recipe, seen, contract, learned, seed=0, dense=False, more=0)
    return World(learned, learned.part(chosen), asked, contract, seen, teacher)


def course(
    recipe: Recipe,
    seen: Sequence[Scenes],
    contract: DataContract,
    learned: Chipped,
    *,
    seed: int,
    dense: bool,
    more: int,
) -> Cover:
    """Masked modelling over all modalities, and then land cover, so many steps more of it than the teacher had."""
    changes: dict[str, object] = {"pretrain_windows": presets.nano(CHIP_PX).pretrain_windows}
    if dense:
        changes |= {"specialized": 0, "collaborative": 0}
    plain = pretrain_run.Recipe(chip_px=recipe.chip_px, changes=changes)
    base = pretrain_run.learn(plain, seen, contract, seed=seed, steps=recipe.pretrain).model
    return taught(base, learned, recipe.adapt + more, recipe.rate, seed)


Key = tuple[str, int, str]
"""Method, slots, and before or after."""


def one_seed(found: World, recipe: Recipe, seed: int, seeds: int) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """Scores of every point on a seed's share of the chips asked about, and these chips' blocks."""
    asked = found.asked.part(torch.arange(seed, len(found.asked), seeds)) if seeds > 1 else found.asked
    scores: dict[Key, np.ndarray] = {}

    def score(key: Key, model: Cover) -> None:
        scores[key] = scored(model, found.probe, asked)
        told = ", ".join(f"{name} {value:.3f}" for name, value in zip(SCORES, scores[key].mean(1), strict=True))
        say(f"seed {seed}, {key[0]} of {key[1]} slots {key[2]}: {told}")

    config = found.teacher.backbone.config
    score(("teacher", 21, "before"), found.teacher)
    score(("untrained", 21, "before"), untaught(config, found.contract, found.learned, seed))
    for point in points(found.teacher, found.learned, found.contract, seed):
        score((point.method, point.slots, "before"), point.model)
        recover(point.model, found.teacher, found.learned, recipe, seed)
        score((point.method, point.slots, "after"), point.model)
    whole = {"seed": 100 + seed, "dense": True, "more": recipe.recover}
    score((SCRATCH, 1, "after"), course(recipe, found.seen, found.contract, found.learned, **whole))
    return scores, asked.block_N.numpy()


def together(
    parts: Sequence[tuple[dict[Key, np.ndarray], np.ndarray]],
) -> tuple[dict[Key, Sums], list[dict[Key, np.ndarray]]]:
    """All seeds' scores by block, and each seed's means."""
    block_N = np.concatenate([blocks for _, blocks in parts])
    block_N = np.unique(block_N, return_inverse=True)[1]
    whole = {key: summed(np.concatenate([s[key] for s, _ in parts], 1), block_N) for key in parts[0][0]}
    return whole, [{key: scores.mean(1) for key, scores in found.items()} for found, _ in parts]


def rows_of(
    whole: dict[Key, Sums], seeds: list[dict[Key, np.ndarray]], drawn: Bootstrap, costs: dict[int, dict[str, float]]
) -> list[dict[str, Any]]:
    """A row for each point: what it costs, its scores, and what of the teacher it keeps."""
    scale = Scale(whole["teacher", 21, "before"], whole["untrained", 21, "before"])
    rows = []
    for key, sums in whole.items():
        row: dict[str, Any] = {"method": key[0], "slots": key[1], "recovery": key[2], **costs[key[1]]}
        row["score"] = dict(zip(SCORES, map(rounded, sums.means()), strict=True))
        row["retention"] = {}
        for task in scale.quoted():
            each = {n: _retention(found, key, task) for n, found in enumerate(seeds)}
            row["retention"][TASKS[task]] = drawn.interval(scale.retention(sums, task)) | {"std": deviation(each)}
        rows.append(row)
    rows.insert(2, rows[0] | costs[9] | {"method": "slice", "slots": 9})
    return rows


def _retention(means: dict[Key, np.ndarray], key: Key, task: int) -> float:
    least, most = means["untrained", 21, "before"][task], means["teacher", 21, "before"][task]
    return float((means[key][task] - least) / (most - least))


def headline(whole: dict[Key, Sums], drawn: Bootstrap) -> dict[str, Any]:
    """What the targets speak of, each with its interval, and whether it is met."""
    teacher, untrained = whole["teacher", 21, "before"], whole["untrained", 21, "before"]
    scale = Scale(teacher, untrained)
    quoted = scale.quoted()
    ours = {slots: whole[method, slots, "after"] for slots, method in OURS.items()}
    if not quoted:
        return {"targets": [], "note": "no task has a teacher 10 points above the untrained model"}
    found = {
        "dense_retention": drawn.interval(scale.mean_retention(ours[1])),
        "nine_to_six_points": drawn.interval(points_above(teacher, ours[6], quoted)),
        "dense_over_kc": drawn.interval(points_above(ours[1], whole["kc", 1, "after"], quoted)),
        "dense_over_scratch": drawn.interval(points_above(ours[1], whole[SCRATCH, 1, "after"], quoted)),
        "dense_over_scratch_distilled": drawn.interval(
            points_above(ours[1], whole["scratch_distilled", 1, "after"], quoted)
        ),
    }
    wanted = {
        "dense_retention": ("at least 0.90 of the teacher kept at one slot", lambda v: v >= 0.90),
        "nine_to_six_points": ("at most 0.5 points lost from nine slots to six", lambda v: v <= 0.5),
        "dense_over_kc": ("above KC with the same recovery, points", lambda v: v > 0),
        "dense_over_scratch": ("above the same shape through the teacher's whole course, points", lambda v: v > 0),
        "dense_over_scratch_distilled": ("above the same shape with the same recovery alone, points", lambda v: v > 0),
    }
    targets = [
        {"target": text, **found[name], "met": bool(good(found[name]["value"]))}
        for name, (text, good) in wanted.items()
    ]
    aim = {"target": "the aim: 0.97 of the teacher kept at one slot", **found["dense_retention"]}
    targets.append(aim | {"met": found["dense_retention"]["value"] >= 0.97})
    return {name: row["value"] for name, row in found.items()} | {
        "targets": targets,
        "quoted": [TASKS[t] for t in quoted],
    }


def shapes(found: World) -> dict[int, RingMoE]:
    """The first seed's model of every number of slots."""
    models = {21: found.teacher.backbone, 9: sliced(found.teacher).backbone}
    for point in points(found.teacher, found.learned, found.contract, 0):
        models.setdefault(point.slots, point.model.backbone)
        if point.slots == 1:
            break
    return models


def recipe_in(minutes: float, seeds: int) -> Recipe:
    """Steps that fit into so many minutes of training on one core of the machine that this was tuned on.

    A quarter goes to the teacher and the dense model from scratch of each seed, in masked modelling (0.8 s a step of
    the teacher, 0.4 s of a dense one), a quarter to their land cover (0.18 s and 0.08 s), half to 15 recoveries a seed.
    """
    seconds = 60 * minutes
    pretrain = 0.25 * seconds / (0.8 + 0.4 * seeds)
    learn = 0.25 * seconds / (0.18 + 0.08 * seeds)
    recover = 0.5 * seconds / (seeds * 15 * 0.2)
    return Recipe(*(max(int(n), 10) for n in (pretrain, learn, recover)))


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps and chips: figures that mean nothing")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training in all, about; scoring comes on top")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chips", type=int, default=20_800, help="asked about, shared by the seeds")
    parser.add_argument("--probes", type=int, default=2000, help="chips that probes are fitted on")
    parser.add_argument(
        "--real", action=argparse.BooleanOptionalAction, default=True, help="pre-train on real sets too"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of timing")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    begun = time.perf_counter()
    recipe = Recipe(2, 8, 4) if options.quick else recipe_in(options.minutes, options.seeds)
    chips, probes, seeds = (200, 100, 1) if options.quick else (options.chips, options.probes, options.seeds)
    found = world(recipe, quick=options.quick, chips=chips, probes=probes, real=options.real and not options.quick)
    identical = is_identical(found.teacher, sliced(found.teacher), found.asked)
    parts = [one_seed(found, recipe, seed, seeds) for seed in range(seeds)]
    whole, means = together(parts)
    drawn = Bootstrap(len(next(iter(whole.values())).count_G))
    costs = by_slots(shapes(found), found.asked, 16 if options.quick else 128, options.rounds)
    figures = {"points": rows_of(whole, means, drawn, costs), "slice_identical": identical, **headline(whole, drawn)}
    small = options.quick
    speed = {
        "nano": beside_timm(presets.nano(64), 4 if small else 32, 64, 2 if small else options.rounds),
        "tiny": beside_timm(presets.tiny(192), 1 if small else 4, 96 if small else 192, 1 if small else options.rounds),
    }
    about = {
        "speed_over_flop_ratio": speed["nano"].get("speed_over_flop_ratio"),
        "speed_dense_over_full": speed["nano"]["over_full"],
        "speed": speed,
        "recipe": asdict(recipe),
        "chips_asked": len(found.asked),
        "blocks": len(next(iter(whole.values())).count_G),
        "seeds": seeds,
        "device": str(device()),
        "seconds_in_all": round(time.perf_counter() - begun, 1),
    }
    print(
        json.dumps(
            {
                "name": "prune",
                "quick": options.quick,
                "ratio": about["speed_over_flop_ratio"],
                **figures,
                **about,
                **machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
