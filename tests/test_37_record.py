"""A run told to files: lines that say what was measured, experts' load by closed forms, with TensorBoard or without."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_37_train import SMALL, mixed, model

from ringmoe.backbone import Features, RingMoE
from ringmoe.history import Step
from ringmoe.modality import Modality
from ringmoe.moe import Routes, Routing
from ringmoe.objectives import MaskedModelling, Objective
from ringmoe.record import LINES, ExpertLoad, Recorder, measured_peak, read
from ringmoe.train import TrainConfig, pretrain

STEP = Step(0, 2.0, {"a": 1.0}, 0.1, 10, False, 3.0, 0.5, 0.1)


def test_a_run_leaves_a_line_for_each_step(tmp_path: Path) -> None:
    """Loss, terms, pace, wait, norm, share of peak and load are there; shares lie between 0 and 1; loads are whole."""
    backbone = model()
    with Recorder(tmp_path, backbone, flops_per_image=1e9, peak_flops=1e15) as recorder:
        history = pretrain(backbone, MaskedModelling(Objective(backbone)), mixed(), TrainConfig(steps=4), recorder)
    lines = read(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["loss"] for line in lines] == list(history.loss)
    for line in lines:
        assert set(line["terms"]) >= {"pixels/ms", "speckle/sar_l2", "balance/specialized"}
        assert line["share_of_peak"] == pytest.approx(1e9 * line["images_per_second"] / 1e15)
        assert 0 <= line["waiting_share"] <= 1
        assert line["norm"] > 0
        assert {f"entropy/{k}/{m}" for k in ("specialized", "collaborative") for m in ("ms", "sar_l2")} <= set(
            line["experts"]
        )
        assert all(0 <= v <= 1 + 1e-9 for n, v in line["experts"].items() if n.startswith("entropy"))
        assert 1 <= line["experts"]["max_over_mean/collaborative"] <= 2
    assert not backbone._forward_hooks


def loads(load_ME: list[list[float]], kind: str, config_of: RingMoE) -> dict[str, float]:
    """What is told of one block's load, given as if the model had routed so in every block."""
    counted = ExpertLoad(config_of)
    nothing = torch.zeros(0)
    routes = Routes(nothing, nothing, nothing, torch.tensor(load_ME), nothing, nothing)
    blocks = len(config_of.blocks())
    routing = Routing(routes, None) if kind == "specialized" else Routing(None, routes)
    counted._add(config_of, (), Features({}, [routing] * blocks, config_of.modalities))
    counted.close()
    return counted.taken()


def test_the_load_of_experts_by_closed_forms() -> None:
    """8 and 0 tokens of 2 experts: twice the mean, one dead, entropy 0; 4 and 4: the mean, none dead, entropy 1."""
    backbone = model()
    told = loads([[8.0, 0.0], [4.0, 4.0]], "specialized", backbone)
    assert told["max_over_mean/specialized"] == pytest.approx(1.5)
    assert told["dead/specialized"] == len(backbone.blocks())
    assert told["entropy/specialized/ms"] == pytest.approx(0.0)
    assert told["entropy/specialized/sar_l2"] == pytest.approx(1.0)
    common = loads([[6.0, 2.0], [2.0, 6.0]], "collaborative", backbone)
    assert common["max_over_mean/collaborative"] == pytest.approx(1.0)
    assert common["dead/collaborative"] == 0
    assert (common["share/ms"], common["share/sar_l2"]) == (0.5, 0.5)
    rare = loads([[6.0, 3.0], [1.0, 0.0]], "collaborative", backbone)
    assert (rare["share/ms"], rare["share/sar_l2"]) == pytest.approx((0.9, 0.1))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert common["entropy/collaborative/ms"] == pytest.approx(expected)


def test_a_modality_without_a_token_is_not_told() -> None:
    """Its router is neither dead nor even; the others are told as if it were not there."""
    told = loads([[3.0, 1.0], [0.0, 0.0]], "specialized", model())
    assert "entropy/specialized/sar_l2" not in told
    assert told["dead/specialized"] == 0
    assert told["max_over_mean/specialized"] == pytest.approx(1.5)


def test_steps_between_two_lines_are_averaged_and_skipped_ones_counted(tmp_path: Path) -> None:
    """Two steps to a line, one of them not finite: null where nothing is known, and strict JSON."""
    with Recorder(tmp_path, every=2) as recorder:
        for index, loss in enumerate((1.0, 3.0, math.nan, 5.0, math.nan, math.nan)):
            recorder(replace(STEP, index=index, loss=loss, skipped=math.isnan(loss), norm=loss))
    lines = [json.loads(text, parse_constant=pytest.fail) for text in (tmp_path / LINES).read_text().splitlines()]
    assert [(line["step"], line["loss"], line["skipped"]) for line in lines] == [(1, 2.0, 0), (3, 5.0, 1), (5, None, 2)]
    assert [line["images_per_second"] for line in lines] == [20.0] * 3
    assert [line["waiting_share"] for line in lines] == pytest.approx([0.2] * 3)


def test_a_run_that_goes_on_takes_back_the_lines_of_the_steps_it_takes_again(tmp_path: Path) -> None:
    """Killed after step 5, in the middle of a line, and gone on with from step 3: each step stands once, in order."""
    with Recorder(tmp_path) as recorder:
        for index in range(5):
            recorder(replace(STEP, index=index, loss=1.0))
    with (tmp_path / LINES).open("a") as lines:
        lines.write('{"step": 5, "lo')
    with Recorder(tmp_path) as recorder:
        for index in range(3, 7):
            recorder(replace(STEP, index=index, loss=2.0))
    assert [(line["step"], line["loss"]) for line in read(tmp_path)] == [(i, 1.0 if i < 3 else 2.0) for i in range(7)]


def test_tensorboard_shows_the_same_numbers(tmp_path: Path) -> None:
    """Every number of a line is a scalar at its step."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Recorder(tmp_path) as recorder:
        for index in range(3):
            recorder(replace(STEP, index=index, loss=float(index)))
    found = events.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(s.step, s.value) for s in found.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert [s.value for s in found.Scalars("terms/a")] == [1.0] * 3


def test_a_machine_without_tensorboard_records_all_the_same(tmp_path: Path) -> None:
    """The lines are written; nothing else is, and nothing is said."""
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from ringmoe.history import Step\nfrom ringmoe.record import Recorder\n"
        f"with Recorder({str(tmp_path)!r}) as recorder: recorder(Step(0, 1.0, {{}}, 0.1, 2, False, 1.0, 0.1, 0.0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [p.name for p in tmp_path.iterdir()] == [LINES]


def test_the_peak_is_that_of_a_matrix_product() -> None:
    """Beyond what one addition a cycle could reach, below what no machine has."""
    assert 1e8 < measured_peak(torch.device("cpu"), torch.float32, side=256) < 1e16


def test_the_smallest_model_has_two_experts_of_a_kind() -> None:
    """As the closed forms above take it."""
    assert (SMALL.specialized, SMALL.collaborative) == (2, 2)
    assert model().modalities == (Modality.MS, Modality.SAR_L2)
