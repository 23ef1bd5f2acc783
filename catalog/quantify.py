"""One scene of digital numbers -> a physical quantity on a tile, with the record of how it came about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.rpc import RPC

from catalog import read
from catalog.calibrate import backscatter, complex_amplitude, lut, quality, reflectance
from catalog.errors import CalibrationError, GeolocationError
from catalog.geocode import RadarGrid, bistatic_reference_s, geocode, place_by_rpc
from catalog.grid import Tile
from catalog.metadata import gaofen3, rpb, sentinel1, sentinel1_luts, sentinel2, worldview
from catalog.metadata import landsat as landsat_metadata
from catalog.scene import Scene
from catalog.search import Raster
from catalog.sensors import SENSORS


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


@dataclass(frozen=True)
class _Law:
    """What a scene's metadata say of its calibration."""

    apply: Callable[[xr.DataArray], xr.DataArray]
    """Digital numbers (band, y, x) to the quantity."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able."""
    notes: tuple[str, ...] = ()
    """For the cube."""


def look(
    scene: Scene,
    tile: Tile | None,
    *,
    shift_m: tuple[float, float] = (0.0, 0.0),
    engine: str = "odc",
    dem: Raster | None = None,
) -> Look:
    """Calibrate a scene and bring it onto a tile in one resampling; without a tile it stays in radar geometry.

    Parameters
    ----------
    shift_m
        dx, dy in metres to add to the scene's map coordinates, as measured against the reference.
    dem
        Heights above the ellipsoid, for radar and RPC; None places on the ellipsoid and says so.

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
    return _warped(scene, tile.geobox, shift_m, engine)


def match_image(scene: Scene, grid: GeoBox, *, engine: str, dem: Raster | None) -> MatchImage:
    """The band of a scene that shows edges best (red, or the first polarisation), on a grid, unshifted."""
    names = {b.common_name: b.name for b in SENSORS[scene.sensor].bands}
    band = names.get("red") or next(iter(scene.bands))
    if scene.geolocation == "radar-grid":
        found = _geocoded(scene, grid, (0.0, 0.0), dem, bands=[band])
    else:
        found = _warped(scene, grid, (0.0, 0.0), engine, bands=[band])
    values = found.data.values[0]
    if SENSORS[scene.sensor].law == "backscatter":
        values = 10 * np.log10(np.maximum(values, 1e-5))
    usable = np.isfinite(values) & np.isin(found.quality.values, (1, 5))
    return MatchImage(np.where(usable, values, 0.0).astype(np.float32), usable)


def _warped(
    scene: Scene, grid: GeoBox, shift_m: tuple[float, float], engine: str, bands: list[str] | None = None
) -> Look:
    """An affine optical product: read on the grid, then the affine law."""
    names = bands or list(scene.bands)
    law = _optical_law(scene, names)
    own = _same_grid(scene, grid) and shift_m == (0.0, 0.0)
    dn = read.read(scene, grid, names, resampling="nearest" if own else "bilinear", shift_m=shift_m, engine=engine)
    data = law.apply(dn).compute()
    valid = _measured(data)
    return Look(
        data, _quality(scene, grid, valid, shift_m), scene.quantity, _gsd(grid, scene), law.provenance, law.notes
    )


def _geocoded(
    scene: Scene, grid: GeoBox, shift_m: tuple[float, float], dem: Raster | None, bands: list[str] | None = None
) -> Look:
    """A detected product in ground range: calibrated in its own geometry, then placed by orbit and height."""
    names = bands or list(scene.bands)
    dn = read.read_native(scene, names)
    power, provenance = _sentinel1_power(scene, dn)
    height = None if dem is None else _heights(dem, grid)
    placed = geocode(power, _radar_grid(scene), grid, height, shift_m=shift_m)
    valid = _measured(placed)
    notes = () if dem else (str(placed.attrs.get("terrain", "placed on the ellipsoid: no DEM")),)
    provenance = provenance | {"geolocation": "range-Doppler from orbit", "dem": dem.id if dem else None}
    return Look(placed, quality.from_valid(valid), scene.quantity, _gsd(grid, scene), provenance, notes)


def _as_stored(scene: Scene, grid: GeoBox) -> Look:
    """A geocoded product whose pixels must not be interpolated (complex, decibels): kept on its own raster."""
    dn = read.read_native(scene, list(scene.bands))
    if scene.encoding == "complex":
        law = _complex_law(scene)
    else:
        law = _Law(
            lambda db: backscatter.power_from_db(db, scene.quantity), {"law": "10^(dB/10)", "source": "encoding"}
        )
    data = law.apply(dn).compute()
    valid = _measured(data)
    return Look(data, quality.from_valid(valid), scene.quantity, _gsd(grid, scene), law.provenance, law.notes)


def _in_radar_geometry(scene: Scene, dem: Raster | None) -> Look:
    """A complex product: calibrated amplitude with its phase, every pixel with its place."""
    dn = read.read_native(scene, list(scene.bands))
    law = _complex_law(scene)
    data = law.apply(dn).compute()
    valid = _measured(data)
    shape = (int(data.sizes["y"]), int(data.sizes["x"]))
    rpcs = _rpcs(scene)
    longitude, latitude, height = place_by_rpc(rpcs, shape, dem.href if dem else float(rpcs.height_off))
    places = {"longitude": longitude, "latitude": latitude, "height": height}
    notes = () if dem else (f"no DEM: placed at {rpcs.height_off:.0f} m above the ellipsoid",)
    provenance = dict(law.provenance) | {"geolocation": "RPC", "dem": dem.id if dem else None}
    gsd = float(scene.properties.get("gsd") or SENSORS[scene.sensor].bands[0].gsd_m)
    return Look(data, quality.from_valid(valid), scene.quantity, gsd, provenance, (*law.notes, *notes), places)


def _rpcs(scene: Scene) -> RPC:
    """Rational polynomials of a scene: from the first channel's RPB file."""
    role = next((r for r in sorted(scene.metadata) if r.startswith("rpc")), None)
    if role is None:
        raise GeolocationError(
            "a product in radar geometry has no rational polynomials",
            item=scene.id,
            enough="an .rpc or .rpb file beside each channel",
            todo="fetch the product whole",
        )
    return rpb.read_rpb(Path(scene.metadata[role]))


def _optical_law(scene: Scene, bands: list[str]) -> _Law:
    if SENSORS[scene.sensor].law == "radiance":
        return _worldview(scene, bands)
    if "mtl" in scene.metadata:
        return _landsat(scene, bands)
    if "product" in scene.metadata or "tile" in scene.metadata:
        return _sentinel2(scene, bands)
    return _by_item(scene, bands)


def _sentinel2(scene: Scene, bands: list[str]) -> _Law:
    product = sentinel2.read_product(Path(scene.metadata["product"])) if "product" in scene.metadata else None
    tile = sentinel2.read_tile(Path(scene.metadata["tile"])) if "tile" in scene.metadata else None
    found = sentinel2.radiometry(product, tile)
    scale = dict.fromkeys(bands, 1 / found.quantification)
    offset = {b: found.offsets.get(b, 0.0) / found.quantification for b in bands}
    provenance = {
        "law": "rho = (DN + offset) / quantification",
        "quantification": found.quantification,
        "offset_dn": {b: found.offsets.get(b, 0.0) for b in bands},
        "source": found.source,
    }
    return _Law(lambda dn: reflectance.reflectance_from_dn(dn, scale, offset, scene.quantity), provenance)


def _landsat(scene: Scene, bands: list[str]) -> _Law:
    found = landsat_metadata.read_mtl(Path(scene.metadata["mtl"]))
    scale, offset = {b: found.mult[b] for b in bands}, {b: found.add[b] for b in bands}
    surface = scene.quantity == "surface_reflectance"
    sun = None if surface else found.sun_elevation_deg
    provenance = {
        "law": "rho = DN * mult + add" + ("" if surface else ", over the sine of the sun's elevation"),
        "mult": scale,
        "add": offset,
        "source": f"REFLECTANCE_MULT and REFLECTANCE_ADD of {Path(scene.metadata['mtl']).name}",
    }
    return _Law(
        lambda dn: reflectance.reflectance_from_dn(dn, scale, offset, scene.quantity, sun_elevation_deg=sun), provenance
    )


def _worldview(scene: Scene, bands: list[str]) -> _Law:
    found = worldview.read_imd(Path(scene.metadata["imd"]))
    gain = {b.name: b.abs_cal_factor / b.effective_bandwidth_um for b in found.bands}
    irradiance = {b: SENSORS[scene.sensor].band(b).irradiance for b in bands}
    missing = [b for b in bands if b not in gain or irradiance[b] is None]
    if missing:
        raise CalibrationError(
            f"no calibration factor or solar irradiance for {', '.join(missing)}",
            item=scene.id,
            enough="absCalFactor and effectiveBandwidth per band in the IMD",
            todo="fetch the product with its IMD",
        )
    distance = reflectance.earth_sun_distance_au(found.acquired)
    solar = {b: float(v) for b, v in irradiance.items() if v is not None}

    def apply(dn: xr.DataArray) -> xr.DataArray:
        radiance = reflectance.radiance_from_dn(dn, {b: gain[b] for b in bands}, dict.fromkeys(bands, 0.0))
        return reflectance.toa_reflectance_from_radiance(radiance, solar, distance, found.sun_elevation_deg)

    provenance = {
        "law": "L = DN * absCalFactor / effectiveBandwidth; rho = pi L d^2 / (E sin(sun elevation))",
        "gain": {b: gain[b] for b in bands},
        "irradiance": solar,
        "earth_sun_distance_au": distance,
        "sun_elevation_deg": found.sun_elevation_deg,
        "source": Path(scene.metadata["imd"]).name,
    }
    return _Law(apply, provenance)


def _by_item(scene: Scene, bands: list[str]) -> _Law:
    """Scale and offset of the item itself, where no metadata file came with the product."""
    sources = {b: scene.bands[b] for b in bands}
    missing = [b for b, s in sources.items() if s.scale is None]
    if missing:
        raise CalibrationError(
            f"neither a metadata file nor raster:scale says what a digital number of {', '.join(missing)} is worth",
            item=scene.id,
            enough="the product's metadata file among the assets, or raster:scale and raster:offset per band",
            todo="register the product with its metadata",
        )
    scale = {b: float(s.scale or 0.0) for b, s in sources.items()}
    offset = {b: float(s.offset or 0.0) for b, s in sources.items()}
    provenance = {"law": "rho = DN * scale + offset", "scale": scale, "offset": offset, "source": "item: raster:scale"}
    return _Law(lambda dn: reflectance.reflectance_from_dn(dn, scale, offset, scene.quantity), provenance)


def _complex_law(scene: Scene) -> _Law:
    if "meta" in scene.metadata:
        found = gaofen3.read_meta(Path(scene.metadata["meta"]))
        qualify, constant = dict(found.qualify), dict(found.constant_db)
        provenance = {
            "law": "|S|^2 = (I^2 + Q^2) (qualify / 32767)^2 / 10^(K / 10)",
            "qualify": qualify,
            "constant_db": constant,
            "source": Path(scene.metadata["meta"]).name,
        }
        return _Law(lambda dn: complex_amplitude.complex_from_gaofen3(dn, qualify, constant), provenance)
    scale = {b: s.scale for b, s in scene.bands.items()}
    known = {b: float(v) for b, v in scale.items() if v is not None}
    if len(known) != len(scale):
        raise CalibrationError(
            "a complex channel has no scale factor",
            item=f"{scene.id}: {', '.join(b for b in scale if b not in known)}",
            enough="one scale factor per polarisation, in the file's tags or the item's raster:scale",
            todo="fetch the product with its extended metadata",
        )
    provenance = {"law": "S = scale DN", "scale": known, "source": "scale_factor of the file's tags"}
    return _Law(lambda dn: complex_amplitude.complex_from_scale(dn, known), provenance)


def _sentinel1_power(scene: Scene, dn: xr.DataArray) -> tuple[xr.DataArray, dict[str, Any]]:
    """Sigma nought of every polarisation, thermal noise taken off, in the product's own geometry."""
    shape = (int(dn.sizes["y"]), int(dn.sizes["x"]))
    tables, noises, files = [], [], []
    for polarisation in [str(b) for b in dn["band"].values]:
        gain = sentinel1_luts.read_calibration(Path(scene.metadata[f"calibration-{polarisation}"]))
        tables.append(lut.interpolate_lut(gain.lines, gain.pixels, gain.sigma_nought, shape))
        files.append(gain.path.name)
        if f"noise-{polarisation}" in scene.metadata:
            noises.append(_noise(Path(scene.metadata[f"noise-{polarisation}"]), shape))
    noise = xr.concat(noises, dim="band") if len(noises) == len(tables) else None
    power = backscatter.backscatter_from_amplitude(
        dn,
        xr.concat(tables, dim="band").assign_coords(band=dn["band"].values),
        None if noise is None else noise.assign_coords(band=dn["band"].values),
        scene.quantity,
    )
    provenance = {"law": "sigma0 = (DN^2 - noise) / A^2", "noise_removed": noise is not None, "source": files}
    return power, provenance


def _noise(path: Path, shape: tuple[int, int]) -> xr.DataArray:
    table = sentinel1_luts.read_noise(path)
    blocks = [
        lut.AzimuthBlock(v.first_line, v.last_line, v.first_pixel, v.last_pixel, v.lines, v.lut)
        for v in table.azimuth_vectors
    ]
    rows = table.range_vectors
    return lut.noise_power([v.line for v in rows], [v.pixels for v in rows], [v.lut for v in rows], blocks, shape)


def _radar_grid(scene: Scene) -> RadarGrid:
    role = next(r for r in sorted(scene.metadata) if r.startswith("annotation-"))
    note = sentinel1.read_annotation(Path(scene.metadata[role]))
    first = (np.datetime64(note.start.replace(tzinfo=None), "ns") - note.reference_time) / np.timedelta64(1, "s")
    grid = RadarGrid(
        orbit_time_s=note.orbit_time_s,
        orbit_position_m=note.orbit_position_m,
        orbit_velocity_m_s=note.orbit_velocity_m_s,
        first_line_s=float(first),
        line_interval_s=note.azimuth_time_interval_s,
        conversion_time_s=np.array([c.azimuth_time_s for c in note.conversions]),
        conversion_origin_m=np.array([c.sr0_m for c in note.conversions]),
        conversion_coefficients=np.array([c.srgr for c in note.conversions]),
        range_pixel_spacing_m=note.range_pixel_spacing_m,
        lines=note.lines,
        samples=note.samples,
    )
    points = note.geolocation
    bulk_s = bistatic_reference_s(
        grid, points.line.ravel(), points.azimuth_time_s.ravel(), points.slant_range_time_s.ravel()
    )
    return replace(grid, bistatic_reference_s=bulk_s)


def _heights(dem: Raster, grid: GeoBox) -> xr.DataArray:
    height = read.read_raster(dem.href, grid, resampling="bilinear")
    return height.isel(band=0, drop=True) if "band" in height.dims else height


def _quality(scene: Scene, grid: GeoBox, valid: xr.DataArray, shift_m: tuple[float, float]) -> xr.DataArray:
    if "SCL" in scene.quality:
        return quality.from_scl(read.read_quality(scene, grid, "SCL", shift_m=shift_m), valid)
    if "QA_PIXEL" in scene.quality:
        return quality.from_qa_pixel(read.read_quality(scene, grid, "QA_PIXEL", shift_m=shift_m), valid)
    return quality.from_valid(valid)


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
