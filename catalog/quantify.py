"""One scene of digital numbers -> a physical quantity on a tile, with the record of how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.rpc import RPC

from catalog import laws, read
from catalog.calibrate import quality
from catalog.calibrate.constants import calibrate, provenance
from catalog.calibrate.offset import Policy
from catalog.formats import geometry_of
from catalog.geocode import geocode, place_by_rpc
from catalog.grid import Tile
from catalog.qualify import quality_of
from catalog.scene import Scene
from catalog.search import Raster
from catalog.sensors import SENSORS, USABLE


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
    dem: Raster | None = None,
    offset_policy: Policy = "error",
) -> Look:
    """Calibrate a scene and bring it onto a tile in one resampling; without a tile it stays in radar geometry.

    Parameters
    ----------
    shift_m
        dx, dy in metres to add to the scene's map coordinates, as measured against the reference.
    dem
        Heights above the ellipsoid, for radar and RPC; None places on the ellipsoid and says so.
    offset_policy
        What to do where metadata and pixels contradict each other, as in `laws.constants_of`.

    Raises
    ------
    CatalogError
        Naming the scene and the file or field at fault.
    """
    if tile is None:
        return _in_radar_geometry(scene, dem)
    if scene.geolocation == "radar-grid":
        return _geocoded(scene, tile.geobox, shift_m, dem)
    if scene.encoding in ("complex", "db"):
        return _as_stored(scene, tile.geobox)
    return _warped(scene, tile.geobox, shift_m, engine, offset_policy=offset_policy)


def match_image(
    scene: Scene, grid: GeoBox, *, engine: str, dem: Raster | None, offset_policy: Policy = "error"
) -> MatchImage:
    """The band of a scene that shows edges best (red, or the first polarisation), on a grid, unshifted."""
    names = {b.common_name: b.name for b in SENSORS[scene.sensor].bands}
    band = names.get("red") or next(iter(scene.bands))
    if scene.geolocation == "radar-grid":
        found = _geocoded(scene, grid, (0.0, 0.0), dem, bands=[band])
    else:
        found = _warped(scene, grid, (0.0, 0.0), engine, bands=[band], offset_policy=offset_policy)
    values = found.data.values[0]
    if SENSORS[scene.sensor].law == "backscatter":
        values = 10 * np.log10(np.maximum(values, 1e-5))
    usable = np.isfinite(values) & np.isin(found.quality.values, [int(q) for q in USABLE])
    return MatchImage(np.where(usable, values, 0.0).astype(np.float32), usable)


def _warped(
    scene: Scene,
    grid: GeoBox,
    shift_m: tuple[float, float],
    engine: str,
    bands: list[str] | None = None,
    offset_policy: Policy = "error",
) -> Look:
    """An affine optical product: read on the grid, then the affine law."""
    names = bands or list(scene.bands)
    constants = laws.constants_of(scene, names, offset_policy)
    own = _same_grid(scene, grid) and shift_m == (0.0, 0.0)
    dn = read.read(scene, grid, names, resampling="nearest" if own else "bilinear", shift_m=shift_m, engine=engine)
    data = calibrate(dn, constants, scene.quantity).compute()
    valid = _measured(data)
    seen = quality_of(scene, grid, valid, shift_m)
    notes = () if scene.quality else (f"{scene.id} ships no quality layer: clouds count as clear",)
    return Look(data, seen, scene.quantity, _gsd(grid, scene), provenance(constants), notes)


def _geocoded(
    scene: Scene, grid: GeoBox, shift_m: tuple[float, float], dem: Raster | None, bands: list[str] | None = None
) -> Look:
    """A detected product in ground range: calibrated in its own geometry, then placed by orbit and height."""
    names = bands or list(scene.bands)
    dn = read.read_native(scene, names)
    constants = laws.constants_of(scene, names)
    power = calibrate(dn, constants, scene.quantity)
    height = None if dem is None else _heights(dem, grid)
    placed = geocode(power, geometry_of(scene), grid, height, shift_m=shift_m)
    valid = _measured(placed)
    notes = () if dem else (str(placed.attrs.get("terrain", "placed on the ellipsoid: no DEM")),)
    record = provenance(constants) | {"geolocation": "range-Doppler from orbit", "dem": dem.id if dem else None}
    return Look(placed, quality.from_valid(valid), scene.quantity, _gsd(grid, scene), record, notes)


def _as_stored(scene: Scene, grid: GeoBox) -> Look:
    """A geocoded product whose pixels must not be interpolated (complex, decibels): kept on its own raster."""
    dn = read.read_native(scene, list(scene.bands))
    constants = laws.constants_of(scene, list(scene.bands))
    data = calibrate(dn, constants, scene.quantity).compute()
    valid = _measured(data)
    return Look(data, quality.from_valid(valid), scene.quantity, _gsd(grid, scene), provenance(constants))


def _in_radar_geometry(scene: Scene, dem: Raster | None) -> Look:
    """A complex product: calibrated amplitude with its phase, every pixel with its place."""
    dn = read.read_native(scene, list(scene.bands))
    constants = laws.constants_of(scene, list(scene.bands))
    data = calibrate(dn, constants, scene.quantity).compute()
    valid = _measured(data)
    shape = (int(data.sizes["y"]), int(data.sizes["x"]))
    rpcs: RPC = geometry_of(scene)
    longitude, latitude, height = place_by_rpc(rpcs, shape, dem.href if dem else float(rpcs.height_off))
    places = {"longitude": longitude, "latitude": latitude, "height": height}
    notes = () if dem else (f"no DEM: placed at {rpcs.height_off:.0f} m above the ellipsoid",)
    record = provenance(constants) | {"geolocation": "RPC", "dem": dem.id if dem else None}
    gsd = float(scene.properties.get("gsd") or SENSORS[scene.sensor].bands[0].gsd_m)
    return Look(data, quality.from_valid(valid), scene.quantity, gsd, record, notes, places)


def _heights(dem: Raster, grid: GeoBox) -> xr.DataArray:
    height = read.read_raster(dem.href, grid, resampling="bilinear")
    return height.isel(band=0, drop=True) if "band" in height.dims else height


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
