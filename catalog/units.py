"""Which cubes there are to make: scenes over an area, by instrument and tile, and all that determines each."""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from odc.geo.geom import Geometry

from catalog.antimeridian import centre_of, lonlat
from catalog.errors import CubeError, NothingFound
from catalog.grid import Tile, crs_of, is_tiled, is_utm, native, onto, tiles
from catalog.ledger import unit_id
from catalog.quantify import AS_USUAL, Reading
from catalog.scene import Scene
from catalog.search import Raster
from catalog.sensors import SENSORS, Sensor

RESULTS_VERSION = 3
"""Raised when the same scenes would give another cube."""

LEAST_SHARE = 0.01
"""A scene that covers less of a tile than this is left out of it."""

Every = Literal["month", "year", "period"]
"""The part of the calendar that shares a cube; `period` takes all scenes asked for together."""

EVERY: Every = "year"
"""Unless another is asked for: a new scene makes one year's cubes of its tiles again, all other years stay shared."""

REFERENCE_SENSOR = "sentinel-2"
"""Whose clearest scene of a tile the others are brought onto."""


@dataclass(frozen=True)
class Unit:
    """One cube to make: all that determines its result."""

    sensor: str
    """Row of catalog.sensors."""
    tile: Tile | None
    """Where its pixels lie; None keeps a single scene in radar geometry."""
    scenes: tuple[Scene, ...]
    """In the order of time."""
    period: str
    """Interval asked for, or the calendar's part of it that this cube answers."""
    reference: Scene | None
    """The scene whose geometry is taken as right; None where no sensor of the tile can serve."""
    how: Reading = AS_USUAL
    """How its scenes are read, with the heights that reach it."""

    @property
    def tile_id(self) -> str:
        """Name of the tile, or of the scene in whose geometry the cube stays."""
        return self.tile.id if self.tile else f"radar_{self.scenes[0].id}"

    @property
    def id(self) -> str:
        """Content hash of all that determines the cube."""
        box = self.tile.geobox if self.tile else None
        inputs = {
            "sensor": self.sensor,
            "grid": [str(box.crs), list(box.affine)[:6], list(box.shape)] if box else self.tile_id,
            "scenes": [_identity(s) for s in self.scenes],
            "reference": _identity(self.reference) if self.reference else None,
            "reading": _choices(self.how, SENSORS[self.sensor]),
        }
        return unit_id("ingest", RESULTS_VERSION, inputs)

    @property
    def item_id(self) -> str:
        """Readable name of the cube's item."""
        return f"{self.sensor}_{self.tile_id}_{self.id}"


def _identity(scene: Scene) -> list[Any]:
    """All of a scene that determines what is made of it: its files, and how its item says to read them."""
    layers = {**scene.bands, **{f"quality {k}": v for k, v in scene.quality.items()}}
    reading = {name: {k: str(v) for k, v in asdict(source).items() if k != "href"} for name, source in layers.items()}
    return [
        scene.id,
        dict(sorted(scene.checksums.items())),
        [scene.level, scene.quantity, scene.geolocation, scene.encoding, scene.decimated],
        reading,
    ]


def plan(
    scenes: Sequence[Scene],
    area: Geometry,
    period: str,
    *,
    tile_m: float,
    how: Reading = AS_USUAL,
    every: Every = EVERY,
) -> tuple[Unit, ...]:
    """The cubes that scenes make over an area, one per sensor, tile and part of the calendar.

    Scenes come onto UTM tiles of `tile_m`, beyond 84 N and 80 S onto polar stereographic ones. A scene stays on its own
    raster when that is no such grid of the sensor's resolution (a decimated copy, geographic coordinates) or when its
    pixels are complex and must not be interpolated.

    All cubes of a tile are brought onto one reference: the clearest scene of the earliest part of the calendar that
    has any. So a scene of a later month or year makes no other cube again.

    Parameters
    ----------
    period
        First and last day asked for, as in 2025-05-01/2025-08-31.
    every
        month and year (UTC) are those of the calendar, whatever day the period begins on.

    Raises
    ------
    NothingFound
        When no scene covers a hundredth of any tile.
    CubeError
        When there is no such part of the calendar.
    """
    if every not in get_args(Every):
        raise CubeError(f"no cube is made every {every}", item="--every", enough=f"one of {', '.join(get_args(Every))}")
    groups: dict[tuple[str, str], list[Scene]] = defaultdict(list)
    places: dict[tuple[str, str], Tile | None] = {}
    for scene in scenes:
        for name, tile in _places(scene, area, tile_m):
            places[(scene.sensor, name)] = tile
            groups[(scene.sensor, name)].append(scene)
    if not groups:
        raise NothingFound(
            f"none of {len(scenes)} scenes covers {LEAST_SHARE:.0%} of a tile of the area",
            item=period,
            enough="one scene that covers the area",
            todo="choose a larger area or a smaller tile",
        )
    units = []
    for (sensor, name), members in sorted(groups.items()):
        members.sort(key=lambda s: (s.datetime, s.id))
        tile = places[(sensor, name)]
        reference = _reference(groups.get((REFERENCE_SENSOR, name), []), tile, every) if tile else None
        for part, batch in _alike(members, every):
            shown = _clipped(part, period)
            units.append(Unit(sensor, tile, batch, shown, reference, _reading(how, batch[0], tile)))
    return tuple(units)


def part_of(scene: Scene, every: Every) -> str:
    """The part of the calendar a scene belongs to, as in 2025-05 or 2025; empty for the whole period."""
    return {"month": f"{scene.datetime:%Y-%m}", "year": f"{scene.datetime:%Y}", "period": ""}[every]


def _clipped(part: str, period: str) -> str:
    """The days of a part of the calendar that lie in a period."""
    days = period.split("/")
    if not part or len(days) != 2:
        return period
    year, month = int(part[:4]), int(part[5:] or 12)
    first, last = f"{part[:4]}-{part[5:] or '01'}-01", f"{year}-{month:02d}-{calendar.monthrange(year, month)[1]}"
    return f"{max(first, days[0])}/{min(last, days[1])}"


def _places(scene: Scene, area: Geometry, tile_m: float) -> list[tuple[str, Tile | None]]:
    """Names and tiles where a scene's pixels go within an area."""
    sensor = SENSORS[scene.sensor]
    footprint = Geometry(dict(scene.geometry), "EPSG:4326")
    inside = footprint.intersection(area)
    if inside.is_empty or inside.area == 0:
        return []
    band = next(iter(scene.bands.values()))
    if scene.geolocation != "affine" and sensor.law == "complex-amplitude":
        return [(f"radar_{scene.id}", None)]
    crs = band.crs if scene.geolocation == "affine" and band.crs else crs_of(*centre_of(inside.json))
    resolution = min(b.gsd_m for b in sensor.bands)
    if scene.geolocation == "affine" and not _on_tiled_grid(scene, crs, resolution):
        finest = min(scene.bands.values(), key=lambda b: -(b.shape or (0, 0))[0])
        if finest.shape is None or finest.transform is None or finest.crs is None:
            raise CubeError(
                "the item does not say where its pixels lie", item=scene.id, enough="proj:shape, proj:transform"
            )
        own = native(finest.shape, finest.transform, finest.crs)
        return [(own.id, own)]
    local = footprint.to_crs(crs) if is_utm(crs) else onto(footprint, crs)
    found: list[tuple[str, Tile | None]] = []
    for tile in tiles(inside, crs, resolution, tile_m=tile_m):
        share = tile.geobox.extent.intersection(local).area / tile.geobox.extent.area
        if share >= LEAST_SHARE:
            found.append((tile.id, tile))
    return found


def _on_tiled_grid(scene: Scene, crs: str, resolution_m: float) -> bool:
    """Whether a scene may be warped onto tiles: real numbers, north up, on a tiled grid, as fine as its sensor is."""
    if scene.decimated or scene.encoding != "dn" or not is_tiled(crs):
        return False
    transforms = [b.transform for b in scene.bands.values() if b.transform]
    north_up = all(abs(t[1]) + abs(t[3]) < 1e-9 for t in transforms)
    return bool(transforms) and north_up and min(abs(t[0]) for t in transforms) <= 1.5 * resolution_m


def _alike(scenes: Sequence[Scene], every: Every) -> list[tuple[str, tuple[Scene, ...]]]:
    """Scenes that may share a cube, by part of the calendar: same quantity, same bands, placed in the same way."""
    kinds: dict[tuple[str, str, tuple[str, ...], str], list[Scene]] = defaultdict(list)
    for scene in scenes:
        kinds[(part_of(scene, every), scene.quantity, tuple(scene.bands), scene.geolocation)].append(scene)
    return [(k[0], tuple(kinds[k])) for k in sorted(kinds)]


def _reference(scenes: Sequence[Scene], tile: Tile, every: Every) -> Scene | None:
    """Of the scenes that cover most of the tile (to a tenth) the one with least cloud, then the earliest.

    Only scenes of the earliest part of the calendar that has any: those of later ones come and go without moving it.
    """

    def rank(scene: Scene) -> tuple[float, float, Any, str]:
        covered = Geometry(dict(scene.geometry), "EPSG:4326").intersection(extent).area / extent.area
        return (-round(covered, 1), float(scene.properties.get("eo:cloud_cover", 101.0)), scene.datetime, scene.id)

    extent = lonlat(tile.geobox.extent)
    able = [s for s in scenes if s.geolocation == "affine"]
    earliest = min((part_of(s, every) for s in able), default="")
    return min((s for s in able if part_of(s, every) == earliest), key=rank, default=None)


def _reading(how: Reading, scene: Scene, tile: Tile | None) -> Reading:
    """The reading of a unit: only the heights that reach it, flattened only what can be."""
    heights = () if scene.geolocation == "affine" else _dems(how.dems, scene, tile)
    flattened = how.flattened and scene.geolocation == "radar-grid" and tile is not None
    return replace(how, dems=heights, flattened=flattened)


def _dems(dems: Sequence[Raster], scene: Scene, tile: Tile | None) -> tuple[Raster, ...]:
    """The heights that touch a tile, or a scene that stays in radar geometry; what covers most of it comes first."""
    footprint = lonlat(tile.geobox.extent) if tile else Geometry(dict(scene.geometry), "EPSG:4326")
    covered = {d.id: Geometry(dict(d.geometry), "EPSG:4326").intersection(footprint).area for d in dems}
    return tuple(sorted((d for d in dems if covered[d.id] > 0), key=lambda d: (-covered[d.id], d.id)))


def _choices(how: Reading, sensor: Sensor) -> dict[str, Any]:
    """What of a reading can change the pixels of a sensor, JSON-able."""
    return {
        "engine": how.engine,
        "dems": [[d.checksum, d.height_reference, d.geoid] for d in how.dems],
        "flattened": how.flattened,
        "offset_policy": how.offset_policy if sensor.law == "reflectance" else None,
        "dilate_m": how.dilate_m if sensor.modality in ("opt", "ms") else None,
    }
