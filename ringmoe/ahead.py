"""Batches made ahead of the step that needs them, in their order, by a bounded number of threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Iterator[T], Generic[T]):
    """The values of a function of 0, 1, 2, ... from some number on, without end.

    Who makes them cannot matter: each is a function of its number alone. Threads do, rather than processes: reading
    and decoding leave Python's lock, and a batch need not be copied from one process to another.

    Parameters
    ----------
    make
        Gives the value of a number; called by several threads at once where there are several workers.
    start
        The first number.
    workers
        Threads; with 0 each value is made when it is asked for.
    ahead
        How many values beyond the one last given may be made or under way; at least 1 where there are workers.
    """

    def __init__(self, make: Callable[[int], T], start: int = 0, *, workers: int = 0, ahead: int = 4) -> None:
        self._make, self._next, self._ahead = make, start, max(1, ahead)
        self._pool = ThreadPoolExecutor(workers, "ahead") if workers > 0 else None
        self._under_way: deque[Future[T]] = deque()
        self.waited_s = 0.0
        """Seconds that who asks has waited for values."""
        self.given = 0
        """Values given."""

    def __next__(self) -> T:
        began = time.perf_counter()
        value = self._value()
        self.waited_s += time.perf_counter() - began
        self.given += 1
        return value

    def _value(self) -> T:
        if self._pool is None:
            self._next += 1
            return self._make(self._next - 1)
        self._fill(self._pool)
        value = self._under_way.popleft().result()
        self._fill(self._pool)
        return value

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        while len(self._under_way) < self._ahead:
            self._under_way.append(pool.submit(self._make, self._next))
            self._next += 1

    def close(self) -> None:
        """Drop what was made ahead; nothing more can be asked for where there were workers."""
        if self._pool is not None:
            self._under_way.clear()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __del__(self) -> None:
        self.close()
