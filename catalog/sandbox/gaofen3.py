"""Gaofen-3 quad-polarised L1A products: complex I and Q in slant range, with meta.xml, incidence.xml and RPCs."""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import orbit as geometry
from catalog.sandbox import radar, rpc
from catalog.sandbox.files import write_radar, write_text
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.orbit import LIGHT_M_S, Frame, Ground
from catalog.sandbox.plan import Pass, Product
from catalog.sandbox.radar import Look
from catalog.sandbox.scattering import POLARISATIONS, complex_speckle

FloatArray = NDArray[np.floating]

INCIDENCE_DEG = 35.0
SAMPLE_RATE_HZ = 33.333333e6
"""Its inverse, as range, is 4.4969 m: 7.8 m on the ground."""
AZIMUTH_M = 8.0
CALIBRATION_DB = {"HH": 33.71, "HV": 32.46, "VH": 32.58, "VV": 33.90}
"""K of sigma nought = 10 log10((I^2 + Q^2) (QualifyValue / 32767)^2) - K."""
QUALIFY = {"HH": 512.338, "HV": 236.914, "VH": 238.207, "VV": 498.751}
"""QualifyValue."""
FULL_SCALE = 32_767.0
NESZ_DB = -31.0
"""Receiver noise in each channel; the product's power includes it."""
BORDER = 5
"""Samples without data at the near edge."""


def look_at(land: Landscape, relief: Ground, echo: NDArray[np.float32]) -> tuple[Look, float]:
    """Lay an image over a region: its view and near range."""
    middle = tuple(n // 2 for n in relief.height_m.shape)
    lon, lat = float(relief.longitude_deg[middle]), float(relief.latitude_deg[middle])
    path = geometry.orbit_over(
        lon, lat, float(np.median(relief.height_m)), altitude_m=755_000.0, inclination_deg=98.41,
        incidence_deg=INCIDENCE_DEG, descending=False,
    )  # fmt: skip
    t, slant = path.abeam(radar.border(relief))
    spacing = LIGHT_M_S / 2 / SAMPLE_RATE_HZ
    near = float(np.floor(slant.min())) - BORDER * spacing
    line_s = AZIMUTH_M / float(np.linalg.norm(path.state(0.0)[1])) * path.radius_m / 6_371_000.0
    frame = Frame(
        path, float(np.round(t.min(), 6)), line_s, int(np.ceil((t.max() - t.min()) / line_s)) + 1,
        int(np.ceil((slant.max() - near) / spacing)) + 1, lambda r: (r - near) / spacing,
    )  # fmt: skip
    return Look(path, frame, geometry.stand(frame, relief), radar.tilted(echo, relief, path, INCIDENCE_DEG)), near


def model_of(look: Look) -> tuple[rpc.Rpc, float]:
    """RPCs of the frame over its ground and 400 m of heights beyond, with the largest misfit in pixels."""
    relief = look.footing.ground
    inside = (look.footing.line > -20) & (look.footing.line < look.frame.lines + 20)
    inside &= (look.footing.sample > -20) & (look.footing.sample < look.frame.samples + 20)
    lon, lat = (a[inside][::53] for a in (relief.longitude_deg, relief.latitude_deg))
    low, high = float(relief.height_m.min()) - 200.0, float(relief.height_m.max()) + 200.0
    levels = np.linspace(low, high, 6)
    lon, lat, h = np.tile(lon, 6), np.tile(lat, 6), np.repeat(levels, len(lon))
    line, sample = look.frame.project(geometry.ecef(lon, lat, h))
    model = rpc.fit(lon, lat, h, line, sample)
    fitted = model.project(lon, lat, h)
    return model, float(np.hypot(fitted[0] - line, fitted[1] - sample).max())


def write(root: Path, land: Landscape, relief: Ground, echo: NDArray[np.float32], acquisition: Pass
          ) -> tuple[Product, Look]:  # fmt: skip
    """Write one product below a folder, and say how it looks at the ground.

    DN = z 10^(K / 20) 32767 / QualifyValue, z the complex amplitude whose mean power is sigma nought plus noise.
    """
    look, near = look_at(land, relief, echo)
    frame = look.frame
    error = (acquisition.shift_m[0] / AZIMUTH_M, _samples(acquisition.shift_m[1]))
    z = complex_speckle(radar.speckle_stream(land, acquisition), look.image(look.echo, error), 10 ** (NESZ_DB / 10))
    model, _ = model_of(look)
    lon, lat = model.offset[3], model.offset[2]
    number = 10_006_300_000 + zlib.crc32(land.region.name.encode()) % 10**5
    start = f"GF3_KAS_QPSI_046213_E{lon:.1f}_N{lat:.1f}_{acquisition.date}_L1A"
    folder = root / f"{start}_AHV_L{number}"
    zero = acquisition.when + timedelta(seconds=zlib.crc32(land.region.name.encode()) % 40)
    for polarisation, amplitude in zip(POLARISATIONS, z, strict=True):
        counts = amplitude * (10 ** (CALIBRATION_DB[polarisation] / 20) * FULL_SCALE / QUALIFY[polarisation])
        dn = np.clip(np.rint(np.stack([counts.real, counts.imag])), -32_768, 32_767).astype(np.int16)
        dn[0][(dn == 0).all(0)] = 1
        dn[:, :, :BORDER] = 0
        stem = f"{start}_{polarisation}_L{number}"
        write_radar(folder / f"{stem}.tiff", dn)
        write_text(folder / f"{stem}.rpc", rpc.rpb(model, "GF3", polarisation))
    write_text(folder / f"{start}_AHV_L{number}.meta.xml", _meta(look, near, zero, model, number))
    write_text(folder / f"{start}_AHV_L{number}.incidence.xml", _incidence(look, near, relief))
    moved = radar.displacement(look, error)
    return Product(folder.name, "gaofen-3", land.region.name, acquisition.date, moved, 0.0), look


def _samples(ground_m: float) -> float:
    return ground_m * float(np.sin(np.radians(INCIDENCE_DEG))) * 2 * SAMPLE_RATE_HZ / LIGHT_M_S


def _flat_incidence(look: Look, near_m: float, relief: Ground) -> FloatArray:
    """Incidence on a sphere through the region at its median height, degrees, for every sample."""
    middle = tuple(n // 2 for n in relief.height_m.shape)
    place = geometry.ecef(relief.longitude_deg[middle], relief.latitude_deg[middle], np.median(relief.height_m))
    high, low = np.linalg.norm(look.orbit.state(0.0)[0]), np.linalg.norm(place)
    slant = near_m + np.arange(look.frame.samples) * LIGHT_M_S / 2 / SAMPLE_RATE_HZ
    return np.degrees(np.arccos((high**2 - slant**2 - low**2) / (2 * slant * low)))


def _incidence(look: Look, near_m: float, relief: Ground) -> str:
    angles = _flat_incidence(look, near_m, relief)
    rows = "\n".join(f"<incidenceValue>{v:.6f}</incidenceValue>" for v in angles)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<incidence>\n<numberofIncidenceValue>{len(angles)}'
        f"</numberofIncidenceValue>\n<stepSize>1</stepSize>\n{rows}\n</incidence>\n"
    )


def _meta(look: Look, near_m: float, zero: datetime, model: rpc.Rpc, number: int) -> str:
    frame, relief = look.frame, look.footing.ground
    last = frame.first_s + (frame.lines - 1) * frame.line_s
    first, end = (f"{zero + timedelta(microseconds=round(t * 1e6)):%Y-%m-%d %H:%M:%S.%f}" for t in (frame.first_s, last))
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
    angles = _flat_incidence(look, near_m, relief)
    velocity = float(np.linalg.norm(look.orbit.state(0.0)[1]))
    spacing = LIGHT_M_S / 2 / SAMPLE_RATE_HZ

    def per(values: dict[str, float]) -> str:
        return "".join(f"<{p}>{values[p]:.6f}</{p}>" for p in POLARISATIONS)

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
<sensor>
<sensorID>SAR</sensorID>
<imagingMode>QPSI</imagingMode>
<lamda>0.055517</lamda>
<RadarCenterFrequency unit="GHz">5.400012</RadarCenterFrequency>
<waveParams><waveNumber>1</waveNumber><wave><waveCode>Q4</waveCode><centerLookAngle>31.000000</centerLookAngle>\
<prf>{velocity / AZIMUTH_M:.6f}</prf><proBandwidth>{velocity / AZIMUTH_M:.6f}</proBandwidth>\
<sampleRate unit="MHz">{SAMPLE_RATE_HZ / 1e6:.6f}</sampleRate><bandWidth unit="MHz">30.000000</bandWidth>\
<averageAltitude>{float(np.median(relief.height_m)):.3f}</averageAltitude></wave></waveParams>
<lookDirection>R</lookDirection>
<antennaMode>0</antennaMode>
<polarParams><polar><polarMode>AHV</polarMode></polar></polarParams>
</sensor>
<platform>
<CenterTime unit="UTC">{zero + timedelta(microseconds=round((frame.first_s + last) / 2 * 1e6)):%Y-%m-%d %H:%M:%S.%f}\
</CenterTime>
<satVelocity>{velocity:.6f}</satVelocity>
</platform>
<GPS>
{_gps(look, zero)}
</GPS>
<productinfo>
<NominalResolution unit="m">8.0</NominalResolution>
<WidthInMeters>{frame.samples * spacing / np.sin(np.radians(INCIDENCE_DEG)):.3f}</WidthInMeters>
<productLevel>1</productLevel>
<productType>SLC</productType>
<productFormat>GEOTIFF</productFormat>
<productGentime>{zero + timedelta(hours=5):%Y-%m-%d %H:%M:%S.%f}</productGentime>
<productPolar>AHV</productPolar>
</productinfo>
<imageinfo unit="degree">
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
<QualifyValue>{per(QUALIFY)}</QualifyValue>
<echoSaturation>{per(dict.fromkeys(POLARISATIONS, 0.0))}</echoSaturation>
</imageinfo>
<processinfo>
<EphemerisData>Predicted</EphemerisData>
<AttitudeData>Measured</AttitudeData>
<algorithm>CS</algorithm>
<CalibrationConst>{per(CALIBRATION_DB)}</CalibrationConst>
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


def _gps(look: Look, zero: datetime) -> str:
    rows = []
    for t in np.arange(-30.0, 30.1, 5.0):
        position, velocity = look.orbit.state(float(t))
        when = f"{zero + timedelta(microseconds=round(float(t) * 1e6)):%Y-%m-%d %H:%M:%S.%f}"
        places = "".join(f"<{a}Position>{v:.6f}</{a}Position>" for a, v in zip("xyz", position, strict=True))
        speeds = "".join(f"<{a}Velocity>{v:.9f}</{a}Velocity>" for a, v in zip("xyz", velocity, strict=True))
        rows.append(f"<GPSParam><TimeStamp>{when}</TimeStamp>{places}{speeds}</GPSParam>")
    return "\n".join(rows)
