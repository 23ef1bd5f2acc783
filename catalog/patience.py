"""Asking the web again after a refusal that may pass: bounded, with jitter, as late as the server asks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")

TRANSIENT = frozenset({429, 500, 502, 503, 504})
"""HTTP answers that may be another one a moment later."""


class Again(Exception):
    """A refusal worth another try.

    Parameters
    ----------
    reason
        What was refused, as in HTTP 429.
    wait_s
        How long the server asks to wait; None where it does not say.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Patience:
    """How often and how late to ask again."""

    retries: int = 5
    """Tries after the first."""
    first_wait_s: float = 0.2
    """Before the second try; doubled before each further one."""
    longest_wait_s: float = 30.0
    """Bound of the doubling."""
    longest_asked_s: float = 300.0
    """Bound of what a server may ask for (Retry-After); one that asks for more is given up, not pressed earlier."""
    sleep: Callable[[float], None] = time.sleep
    """Waits so many seconds."""
    dice: Callable[[], float] = random.random
    """A number in [0, 1): spreads clients that were refused together."""

    def wait_s(self, tried: int, asked_s: float | None = None) -> float:
        """Seconds before the next try: what the server asks, else between half and all of `first * 2**(tried - 1)`."""
        if asked_s is not None:
            return asked_s
        whole = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (tried - 1))
        return whole * (0.5 + 0.5 * self.dice())


def persist(ask: Callable[[], T], patience: Patience, refused: list[str]) -> T:
    """What `ask` returns once it does not raise `Again`; every refusal is added to `refused`.

    Raises
    ------
    Again
        The last refusal, when the tries are used up or the server asks to wait too long.
    """
    for tried in range(1, patience.retries + 2):
        try:
            return ask()
        except Again as error:
            refused.append(str(error))
            if tried > patience.retries or (error.wait_s or 0.0) > patience.longest_asked_s:
                raise
            patience.sleep(patience.wait_s(tried, error.wait_s))
    raise AssertionError("unreachable")


def retry_after_s(headers: Mapping[str, str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None without one."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    return max(0.0, (until - now()).total_seconds())
