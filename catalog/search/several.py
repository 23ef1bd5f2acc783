"""One search over several providers: part by part in time, each from the first provider that answers, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from catalog.errors import GeolocationError, MetadataError, NothingFound, ServiceError
from catalog.patience import Patience
from catalog.providers import PROVIDERS, Provider
from catalog.scene import Scene
from catalog.search.area import Instant, day, instant, interval, months, places
from catalog.search.crawl import index, select
from catalog.search.dialect import scene_of
from catalog.search.frozen import Part, freeze, thaw
from catalog.search.overpass import Duplicate, best_of_each
from catalog.search.pages import Answer, Document, Shortfall, ask, once, opened
from catalog.search.single import area_text, row_of, within
from catalog.sensors import Sensor


@dataclass(frozen=True)
class Query:
    """What is looked for."""

    sensors: tuple[str, ...]
    """Rows of catalog.sensors."""
    bbox: tuple[float, ...] | None = None
    """West, south, east, north in degrees; west greater than east crosses the antimeridian."""
    geometry: Mapping[str, Any] | None = None
    """GeoJSON in EPSG:4326 instead; neither is the whole Earth."""
    start: Instant = None
    """A date, a time or ISO 8601 text; None leaves the side open, and the search is one part."""
    end: Instant = None
    """The same; a mere date includes its day."""
    part_months: int = 1
    """Calendar months of a part, the unit that is kept and resumed."""


@dataclass(frozen=True)
class Asking:
    """Who is asked, and how."""

    providers: tuple[Provider, ...] = tuple(PROVIDERS.values())
    """Those allowed; a sensor's row says in which order they are asked."""
    keep: Path | None = None
    """Folder of answered parts: a finished one is never asked for again. None keeps nothing."""
    offline: bool = False
    """Only replay kept parts."""
    patience: Patience = field(default_factory=Patience)
    """How often and how late a refused page is asked for again."""
    told: Callable[[Part, bool], None] | None = None
    """Called with every part and whether it was replayed."""


@dataclass(frozen=True)
class Found:
    """What a search over several providers found."""

    scenes: tuple[Scene, ...]
    """One per overpass, in the order of time and id; `ringmoe:provider` of each says who answered it."""
    parts: tuple[Part, ...]
    """The answers, in the order of sensor and time."""
    duplicates: tuple[Duplicate, ...] = ()
    """Overpasses of several items, and which was taken."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Items that are no scene, as collection/id, and why."""

    @property
    def verified(self) -> bool:
        """Whether every part's count was stated and kept."""
        return all(part.verified for part in self.parts)

    def record(self) -> list[dict[str, Any]]:
        """Who answered what, JSON-able: one row a part."""
        keys = ("name", "provider", "stated", "verified", "asked", "refused", "failures", "notes")
        return [{k: getattr(p, k) for k in keys} | {"items": len(p.items)} for p in self.parts]


def discover(query: Query, asking: Asking | None = None) -> Found:
    """Scenes of an area and a period from several providers, each part from the first that answers it.

    Raises
    ------
    NothingFound
        No such sensor; no provider that has it; nothing matches.
    Shortfall
        A provider states another count than it answers. Another provider does not replace it silently.
    ServiceError
        No provider answers a part, or an offline search lacks one; it names the part and each reason.
    CatalogError
        The folder holds parts of another query, or a damaged one.
    """
    asking = asking or Asking()
    first, last = instant(query.start), instant(query.end, closing=True)
    where = places(query.bbox, query.geometry)
    parts: list[Part] = []
    with TemporaryDirectory(prefix="ringmoe-search-") as spare:
        folder = asking.keep or Path(spare)
        for row in map(row_of, query.sensors):
            ranked = ranking(row, asking.providers)
            periods = months(first, last, query.part_months)
            parts += [_part(row, ranked, where, period, folder, asking) for period in periods]
    found = gathered(parts, query)
    if not found.scenes:
        raise _nothing(query, found, area_text(where), first, last)
    return found


def ranking(row: Sensor, allowed: Sequence[Provider]) -> tuple[tuple[Provider, tuple[str, ...]], ...]:
    """The providers that have a sensor and its collections there, in the order of the sensor's row.

    Raises
    ------
    NothingFound
        None of those allowed has it.
    """
    by_id = {p.id: p for p in allowed}
    ranked = tuple((by_id[name], row.collections[name]) for name in row.collections if name in by_id)
    if not ranked:
        raise NothingFound(
            f"no provider asked has scenes of {row.id}",
            item=", ".join(by_id) or "no provider",
            enough=f"one of {', '.join(row.collections)}",
            todo="name such a provider (--provider), or leave the sensor out",
        )
    return ranked


def gathered(parts: Sequence[Part], query: Query) -> Found:
    """Parts as scenes: what two parts share is kept once, and of several items of one overpass the best."""
    first, last = instant(query.start), instant(query.end, closing=True)
    scenes: dict[tuple[str, str, str], Scene] = {}
    unreadable: dict[str, str] = {}
    for part in parts:
        for item in part.items:
            try:
                scene = scene_of(item, part.provider)
            except (MetadataError, GeolocationError) as error:
                unreadable[f"{item.get('collection')}/{item.get('id')}"] = str(error)
                continue
            if scene.sensor in query.sensors and within(scene, first, last):
                scenes.setdefault((part.provider, scene.collection, scene.id), scene)
    best, duplicates = best_of_each(list(scenes.values()))
    return Found(best, tuple(parts), duplicates, tuple(unreadable.items()))


def _part(
    row: Sensor,
    ranked: Sequence[tuple[Provider, tuple[str, ...]]],
    where: Sequence[Mapping[str, Any]],
    period: tuple[datetime | None, datetime | None],
    folder: Path,
    asking: Asking,
) -> Part:
    """A part as it was kept, else as the first provider that answers gives it."""
    name = f"{row.id}-{'open' if period[0] is None else format(period[0], '%Y%m%dT%H%M%S')}"
    query = {
        "sensor": row.id,
        "area": list(where),
        "period": interval(*period),
        "providers": {p.id: list(c) for p, c in ranked},
    }
    part = thaw(folder, name, query)
    replayed = part is not None
    if part is None:
        if asking.offline:
            raise _not_kept(name, folder)
        part = _asked(Part(name, query, "", (), None, False, ""), ranked, where, period, folder, asking)
        freeze(part, folder)
    if asking.told is not None:
        asking.told(part, replayed)
    return part


def _asked(
    part: Part,
    ranked: Sequence[tuple[Provider, tuple[str, ...]]],
    where: Sequence[Mapping[str, Any]],
    period: tuple[datetime | None, datetime | None],
    folder: Path,
    asking: Asking,
) -> Part:
    """The answer of the first provider that has one; why those before it had none is part of it."""
    failures: dict[str, str] = {}
    for provider, collections in ranked:
        try:
            answers = _answers(provider, collections, where, period, folder, asking)
        except Shortfall:
            raise
        except ServiceError as error:
            failures[provider.id] = str(error)
            continue
        return _joined(replace(part, provider=provider.id, failures=failures), answers, period[1])
    raise ServiceError(
        f"no provider answers a part of the search ({'; '.join(failures.values())[:600]})",
        item=part.name,
        enough=f"an answer of one of {', '.join(failures)}",
        todo="run the same search again" + ("" if asking.keep is None else ": finished parts are kept"),
    )


def _joined(part: Part, answers: Sequence[Answer], end: datetime | None) -> Part:
    """A part with the answers to its one or two questions; what both found is kept once."""
    items = once(part.provider, [item for answer in answers for item in answer.items])
    now = datetime.now(UTC)
    notes = [note for answer in answers for note in answer.notes]
    shared = sum(len(answer.items) for answer in answers) - len(items)
    notes += [f"{shared} items touch both sides of the antimeridian and are kept once"] if shared else []
    notes += ["asked before its period ended"] if end is None or end > now else []
    counts = [answer.stated for answer in answers]
    return replace(
        part,
        items=tuple(items),
        stated=None if None in counts else sum(c for c in counts if c is not None),
        verified=all(answer.verified for answer in answers),
        asked=now.isoformat(timespec="seconds"),
        refused=tuple(reason for answer in answers for reason in answer.refused),
        notes=tuple(notes),
    )


def _answers(
    provider: Provider,
    collections: Sequence[str],
    where: Sequence[Mapping[str, Any]],
    period: tuple[datetime | None, datetime | None],
    folder: Path,
    asking: Asking,
) -> list[Answer]:
    if provider.kind == "static":
        kept = index(provider.url, folder, asking.patience)
        items: tuple[Document, ...] = () if kept is None else kept.items
        return [select(items, collections, place, period) for place in where]
    client = opened(provider.url, asking.patience)
    return [ask(client, provider.url, collections, place, interval(*period), provider.page) for place in where]


def _not_kept(name: str, folder: Path) -> ServiceError:
    return ServiceError(
        "a part of the search was not kept, and no network is to be used",
        item=f"{name} in {folder}",
        enough="every part of the period",
        todo="run the same search once with a network; finished parts are not asked for again",
    )


def _nothing(query: Query, found: Found, area: str, first: datetime | None, last: datetime | None) -> NothingFound:
    """Nothing matched: who said so, and what was there but could not be read."""
    said = ", ".join(f"{p.name}: {p.provider} {len(p.items)} items" for p in found.parts[:12])
    unread = "".join(f"; {item}: {reason.splitlines()[0]}" for item, reason in found.unreadable[:3])
    return NothingFound(
        f"no provider has a scene of {', '.join(query.sensors)} from {day(first)} to {day(last)}",
        item=f"area {area} ({said}{unread})",
        enough="one scene that touches the area and the period",
        todo="choose another area or period (--bbox, --from, --to), or another provider (--provider)",
    )
