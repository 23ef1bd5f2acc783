"""Which cubes there are to make: scenes over an area, by instrument and tile, and all that determines each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from odc.geo.geom import Geometry

from catalog.errors import CubeError, NothingFound
from catalog.grid import Tile, native, tiles, utm_crs
from catalog.ledger import unit_id
from catalog.quantify import AS_USUAL, Reading
from catalog.scene import Scene
from catalog.search import Raster
from catalog.sensors import SENSORS, Sensor

RESULTS_VERSION = 3
"""Raised when the same scenes would give another cube."""

LEAST_SHARE = 0.01
"""A scene that covers less of a tile than this is left out of it."""

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
    """Interval asked for."""
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
    scenes: Sequence[Scene], area: Geometry, period: str, *, tile_m: float, how: Reading = AS_USUAL
) -> tuple[Unit, ...]:
    """The cubes that scenes make over an area, one per sensor and tile.

    Scenes come onto UTM tiles of `tile_m`. A scene stays on its own raster when that is no UTM grid of the sensor's
    resolution (a decimated copy, geographic coordinates) or when its pixels are complex and must not be interpolated.

    Raises
    ------
    NothingFound
        When no scene covers a hundredth of any tile.
    """
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
        reference = _reference(groups.get((REFERENCE_SENSOR, name), []), tile) if tile else None
        units += [
            Unit(sensor, tile, batch, period, reference, _reading(how, batch[0], tile)) for batch in _alike(members)
        ]
    return tuple(units)


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
    centre = inside.centroid.coords[0]
    crs = band.crs if scene.geolocation == "affine" and band.crs else utm_crs(centre[0], centre[1])
    resolution = min(b.gsd_m for b in sensor.bands)
    if scene.geolocation == "affine" and not _on_utm_grid(scene, crs, resolution):
        finest = min(scene.bands.values(), key=lambda b: -(b.shape or (0, 0))[0])
        if finest.shape is None or finest.transform is None or finest.crs is None:
            raise CubeError(
                "the item does not say where its pixels lie", item=scene.id, enough="proj:shape, proj:transform"
            )
        own = native(finest.shape, finest.transform, finest.crs)
        return [(own.id, own)]
    local = footprint.to_crs(crs)
    found: list[tuple[str, Tile | None]] = []
    for tile in tiles(inside, crs, resolution, tile_m=tile_m):
        share = tile.geobox.extent.intersection(local).area / tile.geobox.extent.area
        if share >= LEAST_SHARE:
            found.append((tile.id, tile))
    return found


def _on_utm_grid(scene: Scene, crs: str, resolution_m: float) -> bool:
    """Whether a scene may be warped onto UTM tiles: real numbers, north up, in UTM, as fine as its sensor is."""
    code = int(crs.split(":")[-1]) if crs.split(":")[-1].isdigit() else 0
    if scene.decimated or scene.encoding != "dn" or not (32601 <= code <= 32660 or 32701 <= code <= 32760):
        return False
    transforms = [b.transform for b in scene.bands.values() if b.transform]
    north_up = all(abs(t[1]) + abs(t[3]) < 1e-9 for t in transforms)
    return bool(transforms) and north_up and min(abs(t[0]) for t in transforms) <= 1.5 * resolution_m


def _alike(scenes: Sequence[Scene]) -> list[tuple[Scene, ...]]:
    """Scenes that may share a cube: same quantity, same bands, placed in the same way."""
    kinds: dict[tuple[str, tuple[str, ...], str], list[Scene]] = defaultdict(list)
    for scene in scenes:
        kinds[(scene.quantity, tuple(scene.bands), scene.geolocation)].append(scene)
    return [tuple(kinds[k]) for k in sorted(kinds)]


def _reference(scenes: Sequence[Scene], tile: Tile) -> Scene | None:
    """Of the scenes that cover most of the tile (to a tenth) the one with least cloud, then the earliest."""

    def rank(scene: Scene) -> tuple[float, float, Any, str]:
        covered = Geometry(dict(scene.geometry), "EPSG:4326").intersection(extent).area / extent.area
        return (-round(covered, 1), float(scene.properties.get("eo:cloud_cover", 101.0)), scene.datetime, scene.id)

    extent = tile.geobox.extent.to_crs("EPSG:4326")
    return min((s for s in scenes if s.geolocation == "affine"), key=rank, default=None)


def _reading(how: Reading, scene: Scene, tile: Tile | None) -> Reading:
    """The reading of a unit: only the heights that reach it, flattened only what can be."""
    heights = () if scene.geolocation == "affine" else _dems(how.dems, scene, tile)
    flattened = how.flattened and scene.geolocation == "radar-grid" and tile is not None
    return replace(how, dems=heights, flattened=flattened)


def _dems(dems: Sequence[Raster], scene: Scene, tile: Tile | None) -> tuple[Raster, ...]:
    """The heights that touch a tile, or a scene that stays in radar geometry; what covers most of it comes first."""
    footprint = tile.geobox.extent.to_crs("EPSG:4326") if tile else Geometry(dict(scene.geometry), "EPSG:4326")
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
