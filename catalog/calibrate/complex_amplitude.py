"""Complex digital numbers to complex amplitude whose squared magnitude is sigma nought, phase kept."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from catalog.calibrate.bands import complex_dn, described, per_band
from catalog.errors import CalibrationError


def complex_from_gaofen3(
    dn: xr.DataArray, qualify: Mapping[str, float], constant_db: Mapping[str, float], full_scale: float = 32767.0
) -> xr.DataArray:
    """Complex amplitude of a Gaofen-3 product: S = DN * (Q / full scale) * 10^(-K / 20).

    Hence |S|^2 = sigma nought = (I^2 + Q^2) (QualifyValue / 32767)^2 / 10^(K / 10), the formula of the Gaofen-3 user
    guide in linear power, and the phase is that of the digital numbers.

    Parameters
    ----------
    dn
        (band, y, x), complex, I + jQ; NaN where nothing was measured; may be lazy.
    qualify
        Polarisation to QualifyValue of the product.
    constant_db
        Polarisation to calibration constant in dB.
    full_scale
        32767 at level 1A, 65535 at level 2.

    Returns
    -------
    DataArray (band, y, x), complex64, square root of linear power.

    Raises
    ------
    CalibrationError
        For real pixels, a missing polarisation, a qualify value not above zero, a constant that is not finite or an
        unknown full scale.
    """
    dn = complex_dn(dn)
    if full_scale not in (32767.0, 65535.0):
        raise CalibrationError(
            f"no Gaofen-3 product has a full scale of {full_scale}", item="full_scale", enough="32767 or 65535"
        )
    gain = per_band(dn, "QualifyValue", qualify, zero=False, negative=False) / full_scale
    constant = per_band(dn, "CalibrationConst", constant_db)
    return described(dn * gain * 10 ** (-constant / 20), "sigma_nought_amplitude", "1", dn)


def complex_from_scale(dn: xr.DataArray, scale: Mapping[str, float]) -> xr.DataArray:
    """Complex amplitude of a product with one scale factor per channel: S = DN * scale.

    Capella: sigma nought = (scale_factor |DN|)^2, and each polarisation has a factor of its own (Capella SAR Imagery
    Products Guide, radiometric calibration).

    Parameters
    ----------
    dn
        (band, y, x), complex; NaN where nothing was measured; may be lazy.
    scale
        Polarisation to scale factor.

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
    return described(dn * gain, "sigma_nought_amplitude", "1", dn)
