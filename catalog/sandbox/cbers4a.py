"""CBERS-4A WPM level 4 products: radiance counts of four bands, one file each, with the XML of INPE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pyproj import Transformer

from catalog.sandbox.files import write_map, write_text
from catalog.sandbox.regions import Grid
from catalog.sandbox.specimen import Day, Doubles, Specimen, counted, keep

CHANNELS = {"B": "B02", "G": "B03", "R": "B04", "N": "B08"}
"""WPM band to the band of the spectra that stands for it."""
COEFFICIENT = {"B": 0.2364, "G": 0.2928, "R": 0.2096, "N": 0.1883}
"""absoluteCalibrationCoefficient: W m-2 sr-1 um-1 per count."""
IRRADIANCE = {"B": 1984.65, "G": 1823.40, "R": 1536.38, "N": 981.91}
"""W m-2 um-1 at one astronomical unit after Thuillier (2003), as the International Charter's processor has them."""
PIXEL_M = 8.0
MOST = 1023
"""Ten bits."""
EMPTY = 2
"""Rows without data at the lower edge."""


def write(root: Path, day: Day) -> Specimen:
    """Write one product of four bands.

    DN = L / absoluteCalibrationCoefficient with L = rho E sin(sun elevation) / (pi d^2). Source: INPE, CBERS 4A product
    metadata; Disasters Charter, optical products calibration, CBERS-4 and CBERS-4A.
    """
    grid = day.grid(PIXEL_M)
    rho = day.top(grid, list(CHANNELS.values()))
    elevation = round(90.0 - day.sun.zenith_deg, 5)
    stem = f"CBERS_4A_WPM_{day.when:%Y%m%d}_201_140_L4"
    folder = root / "products" / stem
    worth: dict[str, Doubles] = {}
    for name, layer in zip(CHANNELS, rho, strict=True):
        per_rho = IRRADIANCE[name] * np.sin(np.radians(elevation)) / (np.pi * day.sun.distance_au**2)
        dn = counted(layer * per_rho, COEFFICIENT[name], most=MOST)
        dn[-EMPTY:] = 0
        worth[name] = np.where(dn == 0, np.nan, dn.astype(np.float64) * COEFFICIENT[name] / per_rho)
        number = list(CHANNELS).index(name) + 1
        write_map(folder / f"{stem}_BAND{number}.tif", dn, grid)
        write_text(folder / f"{stem}_BAND{number}.xml", metadata(day, grid, elevation))
    truth = keep(root, folder, worth, dict(zip(CHANNELS, rho, strict=True)))
    return Specimen("cbers-4a", "L4-DN", "toa_reflectance", folder, truth)


def metadata(day: Day, grid: Grid, elevation_deg: float) -> str:
    """The XML beside a band; it tells the coefficients of all."""
    stamp = f"{day.when:%Y-%m-%dT%H:%M:%S.%f}"
    lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    corners = {"UL": (0, 0), "UR": (grid.cols, 0), "LR": (grid.cols, grid.rows), "LL": (0, grid.rows)}
    box = ""
    for name, (col, row) in corners.items():
        lon, lat = lonlat.transform(*grid.corner(col, row))
        box += f"<{name}><latitude>{lat:.6f}</latitude><longitude>{lon:.6f}</longitude></{name}>"
    factors = "".join(f'<band name="{n}">{v}</band>' for n, v in enumerate(COEFFICIENT.values(), 1))
    whole = int(90.0 - elevation_deg)
    minutes = (90.0 - elevation_deg - whole) * 60.0
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<prdf xmlns="http://www.gisplan.com.br/xmlsat">
<satellite><name>CBERS</name><number>4A</number><instrument>WPM</instrument></satellite>
<image>
<path>201</path><row>140</row>
<timeStamp><begin>{stamp}</begin><center>{stamp}</center><end>{stamp}</end></timeStamp>
<sunPosition><elevation>{elevation_deg:.5f}</elevation><sunAzimuth>{day.sun.azimuth_deg:.5f}</sunAzimuth></sunPosition>
<verticalPixelSize>{PIXEL_M}</verticalPixelSize><horizontalPixelSize>{PIXEL_M}</horizontalPixelSize>
<columns>{grid.cols}</columns><lines>{grid.rows}</lines>
<level>4</level><projectionName>UTM</projectionName><earthModel>WGS84</earthModel>
<imageData>{box}</imageData>
<absoluteCalibrationCoefficient>{factors}</absoluteCalibrationCoefficient>
</image>
<sunIncidenceAngle><degree>{whole}</degree><minute>{minutes:.0f}</minute><second>0</second></sunIncidenceAngle>
</prdf>
"""
