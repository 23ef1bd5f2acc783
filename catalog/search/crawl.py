"""A static catalogue is crawled once, its items kept as one table, and searched there as an API would."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pystac
from pystac.utils import make_absolute_href, str_to_datetime
from shapely import Geometry
from shapely.geometry import box, shape

from catalog.patience import Patience
from catalog.search.frozen import Part, freeze, thaw
from catalog.search.pages import Answer, Document, PageIO, asking

FRESH = timedelta(days=1)
"""How long an index of a catalogue on the web serves; one on this disk is read each time."""
READERS = 8
"""Documents read at a time."""


def index(url: str, folder: Path, patience: Patience | None = None, *, offline: bool = False) -> Part | None:
    """All items of a static catalogue, from the table of an earlier crawl where that is younger than a day.

    Parameters
    ----------
    url
        The root file, catalog.json, as a path or URL.
    folder
        Where the table is kept.
    patience
        How often a refused document is asked for again.
    offline
        Never crawl; None where there is no table.

    Raises
    ------
    ServiceError
        A document cannot be read: a crawl that misses one is no index.
    """
    name = f"static-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    query = {"static": url}
    kept = thaw(folder, name, query)
    if offline or (
        kept is not None and "://" in url and datetime.now(UTC) - datetime.fromisoformat(kept.asked) < FRESH
    ):
        return kept
    io = PageIO(patience or Patience())
    items = tuple(asking(url, lambda: list(_crawl(url, io))))
    asked = datetime.now(UTC).isoformat(timespec="seconds")
    part = Part(name, query, url, items, len(items), True, asked, tuple(io.refused))
    freeze(part, folder)
    return thaw(folder, name, query)


def select(
    items: Sequence[Document], collections: Sequence[str], where: Mapping[str, Any], period: Sequence[datetime | None]
) -> Answer:
    """Items of some collections that touch an area and a period; the count is known, the index being whole."""
    area = box(*where["bbox"]) if "bbox" in where else shape(where["intersects"])
    found = tuple(
        item for item in items if item.get("collection") in collections and _touches(item, area, period[0], period[1])
    )
    return Answer(found, len(found))


def _touches(item: Document, area: Geometry, first: datetime | None, last: datetime | None) -> bool:
    said = item["properties"]
    start, end = (said.get(k) or said.get("datetime") for k in ("start_datetime", "end_datetime"))
    if first is not None and (end is None or _utc(end) < first):
        return False
    if last is not None and (start is None or _utc(start) > last):
        return False
    return item.get("geometry") is not None and bool(shape(item["geometry"]).intersects(area))


def _utc(text: str) -> datetime:
    stamp = str_to_datetime(text)
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def _crawl(url: str, io: PageIO) -> Iterator[Document]:
    """Items in the order of the catalogue's links, each document once, however many links lead to it."""
    level, seen = [(url, "child")], {url}
    with ThreadPoolExecutor(READERS) as pool:
        while level:
            found: list[tuple[str, str]] = []
            waiting = iter(level)
            while chunk := list(islice(waiting, 8 * READERS)):
                documents = pool.map(lambda link: io.read_json(link[0]), chunk)
                for (href, rel), document in zip(chunk, documents, strict=True):
                    if rel == "item":
                        yield _placed(document, href)
                    found += [link for link in _below(document, href) if link[0] not in seen]
                    seen.update(link[0] for link in found)
            level = list(dict.fromkeys(found))


def _below(document: Mapping[str, Any], href: str) -> list[tuple[str, str]]:
    links = document.get("links", ())
    return [(make_absolute_href(k["href"], href), k["rel"]) for k in links if k.get("rel") in ("child", "item")]


def _placed(item: Document, href: str) -> Document:
    """An item that knows where it lies and whose assets have absolute addresses."""
    assets = {k: {**a, "href": make_absolute_href(a["href"], href)} for k, a in item.get("assets", {}).items()}
    links = [{"rel": "self", "href": href, "type": pystac.MediaType.GEOJSON}]
    return {**item, "assets": assets, "links": links}
