"""Tiny products in their real folder layouts and metadata formats, for tests of the catalogue's ground floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

UTM = "EPSG:32632"
ORIGIN = (600_000.0, 5_000_000.0)
"""Upper left corner of every tiny optical product."""


def write_tif(path: Path, data: np.ndarray, gsd_m: float | None = 10.0, **profile: Any) -> Path:
    """(band, row, column) or (row, column) as a GeoTIFF at ORIGIN; without a place where gsd_m is None."""
    bands = data if data.ndim == 3 else data[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # else GDAL deletes an image's sidecars, the IMD among them, before it writes
    place = {} if gsd_m is None else {"crs": UTM, "transform": from_origin(*ORIGIN, gsd_m, gsd_m)}
    options = {"driver": "GTiff", "count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
    tags = profile.pop("tags", {})
    with rasterio.open(path, "w", **options, dtype=bands.dtype, **place | profile) as dst:
        dst.write(bands)
        dst.update_tags(**tags)
    return path


def ramp(rows: int, cols: int, dtype: str = "uint16") -> np.ndarray:
    """A plane that rises by 7 per line and 3 per pixel from 1000."""
    return (1000 + 7 * np.arange(rows)[:, None] + 3 * np.arange(cols)[None, :]).astype(dtype)


def worldview(folder: Path, rows: int = 24, cols: int = 30, earlier: str = "") -> Path:
    """A map-projected RGB product of 2 m: image and IMD of one name."""
    data = np.stack([ramp(rows, cols) + 100 * k for k in range(3)])
    write_tif(folder / "10MAY01103045-M2AS.TIF", data, 2.0)
    corners = _corners(rows, cols, 2.0)
    bands = "".join(
        f"BEGIN_GROUP = BAND_{name}\n{corners}\tabsCalFactor = {factor};\n\teffectiveBandwidth = {width};\n"
        f"\tTDILevel = 24;\nEND_GROUP = BAND_{name}\n"
        for name, factor, width in (("R", 1.1e-2, 5.74e-2), ("G", 9.7e-3, 6.3e-2), ("B", 1.26e-2, 5.43e-2))
    )
    text = f"""version = "AA";
generationTime = 2010-05-02T02:52:22.000000Z;
bandId = "RGB";
productLevel = "LV2A";
numRows = {rows};
numColumns = {cols};
{bands}BEGIN_GROUP = IMAGE_1
\tsatId = "WV02";
\tfirstLineTime = {earlier or "2010-05-01T10:30:45.123450Z"};
\tTLCList = (
\t( 1, 0.5),
\t( 2, 0.7) );
\tmeanSunAz = 150.5;
\tmeanSunEl = 55.25;
\tmeanOffNadirViewAngle = 7.5;
\tcloudCover = 0.05;
END_GROUP = IMAGE_1
BEGIN_GROUP = MAP_PROJECTED_PRODUCT
\tmapProjName = "UTM";
\tmapZone = 32;
\tmapHemi = "N";
\tproductGSD = 2.0;
END_GROUP = MAP_PROJECTED_PRODUCT
END;
"""
    (folder / "10MAY01103045-M2AS.IMD").write_text(text)
    return folder


def _corners(rows: int, cols: int, gsd: float) -> str:
    from pyproj import Transformer

    x, y = ORIGIN
    places = {
        "UL": (x, y),
        "UR": (x + cols * gsd, y),
        "LR": (x + cols * gsd, y - rows * gsd),
        "LL": (x, y - rows * gsd),
    }
    to_lonlat = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    lines = []
    for name, place in places.items():
        lon, lat = to_lonlat.transform(*place)
        lines.append(f"\t{name}Lon = {lon:.9f};\n\t{name}Lat = {lat:.9f};\n")
    return "".join(lines)


def landsat(folder: Path, rows: int = 40, cols: int = 44, thin: int = 1, date: str = "2021-07-10") -> Path:
    """An L2SP product with its MTL as JSON; `thin` decimates the files but not the metadata."""
    stem = f"LC08_L2SP_192029_{date.replace('-', '')}_20210720_02_T1"
    x, y = ORIGIN
    gsd = 30.0
    names = {f"BAND_{n}": f"{stem}_SR_B{n}.TIF" for n in range(1, 8)}
    names |= {"QUALITY_L1_PIXEL": f"{stem}_QA_PIXEL.TIF"}
    for k, name in enumerate(names.values()):
        data = np.full((rows, cols), 21824, "uint16") if "QA" in name else ramp(rows, cols) + 8000 + 100 * k
        data[:2] = 1 if "QA" in name else 0
        write_tif(folder / name, data[::thin, ::thin], gsd * thin, **({} if "QA" in name else {"nodata": 0}))
    last = {"X": x + (cols - 0.5) * gsd, "Y": y - (rows - 0.5) * gsd}
    first = {"X": x + 0.5 * gsd, "Y": y - 0.5 * gsd}
    corners = {f"CORNER_UL_PROJECTION_{a}_PRODUCT": str(first[a]) for a in "XY"}
    corners |= {f"CORNER_LR_PROJECTION_{a}_PRODUCT": str(last[a]) for a in "XY"}
    corners |= {
        f"CORNER_{c}_{a}_PRODUCT": v for c in ("UL", "UR", "LL", "LR") for a, v in (("LON", "10"), ("LAT", "45"))
    }
    bands = [str(n) for n in range(1, 8)]
    tree = {
        "PRODUCT_CONTENTS": {
            "LANDSAT_PRODUCT_ID": stem,
            "PROCESSING_LEVEL": "L2SP",
            **{f"FILE_NAME_{k}": v for k, v in names.items()},
        },
        "IMAGE_ATTRIBUTES": {
            "SPACECRAFT_ID": "LANDSAT_8",
            "SENSOR_ID": "OLI_TIRS",
            "WRS_PATH": "192",
            "WRS_ROW": "29",
            "DATE_ACQUIRED": date,
            "SCENE_CENTER_TIME": "10:05:11.1234560Z",
            "CLOUD_COVER": "12.5",
            "SUN_AZIMUTH": "-140.5",
            "SUN_ELEVATION": "61.25",
            "EARTH_SUN_DISTANCE": "1.0166498",
        },
        "PROJECTION_ATTRIBUTES": {
            "MAP_PROJECTION": "UTM",
            "UTM_ZONE": "32",
            "GRID_CELL_SIZE_REFLECTIVE": "30.00",
            "REFLECTIVE_LINES": str(rows),
            "REFLECTIVE_SAMPLES": str(cols),
            **corners,
        },
        "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": {
            **{f"REFLECTANCE_MULT_BAND_{n}": "2.75e-05" for n in bands},
            **{f"REFLECTANCE_ADD_BAND_{n}": "-0.2" for n in bands},
        },
        "LEVEL1_RADIOMETRIC_RESCALING": {
            **{f"REFLECTANCE_MULT_BAND_{n}": "2.0000E-05" for n in bands},
            **{f"REFLECTANCE_ADD_BAND_{n}": "-0.100000" for n in bands},
        },
    }
    (folder / f"{stem}_MTL.json").write_text(json.dumps({"LANDSAT_METADATA_FILE": tree}))
    return folder


def sentinel2(folder: Path, rows10: int = 40, level: str = "L2A", offset: float | None = -1000.0) -> Path:
    """A SAFE of 10 and 20 m bands (GeoTIFF in place of JPEG 2000) with product and tile XML."""
    stem = f"S2A_MSI{level}_20240615T101559_N0510_R065_T32TQM_20240615T141122"
    safe = folder / f"{stem}.SAFE"
    granule = f"GRANULE/{level}_T32TQM_A046921_20240615T101600"
    layers = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B11": 20, "SCL": 20}
    listed = []
    for name, gsd in layers.items():
        listed.append(f"{granule}/IMG_DATA/R{gsd}m/T32TQM_20240615T101559_{name}_{gsd}m")
        n = rows10 * 10 // gsd
        data = np.full((n, n), 4, "uint8") if name == "SCL" else ramp(n, n)
        data[: n // 4, : n // 4] = 0
        write_tif(safe / f"{listed[-1]}.tif", data, float(gsd))
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{k}">{offset:g}</BOA_ADD_OFFSET>' for k in range(13)) if offset else ""
    offsets = f"<BOA_ADD_OFFSET_VALUES_LIST>{offsets}</BOA_ADD_OFFSET_VALUES_LIST>" if offsets else ""
    images = "".join(f"<IMAGE_FILE>{image}</IMAGE_FILE>" for image in listed)
    product = f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
<n1:General_Info><Product_Info><PRODUCT_START_TIME>2024-06-15T10:15:59.024Z</PRODUCT_START_TIME>
<PRODUCT_URI>{stem}.SAFE</PRODUCT_URI><PROCESSING_BASELINE>05.10</PROCESSING_BASELINE>
<Datatake><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME><SENSING_ORBIT_NUMBER>65</SENSING_ORBIT_NUMBER>
<SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION></Datatake>
<Product_Organisation><Granule_List><Granule>{images}</Granule></Granule_List></Product_Organisation></Product_Info>
<Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>{offsets}
</Product_Image_Characteristics></n1:General_Info>
<n1:Quality_Indicators_Info><Cloud_Coverage_Assessment>3.5</Cloud_Coverage_Assessment></n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>"""
    sizes = "".join(
        f'<Size resolution="{g}"><NROWS>{rows10 * 10 // g}</NROWS><NCOLS>{rows10 * 10 // g}</NCOLS></Size>'
        f'<Geoposition resolution="{g}"><ULX>{ORIGIN[0]:g}</ULX><ULY>{ORIGIN[1]:.0f}</ULY><XDIM>{g}</XDIM>'
        f"<YDIM>-{g}</YDIM></Geoposition>"
        for g in (10, 20)
    )
    tile = f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd">
<n1:General_Info><TILE_ID>S2A_OPER_MSI_L2A_TL_2APS_20240615T141122_A046921_T32TQM_N05.10</TILE_ID>
<SENSING_TIME>2024-06-15T10:22:03.5Z</SENSING_TIME></n1:General_Info>
<n1:Geometric_Info><Tile_Geocoding><HORIZONTAL_CS_CODE>{UTM}</HORIZONTAL_CS_CODE>{sizes}</Tile_Geocoding>
<Tile_Angles><Mean_Sun_Angle><ZENITH_ANGLE unit="deg">25.5</ZENITH_ANGLE>
<AZIMUTH_ANGLE unit="deg">145.25</AZIMUTH_ANGLE></Mean_Sun_Angle></Tile_Angles>
</n1:Geometric_Info></n1:Level-2A_Tile_ID>"""
    (safe / f"MTD_MSI{level}.xml").write_text(product)
    (safe / granule / "MTD_TL.xml").write_text(tile)
    return safe


def gaofen3(folder: Path, rows: int = 16, cols: int = 20) -> Path:
    """A quad-pol L1A folder: four two-band int16 images in radar geometry and a meta.xml."""
    stem = "GF3_KAS_QPSI_009999_E10.1_N45.1_20240616_L1A_AHV_L10000000001"
    rng = np.random.default_rng(3)
    for pol in ("HH", "HV", "VH", "VV"):
        pair = rng.integers(-3000, 3000, (2, rows, cols)).astype("int16")
        pair[:, 0, :] = 0
        write_tif(folder / f"{stem.replace('AHV', pol)}.tiff", pair, None)
    values = "".join(f"<{p}>{v}</{p}>" for p, v in (("HH", 3214.5), ("HV", 912.25), ("VH", 905.0), ("VV", 2988.75)))
    constants = "".join(f"<{p}>{v}</{p}>" for p, v in (("HH", 12.5), ("HV", 10.25), ("VH", 10.25), ("VV", 12.0)))
    corner = {
        "topLeft": (10.0, 45.2),
        "topRight": (10.3, 45.2),
        "bottomLeft": (10.0, 45.0),
        "bottomRight": (10.3, 45.0),
    }
    corners = "".join(
        f"<{k}><latitude>{lat}</latitude><longitude>{lon}</longitude></{k}>" for k, (lon, lat) in corner.items()
    )
    (folder / f"{stem}.meta.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<product><satellite>GF3</satellite><sensor><imagingMode>QPSI</imagingMode><RadarCenterFrequency>5.4</RadarCenterFrequency>
<lookDirection>R</lookDirection></sensor><productinfo><productLevel>1A</productLevel></productinfo>
<imageinfo><imagingTime><start>2024-06-16 22:10:11.250000</start><end>2024-06-16 22:10:16.500000</end></imagingTime>
<corner>{corners}</corner><width>{cols}</width><height>{rows}</height><widthspace>2.25</widthspace>
<heightspace>5.12</heightspace><QualifyValue>{values}</QualifyValue></imageinfo>
<processinfo><CalibrationConst>{constants}</CalibrationConst></processinfo></product>""")
    return folder


def sentinel1(folder: Path, rows: int = 30, cols: int = 40) -> Path:
    """A GRD SAFE of two polarisations in ground range."""
    stem = "S1A_IW_GRDH_1SDV_20240617T052623_20240617T052648_054360_069D00_ABCD"
    safe = folder / f"{stem}.SAFE"
    tables = safe / "annotation" / "calibration"
    tables.mkdir(parents=True)
    for k, pol in enumerate(("VV", "VH"), start=1):
        name = f"s1a-iw-grd-{pol.lower()}-20240617t052623-20240617t052648-054360-069d00-{k:03d}"
        write_tif(safe / "measurement" / f"{name}.tiff", ramp(rows, cols), None)
        (safe / "annotation" / f"{name}.xml").write_text(_annotation(pol, rows, cols))
        vectors = "".join(
            f'<calibrationVector><line>{line}</line><pixel count="2">0 {cols}</pixel>'
            f'<sigmaNought count="2">400.0 500.0</sigmaNought><betaNought count="2">300.0 300.0</betaNought>'
            f'<gamma count="2">350.0 450.0</gamma></calibrationVector>'
            for line in (0, rows)
        )
        header = f"<adsHeader><polarisation>{pol}</polarisation></adsHeader>"
        (tables / f"calibration-{name}.xml").write_text(
            f"<calibration>{header}<calibrationInformation><absoluteCalibrationConstant>1.0</absoluteCalibrationConstant>"
            f'</calibrationInformation><calibrationVectorList count="2">{vectors}</calibrationVectorList></calibration>'
        )
        noise = "".join(
            f'<noiseVector><line>{line}</line><pixel count="2">0 {cols}</pixel>'
            '<noiseLut count="2">20 30</noiseLut></noiseVector>'
            for line in (0, rows)
        )
        (tables / f"noise-{name}.xml").write_text(
            f'<noise>{header}<noiseVectorList count="2">{noise}</noiseVectorList></noise>'
        )
    (safe / "manifest.safe").write_text("""<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="s" xmlns:gml="g">
<safe:platform><safe:familyName>SENTINEL-1</safe:familyName><safe:number>A</safe:number></safe:platform>
<safe:orbitNumber type="start">54360</safe:orbitNumber>
<safe:relativeOrbitNumber type="start">168</safe:relativeOrbitNumber>
<pass>DESCENDING</pass><transmitterReceiverPolarisation>VV</transmitterReceiverPolarisation>
<transmitterReceiverPolarisation>VH</transmitterReceiverPolarisation><productType>GRD</productType><mode>IW</mode>
<safe:acquisitionPeriod><safe:startTime>2024-06-17T05:26:23.794457</safe:startTime>
<safe:stopTime>2024-06-17T05:26:48.793373</safe:stopTime></safe:acquisitionPeriod>
<gml:coordinates>45.0,10.2 45.0,10.0 45.2,10.0 45.2,10.2</gml:coordinates></xfdu:XFDU>""")
    return safe


def _annotation(pol: str, rows: int, cols: int) -> str:
    orbit = "".join(
        f"<orbit><time>2024-06-17T05:26:{10 * k:02d}.000000</time><position><x>{4.7e6 + k}</x>"
        "<y>1.4e6</y><z>5.0e6</z></position>"
        "<velocity><x>5600.0</x><y>-260.0</y><z>-5100.0</z></velocity></orbit>"
        for k in range(6)
    )
    points = "".join(
        f"<geolocationGridPoint><azimuthTime>2024-06-17T05:26:{24 + 20 * (line > 0)}.000000</azimuthTime>"
        f"<slantRangeTime>5.3e-3</slantRangeTime><line>{line}</line><pixel>{pixel}</pixel><latitude>45.1</latitude>"
        "<longitude>10.1</longitude><height>12.5</height><incidenceAngle>35.0</incidenceAngle></geolocationGridPoint>"
        for line in (0, rows - 1)
        for pixel in (0, cols - 1)
    )
    return f"""<product><adsHeader><missionId>S1A</missionId><productType>GRD</productType>
<polarisation>{pol}</polarisation><mode>IW</mode><swath>IW</swath></adsHeader><generalAnnotation><productInformation><pass>Descending</pass>
<rangeSamplingRate>6.43e7</rangeSamplingRate><radarFrequency>5.405000454334350e+09</radarFrequency></productInformation>
<orbitList count="6">{orbit}</orbitList></generalAnnotation><imageAnnotation><imageInformation>
<productFirstLineUtcTime>2024-06-17T05:26:23.794457</productFirstLineUtcTime>
<productLastLineUtcTime>2024-06-17T05:26:48.793373</productLastLineUtcTime><slantRangeTime>5.3e-3</slantRangeTime>
<rangePixelSpacing>10.0</rangePixelSpacing><azimuthPixelSpacing>10.0</azimuthPixelSpacing>
<azimuthTimeInterval>1.498376640333055e-03</azimuthTimeInterval><numberOfSamples>{cols}</numberOfSamples>
<numberOfLines>{rows}</numberOfLines><incidenceAngleMidSwath>38.9</incidenceAngleMidSwath>
</imageInformation></imageAnnotation>
<coordinateConversion><coordinateConversionList count="1"><coordinateConversion>
<azimuthTime>2024-06-17T05:26:23.884407</azimuthTime><sr0>8.0e5</sr0>
<srgrCoefficients count="3">0.0 1.9 -4e-6</srgrCoefficients>
<gr0>0.0</gr0><grsrCoefficients count="3">8.0e5 0.51 5.3e-7</grsrCoefficients></coordinateConversion>
</coordinateConversionList></coordinateConversion><geolocationGrid><geolocationGridPointList count="4">{points}
</geolocationGridPointList></geolocationGrid></product>"""
