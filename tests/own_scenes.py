"""The registered scenes at an address, found as every verb finds them."""

from __future__ import annotations

from typing import Any

from catalog.providers import registered
from catalog.scene import Scene
from catalog.search import Asking, Found, Query, discover


def found_at(url: str, **asked: Any) -> Found:
    """What the one search finds in a served catalogue; keywords are those of Query."""
    return discover(Query(tuple(asked.pop("sensors")), **asked), Asking((registered(url),)))


def search(url: str, **asked: Any) -> tuple[Scene, ...]:
    """Its scenes."""
    return found_at(url, **asked).scenes
