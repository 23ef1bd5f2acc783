"""Memory that a loop frees and asks for again, kept instead of given back: on a CPU a fresh page is dear."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Numbers of glibc's options, as malloc.h has them."""
DEFAULT_TRIM, DEFAULT_MMAPS = 128 * 1024, 65_536
"""What glibc begins with."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let this process keep what it frees while the block runs, and give it back to the system after.

    A step of training asks for the same large pieces again and again. glibc maps each anew, and the system clears every
    page at its first touch: a fifth of a step's time was that. Where the C library is another, nothing changes.
    """
    library = ctypes.CDLL(None)
    mallopt, trim = (getattr(library, name, None) for name in ("mallopt", "malloc_trim"))
    if mallopt is None or trim is None:
        yield
        return
    try:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
        yield
    finally:
        mallopt(MMAP_MAX, DEFAULT_MMAPS)
        mallopt(TRIM_THRESHOLD, DEFAULT_TRIM)
        trim(0)
