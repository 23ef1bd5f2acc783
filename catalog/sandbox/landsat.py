"""Landsat-8 Collection 2 products: L1TP (top of the atmosphere, MTL as text) and L2SP (surface, MTL as JSON)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from catalog.sandbox import optics
from catalog.sandbox.files import write_map, write_text
from catalog.sandbox.regions import Grid
from catalog.sandbox.specimen import Day, Doubles, Specimen, counted, keep

BANDS = {"B1": "B02", "B2": "B02", "B3": "B03", "B4": "B04", "B5": "B8A", "B6": "B11", "B7": "B12"}
"""OLI band to the band of the spectra that stands for it."""
LEVEL1 = (2.0e-5, -0.1)
"""REFLECTANCE_MULT and REFLECTANCE_ADD of level 1."""
LEVEL2 = (2.75e-5, -0.2)
"""The same of level 2."""
PIXEL_M = 30.0
CLEAR, FILL, CLOUD = 21_824, 1, 22_280
"""QA_PIXEL of clear land, of fill, of cloud with high confidence."""
FILL_ROWS = 2
"""Rows without data at the upper edge."""


def write(root: Path, day: Day, level: str) -> Specimen:
    """Write one product, `level` L1TP or L2SP.

    Level 1: DN = (rho cos(solar zenith) - ADD) / MULT, since the product is not divided by the sun's height; the angle
    of every pixel is in its SZA band, in hundredths of degrees. Level 2: DN = (rho - ADD) / MULT.
    Source: Landsat 8-9 Collection 2 Level 1 Data Format Control Book and Level 2 Science Product Guide.
    """
    grid, names = day.grid(PIXEL_M), list(BANDS)
    top = level == "L1TP"
    rho = (day.top if top else day.surface)(grid, list(BANDS.values()))
    elevation = round(90.0 - day.sun.zenith_deg, 8)
    zenith = zenith_deg(day, grid)
    height = np.cos(np.radians(zenith)) if top else np.ones(zenith.shape)
    mult, add = LEVEL1 if top else LEVEL2
    stem = f"LC08_{level}_192027_{day.when:%Y%m%d}_20250820_02_T1"
    folder = root / "products" / stem
    worth: dict[str, Doubles] = {}
    for name, layer in zip(names, rho, strict=True):
        dn = counted(layer * height, mult, add)
        dn[:FILL_ROWS] = 0
        worth[name] = np.where(dn == 0, np.nan, (dn.astype(np.float64) * mult + add) / height)
        write_map(folder / f"{stem}_{'' if top else 'SR_'}{name}.TIF", dn, grid, nodata=0)
    write_map(folder / f"{stem}_QA_PIXEL.TIF", quality(grid), grid)
    write_map(folder / f"{stem}_QA_RADSAT.TIF", np.zeros((grid.rows, grid.cols), np.uint16), grid)
    if top:
        write_map(folder / f"{stem}_SZA.TIF", np.rint(100.0 * zenith).astype(np.int16), grid, nodata=0)
    tree = metadata(day, grid, stem, level, elevation)
    if top:
        write_text(folder / f"{stem}_MTL.txt", odl(tree))
    else:
        write_text(folder / f"{stem}_MTL.json", json.dumps({"LANDSAT_METADATA_FILE": tree}, indent=2) + "\n")
    truth = keep(root, folder, worth, dict(zip(names, rho, strict=True)))
    return Specimen("landsat", level, f"{'toa' if top else 'surface'}_reflectance", folder, truth)


def zenith_deg(day: Day, grid: Grid) -> Doubles:
    """Solar zenith of every pixel, linear between the corners of the image."""
    lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    corner = [
        [optics.sun(day.when, *lonlat.transform(*grid.corner(col, row))).zenith_deg for col in (0, grid.cols)]
        for row in (0, grid.rows)
    ]
    u, v = ((np.arange(n) + 0.5) / n for n in (grid.cols, grid.rows))
    upper, lower = (row[0] + (row[1] - row[0]) * u for row in corner)
    return np.asarray(upper + (lower - upper) * v[:, None])


def quality(grid: Grid) -> NDArray[np.uint16]:
    """QA_PIXEL: fill above, a square of cloud in the lower right corner, clear elsewhere."""
    qa = np.full((grid.rows, grid.cols), CLEAR, np.uint16)
    qa[-grid.rows // 8 :, -grid.cols // 8 :] = CLOUD
    qa[:FILL_ROWS] = FILL
    return qa


def metadata(day: Day, grid: Grid, stem: str, level: str, elevation_deg: float) -> dict[str, dict[str, str]]:
    """The groups of an MTL; corners are pixel centres."""
    sr = "" if level == "L1TP" else "SR_"
    bands = [b[1:] for b in BANDS]
    files = {f"FILE_NAME_BAND_{n}": f"{stem}_{sr}B{n}.TIF" for n in bands}
    if level == "L1TP":
        files["FILE_NAME_ANGLE_SOLAR_ZENITH_BAND_4"] = f"{stem}_SZA.TIF"
    files |= {
        "FILE_NAME_QUALITY_L1_PIXEL": f"{stem}_QA_PIXEL.TIF",
        "FILE_NAME_QUALITY_L1_RADIOMETRIC_SATURATION": f"{stem}_QA_RADSAT.TIF",
    }

    def scale(pair: tuple[float, float]) -> dict[str, str]:
        mult = {f"REFLECTANCE_MULT_BAND_{n}": f"{pair[0]:.4E}" for n in bands}
        return mult | {f"REFLECTANCE_ADD_BAND_{n}": f"{pair[1]:.6f}" for n in bands}

    tree = {
        "PRODUCT_CONTENTS": {
            "ORIGIN": "sandbox",
            "LANDSAT_PRODUCT_ID": stem,
            "PROCESSING_LEVEL": level,
            "COLLECTION_NUMBER": "02",
            "COLLECTION_CATEGORY": "T1",
            "OUTPUT_FORMAT": "GEOTIFF",
            **files,
        },
        "IMAGE_ATTRIBUTES": {
            "SPACECRAFT_ID": "LANDSAT_8",
            "SENSOR_ID": "OLI_TIRS",
            "WRS_TYPE": "2",
            "WRS_PATH": "192",
            "WRS_ROW": "027",
            "DATE_ACQUIRED": f"{day.when:%Y-%m-%d}",
            "SCENE_CENTER_TIME": f"{day.when:%H:%M:%S.%f}0Z",
            "CLOUD_COVER": "1.56",
            "SUN_AZIMUTH": f"{day.sun.azimuth_deg:.8f}",
            "SUN_ELEVATION": f"{elevation_deg:.8f}",
            "EARTH_SUN_DISTANCE": f"{day.sun.distance_au:.7f}",
        },
        "PROJECTION_ATTRIBUTES": _place(grid),
        "LEVEL1_RADIOMETRIC_RESCALING": scale(LEVEL1),
    }
    return tree if level == "L1TP" else tree | {"LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": scale(LEVEL2)}


def _place(grid: Grid) -> dict[str, str]:
    lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    last = (grid.cols - 0.5, grid.rows - 0.5)
    corners = {"UL": (0.5, 0.5), "UR": (last[0], 0.5), "LL": (0.5, last[1]), "LR": last}
    place = {
        "MAP_PROJECTION": "UTM",
        "DATUM": "WGS84",
        "ELLIPSOID": "WGS84",
        "UTM_ZONE": str(grid.epsg - 32600),
        "GRID_CELL_SIZE_REFLECTIVE": f"{grid.step_m:.2f}",
        "REFLECTIVE_LINES": str(grid.rows),
        "REFLECTIVE_SAMPLES": str(grid.cols),
    }
    for name, (col, row) in corners.items():
        x, y = grid.corner(col, row)
        lon, lat = lonlat.transform(x, y)
        place[f"CORNER_{name}_LAT_PRODUCT"], place[f"CORNER_{name}_LON_PRODUCT"] = f"{lat:.5f}", f"{lon:.5f}"
        place[f"CORNER_{name}_PROJECTION_X_PRODUCT"] = f"{x:.3f}"
        place[f"CORNER_{name}_PROJECTION_Y_PRODUCT"] = f"{y:.3f}"
    return place


def odl(tree: dict[str, dict[str, str]]) -> str:
    """GROUP = NAME ... END_GROUP = NAME, texts quoted and numbers not."""
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for name, fields in tree.items():
        lines.append(f"  GROUP = {name}")
        lines += [f"    {k} = {v if _number(v) else chr(34) + v + chr(34)}" for k, v in fields.items()]
        lines.append(f"  END_GROUP = {name}")
    return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""])


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
