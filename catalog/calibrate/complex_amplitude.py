"""Complex digital numbers to complex amplitude whose squared magnitude is sigma nought, phase kept."""

from __future__ import annotations

import math
from collections.abc import Mapping

import xarray as xr

from catalog.calibrate.bands import complex_dn, described, on_grid, per_band
from catalog.errors import CalibrationError


def amplitude_factor(
    qualify: Mapping[str, float], constant_db: Mapping[str, float], full_scale: float = 32767.0
) -> dict[str, float]:
    """Amplitude per DN of a product that was scaled into integers: (Q / full scale) 10^(-K / 20).

    Hence |S|^2 = sigma nought = (I^2 + Q^2) (QualifyValue / 32767)^2 / 10^(K / 10), the formula of the Gaofen-3 user
    guide in linear power.

    Parameters
    ----------
    qualify
        Polarisation to QualifyValue of the product.
    constant_db
        Polarisation to calibration constant in dB.
    full_scale
        32767 at level 1A, 65535 at level 2.

    Returns
    -------
    Polarisation to factor, for complex_from_scale.

    Raises
    ------
    CalibrationError
        For a missing polarisation, a qualify value not above zero, a constant that is not finite or an unknown full
        scale.
    """
    if full_scale not in (32767.0, 65535.0):
        raise CalibrationError(
            f"no product has a full scale of {full_scale}", item="full_scale", enough="32767 or 65535"
        )
    factors: dict[str, float] = {}
    for polarisation, most in qualify.items():
        constant = constant_db.get(polarisation, math.nan)
        if not (math.isfinite(most) and most > 0):
            raise CalibrationError(f"QualifyValue is {most}", item=polarisation, enough="a number above 0")
        if not math.isfinite(constant):
            raise CalibrationError(f"CalibrationConst is {constant}", item=polarisation, enough="a finite number of dB")
        factors[polarisation] = most / full_scale * 10 ** (-constant / 20)
    return factors


def complex_from_scale(
    dn: xr.DataArray, scale: Mapping[str, float], quantity: str = "sigma_nought_amplitude"
) -> xr.DataArray:
    """Complex amplitude of a product with one scale factor per channel: S = DN * scale.

    Capella: sigma nought = (scale_factor |DN|)^2, and each polarisation has a factor of its own (Capella SAR Imagery
    Products Guide, radiometric calibration).

    Parameters
    ----------
    dn
        (band, y, x), complex; NaN where nothing was measured; may be lazy.
    scale
        Polarisation to scale factor.
    quantity
        sigma_nought_amplitude, beta_nought_amplitude or gamma_nought_amplitude: what the factor was made for.

    Returns
    -------
    DataArray (band, y, x), complex64, square root of linear power.

    Raises
    ------
    CalibrationError
        For real pixels, a missing polarisation or a scale not above zero.
    """
    dn = complex_dn(dn)
    gain = per_band(dn, "scale_factor", scale, zero=False, negative=False)
    return described(dn * gain, _amplitude(quantity), "1", dn)


def complex_from_gain(dn: xr.DataArray, gain: xr.DataArray, quantity: str = "sigma_nought_amplitude") -> xr.DataArray:
    """Complex amplitude by a look-up table: S = DN / A, so that |S|^2 = |DN|^2 / A^2, phase kept.

    Parameters
    ----------
    dn
        (band, y, x), complex; NaN where nothing was measured; may be lazy.
    gain
        Calibration values A, (band, y, x) or (y, x), as calibrate.interpolate_lut makes them.
    quantity
        As in complex_from_scale: the look-up table that was taken.

    Returns
    -------
    DataArray (band, y, x), complex64, square root of linear power.

    Raises
    ------
    CalibrationError
        For real pixels or a table on another grid.
    """
    dn = complex_dn(dn)
    return described(dn / on_grid(gain, dn, "gain"), _amplitude(quantity), "1", dn)


def _amplitude(quantity: str) -> str:
    if not quantity.endswith("_nought_amplitude"):
        raise CalibrationError(
            f"complex pixels become no {quantity}",
            item="quantity",
            enough="sigma_nought_amplitude, beta_nought_amplitude or gamma_nought_amplitude",
            todo="ask for the amplitude, then square its magnitude",
        )
    return quantity
