"""What an ingest would take, before it starts: scenes, tiles, gigabytes, what is done, and a time from a pilot."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import dask
from odc.geo.geom import Geometry

from catalog import ingest as making
from catalog import units
from catalog.grid import onto
from catalog.ledger import Ledger
from catalog.scene import Scene
from catalog.sensors import SENSORS
from flows import progress
from flows.ingest import plan
from flows.refs import IngestRequest, Where
from flows.stac import find, providers

PILOTS = 2
"""Units of each sensor that a pilot makes: its lightest and its heaviest."""

RANGE = (0.75, 1.5)
"""How much faster and slower than its pilots a sensor may go: other load, caches, a network's mood."""


@dataclass(frozen=True)
class SensorForecast:
    """What remains to be made of one sensor."""

    sensor: str
    """Row of catalog.sensors."""
    scenes: int
    """Found over area and period."""
    units: int
    """Cubes, one per tile and kind."""
    done: int
    """Of them made already."""
    gigabytes: float
    """Size on disk of all cubes, made and to be made; uncompressed where `measured` is false."""
    measured: bool
    """Whether finished cubes of the sensor gave the bytes per pixel; else pixels count uncompressed."""
    seconds: tuple[float, float] | None
    """Range for what remains on the workers asked for; None without a pilot."""

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def forecast(request: IngestRequest, where: Where, *, pilot: bool = False) -> tuple[SensorForecast, ...]:
    """What `ingest` of the same request would make and take.

    Parameters
    ----------
    pilot
        Make the lightest and the heaviest unfinished cube of each sensor first, and time them. They count as done then:
        nothing of a pilot is thrown away.

    Raises
    ------
    CatalogError
        As `ingest` would.
    """
    with providers(where) as asked:
        scenes = find(request, where, asked).scenes
        planned = plan(request, scenes, where, asked)
    ledger = Ledger(where.published)
    groups: dict[str, list[units.Unit]] = defaultdict(list)
    for unit in planned:
        groups[unit.sensor].append(unit)
    return tuple(
        _sensor(name, members, scenes, ledger, where.workers, pilot) for name, members in sorted(groups.items())
    )


def _sensor(
    name: str, members: Sequence[units.Unit], scenes: Sequence[Scene], ledger: Ledger, workers: int, pilot: bool
) -> SensorForecast:
    rates = _pilot(name, members, ledger) if pilot else []
    finished = {u.item_id: item for u in members if (item := ledger.done("cubes", u.item_id)) is not None}
    held = sum(int(item["assets"]["cube"]["file:size"]) for item in finished.values())
    seen = sum(covered_pixels(u) for u in members if u.item_id in finished)
    measured = held > 0 and seen > 0
    each = held / seen if measured else 8.0 if SENSORS[name].law == "complex-amplitude" else 4.0
    left = [u for u in members if u.item_id not in finished]
    work = sum(covered_pixels(u) for u in left)
    parallel = max(1, min(workers, len(left)))
    seconds = (RANGE[0] * min(rates) * work / parallel, RANGE[1] * max(rates) * work / parallel) if rates else None
    return SensorForecast(
        sensor=name,
        scenes=sum(s.sensor == name for s in scenes),
        units=len(members),
        done=len(finished),
        gigabytes=(held + each * work) / 1e9,
        measured=measured,
        seconds=seconds,
    )


def _pilot(name: str, members: Sequence[units.Unit], ledger: Ledger) -> list[float]:
    """Seconds per covered pixel of the lightest and the heaviest unfinished unit, which are made on the way."""
    left = sorted((u for u in members if ledger.done("cubes", u.item_id) is None), key=covered_pixels)
    chosen = left if len(left) <= PILOTS else [left[0], left[-1]]
    rates = []
    for count, unit in enumerate(chosen, start=1):
        start = time.perf_counter()
        with dask.config.set(scheduler="synchronous"):
            making.ingest(unit, ledger)
        rates.append((time.perf_counter() - start) / max(covered_pixels(unit), 1.0))
        progress.tell(f"pilot {name}", count, len(chosen), unit.item_id)
    return rates


def covered_pixels(unit: units.Unit) -> float:
    """Pixels of all bands and dates of a unit that its scenes' footprints cover."""
    total = 0.0
    for scene in unit.scenes:
        bands = len(scene.bands)
        if unit.tile is None:
            shape = next(iter(scene.bands.values())).shape or (0, 0)
            total += bands * shape[0] * shape[1]
            continue
        box = unit.tile.geobox
        assert box.crs is not None
        footprint = onto(Geometry(dict(scene.geometry), "EPSG:4326"), str(box.crs))
        share = footprint.intersection(box.extent).area / box.extent.area
        total += bands * box.shape[0] * box.shape[1] * share
    return total
