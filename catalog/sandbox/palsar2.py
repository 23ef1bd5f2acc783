"""ALOS-2 PALSAR-2 mosaic tiles: gamma nought as amplitude counts, with mask, incidence and date layers."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from catalog.sandbox.chance import stream
from catalog.sandbox.echoes import covariance_at
from catalog.sandbox.files import write_map
from catalog.sandbox.regions import Grid
from catalog.sandbox.scattering import TERMS, gamma_speckle
from catalog.sandbox.specimen import Day, Doubles, Specimen, keep

CONSTANT_DB = -83.0
"""gamma nought in dB = 10 log10(DN^2) + CONSTANT_DB."""
STEP_DEG = 1.0 / 4500.0
LOOKS = 16.0
INCIDENCE_DEG = 38.0
EMPTY = 2
"""Columns without data at the right edge."""
_LAUNCH = date(2014, 5, 24)
"""Day 0 of the date layer."""
LAND, NOTHING = 255, 0
"""Codes of the mask."""


def write(root: Path, day: Day) -> Specimen:
    """Write one mosaic tile's upper left corner in HH and HV.

    DN = 10^(83 / 20) sqrt(gamma nought), gamma nought = sigma nought / cos(incidence). Source: JAXA EORC, Global
    PALSAR-2/PALSAR mosaic, dataset description.
    """
    grid = _grid(day)
    lon, lat = np.meshgrid(grid.x_m, grid.y_m)
    places = Transformer.from_crs(4326, day.land.region.epsg, always_xy=True).transform(lon, lat)
    mean = covariance_at(day, places).astype(np.float64) / np.cos(np.radians(INCIDENCE_DEG))
    rng = stream(day.land.seed, "palsar-2")
    north, east = int(np.ceil(grid.north_m)), int(np.floor(grid.west_m))
    stem = f"N{north:02d}E{east:03d}_{day.when:%y}"
    folder = root / "products" / f"{stem}_MOS_F02DAR"
    worth: dict[str, Doubles] = {}
    drawn: dict[str, NDArray[np.floating]] = {}
    counts: dict[str, Doubles] = {}
    for name in ("HH", "HV"):
        drawn[name] = gamma_speckle(rng, mean[TERMS.index(name)], LOOKS)
        dn = np.clip(np.rint(np.sqrt(drawn[name] * 10.0 ** (-CONSTANT_DB / 10.0))), 1, 65_535).astype(np.uint16)
        dn[:, -EMPTY:] = 0
        counts[name] = dn.astype(np.float64)
        worth[name] = np.where(dn == 0, np.nan, dn.astype(np.float64) ** 2 * 10.0 ** (CONSTANT_DB / 10.0))
        write_map(folder / f"{stem}_sl_{name}_F02DAR.tif", dn, grid)
    days = (day.when.date() - _LAUNCH).days
    layers: dict[str, NDArray[np.generic]] = {
        "mask": np.full(dn.shape, LAND, np.uint8),
        "linci": np.full(dn.shape, round(INCIDENCE_DEG), np.uint8),
        "date": np.full(dn.shape, days, np.uint16),
    }
    for name, layer in layers.items():
        layer[:, -EMPTY:] = NOTHING
        write_map(folder / f"{stem}_{name}_F02DAR.tif", layer, grid)
    truth = keep(root, folder, worth, drawn, counts)
    return Specimen("alos-2", "MOSAIC", "gamma_nought", folder, truth)


def _grid(day: Day) -> Grid:
    """Pixels of the global grid over the region; the grid's fields are in degrees."""
    half, region = day.land.size_m / 2, day.land.region
    lonlat = Transformer.from_crs(region.epsg, 4326, always_xy=True)
    lon, lat = lonlat.transform(region.west_m + half, region.south_m + half)
    count = min(day.size_px, int(day.land.size_m / 30.0))
    west, north = (round(v / STEP_DEG) * STEP_DEG for v in (lon - count * STEP_DEG / 2, lat + count * STEP_DEG / 2))
    return Grid(4326, west, north, STEP_DEG, count, count)
