"""Tiny radar products in their real folder layouts: Sentinel-1 SLC, PALSAR-2, Gaofen-3 L2, Capella with its JSON."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from tiny_products import UTM, gaofen3, ramp, write_tif

SLC_STEM = "S1A_IW_SLC__1SDV_20240617T052623_20240617T052648_054360_069D00_1234"
BURST_LINES, BURST_SAMPLES = 12, 20
SIGMA, BETA, GAMMA = (400.0, 500.0), (300.0, 300.0), (350.0, 450.0)
"""Gains at the first pixel and at pixel BURST_SAMPLES, the same on every line."""
NOISE, AZIMUTH = 1600.0, 1.5
"""Range noise and azimuth factor, the same everywhere."""


def complex_ramp(rows: int, cols: int, seed: int = 7) -> np.ndarray:
    """Whole numbers as complex64, so that 16 bits hold them; none is 0."""
    rng = np.random.default_rng(seed)
    pair = rng.integers(1, 3000, (2, rows, cols)) * rng.choice([-1, 1], (2, rows, cols))
    return (pair[0] + 1j * pair[1]).astype("complex64")


def sentinel1_slc(folder: Path, swaths: tuple[str, ...] = ("IW1", "IW2"), bursts: int = 2) -> Path:
    """An SLC SAFE of two polarisations: image, annotation, calibration and noise file per swath and channel."""
    safe = folder / f"{SLC_STEM}.SAFE"
    tables = safe / "annotation" / "calibration"
    tables.mkdir(parents=True)
    rows = bursts * BURST_LINES
    channels = [(s, p) for s in swaths for p in ("VH", "VV")]
    for k, (swath, pol) in enumerate(channels, start=1):
        name = f"s1a-{swath.lower()}-slc-{pol.lower()}-20240617t052624-20240617t052648-054360-069d00-{k:03d}"
        pixels = complex_ramp(rows, BURST_SAMPLES, k)
        pixels[:2] = 0
        _write_complex_int16(safe / "measurement" / f"{name}.tiff", pixels)
        (safe / "annotation" / f"{name}.xml").write_text(slc_annotation(swath, pol, bursts))
        (tables / f"calibration-{name}.xml").write_text(calibration_xml(pol, rows, BURST_SAMPLES))
        (tables / f"noise-{name}.xml").write_text(noise_xml(swath, pol, rows, BURST_SAMPLES))
    (safe / "manifest.safe").write_text("""<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="s" xmlns:gml="g">
<safe:platform><safe:familyName>SENTINEL-1</safe:familyName><safe:number>A</safe:number></safe:platform>
<safe:orbitNumber type="start">54360</safe:orbitNumber>
<safe:relativeOrbitNumber type="start">168</safe:relativeOrbitNumber>
<pass>DESCENDING</pass><transmitterReceiverPolarisation>VV</transmitterReceiverPolarisation>
<transmitterReceiverPolarisation>VH</transmitterReceiverPolarisation><productType>SLC</productType><mode>IW</mode>
<safe:acquisitionPeriod><safe:startTime>2024-06-17T05:26:23.794457</safe:startTime>
<safe:stopTime>2024-06-17T05:26:48.793373</safe:stopTime></safe:acquisitionPeriod>
<gml:coordinates>45.0,10.2 45.0,10.0 45.2,10.0 45.2,10.2</gml:coordinates></xfdu:XFDU>""")
    return safe


def _write_complex_int16(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    rows, cols = pixels.shape
    with rasterio.open(path, "w", driver="GTiff", count=1, height=rows, width=cols, dtype="complex_int16") as dst:
        dst.write(pixels, 1)


def calibration_xml(pol: str, rows: int, cols: int) -> str:
    """A calibration file whose gains are linear in pixel and constant in line."""
    values = {"sigmaNought": SIGMA, "betaNought": BETA, "gamma": GAMMA}
    lists = "".join(f'<{name} count="2">{a} {b}</{name}>' for name, (a, b) in values.items())
    vectors = "".join(
        f'<calibrationVector><line>{line}</line><pixel count="2">0 {cols}</pixel>{lists}</calibrationVector>'
        for line in (0, rows)
    )
    return (
        f"<calibration><adsHeader><polarisation>{pol}</polarisation></adsHeader><calibrationInformation>"
        "<absoluteCalibrationConstant>1.0</absoluteCalibrationConstant></calibrationInformation>"
        f'<calibrationVectorList count="2">{vectors}</calibrationVectorList></calibration>'
    )


def noise_xml(swath: str, pol: str, rows: int, cols: int) -> str:
    """A noise file of the format since 2018, NOISE times AZIMUTH everywhere."""
    vectors = "".join(
        f'<noiseRangeVector><line>{line}</line><pixel count="2">0 {cols}</pixel>'
        f'<noiseRangeLut count="2">{NOISE} {NOISE}</noiseRangeLut></noiseRangeVector>'
        for line in (0, rows)
    )
    along = (
        f"<noiseAzimuthVector><swath>{swath}</swath><firstAzimuthLine>0</firstAzimuthLine>"
        f"<firstRangeSample>0</firstRangeSample><lastAzimuthLine>{rows - 1}</lastAzimuthLine>"
        f'<lastRangeSample>{cols - 1}</lastRangeSample><line count="2">0 {rows - 1}</line>'
        f'<noiseAzimuthLut count="2">{AZIMUTH} {AZIMUTH}</noiseAzimuthLut></noiseAzimuthVector>'
    )
    return (
        f"<noise><adsHeader><polarisation>{pol}</polarisation></adsHeader>"
        f'<noiseRangeVectorList count="2">{vectors}</noiseRangeVectorList>'
        f'<noiseAzimuthVectorList count="1">{along}</noiseAzimuthVectorList></noise>'
    )


def slc_annotation(swath: str, pol: str, bursts: int) -> str:
    """The annotation of one swath and channel, its bursts 2.75 s apart."""
    rows = bursts * BURST_LINES
    orbit = "".join(
        f"<orbit><time>2024-06-17T05:26:{10 * k:02d}.000000</time><position><x>{4.7e6 + 1e3 * k}</x>"
        "<y>1.4e6</y><z>5.0e6</z></position>"
        "<velocity><x>5600.0</x><y>-260.0</y><z>-5100.0</z></velocity></orbit>"
        for k in range(6)
    )
    points = "".join(
        f"<geolocationGridPoint><azimuthTime>2024-06-17T05:26:{24.0 + 2.75 * burst:09.6f}</azimuthTime>"
        f"<slantRangeTime>5.3e-3</slantRangeTime><line>{burst * BURST_LINES}</line><pixel>{pixel}</pixel>"
        f"<latitude>{45.2 - 0.1 * burst}</latitude><longitude>{10.0 + 0.01 * pixel}</longitude><height>12.5</height>"
        "<incidenceAngle>35.0</incidenceAngle></geolocationGridPoint>"
        for burst in range(bursts)
        for pixel in (0, BURST_SAMPLES - 1)
    )
    valid = " ".join(["-1"] + ["1"] * (BURST_LINES - 2) + ["-1"])
    last = " ".join(["-1"] + [str(BURST_SAMPLES - 2)] * (BURST_LINES - 2) + ["-1"])
    each = "".join(
        f"<burst><azimuthTime>2024-06-17T05:26:{24.0 + 2.75 * k:09.6f}</azimuthTime>"
        f"<sensingTime>2024-06-17T05:26:{25.0 + 2.75 * k:09.6f}</sensingTime><byteOffset>100</byteOffset>"
        f'<firstValidSample count="{BURST_LINES}">{valid}</firstValidSample>'
        f'<lastValidSample count="{BURST_LINES}">{last}</lastValidSample></burst>'
        for k in range(bursts)
    )
    rate = (
        "<azimuthFmRate><azimuthTime>2024-06-17T05:26:24.000000</azimuthTime><t0>5.3e-3</t0>"
        '<azimuthFmRatePolynomial count="3">-2320.0 4.5e5 -7.9e7</azimuthFmRatePolynomial></azimuthFmRate>'
    )
    centroid = (
        "<dcEstimate><azimuthTime>2024-06-17T05:26:24.000000</azimuthTime><t0>5.35e-3</t0>"
        '<dataDcPolynomial count="3">-1.8 3.5e3 -3.3e6</dataDcPolynomial></dcEstimate>'
    )
    return f"""<product><adsHeader><missionId>S1A</missionId><productType>SLC</productType>
<polarisation>{pol}</polarisation><mode>IW</mode><swath>{swath}</swath></adsHeader><generalAnnotation>
<productInformation><pass>Descending</pass><rangeSamplingRate>6.434523812571428e+07</rangeSamplingRate>
<radarFrequency>5.405000454334350e+09</radarFrequency><azimuthSteeringRate>1.590368784</azimuthSteeringRate>
</productInformation><orbitList count="6">{orbit}</orbitList><azimuthFmRateList count="1">{rate}</azimuthFmRateList>
</generalAnnotation><imageAnnotation><imageInformation>
<productFirstLineUtcTime>2024-06-17T05:26:24.000000</productFirstLineUtcTime>
<productLastLineUtcTime>2024-06-17T05:26:48.793373</productLastLineUtcTime><slantRangeTime>5.3e-3</slantRangeTime>
<rangePixelSpacing>2.33</rangePixelSpacing><azimuthPixelSpacing>13.9</azimuthPixelSpacing>
<azimuthTimeInterval>2.055556299999998e-03</azimuthTimeInterval><numberOfSamples>{BURST_SAMPLES}</numberOfSamples>
<numberOfLines>{rows}</numberOfLines><incidenceAngleMidSwath>33.9</incidenceAngleMidSwath>
</imageInformation></imageAnnotation><dopplerCentroid><dcEstimateList count="1">{centroid}</dcEstimateList>
</dopplerCentroid><swathTiming><linesPerBurst>{BURST_LINES}</linesPerBurst>
<samplesPerBurst>{BURST_SAMPLES}</samplesPerBurst><burstList count="{bursts}">{each}</burstList></swathTiming>
<coordinateConversion/><geolocationGrid><geolocationGridPointList>{points}</geolocationGridPointList>
</geolocationGrid></product>"""


def palsar2_mosaic(folder: Path, year: str = "20") -> Path:
    """A tile of the yearly mosaic, HH and HV, one row without data."""
    for k, pol in enumerate(("HH", "HV")):
        data = ramp(16, 18) + 500 * k
        data[0] = 0
        write_tif(folder / f"N45E010_{year}_sl_{pol}_F02DAR.tif", data, 25.0, nodata=0)
    write_tif(folder / f"N45E010_{year}_mask_F02DAR.tif", np.full((16, 18), 255, "uint8"), 25.0)
    return folder


def palsar2_scene(folder: Path, level: str = "1.5", factor: str | None = "-83.0000000", **said: str) -> Path:
    """A scene with summary.txt, images of HH and HV, and a leader file where `factor` is given; `said` overrides."""
    product = f"FBDR{level}{'__A' if level == '1.1' else 'GUA'}"
    scene = "ALOS2049273700-150422"
    for k, pol in enumerate(("HH", "HV")):
        path = folder / f"IMG-{pol}-{scene}-{product}.tif"
        if level == "1.1":
            write_tif(path, complex_ramp(16, 18, k), None)
        else:
            write_tif(path, ramp(16, 18) + 500 * k, 6.25)
    corners = {
        "LeftTop": (10.0, 45.2),
        "RightTop": (10.3, 45.2),
        "LeftBottom": (10.0, 45.0),
        "RightBottom": (10.3, 45.0),
    }
    fields = {
        "Scs_SceneID": scene,
        "Pds_ProductID": product,
        "Pds_PixelSpacing": "6.25",
        "Img_SceneCenterDateTime": "20150422 09:02:36.377",
        "Img_SceneStartDateTime": "20150422 09:02:31.377",
        "Img_SceneEndDateTime": "20150422 09:02:41.377",
        **{f"Img_ImageScene{c}Longitude": str(lon) for c, (lon, _) in corners.items()},
        **{f"Img_ImageScene{c}Latitude": str(lat) for c, (_, lat) in corners.items()},
        "Pdi_NoOfPixels_0": "18",
        "Pdi_NoOfLines_0": "16",
        "Lbi_Satellite": "ALOS2",
        "Lbi_Sensor": "SAR",
        "Lbi_ProcessLevel": level,
        "Lbi_ObservationDate": "20150422",
    } | said
    (folder / "summary.txt").write_text("".join(f'{k}="{v}"\r\n' for k, v in fields.items() if v))
    if factor is not None:
        (folder / f"LED-{scene}-{product}").write_bytes(palsar2_leader(factor))
    return folder


def palsar2_leader(factor: str) -> bytes:
    """A CEOS leader file: descriptor, data set summary and radiometric data record, whose factor is 16 characters."""

    def record(number: int, kind: tuple[int, int, int, int], body: bytes, length: int) -> bytes:
        return struct.pack(">I4BI", number, *kind, length) + body.ljust(length - 12)

    return (
        record(1, (11, 192, 18, 18), b"A   CEOS-SAR", 720)
        + record(2, (18, 10, 18, 20), b"   1", 4096)
        + record(3, (18, 50, 18, 20), b"   1   1" + factor.rjust(16).encode("ascii"), 9860)
    )


def gaofen3_l2(folder: Path) -> Path:
    """A quad-pol L2 folder: four detected images on a map and a meta.xml."""
    gaofen3(folder)
    for k, path in enumerate(sorted(folder.glob("*.tiff"))):
        data = ramp(16, 20) + 200 * k
        data[0] = 0
        write_tif(path, data, 8.0)
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("_L1A_", "_L2_")))
    meta = next(folder.glob("*.meta.xml"))
    meta.write_text(meta.read_text().replace("<productLevel>1A<", "<productLevel>2<"))
    return folder


def capella_json(folder: Path, radiometry: str = "beta_nought", **image: Any) -> Path:
    """Satellite channels without tags, each with its extended JSON beside it; `image` overrides fields."""
    for k, pol in enumerate(("HH", "VV")):
        stem = f"CAPELLA_C05_SM_SLC_{pol}_20240618100000_20240618100004"
        write_tif(folder / f"{stem}.tif", complex_ramp(12, 14, k), crs=UTM, gsd_m=1.0)
        collect = {
            "platform": "capella-5",
            "mode": "stripmap",
            "start_timestamp": "2024-06-18T10:00:00.25Z",
            "stop_timestamp": "2024-06-18T10:00:04.5Z",
            "radar": {"center_frequency": 9.65e9, "transmit_polarization": pol[0], "receive_polarization": pol[1]},
            "image": {
                "scale_factor": 1e-4 * (k + 1),
                "radiometry": radiometry,
                "calibration": "full",
                "rows": 12,
                "columns": 14,
                "nesz_peak": -19.5 - k,
                **image,
            },
        }
        (folder / f"{stem}_extended.json").write_text(json.dumps({"collect": collect, "product_type": "SLC"}))
    return folder
