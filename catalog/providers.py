"""The catalogues that are asked, as one table: address, kind, size of a page, whether they state counts, signing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

LOCAL = "local"
"""Our own catalogue: the registered scenes, or a team's API that holds such."""


@dataclass(frozen=True)
class Provider:
    """One catalogue of scenes."""

    id: str
    """Key of the sensors' `collections`."""
    url: str
    """Root of the STAC API, or the root file of a static catalogue."""
    kind: Literal["api", "static"] = "api"
    """Whether it can be searched, or must be crawled once and is searched here."""
    page: int = 100
    """Items asked for at a time; large pages of large items are what makes servers answer 502."""
    states_count: bool = False
    """Whether its answers state how many items match, which makes a search verifiable."""
    kept: Literal["settled", "offline", "never"] = "settled"
    """When a kept answer stands for a new one: once its period is settled; only where no network is to be used, as of a
    team's own API, to which anybody may add any day; or never, as of what is registered on this machine."""
    token_url: str = ""
    """Where tokens for its files are given out, by account and container; empty where files are open."""
    traps: tuple[str, ...] = ()
    """What its items say otherwise than others."""


EARTH_SEARCH = Provider(
    id="earth-search",
    url="https://earth-search.aws.element84.com/v1",
    states_count=True,
    traps=(
        "the link to the next page holds the token and drops a filter",
        "a radar scene in its own geometry is given an affine in degrees",
        "the count moves while paging through collections that still grow",
        "the offset is stated for Sentinel-2 pixels that it was already applied to",
        "one overpass lies in two collections",
        "each band is listed twice, cloud-optimised and as JPEG 2000",
        "the quality layer is written scl and has the role of data",
        "radar scenes of one polarisation that the row does not have lie among the others",
    ),
)

PLANETARY_COMPUTER = Provider(
    id="planetary-computer",
    url="https://planetarycomputer.microsoft.com/api/stac/v1",
    token_url="https://planetarycomputer.microsoft.com/api/sas/v1/token",
    traps=(
        "no count is stated",
        "tokens for its files expire within the hour",
        "the platform is written Sentinel-2B, and the time is the datatake's, not the tile's",
        "the true-colour image carries the names of the bands that it shows",
        "Sentinel-2 items say nothing of no-data, scale and offset",
        "Landsat bands are prefixed, and some products come without a temperature",
    ),
)

PROVIDERS: Mapping[str, Provider] = MappingProxyType({p.id: p for p in (EARTH_SEARCH, PLANETARY_COMPUTER)})
"""Every public catalogue by its id."""


def registered(url: str) -> Provider:
    """The registered scenes of this machine, served at an address for as long as somebody asks."""
    return Provider(LOCAL, url, page=250, kept="never")


def at(name: str, url: str) -> Provider:
    """A catalogue at another address than its own: a team's API by the name of local, a mirror by a provider's."""
    return replace(PROVIDERS[name], url=url) if name in PROVIDERS else Provider(name, url, kept="offline")
