"""Pieces of a synthetic Sentinel-2 scene: surfaces of typical covers, product XML and tile XML of level 2A."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SIDE = 160

SPECTRA = {  # surface reflectance at the bands above, typical values of spectral libraries rounded to a hundredth
    "water": (0.03, 0.03, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.004, 0.002),
    "forest": (0.01, 0.02, 0.04, 0.02, 0.06, 0.20, 0.25, 0.27, 0.29, 0.30, 0.12, 0.05),
    "crop": (0.03, 0.04, 0.07, 0.05, 0.11, 0.30, 0.38, 0.40, 0.42, 0.43, 0.20, 0.10),
    "soil": (0.07, 0.09, 0.13, 0.18, 0.21, 0.23, 0.25, 0.27, 0.28, 0.29, 0.34, 0.30),
    "town": (0.09, 0.10, 0.12, 0.13, 0.15, 0.17, 0.18, 0.19, 0.20, 0.21, 0.22, 0.19),
    "sand": (0.15, 0.20, 0.28, 0.38, 0.42, 0.44, 0.46, 0.48, 0.50, 0.50, 0.57, 0.52),
    "basalt": (0.06, 0.07, 0.09, 0.10, 0.11, 0.11, 0.12, 0.12, 0.12, 0.12, 0.14, 0.13),
    "snow": (0.85, 0.87, 0.88, 0.88, 0.87, 0.86, 0.84, 0.82, 0.80, 0.70, 0.12, 0.10),
    "cloud": (0.55, 0.56, 0.57, 0.58, 0.59, 0.60, 0.61, 0.62, 0.63, 0.60, 0.48, 0.36),
}
LAND = {"forest": 0.4, "crop": 0.3, "soil": 0.15, "town": 0.1, "water": 0.05}
DESERT = {"sand": 0.9, "soil": 0.1}
LAVA = {"sand": 0.7, "basalt": 0.3}
WINTER = {"snow": 0.8, "cloud": 0.2}


def surface(shares: Mapping[str, float], seed: int = 5) -> dict[str, np.ndarray]:
    """Reflectance (y, x) of each band: patches of covers with their own brightness, texture and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((SIDE // 8, SIDE // 8))
    edges = np.quantile(coarse, np.cumsum(list(shares.values()))[:-1])
    cover = np.kron(np.digitize(coarse, edges), np.ones((8, 8), int))
    light = np.clip(1 + 0.12 * rng.standard_normal((SIDE, SIDE)), 0.5, 1.6)
    spectra = np.array([SPECTRA[name] for name in shares])
    return {band: spectra[cover, k] * light + 0.002 * rng.standard_normal((SIDE, SIDE)) for k, band in enumerate(BANDS)}


def product_xml(path: Path, baseline: str, offset: Mapping[str, float] | float | None, scale: str = "10000") -> Path:
    """A product XML of level 2A."""
    listed = ""
    if offset is not None:
        names = [f"B{k:02d}" for k in range(1, 9)] + ["B8A", "B09", "B10", "B11", "B12"]
        values = offset if isinstance(offset, Mapping) else dict.fromkeys(names, offset)
        rows = (
            f'<BOA_ADD_OFFSET band_id="{k}">{values.get(n, -1000.0):g}</BOA_ADD_OFFSET>' for k, n in enumerate(names)
        )
        listed = f"<BOA_ADD_OFFSET_VALUES_LIST>{''.join(rows)}</BOA_ADD_OFFSET_VALUES_LIST>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""<n1:Level-2A_User_Product xmlns:n1="urn:x"><n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2024-06-15T10:15:59Z</PRODUCT_START_TIME><PRODUCT_URI>S2A.SAFE</PRODUCT_URI>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE><Datatake><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<SENSING_ORBIT_NUMBER>65</SENSING_ORBIT_NUMBER><SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION></Datatake>
</Product_Info><Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">{scale}</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>{listed}
</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>"""
    )
    return path


def tile_xml(path: Path, baseline: str) -> Path:
    """A tile XML of level 2A without angle grids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""<n1:Level-2A_Tile_ID xmlns:n1="urn:x"><n1:General_Info>
<TILE_ID>S2A_OPER_MSI_L2A_TL_2APS_20240615T141122_A046921_T32TQM_N{baseline}</TILE_ID>
<SENSING_TIME>2024-06-15T10:22:03Z</SENSING_TIME></n1:General_Info><n1:Geometric_Info><Tile_Geocoding>
<HORIZONTAL_CS_CODE>EPSG:32632</HORIZONTAL_CS_CODE><Size resolution="10"><NROWS>10980</NROWS><NCOLS>10980</NCOLS></Size>
<Geoposition resolution="10"><ULX>699960</ULX><ULY>5200020</ULY><XDIM>10</XDIM><YDIM>-10</YDIM></Geoposition>
</Tile_Geocoding><Tile_Angles><Mean_Sun_Angle><ZENITH_ANGLE>25.5</ZENITH_ANGLE><AZIMUTH_ANGLE>145</AZIMUTH_ANGLE>
</Mean_Sun_Angle></Tile_Angles></n1:Geometric_Info></n1:Level-2A_Tile_ID>"""
    )
    return path
