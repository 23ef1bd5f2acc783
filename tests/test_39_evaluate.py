"""Scores, baselines and probes agree with closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import BandSpec, DataContract, InputContract
from ringmoe.errors import DataError
from ringmoe.evaluate import (
    Labelled,
    LabelledPixels,
    NearestCentroid,
    confusion_matrix,
    frozen_pixel_table,
    frozen_table,
    scores,
)
from ringmoe.frozen import (
    features,
    image_statistics,
    pixel_features,
    pixel_statistics,
    random_features,
    random_pixel_features,
)
from ringmoe.modality import Chips, Modality
from ringmoe.probe import few_shot, linear_probe, nearest_neighbours, retrieval, standardise, weigh_alike


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


def test_parts_side_by_side_weigh_alike():
    """A part of eight columns pulls a distance no more than one of two; one column has a variance of 1 on average."""
    x, _ = standardise(torch.randn(500, 10, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 10))
    weighed = weigh_alike(x, (2, 8))
    first, second = (part.square().mean(0).sum() for part in weighed.split([2, 8], 1))
    assert float(first) == pytest.approx(float(second), rel=1e-5)
    assert float(first + second) == pytest.approx(10.0, rel=1e-5)
    assert weigh_alike(x, ()) is x


def test_a_linear_probe_finds_a_linear_rule():
    """Classes cut by a line are learned from 200 samples; the same call twice gives the same answer."""
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + 2 * x[:, 3] > 0.3).long() + 1
    train, test = standardise(x[:200], x[200:])
    first, second = (linear_probe(train, y[:200], test) for _ in range(2))
    assert float((first == y[200:]).float().mean()) > 0.95
    assert torch.equal(first, second)
    assert train.mean(0).abs().max() < 1e-5


def test_prototypes_of_few_samples_tell_classes_apart():
    """Two classes in two directions: five samples a class are enough; a class of one sample is that sample."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    codes = torch.arange(200) % 2
    x = centres[codes] + torch.randn(200, 3, generator=generator)
    predicted = few_shot(x[:100], codes[:100] + 3, x[100:], shots=5)
    assert (predicted == codes[100:] + 3).double().mean() > 0.95
    alone = few_shot(torch.eye(2), torch.tensor([7, 9]), torch.tensor([[0.1, 1.0], [1.0, 0.1]]), shots=5)
    assert alone.tolist() == [9, 7]


def test_retrieval_is_mean_average_precision_by_hand():
    """Right, wrong, right of two that could be found: (1 + 2/3) / 2; a query without its class is left out."""
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
    codes, query = torch.tensor([1, 2, 1, 3]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert retrieval(gallery, codes, query, torch.tensor([1, 8])) == pytest.approx((1 + 2 / 3) / 2)
    assert retrieval(gallery, codes, query[:1], torch.tensor([1]), first=2) == pytest.approx(0.5)
    with pytest.raises(DataError, match="nothing can be retrieved"):
        retrieval(gallery, codes, query, torch.tensor([8, 8]))


BAND = InputContract(Modality.MS, "any", (BandSpec("a"),), "any", "1", "identity", (0.5,), (0.25,), (10, 10))


def tiny_model(seed: int = 0) -> RingMoE:
    torch.manual_seed(seed)
    config = RingMoEConfig(16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=2, collaborative=2)
    return RingMoE(config, DataContract({Modality.MS: BAND}))


def test_image_statistics_are_of_valid_pixels_alone():
    """Mean, deviation, least and greatest by numpy over what is valid; a band that is missing has zeros and
    takes nothing from the other; a chip without any is refused."""
    torch.manual_seed(0)
    chips = Chips(torch.rand(2, 1, 32, 32), torch.rand(2, 32, 32) > 0.3)
    chips.pixels_BCHW[:, :, 0, 0], chips.valid_BHW[:, 0, 0] = float("nan"), True
    got = image_statistics(BAND, [chips])
    for i in range(2):
        seen = chips.valid_BHW[i].numpy() & np.isfinite(chips.pixels_BCHW[i, 0].numpy())
        z = (chips.pixels_BCHW[i, 0].numpy()[seen] - 0.5) / 0.25
        np.testing.assert_allclose(got[i], [z.mean(), z.std(), z.min(), z.max()], rtol=1e-4)
    two = replace(BAND, bands=(BandSpec("a"), BandSpec("b")), mean=(0.5,) * 2, std=(0.25,) * 2)
    both = Chips(torch.cat([chips.pixels_BCHW, torch.full((2, 1, 32, 32), float("nan"))], 1), chips.valid_BHW)
    torch.testing.assert_close(image_statistics(two, [both])[:, ::2], got)
    assert not image_statistics(two, [both])[:, 1::2].any()
    with pytest.raises(DataError, match="no statistics"):
        image_statistics(BAND, [Chips(torch.rand(1, 1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool))])


def test_random_features_are_the_rectified_answers_of_fixed_filters():
    """Both signs of a filter differ by its plain mean; a seed gives the same filters for train and test."""
    chips = [Chips(torch.rand(2, 1, 32, 32), torch.ones(2, 32, 32, dtype=torch.bool)) for _ in range(2)]
    got = random_features(BAND, chips, filters=8, seed=3)
    assert got.shape == (4, 16)
    assert torch.equal(got[2:], random_features(BAND, chips[1:], filters=8, seed=3))
    assert (got >= 0).all()
    flat = Chips(torch.full((1, 1, 32, 32), 0.5), torch.ones(1, 32, 32, dtype=torch.bool))
    assert random_features(BAND, [flat], filters=8).abs().max() == 0


def test_features_of_a_pixel_are_those_of_its_token_where_maps_are_flat():
    """A pixel at a token's centre takes that token; rows go image by image; statistics name the pixel's own value."""
    model = tiny_model().eval()
    chips = Chips(torch.rand(2, 1, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool))
    rows, cols = torch.tensor([5, 60]), torch.tensor([9, 3])
    got = pixel_features(model, chips, Modality.MS, rows, cols)
    assert got.shape == (4, 16 + 32 + 64 + 128)
    maps = model({Modality.MS: chips}).pyramids[Modality.MS]
    fine = torch.nn.functional.interpolate(maps[0], size=64, mode="bilinear")
    torch.testing.assert_close(got[2, :16], fine[1, :, 5, 9], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1, :16], fine[0, :, 60, 3], rtol=1e-4, atol=1e-5)
    plain = pixel_statistics(BAND, chips, rows, cols)
    torch.testing.assert_close(plain[1, 0], (chips.pixels_BCHW[0, 0, 60, 3] - 0.5) / 0.25)
    assert random_pixel_features(BAND, chips, rows, cols).shape == (4, 128)


def test_the_table_of_frozen_features_always_holds_its_baselines():
    """Dark and bright chips: image statistics know them apart; stages, their sum and both baselines have rows."""
    labels = torch.arange(24) % 2
    pixels = 0.2 + 0.6 * labels.view(-1, 1, 1, 1) + 0.05 * torch.rand(24, 1, 32, 32)
    valid = torch.ones(12, 32, 32, dtype=torch.bool)
    train, test = (Labelled([Chips(p, valid)], c) for p, c in zip(pixels.split(12), labels.split(12), strict=True))
    found = frozen_table({"pretrained": tiny_model(1), "untrained": tiny_model(2)}, Modality.MS, train, test)
    stages = {
        f"{name}{stage}"
        for name in ("pretrained", "untrained")
        for stage in ("", *(f"/stage{i}" for i in (1, 2, 3, 4)))
    }
    assert set(found) == stages | {"image_statistics", "random_features"}
    assert found["image_statistics"].knn == found["image_statistics"].linear == 1.0
    assert found["image_statistics"].retrieval > 0.95
    other = tiny_model()
    other.contract = DataContract({Modality.MS: InputContract(**{**vars(BAND), "mean": (0.1,)})})
    with pytest.raises(DataError, match="unequal contracts"):
        frozen_table({"a": tiny_model(), "b": other}, Modality.MS, train, test)


def test_frozen_features_come_per_stage_and_leave_the_model_as_it_was():
    """One row a chip and one matrix a stage, widths doubling; mode and weights are untouched."""
    model = tiny_model().train()
    chips = [Chips(torch.rand(n, 1, 64, 64), torch.ones(n, 64, 64, dtype=torch.bool)) for n in (3, 2)]
    stages = features(model, chips, Modality.MS)
    assert [s.shape for s in stages] == [(5, 16), (5, 32), (5, 64), (5, 128)]
    assert model.training
    spread = features(model, chips, Modality.MS, spread=True)
    torch.testing.assert_close(spread[1][:, :32], stages[1])
    whole = model.eval()({Modality.MS: chips[0]}).pyramids[Modality.MS][1].flatten(2)
    torch.testing.assert_close(spread[1][:3, 32:], whole.std(2, correction=0), rtol=1e-4, atol=1e-5)


def test_the_table_of_frozen_pixels_holds_the_same_rows():
    """Bright pixels among dark ones: a pixel's own bands know them; images may differ in size."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for sides in ((32, 64), (32,)):
        chips, rows, cols, labels = [], [], [], []
        for side in sides:
            codes = torch.arange(side * side).view(side, side) // 16 % 2
            pixels = 0.2 + 0.6 * codes + 0.05 * torch.rand(side, side, generator=generator)
            chips.append(Chips(pixels[None, None], torch.ones(1, side, side, dtype=torch.bool)))
            rows.append(torch.randint(side, (30,), generator=generator))
            cols.append(torch.randint(side, (30,), generator=generator))
            labels.append(codes[rows[-1], cols[-1]])
        parts.append(LabelledPixels(chips, rows, cols, torch.cat(labels)))
    models = {"pretrained": tiny_model(1), "untrained": tiny_model(2)}
    found = frozen_pixel_table(models, Modality.MS, *parts)
    assert set(found) >= {"pretrained", "pretrained/stage1", "untrained/stage4", "image_statistics", "random_features"}
    assert found["image_statistics"].linear == 1.0
