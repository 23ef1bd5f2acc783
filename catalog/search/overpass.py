"""Which scenes show one overpass, and which of them is the one to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pystac.utils import str_to_datetime
from shapely.geometry import shape

from catalog.scene import BandSource, Scene, end_of
from catalog.sensors import SENSORS

SAME_PASS = timedelta(minutes=45)
"""Two looks of one platform at one tile lie closer only within one pass: a Sentinel-2 datatake lasts up to 30 minutes
and providers give its start or the tile's own time; the neighbouring orbit comes 98 minutes later."""
SAME_SLICE = timedelta(seconds=5)
"""Two radar slices of one orbit lie at least that far apart; a reprocessed one begins within it."""
SAME_GROUND = 0.5
"""Shared part of the smaller footprint from which on two items show the same ground. A tile that two datastrips of
one pass share is two items of little overlap, both needed."""

RENEWING = ("baseline", "tier", "processed")
"""The steps of the rule by which a scene is a reprocessed self of another."""
_SAID = (
    "grid:code",
    "s2:mgrs_tile",
    "ringmoe:tile",
    "landsat:wrs_path",
    "landsat:wrs_row",
    "sat:absolute_orbit",
    "sar:instrument_mode",
    "start_datetime",
    "s2:processing_baseline",
    "ringmoe:baseline",
    "landsat:collection_category",
    "s2:generation_time",
    "s1:processing_datetime",
    "ringmoe:provider",
    "updated",
    "created",
)
"""Properties that the rule asks for."""


@dataclass(frozen=True)
class Place:
    """What of the ground an item shows by name, and how near in time two items of one pass lie."""

    name: str
    """Tile, path and row, or absolute orbit."""
    near: timedelta
    """Bound of the difference of their times."""


@dataclass(frozen=True)
class Duplicate:
    """Several items of one overpass, of which one is used."""

    kept: Scene
    """The one used."""
    dropped: tuple[Scene, ...]
    """The others, in the order of preference."""
    why: str
    """Which of the rule's steps decided."""


def place_of(scene: Scene) -> Place | None:
    """The named place of a scene; None where its provider names none, so that only its id tells it from others."""
    said = scene.properties
    tile = said.get("grid:code") or said.get("s2:mgrs_tile") or said.get("ringmoe:tile")
    if tile:
        return Place(str(tile).removeprefix("MGRS-").lstrip("0"), SAME_PASS)
    if said.get("landsat:wrs_path") and said.get("landsat:wrs_row"):
        return Place(f"{int(said['landsat:wrs_path'])}/{int(said['landsat:wrs_row'])}", SAME_PASS)
    if said.get("sat:absolute_orbit"):
        mode = said.get("sar:instrument_mode", "")
        return Place(f"orbit {said['sat:absolute_orbit']} {mode} {sorted(scene.bands)}", SAME_SLICE)
    return None


def same_overpass(one: Scene, other: Scene) -> bool:
    """Whether two scenes show one overpass.

    The same platform, physical quantity and named place, times that one pass explains, and footprints that share at
    least half of the smaller one. Without a named place only the same id is the same overpass.
    """
    if _ground(one) != _ground(other):
        return False
    place = place_of(one)
    return place is None or (abs(_start(one) - _start(other)) <= place.near and _shared(one, other) >= SAME_GROUND)


def within(scene: Scene, first: datetime | None, last: datetime | None) -> bool:
    """Whether a scene, or the range it was taken in, touches the period; servers disagree on ranges."""
    return (last is None or scene.datetime <= last) and (first is None or end_of(scene) >= first)


def best_of_each(scenes: Sequence[Scene]) -> tuple[tuple[Scene, ...], tuple[Duplicate, ...]]:
    """One scene of each overpass, and what was dropped for it.

    The rule, step by step: whole pixels over a decimated copy; the latest processing baseline (of Landsat the better
    tier); the latest processing of the product; the provider, then its collection, that comes first in the sensor's
    row; the latest `updated`, then `created`, of the item; the last id. Both answers are in the order of time and id.
    """
    groups: dict[tuple[str, ...], list[list[Scene]]] = {}
    for scene in sorted(scenes, key=_order):
        passes = groups.setdefault(_ground(scene), [])
        group = next((g for g in passes if same_overpass(g[0], scene)), None)
        if group is None:
            passes.append([scene])
        else:
            group.append(scene)
    kept, duplicates = [], []
    for group in (g for passes in groups.values() for g in passes):
        ranked = sorted(group, key=lambda s: tuple(rank(s).values()), reverse=True)
        kept.append(ranked[0])
        if len(ranked) > 1:
            duplicates.append(Duplicate(ranked[0], tuple(ranked[1:]), _decided(ranked[0], ranked[1])))
    return tuple(sorted(kept, key=_order)), tuple(sorted(duplicates, key=lambda d: _order(d.kept)))


def lacking(scenes: Sequence[Scene], others: Sequence[Scene]) -> tuple[Scene, ...]:
    """Those of `others` whose overpass none of `scenes` shows, in their order."""
    held: dict[tuple[str, ...], list[Scene]] = {}
    for scene in scenes:
        held.setdefault(_ground(scene), []).append(scene)
    return tuple(o for o in others if not any(same_overpass(s, o) for s in held.get(_ground(o), ())))


def _ground(scene: Scene) -> tuple[str, ...]:
    """What scenes of one overpass have in common whatever their times."""
    place = place_of(scene)
    return scene.sensor, scene.platform.lower(), scene.quantity, scene.id if place is None else place.name


def rank(scene: Scene) -> Mapping[str, Any]:
    """The steps of the rule by name, each the better the greater."""
    said = scene.properties
    row = SENSORS[scene.sensor].collections
    provider = said.get("ringmoe:provider")
    providers = [*row, provider]
    collections = [*row.get(str(provider), ()), scene.collection]
    processed = said.get("s2:generation_time") or said.get("s1:processing_datetime")
    return {
        "whole": not scene.decimated,
        "baseline": _numbers(said.get("s2:processing_baseline") or said.get("ringmoe:baseline")),
        "tier": {"T1": 2, "T2": 1}.get(str(said.get("landsat:collection_category")), 0),
        "processed": _time(processed),
        "preference": (-providers.index(provider), -collections.index(scene.collection)),
        "updated": _time(said.get("updated")),
        "created": _time(said.get("created")),
        "id": scene.id,
    }


def superseded(scenes: Sequence[Scene]) -> dict[str, tuple[str, str]]:
    """Scenes of which another is the reprocessed self: id to the id of that one and the step that decided.

    The rule is that of `best_of_each`, as far as processing decides: a newer baseline, a better tier or a later
    processing of the same acquisition. A copy that only another provider has, or that was only listed later, is none.
    """
    by_id = {s.id: s for s in scenes}
    found = {}
    for duplicate in best_of_each(list(by_id.values()))[1]:
        for old in duplicate.dropped:
            step = _decided(duplicate.kept, old)
            if step in RENEWING:
                found[old.id] = (duplicate.kept.id, step)
    return found


def remembered(scene: Scene) -> dict[str, Any]:
    """All of a scene that tells it from its reprocessed selves, JSON-able; kept in what is made of it."""
    kept = {k: scene.properties[k] for k in _SAID if scene.properties.get(k) is not None}
    return {
        "id": scene.id,
        "sensor": scene.sensor,
        "collection": scene.collection,
        "platform": scene.platform,
        "quantity": scene.quantity,
        "datetime": scene.datetime.isoformat(),
        "geometry": dict(scene.geometry),
        "bands": list(scene.bands),
        "decimated": scene.decimated,
        "properties": kept,
    }


def recalled(kept: Mapping[str, Any]) -> Scene:
    """What `remembered` kept, as a scene without files."""
    west, south, east, north = shape(kept["geometry"]).bounds
    return Scene(
        id=kept["id"],
        href=kept["id"],
        sensor=kept["sensor"],
        collection=kept["collection"],
        datetime=_time(kept["datetime"]),
        platform=kept["platform"],
        level="",
        format="",
        quantity=kept["quantity"],
        geolocation="affine",
        encoding="dn",
        geometry=kept["geometry"],
        bbox=(west, south, east, north),
        bands={name: BandSource(name, "") for name in kept["bands"]},
        quality={},
        metadata={},
        checksums={},
        decimated=kept["decimated"],
        properties=kept["properties"],
    )


def _decided(best: Scene, next_best: Scene) -> str:
    one, other = rank(best), rank(next_best)
    return next((step for step in one if one[step] != other[step]), "id")


def _numbers(text: Any) -> tuple[int, ...]:
    """05.11 as (5, 11); a baseline that is no number counts as none."""
    parts = str(text or "").split(".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else ()


def _time(text: Any) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if not text else _utc(str_to_datetime(str(text)))


def _utc(stamp: datetime) -> datetime:
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def _start(scene: Scene) -> datetime:
    said = scene.properties.get("start_datetime")
    return scene.datetime if not said else _time(said)


def _shared(one: Scene, other: Scene) -> float:
    """Shared part of the smaller footprint, 0 to 1, in degrees squared; footprints without an area share by touching.

    A footprint across the antimeridian that is written as one ring round the Earth is compared as it is written.
    """
    here, there = shape(one.geometry).buffer(0), shape(other.geometry).buffer(0)
    smaller = min(here.area, there.area)
    return float(here.intersection(there).area / smaller) if smaller > 0 else float(here.intersects(there))


def _order(scene: Scene) -> tuple[datetime, str]:
    return scene.datetime, scene.id
