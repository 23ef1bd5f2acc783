"""SIGKILL at any moment, then the same command: the same published files, byte for byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import SMALL, Run, own_prefect, ringmoe, start

from flows.publish import verify
from flows.refs import Where
from flows.settings import Settings

SEED = 20250810
TIMED = ("speed", "report_page")


def checksums(home: Path) -> dict[tuple[str, str], str]:
    """Item and asset to checksum, of everything published."""
    items = [json.loads(p.read_text()) for p in home.glob("catalog/*/*/*.json") if p.stem == p.parent.name]
    return {(i["id"], name): asset["file:checksum"] for i in items for name, asset in i["assets"].items()}


def lasting(home: Path) -> dict[tuple[str, str], str]:
    """The same but what was timed, which is never the same twice."""
    return {key: checksum for key, checksum in checksums(home).items() if key[1] not in TIMED}


def kill(home: Path, log: Path, after_s: float, landmark: str = "") -> bool:
    """Start the main job and kill it, with all it started, so long after it began or after a file was there.

    Returns whether it was still at work.
    """
    process = start(home, *SMALL, log=log, **own_prefect(home))
    while landmark and not list(home.glob(landmark)) and process.poll() is None:
        time.sleep(0.02)
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        return True
    return False


def test_a_killed_run_ends_with_the_same_bytes(small_run: Run, tmp_path: Path) -> None:
    """Killed while cubes are written and again while a model learns, then run to its end: every published file equals
    that of a run in another folder that nobody disturbed, and is what its item says."""
    home, rng = tmp_path / "home", random.Random(SEED)
    assert kill(home, tmp_path / "first", rng.uniform(0, 2), "catalog/cubes/*/attempt-1")
    assert kill(home, tmp_path / "second", rng.uniform(1, 5), "catalog/models/*/attempt-1")
    done = ringmoe(home, *SMALL, **own_prefect(home))
    assert done.code == 0, done.said
    assert "found finished" in done.out
    assert lasting(home) == lasting(small_run.home)
    assert verify(Where.of(Settings(home=home))) == len(checksums(home))


@pytest.mark.slow
def test_ten_kills_at_any_moment(small_run: Run, tmp_path: Path) -> None:
    """Ten runs, each killed at a moment drawn over all of an undisturbed run, three times over the same folder and
    then finished: all end with the same bytes."""
    wanted, rng, killed = lasting(small_run.home), random.Random(SEED + 1), 0
    seconds = float(str(small_run.summary["seconds"]))
    for home in (tmp_path / name for name in ("a", "b", "c")):
        for number in range(4):
            if killed < 10:
                killed += kill(home, tmp_path / f"{home.name}{number}", rng.uniform(1, seconds))
        done = ringmoe(home, *SMALL, **own_prefect(home))
        assert done.code == 0, done.said
        assert lasting(home) == wanted
        assert verify(Where.of(Settings(home=home))) == len(checksums(home))
        print(f"{home.name}: {killed} kills so far, equal to the byte")
    assert killed >= 8
