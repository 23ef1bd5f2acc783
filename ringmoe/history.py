"""Steps of training, the history they become, and the stop of a run that has gone wrong."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ringmoe.errors import TrainingError


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
    norm: float
    """Norm of the gradient before clipping, over all ranks; NaN where there was none to take it of."""
    seconds: float
    """Wall time of the step, the wait for its batches included."""
    waited_s: float
    """Wall time that the step waited for its batches."""


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
    """Wall time, that of a stopped run's kept steps included; it is measured, so it is not the same twice."""
    waited_s: float
    """Of it, waiting for batches."""

    @property
    def images_per_second(self) -> float:
        """Images seen per second of wall time, loading included."""
        return self.images / max(self.seconds, 1e-9)


class Record:
    """Steps becoming a history; stops a run that has gone wrong."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.terms: dict[str, list[float]] = {}
        self.skipped: list[int] = []
        self.images = 0
        self.in_a_row = 0
        self.seconds = 0.0
        self.waited_s = 0.0

    def keep(self, step: Step, patience: int) -> None:
        """Count a step; TrainingError where so many in a row were not finite."""
        self.images += step.images
        self.seconds += step.seconds
        self.waited_s += step.waited_s
        if not step.skipped:
            self.in_a_row = 0
            self.loss.append(step.loss)
            for name, value in step.terms.items():
                self.terms.setdefault(name, []).append(value)
            return
        self.skipped.append(step.index)
        self.in_a_row += 1
        if self.in_a_row >= patience:
            bad = ", ".join(name for name, value in step.terms.items() if not math.isfinite(value))
            raise TrainingError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite",
                item=f"step {step.index}, {f'terms {bad}' if bad else 'the gradient'}",
                enough=f"one finite step in {patience}",
                todo="look for pixels far outside the contract's range, lower the rate, or train in float32",
            )

    def told(self) -> dict[str, Any]:
        """All of it as JSON, a copy."""
        return copy.deepcopy(vars(self))

    def put_back(self, told: Mapping[str, Any]) -> None:
        """Make it what it was when it was told."""
        vars(self).update(told)

    def history(self) -> History:
        """What was counted."""
        terms = {name: tuple(values) for name, values in self.terms.items()}
        return History(tuple(self.loss), terms, tuple(self.skipped), self.images, self.seconds, self.waited_s)
