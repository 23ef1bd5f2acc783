"""The XML files of a Gaofen-3 product, with the constants of its instrument."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import orbit as geometry
from catalog.sandbox.orbit import LIGHT_M_S
from catalog.sandbox.radar import Look
from catalog.sandbox.scattering import POLARISATIONS

FloatArray = NDArray[np.floating]

INCIDENCE_DEG = 35.0
SAMPLE_RATE_HZ = 33.333333e6
"""Its inverse, as range, is 4.4969 m: 7.8 m on the ground."""
AZIMUTH_M = 8.0
CALIBRATION_DB = {"HH": 33.71, "HV": 32.46, "VH": 32.58, "VV": 33.90}
"""K of sigma nought = 10 log10((I^2 + Q^2) (QualifyValue / 32767)^2) - K."""
QUALIFY = {"HH": 512.338, "HV": 236.914, "VH": 238.207, "VV": 498.751}
"""QualifyValue."""
NESZ_DB = -31.0
"""Receiver noise in each channel; the product's power includes it."""


def flat_incidence(look: Look, near_m: float) -> FloatArray:
    """Incidence on a sphere through the region at its median height, degrees, for every sample."""
    relief = look.footing.ground
    middle = tuple(n // 2 for n in relief.height_m.shape)
    place = geometry.ecef(relief.longitude_deg[middle], relief.latitude_deg[middle], float(np.median(relief.height_m)))
    high, low = np.linalg.norm(look.orbit.state(0.0)[0]), np.linalg.norm(place)
    slant = near_m + np.arange(look.frame.samples) * LIGHT_M_S / 2 / SAMPLE_RATE_HZ
    return np.degrees(np.arccos((high**2 - slant**2 - low**2) / (2 * slant * low)))


def incidence(look: Look, near_m: float) -> str:
    """The incidence.xml: an angle per sample."""
    angles = flat_incidence(look, near_m)
    rows = "\n".join(f"<incidenceValue>{v:.6f}</incidenceValue>" for v in angles)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<incidence>\n<numberofIncidenceValue>{len(angles)}'
        f"</numberofIncidenceValue>\n<stepSize>1</stepSize>\n{rows}\n</incidence>\n"
    )


def meta(look: Look, near_m: float, zero: datetime, number: int) -> str:
    """The meta.xml of all four polarisations."""
    frame = look.frame
    angles = flat_incidence(look, near_m)
    spacing = LIGHT_M_S / 2 / SAMPLE_RATE_HZ
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<product>
<segmentID>{number}</segmentID>
<sceneID>{number}</sceneID>
<satellite>GF3</satellite>
<orbitID>46213</orbitID>
<orbitType>GPS</orbitType>
<attiType>Attitude</attiType>
<Direction>ASC</Direction>
<productID>L{number}</productID>
<DocumentIdentifier>sandbox</DocumentIdentifier>
<IsZeroDopplerSteering>1</IsZeroDopplerSteering>
<Station>KAS</Station>
{_sensor(look, zero)}
<productinfo>
<NominalResolution unit="m">8.0</NominalResolution>
<WidthInMeters>{frame.samples * spacing / np.sin(np.radians(INCIDENCE_DEG)):.3f}</WidthInMeters>
<productLevel>1</productLevel>
<productType>SLC</productType>
<productFormat>GEOTIFF</productFormat>
<productGentime>{zero + timedelta(hours=5):%Y-%m-%d %H:%M:%S.%f}</productGentime>
<productPolar>AHV</productPolar>
</productinfo>
{_image(look, near_m, zero)}
<processinfo>
<EphemerisData>Predicted</EphemerisData>
<AttitudeData>Measured</AttitudeData>
<algorithm>CS</algorithm>
<CalibrationConst>{_per(CALIBRATION_DB)}</CalibrationConst>
<MultilookRange>1</MultilookRange>
<MultilookAzimuth>1</MultilookAzimuth>
<DoIQComp>1</DoIQComp>
<incidenceAngleNearRange>{angles[0]:.6f}</incidenceAngleNearRange>
<incidenceAngleFarRange>{angles[-1]:.6f}</incidenceAngleFarRange>
<DEM>0</DEM>
<NESZ>{NESZ_DB:.2f}</NESZ>
</processinfo>
</product>
"""


def _per(values: dict[str, float]) -> str:
    return "".join(f"<{p}>{values[p]:.6f}</{p}>" for p in POLARISATIONS)


def _sensor(look: Look, zero: datetime) -> str:
    velocity = float(np.linalg.norm(look.orbit.state(0.0)[1]))
    middle = look.frame.first_s + (look.frame.lines - 1) * look.frame.line_s / 2
    height = float(np.median(look.footing.ground.height_m))
    return f"""<sensor>
<sensorID>SAR</sensorID>
<imagingMode>QPSI</imagingMode>
<lamda>0.055517</lamda>
<RadarCenterFrequency unit="GHz">5.400012</RadarCenterFrequency>
<waveParams><waveNumber>1</waveNumber><wave><waveCode>Q4</waveCode><centerLookAngle>31.000000</centerLookAngle>\
<prf>{velocity / AZIMUTH_M:.6f}</prf><proBandwidth>{velocity / AZIMUTH_M:.6f}</proBandwidth>\
<sampleRate unit="MHz">{SAMPLE_RATE_HZ / 1e6:.6f}</sampleRate><bandWidth unit="MHz">30.000000</bandWidth>\
<averageAltitude>{height:.3f}</averageAltitude></wave></waveParams>
<lookDirection>R</lookDirection>
<antennaMode>0</antennaMode>
<polarParams><polar><polarMode>AHV</polarMode></polar></polarParams>
</sensor>
<platform>
<CenterTime unit="UTC">{_utc(zero, middle)}</CenterTime>
<satVelocity>{velocity:.6f}</satVelocity>
</platform>
<GPS>
{_gps(look, zero)}
</GPS>"""


def _image(look: Look, near_m: float, zero: datetime) -> str:
    frame, relief = look.frame, look.footing.ground
    last = frame.first_s + (frame.lines - 1) * frame.line_s
    first, end = (_utc(zero, t) for t in (frame.first_s, last))
    spacing = LIGHT_M_S / 2 / SAMPLE_RATE_HZ
    edges = {
        "topLeft": (0, 0), "topRight": (0, frame.samples - 1),
        "bottomLeft": (frame.lines - 1, 0), "bottomRight": (frame.lines - 1, frame.samples - 1),
        "center": (frame.lines // 2, frame.samples // 2),
    }  # fmt: skip
    line, sample = (np.array([e[i] for e in edges.values()], float) for i in (0, 1))
    row, col = relief.index(*look.footing.locate(line, sample))
    r, c = (np.clip(np.rint(v).astype(int), 0, n - 1) for v, n in zip((row, col), relief.height_m.shape, strict=True))
    places = {
        name: f"<latitude>{relief.latitude_deg[r[i], c[i]]:.9f}</latitude>"
        f"<longitude>{relief.longitude_deg[r[i], c[i]]:.9f}</longitude>"
        for i, name in enumerate(edges)
    }
    corners = "\n".join(f"<{n}>{p}</{n}>" for n, p in places.items() if n != "center")
    return f"""<imageinfo unit="degree">
<imagingTime unit="UTC"><start>{first}</start><end>{end}</end></imagingTime>
<nearRange unit="m">{near_m:.6f}</nearRange>
<refRange unit="m">{near_m + frame.samples * spacing / 2:.6f}</refRange>
<eqvFs unit="MHz">{SAMPLE_RATE_HZ / 1e6:.6f}</eqvFs>
<eqvPRF unit="Hz">{1.0 / frame.line_s:.9f}</eqvPRF>
<center>{places["center"]}</center>
<corner>
{corners}
</corner>
<width>{frame.samples}</width>
<height>{frame.lines}</height>
<widthspace unit="m">{spacing:.6f}</widthspace>
<heightspace unit="m">{AZIMUTH_M:.6f}</heightspace>
<sceneShift>0</sceneShift>
<imagebit>16bit</imagebit>
<QualifyValue>{_per(QUALIFY)}</QualifyValue>
<echoSaturation>{_per(dict.fromkeys(POLARISATIONS, 0.0))}</echoSaturation>
</imageinfo>"""


def _utc(zero: datetime, t_s: float) -> str:
    return f"{zero + timedelta(microseconds=round(t_s * 1e6)):%Y-%m-%d %H:%M:%S.%f}"


def _gps(look: Look, zero: datetime) -> str:
    rows = []
    for t in np.arange(-30.0, 30.1, 5.0):
        position, velocity = look.orbit.state(float(t))
        when = _utc(zero, float(t))
        places = "".join(f"<{a}Position>{v:.6f}</{a}Position>" for a, v in zip("xyz", position, strict=True))
        speeds = "".join(f"<{a}Velocity>{v:.9f}</{a}Velocity>" for a, v in zip("xyz", velocity, strict=True))
        rows.append(f"<GPSParam><TimeStamp>{when}</TimeStamp>{places}{speeds}</GPSParam>")
    return "\n".join(rows)
