"""Who a run asks for scenes, and the one search that all verbs share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

from catalog.errors import NothingFound
from catalog.providers import LOCAL, PROVIDERS, Provider, at, registered
from catalog.search import Asking, Found, Gaps, Query, Raster, discover, filled, gaps
from catalog.search import dems as search_dems
from catalog.search import labels as search_labels
from catalog.sensors import SENSORS
from catalog.serve import served
from flows.refs import Area, IngestRequest, Period, Where


@contextmanager
def providers(where: Where) -> Iterator[tuple[Provider, ...]]:
    """Those a run asks, in order; the registered scenes are served for as long as the block runs.

    Raises
    ------
    NothingFound
        Naming a provider that is unknown.
    """
    with ExitStack() as stack:
        found = []
        for number, name in enumerate(where.providers):
            if number == 0 and where.stac_url:
                found.append(at(name, where.stac_url))
            elif name == LOCAL:
                found.append(registered(stack.enter_context(served(where.scenes))))
            else:
                found.append(named(name))
        yield tuple(found)


def named(name: str) -> Provider:
    """A public provider.

    Raises
    ------
    NothingFound
        There is no such one.
    """
    if name not in PROVIDERS:
        raise NothingFound(
            f"there is no provider {name}",
            item="--provider",
            enough=f"one of {LOCAL}, {', '.join(PROVIDERS)}",
            todo="choose one of these",
        )
    return PROVIDERS[name]


def find(request: IngestRequest, where: Where, asked: Sequence[Provider]) -> Found:
    """Scenes of the area, the period and those of the sensors that somebody asked has.

    Answers are kept under the home, part by part: what is settled is not asked for again, and `where.offline` replays
    everything. Gaps are filled from `where.fill`.

    Raises
    ------
    CatalogError
        As `catalog.search.discover`.
    """
    query = asked_for(request, asked)
    found = discover(query, asking_of(where, asked))
    return filled(found, lacks(request, where, asked, found, where.fill)) if where.fill else found


def lacks(request: IngestRequest, where: Where, asked: Sequence[Provider], found: Found, other: str) -> Gaps:
    """What another provider has beyond a search.

    Raises
    ------
    CatalogError
        As `catalog.search.gaps`.
    """
    query = asked_for(request, (named(other),))
    return gaps(query, found.scenes, named(other), asking_of(where, asked))


def asked_for(request: IngestRequest, asked: Sequence[Provider]) -> Query:
    """A request as a search takes it, without the sensors that nobody asked has."""
    having = tuple(n for n in request.sensors if any(p.id in SENSORS[n].collections for p in asked))
    period = request.period
    return Query(having or request.sensors, None, request.area.geometry, period.start, period.end)


def asking_of(where: Where, asked: Sequence[Provider]) -> Asking:
    """How a run searches."""
    return Asking(tuple(asked), where.searches, offline=where.offline, anew=where.anew)


def heights(where: Where, asked: Sequence[Provider], area: Area) -> tuple[Raster, ...]:
    """Height rasters that touch an area: registered ones, else those of the first provider asked that has some."""
    own = [] if any(p.id == LOCAL for p in asked) or not has_own(where) else [stac_api(where)]
    with ExitStack() as stack:
        urls = [stack.enter_context(context) for context in own]
        urls += [p.url for p in asked if p.kind == "api" and not (where.offline and p.kept == "settled")]
        for url in urls:
            if found := search_dems(url, geometry=area.geometry):
                return found
    return ()


@contextmanager
def stac_api(where: Where) -> Iterator[str]:
    """The address of our own API, up for as long as the block runs: a team's, else the registered scenes'."""
    own = where.stac_url if where.providers[:1] == (LOCAL,) else None
    with nullcontext(own) if own else served(where.scenes) as url:
        yield str(url)


def label_rasters(where: Where, area: Area, period: Period) -> tuple[Raster, ...]:
    """Label rasters that touch an area, dated within a period; () where there is none."""
    if not has_own(where):
        return ()
    with stac_api(where) as url:
        return search_labels(url, geometry=area.geometry, start=period.start, end=period.end)


def has_own(where: Where) -> bool:
    """Whether anything is registered, here or in a team's API; where local is asked, it must be."""
    return LOCAL in where.providers or (where.scenes / "catalog.json").exists()


def labels_to_learn(where: Where, area: Area, period: Period) -> tuple[Raster, ...]:
    """The same, where there must be one.

    Raises
    ------
    NothingFound
        When there is none.
    """
    found = label_rasters(where, area, period)
    if not found:
        raise NothingFound(
            f"no label raster lies in {area.name} within {period}",
            item=str(where.scenes),
            enough="one registered label raster",
            todo="register one (`ringmoe register --labels FILE`), or choose another area or period",
        )
    return found
