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

from pretrain_draws import contract_of  # noqa: E402
from pretrain_sets import Scenes, read_all  # noqa: E402
from prune_land import CHIP_PX, Chipped, chipped, lands, scenes  # noqa: E402
from prune_points import (  # noqa: E402
    BEGUN,
    OURS,
    SCRATCH,
    Recipe,
    course,
    device,
    fewer_bits,
    is_identical,
    paces,
    points,
    recover,
    say,
    sliced,
    untaught,
)
from prune_scores import (  # noqa: E402
    SCORES,
    TEACHER,
    UNTRAINED,
    Bootstrap,
    Key,
    Sums,
    headline,
    rows_of,
    scored,
    summed,
)
from prune_speed import by_shape, of_both_sizes  # noqa: E402
from prune_task import Cover  # noqa: E402
from turns import machine  # noqa: E402

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
    recipe: Recipe
    """How long everything learns."""
    teacher: Cover
    """21 networks a block."""


def world(options: argparse.Namespace) -> World:
    """Draw the land, see how fast the machine learns, and train the teacher."""
    chips, probes = (200, 100) if options.quick else (options.chips, options.probes)
    size_m = 1280.0 if options.quick else 5120.0
    west = list(lands(LEARNED[: 2 if options.quick else None], east=False, size_m=size_m))
    learned = chipped(west, KEY)
    seen = scenes(west[:2])
    del west
    if options.real and not options.quick:
        corpus = read_all(sandbox_px=128)
        seen += tuple(s for s in corpus.scenes if not s.sensor.name.startswith("sandbox"))
        say(f"real sets to pre-train on, but {', '.join(corpus.skipped) or 'none'}")
    per = int(size_m / (CHIP_PX * learned.sensor.gsd_m)) ** 2
    asked = chipped(lands(ASKED[: math.ceil(chips / per)], east=True, size_m=size_m), KEY)
    asked = asked.part(torch.arange(min(chips, len(asked))))
    chosen = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))[:probes]
    contract = contract_of(seen)
    say(f"{len(learned)} chips to learn from, {len(asked)} asked about")
    recipe = _recipe(options, seen, contract, learned)
    teacher = course(recipe, seen, contract, learned, seed=0, dense=False, more=0)
    return World(learned, learned.part(chosen), asked, contract, seen, recipe, teacher)


def _recipe(options: argparse.Namespace, seen: Sequence[Scenes], contract: DataContract, learned: Chipped) -> Recipe:
    if options.quick or options.steps:
        return Recipe(*(options.steps or (2, 8, 4)))
    pace = paces(seen, contract, learned)
    recipe = pace.recipe(options.minutes, options.seeds)
    say(f"{options.minutes:g} minutes of training are {recipe}, at {pace}")
    return recipe


@dataclass(frozen=True)
class Asked:
    """What one seed's models answered."""

    scores: dict[Key, np.ndarray]
    """SCORES by chips, (S, N)."""
    block_N: np.ndarray
    """Which block of land a chip lies in."""


def one_seed(found: World, seed: int, seeds: int) -> Asked:
    """Every point on a seed's share of the chips asked about."""
    asked = found.asked.part(torch.arange(seed, len(found.asked), seeds)) if seeds > 1 else found.asked
    scores: dict[Key, np.ndarray] = {}

    def score(method: str, slots: int, when: str, model: Cover) -> None:
        scores[method, slots, when] = one = scored(model, found.probe, asked)
        told = ", ".join(f"{name} {value:.3f}" for name, value in zip(SCORES, one.mean(1), strict=True))
        say(f"seed {seed}, {method} of {slots} slots {when}: {told}")

    recipe, config = found.recipe, found.teacher.backbone.config
    score(*TEACHER, found.teacher)
    score(*UNTRAINED, untaught(config, found.contract, found.learned, seed))
    for point in points(found.teacher, found.learned, found.contract, seed):
        score(point.method, point.slots, "before", point.model)
        recover(point.model, found.teacher, found.learned, recipe, seed)
        score(point.method, point.slots, "after", point.model)
        if point.slots == 1 and point.method == OURS[1]:
            for bits, smaller in fewer_bits(point.model):
                score(f"{point.method}_{bits}", 1, "after", smaller)
    whole = {"seed": 100 + seed, "dense": True, "more": recipe.recover}
    score(SCRATCH, 1, "after", course(recipe, found.seen, found.contract, found.learned, **whole))
    return Asked(scores, asked.block_N.numpy())


def together(parts: Sequence[Asked]) -> dict[Key, Sums]:
    """All seeds' scores by seed and block."""
    _, block_N = np.unique(np.concatenate([part.block_N for part in parts]), return_inverse=True)
    blocks = np.split(block_N, np.cumsum([len(part.block_N) for part in parts])[:-1])
    return {key: summed([part.scores[key] for part in parts], blocks) for key in parts[0].scores}


def shapes(found: World) -> dict[str, RingMoE]:
    """The first seed's model of every number of slots, by name, and one of a single slot in fewer bits."""
    models = {"21": found.teacher.backbone, "9": sliced(found.teacher).backbone}
    for point in points(found.teacher, found.learned, found.contract, 0):
        models.setdefault(str(point.slots), point.model.backbone)
        if point.slots == 1:
            return models | {f"1_{bits}": smaller.backbone for bits, smaller in fewer_bits(point.model)}
    raise AssertionError("no point has one slot")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All figures but those of speed beside timm."""
    quick, seeds = options.quick, 1 if options.quick else options.seeds
    found = world(options)
    identical = is_identical(found.teacher, sliced(found.teacher), found.asked)
    whole = together([one_seed(found, seed, seeds) for seed in range(seeds)])
    blocks = whole[TEACHER].count_RG.shape[1]
    drawn = Bootstrap(seeds, blocks)
    costs = by_shape(shapes(found), found.asked, 16 if quick else 128, options.rounds)
    say("every point is scored and timed")
    about = {"recipe": asdict(found.recipe), "chips_asked": len(found.asked), "blocks": blocks, "seeds": seeds}
    return {"points": rows_of(whole, drawn, costs), "slice_identical": identical, **headline(whole, drawn), **about}


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps and chips: figures that mean nothing")
    parser.add_argument("--only", choices=("speed",), help="speed beside timm, without a teacher")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training in all, about; scoring comes on top")
    steps = {"nargs": 3, "type": int, "metavar": ("PRETRAIN", "ADAPT", "RECOVER")}
    parser.add_argument("--steps", **steps, help="instead of minutes, as in a recipe printed before")
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
    figures = {} if options.only else measured(options)
    speed = of_both_sizes(options.rounds, quick=options.quick)
    known = {"name": "prune", "quick": options.quick, "ratio": speed["speed_over_flop_ratio"]}
    about = {"device": str(device()), "seconds_in_all": round(time.perf_counter() - BEGUN, 1)}
    print(json.dumps({**known, **figures, **speed, **about, **machine()}))


if __name__ == "__main__":
    main()
