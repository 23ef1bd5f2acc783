"""The training loop under every verb: AdamW, warm-up and cosine, clipping, the same bits every time, also resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ringmoe import training_state
from ringmoe.determinism import deterministic
from ringmoe.errors import TrainingError
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
    """Batches to learn from."""
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

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear to `rate` over the warm-up, then half a cosine down to `final * rate`."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup - 1, 1)
        return self.rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


@dataclass(frozen=True)
class Step:
    """One step, as told to whoever watches."""

    index: int
    """From 0."""
    loss: float
    """What was minimised; not finite where the step was skipped."""
    terms: Mapping[str, float]
    """The named terms of the loss."""
    rate: float
    """Learning rate."""
    images: int
    """Images in the batch."""
    skipped: bool
    """True where loss or gradient was not finite and the weights were left alone."""


@dataclass(frozen=True)
class History:
    """What a training run did."""

    loss: tuple[float, ...]
    """Loss of every step that counted."""
    terms: Mapping[str, tuple[float, ...]]
    """The same per named term; a step whose batch lacks a term is missing from it."""
    skipped: tuple[int, ...]
    """Steps whose loss or gradient was not finite."""
    images: int
    """Images seen."""
    seconds: float
    """Wall time; it is measured, so it is not the same twice."""

    @property
    def images_per_second(self) -> float:
        """Images seen per second of wall time, loading included."""
        return self.images / max(self.seconds, 1e-9)


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
        Batches from the first step on, or a function of the step to begin with that gives them, as a sampler's
        `stream`; a stopped run goes on with the batch it would have had.
    size
        Images in one batch, of this rank.
    on_step
        Told of every step, after it.

    Raises
    ------
    TrainingError
        When `config.patience` steps in a row are not finite, or batches run out.
    CheckpointError
        When a state cannot be kept, is damaged, or is of another model.
    """
    optimiser = _optimiser(module, config)
    device = device_of(module)
    record = _Record()
    first = _resumed(module, optimiser, record, config)
    source = iter(batches(first) if callable(batches) else islice(batches, first, None))
    start = time.perf_counter()
    with deterministic(threads=config.threads, device=device):
        module.train()
        for index in range(first, config.steps):
            batch = _next(source, index, config)
            torch.manual_seed(_seed_of(index, config))
            step = _advance(module, optimiser, loss_of, batch, index, size(batch), config, device)
            record.keep(step, config)
            if config.keep_in is not None and (index + 1) % config.keep_every == 0:
                training_state.save(config.keep_in, module, optimiser, index + 1, record.told())
            if on_step is not None:
                on_step(step)
        module.eval()
    return record.history(time.perf_counter() - start)


def _optimiser(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    groups = parameter_groups(module, config.weight_decay)
    if config.moments == "float32":
        return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, fused=True)
    fused = device_of(module).type == "cuda"
    return LeanAdamW(
        groups, lr=config.rate, betas=config.betas, states=config.moments, seed=config.seed, compiled=fused
    )


def _resumed(module: nn.Module, optimiser: torch.optim.Optimizer, record: _Record, config: TrainConfig) -> int:
    """Put back the last state kept, where there is one; the step to go on with."""
    kept = None if config.keep_in is None else training_state.latest(config.keep_in)
    if kept is None:
        return 0
    training_state.restore(kept, module, optimiser)
    record.put_back(kept.record)
    return kept.step


def _seed_of(index: int, config: TrainConfig) -> int:
    """Of a step's draws; ranks draw apart."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return config.seed * 1_000_003 + index + rank * 500_000_003


def _advance(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: Callable[[T], Loss],
    batch: T,
    index: int,
    images: int,
    config: TrainConfig,
    device: torch.device,
) -> Step:
    rate = config.rate_at(index)
    for group in optimiser.param_groups:
        group["lr"] = rate
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        loss, terms = loss_of(batch)
    optimiser.zero_grad(set_to_none=True)
    finite = bool(torch.isfinite(loss))
    if finite:
        loss.backward()
        trained = [p for group in optimiser.param_groups for p in group["params"]]
        finite = bool(torch.isfinite(clip_gradients(trained, config.clip)))
    if finite:
        optimiser.step()
    values = {name: float(value.detach()) for name, value in terms.items()}
    return Step(index, float(loss.detach()), values, rate, images, skipped=not finite)


class _Record:
    """Steps becoming a history; stops a run that has gone wrong."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.terms: dict[str, list[float]] = {}
        self.skipped: list[int] = []
        self.images = 0
        self.in_a_row = 0

    def keep(self, step: Step, config: TrainConfig) -> None:
        self.images += step.images
        if not step.skipped:
            self.in_a_row = 0
            self.loss.append(step.loss)
            for name, value in step.terms.items():
                self.terms.setdefault(name, []).append(value)
            return
        self.skipped.append(step.index)
        self.in_a_row += 1
        if self.in_a_row >= config.patience:
            bad = ", ".join(name for name, value in step.terms.items() if not math.isfinite(value))
            raise TrainingError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite",
                item=f"step {step.index}, {f'terms {bad}' if bad else 'the gradient'}",
                enough=f"one finite step in {config.patience}",
                todo="look for pixels far outside the contract's range, lower the rate, or train in float32",
            )

    def told(self) -> dict[str, Any]:
        """All of it as JSON."""
        return dict(vars(self))

    def put_back(self, told: Mapping[str, Any]) -> None:
        """Make it what it was when it was told."""
        vars(self).update(told)

    def history(self, seconds: float) -> History:
        terms = {name: tuple(values) for name, values in self.terms.items()}
        return History(tuple(self.loss), terms, tuple(self.skipped), self.images, seconds)


def _next(source: Iterator[T], index: int, config: TrainConfig) -> T:
    try:
        return next(source)
    except StopIteration:
        raise TrainingError(
            "the batches ran out",
            item=f"step {index}",
            enough=f"{config.steps} batches",
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
