"""Frozen features and tasks, scored; and the baselines that stand beside them."""

# Shape suffixes: N samples or pixels, C channels, K classes, B images, D features.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.backbone import RingMoE
from ringmoe.errors import DataError
from ringmoe.modality import Chips, Modality


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


@torch.inference_mode()
def features(backbone: RingMoE, chips: Iterable[Chips], modality: Modality) -> tuple[Tensor, ...]:
    """Frozen features of whole chips: each stage's map averaged over the chip.

    Returns
    -------
    tuple of Tensor
        One (N, D) float32 per stage, finest first; concatenate for all stages.
    """
    device = next(backbone.parameters()).device
    training = backbone.training
    backbone.eval()
    rows = [[m.float().mean(dim=(2, 3)) for m in _pyramid(backbone, c.to(device), modality)] for c in chips]
    backbone.train(training)
    return tuple(torch.cat(stage).cpu() for stage in zip(*rows, strict=True))


def _pyramid(backbone: RingMoE, chips: Chips, modality: Modality) -> Sequence[Tensor]:
    return backbone({modality: chips}).pyramids[modality]


def standardise(train_ND: Tensor, test_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets with the training set's mean taken off and its standard deviation made one."""
    mean_D, std_D = train_ND.mean(dim=0), train_ND.std(dim=0, correction=0).clamp_min(1e-6)
    return (train_ND - mean_D) / std_D, (test_ND - mean_D) / std_D


def nearest_neighbours(train_ND: Tensor, train_N: Tensor, test_ND: Tensor, k: int = 5) -> Tensor:
    """Class of each test sample by the vote of its k nearest training samples in cosine distance.

    Votes weigh ``exp(cosine / 0.07)``, as is usual for frozen features.

    Returns
    -------
    Tensor
        (N,) int64, codes as in `train_N`.
    """
    similarity_NN = F.normalize(test_ND, dim=1) @ F.normalize(train_ND, dim=1).T
    nearest_NK, index_NK = similarity_NN.topk(min(k, len(train_ND)), dim=1)
    votes_NK = torch.zeros(len(test_ND), int(train_N.max()) + 1)
    votes_NK.scatter_add_(1, train_N[index_NK], (nearest_NK / 0.07).exp())
    return votes_NK.argmax(dim=1)


def linear_probe(
    train_ND: Tensor, train_N: Tensor, test_ND: Tensor, *, decay: float = 1e-3, iterations: int = 100
) -> Tensor:
    """Class of each test sample by multinomial logistic regression on frozen features, fitted by L-BFGS.

    Minimises mean cross entropy plus ``decay / 2 |W|^2``; convex, so nothing is drawn at random.

    Returns
    -------
    Tensor
        (N,) int64, codes as in `train_N`.
    """
    n_classes = int(train_N.max()) + 1
    weight_KD = torch.zeros(n_classes, train_ND.shape[1], requires_grad=True)
    bias_K = torch.zeros(n_classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight_KD, bias_K], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(train_ND, weight_KD, bias_K), train_N) + decay / 2 * weight_KD.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return F.linear(test_ND, weight_KD.detach(), bias_K.detach()).argmax(dim=1)
