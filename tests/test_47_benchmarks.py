"""Benchmarks compute what they say: sizes, peers that agree with the layer, figures by their names, intervals."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent / "benchmarks"))

import bench_ablations
import bench_model
import bench_moe
import bench_pretrain
import moe_peers
from pretrain_run import ROWS
from scipy import stats

from ringmoe.evaluate import Probed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_sizes_are_those_of_the_paper() -> None:
    """14.74 B parameters, and 6.53, 4.48, 2.43 and 1.06 B with 9, 6, 3 and 1 slots, within 0.2 %; of what the giant has
    less than a fifth is at work, a third of 1.9 TFLOP for the forward pass of an image of 192 px."""
    found = bench_model.sizes()
    assert set(found) == {"giant_params", "giant_activated", "giant_tflop_per_image", "slots"}
    assert found["giant_params"] == pytest.approx(14.74e9, rel=2e-3)
    assert found["slots"] == pytest.approx({"9": 6.53e9, "6": 4.48e9, "3": 2.43e9, "1": 1.06e9}, rel=2e-3)
    assert found["slots"]["1"] < found["giant_activated"] < found["giant_params"] / 5
    assert found["giant_tflop_per_image"] == pytest.approx(1.9 / 3, rel=0.05)


def test_bands_kept_are_told_by_their_number() -> None:
    """Reflectance of the sandbox's land in thirteen bands; cosines of the shipped model's features by bands kept, the
    mean never below the least, and nearly one with a single band gone."""
    pixels_BCHW = bench_model.land(2)
    assert pixels_BCHW.shape == (4, 13, 64, 64)
    assert 0 < pixels_BCHW.min() < pixels_BCHW.max() < 1
    found = bench_model.bands_kept_cosine(orders=1, across=2)
    mean, least = found["bands_kept_cosine"], found["bands_kept_cosine_least"]
    assert list(mean) == list(least) == ["12", "10", "7", "4", "2", "1"]
    assert all(-1 <= least[count] <= mean[count] <= 1 for count in mean)
    assert mean["12"] > 0.99


@pytest.mark.parametrize("peer", ["loop", "one_hot"])
def test_peers_answer_as_the_layer_does(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of four modalities, all seen: to 1e-5, one-hot dispatch where every expert has room for every token; with
    the room of the released code it drops some."""
    torch.manual_seed(0)
    layer, groups = bench_moe.layer_of(16).eval(), bench_moe.groups_of(96, "cpu")
    x_TC = torch.randn(96, 16)
    with torch.no_grad():
        wanted_TC = layer(x_TC, groups)[0]
        own = moe_peers.Peer(layer, getattr(moe_peers, peer))
        if peer == "one_hot":
            assert not torch.allclose(own(x_TC, groups), wanted_TC, atol=1e-5)
            monkeypatch.setattr(moe_peers, "CAPACITY", float(bench_moe.EXPERTS))
        torch.testing.assert_close(own(x_TC, groups), wanted_TC, rtol=0, atol=1e-5)


def test_a_layer_is_timed_against_every_peer() -> None:
    """Training and forward pass, each beside one-hot dispatch, the loop and a dense network; the backward pass reaches
    the weights."""
    case = ("cpu", "float32", 16, 64)
    found = bench_moe.measure(case, rounds=1)
    assert {f"{way}vs_{peer}" for way in ("", "forward_") for peer in ("onehot", "loop", "dense")} <= set(found)
    assert all(value >= 0 for value in found.values())
    runs = bench_moe.passes(case, train=True)
    assert set(runs) == {"ours", "onehot", "loop", "dense"}
    for run in runs.values():
        part = run.args[1]  # type: ignore[attr-defined]
        run()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters() if p.ndim > 1)


def test_figures_go_by_probe_data_set_and_row() -> None:
    """Means over seeds with their deviation beside them; single stages apart."""
    rows = (*ROWS, "pretrained/stage1")
    tables = [{row: Probed(0.1 * i + seed, 0.2 * i + seed, 0.0, 0.0) for i, row in enumerate(rows)} for seed in (0, 1)]
    found = bench_pretrain.figures_of({"rsscn7": tables, "ombria_s2": tables})
    named = {name for row in ROWS for name in (row, f"{row}_std")}
    for probe, step in (("knn", 0.1), ("linear", 0.2)):
        assert set(found[probe]) == {"rsscn7", "ombria_s2"}
        assert set(found[probe]["rsscn7"]) == named
        means = [found[probe]["rsscn7"][row] for row in ROWS]
        assert means == pytest.approx([step * i + 0.5 for i in range(4)])
        assert found[probe]["rsscn7"]["untrained_std"] == pytest.approx(statistics.stdev((0, 1)), abs=1e-4)
        assert set(found["stages"][probe]["rsscn7"]) == {"pretrained/stage1", "pretrained/stage1_std"}


@pytest.mark.parametrize("pairs", [2, 3, 4, 5])
def test_the_interval_of_a_difference_is_students(pairs: int) -> None:
    """Mean and two-sided 95 % interval of paired differences, as scipy has them."""
    values = torch.rand(pairs, 2, generator=torch.Generator().manual_seed(pairs), dtype=torch.float64).tolist()
    apart = [a - b for a, b in values]
    found = bench_ablations.difference(values)
    low, high = stats.t.interval(0.95, pairs - 1, loc=statistics.fmean(apart), scale=stats.sem(apart))
    assert found["difference"] == pytest.approx(statistics.fmean(apart), abs=1e-4)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=2e-4)
