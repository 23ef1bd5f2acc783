"""What frozen features are worth: neighbours, a linear rule, few examples, retrieval; nothing deep is trained here."""

# Shape suffixes: N samples, K nearest, C classes, D features.

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.errors import DataError


def standardise(train_ND: Tensor, test_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets with the training set's mean taken off and its standard deviation made one."""
    mean_D, std_D = train_ND.mean(dim=0), train_ND.std(dim=0, correction=0).clamp_min(1e-6)
    return (train_ND - mean_D) / std_D, (test_ND - mean_D) / std_D


def weigh_alike(x_ND: Tensor, parts: Sequence[int]) -> Tensor:
    """Standardised features whose parts, of so many columns each, have equal sums of variances; 1 a column on average.

    Without it a stage of a pyramid that is eight times as wide as another counts eight times as much.
    """
    if not parts:
        return x_ND
    scales = [(sum(parts) / (len(parts) * width)) ** 0.5 for width in parts]
    return torch.cat([part * s for part, s in zip(x_ND.split(list(parts), 1), scales, strict=True)], 1)


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


def few_shot(train_ND: Tensor, train_N: Tensor, test_ND: Tensor, *, shots: int, seed: int = 0) -> Tensor:
    """Class of each test sample by the nearest class mean of `shots` training samples drawn per class.

    Prototypes in cosine distance (Snell et al., NeurIPS 2017); a class of fewer samples gives all it has.

    Returns
    -------
    Tensor
        (N,) int64, codes as in `train_N`.
    """
    generator = torch.Generator().manual_seed(seed)
    codes_C = train_N.unique()
    unit_ND = F.normalize(train_ND, dim=1)
    means = []
    for code in codes_C:
        rows = (train_N == code).nonzero()[:, 0]
        drawn = rows[torch.randperm(len(rows), generator=generator)[:shots]]
        means.append(unit_ND[drawn].mean(0))
    return codes_C[(F.normalize(test_ND, dim=1) @ F.normalize(torch.stack(means), dim=1).T).argmax(1)]


def retrieval(gallery_ND: Tensor, gallery_N: Tensor, query_ND: Tensor, query_N: Tensor, *, first: int = 20) -> float:
    """Mean average precision over the `first` answers to each query, 0 to 1, ranked by cosine distance.

    Average precision of a query is the mean of the precisions at its right answers among the first, over as many as
    there could be; a query whose class the gallery lacks is left out.

    Raises
    ------
    DataError
        No query's class is in the gallery.
    """
    possible_N = torch.stack([(gallery_N == code).sum() for code in query_N]).clamp(max=first)
    asked_N = possible_N > 0
    if not asked_N.any():
        raise DataError(
            "nothing can be retrieved",
            item=f"{len(query_N)} queries, {len(gallery_N)} samples to find",
            enough="one sample of a query's class",
            todo="split gallery and queries so that they share classes",
        )
    similarity_NN = F.normalize(query_ND, dim=1) @ F.normalize(gallery_ND, dim=1).T
    order_NK = similarity_NN.topk(min(first, len(gallery_N)), dim=1).indices
    right_NK = (gallery_N[order_NK] == query_N[:, None]).double()
    precision_NK = right_NK.cumsum(1) / torch.arange(1, right_NK.shape[1] + 1)
    average_N = (precision_NK * right_NK).sum(1)[asked_N] / possible_N[asked_N]
    return float(average_N.mean())
