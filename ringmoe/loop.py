"""The training loop under every verb: AdamW, warm-up and cosine, clipping, the same bits every time, also resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ringmoe import training_state
from ringmoe.allocator import freed_memory_kept
from ringmoe.determinism import deterministic
from ringmoe.errors import CheckpointError, TrainingError
from ringmoe.history import History, Record, Step
from ringmoe.moe import Router
from ringmoe.optim import LeanAdamW
from ringmoe.parallel import clip_gradients

T = TypeVar("T")
Loss: TypeAlias = tuple[Tensor, Mapping[str, Tensor]]
"""What is minimised, and its named terms."""


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 300
    """Steps of the optimiser."""
    accumulate: int = 1
    """Batches to a step; their gradients are averaged before it."""
    rate: float = 1e-3
    """Highest learning rate."""
    warmup: int = 20
    """Steps of linear warm-up; a cosine follows."""
    final: float = 0.02
    """Learning rate at the last step, as a share of the highest."""
    weight_decay: float = 0.05
    """Decoupled decay of matrices; norms, biases, scales, routers and position-bias networks have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    clip: float = 5.0
    """Largest norm of a step's gradient."""
    patience: int = 10
    """Steps in a row that may be non-finite before training stops."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What autocast computes in; weights and moments stay float32."""
    seed: int = 0
    """Of everything drawn at random; the draws of a step depend on seed and step alone."""
    threads: int | None = None
    """CPU threads; the sum of a product depends on them. None leaves them as they are."""
    moments: Literal["float32", "bfloat16", "8bit"] = "float32"
    """What AdamW's moments are kept in; with the latter two, weights in bfloat16 are rounded stochastically."""
    keep_in: str | None = None
    """Folder of the run's states; where it holds one, training goes on from there. None keeps none."""
    keep_every: int = 100
    """Steps between two states."""
    run: str = ""
    """What else makes the run what it is, as a hash of its data; states of another run are refused."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear to `rate` over the warm-up, then half a cosine down to `final * rate`."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup - 1, 1)
        return self.rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def fit(
    module: nn.Module,
    loss_of: Callable[[T], Loss],
    batches: Iterable[T] | Callable[[int], Iterable[T]],
    config: TrainConfig,
    *,
    size: Callable[[T], int],
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """AdamW with warm-up, cosine and clipping over whatever a loss can be taken of; deterministic on a CPU.

    Non-finite steps leave the weights alone and are counted. Two calls with equal weights, batches, configuration and
    threads end with equal bits; so does a call that goes on from a state kept by one that was stopped.

    Parameters
    ----------
    module
        Holder of the parameters that are trained, in place; those that need no gradient are left alone.
    loss_of
        Loss and named terms of one batch; on many ranks the whole batch's, the same on each (see ringmoe.parallel).
    batches
        Batches from the first on, `config.accumulate` to a step, or a function of the number of the batch to begin
        with that gives them, as a sampler's `stream`; a stopped run goes on with the batch it would have had.
    size
        Images in one batch, of this rank.
    on_step
        Told of every step, after it.

    Raises
    ------
    TrainingError
        When `config.patience` steps in a row are not finite, or none is, or batches run out.
    CheckpointError
        When a state cannot be kept, is damaged, or is of another model or another run.
    """
    learner = _Learner(module, loss_of, size, config)
    record = Record()
    first = _resumed(learner, record)
    begin = first * config.accumulate
    source = iter(batches(begin) if callable(batches) else islice(batches, begin, None))
    keeper = nullcontext() if config.keep_in is None else closing(training_state.Keeper(config.keep_in))
    with freed_memory_kept(), deterministic(threads=config.threads, device=learner.device), keeper as keeping:
        module.train()
        for index in range(first, config.steps):
            step = learner.step(index, source)
            record.keep(step, config.patience)
            if keeping is not None and (index + 1) % config.keep_every == 0:
                told = {"run": _identity(config), "history": record.told()}
                keeping.keep(module, learner.optimiser, index + 1, told)
            if on_step is not None:
                on_step(step)
        module.eval()
    history = record.history()
    if config.steps and not history.loss:
        raise TrainingError(
            "no step was finite, and nothing was learned",
            item=f"{config.steps} steps",
            enough="one step whose loss and gradients are finite",
            todo="look at the pixels that are learned from, or lower the rate",
        )
    return history


def _optimiser(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    groups = parameter_groups(module, config.weight_decay)
    if config.moments == "float32":
        return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, fused=True)
    fused = device_of(module).type == "cuda"
    return LeanAdamW(
        groups, lr=config.rate, betas=config.betas, states=config.moments, seed=config.seed, compiled=fused
    )


_MATTERS_NOT = ("keep_in", "keep_every", "patience", "threads")
"""Of a configuration; with another number of threads a run goes on, but not to the same bits."""


def _identity(config: TrainConfig) -> dict[str, Any]:
    """All of a configuration that makes a run another one, as JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items() if k not in _MATTERS_NOT}


def _resumed(learner: _Learner[Any], record: Record) -> int:
    """Put back the last state kept, where there is one; the step to go on with.

    Raises
    ------
    CheckpointError
        It is of another run.
    """
    config = learner.config
    kept = None if config.keep_in is None else training_state.latest(config.keep_in)
    if kept is None:
        return 0
    before, now = kept.record.get("run", {}), _identity(config)
    other = [f"{k} {before.get(k, 'nothing')} instead of {v}" for k, v in now.items() if before.get(k) != v]
    if other:
        raise CheckpointError(
            "The folder holds the state of another run: " + ", ".join(other),
            item=str(kept.folder),
            enough="the folder of a run of the same data and configuration, or an empty one",
            todo="go on with what that run began with, or keep this run's states elsewhere",
        )
    training_state.restore(kept, learner.module, learner.optimiser)
    record.put_back(kept.record["history"])
    return kept.step


class _Learner(Generic[T]):
    """A module, its optimiser and its loss, one step at a time."""

    def __init__(
        self, module: nn.Module, loss_of: Callable[[T], Loss], size: Callable[[T], int], config: TrainConfig
    ) -> None:
        self.module, self.loss_of, self.size, self.config = module, loss_of, size, config
        self.optimiser = _optimiser(module, config)
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.device = device_of(module)

    def step(self, index: int, source: Iterator[T]) -> Step:
        """Learn from a step's batches, unless one is not finite."""
        start, config = time.perf_counter(), self.config
        rate, norm = config.rate_at(index), torch.tensor(math.nan)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        waited_s, images, finite = 0.0, 0, True
        losses: list[Tensor] = []
        terms: dict[str, list[Tensor]] = {}
        for part in range(config.accumulate):
            asked = time.perf_counter()
            batch = _next(source, index, config)
            waited_s += time.perf_counter() - asked
            images += self.size(batch)
            loss, named = self._loss(batch, index * config.accumulate + part)
            losses.append(loss.detach())
            for name, value in named.items():
                terms.setdefault(name, []).append(value.detach())
            finite = finite and bool(torch.isfinite(loss))
            if finite:
                (loss / config.accumulate if config.accumulate > 1 else loss).backward()
        if finite:
            norm = clip_gradients(self.trained, config.clip)
            finite = bool(torch.isfinite(norm))
        if finite:
            self.optimiser.step()
        values = {name: _mean(found) for name, found in terms.items()}
        seconds = time.perf_counter() - start
        return Step(index, _mean(losses), values, rate, images, not finite, float(norm), seconds, waited_s)

    def _loss(self, batch: T, draw: int) -> Loss:
        torch.manual_seed(_seed_of(draw, self.config))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return self.loss_of(batch)


def _mean(values: list[Tensor]) -> float:
    return float(values[0] if len(values) == 1 else torch.stack(values).mean())


def _seed_of(draw: int, config: TrainConfig) -> int:
    """Of a batch's draws, a batch of a step counted as one; ranks draw apart."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return config.seed * 1_000_003 + draw + rank * 500_000_003


def _next(source: Iterator[T], index: int, config: TrainConfig) -> T:
    try:
        return next(source)
    except StopIteration:
        raise TrainingError(
            "the batches ran out",
            item=f"step {index}",
            enough=f"{config.steps * config.accumulate} batches",
            todo="train fewer steps, or give a sampler's stream, which has no end",
        ) from None


_UNDECAYED = ("bias", "norm", "scale", "token", "no_data", "b1_", "b2_")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that decay and those that do not, by the ranks they lie on, each in the module's order."""
    routers = {id(p) for m in module.modules() if isinstance(m, Router) for p in m.parameters()}
    found: dict[tuple[Any, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spare = parameter.ndim < 2 or id(parameter) in routers or any(part in name for part in _UNDECAYED)
            mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
            found.setdefault((mesh, spare), []).append(parameter)
    return [{"params": params, "weight_decay": 0.0 if spare else weight_decay} for (_, spare), params in found.items()]


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
