"""Runs timed in turn: what one is faster than another by, on a machine that is never quiet."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Runs = Mapping[str, Callable[[], object]]
"""What is compared, by name; each call is one timing."""


def in_turn(runs: Runs, rounds: int, *, ours: str = "ours", seldom: tuple[str, ...] = ()) -> dict[str, float]:
    """Median seconds of every run, `NAME_s`, and the median over rounds of its time over ours, `vs_NAME`.

    On a CPU also the same of processor time, `processor_vs_NAME`: with one thread, what else runs on the machine
    hardly touches it.

    Parameters
    ----------
    runs
        Called once to warm up and then once a round, one after the other.
    rounds
        How often.
    ours
        Which run the others are divided by, round by round.
    seldom
        Runs so slow that the first two rounds have to do.
    """
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            if turn <= 2 or name not in seldom:
                seconds = timed(run)
                if turn:
                    took[name].append(seconds)
    found = {f"{name}_s": statistics.median(wall for wall, _ in times) for name, times in took.items()}
    for clock, prefix in ((0, ""), (1, "processor_"))[: 1 if torch.cuda.is_available() else 2]:
        for name in (n for n in runs if n != ours):
            pairs = zip(took[name], took[ours], strict=False)
            found[f"{prefix}vs_{name}"] = statistics.median(theirs[clock] / mine[clock] for theirs, mine in pairs)
    return {name: round(value, 5) for name, value in found.items()}


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call, with what it left running on the GPU, and processor seconds."""
    _finish()
    wall, processor = time.perf_counter(), time.process_time()
    run()
    _finish()
    return time.perf_counter() - wall, time.process_time() - processor


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **gpu,
    }
