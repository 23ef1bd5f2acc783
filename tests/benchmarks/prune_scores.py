"""What features are worth, chip by chip, and how sure differences of it are."""

# Shape suffixes: N chips, P pixels asked of a chip, D features, K classes, S scores, G blocks, B draws.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from prune_land import CHIP_PX, Chipped
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
    """Scores of one model over all seeds, by block of land."""

    sum_SG: np.ndarray
    """Sums of scores over the chips of a block."""
    count_G: np.ndarray
    """Chips of a block."""

    def means(self, weight_BG: np.ndarray | None = None) -> np.ndarray:
        """Mean scores (S,), or (S, B) for blocks taken so many times."""
        if weight_BG is None:
            return np.asarray(self.sum_SG.sum(1) / self.count_G.sum())
        return np.asarray(self.sum_SG @ weight_BG.T / (weight_BG @ self.count_G))


def summed(scores_SN: np.ndarray, block_N: np.ndarray) -> Sums:
    """Scores of chips by their blocks."""
    blocks = int(block_N.max()) + 1
    sums = np.stack([np.bincount(block_N, row, blocks) for row in scores_SN])
    return Sums(sums, np.bincount(block_N, minlength=blocks).astype(float))


class Bootstrap:
    """The same draws of blocks, with replacement, for all models: differences between them are paired.

    Parameters
    ----------
    blocks
        How many there are.
    """

    def __init__(self, blocks: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weight_BG = rng.multinomial(blocks, np.full(blocks, 1 / blocks), DRAWS).astype(float)

    def interval(self, of: Callable[[np.ndarray | None], np.ndarray | float]) -> dict[str, float]:
        """A figure of means, and the 2.5th and 97.5th percentile of what it is over the draws."""
        low, high = np.nanpercentile(of(self.weight_BG), (2.5, 97.5))
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

    def retention(self, model: Sums, task: int) -> Callable[[np.ndarray | None], np.ndarray]:
        """(score - untrained) / (teacher - untrained), as a figure of blocks."""

        def of(weight_BG: np.ndarray | None) -> np.ndarray:
            mine, most, least = (s.means(weight_BG)[task] for s in (model, self.teacher, self.untrained))
            return np.asarray((mine - least) / (most - least))

        return of

    def mean_retention(self, model: Sums) -> Callable[[np.ndarray | None], np.ndarray]:
        """The mean over the tasks quoted."""
        return lambda weight_BG: np.mean([self.retention(model, t)(weight_BG) for t in self.quoted()], axis=0)


def points_above(one: Sums, other: Sums, tasks: list[int]) -> Callable[[np.ndarray | None], np.ndarray]:
    """Points of score that one model is above another, the mean over some tasks."""
    return lambda weight_BG: 100 * (one.means(weight_BG)[tasks] - other.means(weight_BG)[tasks]).mean(0)


def deviation(by_seed: Mapping[int, float]) -> float:
    """Standard deviation over seeds; 0 of one."""
    return rounded(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else 0.0
