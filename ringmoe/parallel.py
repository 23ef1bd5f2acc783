"""The same model on many devices; the model never knows.

FSDP2 shards every block's parameters over the ranks of a mesh; each rank takes its own share of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from ringmoe.backbone import RingMoE


def shard(model: RingMoE, mesh: DeviceMesh, *, compute: torch.dtype | None = None) -> RingMoE:
    """Shard a model's parameters over a one-dimensional mesh, in place: every block by itself, the rest together.

    Gradients come out averaged over ranks. With losses that are divided by sums over all ranks (`summed_over_ranks`)
    they are those of one process with the whole batch.

    Parameters
    ----------
    mesh
        One dimension; gloo on CPU, NCCL on CUDA.
    compute
        dtype of parameters while they compute, as bfloat16; None leaves them as they are.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute, cast_forward_inputs=False)
    for block in model.blocks():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def shard_module(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard what stands beside the model, as an objective's decoders, as one piece."""
    fully_shard(module, mesh=mesh)
    return module


def summed_over_ranks(group: dist.ProcessGroup | None = None) -> Callable[[Tensor], Tensor]:
    """A function that sums a tensor over the ranks, for numerators, denominators and loads of the objective.

    It is differentiable: the gradient of a sum that every rank uses is the sum of every rank's gradient, and FSDP's
    average over ranks then leaves each token's gradient counted once.
    """
    return lambda tensor: _Summed.apply(tensor, group)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group  # type: ignore[attr-defined]
        total = tensor.detach().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone()
        dist.all_reduce(total, group=ctx.group)  # type: ignore[attr-defined]
        return total, None
