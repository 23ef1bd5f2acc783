"""Gaofen-2 PMS L1A products: radiance counts as the camera saw them, with XML and rational polynomials."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pyproj import Transformer
from scipy.ndimage import gaussian_filter, map_coordinates

from catalog.sandbox import optics, rpc, specimen
from catalog.sandbox.files import write_radar, write_text
from catalog.sandbox.optics import Sun
from catalog.sandbox.regions import FINE_M
from catalog.sandbox.specimen import Day, Doubles, Specimen, counted, keep
from catalog.sandbox.spectra import BANDS

CHANNELS = {"B": "B02", "G": "B03", "R": "B04", "N": "B08"}
"""PMS band to the band of the spectra that stands for it."""
WHEN = datetime(2017, 8, 12, 10, 24, 51, tzinfo=UTC)
"""China standard time is 8 hours later."""
GAIN = {"B": 0.1193, "G": 0.1530, "R": 0.1424, "N": 0.1569}
"""W m-2 sr-1 um-1 per count of PMS1, announced by CRESDA for 2017; the bias is 0."""
IRRADIANCE = {"B": 1941.53, "G": 1854.15, "R": 1541.48, "N": 1086.43}
"""W m-2 um-1 at one astronomical unit of PMS1."""
PIXEL_M = 3.24
MOST = 1023
"""Ten bits."""
TURN_DEG = -13.0
PARALLAX = (0.11, -0.04)
"""Metres by which a metre of height moves the ground that a pixel shows, east and north."""


@dataclass(frozen=True)
class Camera:
    """A pushbroom image as a turned grid whose content height displaces."""

    x_m: float
    """Easting of the image's middle at the reference height."""
    y_m: float
    """Northing."""
    height_m: float
    """Reference height."""
    side: int
    """Lines and samples."""

    def ground(self, line: Doubles, sample: Doubles, height_m: Doubles | float) -> tuple[Doubles, Doubles]:
        """Where a pixel sees the ground of a height."""
        c, s = np.cos(np.radians(TURN_DEG)), np.sin(np.radians(TURN_DEG))
        right, down = ((v - (self.side - 1) / 2) * PIXEL_M for v in (sample, line))
        rise = np.asarray(height_m) - self.height_m
        x = self.x_m + c * right + s * down + PARALLAX[0] * rise
        return x, self.y_m + s * right - c * down + PARALLAX[1] * rise


def write(root: Path, day: Day) -> Specimen:
    """Write one product of four bands.

    DN = (L - bias) / gain with L = rho E cos(zenith) / (pi d^2). Source: CRESDA, absolute radiometric calibration
    coefficients of Chinese land observation satellites, yearly.
    """
    relief = day.relief
    middle = day.middle
    lon, lat = float(relief.longitude_deg[middle]), float(relief.latitude_deg[middle])
    at = optics.sun(WHEN, lon, lat)
    half, region = day.land.size_m / 2, day.land.region
    camera = Camera(region.west_m + half, region.south_m + half, float(relief.height_m[middle]), _side(day))
    rho = seen(day, camera)
    stem = f"GF2_PMS1_E{lon:.1f}_N{lat:.1f}_{WHEN:%Y%m%d}_L1A0002537189"
    folder = root / "products" / stem
    zenith = round(at.zenith_deg, 4)
    layers, worth = [], {}
    for name, layer in zip(CHANNELS, rho, strict=True):
        per_rho = IRRADIANCE[name] * np.cos(np.radians(zenith)) / (np.pi * at.distance_au**2)
        layers.append(counted(layer * per_rho, GAIN[name], most=MOST))
        worth[name] = layers[-1].astype(np.float64) * GAIN[name] / per_rho
    write_radar(folder / f"{stem}-MSS1.tiff", np.stack(layers))
    write_text(folder / f"{stem}-MSS1.rpb", rpc.rpb(model_of(day, camera), "GF2", "MSS1"))
    write_text(folder / f"{stem}-MSS1.xml", metadata(day, camera, at))
    truth = keep(root, folder, worth, dict(zip(CHANNELS, rho, strict=True)))
    return Specimen("gaofen-2", "L1A", "toa_reflectance", folder, truth)


def _side(day: Day) -> int:
    return min(day.size_px, int(0.72 * day.land.size_m / PIXEL_M))


def seen(day: Day, camera: Camera) -> Doubles:
    """Top-of-atmosphere reflectance of every pixel on the relief, (band, line, sample)."""
    line, sample = np.mgrid[: camera.side, : camera.side].astype(np.float64)
    height = np.full(line.shape, camera.height_m)
    for _ in range(12):
        height = day.relief.at(*camera.ground(line, sample, height), day.relief.height_m.astype(np.float64))
    x, y = camera.ground(line, sample, height)
    fine = day.land.grid
    where = [(fine.north_m - y) / fine.step_m - 0.5, (x - fine.west_m) / fine.step_m - 0.5]
    blur = 0.35 * PIXEL_M / FINE_M
    planes = [gaussian_filter(day.lit[BANDS.index(b)].astype(np.float64), blur) for b in CHANNELS.values()]
    rho = np.stack([map_coordinates(plane, where, order=1, mode="nearest") for plane in planes])
    return specimen.through_air(rho, list(CHANNELS.values()))


def model_of(day: Day, camera: Camera) -> rpc.Rpc:
    """Rational polynomials over the image and 300 m of heights beyond its own."""
    heights = day.relief.height_m
    levels = np.linspace(float(heights.min()) - 300.0, float(heights.max()) + 300.0, 6)
    steps = np.linspace(-20.0, camera.side + 20.0, 14)
    line, sample, h = (a.ravel() for a in np.meshgrid(steps, steps, levels, indexing="ij"))
    x, y = camera.ground(line, sample, h)
    lon, lat = Transformer.from_crs(day.land.region.epsg, 4326, always_xy=True).transform(x, y)
    return rpc.fit(lon, lat, h, line, sample)


def metadata(day: Day, camera: Camera, at: Sun) -> str:
    """The product's XML; its angles are those of the scene's middle."""
    last = camera.side - 1.0
    corners = {"TopLeft": (0.0, 0.0), "TopRight": (0.0, last), "BottomRight": (last, last), "BottomLeft": (last, 0.0)}
    lonlat = Transformer.from_crs(day.land.region.epsg, 4326, always_xy=True)
    places = ""
    for name, (line, sample) in corners.items():
        x, y = camera.ground(np.asarray(line), np.asarray(sample), camera.height_m)
        lon, lat = lonlat.transform(float(x), float(y))
        places += f"  <{name}Latitude>{lat:.6f}</{name}Latitude>\n  <{name}Longitude>{lon:.6f}</{name}Longitude>\n"
    stamp = f"{WHEN:%Y-%m-%d} {WHEN.hour + 8:02d}:{WHEN:%M:%S}"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ProductMetaData>
  <SatelliteID>GF2</SatelliteID>
  <SensorID>PMS1</SensorID>
  <ReceiveTime>{stamp}</ReceiveTime>
  <OrbitID>16320</OrbitID>
  <ProduceType>STANDARD</ProduceType>
  <SceneID>4012345</SceneID>
  <ProductID>2537189</ProductID>
  <ProductLevel>LEVEL1A</ProductLevel>
  <ProductFormat>GEOTIFF</ProductFormat>
  <Bands>1,2,3,4</Bands>
  <WidthInPixels>{camera.side}</WidthInPixels>
  <HeightInPixels>{camera.side}</HeightInPixels>
  <ImageGSD>{PIXEL_M}</ImageGSD>
  <CloudPercent>0</CloudPercent>
  <SolarAzimuth>{at.azimuth_deg:.4f}</SolarAzimuth>
  <SolarZenith>{at.zenith_deg:.4f}</SolarZenith>
  <SatelliteAzimuth>96.1873</SatelliteAzimuth>
  <SatelliteZenith>83.6511</SatelliteZenith>
  <StartTime>{stamp}</StartTime>
  <EndTime>{stamp}</EndTime>
  <CenterTime>{stamp}</CenterTime>
{places}</ProductMetaData>
"""
