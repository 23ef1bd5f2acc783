"""One STAC API is searched for scenes, and says why it found nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pystac

from catalog.errors import NothingFound
from catalog.scene import Scene, end_of
from catalog.search.area import Instant, day, instant, interval, places
from catalog.search.dialect import checked_scene, scene_of, unlinked
from catalog.search.overpass import best_of_each
from catalog.search.pages import ask, asking, once, opened
from catalog.sensors import SENSORS, Sensor


def search(
    url: str,
    *,
    bbox: Sequence[float] | None = None,
    geometry: Mapping[str, Any] | None = None,
    start: Instant = None,
    end: Instant = None,
    sensors: Sequence[str],
    collections: Sequence[str] | None = None,
    provider: str = "local",
) -> tuple[Scene, ...]:
    """Scenes of an area and a period in one STAC API, one per overpass, in the order of time and id.

    Parameters
    ----------
    url
        Root of a STAC API.
    bbox, geometry
        One of the two: west, south, east, north in degrees (west greater than east crosses the antimeridian), or
        GeoJSON in EPSG:4326.
    start, end
        Dates, times or ISO 8601 text; a date as `end` includes that day. None leaves the side open.
    sensors
        Rows of catalog.sensors.
    collections
        Instead of those that the sensors' rows name for the provider.
    provider
        Whose collections, as in local or planetary-computer.

    Raises
    ------
    NothingFound
        No such sensor; no such collection; an area outside every scene; a period with none. It says which, and what
        there would have been.
    ServiceError
        The API does not answer, or not as the standard says.
    Shortfall
        The API states another count than it answers.
    MetadataError
        An item cannot be read as a scene.
    """
    rows = [row_of(name) for name in sensors]
    client = opened(url)
    wanted = list(collections) if collections else [c for row in rows for c in row.collections.get(provider, ())]
    held = asking(url, lambda: {c.id: c for c in client.get_collections()})
    present = [name for name in dict.fromkeys(wanted) if name in held]
    if not present:
        raise NothingFound(
            f"the catalogue has no scene of {', '.join(sensors)}",
            item=url,
            enough=f"one of the collections {', '.join(wanted) or 'that such a sensor would have'}",
            todo=f"register such products, or ask for what there is: {', '.join(sorted(held)) or 'nothing yet'}",
        )
    names = {row.id for row in rows}
    first, last = instant(start), instant(end, closing=True)
    where = places(bbox, geometry)

    def found(period: str | None) -> list[Scene]:
        answers = [ask(client, url, present, place, period) for place in where]
        items = once(url, [item for answer in answers for item in answer.items])
        scenes = (checked_scene(unlinked(i)) if provider == "local" else scene_of(i, provider) for i in items)
        return [s for s in scenes if s.sensor in names]

    scenes = [s for s in found(interval(first, last)) if within(s, first, last)]
    if not scenes:
        raise _why_nothing(url, found, where, first, last, sensors, [held[name] for name in present])
    return best_of_each(scenes)[0]


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


def within(scene: Scene, first: datetime | None, last: datetime | None) -> bool:
    """Whether a scene, or the range it was taken in, touches the period; servers disagree on ranges."""
    return (last is None or scene.datetime <= last) and (first is None or end_of(scene) >= first)


def _why_nothing(
    url: str,
    found: Callable[[str | None], list[Scene]],
    where: Sequence[Mapping[str, Any]],
    first: datetime | None,
    last: datetime | None,
    sensors: Sequence[str],
    collections: Sequence[pystac.Collection],
) -> NothingFound:
    """The area is outside every scene, or the period has none: which, and what there would have been."""
    wanted, period = ", ".join(sensors), f"{day(first)} to {day(last)}"
    there = found(None)
    if there:
        begin, end = min(s.datetime for s in there), max(end_of(s) for s in there)
        return NothingFound(
            f"the area has {len(there)} scenes of {wanted}, none of them from {period}",
            item=f"period {period}",
            enough=f"a period that touches {begin:%Y-%m-%d} to {end:%Y-%m-%d}",
            todo="choose another period (--from, --to)",
        )
    extents = [b for c in collections for b in c.extent.spatial.bboxes]
    west, south, east, north = (f(b[i] for b in extents) for i, f in enumerate((min, min, max, max)))
    return NothingFound(
        f"the area lies outside every scene of {wanted}",
        item=f"area {area_text(where)} in {url}",
        enough=f"an area within west {west:.4f}, south {south:.4f}, east {east:.4f}, north {north:.4f}",
        todo="choose another area (--bbox, --area), or register scenes that cover it",
    )


def area_text(where: Sequence[Mapping[str, Any]]) -> str:
    """An area for a message."""
    if "bbox" in where[0]:
        return " and ".join(",".join(f"{v:g}" for v in place["bbox"]) for place in where)
    text = str(where[0]["intersects"].get("coordinates", ""))
    return text if len(text) < 200 else text[:200] + "..."
