"""Rasters that are no scene, found in a catalogue: labels and heights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pystac

from catalog.errors import MetadataError
from catalog.scene import href_of
from catalog.search.area import Instant, instant, interval, places
from catalog.search.dialect import unlinked
from catalog.search.pages import ask, asking, once, opened

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
    found = _rasters(url, LABELS, "labels", bbox, geometry, interval(first, last))
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


def _rasters(
    url: str,
    collection: str,
    key: str,
    bbox: Sequence[float] | None,
    geometry: Mapping[str, Any] | None,
    period: str | None,
) -> tuple[Raster, ...]:
    client = opened(url)
    if collection not in asking(url, lambda: {c.id for c in client.get_collections()}):
        return ()
    answers = [ask(client, url, [collection], where, period) for where in places(bbox, geometry)]
    items = once(url, [item for answer in answers for item in answer.items])
    found = (_raster(unlinked(item), key) for item in items)
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
