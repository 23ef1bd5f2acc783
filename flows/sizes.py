"""What `--to` asks for: experts a block, parameters, bytes or a share of the parent; and whether it can be met."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ringmoe.errors import PruneError

PARAMETERS = {"K": 1e3, "M": 1e6, "B": 1e9}
BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
MOST_SLOTS = 999
"""A bare number up to this counts experts of a block, a greater one parameters."""
_NUMBER = r"(\d+(?:\.\d+)?)"


@dataclass(frozen=True)
class Slots:
    """So many expert networks in every block; several numbers are several models along the way."""

    counts: tuple[int, ...]
    """Falling."""


@dataclass(frozen=True)
class Size:
    """What a whole checkpoint may take, its head counted."""

    amount: float
    """At most this."""
    unit: Literal["parameters", "bytes", "share"]
    """Share of the parent's parameters, 0 to 1."""
    reading: float
    """What the digits given could also mean, at most: half a unit of the last one more, of parameters alone."""
    text: str
    """As it was asked."""

    def parameters(self, parent: int, itemsize: int) -> tuple[float, float]:
        """The amount and the greatest reading of it in parameters, for weights of so many bytes each."""
        scale = {"parameters": 1.0, "bytes": 1.0 / itemsize, "share": float(parent)}[self.unit]
        return self.amount * scale, self.reading * scale


def parse(text: str) -> Slots | Size:
    """Read what `--to` was given, as 1B, 250M, 25%, 200MB, 1.5GiB, 6 or 9,6,3,1.

    Raises
    ------
    PruneError
        When it is none of these.
    """
    plain = text.replace(" ", "").upper()
    if re.fullmatch(r"\d+(,\d+)*", plain) and all(int(n) <= MOST_SLOTS for n in plain.split(",")):
        counts = tuple(int(n) for n in plain.split(","))
        if counts[-1] >= 1 and all(a > b for a, b in pairwise(counts)):
            return Slots(counts)
    elif (found := re.fullmatch(_NUMBER + "%", plain)) and 0 < float(found[1]) <= 100:
        share = float(found[1]) / 100
        return Size(share, "share", share, text)
    elif (found := re.fullmatch(_NUMBER + r"([KMGT]I?B)", plain)) and float(found[1]) > 0:
        amount = float(found[1]) * BYTES[found[2]]
        return Size(amount, "bytes", amount, text)
    elif (found := re.fullmatch(_NUMBER + r"([KMB]?)", plain)) and float(found[1]) > 0:
        scale = PARAMETERS.get(found[2], 1.0)
        half = 0.5 * 10.0 ** -len(found[1].partition(".")[2]) if found[2] else 0.0
        return Size(float(found[1]) * scale, "parameters", (float(found[1]) + half) * scale, text)
    raise PruneError(
        "that is no size of a model",
        item=f"--to {text}",
        enough="parameters as 1B or 250M, a share of the parent's as 25%, bytes as 200MB, or falling numbers of "
        "experts a block as 9,6,3,1",
        todo="write it like one of these",
    )


def fitting(size: Size, parent: int, itemsize: int, least: int) -> float:
    """Parameters that a checkpoint may have to meet a size, where it can be met.

    A model is never larger than what was asked, but for one case: where even the least is, and the number asked is what
    its size reads rounded, the least is meant: 1B is the 1.06 B that is left of 14.7 B.

    Parameters
    ----------
    parent, least
        Parameters of the parent, and of the smallest model that can be made of it.
    itemsize
        Bytes of a weight.

    Raises
    ------
    PruneError
        The size is below the least.
    """
    amount, reading = size.parameters(parent, itemsize)
    if least <= amount:
        return amount
    if least < reading:
        return float(least)
    raise PruneError(
        f"{size.text} is below what is possible",
        item=f"a model of {parent:,} parameters in {itemsize} bytes each",
        enough=f"{least:,} parameters, {100 * least / parent:.3g} % of them or {least * itemsize / 1e6:,.1f} MB: one "
        "dense expert a block",
        todo="ask for that or more, or prune a model of a smaller preset",
    )
