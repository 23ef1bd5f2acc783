"""What features are worth, chip by chip, and how sure differences of it are."""

# Shape suffixes: N chips, P pixels asked of a chip, D features, K classes, S scores, R seeds, G blocks, B draws.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from prune_land import CHIP_PX, Chipped
from prune_points import FEWER, OURS, SCRATCH
from prune_task import Cover
from torch import Tensor

from ringmoe.probe import linear_probe, nearest_neighbours, standardise

TASKS = ("knn", "linear", "dense")
"""Cover of most of a chip, by its five nearest neighbours and by logistic regression on the mean of the last map; cover
of single pixels, by logistic regression on all four maps. Fitted anew for every model."""
SCORES = (*TASKS, "head")
"""And the pixels that the heads tell right, which are not fitted again: what a user of the model meets."""
PLACES = tuple((row, col) for row in (5, 13, 21, 29) for col in (5, 13, 21, 29))[::3]
"""Pixels asked of a chip of CHIP_PX."""
DRAWS = 2000
LEAST_GAP = 0.10
"""Of the teacher's score over the untrained one's; below it no retention is quoted."""
INTERVAL = (
    f"2.5th and 97.5th percentile of {DRAWS} draws with replacement of blocks of 512 m and, independently, of seeds, "
    "the same for all models (paired). Every seed is asked about its own share of the chips. The teacher is one: "
    "seeds differ in pruning by lot, recovery, the untrained model and the dense model from scratch. Few seeds show "
    "less than their whole spread, and one shows none."
)
"""What low and high of a figure are."""


@dataclass(frozen=True)
class Described:
    """What a model makes of chips."""

    mean_ND: Tensor
    """The last map's mean."""
    pixel_NPD: Tensor
    """All maps at PLACES, each from the token that covers the pixel."""
    head_N: Tensor
    """Share of pixels that the heads tell right."""


@torch.inference_mode()
def described(model: Cover, asked: Chipped) -> Described:
    """Features and answers of a frozen model, in one pass."""
    model.eval()
    device = next(model.parameters()).device
    rows_P, cols_P = (torch.tensor([p[i] for p in PLACES]) for i in (0, 1))
    means, pixels, heads = [], [], []
    for chips, cover_BHW in zip(asked.batches(), asked.cover_NHW.split(250), strict=True):
        pyramid, logits_BKHW = model.pyramid_and_logits(chips.to(device))
        means.append(pyramid[-1].mean((2, 3)).float().cpu())
        tokens = [m[:, :, rows_P * m.shape[2] // CHIP_PX, cols_P * m.shape[3] // CHIP_PX] for m in pyramid]
        pixels.append(torch.cat(tokens, 1).movedim(1, 2).float().cpu())
        heads.append((logits_BKHW.argmax(1).cpu() == cover_BHW).double().mean((1, 2)))
    return Described(torch.cat(means), torch.cat(pixels), torch.cat(heads))


def scored(model: Cover, learned: Chipped, asked: Chipped) -> np.ndarray:
    """SCORES of every chip asked about, (S, N), 0 to 1; probes are fitted on the chips learned from."""
    train, test = described(model, learned), described(model, asked)
    train_N, test_N = learned.main_N, asked.main_N
    fitted, given = standardise(train.mean_ND, test.mean_ND)
    rows, cols = zip(*PLACES, strict=True)
    pixel_train, pixel_test = (part.cover_NHW[:, rows, cols].long() for part in (learned, asked))
    flat, flat_given = standardise(train.pixel_NPD.flatten(0, 1), test.pixel_NPD.flatten(0, 1))
    dense_M = linear_probe(flat, pixel_train.flatten(), flat_given, iterations=60)
    right = [
        nearest_neighbours(fitted, train_N, given) == test_N,
        linear_probe(fitted, train_N, given) == test_N,
        (dense_M == pixel_test.flatten()).view(pixel_test.shape).double().mean(1),
        test.head_N,
    ]
    return np.stack([values.double().numpy() for values in right])


@dataclass(frozen=True)
class Sums:
    """Scores of one model, by seed and by block of land."""

    sum_SRG: np.ndarray
    """Sums of scores over the chips of a block that a seed is asked about."""
    count_RG: np.ndarray
    """How many these are."""

    def means(self, drawn: Weights | None = None) -> np.ndarray:
        """Mean scores (S,), or (S, B) for seeds and blocks taken so many times."""
        if drawn is None:
            return np.asarray(self.sum_SRG.sum((1, 2)) / self.count_RG.sum())
        seed_RB, block_GB = drawn.seed_BR.T, drawn.block_BG.T
        return np.asarray((self.sum_SRG @ block_GB * seed_RB).sum(1) / (self.count_RG @ block_GB * seed_RB).sum(0))

    def by_seed(self) -> np.ndarray:
        """Mean scores of each seed, (S, R)."""
        return np.asarray(self.sum_SRG.sum(2) / self.count_RG.sum(1))


def summed(scores_SN: Sequence[np.ndarray], block_N: Sequence[np.ndarray]) -> Sums:
    """Scores of chips by their blocks; one array of each for a seed."""
    blocks = 1 + max(int(of_seed.max()) for of_seed in block_N)
    sums = [
        [np.bincount(of_seed, row, blocks) for row in scores]
        for scores, of_seed in zip(scores_SN, block_N, strict=True)
    ]
    counts = [np.bincount(of_seed, minlength=blocks).astype(float) for of_seed in block_N]
    return Sums(np.stack(sums, 1), np.stack(counts))


class Weights(NamedTuple):
    """How often seeds and blocks are taken in each draw."""

    seed_BR: np.ndarray
    """Of R seeds, R with replacement."""
    block_BG: np.ndarray
    """Of G blocks, G with replacement."""


Figure: TypeAlias = "Callable[[Weights | None], np.ndarray | float]"
"""A function of mean scores."""


class Bootstrap:
    """The same draws of seeds and of blocks for all models: differences between them are paired.

    Parameters
    ----------
    seeds, blocks
        How many there are.
    """

    def __init__(self, seeds: int, blocks: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        block_BG, seed_BR = (rng.multinomial(n, np.full(n, 1 / n), DRAWS).astype(float) for n in (blocks, seeds))
        self.weights = Weights(seed_BR, block_BG)

    def interval(self, of: Figure) -> dict[str, float]:
        """A figure of means, and the 2.5th and 97.5th percentile of what it is over the draws."""
        low, high = np.nanpercentile(of(self.weights), (2.5, 97.5))
        return {"value": rounded(of(None)), "low": rounded(low), "high": rounded(high)}


def rounded(value: object) -> float:
    """To four places."""
    return round(float(np.asarray(value)), 4)


@dataclass(frozen=True)
class Scale:
    """Between what an untrained model is worth and what the teacher is."""

    teacher: Sums
    """1."""
    untrained: Sums
    """0."""

    def quoted(self) -> list[int]:
        """Tasks whose gap is wide enough."""
        gap_S = self.teacher.means() - self.untrained.means()
        return [i for i in range(len(TASKS)) if gap_S[i] >= LEAST_GAP]

    def retention(self, model: Sums, task: int) -> Callable[[Weights | None], np.ndarray]:
        """(score - untrained) / (teacher - untrained), as a figure of seeds and blocks."""

        def of(drawn: Weights | None) -> np.ndarray:
            mine, most, least = (s.means(drawn)[task] for s in (model, self.teacher, self.untrained))
            return np.asarray((mine - least) / (most - least))

        return of

    def deviation(self, model: Sums, task: int) -> float:
        """Standard deviation over seeds of that retention; 0 of one seed."""
        mine_R, most_R, least_R = (s.by_seed()[task] for s in (model, self.teacher, self.untrained))
        kept_R = (mine_R - least_R) / (most_R - least_R)
        return rounded(kept_R.std(ddof=1)) if len(kept_R) > 1 else 0.0

    def mean_retention(self, model: Sums) -> Figure:
        """The mean over the tasks quoted."""
        return lambda drawn: np.mean([self.retention(model, t)(drawn) for t in self.quoted()], axis=0)


def points_above(one: Sums, other: Sums, tasks: Sequence[int]) -> Figure:
    """Points of score that one model is above another, the mean over some tasks."""
    return lambda drawn: 100 * (one.means(drawn)[list(tasks)] - other.means(drawn)[list(tasks)]).mean(0)


Key: TypeAlias = tuple[str, int, str]
"""Method, slots, and before or after recovery."""
TEACHER, UNTRAINED = ("teacher", 21, "before"), ("untrained", 21, "before")


def rows_of(
    whole: Mapping[Key, Sums], drawn: Bootstrap, costs: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """A row for each point: what its shape costs, its scores, and what of the teacher it keeps."""
    scale = Scale(whole[TEACHER], whole[UNTRAINED])
    rows = []
    for key, sums in whole.items():
        row: dict[str, Any] = {"method": key[0], "slots": key[1], "recovery": key[2], **costs[shape_of(key)]}
        row["score"] = dict(zip(SCORES, map(rounded, sums.means()), strict=True))
        row["retention"] = {
            TASKS[task]: drawn.interval(scale.retention(sums, task)) | {"std": scale.deviation(sums, task)}
            for task in scale.quoted()
        }
        rows.append(row)
    rows.insert(2, rows[0] | costs["9"] | {"method": "slice", "slots": 9})
    return rows


def shape_of(key: Key) -> str:
    """By what name a point's costs go: its slots, and the bits where they are fewer."""
    bits = next((f"_{name}" for name in FEWER if key[0].endswith(f"_{name}")), "")
    return f"{key[1]}{bits}"


@dataclass(frozen=True)
class Target:
    """What a figure ought to be."""

    figure: str
    """Its name."""
    text: str
    """In words."""
    bound: float
    """The least it may be, or the most."""
    most: bool = False
    """Whether the bound is the most."""
    strict: bool = False
    """Whether the bound itself is not enough."""

    def judged(self, found: Mapping[str, Any], *, quotable: bool) -> dict[str, Any]:
        """Whether the figure is on the right side, and whether its whole interval is; of nothing to quote neither."""
        value, surest = found["value"], found["high" if self.most else "low"]
        row = {"target": self.text, "figure": self.figure, **found, "quotable": quotable}
        return row | {
            "met": quotable and self._holds(value),
            "met_with_95_percent": quotable and self._holds(surest),
        }

    def _holds(self, value: float) -> bool:
        room = self.bound - value if self.most else value - self.bound
        return room > 0 or (room == 0 and not self.strict)


TARGETS = (
    Target("dense_retention", "at least 0.90 of the teacher kept at one slot", 0.90),
    Target("nine_to_six_points", "at most 0.5 points lost from nine slots to six", 0.5, most=True),
    Target("dense_over_kc", "above KC with the same recovery, points", 0.0, strict=True),
    Target("dense_over_scratch", "above the same shape through the teacher's whole course, points", 0.0, strict=True),
    Target(
        "dense_over_scratch_distilled", "above the same shape with the same recovery alone, points", 0.0, strict=True
    ),
    Target("dense_retention", "the aim: 0.97 of the teacher kept at one slot", 0.97),
)


def headline(whole: Mapping[Key, Sums], drawn: Bootstrap) -> dict[str, Any]:
    """What the targets speak of, each with its interval, and whether it is met.

    Over the tasks that a retention is quoted for. Where there is none, points are those over all tasks, the retention
    is None and no target is met.
    """
    scale = Scale(whole[TEACHER], whole[UNTRAINED])
    quoted = scale.quoted()
    tasks = quoted or range(len(TASKS))
    ours = {slots: whole[method, slots, "after"] for slots, method in OURS.items()}
    pairs = {
        "nine_to_six_points": (whole[TEACHER], ours[6]),
        "dense_over_kc": (ours[1], whole["kc", 1, "after"]),
        "dense_over_scratch": (ours[1], whole[SCRATCH, 1, "after"]),
        "dense_over_scratch_distilled": (ours[1], whole["scratch_distilled", 1, "after"]),
    }
    found: dict[str, dict[str, Any]] = {"dense_retention": {"value": None, "low": None, "high": None}}
    if quoted:
        found["dense_retention"] = dict(drawn.interval(scale.mean_retention(ours[1])))
    found |= {name: dict(drawn.interval(points_above(*pair, tasks))) for name, pair in pairs.items()}
    told: dict[str, Any] = {name: row["value"] for name, row in found.items()}
    told["targets"] = [target.judged(found[target.figure], quotable=bool(quoted)) for target in TARGETS]
    told |= {"quoted": [TASKS[t] for t in quoted], "points_over": [TASKS[t] for t in tasks], "interval": INTERVAL}
    return told if quoted else told | {"note": "no task has a teacher 10 points above the untrained model"}
