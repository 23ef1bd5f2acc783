"""Optical products in miniature: Landsat level 1, Gaofen-1/2, WorldView XML, PlanetScope and CBERS-4A as delivered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import tiny_products as tiny
from tiny_products import ORIGIN, UTM, ramp, write_tif

CORNERS = ((10.0, 45.2), (10.3, 45.2), (10.3, 45.0), (10.0, 45.0))
"""Upper left, upper right, lower right, lower left of the products in image geometry."""


def landsat1(folder: Path, rows: int = 60, cols: int = 70, form: str = "txt", angles: bool = True) -> Path:
    """An L1TP product, its MTL in one of three forms; the sun zenith is a plane in hundredths of degrees."""
    level2 = tiny.landsat(folder / "level2", rows, cols)
    tree = json.loads(next(level2.glob("*_MTL.json")).read_text())["LANDSAT_METADATA_FILE"]
    stem = "LC08_L1TP_192029_20210710_20210720_02_T1"
    names = {f"BAND_{n}": f"{stem}_B{n}.TIF" for n in range(1, 10)} | {"QUALITY_L1_PIXEL": f"{stem}_QA_PIXEL.TIF"}
    for n in range(1, 8):
        write_tif(folder / names[f"BAND_{n}"], ramp(rows, cols) + 8000 + 100 * n, 30.0, nodata=0)
    write_tif(folder / names["QUALITY_L1_PIXEL"], np.full((rows, cols), 21824, "uint16"), 30.0)
    if angles:
        names["ANGLE_SOLAR_ZENITH_BAND_4"] = f"{stem}_SZA.TIF"
        zenith = sun_zenith(rows, cols)
        write_tif(folder / f"{stem}_SZA.TIF", np.rint(100 * zenith).astype("int16"), 30.0, nodata=0)
    tree["PRODUCT_CONTENTS"] = {
        "LANDSAT_PRODUCT_ID": stem,
        "PROCESSING_LEVEL": "L1TP",
        **{f"FILE_NAME_{k}": v for k, v in names.items()},
    }
    del tree["LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"]
    (folder / f"{stem}_MTL.{form}").write_text(mtl(tree, form))
    for path in (*level2.iterdir(), level2):
        path.rmdir() if path.is_dir() else path.unlink()
    return folder


def sun_zenith(rows: int, cols: int) -> np.ndarray:
    """(y, x) degrees: 28.75 in the middle, as the MTL's elevation of 61.25 says, and a degree more at one corner."""
    y, x = (np.arange(n) / n - 0.5 for n in (rows, cols))
    return 28.75 + 0.8 * y[:, None] + 1.1 * x[None, :]


def mtl(tree: dict[str, dict[str, str]], form: str) -> str:
    """An MTL as text, JSON or XML."""
    if form == "json":
        return json.dumps({"LANDSAT_METADATA_FILE": tree})
    if form == "xml":
        groups = "".join(
            f"<{g}>" + "".join(f"<{k}>{escape(v)}</{k}>" for k, v in fields.items()) + f"</{g}>"
            for g, fields in tree.items()
        )
        return f'<?xml version="1.0"?><LANDSAT_METADATA_FILE>{groups}</LANDSAT_METADATA_FILE>'
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for group, fields in tree.items():
        held = [f"    {k} = {v if _is_number(v) else chr(34) + v + chr(34)}" for k, v in fields.items()]
        lines += [f"  GROUP = {group}", *held, f"  END_GROUP = {group}"]
    return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def gaofen2(
    folder: Path,
    camera: str = "GF2 PMS2",
    time: str = "2018-06-15 18:10:30",
    rows: int = 18,
    cols: int = 22,
    **more: str,
) -> Path:
    """A scene in image geometry: tiff, xml and rpb of one name; CenterTime is Beijing time."""
    satellite, sensor = camera.split()
    stem = f"{satellite}_{sensor}_E10.2_N45.1_{time[:10].replace('-', '')}_L1A0003492622"
    stem += f"-MSS{sensor[-1]}" if sensor.startswith("PMS") else ""
    data = np.stack([ramp(rows, cols) // 4 + 20 * k for k in range(4)]).astype("uint16")
    data[:, 0, :] = 0
    write_tif(folder / f"{stem}.tiff", data, None)
    fields = {
        "SatelliteID": satellite,
        "SensorID": sensor,
        "ReceiveTime": time,
        "ProductLevel": "LEVEL1A",
        "Bands": "1,2,3,4",
        "CenterTime": time,
        "ImageGSD": "3.24",
        "WidthInPixels": str(cols),
        "HeightInPixels": str(rows),
        "CloudPercent": "1",
        "SolarAzimuth": "150.5",
        "SolarZenith": "25.96",
    } | more
    for name, (lon, lat) in zip(("TopLeft", "TopRight", "BottomRight", "BottomLeft"), CORNERS, strict=True):
        fields |= {f"{name}Latitude": f"{lat}", f"{name}Longitude": f"{lon}"}
    inside = "".join(f"    <{k}>{v}</{k}>\n" for k, v in fields.items())
    (folder / f"{stem}.xml").write_text(
        f'<?xml version="1.0" encoding="UTF-8" ?>\n<ProductMetaData>\n{inside}</ProductMetaData>\n'
    )
    (folder / f"{stem}.rpb").write_text(rpb(rows, cols))
    return folder


def rpb(rows: int, cols: int) -> str:
    """RPC00B text of a plane: line falls with latitude, sample rises with longitude, nothing depends on height."""
    numbers = {
        "lineOffset": rows / 2,
        "sampOffset": cols / 2,
        "latOffset": 45.1,
        "longOffset": 10.15,
        "heightOffset": 100.0,
        "lineScale": rows / 2,
        "sampScale": cols / 2,
        "latScale": 0.1,
        "longScale": 0.15,
        "heightScale": 500.0,
    }
    scalars = "".join(f"\t{k} = {v};\n" for k, v in numbers.items())
    polynomials = {
        "lineNumCoef": [0.0, 0.0, -1.0] + [0.0] * 17,
        "lineDenCoef": [1.0] + [0.0] * 19,
        "sampNumCoef": [0.0, 1.0] + [0.0] * 18,
        "sampDenCoef": [1.0] + [0.0] * 19,
    }
    lists = "".join(
        f"\t{k} = (\n\t\t" + ",\n\t\t".join(f"{v:+.6E}" for v in vs) + ");\n" for k, vs in polynomials.items()
    )
    return (
        f'satId = "XXX";\nbandId = "XXX";\nSpecId = "XXX";\nBEGIN_GROUP = IMAGE\n\terrBias = 1.0;\n{scalars}{lists}'
        "END_GROUP = IMAGE\nEND;\n"
    )


def worldview_xml(folder: Path, rows: int = 24, cols: int = 30, projected: bool = True) -> Path:
    """A delivery whose IMD lies in the .XML only; unprojected it is a Basic 1B with its RPB."""
    tiny.worldview(folder, rows, cols)
    imd = next(folder.glob("*.IMD"))
    text = imd.read_text()
    imd.unlink()
    if not projected:
        text = text[: text.index("BEGIN_GROUP = MAP_PROJECTED_PRODUCT")] + "END;\n"
        text = text.replace("LV2A", "LV1B")
        image = next(folder.glob("*.TIF"))
        write_tif(image, np.stack([ramp(rows, cols) + 100 * k for k in range(3)]), None)
        image.with_suffix(".RPB").write_text(rpb(rows, cols))
    imd.with_suffix(".XML").write_text(imd_as_xml(text))
    return folder


def imd_as_xml(text: str) -> str:
    """The vendor's XML of an IMD: fields and groups in capitals below isd/IMD, lists as repeated elements."""
    lines = ['<?xml version="1.0" encoding="UTF-8" standalone="yes"?>', "<isd><IMD>"]
    for line in text.replace("(\n", "(").splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        value = value.rstrip(";").strip('"')
        if key == "BEGIN_GROUP":
            lines.append(f"<{value.upper().removesuffix('_1')}>")
        elif key == "END_GROUP":
            lines.append(f"</{value.upper().removesuffix('_1')}>")
        elif equals and not value.startswith("("):
            lines.append(f"<{key.upper()}>{escape(value)}</{key.upper()}>")
    return "\n".join([*lines, "</IMD></isd>"])


PLANET_COEFFICIENTS = (2.4368314353231946e-05, 2.6138170775695546e-05, 2.894169710055483e-05, 4.433218315124758e-05)
"""Of a scene of November 2015 with the sun at 39.42 degrees, as its XML has them."""


def planetscope(
    folder: Path, kind: str = "3B_AnalyticMS", rows: int = 20, cols: int = 26, xml: bool = True, **more: Any
) -> Path:
    """A 4-band scene: image, metadata XML and JSON, UDM2; kind 3B_AnalyticMS, 3B_AnalyticMS_SR or 1B_AnalyticMS."""
    scene = "20151119_025740_0c74"
    basic = kind.startswith("1B")
    gsd = None if basic else 3.0
    write_tif(folder / f"{scene}_{kind}.tif", np.stack([ramp(rows, cols) + 50 * k for k in range(4)]), gsd, nodata=0)
    masks = np.zeros((8, rows, cols), "uint8")
    masks[0] = 1
    write_tif(folder / f"{scene}_{kind[:2]}_udm2.tif", masks, gsd)
    if xml:
        text = planet_xml(kind[:2], rows, cols, **more)
        (folder / f"{scene}_{kind.removesuffix('_SR')}_metadata.xml").write_text(text)
    properties = {
        "acquired": "2015-11-19T02:57:40.314191Z",
        "cloud_cover": 0.25,
        "instrument": "PS2",
        "satellite_id": "0c74",
        "sun_azimuth": 132.8,
        "sun_elevation": round(more.get("sun", 39.42085), 1),
    }
    (folder / f"{scene}_metadata.json").write_text(json.dumps({"id": scene, "properties": properties}))
    if basic:
        (folder / f"{scene}_1B_AnalyticMS_RPC.TXT").write_text(rpc_txt(rows, cols))
    return folder


def planet_xml(
    level: str, rows: int, cols: int, coefficients: tuple[Any, ...] = PLANET_COEFFICIENTS, sun: float = 39.42085
) -> str:
    """The metadata XML of a scene with its namespaces."""
    bands = "".join(
        f"<ps:bandSpecificMetadata><ps:bandNumber>{n}</ps:bandNumber>"
        f"<ps:radiometricScaleFactor>0.01</ps:radiometricScaleFactor>"
        f"<ps:reflectanceCoefficient>{v}</ps:reflectanceCoefficient></ps:bandSpecificMetadata>"
        for n, v in enumerate(coefficients, 1)
    )
    corners = "".join(
        f"<ps:{name}><ps:latitude>{lat}</ps:latitude><ps:longitude>{lon}</ps:longitude></ps:{name}>"
        for name, (lon, lat) in zip(("topLeft", "topRight", "bottomRight", "bottomLeft"), CORNERS, strict=True)
    )
    crs = f"<ps:spatialReferenceSystem><ps:epsgCode>{UTM[5:]}</ps:epsgCode></ps:spatialReferenceSystem>"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ps:EarthObservation xmlns:ps="http://schemas.planet.com/ps/v1/planet_product_metadata_geocorrected_level"
 xmlns:eop="http://earth.esa.int/eop" xmlns:opt="http://earth.esa.int/opt" xmlns:gml="http://www.opengis.net/gml">
<gml:metaDataProperty><ps:EarthObservationMetaData><eop:identifier>20151119_025740_0c74</eop:identifier>
<eop:productType>L{level}</eop:productType></ps:EarthObservationMetaData></gml:metaDataProperty>
<gml:using><eop:EarthObservationEquipment>
<eop:platform><eop:Platform><eop:shortName>PlanetScope</eop:shortName>
<eop:serialIdentifier>0c74</eop:serialIdentifier></eop:Platform></eop:platform>
<eop:instrument><eop:Instrument><eop:shortName>PS2</eop:shortName></eop:Instrument></eop:instrument>
<eop:acquisitionParameters><ps:Acquisition>
<opt:illuminationAzimuthAngle uom="deg">1.327801e+02</opt:illuminationAzimuthAngle>
<opt:illuminationElevationAngle uom="deg">{sun}</opt:illuminationElevationAngle>
<ps:acquisitionDateTime>2015-11-19T02:57:40+00:00</ps:acquisitionDateTime>
</ps:Acquisition></eop:acquisitionParameters></eop:EarthObservationEquipment></gml:using>
<gml:target><ps:Footprint><ps:geographicLocation>{corners}</ps:geographicLocation></ps:Footprint></gml:target>
<gml:resultOf><ps:EarthObservationResult><eop:product><ps:ProductInformation>{crs if level == "3B" else ""}
<ps:numRows>{rows}</ps:numRows><ps:numColumns>{cols}</ps:numColumns><ps:numBands>{len(coefficients)}</ps:numBands>
</ps:ProductInformation></eop:product><opt:cloudCoverPercentage uom="percentage">0.79</opt:cloudCoverPercentage>
{bands}</ps:EarthObservationResult></gml:resultOf></ps:EarthObservation>"""


def rpc_txt(rows: int, cols: int) -> str:
    """The same plane as `rpb`, as an RPC text file with units."""
    numbers = {
        "LINE_OFF": f"{rows / 2} pixels",
        "SAMP_OFF": f"{cols / 2} pixels",
        "LAT_OFF": "45.1 degrees",
        "LONG_OFF": "10.15 degrees",
        "HEIGHT_OFF": "100.0 meters",
        "LINE_SCALE": f"{rows / 2} pixels",
        "SAMP_SCALE": f"{cols / 2} pixels",
        "LAT_SCALE": "0.1 degrees",
        "LONG_SCALE": "0.15 degrees",
        "HEIGHT_SCALE": "500.0 meters",
    }
    ones = {"LINE_NUM": {3: -1.0}, "LINE_DEN": {1: 1.0}, "SAMP_NUM": {2: 1.0}, "SAMP_DEN": {1: 1.0}}
    numbers |= {f"{p}_COEFF_{k}": f"{held.get(k, 0.0):+.6E}" for p, held in ones.items() for k in range(1, 21)}
    return "".join(f"{k}: {v}\n" for k, v in numbers.items())


CBERS_GAINS = {"WPM": (0.29107, 0.297832, 0.232504, 0.178993), "WFI": (0.245, 0.287, 0.264, 0.211)}
"""Blue, green, red, near infrared, as INPE publishes them for WPM and a wide scene's XML has them."""


def cbers4a(
    folder: Path, camera: str = "WPM", rows: int = 20, cols: int = 24, surface: bool = False, **more: Any
) -> Path:
    """A level 4 scene of four bands, an XML and an image each; `surface` adds reflectance and the cloud mask."""
    numbers = {"WPM": (1, 2, 3, 4), "MUX": (5, 6, 7, 8), "WFI": (13, 14, 15, 16)}[camera]
    gsd = {"WPM": 8.0, "MUX": 16.5, "WFI": 55.0}[camera]
    scene = f"CBERS_4A_{camera}_20200730_209_139_L4"
    for k, number in enumerate(numbers):
        stem = f"{scene}_BAND{number}"
        write_tif(folder / f"{stem}.tif", ramp(rows, cols) // 4 + 10 * k, gsd)
        (folder / f"{stem}.xml").write_text(cbers_xml(camera, numbers, gsd, rows, cols, **more))
        if surface:
            reflectance = (ramp(rows, cols).astype("int16") + 100 * k).astype("int16")
            reflectance[0] = -9999
            write_tif(folder / f"{stem}_GRID_SURFACE.tif", reflectance, gsd, nodata=-9999)
    if surface:
        write_tif(folder / f"{scene}_CMASK_GRID_SURFACE.tif", np.full((rows, cols), 127, "uint8"), gsd)
    return folder


def cbers_xml(
    camera: str,
    numbers: tuple[int, ...],
    gsd: float,
    rows: int,
    cols: int,
    gains: tuple[Any, ...] | None = None,
    sun: float = 44.3386,
    incidence: int = 45,
) -> str:
    """The XML beside a band; the wide camera's holds its fields below leftCamera."""
    gains = CBERS_GAINS.get(camera, CBERS_GAINS["WPM"]) if gains is None else gains
    held = "".join(f'<band name="{n}">{g}</band>' for n, g in zip(numbers, gains, strict=False))
    coefficients = f"<absoluteCalibrationCoefficient>{held}</absoluteCalibrationCoefficient>" if held else ""
    body = f"""<satellite><name>CBERS</name><number>4A</number><instrument channel="1">{camera}</instrument></satellite>
<sunIncidenceAngle><degree>{incidence}</degree><minute>47</minute><second>19</second><millisecond>498</millisecond>
</sunIncidenceAngle><image><level>4</level><columns>{cols}</columns><lines>{rows}</lines>
<verticalPixelSize>{gsd}</verticalPixelSize><horizontalPixelSize>{gsd}</horizontalPixelSize>
<timeStamp><begin>2020-07-30T13:51:17.286563</begin><center>2020-07-30T13:51:24.147711</center></timeStamp>
<sunPosition><elevation>{sun}</elevation><sunAzimuth>32.9813</sunAzimuth></sunPosition>{coefficients}</image>"""
    body = f"<leftCamera>{body}</leftCamera>" if camera == "WFI" else body
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n'
        f'<prdf xmlns="http://www.gisplan.com.br/xmlsat" generator="G2T">{body}</prdf>'
    )


__all__ = ["ORIGIN", "UTM", "cbers4a", "gaofen2", "landsat1", "planetscope", "worldview_xml"]
