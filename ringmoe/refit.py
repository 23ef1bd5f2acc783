"""Second matrices of dense networks, solved so that they answer as the mixtures they stand for.

Shape legend: T token, C width, H hidden width, Z = H + 1 units and a one, L block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import RingMoE
from ringmoe.errors import PruneError
from ringmoe.modality import Batch
from ringmoe.moe import Routing, TokenGroups
from ringmoe.quantise import check_exact

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Weights tried of the distance from the matrix there was, over the mean squared activation of a unit."""

HELD_OUT = 4
"""Of so many batches one, the second, judges which weight is best."""


@torch.no_grad()
def refit(dense: RingMoE, parent: RingMoE, batches: Iterable[Batch]) -> RingMoE:
    """The dense model with new second matrices and biases: least squares over tokens that the parent saw.

    Of every block, with x what comes into the parent's experts and y their sum, and a(x) the dense network's hidden
    units and a one: the least of sum |y - a(x) W|^2 + r |W - W_0|^2, with W_0 what there was, and r, block by block,
    what does best on every fourth batch, left out for that; where nothing does better than W_0, that stays.

    Parameters
    ----------
    dense
        What `ringmoe.prune.integrate` made of the parent, by any method; not changed.
    parent
        Not changed.
    batches
        Unmasked chips of what the model will work on; two at least.

    Raises
    ------
    PruneError
        The dense model is not one of the parent's shape, one of them is quantised, or there are fewer than two batches
        with measured pixels.
    """
    check_exact(dense)
    check_exact(parent)
    pairs = list(zip(dense.blocks(), parent.blocks(), strict=False))
    same = all(d.norm1.weight.shape == p.norm1.weight.shape for d, p in pairs)
    if not same or len(dense.blocks()) != len(parent.blocks()) or any(d.experts.shared is None for d, _ in pairs):
        raise PruneError(
            "The dense model is not one of the parent",
            item=f"blocks {dense.config.depths} of width {dense.config.dim}",
            enough=f"blocks {parent.config.depths} of width {parent.config.dim}, each with a shared network",
            todo="integrate the parent first",
        )
    sums = [_Sums(d.experts.shared) for d, _ in pairs if d.experts.shared is not None]
    hooks = [p.experts.register_forward_hook(s.add) for (_, p), s in zip(pairs, sums, strict=True)]
    training = parent.training
    try:
        parent.eval()
        for number, batch in enumerate(batches):
            for each in sums:
                each.part = int(number % HELD_OUT == 1)
            parent(batch)
    finally:
        parent.train(training)
        for hook in hooks:
            hook.remove()
    if not all(moments.tokens > 0 for each in sums for moments in each.moments):
        raise PruneError(
            "There is too little to fit the dense model to",
            item="batches of the parent's modalities",
            enough="two batches with valid pixels",
            todo="give more cubes of the region the model will work on",
        )
    fitted = RingMoE.from_tensors(dense.config, dense.contract, {k: t.clone() for k, t in dense.state_dict().items()})
    for block, each in zip(fitted.blocks(), sums, strict=True):
        assert block.experts.shared is not None
        weight_ZC, second = each.solved(), dict(block.experts.shared[2].named_parameters())
        second["weight"].copy_(weight_ZC[:-1].t())
        second["bias"].copy_(weight_ZC[-1])
    return fitted


class _Moments(NamedTuple):
    """Sums over tokens, float64."""

    gram_ZZ: Tensor
    cross_ZC: Tensor
    tokens: float

    def plus(self, a_TZ: Tensor, y_TC: Tensor) -> _Moments:
        return _Moments(self.gram_ZZ + a_TZ.t() @ a_TZ, self.cross_ZC + a_TZ.t() @ y_TC, self.tokens + len(a_TZ))

    def error(self, weight_ZC: Tensor) -> float:
        """Sum of squared errors, less the sum of the squared norms of what is to be met."""
        return float((weight_ZC * (self.gram_ZZ @ weight_ZC - 2 * self.cross_ZC)).sum())


class _Sums:
    """Normal equations of one block: of batches to fit, and of those that judge."""

    def __init__(self, shared: nn.Sequential) -> None:
        first, second = (dict(shared[i].named_parameters()) for i in (0, 2))
        self.w1_HC, self.b1_H = first["weight"], first["bias"]
        self.start_ZC = torch.cat([second["weight"].t(), second["bias"][None]]).double()
        size, width = self.start_ZC.shape
        empty = _Moments(self.start_ZC.new_zeros(size, size), self.start_ZC.new_zeros(size, width), 0.0)
        self.moments, self.part = [empty, empty], 0

    def add(self, layer: nn.Module, args: tuple[Tensor, TokenGroups], output: tuple[Tensor, Routing]) -> None:
        """Forward hook of the parent's layer."""
        keep_T = args[1].counted_MT.sum(0) > 0
        x_TC = args[0][keep_T].to(self.w1_HC)
        a_TH = F.gelu(F.linear(x_TC, self.w1_HC, self.b1_H)).double()
        a_TZ = F.pad(a_TH, (0, 1), value=1.0)
        self.moments[self.part] = self.moments[self.part].plus(a_TZ, output[0][keep_T].double())

    def solved(self) -> Tensor:
        """The best second matrix, and the bias below it."""
        fit, held = self.moments
        found = {ridge: self._solution(fit, ridge) for ridge in RIDGES}
        best = min(found, key=lambda ridge: held.error(found[ridge]))
        if held.error(found[best]) >= held.error(self.start_ZC):
            return self.start_ZC
        both = _Moments(fit.gram_ZZ + held.gram_ZZ, fit.cross_ZC + held.cross_ZC, fit.tokens + held.tokens)
        return self._solution(both, best)

    def _solution(self, moments: _Moments, ridge: float) -> Tensor:
        """W_0 + (G + r I)^-1 (R - G W_0)."""
        gram_ZZ, rest_ZC = moments.gram_ZZ, moments.cross_ZC - moments.gram_ZZ @ self.start_ZC
        scale = float(gram_ZZ.diagonal()[:-1].mean())
        lower_ZZ = torch.linalg.cholesky(gram_ZZ + ridge * max(scale, 1e-12) * torch.eye(len(gram_ZZ)).to(gram_ZZ))
        return self.start_ZC + torch.cholesky_solve(rest_ZC, lower_ZZ)
