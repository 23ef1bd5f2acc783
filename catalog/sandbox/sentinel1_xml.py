"""The XML files of a Sentinel-1 product, GRD or SLC: annotation, calibration, noise, manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from catalog.sandbox.sentinel1 import Geometry, Tables

_C = 299_792_458.0
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


def _e(value: float) -> str:
    return f"{value:.15e}"


def _row(values: Iterable[float], form: str = ".6e") -> str:
    return " ".join(f"{v:{form}}" for v in values)


def _vector(tag: str, values: Iterable[float], form: str = ".6e") -> str:
    numbers = list(values)
    return f'<{tag} count="{len(numbers)}">{_row(numbers, form)}</{tag}>'


def _list(tag: str, items: list[str]) -> str:
    return f'<{tag} count="{len(items)}">\n' + "\n".join(items) + f"\n</{tag}>"


def _ads_header(g: Geometry, polarisation: str, number: int) -> str:
    frame = g.look.frame
    return f"""<adsHeader>
<missionId>S1A</missionId>
<productType>{g.kind}</productType>
<polarisation>{polarisation}</polarisation>
<mode>IW</mode>
<swath>{g.swath}</swath>
<startTime>{g.when(frame.first_s)}</startTime>
<stopTime>{g.when(frame.first_s + (frame.lines - 1) * frame.line_s)}</stopTime>
<absoluteOrbitNumber>60461</absoluteOrbitNumber>
<missionDataTakeId>493297</missionDataTakeId>
<imageNumber>{number:03d}</imageNumber>
</adsHeader>"""


def annotation(g: Geometry, polarisation: str, number: int, dn: NDArray[np.uint16] | NDArray[np.complex128]) -> str:
    """The product annotation of one polarisation."""
    frame = g.look.frame
    middle = g.grid[len(g.grid) // 2]
    position, velocity = g.look.orbit.state(0.0)
    east = np.array([-position[1], position[0], 0.0]) / np.hypot(position[0], position[1])
    north = np.cross(position / np.linalg.norm(position), east)
    heading = float(np.degrees(np.arctan2(velocity @ east, velocity @ north)))
    return f"""{_HEAD}<product>
{_ads_header(g, polarisation, number)}
<generalAnnotation>
<productInformation>
<pass>Descending</pass>
<timelinessCategory>Fast-24h</timelinessCategory>
<platformHeading>{_e(heading)}</platformHeading>
<projection>{"Ground" if g.kind == "GRD" else "Slant"} Range</projection>
<rangeSamplingRate>{_e(6.434523812571428e07)}</rangeSamplingRate>
<radarFrequency>{_e(5.405000454334350e09)}</radarFrequency>
<azimuthSteeringRate>{_e(1.590368784)}</azimuthSteeringRate>
</productInformation>
{_list("orbitList", _orbits(g))}
<terrainHeightList count="1">
<terrainHeight><azimuthTime>{g.when(frame.first_s)}</azimuthTime><value>{_e(middle["height"])}</value></terrainHeight>
</terrainHeightList>
</generalAnnotation>
<imageAnnotation>
{_image_information(g, dn)}
<processingInformation>
<thermalNoiseCorrectionPerformed>false</thermalNoiseCorrectionPerformed>
<ellipsoidName>WGS84</ellipsoidName>
<ellipsoidSemiMajorAxis>{_e(6378137.0)}</ellipsoidSemiMajorAxis>
<ellipsoidSemiMinorAxis>{_e(6356752.314245)}</ellipsoidSemiMinorAxis>
<bistaticDelayCorrectionApplied>true</bistaticDelayCorrectionApplied>
<orbitSource>Extracted</orbitSource>
</processingInformation>
</imageAnnotation>
{_bursts(g)}
<geolocationGrid>
{_list("geolocationGridPointList", _grid(g))}
</geolocationGrid>
<coordinateConversion>
{_list("coordinateConversionList", _conversions(g) if g.kind == "GRD" else [])}
</coordinateConversion>
<swathMerging>
<swathMergeList count="0"/>
</swathMerging>
</product>
"""


def _bursts(g: Geometry) -> str:
    """None in a GRD; an SLC's image is one burst, every sample of which is valid but those of its borders."""
    if g.kind == "GRD":
        return (
            "<swathTiming>\n<linesPerBurst>0</linesPerBurst>\n<samplesPerBurst>0</samplesPerBurst>\n"
            '<burstList count="0"/>\n</swathTiming>'
        )
    frame, first = g.look.frame, g.when(g.look.frame.first_s)
    valid = [
        _vector(f"{end}ValidSample", [at] * frame.lines, "d")
        for end, at in (("first", g.valid[0]), ("last", g.valid[1]))
    ]
    return f"""<swathTiming>
<linesPerBurst>{frame.lines}</linesPerBurst>
<samplesPerBurst>{frame.samples}</samplesPerBurst>
<burstList count="1">
<burst><azimuthTime>{first}</azimuthTime><azimuthAnxTime>{_e(2178.0 + frame.first_s)}</azimuthAnxTime>
<sensingTime>{first}</sensingTime><byteOffset>0</byteOffset>
{valid[0]}
{valid[1]}
</burst>
</burstList>
</swathTiming>"""


def _image_information(g: Geometry, dn: NDArray[np.uint16] | NDArray[np.complex128]) -> str:
    frame = g.look.frame
    last = frame.first_s + (frame.lines - 1) * frame.line_s
    detected = g.kind == "GRD"
    kind = "16 bit Unsigned Integer" if detected else "16 bit Signed Integer"
    mean, spread = complex(np.mean(dn)), float(np.std(dn))
    statistics = f"""<imageStatistics>
<outputDataMean><re>{mean.real:.6e}</re><im>{mean.imag:.6e}</im></outputDataMean>
<outputDataStdDev><re>{spread:.6e}</re><im>0.000000e+00</im></outputDataStdDev>
</imageStatistics>"""
    return f"""<imageInformation>
<productFirstLineUtcTime>{g.when(frame.first_s)}</productFirstLineUtcTime>
<productLastLineUtcTime>{g.when(last)}</productLastLineUtcTime>
<ascendingNodeTime>{g.when(-2178.0)}</ascendingNodeTime>
<anchorTime>{g.when(frame.first_s)}</anchorTime>
<productComposition>Individual</productComposition>
<sliceNumber>0</sliceNumber>
<slantRangeTime>{_e(2.0 * g.near_m / _C)}</slantRangeTime>
<pixelValue>{"Detected" if detected else "Complex"}</pixelValue>
<outputPixels>{kind}</outputPixels>
<rangePixelSpacing>{g.spacing_m[0]:.6e}</rangePixelSpacing>
<azimuthPixelSpacing>{g.spacing_m[1]:.6e}</azimuthPixelSpacing>
<azimuthTimeInterval>{_e(frame.line_s)}</azimuthTimeInterval>
<azimuthFrequency>{_e(1.0 / frame.line_s)}</azimuthFrequency>
<numberOfSamples>{frame.samples}</numberOfSamples>
<numberOfLines>{frame.lines}</numberOfLines>
<zeroDopMinusAcqTime>{_e(0.0)}</zeroDopMinusAcqTime>
<incidenceAngleMidSwath>{_e(g.grid[10]["incidence_flat"])}</incidenceAngleMidSwath>
{statistics}
</imageInformation>"""


def _orbits(g: Geometry) -> list[str]:
    rows = []
    for t in np.arange(-80.0, 80.1, 10.0):
        position, velocity = g.look.orbit.state(float(t))
        places, speeds = ("".join(f"<{a}>{_e(v)}</{a}>" for a, v in zip("xyz", vector, strict=True))
                          for vector in (position, velocity))  # fmt: skip
        rows.append(
            f"<orbit><time>{g.when(float(t))}</time><frame>Earth Fixed</frame>"
            f"<position>{places}</position><velocity>{speeds}</velocity></orbit>"
        )
    return rows


def _grid(g: Geometry) -> list[str]:
    return [
        f"<geolocationGridPoint><azimuthTime>{g.when(p['time'])}</azimuthTime>"
        f"<slantRangeTime>{_e(2.0 * p['slant'] / _C)}</slantRangeTime>"
        f"<line>{p['line']:.0f}</line><pixel>{p['sample']:.0f}</pixel>"
        f"<latitude>{_e(p['latitude'])}</latitude><longitude>{_e(p['longitude'])}</longitude>"
        f"<height>{_e(p['height'])}</height><incidenceAngle>{_e(p['incidence'])}</incidenceAngle>"
        f"<elevationAngle>{_e(p['incidence'] - 4.6)}</elevationAngle></geolocationGridPoint>"
        for p in g.grid
    ]


def _conversions(g: Geometry) -> list[str]:
    frame = g.look.frame
    middle = frame.first_s + frame.lines * frame.line_s / 2
    return [
        f"<coordinateConversion><azimuthTime>{g.when(t)}</azimuthTime>"
        f"<slantRangeTime>{_e(2.0 * g.near_m / _C)}</slantRangeTime><sr0>{_e(g.near_m)}</sr0>"
        f"{_vector('srgrCoefficients', g.to_ground, '.15e')}<gr0>{_e(0.0)}</gr0>"
        f"{_vector('grsrCoefficients', g.to_slant, '.15e')}</coordinateConversion>"
        for t in (frame.first_s - 1.0, middle, frame.first_s + frame.lines * frame.line_s + 1.0)
    ]


def _table_lines(g: Geometry) -> list[int]:
    step, lines = 200, g.look.frame.lines
    return [-step, *range(0, lines + step, step)]


def table_samples(count: int) -> NDArray[np.int64]:
    """Samples at which the tables are annotated; linear between them."""
    return np.unique(np.append(np.arange(0, count, 40), count - 1))


def noise_lines(count: int) -> NDArray[np.int64]:
    """Lines at which the azimuth factors of the noise are annotated; linear between them."""
    return np.unique(np.append(np.arange(0, count, 10), count - 1))


def calibration(g: Geometry, polarisation: str, number: int, table: Tables, beta: float) -> str:
    """The calibration tables; the first vector lies before the first line, the last beyond the last."""
    frame = g.look.frame
    at = table_samples(frame.samples)
    sigma = table.sigma[at]
    gamma = sigma * np.sqrt(np.cos(np.radians(table.incidence_deg[at])))
    vectors = [
        f"<calibrationVector><azimuthTime>{g.when(frame.first_s + line * frame.line_s)}</azimuthTime>"
        f"<line>{line}</line>{_vector('pixel', at, 'd')}{_vector('sigmaNought', sigma)}"
        f"{_vector('betaNought', np.full(at.shape, beta))}{_vector('gamma', gamma)}"
        f"{_vector('dn', np.full(at.shape, beta))}</calibrationVector>"
        for line in _table_lines(g)
    ]
    return f"""{_HEAD}<calibration>
{_ads_header(g, polarisation, number)}
<calibrationInformation>
<absoluteCalibrationConstant>1.000000e+00</absoluteCalibrationConstant>
</calibrationInformation>
{_list("calibrationVectorList", vectors)}
</calibration>
"""


def noise(g: Geometry, polarisation: str, number: int, table: Tables) -> str:
    """The noise tables as of IPF 2.9: range vectors and two azimuth blocks."""
    frame = g.look.frame
    at = table_samples(frame.samples)
    ranges = [
        f"<noiseRangeVector><azimuthTime>{g.when(frame.first_s + line * frame.line_s)}</azimuthTime>"
        f"<line>{line}</line>{_vector('pixel', at, 'd')}{_vector('noiseRangeLut', table.noise_range[at])}"
        "</noiseRangeVector>"
        for line in _table_lines(g)
    ]
    lines = noise_lines(frame.lines)
    blocks = [
        f"<noiseAzimuthVector><swath>IW{i + 1}</swath><firstAzimuthLine>0</firstAzimuthLine>"
        f"<firstRangeSample>{first}</firstRangeSample><lastAzimuthLine>{frame.lines - 1}</lastAzimuthLine>"
        f"<lastRangeSample>{last}</lastRangeSample>{_vector('line', lines, 'd')}"
        f"{_vector('noiseAzimuthLut', table.noise_azimuth[i][lines])}</noiseAzimuthVector>"
        for i, (first, last) in enumerate(((0, table.seam - 1), (table.seam, frame.samples - 1)))
    ]
    return f"""{_HEAD}<noise>
{_ads_header(g, polarisation, number)}
{_list("noiseRangeVectorList", ranges)}
{_list("noiseAzimuthVectorList", blocks)}
</noise>
"""


def manifest(g: Geometry, folder: Path, parts: Mapping[str, Path]) -> str:
    """The package's list of files, with the facts that catalogues read from it."""
    frame = g.look.frame
    first, last = frame.first_s, frame.first_s + (frame.lines - 1) * frame.line_s
    corners = (g.grid[0], g.grid[20], g.grid[-1], g.grid[-21])
    ring = " ".join(f"{p['latitude']:.6f},{p['longitude']:.6f}" for p in corners)
    objects = "".join(_object(folder, key, path) for key, path in sorted(parts.items()))
    made = f"{g.zero + timedelta(hours=3):%Y-%m-%dT%H:%M:%S.%f}"
    return f"""{_HEAD}<xfdu:XFDU xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xmlns:gml="http://www.opengis.net/gml" xmlns:xfdu="urn:ccsds:schema:xfdu:1" \
xmlns:safe="http://www.esa.int/safe/sentinel-1.0" xmlns:s1="http://www.esa.int/safe/sentinel-1.0/sentinel-1" \
xmlns:s1sar="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar" \
xmlns:s1sarl1="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1" \
version="esa/safe/sentinel-1.0/sentinel-1/sar/level-1/{g.kind.lower()}/standard/iwdp">
<informationPackageMap>
<xfdu:contentUnit unitType="SAFE Archive Information Package" textInfo="Sentinel-1 IW Level-1 {g.kind} Product"/>
</informationPackageMap>
<metadataSection>
<metadataObject ID="processing" classification="PROVENANCE" category="PDI"><metadataWrap mimeType="text/xml" \
vocabularyName="SAFE" textInfo="Processing"><xmlData><safe:processing name="{g.kind} Post Processing" start="{made}" \
stop="{made}"><safe:facility country="none" name="sandbox" organisation="sandbox" site="sandbox">\
<safe:software name="Sentinel-1 IPF" version="003.80"/></safe:facility></safe:processing></xmlData></metadataWrap>\
</metadataObject>
<metadataObject ID="platform" classification="DESCRIPTION" category="DMD"><metadataWrap mimeType="text/xml" \
vocabularyName="SAFE" textInfo="Platform Description"><xmlData><safe:platform>\
<safe:nssdcIdentifier>2014-016A</safe:nssdcIdentifier><safe:familyName>SENTINEL-1</safe:familyName>\
<safe:number>A</safe:number><safe:instrument><safe:familyName abbreviation="SAR">Synthetic Aperture Radar\
</safe:familyName><safe:extension><s1sarl1:instrumentMode><s1sarl1:mode>IW</s1sarl1:mode><s1sarl1:swath>{g.swath}\
</s1sarl1:swath></s1sarl1:instrumentMode></safe:extension></safe:instrument></safe:platform></xmlData></metadataWrap>\
</metadataObject>
<metadataObject ID="measurementOrbitReference" classification="DESCRIPTION" category="DMD"><metadataWrap \
mimeType="text/xml" vocabularyName="SAFE" textInfo="Orbit Reference"><xmlData><safe:orbitReference>\
<safe:orbitNumber type="start">60461</safe:orbitNumber><safe:orbitNumber type="stop">60461</safe:orbitNumber>\
<safe:relativeOrbitNumber type="start">168</safe:relativeOrbitNumber><safe:relativeOrbitNumber type="stop">168\
</safe:relativeOrbitNumber><safe:cycleNumber>358</safe:cycleNumber><safe:phaseIdentifier>1</safe:phaseIdentifier>\
<safe:extension><s1:orbitProperties><s1:pass>DESCENDING</s1:pass><s1:ascendingNodeTime>{g.when(-2178.0)}\
</s1:ascendingNodeTime></s1:orbitProperties></safe:extension></safe:orbitReference></xmlData></metadataWrap>\
</metadataObject>
<metadataObject ID="generalProductInformation" classification="DESCRIPTION" category="DMD"><metadataWrap \
mimeType="text/xml" vocabularyName="SAFE" textInfo="General Product Information"><xmlData>\
<s1sarl1:standAloneProductInformation><s1sarl1:instrumentConfigurationID>7</s1sarl1:instrumentConfigurationID>\
<s1sarl1:missionDataTakeID>493297</s1sarl1:missionDataTakeID>\
<s1sarl1:transmitterReceiverPolarisation>VV</s1sarl1:transmitterReceiverPolarisation>\
<s1sarl1:transmitterReceiverPolarisation>VH</s1sarl1:transmitterReceiverPolarisation>\
<s1sarl1:productClass>S</s1sarl1:productClass><s1sarl1:productClassDescription>SAR Standard L1 Product\
</s1sarl1:productClassDescription><s1sarl1:productComposition>Individual</s1sarl1:productComposition>\
<s1sarl1:productType>{g.kind}</s1sarl1:productType><s1sarl1:productTimelinessCategory>Fast-24h\
</s1sarl1:productTimelinessCategory></s1sarl1:standAloneProductInformation></xmlData></metadataWrap></metadataObject>
<metadataObject ID="acquisitionPeriod" classification="DESCRIPTION" category="DMD"><metadataWrap mimeType="text/xml" \
vocabularyName="SAFE" textInfo="Acquisition Period"><xmlData><safe:acquisitionPeriod>\
<safe:startTime>{g.when(first)}</safe:startTime><safe:stopTime>{g.when(last)}</safe:stopTime>\
</safe:acquisitionPeriod></xmlData></metadataWrap></metadataObject>
<metadataObject ID="measurementFrameSet" classification="DESCRIPTION" category="DMD"><metadataWrap \
mimeType="text/xml" vocabularyName="SAFE" textInfo="Frame Set"><xmlData><safe:frameSet><safe:frame><safe:footPrint \
srsName="http://www.opengis.net/gml/srs/epsg.xml#4326"><gml:coordinates>{ring}</gml:coordinates></safe:footPrint>\
</safe:frame></safe:frameSet></xmlData></metadataWrap></metadataObject>
</metadataSection>
<dataObjectSection>
{objects}</dataObjectSection>
</xfdu:XFDU>
"""


def _object(folder: Path, key: str, path: Path) -> str:
    kind = {"product": "Product", "calibration": "Calibration", "noise": "Noise"}.get(key.split("-")[0], "Measurement")
    content = path.read_bytes()
    mime = "application/octet-stream" if path.suffix == ".tiff" else "text/xml"
    name = path.stem.replace("-", "")
    return f"""<dataObject ID="{name}" repID="s1Level1{kind}Schema">
<byteStream mimeType="{mime}" size="{len(content)}">
<fileLocation locatorType="URL" href="./{path.relative_to(folder).as_posix()}"/>
<checksum checksumName="MD5">{hashlib.md5(content, usedforsecurity=False).hexdigest()}</checksum>
</byteStream>
</dataObject>
"""
