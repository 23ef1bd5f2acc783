"""What a second provider has that the first lacks, overpass by overpass; listed, and filled where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from catalog.providers import Provider
from catalog.scene import Scene
from catalog.search.overpass import lacking, place_of
from catalog.search.several import Asking, Found, Query, answered


@dataclass(frozen=True)
class Gaps:
    """What one provider has and a search lacks."""

    provider: str
    """Who was asked second."""
    missing: tuple[Scene, ...]
    """Its scenes of overpasses that the search has none of, in the order of time and id."""
    shared: int
    """Its scenes of overpasses that the search has."""
    second: Found
    """All that it answered."""

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """The missing ones: provider, platform, time, place, id."""
        rows = []
        for scene in self.missing:
            place = place_of(scene)
            time = scene.datetime.isoformat(timespec="seconds")
            rows.append((self.provider, scene.platform, time, place.name if place else "", scene.id))
        return rows


def gaps(query: Query, found: Sequence[Scene], provider: Provider, asking: Asking | None = None) -> Gaps:
    """Ask a provider for what a search lacks, by the rule of `catalog.search.overpass.same_overpass`.

    Parameters
    ----------
    query
        What was searched.
    found
        What came of it, or () to list all that the provider has.
    provider
        Who is asked.
    asking
        How.

    Raises
    ------
    ServiceError, NothingFound
        As `catalog.search.discover`, except that a provider which has nothing lacks nothing.
    """
    second = answered(query, replace(asking or Asking(), providers=(provider,)))
    missing = lacking(found, second.scenes)
    return Gaps(provider.id, missing, len(second.scenes) - len(missing), second)


def filled(found: Found, gap: Gaps) -> Found:
    """A search with its gaps filled from the second provider; every scene still says who answered it."""
    scenes = sorted((*found.scenes, *gap.missing), key=lambda s: (s.datetime, s.id))
    unreadable = (*found.unreadable, *gap.second.unreadable)
    duplicates = (*found.duplicates, *gap.second.duplicates)
    return Found(tuple(scenes), (*found.parts, *gap.second.parts), duplicates, unreadable)
