"""What the RMoE layer is measured against: one-hot capacity dispatch, a loop over experts, a dense network.

Each peer computes specialized + collaborative + shared as the layer does, with the layer's own weights, written the
way such code usually is. Shape legend: T token, C width, H hidden width, E expert, S place in an expert's buffer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.moe import RingMoELayer, TokenGroups
from ringmoe.usage import networks

CAPACITY = 1.2
"""Room of an expert over an even share of the tokens, as released; tokens beyond it get nothing."""

Dispatch = Callable[[Tensor, Tensor, "nn.ModuleList"], Tensor]


class Peer(nn.Module):
    """A layer's experts as separate networks, with a dispatch of its own.

    Parameters
    ----------
    layer
        Whose routers and experts are copied.
    dispatch
        Tokens, scores of one router and its experts to what the experts make of the tokens, gated.
    """

    def __init__(self, layer: RingMoELayer, dispatch: Dispatch) -> None:
        super().__init__()
        assert layer.specialized is not None
        assert layer.collaborative is not None
        assert layer.shared is not None
        self.dispatch = dispatch
        self.specialized = nn.Parameter(layer.specialized.weight.detach().clone())
        self.collaborative = nn.Parameter(layer.collaborative.weight.detach().clone())
        self.experts = nn.ModuleList(_mlp(*network) for network in networks(layer)[:-1])
        self.shared = _mlp(*networks(layer)[-1])

    def forward(self, x_TC: Tensor, groups: TokenGroups) -> Tensor:
        """The sum of the three kinds, (T, C)."""
        each = self.specialized.shape[1]
        parts = x_TC.split([tokens for _, tokens in groups.runs])
        found = [
            self.dispatch(part, _scores(part, self.specialized[m]), self.experts[m * each : (m + 1) * each])
            for part, (m, _) in zip(parts, groups.runs, strict=True)
        ]
        common = self.experts[len(self.specialized) * each :]
        y_TC = self.dispatch(x_TC, _scores(x_TC, self.collaborative[0]), common)
        return torch.cat(found) + y_TC + self.shared(x_TC)


def one_hot(x_TC: Tensor, scores_TE: Tensor, experts: nn.ModuleList) -> Tensor:
    """Tokens gathered into and spread from buffers of fixed room by products with one-hot matrices (T, E, S)."""
    tokens, count = scores_TE.shape
    room = math.ceil(CAPACITY * tokens / count)
    gate_T, ids_T = scores_TE.max(-1)
    chosen_TE = F.one_hot(ids_T, count)
    place_T = ((chosen_TE.cumsum(0) - 1) * chosen_TE).sum(-1)
    fits_T = place_T < room
    place_TS = F.one_hot(place_T.clamp(max=room - 1), room).to(x_TC.dtype) * fits_T[:, None]
    dispatch_TES = chosen_TE.to(x_TC.dtype)[:, :, None] * place_TS[:, None]
    x_ESC = torch.einsum("tes,tc->esc", dispatch_TES, x_TC)
    y_ESC = torch.stack([expert(x_SC) for expert, x_SC in zip(experts, x_ESC, strict=True)])
    return torch.einsum("tes,esc->tc", dispatch_TES * gate_T.to(x_TC.dtype)[:, None, None], y_ESC)


def loop(x_TC: Tensor, scores_TE: Tensor, experts: nn.ModuleList) -> Tensor:
    """Expert by expert: its tokens picked, worked on, and added where they came from."""
    gate_T, ids_T = scores_TE.max(-1)
    y_TC = torch.zeros_like(x_TC)
    for e, expert in enumerate(experts):
        (at,) = torch.where(ids_T == e)
        y_TC.index_add_(0, at, expert(x_TC[at]) * gate_T[at, None].to(x_TC.dtype))
    return y_TC


def dense(dim: int, hidden: int) -> nn.Sequential:
    """A network of the same activated work, without routing."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


def _scores(x_TC: Tensor, weight_EC: Tensor) -> Tensor:
    return F.linear(x_TC.float(), weight_EC.float()).softmax(-1)


def _mlp(w1_CH: Tensor, b1_H: Tensor, w2_HC: Tensor, b2_C: Tensor) -> nn.Sequential:
    module = dense(*w1_CH.shape)
    for parameter, value in zip(module.parameters(), (w1_CH.t(), b1_H, w2_HC.t(), b2_C), strict=True):
        parameter.data = value.detach().clone().contiguous()
    return module
