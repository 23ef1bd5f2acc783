"""The constants of a law as a product gives them, each with the field it is from; `calibrate` applies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from catalog.calibrate import backscatter, complex_amplitude, lut, reflectance
from catalog.calibrate.bands import line_numbers


@dataclass(frozen=True)
class ReflectanceScale:
    """rho = (DN scale + offset), over the sine of the sun's elevation where that is given."""

    scale: Mapping[str, float]
    """Band to reflectance per DN."""
    offset: Mapping[str, float]
    """Band to reflectance at DN 0."""
    source: str
    """File and field."""
    sun_elevation_deg: float | xr.DataArray | None = None
    """Of a product that is not yet divided by the sine of the sun's elevation."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What else a cube should keep of how the constants were found; JSON-able."""


@dataclass(frozen=True)
class RadianceGain:
    """L = DN gain + bias; rho = pi L d^2 / (E sin(sun elevation))."""

    gain: Mapping[str, float]
    """Band to W / (m2 sr um) per DN."""
    bias: Mapping[str, float]
    """Band to W / (m2 sr um) at DN 0."""
    irradiance: Mapping[str, float]
    """Band to solar irradiance at one astronomical unit, W / (m2 um)."""
    earth_sun_distance_au: float
    """Astronomical units."""
    sun_elevation_deg: float | xr.DataArray
    """Degrees above the horizon, of the scene or per pixel."""
    source: str
    """File and field, of the irradiance as well."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As in ReflectanceScale."""


@dataclass(frozen=True)
class GainVectors:
    """Amplitude gain A at some lines and pixels; |DN|^2 / A^2 is the quantity."""

    lines: Sequence[int] | np.ndarray
    """Line of each vector."""
    pixels: Sequence[np.ndarray] | np.ndarray
    """Pixels of each vector's values."""
    values: Sequence[np.ndarray] | np.ndarray
    """Gain at those pixels."""


@dataclass(frozen=True)
class NoiseVectors:
    """Thermal noise power in DN^2: range vectors times azimuth blocks."""

    lines: Sequence[int] | np.ndarray
    """Line of each range vector."""
    pixels: Sequence[np.ndarray] | np.ndarray
    """Pixels of each range vector's values."""
    values: Sequence[np.ndarray] | np.ndarray
    """Noise power at those pixels."""
    blocks: tuple[lut.AzimuthBlock, ...] = ()
    """Azimuth factors; none means one everywhere."""


@dataclass(frozen=True)
class BackscatterTables:
    """sigma0, beta0 or gamma0 = (DN^2 - noise) / A^2, by look-up tables in line and pixel."""

    gain: Mapping[str, GainVectors]
    """By polarisation, of the quantity asked for."""
    noise: Mapping[str, NoiseVectors]
    """By polarisation; empty where the noise is not taken off."""
    source: str
    """Files."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As in ReflectanceScale."""


@dataclass(frozen=True)
class BackscatterConstant:
    """sigma0 or gamma0 = DN^2 10^(K / 10): one constant a polarisation, the same over the image."""

    constant_db: Mapping[str, float]
    """Polarisation to K in dB."""
    source: str
    """File and field, or the document."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As in ReflectanceScale."""


@dataclass(frozen=True)
class Decibels:
    """Power that is stored as 10 log10 of itself."""

    source: str
    """What says so."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As in ReflectanceScale."""


@dataclass(frozen=True)
class LinearPower:
    """Power that is stored as itself."""

    source: str
    """What says so."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As in ReflectanceScale."""


@dataclass(frozen=True)
class AmplitudeFactor:
    """S = DN factor, complex: the phase stays, |S|^2 is the quantity."""

    factor: Mapping[str, float]
    """Polarisation to amplitude per DN."""
    source: str
    """File and field."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As in ReflectanceScale."""


@dataclass(frozen=True)
class AmplitudeTables:
    """S = DN / A, complex, by look-up tables in line and pixel."""

    gain: Mapping[str, GainVectors]
    """By polarisation, of the quantity asked for."""
    source: str
    """Files."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """As in ReflectanceScale; the noise level belongs here, it cannot be taken off a complex number."""


Calibration = (
    ReflectanceScale
    | RadianceGain
    | BackscatterTables
    | BackscatterConstant
    | Decibels
    | LinearPower
    | AmplitudeFactor
    | AmplitudeTables
)
"""The constants of any law."""


def calibrate(dn: xr.DataArray, constants: Calibration, quantity: str) -> xr.DataArray:
    """Digital numbers to the quantity, by the law that the constants belong to.

    Parameters
    ----------
    dn
        (band, y, x) digital numbers, NaN where nothing was measured; complex for the amplitude laws. May be lazy, and
        stays so. For tables the y and x coordinates are line and pixel numbers, from 0 without coordinates.
    constants
        Those of all bands of `dn`, by name.
    quantity
        As in surface_reflectance or sigma_nought.

    Returns
    -------
    DataArray (band, y, x) with units, long_name and quantity in its attributes; negatives stay.

    Raises
    ------
    CalibrationError
        Naming the field and band at fault.
    """
    match constants:
        case ReflectanceScale():
            return reflectance.reflectance_from_dn(
                dn, constants.scale, constants.offset, quantity, sun_elevation_deg=constants.sun_elevation_deg
            )
        case RadianceGain():
            radiance = reflectance.radiance_from_dn(dn, constants.gain, constants.bias)
            return reflectance.toa_reflectance_from_radiance(
                radiance, constants.irradiance, constants.earth_sun_distance_au, constants.sun_elevation_deg
            )
        case BackscatterTables():
            lines, pixels = line_numbers(dn, "y"), line_numbers(dn, "x")
            gain = {b: lut.gain_table(v.lines, v.pixels, v.values, lines, pixels) for b, v in constants.gain.items()}
            noise = {
                b: lut.noise_table(v.lines, v.pixels, v.values, v.blocks, lines, pixels)
                for b, v in constants.noise.items()
            }
            return backscatter.backscatter_from_tables(dn, gain, noise, quantity)
        case BackscatterConstant():
            return backscatter.backscatter_from_constant(dn, constants.constant_db, quantity)
        case Decibels():
            return backscatter.power_from_db(dn, quantity)
        case LinearPower():
            return backscatter.power_as_stored(dn, quantity)
        case AmplitudeFactor():
            return complex_amplitude.complex_from_scale(dn, constants.factor, quantity)
        case AmplitudeTables():
            return complex_amplitude.complex_from_gain(dn, _gains(dn, constants.gain), quantity)


def provenance(constants: Calibration) -> dict[str, Any]:
    """The law, its constants and their source, as a cube and an item keep them; JSON-able."""
    known: dict[str, Any] = {"law": _LAWS[type(constants)], "source": constants.source, **constants.record}
    for name in ("scale", "offset", "gain", "bias", "irradiance", "constant_db", "factor"):
        values = getattr(constants, name, None)
        if isinstance(values, Mapping) and all(isinstance(v, int | float) for v in values.values()):
            known[name] = {band: float(v) for band, v in values.items()}
    for name in ("earth_sun_distance_au", "sun_elevation_deg"):
        value = getattr(constants, name, None)
        if value is not None:
            known[name] = float(value) if isinstance(value, int | float) else "per pixel"
    if isinstance(constants, BackscatterTables):
        known["noise_removed"] = bool(constants.noise)
    return known


_LAWS: Mapping[type, str] = {
    ReflectanceScale: "rho = DN scale + offset, over sin(sun elevation) where it is given",
    RadianceGain: "L = DN gain + bias; rho = pi L d^2 / (E sin(sun elevation))",
    BackscatterTables: "(DN^2 - noise) / A^2",
    BackscatterConstant: "DN^2 10^(K / 10)",
    Decibels: "10^(dB / 10)",
    LinearPower: "the stored number",
    AmplitudeFactor: "S = DN factor",
    AmplitudeTables: "S = DN / A",
}


def _gains(dn: xr.DataArray, vectors: Mapping[str, GainVectors]) -> xr.DataArray:
    """Tables on the lines and pixels of `dn`, in its blocks where it is lazy."""
    bands = [str(b) for b in dn["band"].values]
    lines, pixels = line_numbers(dn, "y"), line_numbers(dn, "x")
    shape, origin = (lines.size, pixels.size), (int(lines[0]), int(pixels[0]))
    chunks = None if dn.chunks is None else (dn.chunksizes["y"], dn.chunksizes["x"])
    found = (vectors[b] for b in bands)
    tables = [lut.interpolate_lut(v.lines, v.pixels, v.values, shape, origin=origin, chunks=chunks) for v in found]
    return xr.concat(tables, dim="band").assign_coords(band=bands)
