"""WorldView-3 ortho-ready products: blue, green and red at 2 m as top-of-atmosphere radiance counts, with their IMD."""

from __future__ import annotations

import zlib
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from catalog.sandbox import optics
from catalog.sandbox.chance import stream
from catalog.sandbox.files import write_map, write_text
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.optics import Growth, Sun
from catalog.sandbox.plan import Pass, Product
from catalog.sandbox.regions import FINE_M, STEP_M, Grid, grid_over
from catalog.sandbox.spectra import SPECTRA

FloatArray = NDArray[np.floating]

CHANNELS = ("B", "G", "R")
IRRADIANCE = (2004.61, 1830.18, 1535.33)
"""Solar irradiance at 1 au in W m-2 um-1, blue, green and red of WorldView-3 after Thuillier (2003)."""
ABS_CAL = (1.260825e-02, 9.713071e-03, 1.103623e-02)
"""absCalFactor: W m-2 sr-1 per count."""
BANDWIDTH_UM = (5.400000e-02, 6.180000e-02, 5.850000e-02)
"""effectiveBandwidth."""
GAIN = (1.0, 1.0, 1.0)
"""Factor of the yearly adjustment of the calibration; the sandbox's satellite needs none."""
PATH = (0.060, 0.034, 0.018)
"""Reflectance of the air alone."""
TRANSMITTANCE = (0.78, 0.84, 0.89)
"""Share of the surface's reflectance that reaches the satellite: rho_toa = PATH + TRANSMITTANCE rho_surface."""
NOISE = 0.0025
"""Standard deviation of the noise in top-of-atmosphere reflectance."""
BLUR_M = 0.8


def views(land: Landscape, acquisition: Pass, ground: Growth, shade: FloatArray
          ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """Noise-free top-of-atmosphere reflectance (band, row, col): at 10 m where it lies, and at 2 m displaced."""
    rho = np.zeros((3, *ground.surface.shape), np.float32)
    for k, plane in enumerate(optics.abundances(ground, acquisition.season, shade)):
        for b in range(3):
            rho[b] += SPECTRA[k, b] * plane
    path, through = (np.array(v, np.float32)[:, None, None] for v in (PATH, TRANSMITTANCE))
    seen = []
    for step, shift, blur in ((STEP_M, (0.0, 0.0), 0.35 * STEP_M), (FINE_M, acquisition.shift_m, BLUR_M)):
        eye = optics.footprint(land.grid, grid_over(land.region, land.size_m, step), shift, blur)
        seen.append(path + through * np.stack([optics.see(layer, eye) for layer in rho]))
    return seen[0], seen[1]


def write(root: Path, land: Landscape, acquisition: Pass, seen: NDArray[np.float32], at: Sun) -> Product:
    """Write one product below a folder.

    `seen` is the noise-free reflectance at 2 m.
    DN = pi^-1 rho E cos(zenith) d^-2 effectiveBandwidth / (GAIN absCalFactor), the inverse of the law in the vendor's
    note on the radiometric use of WorldView-3 imagery with an offset of 0.
    """
    grid = grid_over(land.region, land.size_m, FINE_M)
    rng = stream(land.seed, land.region.name, "worldview", acquisition.date)
    rho = seen + rng.standard_normal(seen.shape, np.float32) * np.float32(NOISE)
    counts = np.array(
        [
            e * np.cos(np.radians(at.zenith_deg)) / (np.pi * at.distance_au**2) * width / (gain * factor)
            for e, width, gain, factor in zip(IRRADIANCE, BANDWIDTH_UM, GAIN, ABS_CAL, strict=True)
        ],
        np.float32,
    )
    dn = np.clip(np.rint(rho * counts[:, None, None]), 1, 65_535).astype(np.uint16)
    order = 50_000_000_000 + zlib.crc32(land.region.name.encode()) % 10**9 * 10
    stem = f"{acquisition.when:%y%b%d%H%M%S}".upper() + f"-M2AS-{order:012d}_01_P001"
    folder = root / f"{stem}_MUL"
    write_map(folder / f"{stem}.TIF", dn, grid, names=CHANNELS)
    write_text(folder / f"{stem}.IMD", imd(acquisition, at, grid, f"{order:012d}_01_P001"))
    return Product(folder.name, "worldview", land.region.name, acquisition.date, acquisition.shift_m, 0.0)


def imd(acquisition: Pass, at: Sun, grid: Grid, order: str) -> str:
    """The IMD text; its BAND groups stand in the order of the image's bands."""
    first = f"{acquisition.when:%Y-%m-%dT%H:%M:%S.%fZ}"
    made = f"{acquisition.when + timedelta(days=1):%Y-%m-%dT%H:%M:%S.%fZ}"
    elevation = 90.0 - at.zenith_deg
    return f"""version = "28.4";
generationTime = {made};
productOrderId = "{order}";
productCatalogId = "A0300110{acquisition.date}00";
childCatalogId = "20300110{acquisition.date}00";
imageDescriptor = "ORStandard2A";
bandId = "Multi";
panSharpenAlgorithm = "None";
numRows = {grid.rows};
numColumns = {grid.cols};
productLevel = "LV2A";
productType = "Ortho Ready Standard";
numberOfLooks = 1;
radiometricLevel = "Corrected";
radiometricEnhancement = "Off";
bitsPerPixel = 16;
compressionType = "None";
outputFormat = "GeoTIFF";
{_bands(grid)}BEGIN_GROUP = IMAGE_1
\tsatId = "WV03";
\tmode = "FullSwath";
\tscanDirection = "Reverse";
\tCatId = "1040010{acquisition.date}A00";
\tfirstLineTime = {first};
\tavgLineRate = 5000.00;
\texposureDuration = 0.0002;
\tmeanCollectedRowGSD = 1.262;
\tmeanCollectedColGSD = 1.279;
\tmeanCollectedGSD = 1.270;
\tmeanSunAz = {at.azimuth_deg:.6f};
\tmeanSunEl = {elevation:.6f};
\tmeanSatAz = 212.4;
\tmeanSatEl = 78.1;
\tmeanOffNadirViewAngle = 10.6;
\tcloudCover = 0.000;
\tresamplingKernel = "CC";
\tTDIMode = "Constant";
END_GROUP = IMAGE_1
{_projection(grid, first)}END;
"""


def _bands(grid: Grid) -> str:
    place = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    corners = {"UL": (0, 0), "UR": (grid.cols, 0), "LR": (grid.cols, grid.rows), "LL": (0, grid.rows)}
    ground = {k: place.transform(*grid.corner(*c)) for k, c in corners.items()}
    return "".join(
        f"BEGIN_GROUP = BAND_{name}\n"
        + "".join(f"\t{k}Lon = {v[0]:.8f};\n\t{k}Lat = {v[1]:.8f};\n\t{k}HAE = 480.00;\n" for k, v in ground.items())
        + f"\tabsCalFactor = {factor:.6e};\n\teffectiveBandwidth = {width:.6e};\n\tTDILevel = 24;\n"
        + f"END_GROUP = BAND_{name}\n"
        for name, factor, width in zip(CHANNELS, ABS_CAL, BANDWIDTH_UM, strict=True)
    )


def _projection(grid: Grid, first: str) -> str:
    return f"""BEGIN_GROUP = MAP_PROJECTED_PRODUCT
\tearliestAcqTime = {first};
\tlatestAcqTime = {first};
\tdatumName = "WE";
\tsemiMajorAxis = 6378137.0000;
\tinverseFlattening = 298.257223563;
\tmapProjName = "UTM";
\tmapProjCode = 1;
\tmapZone = {grid.epsg - 32600};
\tmapHemi = "N";
\toriginX = {grid.west_m + grid.step_m / 2:.8f};
\toriginY = {grid.north_m - grid.step_m / 2:.8f};
\torientationAngle = 0.0;
\tcolSpacing = {grid.step_m:.3f};
\trowSpacing = {grid.step_m:.3f};
\tproductUnits = "M";
\tproductGSD = {grid.step_m:.2f};
\tULX = {grid.west_m + grid.step_m / 2:.8f};
\tULY = {grid.north_m - grid.step_m / 2:.8f};
\tDEMCorrection = "Base Elevation";
\tterrainHae = 480.00;
\tnumGCP = 0;
END_GROUP = MAP_PROJECTED_PRODUCT
"""
