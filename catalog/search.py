"""Area, period and sensors become scenes; alone in speaking the STAC API, and in saying why it found nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar

import pystac
import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3 import Retry

from catalog.errors import MetadataError, NothingFound, ServiceError
from catalog.geocode.affine import refuse_item
from catalog.scene import Scene, end_of, href_of
from catalog.sensors import SENSORS, Sensor

T = TypeVar("T")
Instant = date | datetime | str | None

RETRIES = 5
"""Tries after the first, waiting 0.2, 0.4, 0.8, ... s, for every page of an answer."""

LABELS, DEM = "labels", "dem"
"""Collections of rasters that are no scene."""
DEMS = {DEM: ("height", ""), "cop-dem-glo-30": ("data", "EGM2008"), "cop-dem-glo-90": ("data", "EGM2008")}
"""Collections of heights: asset, and what heights count from where the item does not say."""


@dataclass(frozen=True)
class LabelClass:
    """One class of a label raster."""

    value: int
    """The number stored."""
    name: str
    """What it means."""


@dataclass(frozen=True)
class Raster:
    """A raster that is no scene: labels or heights."""

    id: str
    """Item id."""
    href: str
    """Where the file lies."""
    checksum: str
    """file:checksum."""
    geometry: Mapping[str, Any]
    """GeoJSON, EPSG:4326."""
    start: datetime
    """UTC; what it shows holds from here."""
    end: datetime
    """UTC; to here."""
    nodata: float | None
    """Stored number that means nothing is known."""
    classes: tuple[LabelClass, ...] = ()
    """Of labels; empty for heights."""
    height_reference: str = ""
    """What heights count from: ellipsoid, EGM96, EGM2008 or another datum; empty for labels."""
    geoid: str = ""
    """Raster of that geoid's undulation; empty where PROJ is to know it."""


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
    """Scenes of an area and a period, in the order of time and id.

    Parameters
    ----------
    url
        Root of a STAC API.
    bbox, geometry
        One of the two: west, south, east, north in degrees, or GeoJSON in EPSG:4326.
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
    MetadataError
        An item cannot be read as a scene.
    """
    rows = [_row(name) for name in sensors]
    client = _client(url)
    wanted = list(collections) if collections else [c for row in rows for c in row.collections.get(provider, ())]
    held = _asking(url, lambda: {c.id: c for c in client.get_collections()})
    present = [name for name in dict.fromkeys(wanted) if name in held]
    if not present:
        raise NothingFound(
            f"the catalogue has no scene of {', '.join(sensors)}",
            item=url,
            enough=f"one of the collections {', '.join(wanted) or 'that such a sensor would have'}",
            todo=f"register such products, or ask for what there is: {', '.join(sorted(held)) or 'nothing yet'}",
        )
    first, last = instant(start), instant(end, closing=True)
    where = {"bbox": list(bbox)} if bbox is not None else {"intersects": dict(geometry or _WORLD)}

    def found(**more: Any) -> list[Scene]:
        answer = _asking(url, lambda: list(client.search(collections=present, limit=250, **more).items()))
        return [s for s in map(Scene.from_item, _once(url, answer)) if s.sensor in sensors]

    scenes = [s for s in found(**where, datetime=_interval(first, last)) if _within(s, first, last)]
    if not scenes:
        raise _why_nothing(url, found, where, first, last, sensors, [held[name] for name in present])
    return tuple(sorted(scenes, key=lambda s: (s.datetime, s.id)))


def labels(
    url: str,
    *,
    bbox: Sequence[float] | None = None,
    geometry: Mapping[str, Any] | None = None,
    start: Instant = None,
    end: Instant = None,
) -> tuple[Raster, ...]:
    """Label rasters that touch an area and a period, in the order of time and id; () where there is none.

    Raises
    ------
    ServiceError, MetadataError
        The API does not answer; an item holds no classes.
    """
    first, last = instant(start), instant(end, closing=True)
    found = _rasters(url, LABELS, "labels", bbox, geometry, _interval(first, last))
    for raster in found:
        if not raster.classes:
            raise MetadataError(
                "a label item names no classes",
                item=raster.id,
                enough="classification:classes on its asset",
                todo="register the labels again with their classes",
            )
    return found


def dems(
    url: str, *, bbox: Sequence[float] | None = None, geometry: Mapping[str, Any] | None = None
) -> tuple[Raster, ...]:
    """Height rasters that touch an area, by collection and id; () where there is none.

    Raises
    ------
    ServiceError
        The API does not answer.
    """
    return tuple(r for name, (asset, _) in DEMS.items() for r in _rasters(url, name, asset, bbox, geometry, None))


def instant(value: Instant, closing: bool = False) -> datetime | None:
    """A UTC time of a date, a time or ISO 8601 text; a mere date opens its day, or closes it."""
    if value is None or value == "":
        return None
    whole_day = isinstance(value, date) and not isinstance(value, datetime)
    if isinstance(value, str):
        whole_day = len(value) == 10
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise NothingFound(
                f"{value!r} is no date",
                item="the period asked for",
                enough="a date as in 2024-06-15",
                todo="write dates as year-month-day",
            ) from None
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    stamp = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return stamp + timedelta(days=1, microseconds=-1) if whole_day and closing else stamp


_WORLD: Mapping[str, Any] = {
    "type": "Polygon",
    "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]],
}


def _client(url: str) -> Client:
    retry = Retry(
        total=RETRIES,
        connect=RETRIES,
        read=RETRIES,
        status=RETRIES,
        backoff_factor=0.2,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,
        respect_retry_after_header=True,
    )
    return _asking(url, lambda: Client.open(url, stac_io=StacApiIO(max_retries=retry, timeout=60)))


def _asking(url: str, ask: Callable[[], T]) -> T:
    """What an API answers; whatever goes wrong on the way is a ServiceError that names it."""
    try:
        return ask()
    except (APIError, requests.RequestException, pystac.STACError, OSError, ValueError, KeyError) as error:
        raise ServiceError(
            f"a STAC API does not answer as it should ({type(error).__name__}: {str(error)[:200]})",
            item=url,
            enough=f"an answer within {RETRIES + 1} tries",
            todo="check the address and that the server is up, then run the same command again",
        ) from None


def _row(name: str) -> Sensor:
    if name not in SENSORS:
        raise NothingFound(
            f"there is no sensor {name!r}",
            item="the sensors asked for",
            enough=f"one of {', '.join(SENSORS)}",
            todo="name one of these (--sensor)",
        )
    return SENSORS[name]


def _once(url: str, items: Iterable[pystac.Item]) -> list[pystac.Item]:
    """Items without those that paging repeated; two of one id, and affines in radar geometry, are refused."""
    unique: dict[tuple[str | None, str], pystac.Item] = {}
    for item in items:
        refuse_item(item)
        known = unique.setdefault((item.collection_id, item.id), item)
        if known.to_dict(transform_hrefs=False) != item.to_dict(transform_hrefs=False):
            raise ServiceError(
                "an API answers two different items of one id",
                item=f"{url}: {item.collection_id}/{item.id}",
                enough="one item per id",
                todo="search again; report it to the provider if it stays",
            )
    return list(unique.values())


def _interval(first: datetime | None, last: datetime | None) -> str | None:
    if first is None and last is None:
        return None
    return "/".join(".." if t is None else t.isoformat().replace("+00:00", "Z") for t in (first, last))


def _within(scene: Scene, first: datetime | None, last: datetime | None) -> bool:
    """Whether a scene, or the range it was taken in, touches the period; servers disagree on ranges."""
    return (last is None or scene.datetime <= last) and (first is None or end_of(scene) >= first)


def _why_nothing(
    url: str,
    found: Callable[..., list[Scene]],
    where: Mapping[str, Any],
    first: datetime | None,
    last: datetime | None,
    sensors: Sequence[str],
    collections: Sequence[pystac.Collection],
) -> NothingFound:
    """The area is outside every scene, or the period has none: which, and what there would have been."""
    wanted, period = ", ".join(sensors), f"{_day(first)} to {_day(last)}"
    if there := found(**where):
        begin, end = min(s.datetime for s in there), max(end_of(s) for s in there)
        return NothingFound(
            f"the area has {len(there)} scenes of {wanted}, none of them from {period}",
            item=f"period {period}",
            enough=f"a period that touches {begin:%Y-%m-%d} to {end:%Y-%m-%d}",
            todo="choose another period (--from, --to)",
        )
    boxes = [b for c in collections for b in c.extent.spatial.bboxes]
    west, south, east, north = (f(b[i] for b in boxes) for i, f in enumerate((min, min, max, max)))
    return NothingFound(
        f"the area lies outside every scene of {wanted}",
        item=f"area {_area(where)} in {url}",
        enough=f"an area within west {west:.4f}, south {south:.4f}, east {east:.4f}, north {north:.4f}",
        todo="choose another area (--bbox, --area), or register scenes that cover it",
    )


def _day(stamp: datetime | None) -> str:
    return "any time" if stamp is None else f"{stamp:%Y-%m-%d}"


def _area(where: Mapping[str, Any]) -> str:
    if "bbox" in where:
        return ",".join(f"{v:g}" for v in where["bbox"])
    text = str(where["intersects"].get("coordinates", ""))
    return text if len(text) < 200 else text[:200] + "..."


def _rasters(
    url: str,
    collection: str,
    key: str,
    bbox: Sequence[float] | None,
    geometry: Mapping[str, Any] | None,
    interval: str | None,
) -> tuple[Raster, ...]:
    client = _client(url)
    if collection not in _asking(url, lambda: {c.id for c in client.get_collections()}):
        return ()
    where = {"bbox": list(bbox)} if bbox is not None else {"intersects": dict(geometry or _WORLD)}
    answer = _asking(
        url, lambda: list(client.search(collections=[collection], limit=250, datetime=interval, **where).items())
    )
    found = (_raster(item, key) for item in _once(url, answer))
    return tuple(sorted(found, key=lambda r: (r.start, r.id)))


def _raster(item: pystac.Item, key: str) -> Raster:
    start, end = (item.common_metadata.start_datetime, item.common_metadata.end_datetime)
    stamp = item.datetime or start
    asset, collection = item.assets.get(key), item.collection_id or ""
    if asset is None or item.geometry is None or stamp is None:
        raise MetadataError(
            f"an item of collection {item.collection_id} has no asset {key}, no geometry or no time",
            item=item.id,
            enough="an item as `ringmoe register` writes it",
            todo="register the raster again",
        )
    classes = asset.extra_fields.get("classification:classes", ())
    nodata = asset.extra_fields.get("nodata")
    return Raster(
        id=item.id,
        href=href_of(asset),
        checksum=str(asset.extra_fields.get("file:checksum", "")),
        geometry=item.geometry,
        start=instant(start or stamp) or stamp,
        end=instant(end or stamp) or stamp,
        nodata=None if nodata is None else float(nodata),
        classes=tuple(LabelClass(int(c["value"]), str(c.get("description") or c["name"])) for c in classes),
        height_reference=str(item.properties.get("ringmoe:height_reference", DEMS.get(collection, ("", ""))[1])),
        geoid=href_of(item.assets["geoid"]) if "geoid" in item.assets else "",
    )
