"""How each kind of pixel may be resampled, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catalog.errors import CatalogError, GridError


@dataclass(frozen=True)
class Rule:
    """What one kind of pixel takes."""

    name: str
    """Of such pixels, in errors."""
    usual: str
    """Where nobody says otherwise."""
    coarser: str
    """The same onto pixels of clearly more ground."""
    allowed: tuple[str, ...]
    """What else may be asked for; () for all that GDAL knows."""
    why: str
    """Why nothing else, or why this."""
    todo: str = "leave resampling out, or name one of these"
    """What to do where something else is wanted."""


RULES: Mapping[str, Rule] = {
    "dn": Rule("digital numbers", "bilinear", "bilinear", (), "an affine law commutes with a weighted mean"),
    "db": Rule(
        "decibels",
        "nearest",
        "nearest",
        ("nearest",),
        "a mean of logarithms is no mean of power",
        "read_native it and convert it to power first",
    ),
    "classes": Rule("classes", "nearest", "mode", ("nearest", "mode"), "a mean of two classes is a third"),
}
"""Kind of pixel to its rule. Reflectance and amplitude are `dn`; masks and bits are `classes`; complex pixels and those
in radar geometry are never resampled here. Cubic is for display: it overshoots beside edges."""


def refuse_unless_allowed(kind: str, resampling: str, item: str, error: type[CatalogError] = GridError) -> None:
    """Refuse a resampling that a kind of pixel does not bear."""
    rule = RULES[kind]
    if rule.allowed and resampling not in rule.allowed:
        raise error(
            f"{rule.name} cannot be resampled by {resampling}: {rule.why}",
            item=item,
            enough=f"one of {', '.join(rule.allowed)}",
            todo=rule.todo,
        )
