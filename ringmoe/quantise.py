"""Weights in fewer bits: int8 with a scale per output channel, or bfloat16; what is computed stays floating point.

Shape legend: N output channel, C input width, H hidden width, E expert.
"""

from __future__ import annotations

import copy
from collections.abc import Set
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import RingMoE
from ringmoe.errors import ConfigError, ModelError, PruneError
from ringmoe.modality import Batch
from ringmoe.moe import Experts

LEVELS = 127
"""Largest integer of the symmetric range; -128 stays unused."""


class Int8Linear(nn.Linear):
    """A linear layer whose weight is int8 times a float32 scale per output channel, multiplied out when it is used.

    Parameters
    ----------
    layer
        In float32; its bias is taken over.
    """

    weight_int8: Tensor
    weight_scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        whole, scale = rounded(layer.weight.detach(), 1)
        self.register_buffer("weight_int8", whole)
        self.register_buffer("weight_scale", scale)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(N, C) float32."""
        return self.weight_int8.to(self.weight_scale.dtype) * self.weight_scale

    def forward(self, x_C: Tensor) -> Tensor:
        """As the layer it stands for."""
        return F.linear(x_C, self.weight, self.bias)


class Int8Experts(Experts):
    """A stack of experts whose matrices are int8, with a scale per expert and output channel.

    Parameters
    ----------
    experts
        In float32; their biases are taken over.
    """

    w1_int8: Tensor
    w1_scale: Tensor
    w2_int8: Tensor
    w2_scale: Tensor

    def __init__(self, experts: Experts) -> None:
        nn.Module.__init__(self)
        for name, stack in (("w1", experts.w1_ECH), ("w2", experts.w2_EHC)):
            whole, scale = rounded(stack.detach(), 1)
            self.register_buffer(f"{name}_int8", whole)
            self.register_buffer(f"{name}_scale", scale)
        self.b1_EH, self.b2_EC = experts.b1_EH, experts.b2_EC

    @property
    def w1_ECH(self) -> Tensor:  # type: ignore[override]
        """float32."""
        return self.w1_int8.to(self.w1_scale.dtype) * self.w1_scale

    @property
    def w2_EHC(self) -> Tensor:  # type: ignore[override]
        """float32."""
        return self.w2_int8.to(self.w2_scale.dtype) * self.w2_scale


def rounded(weight: Tensor, across: int) -> tuple[Tensor, Tensor]:
    """A weight as integers of -127 to 127 and their scale: its largest magnitude along a dimension over 127.

    What is lost is at most half a scale per number.
    """
    scale = weight.abs().amax(across, keepdim=True) / LEVELS
    scale = scale.where(scale > 0, 1.0)
    return (weight / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


@torch.no_grad()
def int8(model: RingMoE) -> RingMoE:
    """A copy whose attention, merging and experts have int8 weights; the rest, in float32, is small.

    Routers, norms, biases, the position bias and the embedding stay as they are. It runs and is saved and loaded as
    any other model; to train or to prune, take the model it was made of.

    Raises
    ------
    ConfigError
        The model is not in float32.
    """
    dtypes = {tensor.dtype for tensor in model.state_dict().values()}
    if dtypes != {torch.float32}:
        raise ConfigError(
            "Only a model in float32 is quantised",
            item=", ".join(sorted(str(dtype) for dtype in dtypes)),
            enough="torch.float32",
            todo="call model.float() first, or take the model before it was made smaller",
        )
    return hold_int8(copy.deepcopy(model)).eval()


def hold_int8(model: RingMoE) -> RingMoE:
    """Swap, in place, the layers that `int8` makes smaller; on the meta device, where to load such weights into."""
    for stage, merge in enumerate(model.merges):
        if stage:
            merge.reduction = Int8Linear(merge.reduction)  # type: ignore[arg-type]
    for block in model.blocks():
        attention, layer = block.attention, block.experts
        attention.qkv, attention.proj = Int8Linear(attention.qkv), Int8Linear(attention.proj)
        if layer.experts is not None:
            layer.experts = Int8Experts(layer.experts)
        if layer.shared is not None:
            for place in (0, 2):
                layer.shared[place] = Int8Linear(layer.shared[place])  # type: ignore[arg-type]
    return model


def is_quantised(model: RingMoE) -> bool:
    """Whether any weight is int8."""
    return any(buffer.dtype == torch.int8 for buffer in model.buffers())


def check_exact(model: RingMoE, done: str = "pruned", error: type[ModelError] = PruneError) -> None:
    """An error where weights are int8 and what is to be done to them takes floating point."""
    if is_quantised(model):
        raise quantised(f"a model of {', '.join(model.modalities)} in int8", done, error)


def quantised(item: str, done: str = "pruned", error: type[ModelError] = PruneError) -> ModelError:
    """What is said of int8 weights that cannot be pruned or baked."""
    return error(
        f"Quantised weights cannot be {done}",
        item=item,
        enough="weights in floating point",
        todo="take the checkpoint that this one was made of, and quantise what comes of it",
    )


def held(model: RingMoE, dtypes: Set[str]) -> RingMoE:
    """A model without memory as the one whose tensors are of these dtypes."""
    return hold_int8(model) if "int8" in dtypes else model


def bf16(model: RingMoE) -> RingMoE:
    """A copy in bfloat16: half the bytes of float32, and about three digits."""
    return copy.deepcopy(model).to(torch.bfloat16).eval()


@dataclass(frozen=True)
class Loss:
    """What fewer bits cost."""

    bytes: int
    """Of all tensors."""
    size_ratio: float
    """Over those of the model compared with."""
    relative_error: tuple[float, ...]
    """Norm of the difference of the features over the norm of the features, stage by stage."""
    cosine: tuple[float, ...]
    """Mean cosine between features of one place, stage by stage."""


@torch.no_grad()
def loss(model: RingMoE, smaller: RingMoE, batch: Batch) -> Loss:
    """How a model with fewer bits differs from the one it was made of, over one batch."""
    wanted, found = model(batch).pyramids, smaller(batch).pyramids
    errors, cosines = [], []
    for stage in range(4):
        a, b = ([maps[stage].float().movedim(1, -1).flatten(0, 2) for maps in p.values()] for p in (wanted, found))
        a_TC, b_TC = torch.cat(a), torch.cat(b)
        errors.append(float((a_TC - b_TC).norm() / a_TC.norm()))
        cosines.append(float(F.cosine_similarity(a_TC, b_TC, dim=-1).mean()))
    sizes = [sum(t.nbytes for t in m.state_dict().values()) for m in (model, smaller)]
    return Loss(sizes[1], sizes[1] / sizes[0], tuple(errors), tuple(cosines))
