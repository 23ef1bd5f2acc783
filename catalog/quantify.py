"""One scene of digital numbers -> a physical quantity on a tile, with the record of how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.rpc import RPC

from catalog import laws, read
from catalog.calibrate import quality
from catalog.calibrate.constants import calibrate, provenance
from catalog.calibrate.offset import Policy
from catalog.displacement import Move
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
from catalog.qualify import DILATE_M, edges_of, of_edges, quality_of, unlayered, with_saturation
from catalog.scene import Scene
from catalog.search import Raster
from catalog.sensors import SENSORS, USABLE

CHUNKS = {"y": 1024, "x": 1024}
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
class Reading:
    """How scenes are read: all but the scene and the place that determines its pixels."""

    engine: str = "odc"
    """Which library reads and warps: odc or stackstac."""
    dems: tuple[Raster, ...] = ()
    """Heights, for radar and RPC, the first that knows a place deciding it; none places on the ellipsoid (by RPC at its
    height offset) and says so, with the displacement to expect."""
    flattened: bool = False
    """Whether detected radar becomes terrain-flattened gamma nought."""
    offset_policy: Policy = "error"
    """What to do where metadata and pixels contradict each other, as in `laws.constants_of`."""
    dilate_m: float = DILATE_M
    """Metres by which cloud and shadow of the scene's quality layers grow."""
    layers: bool = True
    """Whether angles, layover and shadow are wanted."""


@dataclass(frozen=True)
class MatchImage:
    """One band of a scene for measuring shifts."""

    data: np.ndarray
    """(y, x) float32; radar as decibels; 0 where unusable."""
    usable: np.ndarray
    """(y, x) bool."""


AS_USUAL = Reading()


def look(scene: Scene, tile: Tile | None, how: Reading = AS_USUAL, *, shift_m: Move = (0.0, 0.0)) -> Look:
    """Calibrate a scene and bring it onto a tile in one resampling; without a tile it stays in radar geometry.

    Parameters
    ----------
    shift_m
        dx, dy in metres to add to the scene's map coordinates, as measured against the reference.

    Raises
    ------
    CatalogError
        Naming the scene and the file or field at fault.
    """
    if tile is None:
        return _in_radar_geometry(scene, how)
    if scene.encoding in ("complex", "db"):
        return _as_stored(scene, tile.geobox, how)
    return _on_grid(scene, tile.geobox, shift_m, how)


def match_image(scene: Scene, grid: GeoBox, how: Reading) -> MatchImage:
    """The band of a scene that shows edges best (red, or the first polarisation), on a grid, unshifted."""
    names = {b.common_name: b.name for b in SENSORS[scene.sensor].bands}
    band = names.get("red") or next(iter(scene.bands))
    found = _on_grid(scene, grid, (0.0, 0.0), replace(how, layers=False, flattened=False), [band])
    values = found.data.values[0]
    if scene.quantity.endswith("_nought"):
        values = 10 * np.log10(np.maximum(values, 1e-5))
    usable = np.isfinite(values) & np.isin(found.quality.values, [int(q) for q in USABLE])
    return MatchImage(np.where(usable, values, 0.0).astype(np.float32), usable)


def _on_grid(scene: Scene, grid: GeoBox, shift_m: Move, how: Reading, bands: list[str] | None = None) -> Look:
    """Real numbers onto a map grid, by what places the scene's pixels."""
    names = bands or list(scene.bands)
    if scene.geolocation == "radar-grid":
        return _geocoded(scene, grid, shift_m, how, names)
    if scene.geolocation == "rpc":
        return _by_rpc(scene, grid, shift_m, how, names)
    if scene.quantity.endswith("_nought"):
        return _power_on_map(scene, grid, shift_m, how, names)
    return _warped(scene, grid, shift_m, how, names)


def _warped(scene: Scene, grid: GeoBox, shift_m: Move, how: Reading, names: list[str]) -> Look:
    """An affine optical product: read on the grid, then the affine law, which commutes with resampling."""
    constants = laws.constants_of(scene, names, how.offset_policy)
    dn = read.read(scene, grid, names, shift_m=shift_m, engine=how.engine)
    data = calibrate(dn, constants, scene.quantity).compute()
    seen = quality_of(scene, grid, _measured(data), shift_m, dilate_m=how.dilate_m)
    notes = tuple(seen.attrs["notes"])
    seen = with_saturation(seen, scene, dn, grid, shift_m, how.engine)
    return Look(data, seen, scene.quantity, _gsd(grid, scene), provenance(constants), notes)


def _power_on_map(scene: Scene, grid: GeoBox, shift_m: Move, how: Reading, names: list[str]) -> Look:
    """Geocoded backscatter: calibrated on its own raster, then resampled, because amplitudes have no mean power."""
    constants = laws.constants_of(scene, names)
    dn = read.read_native(scene, names, chunks=CHUNKS)
    power = calibrate(dn, constants, scene.quantity)
    where = {k: dn.attrs.get(k) for k in ("transform", "crs")}
    placed = resample_map(power.assign_attrs(where), grid, shift_m=shift_m)
    seen = quality_of(scene, grid, _measured(placed), shift_m, dilate_m=how.dilate_m)
    return Look(placed, seen, scene.quantity, _gsd(grid, scene), provenance(constants), seen.attrs["notes"])


def _geocoded(scene: Scene, grid: GeoBox, shift_m: Move, how: Reading, names: list[str]) -> Look:
    """A detected product in ground range: calibrated in its own geometry, then placed by orbit and height."""
    in_metres = grid.crs is not None and grid.crs.projected
    _refuse_flattening(scene, how, in_metres)
    constants = laws.constants_of(scene, names)
    dn = read.read_native(scene, names, chunks=CHUNKS)
    edges = edges_of(scene, dn, constants)
    power = calibrate(dn, constants, scene.quantity).where(~edges.border)
    model: RadarGrid = geometry_of(scene)
    terrain, height = xr.Dataset(), None
    if how.dems and in_metres and (how.layers or how.flattened):
        terrain = terrain_on(model, grid, _dems(how.dems), area=how.flattened)
        height = terrain["height"]
    elif how.dems:
        height = ellipsoidal_heights(_dems(how.dems), grid)
    both = xr.concat([power, edges.flag.expand_dims(band=["flag"])], dim="band").assign_attrs(power.attrs)
    placed = geocode(both, model, grid, height, shift_m=shift_m)
    data, quantity = placed.sel(band=names).rename(power.name), scene.quantity
    record = provenance(constants) | {"geolocation": "range-Doppler from orbit"}
    if how.flattened:
        data, quantity = flatten(data, terrain["area"], terrain["incidence_angle"]), "gamma_nought"
        record["terrain_flattened"] = "sigma nought over the area lit (Small 2011), masked below 5 % of level ground"
    layers = {name: terrain[name] for name in LAYERS if name in terrain}
    shares = {f"{n}_share": round(float(layers[n].mean()), 6) for n in ("layover", "shadow") if n in layers}
    record |= shares | _heights_record(how.dems, height, placed)
    seen = of_edges(scene, _measured(data), placed.sel(band="flag", drop=True), edges.note)
    notes = (*_height_notes(height, placed), *seen.attrs["notes"])
    return Look(data, seen, quantity, _gsd(grid, scene), record, notes, layers=layers)


def _refuse_flattening(scene: Scene, how: Reading, in_metres: bool) -> None:
    if how.flattened and not (how.dems and in_metres):
        raise GeolocationError(
            "power cannot be flattened without terrain",
            item=scene.id,
            enough="a DEM over the tile, and a tile in metres",
            todo="register a DEM (--dem), or ask for sigma nought",
        )


def _by_rpc(scene: Scene, grid: GeoBox, shift_m: Move, how: Reading, names: list[str]) -> Look:
    """An optical product in image geometry: calibrated there, then placed by rational polynomials and height."""
    constants = laws.constants_of(scene, names)
    values = calibrate(read.read_native(scene, names, chunks=CHUNKS), constants, scene.quantity)
    height = ellipsoidal_heights(_dems(how.dems), grid) if how.dems else None
    placed = geocode_by_rpc(values, geometry_of(scene), grid, height, shift_m=shift_m)
    record = provenance(constants) | {"geolocation": "RPC", **_heights_record(how.dems, height, placed)}
    ships = f"quality layers in image geometry are not read ({', '.join(scene.quality)})" if scene.quality else ""
    notes = (*_height_notes(height, placed), f"{scene.id} {ships or 'ships no quality layer'}: clouds count as clear")
    seen = quality.from_valid(_measured(placed))
    return Look(placed, seen, scene.quantity, _gsd(grid, scene), record, notes)


def _as_stored(scene: Scene, grid: GeoBox, how: Reading) -> Look:
    """A geocoded product whose pixels must not be interpolated (complex, decibels): kept on its own raster."""
    dn = read.read_native(scene, list(scene.bands))
    constants = laws.constants_of(scene, list(scene.bands), how.offset_policy)
    data = calibrate(dn, constants, scene.quantity).compute()
    seen = unlayered(scene, _measured(data))
    return Look(data, seen, scene.quantity, _gsd(grid, scene), provenance(constants), seen.attrs["notes"])


def _in_radar_geometry(scene: Scene, how: Reading) -> Look:
    """A complex product: calibrated amplitude with its phase, every pixel with its place."""
    dn = read.read_native(scene, list(scene.bands))
    constants = laws.constants_of(scene, list(scene.bands))
    data = calibrate(dn, constants, scene.quantity).compute()
    seen = unlayered(scene, _measured(data))
    shape = (int(data.sizes["y"]), int(data.sizes["x"]))
    model, dems = geometry_of(scene), how.dems
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
    return Look(data, seen, scene.quantity, gsd, record, (*notes, *seen.attrs["notes"]), places)


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


def _gsd(grid: GeoBox, scene: Scene) -> float:
    if grid.crs is not None and grid.crs.projected:
        a = grid.affine
        return round(float(np.sqrt(abs(a.a * a.e - a.b * a.d))), 6)
    return float(scene.properties.get("gsd") or SENSORS[scene.sensor].bands[0].gsd_m)
