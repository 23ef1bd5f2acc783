"""The sandbox's noisy products with what their counts are worth: Sentinel-2, WorldView, Sentinel-1, Gaofen-3."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from catalog.sandbox import gaofen3, gaofen3_xml, optics, sentinel1, sentinel2, worldview
from catalog.sandbox.plan import PASSES, Pass
from catalog.sandbox.specimen import Day, Doubles, Layers, Specimen, keep
from catalog.sandbox.spectra import BANDS


def _pass(sensor: str) -> Pass:
    return next(p for p in PASSES if p.sensor == sensor and p.cloud_share == 0)


def _counts(path: Path) -> Doubles:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            return source.read().astype(np.float64)


def _finish(
    root: Path, folder: Path, kind: tuple[str, str, str], worth: Layers, counts: Layers | None = None
) -> Specimen:
    return Specimen(*kind, folder, keep(root, folder, worth, {}, counts))


def write_sentinel2(root: Path, day: Day) -> Specimen:
    """L2A: rho = (DN - 1000) / 10000."""
    acquisition = _pass("sentinel-2")
    ground = optics.growth(day.land, acquisition.season)
    seen = sentinel2.views(day.land, acquisition, ground, optics.light(day.land, acquisition.season, day.sun))
    made = sentinel2.write(root / "products", day.land, acquisition, seen, day.sun)
    folder = root / "products" / made.folder
    worth = {}
    for band in BANDS:
        dn = _counts(next(folder.glob(f"GRANULE/*/IMG_DATA/R*m/*_{band}_*m.jp2")))[0]
        worth[band] = np.where(dn == 0, np.nan, (dn - 1000.0) / 10_000.0)
    return _finish(root, folder, ("sentinel-2", "L2A", "surface_reflectance"), worth)


def write_worldview(root: Path, day: Day) -> Specimen:
    """Ortho-ready: L = GAIN DN absCalFactor / effectiveBandwidth, rho = pi L d^2 / (E cos(zenith))."""
    acquisition = _pass("worldview")
    ground = optics.growth(day.land, acquisition.season)
    shade = optics.light(day.land, acquisition.season, day.sun)
    made = worldview.write(
        root / "products", day.land, acquisition, worldview.views(day.land, acquisition, ground, shade)[1], _seen(day)
    )
    folder = root / "products" / made.folder
    dn = _counts(next(folder.glob("*.TIF")))
    at = _seen(day)
    worth = {}
    for i, band in enumerate(worldview.CHANNELS):
        radiance = worldview.GAIN[i] * dn[i] * worldview.ABS_CAL[i] / worldview.BANDWIDTH_UM[i]
        per_radiance = np.pi * at.distance_au**2 / (worldview.IRRADIANCE[i] * np.cos(np.radians(at.zenith_deg)))
        worth[band] = np.where(dn[i] == 0, np.nan, radiance * per_radiance)
    return _finish(root, folder, ("worldview", "LV2A", "toa_reflectance"), worth)


def _seen(day: Day) -> optics.Sun:
    """The sun at the time of WorldView's pass."""
    longitude, latitude = (float(a[day.middle]) for a in (day.relief.longitude_deg, day.relief.latitude_deg))
    return optics.sun(_pass("worldview").when, longitude, latitude)


def write_sentinel1(root: Path, day: Day) -> Specimen:
    """GRD: sigma nought = (DN^2 - noise) / A_sigma^2; `BAND.gross` is DN^2 / A_sigma^2."""
    made, look = sentinel1.write(root / "products", day.land, day.relief, day.echo, _pass("sentinel-1"))
    folder = root / "products" / made.folder
    worth: dict[str, NDArray[np.floating]] = {}
    counts: dict[str, NDArray[np.floating]] = {}
    for name, (net, gross, dn) in sentinel1.worth(folder, look).items():
        worth |= {name: net, f"{name}.gross": gross}
        counts[name] = dn
    return _finish(root, folder, ("sentinel-1", "GRD", "sigma_nought"), worth, counts)


def write_gaofen3(root: Path, day: Day) -> Specimen:
    """L1A: S = (I + iQ) (QualifyValue / 32767) 10^(-K / 20)."""
    made, _ = gaofen3.write(root / "products", day.land, day.relief, day.echo, _pass("gaofen-3"))
    folder = root / "products" / made.folder
    worth, counts = {}, {}
    for name in gaofen3_xml.QUALIFY:
        i, q = _counts(next(folder.glob(f"*_L1A_{name}_*.tiff")))
        factor = gaofen3_xml.QUALIFY[name] / gaofen3.FULL_SCALE * 10 ** (-gaofen3_xml.CALIBRATION_DB[name] / 20)
        worth[name] = np.where((i == 0) & (q == 0), np.nan, (i + 1j * q) * factor)
        counts[name] = np.hypot(i, q)
    return _finish(root, folder, ("gaofen-3", "L1A", "sigma_nought_amplitude"), worth, counts)
