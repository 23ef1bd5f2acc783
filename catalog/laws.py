"""What a scene's metadata say of its calibration: constants by parser, law by function, record of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr
from rasterio.rpc import RPC

from catalog.calibrate import backscatter, complex_amplitude, lut, reflectance
from catalog.errors import AssetError, CalibrationError, GeolocationError
from catalog.metadata import gaofen3, rpb, sentinel1_luts, sentinel2, worldview
from catalog.metadata import landsat as landsat_metadata
from catalog.scene import Scene
from catalog.sensors import SENSORS


@dataclass(frozen=True)
class Law:
    """What a scene's metadata say of its calibration."""

    apply: Callable[[xr.DataArray], xr.DataArray]
    """Digital numbers (band, y, x) to the quantity."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able."""
    notes: tuple[str, ...] = ()
    """For the cube."""


def polynomials(scene: Scene) -> RPC:
    """Rational polynomials of a scene: from the first channel's RPB file."""
    role = next((r for r in sorted(scene.metadata) if r.startswith("rpc")), None)
    if role is None:
        raise GeolocationError(
            "a product in radar geometry has no rational polynomials",
            item=scene.id,
            enough="an .rpc or .rpb file beside each channel",
            todo="fetch the product whole",
        )
    return rpb.read_rpb(metadata_file(scene, role))


def optical_law(scene: Scene, bands: list[str]) -> Law:
    if SENSORS[scene.sensor].law == "radiance":
        return _worldview(scene, bands)
    if "mtl" in scene.metadata:
        return _landsat(scene, bands)
    if "product" in scene.metadata or "tile" in scene.metadata:
        return _sentinel2(scene, bands)
    return _by_item(scene, bands)


def _sentinel2(scene: Scene, bands: list[str]) -> Law:
    product = sentinel2.read_product(metadata_file(scene, "product")) if "product" in scene.metadata else None
    tile = sentinel2.read_tile(metadata_file(scene, "tile")) if "tile" in scene.metadata else None
    found = sentinel2.radiometry(product, tile)
    scale = dict.fromkeys(bands, 1 / found.quantification)
    offset = {b: found.offsets.get(b, 0.0) / found.quantification for b in bands}
    provenance = {
        "law": "rho = (DN + offset) / quantification",
        "quantification": found.quantification,
        "offset_dn": {b: found.offsets.get(b, 0.0) for b in bands},
        "source": found.source,
    }
    return Law(lambda dn: reflectance.reflectance_from_dn(dn, scale, offset, scene.quantity), provenance)


def _landsat(scene: Scene, bands: list[str]) -> Law:
    found = landsat_metadata.read_mtl(metadata_file(scene, "mtl"))
    scale, offset = {b: found.mult[b] for b in bands}, {b: found.add[b] for b in bands}
    surface = scene.quantity == "surface_reflectance"
    sun = None if surface else found.sun_elevation_deg
    provenance = {
        "law": "rho = DN * mult + add" + ("" if surface else ", over the sine of the sun's elevation"),
        "mult": scale,
        "add": offset,
        "source": f"REFLECTANCE_MULT and REFLECTANCE_ADD of {Path(scene.metadata['mtl']).name}",
    }
    return Law(
        lambda dn: reflectance.reflectance_from_dn(dn, scale, offset, scene.quantity, sun_elevation_deg=sun), provenance
    )


def _worldview(scene: Scene, bands: list[str]) -> Law:
    found = worldview.read_imd(metadata_file(scene, "imd"))
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
    return Law(apply, provenance)


def _by_item(scene: Scene, bands: list[str]) -> Law:
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
    return Law(lambda dn: reflectance.reflectance_from_dn(dn, scale, offset, scene.quantity), provenance)


def complex_law(scene: Scene) -> Law:
    if "meta" in scene.metadata:
        found = gaofen3.read_meta(metadata_file(scene, "meta"))
        qualify, constant = dict(found.qualify), dict(found.constant_db)
        provenance = {
            "law": "|S|^2 = (I^2 + Q^2) (qualify / 32767)^2 / 10^(K / 10)",
            "qualify": qualify,
            "constant_db": constant,
            "source": Path(scene.metadata["meta"]).name,
        }
        return Law(lambda dn: complex_amplitude.complex_from_gaofen3(dn, qualify, constant), provenance)
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
    return Law(lambda dn: complex_amplitude.complex_from_scale(dn, known), provenance)


def sentinel1_power(scene: Scene, dn: xr.DataArray) -> tuple[xr.DataArray, dict[str, Any]]:
    """Sigma nought of every polarisation, thermal noise taken off, in the product's own geometry."""
    shape = (int(dn.sizes["y"]), int(dn.sizes["x"]))
    tables, noises, files = [], [], []
    for polarisation in [str(b) for b in dn["band"].values]:
        gain = sentinel1_luts.read_calibration(metadata_file(scene, f"calibration-{polarisation}"))
        tables.append(lut.interpolate_lut(gain.lines, gain.pixels, gain.sigma_nought, shape))
        files.append(gain.path.name)
        if f"noise-{polarisation}" in scene.metadata:
            noises.append(_noise(metadata_file(scene, f"noise-{polarisation}"), shape))
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


def metadata_file(scene: Scene, role: str) -> Path:
    """A metadata file of a scene on this machine's disk."""
    href = scene.metadata[role]
    if "://" in href:
        raise AssetError(
            "a product's metadata file lies on the web",
            item=f"{scene.id}: {href}",
            enough="a copy of the product on disk",
            todo="download the product and register its folder",
        )
    return Path(href)
