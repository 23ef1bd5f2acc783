"""Memory kept in a loop and given back after it; told by a process of its own, whose heap no other test has used."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from ringmoe.allocator import freed_memory_kept

FLOATS = 16 * 2**20
"""64 MiB: above what glibc ever takes from its heap by itself."""


def in_turn(times: int) -> int:
    """Pages that this process had to be given while one large tensor after the other is made and dropped."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(FLOATS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def main() -> None:
    """Pages taken for ten tensors outside of the block and inside it, and bytes held at its end and after it."""
    process, told = psutil.Process(), {"outside": in_turn(10)}
    before = process.memory_info().rss
    with freed_memory_kept():
        in_turn(20)
        told["inside"] = in_turn(10)
        told["held"] = process.memory_info().rss - before
    told["after"] = process.memory_info().rss - before
    print(json.dumps(told))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_is_freed_is_used_again_and_given_back_after() -> None:
    """Once it has settled, ten tensors of 64 MiB take fewer new pages than one has; after the block none is held."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told, pages = json.loads(done.stdout), 4 * FLOATS // resource.getpagesize()
    assert told["outside"] > 5 * pages
    assert told["inside"] < pages // 4
    assert told["held"] > 3 * FLOATS
    assert told["after"] < FLOATS


if __name__ == "__main__":
    main()
