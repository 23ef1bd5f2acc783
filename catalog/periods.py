"""Which composites there are to make: cubes of a tile by period, and all that determines each."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from odc.geo.geom import Geometry

from catalog.composite import Method
from catalog.ledger import unit_id
from catalog.versions import Listed, renewals

RESULTS_VERSION = 1
"""Raised when the same cubes would give another composite."""

Every = Literal["month", "quarter", "year", "whole"]
_FREQUENCY = {"month": "M", "quarter": "Q", "year": "Y"}

Days = tuple[dt.date, dt.date]
"""First and last day, both included."""


@dataclass(frozen=True)
class LookRef:
    """One date of one cube, by address."""

    time: str
    """When, ISO 8601, to a second."""
    scene: str
    """Id of the scene."""
    cube: str
    """Id of the cube's item."""
    checksum: str
    """Multihash of the cube's store."""
    store: str
    """Where that lies."""
    index: int
    """Position along its time."""


@dataclass(frozen=True)
class CompositeUnit:
    """One composite to make: all that determines its result."""

    sensor: str
    """Row of catalog.sensors."""
    tile: str
    """Name of the tile."""
    days: Days
    """The period."""
    method: Method
    """Of catalog.composite."""
    looks: tuple[LookRef, ...]
    """Every date of the period, in the order of time; at least one."""

    @property
    def period(self) -> str:
        """ISO 8601 interval of days."""
        return f"{self.days[0]}/{self.days[1]}"

    @property
    def label(self) -> str:
        """What stands in the place of a scene's id in the composite."""
        return f"{self.method} {self.period}"

    @property
    def id(self) -> str:
        """Content hash of all that determines the composite."""
        inputs = {
            "cubes": sorted({(look.cube, look.checksum) for look in self.looks}),
            "looks": [[look.cube, look.scene, look.index] for look in self.looks],
            "method": self.method,
            "period": self.period,
        }
        return unit_id("composite", RESULTS_VERSION, inputs)

    @property
    def item_id(self) -> str:
        """Readable name of the composite's item."""
        return f"{self.sensor}_{self.tile}_{self.days[0]}_{self.days[1]}_{self.method}_{self.id}"


@dataclass(frozen=True)
class Planned:
    """What composites an area and a time give."""

    units: tuple[CompositeUnit, ...]
    """To make, done or not; by sensor, tile and period."""
    empty: tuple[tuple[str, str, str], ...]
    """Sensor, tile and period in which the tile has no scene at all: nothing is made of nothing."""
    left_out: tuple[str, ...]
    """Cubes that stay in radar geometry, in which no two scenes share a grid."""


def divide(start: dt.date, end: dt.date, every: Every) -> tuple[Days, ...]:
    """The calendar's months, quarters or years that touch some days, the first and the last cut to them."""
    if every == "whole":
        return ((start, end),)
    found = pd.period_range(start, end, freq=_FREQUENCY[every])
    return tuple((max(p.start_time.date(), start), min(p.end_time.date(), end)) for p in found)


def plan(
    cubes: Sequence[Listed],
    area: Geometry,
    sensors: Sequence[str],
    periods: Sequence[Days],
    method: Method,
) -> Planned:
    """The composites that cubes make over an area, one per grid, quantity and period; no store is opened.

    Parameters
    ----------
    cubes
        Those that count, as `versions.current` gives them. A scene that several cubes of a tile hold is taken from the
        last of them, and none is taken beside its reprocessed self.
    area
        EPSG:4326.
    """
    groups: dict[tuple[str, ...], dict[tuple[str, str], LookRef]] = defaultdict(dict)
    left_out, renewed = [], renewals(cubes)
    for unit in cubes:
        said = unit.item["properties"]
        place = Geometry(dict(unit.item["geometry"]), "EPSG:4326")
        if said["ringmoe:sensor"] not in sensors or place.intersection(area).is_empty:
            continue
        if "proj:code" not in said:
            left_out.append(unit.id)
            continue
        groups[_alike(unit.item)] |= {(look.time, look.scene): look for look in _looks(unit, renewed)}
    units, empty = [], []
    for (sensor, tile, *_), looks in sorted(groups.items()):
        for days in periods:
            chosen = tuple(looks[k] for k in sorted(looks) if str(days[0]) <= k[0][:10] <= str(days[1]))
            if chosen:
                units.append(CompositeUnit(sensor, tile, days, method, chosen))
            else:
                empty.append((sensor, tile, f"{days[0]}/{days[1]}"))
    return Planned(tuple(units), tuple(empty), tuple(left_out))


def _alike(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Sensor and tile, then what else cubes must share to be put together."""
    about = item["properties"]
    bands = about["cube:dimensions"]["band"]["values"]
    grid = [about["proj:code"], *about["proj:shape"], *about["proj:transform"]]
    return (about["ringmoe:sensor"], about["ringmoe:tile"], about["ringmoe:quantity"], *bands, *map(str, grid))


def _looks(unit: Listed, renewed: Container[str]) -> list[LookRef]:
    """The dates of a cube, as its item lists them, without scenes that were reprocessed since."""
    times = unit.item["properties"]["cube:dimensions"]["time"]["values"]
    store = str(unit.store.resolve())
    return [
        LookRef(time, scene, unit.id, unit.checksum, store, index)
        for index, (time, scene) in enumerate(zip(times, unit.scenes, strict=True))
        if scene not in renewed
    ]
