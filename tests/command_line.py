"""`ringmoe` as a person starts it: a process of its own, a home of its own, and all that it says."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMAND = Path(sys.executable).with_name("ringmoe")
SMALL = ("run", "--sandbox", "--size", "256", "--quick")
"""The main job on the smallest Earth on which shifts can be measured."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    """Its exit code; negative for a signal."""
    out: str
    """Standard output."""
    err: str
    """Standard error."""
    processor_s: float
    """What it took of the processors, children included: the same beside any other load."""

    @property
    def said(self) -> str:
        """All of it."""
        return self.out + self.err


@dataclass(frozen=True)
class Run:
    """A finished main job."""

    home: Path
    """Folder of everything it kept; read it, or take a copy, but leave it as it is."""
    summary: Mapping[str, object]
    """What --json wrote."""
    finished: Finished
    """How it ended."""


def environment(**more: str) -> dict[str, str]:
    """Two threads and two workers whatever the machine, lines that do not break, and one Prefect database for all.

    Nothing else of this session's Prefect, torch or Dask is passed on.
    """
    strange = ("PREFECT_", "RINGMOE_", "OMP_", "DASK_", "GDAL_")
    kept = {k: v for k, v in os.environ.items() if k == "PREFECT_HOME" or not k.startswith(strange)}
    quiet = {"RINGMOE_WORKERS": "2", "RINGMOE_THREADS": "2", "COLUMNS": "2000", "NO_COLOR": "1", "TERM": "dumb"}
    return kept | quiet | more


def own_prefect(home: Path) -> dict[str, str]:
    """What makes a command keep Prefect's database in its home, as it does for a person."""
    return {"PREFECT_HOME": str(home / "prefect")}


def start(home: Path, *words: str, log: Path, **more: str) -> subprocess.Popen[bytes]:
    """A command under way, leader of its own process group; it writes to LOG.out and LOG.err."""
    with open(f"{log}.out", "wb") as out, open(f"{log}.err", "wb") as err:
        return subprocess.Popen(
            [str(COMMAND), *words, "--home", str(home)],
            stdout=out,
            stderr=err,
            env=environment(**more),
            start_new_session=True,
        )


def ringmoe(home: Path, *words: str, **more: str) -> Finished:
    """A command from its start to its end."""
    before = _spent_s()
    done = subprocess.run(
        [str(COMMAND), *words, "--home", str(home)],
        capture_output=True,
        text=True,
        env=environment(**more),
        timeout=1800,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, _spent_s() - before)


def _spent_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def copy_of(home: Path, target: Path) -> Path:
    """Another home with the same contents; what is published, which nobody writes to again, by hard links."""
    published = home / "catalog"
    shutil.copytree(home, target, ignore=shutil.ignore_patterns("prefect", "catalog"))
    shutil.copytree(published, target / "catalog", copy_function=os.link)
    return target
