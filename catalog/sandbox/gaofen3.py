"""Gaofen-3 quad-polarised L1A products: complex I and Q in slant range, with meta.xml, incidence.xml and RPCs."""

from __future__ import annotations

import zlib
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import orbit as geometry
from catalog.sandbox import radar, rpc
from catalog.sandbox.files import write_radar, write_text
from catalog.sandbox.gaofen3_xml import (
    AZIMUTH_M,
    CALIBRATION_DB,
    INCIDENCE_DEG,
    NESZ_DB,
    QUALIFY,
    SAMPLE_RATE_HZ,
    incidence,
    meta,
)
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.orbit import LIGHT_M_S, Ground
from catalog.sandbox.plan import Pass, Product
from catalog.sandbox.radar import Look
from catalog.sandbox.scattering import POLARISATIONS, complex_speckle

FloatArray = NDArray[np.floating]

FULL_SCALE = 32_767.0
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
    frame, near = radar.slant_frame(path, relief, LIGHT_M_S / 2 / SAMPLE_RATE_HZ, AZIMUTH_M, BORDER)
    return Look(path, frame, geometry.stand(frame, relief), radar.tilted(echo, relief, path, INCIDENCE_DEG)), near


def model_of(look: Look) -> tuple[rpc.Rpc, float]:
    """RPCs of the frame over its ground and 400 m of heights beyond, with the largest misfit in pixels."""
    relief = look.footing.ground
    inside = (look.footing.line > -20) & (look.footing.line < look.frame.lines + 20)
    inside &= (look.footing.sample > -20) & (look.footing.sample < look.frame.samples + 20)
    thin = max(int(inside.sum()) // 900, 1)
    lon, lat = (a[inside][::thin] for a in (relief.longitude_deg, relief.latitude_deg))
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
    write_text(folder / f"{start}_AHV_L{number}.meta.xml", meta(look, near, zero, number))
    write_text(folder / f"{start}_AHV_L{number}.incidence.xml", incidence(look, near))
    moved = radar.displacement(look, error)
    return Product(folder.name, "gaofen-3", land.region.name, acquisition.date, moved, 0.0), look


def _samples(ground_m: float) -> float:
    return ground_m * float(np.sin(np.radians(INCIDENCE_DEG))) * 2 * SAMPLE_RATE_HZ / LIGHT_M_S
