"""How far a step is, told to whoever watches; nobody watches by default."""

from __future__ import annotations

from collections.abc import Callable

Watcher = Callable[[str, float, float, str], None]
"""Called with step, done, total and a note."""

_watchers: list[Watcher] = []


def watch(watcher: Watcher) -> None:
    """Have a watcher told from now on."""
    _watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Stop telling a watcher."""
    _watchers.remove(watcher)


def tell(step: str, done: float, total: float, note: str = "") -> None:
    """Tell all watchers that `done` of `total` parts of a step are finished."""
    for watcher in tuple(_watchers):
        watcher(step, done, total, note)
