"""How tokens reach their experts and come back: one grouped matrix product on CUDA, expert by expert on a CPU.

Shape legend: T token, K kind of routed expert, X routed token (K x T), P the same with every expert's rows padded,
R padded rows of one expert, E expert, C width, H hidden width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype matrix products run in: autocast's where it is on, else the tensor's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def grouped_path(device: torch.device, dtype: torch.dtype, dim: int, hidden: int) -> bool:
    """Whether the grouped matrix product serves this device, dtype and shape; fixed, never timed at run time.

    On CUDA its kernel takes bfloat16 alone, in rows of whole 16 bytes, and nothing there waits for the host. On a CPU
    it is itself a loop of products, and expert by expert is faster because what one expert needs stays in the cache.
    """
    fits = not any(width * dtype.itemsize % 16 for width in (dim, hidden))
    return device.type != "cpu" and dtype == torch.bfloat16 and fits and _GROUPED_MM is not None


_GROUPED_MM = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def grouped(x_TC: Tensor, slots_KT: Tensor, w1_ECH: Tensor, b1_EH: Tensor, w2_EHC: Tensor, b2_EC: Tensor) -> Tensor:
    """What each token's experts make of it, (K, T, C): rows sorted by slot, each layer one grouped matrix product."""
    assert _GROUPED_MM is not None
    kinds, tokens = slots_KT.shape
    slots_X, order_X = torch.sort(slots_KT.flatten(), stable=True)
    inverse_X = torch.empty_like(order_X).scatter_(0, order_X, torch.arange(len(order_X), device=order_X.device))
    x_XC = _Permute.apply(x_TC.repeat(kinds, 1), order_X, inverse_X)
    chosen_XE = F.one_hot(slots_X, len(w1_ECH))
    ends_E = chosen_XE.sum(0).cumsum(0).to(torch.int32)
    chosen_XE = chosen_XE.to(x_XC.dtype)
    w1_ECH, b1_EH, w2_EHC, b2_EC = (p.to(x_XC.dtype) for p in (w1_ECH, b1_EH, w2_EHC, b2_EC))
    h_XH = F.gelu(_AddBias.apply(_GROUPED_MM(x_XC, w1_ECH, offs=ends_E), b1_EH, slots_X, chosen_XE))
    y_XC = _AddBias.apply(_GROUPED_MM(h_XH, w2_EHC, offs=ends_E), b2_EC, slots_X, chosen_XE)
    return _Permute.apply(y_XC, inverse_X, order_X).view(kinds, tokens, -1)


class _Permute(torch.autograd.Function):
    """Rows in another order; the gradient goes back by the inverse order, without sums that depend on timing."""

    @staticmethod
    def forward(ctx: Any, x_XC: Tensor, order_X: Tensor, inverse_X: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_X)
        return x_XC.index_select(0, order_X)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _AddBias(torch.autograd.Function):
    """Adds each row's own expert's bias; its gradient is a matrix product, far faster than a scattered sum."""

    @staticmethod
    def forward(ctx: Any, x_XN: Tensor, bias_EN: Tensor, slots_X: Tensor, chosen_XE: Tensor) -> Tensor:
        ctx.save_for_backward(chosen_XE)
        return x_XN + bias_EN.index_select(0, slots_X)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_XN = grads[0].contiguous()
        return grad_XN, ctx.saved_tensors[0].t() @ grad_XN, None, None


def expert_by_expert(
    x_TC: Tensor, slots_KT: Tensor, w1_ECH: Tensor, b1_EH: Tensor, w2_EHC: Tensor, b2_EC: Tensor
) -> Tensor:
    """The same, one expert after the other: on a CPU, in double precision and at odd widths."""
    y_XC: Tensor = _ExpertByExpert.apply(x_TC, slots_KT, w1_ECH, b1_EH, w2_EHC, b2_EC)
    return y_XC.view(*slots_KT.shape, -1)


def padded(rows: int, dtype: torch.dtype) -> int:
    """Rows a product runs on: in bfloat16 one of eight sizes an octave, the rest exactly.

    oneDNN generates code for every shape it has not seen and keeps 1,024 of them. An expert's number of rows is another
    at each step, and making the code (1.5 to 3 ms) took as long as running it; 4 % more rows is far less.
    """
    if dtype != torch.bfloat16:
        return rows
    step = max(8, 1 << rows.bit_length() - 4) if rows >= 8 else 8
    return -(-rows // step) * step


class Run(NamedTuple):
    """The rows of one expert."""

    expert: int
    sorted: slice
    """Where they stand among the routed tokens sorted by slot."""
    place: slice
    """Where they stand when every expert's rows are padded."""

    @property
    def rows(self) -> int:
        """How many, without padding."""
        return int(self.sorted.stop - self.sorted.start)


def runs_of(slots_X: Tensor, count: int, dtype: torch.dtype) -> list[Run]:
    """The experts that have rows; the only place where the host reads what the routers decided."""
    runs, start, place = [], 0, 0
    for expert, rows in enumerate(torch.bincount(slots_X, minlength=count).tolist()):
        if rows:
            room = padded(rows, dtype)
            runs.append(Run(expert, slice(start, start + rows), slice(place, place + room)))
            start, place = start + rows, place + room
    return runs


def _places(slots_X: Tensor, runs: list[Run], count: int) -> Tensor:
    """Padded rows of the routed tokens sorted by slot."""
    shifts = [0] * count
    for run in runs:
        shifts[run.expert] = run.place.start - run.sorted.start
    place_X = torch.arange(len(slots_X), device=slots_X.device)
    return place_X + torch.tensor(shifts, device=slots_X.device)[slots_X]


class _ExpertByExpert(torch.autograd.Function):
    """Both layers of an expert on its rows, fetched and worked on while they are in the cache.

    Weights of another dtype are cast one expert at a time, and their gradients back.
    """

    @staticmethod
    def forward(ctx: Any, x_TC: Tensor, slots_KT: Tensor, *weights: Tensor) -> Tensor:
        w1_ECH, b1_EH, w2_EHC, b2_EC = weights
        slots_X, order_X = torch.sort(slots_KT.flatten(), stable=True)
        runs = runs_of(slots_X, len(w1_ECH), x_TC.dtype)
        fetch, cast, token_X = _Fetch(runs), _Cast(x_TC.dtype), order_X % max(len(x_TC), 1)
        place_X = torch.empty_like(order_X).scatter_(0, order_X, _places(slots_X, runs, len(w1_ECH)))
        h_PH = x_TC.new_empty(runs[-1].place.stop if runs else 0, w1_ECH.shape[2])
        a_PH, y_PC = torch.empty_like(h_PH), x_TC.new_empty(len(h_PH), w2_EHC.shape[2])
        for run in runs:
            e, h_RH, a_RH = run.expert, h_PH[run.place], a_PH[run.place]
            torch.addmm(cast(b1_EH, e), fetch(x_TC, token_X, run), cast(w1_ECH, e), out=h_RH)
            torch.ops.aten.gelu.out(h_RH, out=a_RH)
            torch.addmm(cast(b2_EC, e), a_RH, cast(w2_EHC, e), out=y_PC[run.place])
        ctx.runs = runs
        ctx.save_for_backward(x_TC, order_X, place_X, h_PH, a_PH, *weights)
        return y_PC.index_select(0, place_X)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TC, order_X, place_X, h_PH, a_PH, w1_ECH, b1_EH, w2_EHC, b2_EC = ctx.saved_tensors
        runs, token_X, g_XC = ctx.runs, order_X % max(len(x_TC), 1), grads[0].contiguous()
        fetch_x, fetch_g, cast = _Fetch(runs), _Fetch(runs), _Cast(x_TC.dtype)
        g_PC = x_TC.new_empty(len(h_PH), x_TC.shape[1])
        d_w1, d_b1, d_w2, d_b2 = (_grad_of(w, runs) for w in (w1_ECH, b1_EH, w2_EHC, b2_EC))
        g_PH = x_TC.new_empty(max((run.place.stop - run.place.start for run in runs), default=0), h_PH.shape[1])
        for run in runs:
            e, h_RH, a_RH, g_RC = run.expert, h_PH[run.place], a_PH[run.place], fetch_g(g_XC, order_X, run)
            cast.product_into(d_w2[e], a_RH.t(), g_RC)
            torch.sum(g_RC, 0, dtype=d_b2.dtype, out=d_b2[e])
            g_RH = torch.mm(g_RC, cast(w2_EHC, e).t(), out=g_PH[: len(g_RC)])
            torch.ops.aten.gelu_backward.grad_input(g_RH, h_RH, grad_input=g_RH)
            cast.product_into(d_w1[e], fetch_x(x_TC, token_X, run).t(), g_RH)
            torch.sum(g_RH, 0, dtype=d_b1.dtype, out=d_b1[e])
            torch.mm(g_RH, cast(w1_ECH, e).t(), out=g_PC[run.place])
        d_x = g_PC.index_select(0, place_X).view(-1, *x_TC.shape).sum(0)
        return d_x, None, d_w1, d_b1, d_w2, d_b2


class _Fetch:
    """One expert's rows of a tensor, 0 in the padding, in the same memory for all experts.

    Parameters
    ----------
    runs
        Of all experts.
    """

    def __init__(self, runs: list[Run]) -> None:
        self.room = max((run.place.stop - run.place.start for run in runs), default=0)
        self.memory: Tensor | None = None

    def __call__(self, x: Tensor, row_X: Tensor, run: Run) -> Tensor:
        """Rows `row_X` of x, (R, C)."""
        if self.memory is None:
            self.memory = x.new_empty(self.room, x.shape[1])
        found = self.memory[: run.place.stop - run.place.start]
        torch.index_select(x, 0, row_X[run.sorted], out=found[: run.rows])
        found[run.rows :].zero_()
        return found


class _Cast:
    """One expert's weights in the dtype of the products, in the same memory for all experts.

    Parameters
    ----------
    dtype
        Of the products.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.memory: dict[torch.Size, Tensor] = {}

    def __call__(self, stack: Tensor, expert: int) -> Tensor:
        """The weights as they are, or their cast, good until the next of that shape is asked for."""
        weight = stack[expert]
        return weight if weight.dtype == self.dtype else self._room(weight.shape, weight).copy_(weight)

    def product_into(self, target: Tensor, left: Tensor, right: Tensor) -> None:
        """A product written in place, cast where the target is of another dtype."""
        if target.dtype == self.dtype:
            torch.mm(left, right, out=target)
        else:
            target.copy_(torch.mm(left, right, out=self._room(target.shape, target)))

    def _room(self, shape: torch.Size, like: Tensor) -> Tensor:
        if shape not in self.memory:
            self.memory[shape] = like.new_empty(shape, dtype=self.dtype)
        return self.memory[shape]


def _grad_of(weight: Tensor, runs: list[Run]) -> Tensor:
    """Room for a stack's gradient: 0 only where an expert has no rows, the rest is written."""
    return torch.empty_like(weight) if len(runs) == len(weight) else torch.zeros_like(weight)
