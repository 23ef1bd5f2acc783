"""The figures of pruning, in closed form: equal models, what is kept, what may be quoted, how many experts are left."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent / "benchmarks"))

import prune_points
from pretrain_draws import contract_of
from pretrain_sets import Scenes
from prune_land import CLASSES, SENSORS, Chipped
from prune_points import FEWER, OURS, RECOVERIES, SCRATCH, Paces, fewer_bits, points, sliced
from prune_scores import (
    SCORES,
    TASKS,
    TEACHER,
    UNTRAINED,
    Bootstrap,
    Key,
    Scale,
    Sums,
    Weights,
    described,
    headline,
    points_above,
    rows_of,
    summed,
)
from prune_task import Cover

from ringmoe.backbone import RingMoE, RingMoEConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS, BLOCKS = 3, 40
NAMED = ("dense_retention", "dense_over_kc", "dense_over_scratch", "nine_to_six_points")
COSTS = {name: {"params": 1.0, "bytes": 4.0} for name in ("21", "9", "6", "3", "1", "1_int8", "1_bf16")}


def flat(score: float) -> Sums:
    """A model that is as good everywhere."""
    count_RG = np.full((SEEDS, BLOCKS), 5.0)
    return Sums(np.broadcast_to(score * count_RG, (len(SCORES), SEEDS, BLOCKS)), count_RG)


def drawn_scores(seed: int) -> Sums:
    """A model right about chips by lot, on three seeds' shares of them."""
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, 2, (len(SCORES), 70)).astype(float) for _ in range(SEEDS)]
    return summed(scores, [rng.permutation(70) % BLOCKS for _ in range(SEEDS)])


def found_of(teacher: float, untrained: float, ours: float) -> dict[Key, Sums]:
    """Every model that the targets speak of; those of OURS have one score, its rivals the untrained one's."""
    found = {TEACHER: flat(teacher), UNTRAINED: flat(untrained)}
    found |= {(method, slots, "after"): flat(ours) for slots, method in OURS.items()}
    found |= {(f"{OURS[1]}_{bits}", 1, "after"): flat(ours) for bits in FEWER}
    return found | {(method, 1, "after"): flat(untrained) for method in ("kc", SCRATCH, "scratch_distilled")}


def test_equal_models_differ_by_nothing_in_every_draw():
    """Draws are paired over seeds and blocks: of a model and itself the interval is 0 and not about 0."""
    model, drawn = drawn_scores(0), Bootstrap(SEEDS, BLOCKS)
    assert drawn.interval(points_above(model, model, range(len(TASKS)))) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_every_seed_and_block_once_is_the_mean_over_chips():
    """And a draw of one seed alone gives that seed's mean."""
    model = drawn_scores(1)
    blocks = np.ones((1 + SEEDS, BLOCKS))
    seeds = np.concatenate([np.ones((1, SEEDS)), np.eye(SEEDS)])
    means_SB = model.means(Weights(seeds, blocks))
    np.testing.assert_allclose(means_SB[:, 0], model.means(), rtol=1e-12)
    np.testing.assert_allclose(means_SB[:, 1:], model.by_seed(), rtol=1e-12)


def test_what_seeds_disagree_about_is_in_the_interval():
    """Seeds at 0.4, 0.5 and 0.6, all blocks alike: draws of one seed three times reach both ends."""
    count_RG = np.full((SEEDS, BLOCKS), 5.0)
    score_RG = np.array([0.4, 0.5, 0.6])[:, None] * count_RG
    model = Sums(np.broadcast_to(score_RG, (len(SCORES), SEEDS, BLOCKS)), count_RG)
    found = Bootstrap(SEEDS, BLOCKS).interval(points_above(model, flat(0.5), [0]))
    assert found == {"value": 0.0, "low": -10.0, "high": 10.0}
    draws = Bootstrap(SEEDS, BLOCKS).weights
    assert (draws.seed_BR.sum(1) == SEEDS).all()
    assert (draws.block_BG.sum(1) == BLOCKS).all()


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_retention_runs_from_the_untrained_model_to_the_teacher(kept: float):
    """(s - u) / (t - u) of s = u + kept (t - u), in every draw and for every task."""
    scale, drawn = Scale(flat(0.75), flat(0.25)), Bootstrap(SEEDS, BLOCKS)
    model = flat(0.25 + kept * 0.5)
    for figure in (scale.mean_retention(model), *(scale.retention(model, t) for t in range(len(TASKS)))):
        assert drawn.interval(figure) == {"value": kept, "low": kept, "high": kept}
    assert scale.deviation(model, 0) == 0.0


@pytest.mark.parametrize(("gap", "quoted"), [(0.0999, []), (0.1001, [0, 1, 2])])
def test_retention_is_quoted_from_ten_points_on(gap: float, quoted: list[int]):
    """Of the teacher above the untrained model; the heads' own score is no task."""
    assert Scale(flat(0.3 + gap), flat(0.3)).quoted() == quoted


@pytest.mark.parametrize("teacher", [0.75, 0.3])
def test_every_figure_has_its_name_whether_or_not_a_task_is_quoted(teacher: float):
    """Without one the retention is None, points are over all tasks, and no target is met."""
    found = headline(found_of(teacher, 0.25, teacher), Bootstrap(SEEDS, BLOCKS))
    above = pytest.approx(100 * (teacher - 0.25), abs=1e-4)
    assert set(NAMED) <= set(found)
    assert found["interval"]
    assert found["dense_over_kc"] == found["dense_over_scratch"] == above
    assert found["nine_to_six_points"] == 0.0
    quoted = teacher == 0.75
    assert found["dense_retention"] == (1.0 if quoted else None)
    assert found["points_over"] == list(TASKS)
    assert found["quoted"] == (list(TASKS) if quoted else [])
    for target in found["targets"]:
        assert target["quotable"] == target["met"] == target["met_with_95_percent"] == quoted


def test_a_target_met_on_average_need_not_be_met_surely():
    """A model above KC by one point, give or take ten by block."""
    rng = np.random.default_rng(0)
    found = found_of(0.75, 0.25, 0.75)
    noisy = found["kc", 1, "after"].sum_SRG + 0.5 * rng.standard_normal((1, 1, BLOCKS))
    noisy += (0.74 - 0.25) * 5 - noisy.mean() + 0.25 * 5
    found["kc", 1, "after"] = Sums(noisy, found["kc", 1, "after"].count_RG)
    figures = headline(found, Bootstrap(SEEDS, BLOCKS))
    (target,) = (row for row in figures["targets"] if row["figure"] == "dense_over_kc")
    assert target["value"] == pytest.approx(1.0, abs=1e-4)
    assert target["low"] < 0
    assert target["met"]
    assert not target["met_with_95_percent"]


def test_rows_have_bytes_and_the_slice_is_the_teacher_of_nine_slots():
    """Rows of fewer bits have their own costs."""
    costs = {name: {**cost, "bytes": float(n)} for n, (name, cost) in enumerate(COSTS.items())}
    rows = rows_of(found_of(0.75, 0.25, 0.5), Bootstrap(SEEDS, BLOCKS), costs)
    size = {(row["method"], row["slots"]): row["bytes"] for row in rows}
    assert size["teacher", 21] == 0
    assert size["slice", 9] == 1
    assert size[OURS[1], 1] == 4
    assert size[f"{OURS[1]}_int8", 1] == 5
    assert size[f"{OURS[1]}_bf16", 1] == 6
    (kept,) = (row["retention"] for row in rows if row["method"] == "slice")
    assert kept["knn"]["value"] == 1.0


def test_steps_fill_the_minutes_at_the_paces_found():
    """Each step at its pace adds up to the time asked for, to within the steps cut off."""
    pace = Paces(1.7, 0.2, 0.7, 0.08, {6: 0.22, 3: 0.18, 1: 0.15})
    for minutes, seeds in ((12.0, 3), (30.0, 1)):
        recipe = pace.recipe(minutes, seeds)
        spent = recipe.pretrain * (1.7 + 0.7 * seeds) + recipe.adapt * (0.2 + 0.08 * seeds)
        each = sum(RECOVERIES[slots] * pace.recover[slots] for slots in RECOVERIES) + 0.08
        spent += seeds * recipe.recover * each
        assert 0.95 * 60 * minutes < spent <= 60 * minutes


@pytest.fixture(scope="module")
def little() -> tuple[Cover, Chipped]:
    """A teacher of 21 networks a block that has learned nothing, and chips of noise."""
    rng = np.random.default_rng(0)
    seen = [Scenes(s, (rng.uniform(0.1, 0.3, (len(s.bands), 64, 64)).astype(np.float32),)) for s in SENSORS.values()]
    config = RingMoEConfig(
        dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, pretrain_windows=(4, 4, 2, 1), embedding="spectral"
    )
    torch.manual_seed(0)
    teacher = Cover(RingMoE(config, contract_of(seen)), SENSORS["opt"].modality).eval()
    pixels, cover = torch.rand(40, 3, 32, 32), torch.randint(len(CLASSES), (40, 32, 32)).to(torch.uint8)
    return teacher, Chipped(SENSORS["opt"], pixels, cover, torch.arange(40) // 16)


def test_every_method_leaves_the_slots_and_bytes_that_its_row_says(little, monkeypatch):
    """21 networks a block to 9 of one modality, then 6 = 4 + 1 + 1, 3 = 1 + 1 + 1 and 1, as many times as counted."""
    monkeypatch.setattr(prune_points, "PROFILED", 2)
    teacher, chips = little
    assert slots_of(teacher.backbone) == {21}
    assert slots_of(sliced(teacher).backbone) == {9}
    found = list(points(teacher, chips, teacher.backbone.contract, seed=0))
    counts, sizes = dict.fromkeys(RECOVERIES, 0), {}
    for point in found:
        assert slots_of(point.model.backbone) == {point.slots}
        counts[point.slots] += 1
        sizes.setdefault(point.slots, set()).add(bytes_of(point.model.backbone))
    assert counts == RECOVERIES
    assert all(len(of_one) == 1 for of_one in sizes.values())
    assert {(point.method, point.slots) for point in found} >= {(method, slots) for slots, method in OURS.items()}
    whole = found[-1].model
    smaller = dict(fewer_bits(whole))
    assert bytes_of(smaller["bf16"].backbone) * 2 == pytest.approx(bytes_of(whole.backbone), rel=0.1)
    assert bytes_of(smaller["int8"].backbone) < bytes_of(whole.backbone)
    exact = described(whole, chips)
    for model in smaller.values():
        assert all(torch.equal(value, whole.head_state()[name]) for name, value in model.head_state().items())
        assert (described(model, chips).mean_ND - exact.mean_ND).norm() < 0.05 * exact.mean_ND.norm()


def slots_of(model: RingMoE) -> set[int]:
    layers = (block.experts for block in model.blocks())
    return {model.config.shared + (0 if x.experts is None else len(x.experts.w1_ECH)) for x in layers}


def bytes_of(model: RingMoE) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())
