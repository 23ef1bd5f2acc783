"""Sentinel-1 IW SLC products: one burst of one swath in slant range, complex counts with the tables of their gain."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import orbit as geometry
from catalog.sandbox import radar, sentinel1
from catalog.sandbox.chance import stream
from catalog.sandbox.files import write_radar_complex, write_text
from catalog.sandbox.orbit import LIGHT_M_S
from catalog.sandbox.radar import Look
from catalog.sandbox.scattering import POLARISATIONS, complex_speckle
from catalog.sandbox.sentinel1 import ABS_BETA, Geometry, Tables
from catalog.sandbox.sentinel1_xml import annotation, calibration, manifest, noise
from catalog.sandbox.specimen import Day, Specimen, keep

ComplexArray = NDArray[np.complex128]

SAMPLE_RATE_HZ = 6.434523812571428e07
LINE_M = 14.0
BORDER = 8
"""Samples without data at both edges."""


def look_at(day: Day) -> tuple[Look, float]:
    """Lay an image over the region: its view and near range."""
    relief = day.relief
    middle = day.middle
    path = geometry.orbit_over(
        float(relief.longitude_deg[middle]), float(relief.latitude_deg[middle]), float(np.median(relief.height_m)),
        altitude_m=700_000.0, inclination_deg=98.18, incidence_deg=sentinel1.INCIDENCE_DEG, descending=True,
    )  # fmt: skip
    frame, near = radar.slant_frame(path, relief, LIGHT_M_S / 2 / SAMPLE_RATE_HZ, LINE_M, BORDER)
    seen = radar.tilted(day.echo, relief, path, sentinel1.INCIDENCE_DEG)
    return Look(path, frame, geometry.stand(frame, relief), seen), near


def write(root: Path, day: Day) -> Specimen:
    """Write one product of VV and VH.

    DN = S A_sigma with |S|^2 = sigma nought and noise. Source: Sentinel-1 Product Specification, calibration data set;
    the thermal noise of the tables is a power and stays in the counts.
    """
    g = _annotated(day)
    stamp = [g.when(t)[:19].replace("-", "").replace(":", "") for t in _span(g.look)]
    code = f"{zlib.crc32(f'slc/{day.land.seed}'.encode()) & 0xFFFF:04X}"
    folder = root / "products" / f"S1A_IW_SLC__1SDV_{stamp[0]}_{stamp[1]}_060461_0786F1_{code}.SAFE"
    rng = stream(day.land.seed, "sentinel-1-slc")
    echo = complex_speckle(rng, g.look.image(g.look.echo, (0.0, 0.0)), 0.0).astype(np.complex128)
    incidence = sentinel1.incidence_of(g.grid, g.look.frame.samples)
    worth: dict[str, ComplexArray] = {}
    drawn: dict[str, ComplexArray] = {}
    size: dict[str, NDArray[np.float64]] = {}
    parts: dict[str, Path] = {}
    for i, name in enumerate(("VV", "VH"), 1):
        table = sentinel1.tables(g.look.frame, incidence, name).annotated()
        drawn[name] = echo[POLARISATIONS.index(name)] + _noise(rng, table)
        dn = _counted(drawn[name] * table.sigma)
        size[name], worth[name] = np.abs(dn), np.where(dn == 0, np.nan, dn / table.sigma)
        stem = f"s1a-iw1-slc-{name.lower()}-{stamp[0].lower()}-{stamp[1].lower()}-060461-0786f1-{i:03d}"
        parts |= _write_channel(folder, stem, g, name, dn, table)
    write_text(folder / "manifest.safe", manifest(g, folder, parts))
    truth = keep(root, folder, worth, drawn, size)
    return Specimen("sentinel-1-slc", "SLC", "sigma_nought_amplitude", folder, truth)


def _annotated(day: Day) -> Geometry:
    look, near = look_at(day)
    spacing = LIGHT_M_S / 2 / SAMPLE_RATE_HZ
    where = sentinel1.points(look, lambda s: near + s * spacing)
    none, valid = np.zeros(1), (BORDER, look.frame.samples - 1 - BORDER)
    return Geometry(look, near, none, none, day.when, where, "SLC", "IW1", (spacing, LINE_M), valid)


def _noise(rng: np.random.Generator, table: Tables) -> ComplexArray:
    pair = rng.standard_normal((2, *table.noise.shape)) * np.sqrt(table.noise / 2) / table.sigma
    return np.asarray(pair[0] + 1j * pair[1])


def _counted(amplitude: ComplexArray) -> ComplexArray:
    """Whole counts of both parts, never 0 but at the borders."""
    dn = np.rint(amplitude.view(np.float64)).clip(-32_768, 32_767).view(np.complex128)
    dn[dn == 0] = 1
    dn[:, :BORDER] = dn[:, -BORDER:] = 0
    return dn


def _write_channel(folder: Path, stem: str, g: Geometry, name: str, dn: ComplexArray, table: Tables) -> dict[str, Path]:
    tables, number = folder / "annotation" / "calibration", int(stem[-3:])
    parts = {
        f"product-{name}": folder / "annotation" / f"{stem}.xml",
        f"calibration-{name}": tables / f"calibration-{stem}.xml",
        f"noise-{name}": tables / f"noise-{stem}.xml",
        f"measurement-{name}": folder / "measurement" / f"{stem}.tiff",
    }
    gcps = [(p["line"], p["sample"], p["longitude"], p["latitude"], p["height"]) for p in g.grid]
    write_radar_complex(parts[f"measurement-{name}"], dn, gcps)
    write_text(parts[f"product-{name}"], annotation(g, name, number, dn))
    write_text(parts[f"calibration-{name}"], calibration(g, name, number, table, ABS_BETA))
    write_text(parts[f"noise-{name}"], noise(g, name, number, table))
    return parts


def _span(look: Look) -> tuple[float, float]:
    return look.frame.first_s, look.frame.first_s + (look.frame.lines - 1) * look.frame.line_s
