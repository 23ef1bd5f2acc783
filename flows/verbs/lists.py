"""Lists of numbers as they are typed: shares by name, two factors."""

from __future__ import annotations

import math

from catalog.errors import CatalogError


def shares(text: str) -> dict[str, float]:
    """Shares by name, from NAME=NUMBER,NAME=NUMBER.

    Raises
    ------
    CatalogError
        When the text is no such list, or no share is above 0.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        found = {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        found = {}
    if not found or not all(math.isfinite(share) and share >= 0 for share in found.values()) or not any(found.values()):
        raise CatalogError(
            "these are no shares of modalities",
            item=f"--mix {text}",
            enough="modalities and numbers from 0, one of them above",
            todo="write, for example, --mix opt=70,ms=20,sar_l2=10",
        )
    return found


def factors(text: str) -> tuple[float, float]:
    """Least and greatest factor, from LEAST,GREATEST.

    Raises
    ------
    CatalogError
        When the text is no such pair.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low <= high < math.inf:
        raise CatalogError(
            "these are no two factors",
            item=f"--scale {text}",
            enough="the least and the greatest, both above 0",
            todo="write, for example, --scale 0.7,1.4, or 1,1 to keep the pixel size",
        )
    return low, high
