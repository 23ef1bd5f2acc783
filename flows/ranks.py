"""Pre-training on many processes: started by torchrun, followed by its record, ended with whoever started them."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.learn import HELD, REFUSED, Plan
from ringmoe.errors import TrainingError
from ringmoe.record import read

PAUSE_S = 0.5
"""Between two looks at the record."""


@contextmanager
def alone_at(folder: Path, spare: Path) -> Iterator[Path]:
    """A run's folder, for one process at a time; whoever comes second gets a spare one, which is removed at the end.

    The lock goes with the process that holds it, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kept = folder
        except BlockingIOError:
            spare.mkdir(parents=True)
            kept = spare
        try:
            yield kept
        finally:
            shutil.rmtree(spare, ignore_errors=True)


def run_ranks(plan: Plan, tell: Callable[[int, float], None]) -> None:
    """Have `plan.request.processes` processes of this machine carry out a plan together.

    Parameters
    ----------
    tell
        Told of steps done, and of the last one's loss.

    Raises
    ------
    TrainingError
        What a rank refused, or that one died.
    """
    file, log, refused = plan.kept / "plan.json", plan.kept / "ranks.log", plan.kept / REFUSED
    file.write_text(plan.model_dump_json())
    refused.unlink(missing_ok=True)
    count = f"--nproc-per-node={plan.request.processes}"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        count,
        "-m",
        "flows.learn",
        str(file),
        HELD,
    ]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT)
        try:
            told = 0
            while process.poll() is None:
                time.sleep(PAUSE_S)
                told = _follow(plan, told, tell)
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        raise _refusal(plan, refused, log)
    _follow(plan, told, tell)


def _follow(plan: Plan, told: int, tell: Callable[[int, float], None]) -> int:
    """Tell of the lines of the record since those told."""
    lines = read(plan.kept)
    for line in lines[told:]:
        tell(line["step"] + 1, float("nan") if line["loss"] is None else line["loss"])
    return len(lines)


def _refusal(plan: Plan, refused: Path, log: Path) -> TrainingError:
    if refused.exists():
        parts = json.loads(refused.read_text())
        return TrainingError(parts.pop("what"), **parts)
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
    return TrainingError(
        "a process of the training run died",
        item="; ".join(last) or str(log),
        enough=f"{plan.request.processes} processes that live to the end",
        todo=f"see {log}; run the same command again, it goes on from the last state kept",
    )
