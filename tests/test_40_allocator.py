"""Memory kept in a loop and given back after it."""

from __future__ import annotations

import gc
import resource
import sys

import psutil
import pytest
import torch

from ringmoe.allocator import freed_memory_kept

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
FLOATS = 16 * 2**20
"""64 MiB: above what glibc ever takes from its heap by itself."""


def faults() -> int:
    """Pages this process had to be given so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def in_turn(times: int) -> int:
    """Pages asked for while one large tensor after the other is made and dropped."""
    before = faults()
    for _ in range(times):
        torch.ones(FLOATS)
    return faults() - before


def test_what_is_freed_is_used_again_and_given_back_after() -> None:
    """Once it has settled, ten tensors of 64 MiB take fewer new pages than one has; after the block none is held."""
    process, pages = psutil.Process(), 4 * FLOATS // resource.getpagesize()
    gc.collect()
    assert in_turn(10) > 5 * pages
    before = process.memory_info().rss
    with freed_memory_kept():
        in_turn(20)
        assert in_turn(10) < pages // 4
        assert process.memory_info().rss - before > 3 * FLOATS
    assert process.memory_info().rss - before < FLOATS
