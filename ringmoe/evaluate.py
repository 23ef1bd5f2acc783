"""Maps and frozen features, scored, with the baselines that stand beside them."""

# Shape suffixes: N samples or pixels, C channels, K classes, D features.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ringmoe.backbone import RingMoE
from ringmoe.contract import InputContract
from ringmoe.errors import DataError
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


@dataclass(frozen=True)
class Scores:
    """How well a map agrees with the truth."""

    confusion: np.ndarray
    """(K, K) counts, truth in rows, prediction in columns; class code k + 1 at index k."""
    accuracy: float
    """Share of scored pixels that are right."""
    iou: tuple[float, ...]
    """Intersection over union per class; NaN for a class neither in the truth nor in the prediction."""
    f1: tuple[float, ...]
    """2 TP / (2 TP + FP + FN) per class; NaN as for `iou`."""
    mean_iou: float
    """Mean of `iou` over the classes that the truth has."""


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts of (truth, prediction) pairs, (K, K) int64, over elements where both are class codes 1 to K.

    Elements whose truth or prediction is 0 are not scored.
    """
    truth, predicted = np.asarray(truth).astype(np.int64).ravel(), np.asarray(predicted).astype(np.int64).ravel()
    if max(truth.max(initial=0), predicted.max(initial=0)) > n_classes:
        raise DataError(
            "a class code lies beyond the legend",
            item=f"code {max(truth.max(initial=0), predicted.max(initial=0))} of {n_classes} classes",
            enough="codes from 1 to the number of classes, 0 for unknown",
            todo="use labels and maps of one legend",
        )
    known = (truth > 0) & (predicted > 0)
    pairs = (truth[known] - 1) * n_classes + predicted[known] - 1
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def scores(confusion: np.ndarray) -> Scores:
    """Accuracy, intersection over union and F1 of a confusion matrix.

    Raises
    ------
    DataError
        When nothing was scored.
    """
    if not confusion.sum():
        raise DataError(
            "there is nothing to score",
            item=f"a confusion matrix of {len(confusion)} classes",
            enough="one pixel with both a label and a prediction",
            todo="check that map and labels overlap and are not all no-data",
        )
    hit = np.diag(confusion).astype(np.float64)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / (truth + predicted - hit)
        f1 = 2 * hit / (truth + predicted)
    return Scores(
        confusion=confusion,
        accuracy=float(hit.sum() / confusion.sum()),
        iou=tuple(float(v) for v in iou),
        f1=tuple(float(v) for v in f1),
        mean_iou=float(iou[truth > 0].mean()),
    )


@dataclass(frozen=True)
class NearestCentroid:
    """The plain baseline: each pixel belongs to the class whose mean it is nearest to, in standardised bands."""

    centroids_KC: np.ndarray
    """Class means in standardised bands; NaN for a class without a pixel."""
    mean_C: np.ndarray
    """Mean of each band."""
    std_C: np.ndarray
    """Standard deviation of each band."""

    @classmethod
    def fit(cls, pixels_CN: np.ndarray, labels_N: np.ndarray, n_classes: int) -> NearestCentroid:
        """Means of every class.

        Parameters
        ----------
        pixels_CN
            Bands by pixels, finite where the label is not 0.
        labels_N
            Class codes 1 to `n_classes`; 0 takes no part.

        Raises
        ------
        DataError
            When no pixel has a label.
        """
        known = (labels_N > 0) & np.isfinite(pixels_CN).all(axis=0)
        if not known.any():
            raise DataError(
                "class means cannot be taken of nothing",
                item=f"{labels_N.size} pixels",
                enough="one finite pixel with a label",
                todo="check that labels and pixels overlap",
            )
        x_CN, y_N = pixels_CN[:, known].astype(np.float64), labels_N[known]
        mean_C, std_C = x_CN.mean(axis=1), np.maximum(x_CN.std(axis=1), 1e-12)
        z_CN = (x_CN - mean_C[:, None]) / std_C[:, None]
        centroids = [
            z_CN[:, y_N == k].mean(axis=1) if (y_N == k).any() else np.full(len(mean_C), np.nan)
            for k in range(1, n_classes + 1)
        ]
        return cls(np.stack(centroids), mean_C, std_C)

    def predict(self, pixels_CN: np.ndarray) -> np.ndarray:
        """Class codes, (N,) uint8; 0 where a band is not finite."""
        z_CN = (pixels_CN - self.mean_C[:, None]) / self.std_C[:, None]
        distance_KN = np.stack([((z_CN - c[:, None]) ** 2).sum(axis=0) for c in self.centroids_KC])
        distance_KN = np.where(np.isfinite(distance_KN), distance_KN, np.inf)
        classes = distance_KN.argmin(axis=0) + 1
        return np.where(np.isfinite(pixels_CN).all(axis=0), classes, 0).astype(np.uint8)


@dataclass(frozen=True)
class Probed:
    """What one kind of frozen feature is worth, as shares of test samples, 0 to 1."""

    knn: float
    """Right by the five nearest neighbours."""
    linear: float
    """Right by logistic regression."""
    few_shot: float
    """Right by class means of five samples a class, averaged over five draws."""
    retrieval: float
    """Mean average precision of the first twenty training samples found for a test sample."""


def probed(train_ND: Tensor, train_N: Tensor, test_ND: Tensor, test_N: Tensor, *, parts: Sequence[int] = ()) -> Probed:
    """All probes of one kind of feature, standardised by the training set.

    Parameters
    ----------
    train_ND, test_ND
        Features, float32.
    train_N, test_N
        Class codes, int64, at least 0.
    parts
        Widths of what stands side by side in the features, as of the stages of a pyramid: each part then weighs the
        same, however wide it is. Nothing for features of one kind.
    """
    train, test = (weigh_alike(x_ND, parts) for x_ND in standardise(train_ND, test_ND))

    def right(predicted_N: Tensor) -> float:
        return float((predicted_N == test_N).double().mean())

    return Probed(
        knn=right(nearest_neighbours(train, train_N, test)),
        linear=right(linear_probe(train, train_N, test)),
        few_shot=sum(right(few_shot(train, train_N, test, shots=5, seed=seed)) for seed in range(5)) / 5,
        retrieval=retrieval(train, train_N, test, test_N),
    )


@dataclass(frozen=True)
class Labelled:
    """Chips of one modality with a class each."""

    chips: Sequence[Chips]
    """In batches."""
    labels_N: Tensor
    """Class codes, int64, one an image over all batches."""


def frozen_table(
    models: Mapping[str, RingMoE], modality: Modality, train: Labelled, test: Labelled, *, seed: int = 0
) -> dict[str, Probed]:
    """Frozen features of models, each stage and all of them, in one table with what takes no model.

    Features of a stage are its map's mean and standard deviation over the chip.

    Parameters
    ----------
    models
        By name, as pretrained and untrained, of one data contract for the modality.
    seed
        Of the random filters.

    Returns
    -------
    dict
        Rows NAME/stage1 to NAME/stage4 and NAME for all stages side by side, then image_statistics and random_features.
    """
    contract = _shared_contract(models, modality, train.chips[0])
    kinds: dict[str, tuple[Tensor, Tensor]] = {}
    parts: dict[str, list[int]] = {}
    for name, model in models.items():
        stages = [features(model, part.chips, modality, spread=True) for part in (train, test)]
        kinds |= {f"{name}/stage{i}": pair for i, pair in enumerate(zip(*stages, strict=True), start=1)}
        kinds[name] = (torch.cat(stages[0], 1), torch.cat(stages[1], 1))
        parts[name] = [stage.shape[1] for stage in stages[0]]
    kinds["image_statistics"] = (image_statistics(contract, train.chips), image_statistics(contract, test.chips))
    drawn = [random_features(contract, part.chips, seed=seed) for part in (train, test)]
    kinds["random_features"] = (drawn[0], drawn[1])
    return _probed_all(kinds, parts, train.labels_N, test.labels_N)


@dataclass(frozen=True)
class LabelledPixels:
    """Single pixels of images of one modality, with a class each."""

    chips: Sequence[Chips]
    """One image each; sizes may differ."""
    rows: Sequence[Tensor]
    """Row of each pixel asked about, int64 (N,), by image."""
    cols: Sequence[Tensor]
    """Its column."""
    labels_N: Tensor
    """Class codes, int64, of all pixels, image by image."""


def frozen_pixel_table(
    models: Mapping[str, RingMoE], modality: Modality, train: LabelledPixels, test: LabelledPixels, *, seed: int = 0
) -> dict[str, Probed]:
    """The table of `frozen_table` for single pixels; statistics and random filters are of what is around each pixel.

    Returns
    -------
    dict
        Rows NAME/stage1 to NAME/stage4 and NAME for all stages side by side, then image_statistics and random_features.
    """
    contract = _shared_contract(models, modality, train.chips[0])
    kinds: dict[str, list[Tensor]] = {}
    parts = {name: [model.config.dim * 2**stage for stage in range(4)] for name, model in models.items()}
    for part in (train, test):
        for name, model in models.items():
            whole = _of_pixels(part, lambda *at, m=model: pixel_features(m, at[0], modality, *at[1:]))
            kinds.setdefault(name, []).append(whole)
            for i, stage in enumerate(whole.split(parts[name], 1), start=1):
                kinds.setdefault(f"{name}/stage{i}", []).append(stage)
        plain = _of_pixels(part, lambda *at: pixel_statistics(contract, *at))
        drawn = _of_pixels(part, lambda *at: random_pixel_features(contract, *at, seed=seed))
        kinds.setdefault("image_statistics", []).append(plain)
        kinds.setdefault("random_features", []).append(drawn)
    return _probed_all(kinds, parts, train.labels_N, test.labels_N)


def _probed_all(
    kinds: Mapping[str, Sequence[Tensor]], parts: Mapping[str, Sequence[int]], train_N: Tensor, test_N: Tensor
) -> dict[str, Probed]:
    return {k: probed(pair[0], train_N, pair[1], test_N, parts=parts.get(k, ())) for k, pair in kinds.items()}


def _of_pixels(part: LabelledPixels, described: Callable[..., Tensor]) -> Tensor:
    return torch.cat([described(*at) for at in zip(part.chips, part.rows, part.cols, strict=True)])


def _shared_contract(models: Mapping[str, RingMoE], modality: Modality, chips: Chips) -> InputContract:
    contracts = [model.contract.input_of(modality, chips.bands) for model in models.values()]
    if not contracts or any(one != contracts[0] for one in contracts):
        raise DataError(
            "models of unequal contracts cannot stand in one table",
            item=f"{', '.join(models) or 'no model'}, modality {modality}",
            enough="one model, and one normalisation of the chips",
            todo="build the untrained model on the contract of the trained one",
        )
    return contracts[0]
