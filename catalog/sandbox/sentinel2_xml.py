"""The names and XML files of a Sentinel-2 L2A product: product metadata and tile metadata."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pyproj import Transformer

from catalog.sandbox.optics import Sun
from catalog.sandbox.plan import Pass
from catalog.sandbox.regions import Grid
from catalog.sandbox.spectra import BANDS

QUANTIFICATION = 10_000
"""Digital numbers to a reflectance of 1."""
OFFSET = -1_000
"""What is added to a digital number before."""
TEN_M = ("B02", "B03", "B04", "B08")
"""Bands at 10 m; the others come at 20 m."""
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


def product_xml(s: Scene) -> str:
    """MTD_MSIL2A.xml."""
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
{_product_info(s)}
{_characteristics(s)}
  </n1:General_Info>
  <n1:Geometric_Info>
{_footprint(s)}
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>{s.cover["MEDIUM"] + s.cover["HIGH"]:.6f}</Cloud_Coverage_Assessment>
{_content_xml(s.cover)}
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def _product_info(s: Scene) -> str:
    when = f"{s.acquisition.when:%Y-%m-%dT%H:%M:%S}.{s.acquisition.when.microsecond // 1000:03d}Z"
    made = f"{s.acquisition.when + timedelta(hours=6):%Y-%m-%dT%H:%M}:00.000000Z"
    images = [s.image(b, 10) for b in TEN_M] + [s.image(b, 20) for b in (*BANDS, "SCL") if b not in TEN_M]
    files = "\n".join(f"            <IMAGE_FILE>{i}</IMAGE_FILE>" for i in images)
    orbit, platform = _ORBITS[s.acquisition.platform], s.acquisition.platform
    ids = f"S2_OPER_MSI_L2A_{{}}_2APS_{s.made}_{{}}_N05.11".replace("S2_", f"{platform}_")
    return f"""    <Product_Info>
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
    </Product_Info>"""


def _characteristics(s: Scene) -> str:
    offsets = "\n".join(f'        <BOA_ADD_OFFSET band_id="{i}">{OFFSET}</BOA_ADD_OFFSET>' for i in range(13))
    solar = "\n".join(
        f'          <SOLAR_IRRADIANCE bandId="{i}" unit="W/m²/µm">{e}</SOLAR_IRRADIANCE>' for i, e in enumerate(_SOLAR)
    )
    spectral = "\n".join(
        f'        <Spectral_Information bandId="{i}" physicalBand="{_physical(b)}"/>' for i, b in enumerate(_IDS)
    )
    return f"""    <Product_Image_Characteristics>
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
    </Product_Image_Characteristics>"""


def _footprint(s: Scene) -> str:
    place = Transformer.from_crs(s.grid.epsg, 4326, always_xy=True)
    corners = [(0, 0), (s.grid.cols, 0), (s.grid.cols, s.grid.rows), (0, s.grid.rows), (0, 0)]
    ring = [place.transform(*s.grid.corner(*c)) for c in corners]
    footprint = " ".join(f"{lat:.12f} {lon:.12f}" for lon, lat in ring)
    return f"""    <Product_Footprint>
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
    </Coordinate_Reference_System>"""


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


def tile_xml(s: Scene) -> str:
    """MTD_TL.xml."""
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
