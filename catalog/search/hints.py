"""Why a search found nothing: who said so, what lies nearest in time or place, what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pystac.utils import str_to_datetime
from pystac_client import Client, ConformanceClasses, ItemSearch

from catalog.errors import NothingFound, ServiceError
from catalog.patience import Patience
from catalog.providers import Provider
from catalog.search.area import day, instant, interval, places
from catalog.search.pages import Document, asking, opened
from catalog.sensors import Sensor

if TYPE_CHECKING:
    from catalog.search.several import Found, Query

Rows = Sequence[tuple[Sensor, Sequence[tuple[Provider, tuple[str, ...]]]]]
"""Sensors with the providers that have them, and their collections there."""


def nothing(query: Query, found: Found, rows: Rows, patience: Patience | None) -> NothingFound:
    """The error of an empty answer.

    Parameters
    ----------
    rows
        Who could have answered.
    patience
        Of the questions asked for a hint; None asks nobody.
    """
    first, last = instant(query.start), instant(query.end, closing=True)
    where = places(query.bbox, query.geometry)
    said = ", ".join(f"{p.name}: {p.provider} {len(p.items)} items" for p in found.parts[:12])
    unread = "".join(f"; {item}: {' '.join(reason.split())}" for item, reason in found.unreadable[:3])
    enough, todo = _hint(rows, where, first, last, patience) if patience and not unread else ("", "")
    return NothingFound(
        f"no provider has a scene of {', '.join(query.sensors)} from {day(first)} to {day(last)}",
        item=f"area {area_text(where)} ({said}{unread})",
        enough=enough or "one scene that touches the area and the period",
        todo=todo or "choose another area or period (--bbox, --from, --to), or another provider (--provider)",
    )


def _hint(
    rows: Rows,
    where: Sequence[Mapping[str, Any]],
    first: datetime | None,
    last: datetime | None,
    patience: Patience,
) -> tuple[str, str]:
    """What would have been enough and what to do, of the first API that can be asked; two empty texts else."""
    api = next((p for _, ranked in rows for p, _ in ranked if p.kind == "api"), None)
    if api is None:
        return "", ""
    wanted = list(dict.fromkeys(c for _, ranked in rows for p, names in ranked if p.id == api.id for c in names))
    try:
        client = opened(api.url, patience)
        held = asking(api.url, lambda: {c.id: c for c in client.get_collections()})
        present = [name for name in wanted if name in held]
        if not present:
            there = ", ".join(sorted(held)) or "nothing yet"
            return (
                f"one of the collections {', '.join(wanted)} at {api.id}",
                f"register such products, or ask for what there is: {there}",
            )
        days = _nearest(client, api, present, where, first, last)
        if days:
            named = " or ".join(f"{d:%Y-%m-%d}" for d in days)
            return (
                f"a period that touches {named}, the nearest days with such an item there at {api.id}",
                "choose another period (--from, --to)",
            )
        extents = [b for name in present for b in held[name].extent.spatial.bboxes]
        west, south, east, north = (f(b[i] for b in extents) for i, f in enumerate((min, min, max, max)))
        return (
            f"an area within west {west:.4f}, south {south:.4f}, east {east:.4f}, north {north:.4f}, "
            f"where {api.id} has {', '.join(present)}",
            "choose another area (--bbox, --area), or register scenes that cover it",
        )
    except ServiceError:  # whose answer was there a moment ago: no hint is worth another error
        return "", ""


def _nearest(
    client: Client,
    api: Provider,
    collections: Sequence[str],
    where: Sequence[Mapping[str, Any]],
    first: datetime | None,
    last: datetime | None,
) -> list[datetime]:
    """The nearest days before and after a period that have an item, by one page each; [] where there is none."""
    found = []
    if first is not None:
        before = _page(client, api, collections, where, interval(None, first), "-properties.datetime")
        found += [max(before)] if before else []
    if last is not None:
        after = _page(client, api, collections, where, interval(last, None), "+properties.datetime")
        found += [min(after)] if after else []
    return found


def _page(
    client: Client,
    api: Provider,
    collections: Sequence[str],
    where: Sequence[Mapping[str, Any]],
    period: str | None,
    order: str,
) -> list[datetime]:
    """Times of the first page of items, in the order asked where the API sorts."""
    sort = order if client.conforms_to(ConformanceClasses.SORT) else None
    times = []
    for place in where:
        search = client.search(
            collections=list(collections), limit=api.page, datetime=period, sortby=sort, max_items=api.page, **place
        )
        for item in asking(api.url, partial(_items, search)):
            said = item.get("properties", {})
            stamp = said.get("datetime") or said.get("start_datetime")
            if stamp:
                times.append(_utc(str_to_datetime(stamp)))
    return times


def _items(search: ItemSearch) -> list[Document]:
    return list(search.items_as_dicts())


def _utc(stamp: datetime) -> datetime:
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def area_text(where: Sequence[Mapping[str, Any]]) -> str:
    """An area for a message."""
    if "bbox" in where[0]:
        return " and ".join(",".join(f"{v:g}" for v in place["bbox"]) for place in where)
    text = str(where[0]["intersects"].get("coordinates", ""))
    return text if len(text) < 200 else text[:200] + "..."
