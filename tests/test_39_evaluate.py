"""Scores, baselines and probes agree with closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import BandSpec, DataContract, InputContract
from ringmoe.errors import DataError
from ringmoe.evaluate import (
    NearestCentroid,
    confusion_matrix,
    features,
    linear_probe,
    nearest_neighbours,
    scores,
    standardise,
)
from ringmoe.modality import Chips, Modality


def test_a_confusion_matrix_counts_pairs_and_skips_the_unknown():
    """Truth in rows, prediction in columns; 0 on either side is not scored."""
    truth = np.array([[1, 1, 2], [3, 0, 2]], np.uint8)
    predicted = np.array([[1, 2, 2], [3, 1, 0]], np.uint8)
    np.testing.assert_array_equal(confusion_matrix(truth, predicted, 3), [[1, 1, 0], [0, 1, 0], [0, 0, 1]])


def test_scores_are_those_of_the_textbook():
    """Accuracy 0.7, IoU tp / (tp + fp + fn), F1 2tp / (2tp + fp + fn); an absent class is NaN and not averaged."""
    got = scores(np.array([[5, 1, 0], [2, 2, 0], [0, 0, 0]]))
    assert got.accuracy == pytest.approx(0.7)
    assert got.iou[:2] == pytest.approx((5 / 8, 2 / 5))
    assert got.f1[:2] == pytest.approx((10 / 13, 4 / 7))
    assert math.isnan(got.iou[2])
    assert got.mean_iou == pytest.approx((5 / 8 + 2 / 5) / 2)
    assert scores(np.diag([3, 4])).mean_iou == 1.0
    with pytest.raises(DataError, match="nothing to score"):
        scores(np.zeros((2, 2), int))


def test_nearest_centroid_is_right_where_classes_are_apart():
    """Two classes apart in one band out of two are told apart; a band's scale does not matter; NaN is class 0."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    pixels = np.stack([labels * 10 + rng.normal(size=600), 1e4 * rng.normal(size=600)])
    model = NearestCentroid.fit(pixels, labels, 2)
    assert (model.predict(pixels[:, labels > 0]) == labels[labels > 0]).mean() > 0.97
    assert model.predict(np.array([[np.nan], [0.0]])).tolist() == [0]


def test_nearest_centroid_boundary_lies_halfway():
    """With standardised bands the boundary between two means is their midpoint."""
    model = NearestCentroid.fit(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([1, 1, 2, 2]), 3)
    assert model.predict(np.array([[0.99, 1.01]])).tolist() == [1, 2]
    with pytest.raises(DataError):
        NearestCentroid.fit(np.zeros((1, 2)), np.zeros(2, int), 2)


def test_neighbours_vote():
    """Each test sample takes the class of the training samples that point its way."""
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    codes = torch.tensor([1, 1, 2, 2])
    test = torch.tensor([[5.0, 0.5], [0.2, 3.0]])
    assert nearest_neighbours(train, codes, test, k=3).tolist() == [1, 2]
    assert nearest_neighbours(train, codes, train, k=1).tolist() == codes.tolist()


def test_a_linear_probe_finds_a_linear_rule():
    """Classes cut by a line are learned from 200 samples; the same call twice gives the same answer."""
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + 2 * x[:, 3] > 0.3).long() + 1
    train, test = standardise(x[:200], x[200:])
    first, second = (linear_probe(train, y[:200], test) for _ in range(2))
    assert float((first == y[200:]).float().mean()) > 0.95
    assert torch.equal(first, second)
    assert train.mean(0).abs().max() < 1e-5


def test_frozen_features_come_per_stage_and_leave_the_model_as_it_was():
    """One row a chip and one matrix a stage, widths doubling; mode and weights are untouched."""
    band = (BandSpec("a"),)
    one = InputContract(Modality.MS, "any", band, "any", "1", "identity", (0.0,), (1.0,), (10, 10))
    config = RingMoEConfig(16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=2, collaborative=2)
    model = RingMoE(config, DataContract({Modality.MS: one})).train()
    chips = [Chips(torch.rand(n, 1, 64, 64), torch.ones(n, 64, 64, dtype=torch.bool)) for n in (3, 2)]
    stages = features(model, chips, Modality.MS)
    assert [s.shape for s in stages] == [(5, 16), (5, 32), (5, 64), (5, 128)]
    assert model.training
