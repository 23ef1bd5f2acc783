"""SIGKILL at a random step of pre-training, then the same command: as if nobody had killed it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pretraining_process import learn
from safetensors.torch import load_file

from ringmoe.record import read
from ringmoe.training_state import latest

HERE = Path(__file__).resolve().parent
ALONE = (sys.executable,)
STEPS = 70
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(command: tuple[str, ...], folder: Path, steps: int, held_at: int = -1) -> subprocess.Popen[bytes]:
    """The process under way, one thread each rank; it may wait before a step to be killed."""
    folder.mkdir(exist_ok=True)
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            [*command, str(HERE / "pretraining_process.py"), str(folder), str(steps)],
            env=os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1", "HELD_AT": str(held_at)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(process: subprocess.Popen[bytes], folder: Path, there: Callable[[], bool]) -> None:
    """Until something is there; a process that ends before has failed."""
    until = time.monotonic() + 900
    while not there():
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.03)


def killed_at(process: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    """SIGKILL to all of it, once a state lies on the disk and so many steps are done."""
    wait_for(
        process, folder, lambda: len(read(folder)) >= step and any(folder.glob("states/step-?????????/state.json"))
    )
    for pid in (folder / "pids").iterdir():
        os.kill(int(pid.name), signal.SIGKILL)
        pid.unlink()
    process.wait(timeout=60)


def test_parameters_after_a_kill_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    """Killed at a random step while states are written in the background, gone on with for more than 50 steps: every
    parameter, the decoders' too, and every loss is the same to the bit. Float32, one process, one thread."""
    random_step = random.SystemRandom().randint(6, 12)
    process = start(ALONE, tmp_path / "killed", STEPS, held_at=18)
    killed_at(process, tmp_path / "killed", random_step)
    kept = latest(tmp_path / "killed" / "states")
    assert kept is not None
    assert kept.step <= STEPS - 50, f"killed at step {random_step}"
    process = start(ALONE, tmp_path / "killed", STEPS)
    whole = learn(tmp_path / "whole", STEPS)
    assert process.wait(timeout=900) == 0, (tmp_path / "killed" / "log").read_text()[-3000:]
    again = load_file(tmp_path / "killed" / "end.safetensors")
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole), f"killed at step {random_step}"
    lines = [[(line["step"], line["loss"]) for line in read(tmp_path / name)] for name in ("killed", "whole")]
    assert lines[0] == lines[1]
    assert [step for step, _ in lines[0]] == list(range(STEPS))


@pytest.mark.slow
def test_losses_of_two_processes_after_a_kill_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    """Both ranks killed at a random step and started again: 50 more losses within 1e-4."""
    undisturbed = start(TWO, tmp_path / "whole", STEPS)
    process = start(TWO, tmp_path / "killed", STEPS, held_at=18)
    killed_at(process, tmp_path / "killed", random.SystemRandom().randint(6, 12))
    process = start(TWO, tmp_path / "killed", STEPS)
    for each in (process, undisturbed):
        assert each.wait(timeout=500) == 0, (tmp_path / "killed" / "log").read_text()[-3000:]
    again, whole = ([line["loss"] for line in read(tmp_path / name)] for name in ("killed", "whole"))
    assert len(again) == STEPS
    assert again == pytest.approx(whole, rel=1e-4)
