"""What was made of scenes that have a reprocessed self by now, and what may be removed; computed from lineage.

Nothing published is reopened to say so: every cube keeps what tells its scenes from their other selves, every model and
map the links to what it derives from. So what is stale follows from the items there are and the scenes registered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from catalog import versions
from catalog.errors import CubeError
from catalog.ledger import Ledger
from catalog.scene import Scene
from catalog.search import recalled, superseded

DERIVED = ("cubes", "composites", "models", "maps")
"""Collections whose items may be stale, each made of those before it."""


@dataclass(frozen=True)
class Stale:
    """A published item that newer data would change."""

    collection: str
    """cubes, composites, models or maps."""
    id: str
    """Id of the item."""
    reasons: tuple[str, ...]
    """Which of its scenes were superseded by which and why, or which stale items it derives from."""

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def stale(ledger: Ledger, registered: Iterable[Scene] = ()) -> dict[str, Stale]:
    """Items made of superseded scenes, and all that derives from them, by id.

    A cube is stale when one of its scenes, or the reference it was brought onto, has a reprocessed self
    (`catalog.search.superseded`) among the scenes of all cubes and those registered.

    Parameters
    ----------
    registered
        Scenes that no cube may have been made of yet.
    """
    items = {name: [item for _, item in ledger.items(name)] for name in DERIVED}
    kept = {a["id"]: recalled(a) for item in items["cubes"] for a in _said(item)}
    renewed = superseded([*kept.values(), *(s for s in registered if s.id not in kept)])
    found = {i["id"]: s for i in items["cubes"] if (s := _cube(i, renewed)) is not None}
    while True:
        more = [
            Stale(name, item["id"], tuple(f"derives from {source}, which is stale" for source in sources))
            for name, members in items.items()
            for item in members
            if item["id"] not in found and (sources := [t for t in derived_from(item) if t in found])
        ]
        if not more:
            return found
        found |= {s.id: s for s in more}


def derived_from(item: Mapping[str, Any]) -> list[str]:
    """Ids of what an item derives from."""
    return [str(link["title"]) for link in item["links"] if link["rel"] == "derived_from"]


def _said(item: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = item["properties"].get("ringmoe:acquisitions", ())
    return found


def _cube(item: Mapping[str, Any], renewed: Mapping[str, tuple[str, str]]) -> Stale | None:
    own = {a["id"] for a in _said(item)}
    references = {str(c["reference"]) for c in item["properties"]["ringmoe:coregistration"] if c.get("reference")}
    reasons = [f"{s} is superseded by {renewed[s][0]} ({renewed[s][1]})" for s in sorted(own & renewed.keys())]
    reasons += [
        f"its reference {s} is superseded by {renewed[s][0]} ({renewed[s][1]})"
        for s in sorted((references - own) & renewed.keys())
    ]
    return Stale("cubes", item["id"], tuple(reasons)) if reasons else None


def removable(ledger: Ledger, known: Mapping[str, Stale], *, derived_too: bool = False) -> list[tuple[str, str]]:
    """Superseded outputs nobody needs: (collection, id), what derives from others before what it derives from.

    Cubes that are stale or that no latest version of their instrument lists; with `derived_too` also stale maps and
    models. Never a cube that a latest version lists, never what a map or model derives from that stays.

    Parameters
    ----------
    known
        As `stale` finds it.
    """
    items = {item["id"]: (name, item) for name in DERIVED for _, item in ledger.items(name)}
    going = {i for i, s in known.items() if derived_too and s.collection != "cubes"}
    kept = {source for i, (_, item) in items.items() if items[i][0] != "cubes" for source in _needed(i, item, going)}
    going -= kept
    listed, numbered = _listed(ledger)
    for item_id, (name, item) in items.items():
        if name != "cubes" or item_id in kept or item_id in listed:
            continue
        if item_id in known or item["properties"]["ringmoe:sensor"] in numbered:
            going.add(item_id)
    return [(name, i) for name in reversed(DERIVED) for i in sorted(going) if items[i][0] == name]


def _needed(item_id: str, item: Mapping[str, Any], going: set[str]) -> Iterator[str]:
    if item_id not in going:
        yield from derived_from(item)


def _listed(ledger: Ledger) -> tuple[set[str], set[str]]:
    """Ids of all cubes that latest versions list, and the instruments that have a version."""
    listed: set[str] = set()
    numbered: set[str] = set()
    for sensor in versions.sensors(ledger):
        for version in versions.heads(ledger, sensor):
            numbered.add(sensor)
            listed |= {entry["id"] for entry in version["properties"]["ringmoe:units"]}
    return listed, numbered


def remove(ledger: Ledger, going: Sequence[tuple[str, str]]) -> None:
    """Remove items and their files, each item first: what is left of a stopped removal is a dead attempt.

    Raises
    ------
    CubeError
        When a latest version lists one of them.
    """
    listed, _ = _listed(ledger)
    for collection, item_id in going:
        if item_id in listed:
            raise CubeError("a latest version lists the cube", item=item_id, enough="a superseded one")
        ledger.remove(collection, item_id)
