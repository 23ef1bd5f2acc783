"""Sentinel-2 L2A products as ESA delivers them: SAFE folder, reversible JPEG 2000, product and tile metadata."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from catalog.sandbox import optics
from catalog.sandbox.chance import stream
from catalog.sandbox.files import write_jp2, write_text
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.optics import Clouds, Growth, Sun
from catalog.sandbox.plan import Pass, Product
from catalog.sandbox.regions import STEP_M, Grid, grid_over, mgrs_square
from catalog.sandbox.spectra import BANDS, SPECTRA

FloatArray = NDArray[np.floating]

QUANTIFICATION = 10_000
OFFSET = -1_000
NOISE = (0.0020, 0.008)
"""Standard deviation of the noise in reflectance: a constant, and a share of the signal."""
TEN_M = ("B02", "B03", "B04", "B08")
BLUR = 0.35
"""Gaussian blur of a pixel's response, in pixels."""
_CLOUD = np.array([0.66, 0.65, 0.64, 0.64, 0.64, 0.63, 0.62, 0.62, 0.42, 0.31], np.float32)
"""Reflectance of an opaque cloud in BANDS."""
_SHADOW = 0.55
"""Share of the light that an opaque cloud takes away."""
_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_SOLAR = (1884.69, 1959.66, 1823.24, 1512.06, 1424.64, 1287.61, 1162.08, 1041.63, 955.32, 812.92, 367.15, 245.59, 85.25)
_ORBITS = {"S2A": 51_622, "S2B": 43_998}


@dataclass(frozen=True)
class Scene:
    """What is known of one product before its pixels are written."""

    acquisition: Pass
    """Instrument, time, displacement."""
    tile: str
    """MGRS square."""
    sun: Sun
    """Position of the sun."""
    grid: Grid
    """10 m pixels."""
    cover: dict[str, float]
    """Shares of the image by scene class, percent."""

    @property
    def sensing(self) -> str:
        """Time as in file names."""
        return f"{self.acquisition.when:%Y%m%dT%H%M%S}"

    @property
    def made(self) -> str:
        """Time of processing as in file names."""
        return f"{self.acquisition.when + timedelta(hours=6):%Y%m%dT%H%M}00"

    @property
    def folder(self) -> str:
        """Name of the product."""
        return f"{self.acquisition.platform}_MSIL2A_{self.sensing}_N0511_R022_T{self.tile}_{self.made}.SAFE"

    @property
    def granule(self) -> str:
        """Path of the granule inside the product."""
        orbit = _ORBITS[self.acquisition.platform]
        return f"GRANULE/L2A_T{self.tile}_A{orbit:06d}_{self.acquisition.when - timedelta(seconds=3):%Y%m%dT%H%M%S}"

    def image(self, band: str, resolution: int) -> str:
        """Path of an image inside the product, without its ending."""
        return f"{self.granule}/IMG_DATA/R{resolution}m/T{self.tile}_{self.sensing}_{band}_{resolution}m"


@dataclass(frozen=True)
class Views:
    """Noise-free surface reflectance of one day, (band, row, col) in BANDS, through pixels of three kinds."""

    truth: NDArray[np.float32]
    """10 m, where it lies."""
    ten: NDArray[np.float32]
    """10 m, displaced."""
    twenty: NDArray[np.float32]
    """20 m, displaced."""


def views(land: Landscape, acquisition: Pass, ground: Growth, shade: FloatArray) -> Views:
    """See the lit ground through the instrument's pixels."""
    eyes = [
        optics.footprint(land.grid, grid_over(land.region, land.size_m, step), shift, BLUR * step)
        for step, shift in ((STEP_M, (0.0, 0.0)), (STEP_M, acquisition.shift_m), (2 * STEP_M, acquisition.shift_m))
    ]
    seen = [np.zeros((len(BANDS), e[0].shape[0], e[1].shape[0]), np.float32) for e in eyes]
    for k, plane in enumerate(optics.abundances(ground, acquisition.season, shade)):
        for out, eye in zip(seen, eyes, strict=True):
            out += SPECTRA[k][:, None, None] * optics.see(plane, eye)
    return Views(*seen)


def write(root: Path, land: Landscape, acquisition: Pass, seen: Views, at: Sun) -> Product:
    """Write one product below a folder.

    Parameters
    ----------
    root
        The products' folder.
    seen
        The land as the instrument sees it that day, without clouds and noise.
    at
        Position of the sun.
    """
    tile = mgrs_square(land.region.epsg, land.region.west_m, land.region.south_m)
    ten, twenty = (grid_over(land.region, land.size_m, s) for s in (STEP_M, 2 * STEP_M))
    sky = optics.clouds(land.seed, land.region, acquisition.date, ten, acquisition.cloud_share, at)
    rng = stream(land.seed, land.region.name, "sentinel-2", acquisition.date)
    scene_of = Scene(acquisition, tile, at, ten, {})
    folder = root / scene_of.folder
    quality: NDArray[np.uint8] = np.zeros((1, 1), np.uint8)
    for grid, clear in ((ten, seen.ten), (twenty, seen.twenty)):
        rho, scl = _sky(clear, sky, grid)
        rho = rho + rng.standard_normal(rho.shape, np.float32) * (NOISE[0] + NOISE[1] * np.abs(rho))
        outside = _outside(grid) if acquisition.wedge else np.zeros((grid.rows, grid.cols), bool)
        dn = np.clip(np.rint(rho * QUANTIFICATION) - OFFSET, 1, 65_535).astype(np.uint16)
        dn[:, outside], scl[outside] = 0, 0
        resolution = round(grid.step_m)
        for band in (b for b in BANDS if (b in TEN_M) == (grid is ten)):
            write_jp2(folder / f"{scene_of.image(band, resolution)}.jp2", dn[BANDS.index(band)], grid)
        quality = scl
    write_jp2(folder / f"{scene_of.image('SCL', 20)}.jp2", quality, twenty)
    shares = {name: 100.0 * float((quality == code).mean()) for code, name in _CLASSES.items()}
    scene = Scene(acquisition, tile, at, ten, shares)
    write_text(folder / "MTD_MSIL2A.xml", _product_xml(scene))
    write_text(folder / scene.granule / "MTD_TL.xml", _tile_xml(scene))
    valid = max(100.0 - shares["NODATA"], 1e-9)
    clouded = (shares["HIGH"] + shares["MEDIUM"]) / valid
    return Product(
        scene.folder, "sentinel-2", land.region.name, acquisition.date, acquisition.shift_m, round(clouded, 4)
    )


_CLASSES = {
    0: "NODATA", 3: "SHADOW", 4: "VEGETATION", 5: "BARE", 6: "WATER", 7: "UNCLASSIFIED", 8: "MEDIUM", 9: "HIGH",
}  # fmt: skip


def _sky(rho: FloatArray, sky: Clouds | None, grid: Grid) -> tuple[FloatArray, NDArray[np.uint8]]:
    ndvi = (rho[6] - rho[2]) / (rho[6] + rho[2] + 1e-6)
    ndwi = (rho[1] - rho[6]) / (rho[1] + rho[6] + 1e-6)
    scl = np.select([ndwi > 0.1, ndvi > 0.40, ndvi > 0.12], [6, 4, 5], 7).astype(np.uint8)
    if sky is None:
        return rho, scl
    cloud, shadow = sky.thickness(grid), sky.shadow(grid)
    scl[shadow > 0.2] = 3
    scl[cloud > 0.15] = 8
    scl[cloud > 0.6] = 9
    rho = rho * (1.0 - _SHADOW * shadow) * (1.0 - cloud) + _CLOUD[:, None, None] * cloud
    return rho.astype(np.float32), scl


def _outside(grid: Grid) -> NDArray[np.bool_]:
    """What lies beyond a swath edge that runs from top left to bottom left, some 8 % of the tile."""
    row, col = np.mgrid[: grid.rows, : grid.cols]
    return col < (0.04 + 0.08 * row / grid.rows) * grid.cols


def _product_xml(s: Scene) -> str:
    when = f"{s.acquisition.when:%Y-%m-%dT%H:%M:%S}.{s.acquisition.when.microsecond // 1000:03d}Z"
    made = f"{s.acquisition.when + timedelta(hours=6):%Y-%m-%dT%H:%M}:00.000000Z"
    images = [s.image(b, 10) for b in TEN_M] + [s.image(b, 20) for b in (*BANDS, "SCL") if b not in TEN_M]
    files = "\n".join(f"            <IMAGE_FILE>{i}</IMAGE_FILE>" for i in images)
    offsets = "\n".join(f'        <BOA_ADD_OFFSET band_id="{i}">{OFFSET}</BOA_ADD_OFFSET>' for i in range(13))
    solar = "\n".join(
        f'          <SOLAR_IRRADIANCE bandId="{i}" unit="W/m²/µm">{e}</SOLAR_IRRADIANCE>' for i, e in enumerate(_SOLAR)
    )
    spectral = "\n".join(
        f'        <Spectral_Information bandId="{i}" physicalBand="{_physical(b)}"/>' for i, b in enumerate(_IDS)
    )
    orbit, platform = _ORBITS[s.acquisition.platform], s.acquisition.platform
    ids = f"S2_OPER_MSI_L2A_{{}}_2APS_{s.made}_{{}}_N05.11".replace("S2_", f"{platform}_")
    place = Transformer.from_crs(s.grid.epsg, 4326, always_xy=True)
    corners = [(0, 0), (s.grid.cols, 0), (s.grid.cols, s.grid.rows), (0, s.grid.rows), (0, 0)]
    ring = [place.transform(*(s.grid.transform * c)) for c in corners]
    footprint = " ".join(f"{lat:.12f} {lon:.12f}" for lon, lat in ring)
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{when}</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>{when}</PRODUCT_STOP_TIME>
      <PRODUCT_URI>{s.folder}</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE>
      <PROCESSING_BASELINE>05.11</PROCESSING_BASELINE>
      <GENERATION_TIME>{made}</GENERATION_TIME>
      <Datatake datatakeIdentifier="G{platform}_{s.sensing}_{orbit:06d}_N05.11">
        <SPACECRAFT_NAME>Sentinel-{platform[1:]}</SPACECRAFT_NAME>
        <DATATAKE_TYPE>INS-NOBS</DATATAKE_TYPE>
        <DATATAKE_SENSING_START>{when}</DATATAKE_SENSING_START>
        <SENSING_ORBIT_NUMBER>22</SENSING_ORBIT_NUMBER>
        <SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION>
      </Datatake>
      <Query_Options completeSingleTile="true">
        <PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT>
      </Query_Options>
      <Product_Organisation>
        <Granule_List>
          <Granule datastripIdentifier="{ids.format("DS", f"S{s.sensing}")}" \
granuleIdentifier="{ids.format("TL", f"A{orbit:06d}_T{s.tile}")}" imageFormat="JPEG2000">
{files}
          </Granule>
        </Granule_List>
      </Product_Organisation>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{QUANTIFICATION}</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
        <WVP_QUANTIFICATION_VALUE unit="cm">1000.0</WVP_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      <BOA_ADD_OFFSET_VALUES_LIST>
{offsets}
      </BOA_ADD_OFFSET_VALUES_LIST>
      <Reflectance_Conversion>
        <U>{1.0 / s.sun.distance_au**2:.12f}</U>
        <Solar_Irradiance_List>
{solar}
        </Solar_Irradiance_List>
      </Reflectance_Conversion>
      <Spectral_Information_List>
{spectral}
      </Spectral_Information_List>
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Product_Footprint>
      <Product_Footprint>
        <Global_Footprint>
          <EXT_POS_LIST>{footprint}</EXT_POS_LIST>
        </Global_Footprint>
      </Product_Footprint>
      <RASTER_CS_TYPE>POINT</RASTER_CS_TYPE>
      <PIXEL_ORIGIN>1</PIXEL_ORIGIN>
    </Product_Footprint>
    <Coordinate_Reference_System>
      <GEO_TABLES version="1">EPSG</GEO_TABLES>
      <HORIZONTAL_CS_TYPE>GEOGRAPHIC</HORIZONTAL_CS_TYPE>
    </Coordinate_Reference_System>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>{s.cover["MEDIUM"] + s.cover["HIGH"]:.6f}</Cloud_Coverage_Assessment>
{_content_xml(s.cover)}
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def _content_xml(cover: dict[str, float]) -> str:
    rows = {
        "CLOUDY_PIXEL_PERCENTAGE": cover["MEDIUM"] + cover["HIGH"],
        "CLOUDY_PIXEL_OVER_LAND_PERCENTAGE": cover["MEDIUM"] + cover["HIGH"],
        "NODATA_PIXEL_PERCENTAGE": cover["NODATA"],
        "SATURATED_DEFECTIVE_PIXEL_PERCENTAGE": 0.0,
        "CLOUD_SHADOW_PERCENTAGE": cover["SHADOW"],
        "VEGETATION_PERCENTAGE": cover["VEGETATION"],
        "NOT_VEGETATED_PERCENTAGE": cover["BARE"],
        "WATER_PERCENTAGE": cover["WATER"],
        "UNCLASSIFIED_PERCENTAGE": cover["UNCLASSIFIED"],
        "MEDIUM_PROBA_CLOUDS_PERCENTAGE": cover["MEDIUM"],
        "HIGH_PROBA_CLOUDS_PERCENTAGE": cover["HIGH"],
        "THIN_CIRRUS_PERCENTAGE": 0.0,
        "SNOW_ICE_PERCENTAGE": 0.0,
    }
    lines = "\n".join(f"      <{k}>{v:.6f}</{k}>" for k, v in rows.items())
    return f"    <Image_Content_QI>\n{lines}\n    </Image_Content_QI>"


def _tile_xml(s: Scene) -> str:
    epsg, orbit = s.grid.epsg, _ORBITS[s.acquisition.platform]
    side = s.grid.rows * s.grid.step_m
    sizes = "\n".join(
        f'      <Size resolution="{r}">\n        <NROWS>{round(side / r)}</NROWS>\n        <NCOLS>{round(side / r)}'
        f"</NCOLS>\n      </Size>"
        for r in (10, 20, 60)
    )
    places = "\n".join(
        f'      <Geoposition resolution="{r}">\n        <ULX>{s.grid.west_m:.0f}</ULX>\n        <ULY>'
        f"{s.grid.north_m:.0f}</ULY>\n        <XDIM>{r}</XDIM>\n        <YDIM>-{r}</YDIM>\n      </Geoposition>"
        for r in (10, 20, 60)
    )
    nodes = int(side // 5000) + 2
    views = "\n".join(
        f'        <Mean_Viewing_Incidence_Angle bandId="{i}">\n          <ZENITH_ANGLE unit="deg">5.2</ZENITH_ANGLE>\n'
        f'          <AZIMUTH_ANGLE unit="deg">286.4</AZIMUTH_ANGLE>\n        </Mean_Viewing_Incidence_Angle>'
        for i in range(13)
    )
    name = f"{s.acquisition.platform}_OPER_MSI_L2A_TL_2APS_{s.made}_A{orbit:06d}_T{s.tile}_N05.11"
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <n1:General_Info>
    <TILE_ID metadataLevel="Brief">{name}</TILE_ID>
    <SENSING_TIME metadataLevel="Standard">{s.acquisition.when:%Y-%m-%dT%H:%M:%S.%fZ}</SENSING_TIME>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding metadataLevel="Brief">
      <HORIZONTAL_CS_NAME>WGS84 / UTM zone {epsg - 32600}N</HORIZONTAL_CS_NAME>
      <HORIZONTAL_CS_CODE>EPSG:{epsg}</HORIZONTAL_CS_CODE>
{sizes}
{places}
    </Tile_Geocoding>
    <Tile_Angles metadataLevel="Standard">
      <Sun_Angles_Grid>
{_angle_grid("Zenith", s.sun.zenith_deg, -0.0225, nodes)}
{_angle_grid("Azimuth", s.sun.azimuth_deg, 0.05, nodes)}
      </Sun_Angles_Grid>
      <Mean_Sun_Angle>
        <ZENITH_ANGLE unit="deg">{s.sun.zenith_deg:.12f}</ZENITH_ANGLE>
        <AZIMUTH_ANGLE unit="deg">{s.sun.azimuth_deg:.12f}</AZIMUTH_ANGLE>
      </Mean_Sun_Angle>
      <Mean_Viewing_Incidence_Angle_List>
{views}
      </Mean_Viewing_Incidence_Angle_List>
    </Tile_Angles>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info metadataLevel="Standard">
{_content_xml(s.cover)}
  </n1:Quality_Indicators_Info>
</n1:Level-2A_Tile_ID>
"""


def _angle_grid(name: str, centre_deg: float, step_deg: float, nodes: int) -> str:
    middle = (nodes - 1) / 2
    values = [centre_deg + step_deg * (j - middle) for j in range(nodes)]
    rows = "\n".join(
        "            <VALUES>" + " ".join(f"{v + 0.044 * (i - middle):.4f}" for v in values) + "</VALUES>"
        for i in range(nodes)
    )
    return f"""        <{name}>
          <COL_STEP unit="m">5000</COL_STEP>
          <ROW_STEP unit="m">5000</ROW_STEP>
          <Values_List>
{rows}
          </Values_List>
        </{name}>"""


def _physical(band: str) -> str:
    return "B" + band[1:].lstrip("0")
