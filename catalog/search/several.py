"""The one search: part by part in time, each from the first provider that answers, kept, and replayed once settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from catalog.errors import GeolocationError, GridError, MetadataError, NothingFound, ServiceError
from catalog.patience import Patience
from catalog.providers import PROVIDERS, Provider
from catalog.scene import Scene
from catalog.search.area import Instant, instant, interval, months, places
from catalog.search.crawl import index, select
from catalog.search.dialect import scene_of
from catalog.search.frozen import Part, freeze, thaw
from catalog.search.hints import nothing
from catalog.search.overpass import Duplicate, best_of_each, within
from catalog.search.pages import Answer, PageIO, Shortfall, ask, once, opened
from catalog.sensors import SENSORS, Sensor

SETTLES = timedelta(days=30)
"""How long after the end of a part's period its kept answer may still lack scenes, and is asked for again: Sentinel-2
comes within days, Landsat reaches its final tier within weeks."""

Ranked = Sequence[tuple[Provider, tuple[str, ...]]]
"""Providers and their collections of one sensor, in the order in which they are asked."""


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
    """Those allowed, in the order in which they are asked."""
    keep: Path | None = None
    """Folder of answered parts, for any number of searches. None keeps nothing."""
    offline: bool = False
    """Only replay kept parts, however old, and ask nobody but this machine."""
    anew: bool = False
    """Ask again even for what is settled: archives reprocess."""
    patience: Patience = field(default_factory=Patience)
    """How often and how late a refused page is asked for again."""
    told: Callable[[Part, bool], None] | None = None
    """Called with every part and whether it was replayed."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    """Now, UTC."""


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
        No such sensor; no provider that has it; nothing matches: who said so, and what would be nearest.
    Shortfall
        A provider states another count than it answers. Another provider does not replace it silently.
    ServiceError
        No provider answers a part, or an offline search lacks one; it names the part and each reason.
    CatalogError
        A kept part is damaged.
    """
    asking = asking or Asking()
    found = answered(query, asking)
    if not found.scenes:
        rows = [(row, ranking(row, asking.providers)) for row in map(row_of, query.sensors)]
        raise nothing(query, found, rows, None if asking.offline else asking.patience)
    return found


def answered(query: Query, asking: Asking) -> Found:
    """As `discover`; where nothing matches an empty `Found`."""
    first, last = instant(query.start), instant(query.end, closing=True)
    where = places(query.bbox, query.geometry)
    parts: list[Part] = []
    with TemporaryDirectory(prefix="ringmoe-search-") as spare:
        folder = asking.keep or Path(spare)
        for row in map(row_of, query.sensors):
            ranked = ranking(row, asking.providers)
            kept = any(provider.kept != "never" for provider, _ in ranked)
            periods = months(first, last, query.part_months) if kept else ((first, last),)
            parts += [_part(row, ranked, where, period, folder, asking) for period in periods]
    return gathered(parts, query)


def row_of(name: str) -> Sensor:
    """A row of the sensor table.

    Raises
    ------
    NothingFound
        There is no such row; it names those there are.
    """
    if name not in SENSORS:
        raise NothingFound(
            f"there is no sensor {name!r}",
            item="the sensors asked for",
            enough=f"one of {', '.join(SENSORS)}",
            todo="name one of these (--sensor)",
        )
    return SENSORS[name]


def ranking(row: Sensor, allowed: Sequence[Provider]) -> Ranked:
    """The providers that have a sensor and its collections there, in the order in which they were named.

    Raises
    ------
    NothingFound
        None of those allowed has it.
    """
    ranked = tuple((p, row.collections[p.id]) for p in allowed if p.id in row.collections)
    if not ranked:
        raise NothingFound(
            f"no provider asked has scenes of {row.id}",
            item=", ".join(p.id for p in allowed) or "no provider",
            enough=f"one of {', '.join(row.collections)}",
            todo="name such a provider (--provider), or leave the sensor out",
        )
    return ranked


def gathered(parts: Sequence[Part], query: Query) -> Found:
    """Parts as scenes: what two parts share is kept once, and of several items of one overpass the best.

    A scene that was taken instead of others says so in `ringmoe:instead_of`, and goes on with it.
    """
    first, last = instant(query.start), instant(query.end, closing=True)
    scenes: dict[tuple[str, str, str], Scene] = {}
    unreadable: dict[str, str] = {}
    for part in parts:
        for item in part.items:
            try:
                scene = scene_of(item, part.provider)
            except (MetadataError, GeolocationError, GridError) as error:
                unreadable[f"{item.get('collection')}/{item.get('id')}"] = str(error)
                continue
            if scene.sensor in query.sensors and within(scene, first, last):
                scenes.setdefault((part.provider, scene.collection, scene.id), scene)
    best, duplicates = best_of_each(list(scenes.values()))
    others = {id(d.kept): [f"{s.collection}/{s.id}" for s in d.dropped] for d in duplicates}
    chosen = tuple(_instead_of(s, others[id(s)]) if id(s) in others else s for s in best)
    return Found(chosen, tuple(parts), duplicates, tuple(unreadable.items()))


def _instead_of(scene: Scene, others: list[str]) -> Scene:
    return replace(scene, properties={**scene.properties, "ringmoe:instead_of": others})


def _part(
    row: Sensor,
    ranked: Ranked,
    where: Sequence[Mapping[str, Any]],
    period: tuple[datetime | None, datetime | None],
    folder: Path,
    asking: Asking,
) -> Part:
    """A part as it was kept, where that stands for a new answer; else as the first provider that answers gives it."""
    query = {
        "sensor": row.id,
        "area": list(where),
        "period": interval(*period),
        "providers": [[p.id, list(c)] for p, c in ranked],
    }
    begin = "open" if period[0] is None else format(period[0], "%Y%m%dT%H%M%S")
    name = f"{row.id}-{begin}-{sha256(dumps(query, sort_keys=True).encode()).hexdigest()[:12]}"
    part = thaw(folder, name, query)
    replayed = part is not None and (asking.offline or (not asking.anew and stands(part, ranked, period[1])))
    if part is None or not replayed:
        part = _asked(Part(name, query, "", (), None, False, ""), ranked, where, period, folder, asking)
        if _kept(part, ranked) != "never":
            freeze(part, folder)
    if asking.told is not None:
        asking.told(part, replayed)
    return part


def stands(part: Part, ranked: Ranked, end: datetime | None) -> bool:
    """Whether a kept part stands for a new answer: of an archive, asked well after its period ended."""
    settled = end is not None and datetime.fromisoformat(part.asked) >= end + SETTLES
    return _kept(part, ranked) == "settled" and settled


def _kept(part: Part, ranked: Ranked) -> str:
    return next((p.kept for p, _ in ranked if p.id == part.provider), "offline")


def _asked(
    part: Part,
    ranked: Ranked,
    where: Sequence[Mapping[str, Any]],
    period: tuple[datetime | None, datetime | None],
    folder: Path,
    asking: Asking,
) -> Part:
    """The answer of the first provider that has one; why those before it had none is part of it."""
    here = [(p, c) for p, c in ranked if p.kept == "never" or p.kind == "static"]
    if asking.offline and not here:
        raise _not_kept(part.name, folder)
    failures: dict[str, str] = {}
    for provider, collections in here if asking.offline else ranked:
        try:
            answers = _answers(provider, collections, where, period, folder, asking)
        except Shortfall:
            raise
        except ServiceError as error:
            failures[provider.id] = str(error)
            continue
        part = replace(part, provider=provider.id, failures=failures)
        return _joined(part, answers, period[1], asking.clock())
    raise ServiceError(
        f"no provider answers a part of the search ({'; '.join(failures.values())[:600]})",
        item=part.name,
        enough=f"an answer of one of {', '.join(failures)}",
        todo="run the same search again"
        + ("" if asking.keep is None else ": finished parts are kept, and --offline replays them"),
    )


def _joined(part: Part, answers: Sequence[Answer], end: datetime | None, now: datetime) -> Part:
    """A part with the answers to its one or two questions; what both found is kept once."""
    items = once(part.provider, [item for answer in answers for item in answer.items])
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
        kept = index(provider.url, folder, asking.patience, offline=asking.offline)
        if kept is None:
            raise _not_kept(f"the index of {provider.url}", folder)
        return [select(kept.items, collections, place, period) for place in where]
    client = opened(provider.url, asking.patience)
    opening = tuple(client._stac_io.refused) if isinstance(client._stac_io, PageIO) else ()
    answers = [ask(client, provider.url, collections, place, interval(*period), provider.page) for place in where]
    return [replace(answers[0], refused=opening + answers[0].refused), *answers[1:]]


def _not_kept(name: str, folder: Path) -> ServiceError:
    return ServiceError(
        "a part of the search was not kept, and no network is to be used",
        item=f"{name} in {folder}",
        enough="every part of the period",
        todo="run the same search once with a network; finished parts are not asked for again",
    )
