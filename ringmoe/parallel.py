"""The same model on many devices; the model never knows.

The trunk is sharded by FSDP2. The stacks of experts are spread: each rank holds some experts of every block, and
tokens travel to them and back by all-to-all. Every rank takes its own part of the batch, and its loss is the whole
batch's (`summed_over_ranks`), so that gradients are summed over ranks, never averaged.
Shape legend: T token of this rank, K kind of routed expert, X = K T rows sent, R row received, C width, E expert,
S rank of the experts' mesh.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single, all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ringmoe.backbone import RingMoE
from ringmoe.errors import ConfigError
from ringmoe.modality import Batch, Chips, run_of
from ringmoe.moe import Experts, compute_dtype


@dataclass(frozen=True)
class Layout:
    """How the ranks of a run share one model."""

    shards: int = 1
    """Ranks that share the trunk's parameters; groups of so many hold a copy each. Divides the number of ranks."""
    experts: int = 1
    """Ranks that share every stack of experts; the same ranks may share the trunk, too. Divides the number of ranks."""
    compute: torch.dtype | None = None
    """dtype of the trunk's parameters while they compute, as bfloat16; None leaves them as they are."""


@contextmanager
def ranks_of_torchrun(*, patience_s: float = 600.0) -> Iterator[torch.device]:
    """Join the ranks that torchrun started, on one node or many, and give this rank's device.

    NCCL where there is CUDA, one device a rank; gloo otherwise. Left, the ranks part again.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=patience_s))
    try:
        yield device
    finally:
        dist.destroy_process_group()


def distribute(model: RingMoE, layout: Layout, *, beside: nn.Module | None = None) -> RingMoE:
    """Lay a model over all ranks, in place; every rank must have made it from the same seed or the same tensors.

    Parameters
    ----------
    beside
        What is trained beside the model, as an objective's decoders; shared as the trunk is.

    Raises
    ------
    ConfigError
        The layout does not fit the number of ranks, or leaves a rank without experts.
    """
    ranks = dist.get_world_size()
    if layout.shards < 1 or layout.experts < 1 or ranks % layout.shards or ranks % layout.experts:
        raise ConfigError(
            f"{ranks} ranks cannot share a model in this way",
            item=f"shards {layout.shards}, experts {layout.experts}",
            enough=f"divisors of {ranks}",
            todo="choose other shares, or start another number of ranks",
        )
    kind = next(model.parameters()).device.type
    if layout.experts > 1:
        shape, names = (ranks // layout.experts, layout.experts), ("copies", "experts")
        spread(model, init_device_mesh(kind, shape, mesh_dim_names=names))
    trunk = (
        init_device_mesh(kind, (ranks,), mesh_dim_names=("shards",))
        if layout.shards == ranks
        else init_device_mesh(kind, (ranks // layout.shards, layout.shards), mesh_dim_names=("replicas", "shards"))
    )
    shard(model, trunk, compute=layout.compute)
    if beside is not None:
        shard_module(beside, trunk)
    return model


def shard(model: RingMoE, mesh: DeviceMesh, *, compute: torch.dtype | None = None) -> RingMoE:
    """Shard a model's trunk, in place: every block by itself, the rest together. Experts already spread stay so.

    Gradients come out summed over ranks. With losses that are divided by sums over all ranks (`summed_over_ranks`)
    they are those of one process with the whole batch.

    Parameters
    ----------
    mesh
        One dimension, over which parameters are sharded, or two: replicas of shards.
    compute
        dtype of parameters while they compute, as bfloat16; None leaves them as they are.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute, cast_forward_inputs=False)
    stacks = [m for m in model.modules() if isinstance(m, SpreadExperts)]
    apart = {p for stack in stacks for p in stack.parameters()}
    for module in (*model.blocks(), model):
        _summing(fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=apart))
    return model


def shard_module(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard what stands beside the model, as an objective's decoders, as one piece."""
    _summing(fully_shard(module, mesh=mesh))
    return module


def _summing(module: FSDPModule) -> None:
    """Let a module's gradients be summed over ranks; FSDP2 would average them."""
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)


def spread(model: RingMoE, mesh: DeviceMesh) -> RingMoE:
    """Spread every block's stack of experts over ranks, in place, in equal runs; the last rank may have fewer.

    Parameters
    ----------
    mesh
        Dimensions "copies" and "experts": the stack is cut along its first axis over the latter, and each part,
        where there are copies of it, sharded over the former by FSDP2.

    Raises
    ------
    ConfigError
        A rank would be without experts.
    """
    ranks = mesh["experts"].size()
    for index, block in enumerate(model.blocks()):
        experts = block.experts.experts
        if experts is None:
            continue
        _check_share(index, len(experts.w1_ECH), ranks)
        _spread_stack(experts, mesh)
    return model


def _check_share(block: int, experts: int, ranks: int) -> None:
    fits = [n for n in range(1, experts + 1) if -(-experts // -(-experts // n)) == n]
    if ranks not in fits:
        raise ConfigError(
            "A rank would be without experts" if ranks <= experts else "There are more ranks than experts",
            item=f"block {block}: {experts} experts over {ranks} ranks",
            enough=f"one of {', '.join(map(str, fits))} ranks to share the experts",
            todo="spread the experts over fewer ranks (Layout.experts); the others hold copies of them",
        )


def _spread_stack(experts: Experts, mesh: DeviceMesh) -> None:
    count = len(experts.w1_ECH)
    for name, parameter in list(experts.named_parameters(recurse=False)):
        part = distribute_tensor(parameter.detach(), mesh["experts"], [Shard(0)])
        experts.register_parameter(name, nn.Parameter(part, requires_grad=parameter.requires_grad))
    experts.__class__ = SpreadExperts
    stack = cast(SpreadExperts, experts)
    stack.count, stack.mesh, stack.at_work = count, mesh["experts"], False
    if mesh["copies"].size() > 1:
        _summing(fully_shard(stack, mesh=mesh["copies"], shard_placement_fn=lambda parameter: Shard(1)))


class SpreadExperts(Experts):
    """A stack of experts of which this rank holds a part: tokens go to their experts' ranks and come back.

    The stack's own code runs on the part, with the rows that arrived; at work it sees plain tensors, not DTensors.
    """

    count: int
    """Experts of the whole stack."""
    mesh: DeviceMesh
    """The ranks that share it, one dimension."""
    at_work: bool
    """While the stack's own code runs."""

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return value.to_local() if isinstance(value, DTensor) and self.at_work else value

    def forward(self, x_TC: Tensor, slots_KT: Tensor) -> Tensor:
        """What the expert in slot `slots_KT[k, t]` of the whole stack makes of token t, (K, T, C)."""
        (kinds, tokens), ranks = slots_KT.shape, self.mesh.size()
        each = -(-self.count // ranks)
        slots_X, order_X = torch.sort(slots_KT.flatten(), stable=True)
        bounds = torch.arange(ranks * each + 1, device=slots_X.device)
        leaving_SE = torch.searchsorted(slots_X, bounds).diff().view(ranks, each)
        arriving_SE = all_to_all_single(leaving_SE, None, None, self.mesh).view(ranks, each)
        sent, got = torch.stack([leaving_SE.sum(1), arriving_SE.sum(1)]).tolist()
        place_R = torch.arange(each, device=slots_X.device).repeat(ranks).repeat_interleave(arriving_SE.flatten())
        x_XC = x_TC.to(compute_dtype(x_TC)).repeat(kinds, 1).index_select(0, order_X)
        x_RC = all_to_all_single_autograd(x_XC, got, sent, self.mesh)
        y_RC = self._work(x_RC, place_R[None])[0]
        y_XC = all_to_all_single_autograd(y_RC.contiguous(), sent, got, self.mesh)
        inverse_X = torch.empty_like(order_X).scatter_(0, order_X, torch.arange(len(order_X), device=order_X.device))
        return y_XC.index_select(0, inverse_X).view(kinds, tokens, -1)

    def _work(self, x_RC: Tensor, slots_1R: Tensor) -> Tensor:
        try:
            self.at_work = True
            return super().forward(x_RC, slots_1R)
        finally:
            self.at_work = False


def summed_over_ranks(group: dist.ProcessGroup | None = None) -> Callable[[Tensor], Tensor]:
    """A function that sums a tensor over the ranks, for numerators, denominators and loads of the objective.

    It is differentiable: each rank's gradient is that of its own term of the sum, and the sum of gradients over ranks,
    which `shard` and `spread` see to, counts every token once.
    """
    return lambda tensor: _Summed.apply(tensor, group)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def gathered_over_ranks(group: dist.ProcessGroup | None = None) -> Callable[[Tensor], Tensor]:
    """A function that puts the ranks' rows one after the other, as many as each has, for losses that compare rows.

    It is differentiable as `summed_over_ranks` is: a loss of all rows, the same on every rank, gives each rank the
    gradient of its own.
    """
    return lambda tensor: _Gathered.apply(tensor, group)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        rank, ranks = dist.get_rank(group), dist.get_world_size(group)
        counts_R = torch.zeros(ranks, dtype=torch.long, device=tensor.device)
        counts_R[rank] = len(tensor)
        dist.all_reduce(counts_R, group=group)
        counts = counts_R.tolist()
        ctx.mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][ctx.mine], None


def over_ranks(group: dist.ProcessGroup | None = None) -> dict[str, Callable[[Tensor], Tensor]]:
    """What makes an objective that of all ranks: how it sums and how it gathers, one being wrong without the other."""
    return {"summed": summed_over_ranks(group), "gathered": gathered_over_ranks(group)}


def same_on_all_ranks(text: str, device: torch.device, group: dist.ProcessGroup | None = None) -> bool:
    """Whether every rank has the same text."""
    code = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
    least, most = (torch.tensor(code, device=device) for _ in range(2))
    dist.all_reduce(least, dist.ReduceOp.MIN, group=group)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    return bool(least == most)


def part_of(batch: Batch, rank: int, ranks: int) -> Batch:
    """The part of a mixed batch that one rank works on: of every modality an equal run of images, give or take one.

    Raises
    ------
    ConfigError
        A modality has fewer images than there are ranks.
    """
    few = [f"{len(chips)} of {modality}" for modality, chips in batch.items() if len(chips) < ranks]
    if few:
        raise ConfigError(
            "A rank would be without images",
            item=", ".join(few),
            enough=f"{ranks} images of every modality, one a rank",
            todo="draw larger batches, or start fewer ranks",
        )
    parts = {}
    for modality, chips in batch.items():
        mine = run_of(len(chips), rank, ranks)
        gsd_B = None if chips.gsd_B is None else chips.gsd_B[mine]
        parts[modality] = Chips(chips.pixels_BCHW[mine], chips.valid_BHW[mine], chips.bands, gsd_B)
    return parts


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients down, in place, to a norm of at most `largest`; returns what the norm was, over all ranks."""
    by_mesh: dict[DeviceMesh | None, list[nn.Parameter]] = {}
    for parameter in parameters:
        grad = parameter.grad
        if grad is not None:
            by_mesh.setdefault(grad.device_mesh if isinstance(grad, DTensor) else None, []).append(parameter)
    norms = [nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in by_mesh.values()]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    if not norms:
        return torch.zeros(())
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for group in by_mesh.values():
        nn.utils.clip_grads_with_norm_(group, largest, total)
    return total
