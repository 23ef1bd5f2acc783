"""One scene of digital numbers -> a physical quantity on a tile, with the record of how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.rpc import RPC

from catalog import laws, read
from catalog.calibrate import quality
from catalog.calibrate.constants import calibrate, provenance
from catalog.errors import GeolocationError
from catalog.formats import geometry_of
from catalog.geocode import (
    Dem,
    RadarGrid,
    ellipsoidal_heights,
    flatten,
    geocode,
    geocode_by_rpc,
    incidence_angle,
    place_by_orbit,
    place_by_rpc,
    resample_map,
    terrain_on,
)
from catalog.geocode.rpc_forward import moved_by_height_m
from catalog.geocode.terrain import LAYERS
from catalog.grid import Tile
from catalog.qualify import quality_of
from catalog.scene import Scene
from catalog.search import Raster
from catalog.sensors import SENSORS, USABLE

CHUNKS = {"y": 2048, "x": 2048}
"""Of images in their own geometry: only the part under a tile is read."""


@dataclass(frozen=True)
class Look:
    """One scene as a cube keeps it."""

    data: xr.DataArray
    """(band, y, x) float32 or complex64 in the sensor's units, NaN where nothing was measured."""
    quality: xr.DataArray
    """(y, x) uint8, `catalog.sensors.Quality`."""
    quantity: str
    """What the data are, as in surface_reflectance."""
    gsd_m: float
    """Pixel size in metres."""
    provenance: Mapping[str, Any]
    """Which constants from which field made the quantity."""
    notes: tuple[str, ...] = ()
    """What a user should know."""
    geolocation: Mapping[str, xr.DataArray] | None = None
    """Longitude, latitude and height of every pixel, in radar geometry only."""
    layers: Mapping[str, xr.DataArray] = field(default_factory=dict)
    """(y, x) how the radar saw the terrain, where a DEM is known: incidence_angle, local_incidence_angle (degrees),
    layover, shadow (0 or 1)."""


@dataclass(frozen=True)
class _Heights:
    """What is known of the terrain, and what is wanted of it."""

    dems: tuple[Raster, ...]
    """In the order in which they decide."""
    flattened: bool = False
    """Whether detected radar is flattened to gamma nought."""
    layers: bool = True
    """Whether angles, layover and shadow are wanted."""


@dataclass(frozen=True)
class MatchImage:
    """One band of a scene for measuring shifts."""

    data: np.ndarray
    """(y, x) float32; radar as decibels; 0 where unusable."""
    usable: np.ndarray
    """(y, x) bool."""


def look(
    scene: Scene,
    tile: Tile | None,
    *,
    shift_m: tuple[float, float] = (0.0, 0.0),
    engine: str = "odc",
    dems: Sequence[Raster] = (),
    flattened: bool = False,
) -> Look:
    """Calibrate a scene and bring it onto a tile in one resampling; without a tile it stays in radar geometry.

    Parameters
    ----------
    shift_m
        dx, dy in metres to add to the scene's map coordinates, as measured against the reference.
    dems
        Heights, for radar and RPC, the first that knows a place deciding it; none places on the ellipsoid (by RPC at
        its height offset) and says so, with the displacement to expect.
    flattened
        Detected radar becomes terrain-flattened gamma nought.

    Raises
    ------
    CatalogError
        Naming the scene and the file or field at fault.
    """
    if tile is None:
        return _in_radar_geometry(scene, dems)
    if scene.encoding in ("complex", "db"):
        return _as_stored(scene, tile.geobox)
    return _on_grid(scene, tile.geobox, shift_m, engine, _Heights(tuple(dems), flattened))


def layers_of(looks: Sequence[Look]) -> dict[str, xr.DataArray]:
    """The layers that every scene has, (time, y, x)."""
    names = [n for n in looks[0].layers if all(n in look.layers for look in looks)]
    stacked = {n: np.stack([look.layers[n].values for look in looks]) for n in names}
    return {n: xr.DataArray(v, dims=("time", "y", "x"), attrs=looks[0].layers[n].attrs) for n, v in stacked.items()}


def match_image(scene: Scene, grid: GeoBox, *, engine: str, dems: Sequence[Raster] = ()) -> MatchImage:
    """The band of a scene that shows edges best (red, or the first polarisation), on a grid, unshifted."""
    names = {b.common_name: b.name for b in SENSORS[scene.sensor].bands}
    band = names.get("red") or next(iter(scene.bands))
    found = _on_grid(scene, grid, (0.0, 0.0), engine, _Heights(tuple(dems), layers=False), [band])
    values = found.data.values[0]
    if SENSORS[scene.sensor].law == "backscatter":
        values = 10 * np.log10(np.maximum(values, 1e-5))
    usable = np.isfinite(values) & np.isin(found.quality.values, [int(q) for q in USABLE])
    return MatchImage(np.where(usable, values, 0.0).astype(np.float32), usable)


def _on_grid(
    scene: Scene,
    grid: GeoBox,
    shift_m: tuple[float, float],
    engine: str,
    heights: _Heights,
    bands: list[str] | None = None,
) -> Look:
    """Real numbers onto a map grid, by what places the scene's pixels."""
    names = bands or list(scene.bands)
    if scene.geolocation == "radar-grid":
        return _geocoded(scene, grid, shift_m, heights, names)
    if scene.geolocation == "rpc":
        return _by_rpc(scene, grid, shift_m, heights, names)
    if SENSORS[scene.sensor].law == "backscatter":
        return _power_on_map(scene, grid, shift_m, names)
    return _warped(scene, grid, shift_m, engine, names)


def _warped(scene: Scene, grid: GeoBox, shift_m: tuple[float, float], engine: str, names: list[str]) -> Look:
    """An affine optical product: read on the grid, then the affine law, which commutes with resampling."""
    constants = laws.constants_of(scene, names)
    own = _same_grid(scene, grid) and shift_m == (0.0, 0.0)
    dn = read.read(scene, grid, names, resampling="nearest" if own else "bilinear", shift_m=shift_m, engine=engine)
    data = calibrate(dn, constants, scene.quantity).compute()
    valid = _measured(data)
    seen = quality_of(scene, grid, valid, shift_m)
    notes = () if scene.quality else (f"{scene.id} ships no quality layer: clouds count as clear",)
    return Look(data, seen, scene.quantity, _gsd(grid, scene), provenance(constants), notes)


def _power_on_map(scene: Scene, grid: GeoBox, shift_m: tuple[float, float], names: list[str]) -> Look:
    """Geocoded backscatter: calibrated on its own raster, then resampled, because amplitudes have no mean power."""
    constants = laws.constants_of(scene, names)
    power = calibrate(read.read_native(scene, names, chunks=CHUNKS), constants, scene.quantity)
    where = read.read_native(scene, names[:1], chunks=CHUNKS).attrs
    placed = resample_map(power.assign_attrs({k: where.get(k) for k in ("transform", "crs")}), grid, shift_m=shift_m)
    seen = quality_of(scene, grid, _measured(placed), shift_m)
    notes = () if scene.quality else (f"{scene.id} ships no quality layer: layover and shadow count as clear",)
    return Look(placed, seen, scene.quantity, _gsd(grid, scene), provenance(constants), notes)


def _geocoded(scene: Scene, grid: GeoBox, shift_m: tuple[float, float], heights: _Heights, names: list[str]) -> Look:
    """A detected product in ground range: calibrated in its own geometry, then placed by orbit and height."""
    constants = laws.constants_of(scene, names)
    power = calibrate(read.read_native(scene, names, chunks=CHUNKS), constants, scene.quantity)
    model: RadarGrid = geometry_of(scene)
    record = provenance(constants) | {"geolocation": "range-Doppler from orbit"}
    if not heights.dems or grid.crs is None or not grid.crs.projected or not (heights.layers or heights.flattened):
        _refuse_flattening(scene, heights)
        height = ellipsoidal_heights(_dems(heights.dems), grid) if heights.dems else None
        terrain = xr.Dataset()
    else:
        terrain = terrain_on(model, grid, _dems(heights.dems), area=heights.flattened)
        height = terrain["height"]
    placed = geocode(power, model, grid, height, shift_m=shift_m)
    quantity = scene.quantity
    if heights.flattened:
        placed, quantity = flatten(placed, terrain["area"], terrain["incidence_angle"]), "gamma_nought"
        record["terrain_flattened"] = "sigma nought over the area lit (Small 2011), masked below 5 % of level ground"
    layers = {name: terrain[name] for name in LAYERS if name in terrain}
    for name in ("layover", "shadow"):
        if name in layers:
            record[f"{name}_share"] = round(float(layers[name].mean()), 6)
    record |= _heights_record(heights.dems, height, placed)
    seen = quality.from_valid(_measured(placed))
    notes = _height_notes(height, placed)
    return Look(placed, seen, quantity, _gsd(grid, scene), record, notes, layers=layers)


def _refuse_flattening(scene: Scene, heights: _Heights) -> None:
    if heights.flattened:
        raise GeolocationError(
            "power cannot be flattened without terrain",
            item=scene.id,
            enough="a DEM over the tile, and a tile in metres",
            todo="register a DEM (--dem), or ask for sigma nought",
        )


def _by_rpc(scene: Scene, grid: GeoBox, shift_m: tuple[float, float], heights: _Heights, names: list[str]) -> Look:
    """An optical product in image geometry: calibrated there, then placed by rational polynomials and height."""
    constants = laws.constants_of(scene, names)
    values = calibrate(read.read_native(scene, names, chunks=CHUNKS), constants, scene.quantity)
    height = ellipsoidal_heights(_dems(heights.dems), grid) if heights.dems else None
    placed = geocode_by_rpc(values, geometry_of(scene), grid, height, shift_m=shift_m)
    record = provenance(constants) | {"geolocation": "RPC", **_heights_record(heights.dems, height, placed)}
    ships = f"quality layers in image geometry are not read ({', '.join(scene.quality)})" if scene.quality else ""
    notes = (*_height_notes(height, placed), f"{scene.id} {ships or 'ships no quality layer'}: clouds count as clear")
    seen = quality.from_valid(_measured(placed))
    return Look(placed, seen, scene.quantity, _gsd(grid, scene), record, notes)


def _as_stored(scene: Scene, grid: GeoBox) -> Look:
    """A geocoded product whose pixels must not be interpolated (complex, decibels): kept on its own raster."""
    dn = read.read_native(scene, list(scene.bands))
    constants = laws.constants_of(scene, list(scene.bands))
    data = calibrate(dn, constants, scene.quantity).compute()
    valid = _measured(data)
    return Look(data, quality.from_valid(valid), scene.quantity, _gsd(grid, scene), provenance(constants))


def _in_radar_geometry(scene: Scene, dems: Sequence[Raster]) -> Look:
    """A complex product: calibrated amplitude with its phase, every pixel with its place."""
    dn = read.read_native(scene, list(scene.bands))
    constants = laws.constants_of(scene, list(scene.bands))
    data = calibrate(dn, constants, scene.quantity).compute()
    valid = _measured(data)
    shape = (int(data.sizes["y"]), int(data.sizes["x"]))
    model = geometry_of(scene)
    if isinstance(model, RPC):
        by, level_m, moved_m = "RPC", float(model.height_off), moved_by_height_m(model, 100.0)
        found = place_by_rpc(model, shape, _dems(dems) or level_m)
    else:
        by, level_m = "range-Doppler from orbit", 0.0
        found = place_by_orbit(model, shape, _dems(dems) or level_m)
        longitude, latitude = (v.values[shape[0] // 2 :][:1, :1] for v in found[:2])
        angle_deg = incidence_angle(model, longitude, latitude, level_m)[0, 0]
        moved_m = 100 / float(np.tan(np.radians(angle_deg)))
    places = dict(zip(("longitude", "latitude", "height"), found, strict=True))
    told = f"no DEM: placed at {level_m:.0f} m above the ellipsoid; ground 100 m above it lies {moved_m:.0f} m off"
    notes = () if dems else (told,)
    record = provenance(constants) | {"geolocation": by, "dem": [d.id for d in dems] or None}
    record["heights"] = told if not dems else "metres above the ellipsoid"
    gsd = float(scene.properties.get("gsd") or SENSORS[scene.sensor].bands[0].gsd_m)
    return Look(data, quality.from_valid(valid), scene.quantity, gsd, record, notes, places)


def _dems(dems: Sequence[Raster]) -> list[Dem]:
    return [Dem(d.href, d.height_reference, d.geoid, d.id) for d in dems]


def _height_notes(height: xr.DataArray | None, placed: xr.DataArray) -> tuple[str, ...]:
    if height is None:
        return (str(placed.attrs.get("terrain", "placed on the ellipsoid: no DEM")),)
    unknown = float(height.isnull().mean())
    return (f"no DEM reaches {unknown:.1%} of the tile: no data there",) if unknown else ()


def _heights_record(dems: Sequence[Raster], height: xr.DataArray | None, placed: xr.DataArray) -> dict[str, Any]:
    """Which heights placed the pixels, as the cube and its item keep it."""
    if height is None:
        return {"dem": None, "heights": str(placed.attrs.get("terrain", ""))}
    references = {d.id: f"{d.height_reference}{f' by {d.geoid}' if d.geoid else ''}" for d in dems}
    return {"dem": [d.id for d in dems], "height_reference": references, "heights": "metres above the ellipsoid"}


def _measured(data: xr.DataArray) -> xr.DataArray:
    """(y, x) bool: every band holds a number."""
    return data.notnull().all("band")


def _same_grid(scene: Scene, grid: GeoBox) -> bool:
    """Whether every band's raster is the grid itself, so that reading interpolates nothing."""
    wanted = tuple(grid.affine)[:6]
    return all(
        b.shape == tuple(grid.shape)
        and b.transform is not None
        and max(abs(p - q) for p, q in zip(b.transform, wanted, strict=True)) < 1e-6
        for b in scene.bands.values()
    )


def _gsd(grid: GeoBox, scene: Scene) -> float:
    if grid.crs is not None and grid.crs.projected:
        a = grid.affine
        return round(float(np.sqrt(abs(a.a * a.e - a.b * a.d))), 6)
    return float(scene.properties.get("gsd") or SENSORS[scene.sensor].bands[0].gsd_m)
