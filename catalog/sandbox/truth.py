"""What is really there: land cover, heights, changes, objects, reflectance and backscatter without noise, shifts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon, mapping

from catalog.sandbox.files import write_json, write_map, write_text
from catalog.sandbox.landscape import CHANGES, Landscape
from catalog.sandbox.orbit import Ground
from catalog.sandbox.plan import Product
from catalog.sandbox.radar import Look
from catalog.sandbox.regions import DEM_MARGIN_M, FINE_M, MARGIN_M, RADAR_MARGIN_M, STEP_M, Grid, grid_over
from catalog.sandbox.scattering import TERMS
from catalog.sandbox.spectra import BANDS, COVER_OF, LAND_COVER

FloatArray = NDArray[np.floating]

DATES = {"spring": "20250510", "summer": "20250808"}
"""Season to the day from which its land cover holds."""
COLOURS = {
    0: (0, 0, 0, 0), 1: (38, 94, 171, 255), 2: (86, 152, 57, 255), 3: (27, 88, 54, 255), 4: (183, 211, 106, 255),
    5: (233, 207, 112, 255), 6: (222, 146, 51, 255), 7: (200, 52, 52, 255), 8: (163, 152, 141, 255),
    9: (94, 178, 172, 255),
}  # fmt: skip
"""Code to red, green, blue, alpha."""
README = """# Truth

Drawn, not measured. Rasters: GeoTIFF, 10 m, the region's UTM zone, north up, on the ground without any displacement.

- `landcover_DATE.tif`: uint8, the cover of most of a pixel's area; 0 no data; codes in the tag CLASSES; from that day.
- `change.tif`: uint8, what changed from May to August on most of a pixel's area; codes in the tag CLASSES.
- `height.tif`: float32 metres. Band 1: terrain above the WGS 84 ellipsoid. Band 2: mean height of what stands on it.
- `objects.geojson`: boxes of buildings and ships in the region's zone, with heights and the seasons they stand there.
- `reflectance_DATE.tif`: float32 surface reflectance of 10 Sentinel-2 bands at 10 m, through the instrument's pixel,
  without clouds and noise; slopes are lit as they lie.
- `toa_worldview_DATE.tif`: float32 top-of-atmosphere reflectance, blue, green, red of WorldView-3, averaged to 10 m.
- `sigma0.tif`: float32 sigma nought VV, VH, linear, as Sentinel-1 sees it, without speckle and noise.
- `covariance.tif`: float32, as Gaofen-3 sees it, linear: HH, HV (= VH), VV, real and imaginary part of HH VV*.
- `shifts.json`: metres east (dx) and north (dy) by which the content of each product is displaced:
  its pixel at the map position (x, y) shows the ground at (x - dx, y - dy).

Each radar looks at slopes from its own side, so the same ground has two brightnesses: sigma nought, on the ellipsoid,
is that of flat ground times cos(local incidence) / cos(incidence), within 0.4 and 1.8.
"""
DEM_README = """# Heights

Terrain heights in metres above the WGS 84 ellipsoid (no geoid applied), float32, 10 m, the region's UTM zone,
the region and 2 km around it. Exact: the radar images are made on these heights, linear between pixel centres.
"""


def majority(codes: NDArray[np.uint8], grid: Grid, fine: Grid) -> NDArray[np.uint8]:
    """The code that covers most of each pixel (rows, cols); the smallest of several."""
    per, edge = round(grid.step_m / fine.step_m), round(MARGIN_M / FINE_M)
    inner = codes[edge : edge + grid.rows * per, edge : edge + grid.cols * per]
    blocks = inner.reshape(grid.rows, per, grid.cols, per)
    counts = np.stack([(blocks == k).sum((1, 3), dtype=np.uint8) for k in range(int(codes.max()) + 1)])
    return counts.argmax(0).astype(np.uint8)


def write_land(folder: Path, land: Landscape) -> dict[str, str]:
    """Land cover of both seasons, changes, heights and objects; gives kind to file name."""
    grid = grid_over(land.region, land.size_m, STEP_M)
    names = {"change": "change.tif", "height": "height.tif", "objects": "objects.geojson"}
    classes = {"CLASSES": json.dumps(LAND_COVER)}
    for season, date in DATES.items():
        names[f"landcover_{date}"] = f"landcover_{date}.tif"
        cover = majority(COVER_OF[land.surfaces[season]], grid, land.grid)
        write_map(folder / f"landcover_{date}.tif", cover, grid, nodata=0, tags=classes, colours=COLOURS)
    changed = majority(land.changes, grid, land.grid)
    write_map(folder / "change.tif", changed, grid, tags={"CLASSES": json.dumps({0: "none", **CHANGES})})
    edge, per = round(MARGIN_M / FINE_M), round(STEP_M / FINE_M)
    tall = land.standing_m["summer"][edge:-edge, edge:-edge].reshape(grid.rows, per, grid.cols, per).mean((1, 3))
    heights = np.stack([land.relief.height(grid), tall]).astype(np.float32)
    write_map(folder / "height.tif", heights, grid, names=("terrain above ellipsoid", "above terrain"))
    write_json(folder / "objects.geojson", objects(land))
    return names


def objects(land: Landscape) -> dict[str, Any]:
    """Boxes as a GeoJSON feature collection in the region's zone."""
    corner, size = np.array([land.region.west_m, land.region.south_m]), land.size_m
    features = [
        {
            "type": "Feature",
            "geometry": mapping(Polygon((box.corners() + corner).round(2).tolist())),
            "properties": {"kind": box.kind, "height_m": round(box.height_m, 2), "seasons": list(box.dates)},
        }
        for box in land.boxes
        if 0 <= box.x_m < size and 0 <= box.y_m < size
    ]
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{land.region.epsg}"}}
    return {"type": "FeatureCollection", "crs": crs, "features": features}


def write_reflectance(folder: Path, grid: Grid, rho: FloatArray, date: str) -> dict[str, str]:
    """Noise-free surface reflectance of a day, (band, row, col)."""
    write_map(folder / f"reflectance_{date}.tif", rho.astype(np.float32), grid, names=BANDS)
    return {f"reflectance_{date}": f"reflectance_{date}.tif"}


def write_toa(folder: Path, grid: Grid, rho: FloatArray, date: str) -> dict[str, str]:
    """Noise-free top-of-atmosphere reflectance of WorldView, (band, row, col)."""
    write_map(folder / f"toa_worldview_{date}.tif", rho.astype(np.float32), grid, names=("B", "G", "R"))
    return {f"toa_worldview_{date}": f"toa_worldview_{date}.tif"}


def write_backscatter(folder: Path, land: Landscape, looks: dict[str, Look]) -> dict[str, str]:
    """Mean sigma nought of Sentinel-1 and mean covariance of Gaofen-3."""
    grid, edge = grid_over(land.region, land.size_m, STEP_M), round(RADAR_MARGIN_M / STEP_M)
    names = {}
    if "sentinel-1" in looks:
        seen = looks["sentinel-1"].echo[:, edge:-edge, edge:-edge]
        pair = seen[[TERMS.index("VV"), TERMS.index("HV")]]
        write_map(folder / "sigma0.tif", pair, grid, names=("VV", "VH"))
        names["sigma0"] = "sigma0.tif"
    if "gaofen-3" in looks:
        seen = looks["gaofen-3"].echo[:, edge:-edge, edge:-edge]
        write_map(folder / "covariance.tif", seen, grid, names=TERMS)
        names["covariance"] = "covariance.tif"
    return names


def write_shifts(folder: Path, products: Sequence[Product]) -> dict[str, str]:
    """Displacement of every product of a region."""
    rows = {p.folder: {"sensor": p.sensor, "dx_m": p.shift_m[0], "dy_m": p.shift_m[1]} for p in products}
    convention = "the pixel at the map position (x, y) shows the ground at (x - dx, y - dy)"
    write_json(folder / "shifts.json", {"convention": convention, "products": rows})
    return {"shifts": "shifts.json"}


def write_dem(root: Path, relief: Ground, name: str) -> None:
    """Terrain heights of a region and its surroundings, for whoever geocodes."""
    edge = round((RADAR_MARGIN_M - DEM_MARGIN_M) / STEP_M)
    wide = relief.grid
    grid = Grid(wide.epsg, wide.west_m + edge * STEP_M, wide.north_m - edge * STEP_M, STEP_M,
                wide.rows - 2 * edge, wide.cols - 2 * edge)  # fmt: skip
    tags = {"HEIGHTS": "metres above the WGS 84 ellipsoid"}
    write_map(root / "dem" / f"{name}.tif", relief.height_m[edge:-edge, edge:-edge], grid, tags=tags)


def write_readmes(root: Path) -> None:
    """What the truth and the heights mean, in words."""
    write_text(root / "truth" / "README.md", README)
    write_text(root / "dem" / "README.md", DEM_README)
