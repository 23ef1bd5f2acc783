"""Digital numbers to radiance and reflectance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import xarray as xr

from catalog.calibrate.bands import affine, described, per_band, real_dn
from catalog.errors import CalibrationError

J2000 = datetime(2000, 1, 1, 12, tzinfo=UTC)


def reflectance_from_dn(
    dn: xr.DataArray,
    scale: Mapping[str, float],
    offset: Mapping[str, float],
    quantity: str = "surface_reflectance",
    *,
    sun_elevation_deg: float | xr.DataArray | None = None,
) -> xr.DataArray:
    """Reflectance as a fraction: rho = DN * scale + offset, over sin(sun elevation) where it is given.

    Sentinel-2: scale = 1 / QUANTIFICATION_VALUE, offset = ADD_OFFSET / QUANTIFICATION_VALUE (Sentinel-2 Products
    Specification Document, 04.00 and later). Landsat Collection 2: scale and offset are REFLECTANCE_MULT and
    REFLECTANCE_ADD; its level 1 lacks the sun angle, so pass `sun_elevation_deg` (Landsat 8-9 Data Users Handbook,
    5.1).

    Parameters
    ----------
    dn
        (band, y, x), float, NaN where nothing was measured; may be lazy.
    scale, offset
        Band name to reflectance per DN, and to the reflectance of DN 0.
    quantity
        surface_reflectance or toa_reflectance.
    sun_elevation_deg
        Degrees above the horizon, one number or (y, x); on coarser y and x than `dn`'s it is interpolated.

    Returns
    -------
    DataArray (band, y, x), float32, fraction; negatives and values above 1 are kept, NaN stays NaN.

    Raises
    ------
    CalibrationError
        For a missing band, a scale that is not above zero, an offset that is not finite, or a sun below the horizon.
    """
    dn = real_dn(dn)
    rho = affine(dn, per_band(dn, "scale", scale, zero=False, negative=False), per_band(dn, "offset", offset))
    if sun_elevation_deg is not None:
        rho = rho / _sine_of_sun(sun_elevation_deg, dn)
    return described(rho, quantity, "1", dn)


def radiance_from_dn(dn: xr.DataArray, gain: Mapping[str, float], offset: Mapping[str, float]) -> xr.DataArray:
    """Top-of-atmosphere spectral radiance: L = DN * gain + offset.

    WorldView: gain = GAIN * absCalFactor / effectiveBandwidth (Radiometric Use of WorldView-3 Imagery, 4.1), with the
    bandwidth in micrometres.

    Parameters
    ----------
    dn
        (band, y, x), float, NaN where nothing was measured; may be lazy.
    gain, offset
        Band name to W m-2 sr-1 um-1 per DN, and at DN 0.

    Returns
    -------
    DataArray (band, y, x), float32, W m-2 sr-1 um-1.

    Raises
    ------
    CalibrationError
        For a missing band, a gain that is not above zero or an offset that is not finite.
    """
    dn = real_dn(dn)
    radiance = affine(dn, per_band(dn, "gain", gain, zero=False, negative=False), per_band(dn, "offset", offset))
    return described(radiance, "toa_radiance", "W m-2 sr-1 um-1", dn)


def toa_reflectance_from_radiance(
    radiance: xr.DataArray,
    irradiance: Mapping[str, float],
    earth_sun_distance_au: float,
    sun_elevation_deg: float | xr.DataArray,
) -> xr.DataArray:
    """Top-of-atmosphere reflectance: rho = pi L d^2 / (E sin(sun elevation)).

    Source: Radiometric Use of WorldView-3 Imagery, 4.2; the same in every vendor's guide.

    Parameters
    ----------
    radiance
        (band, y, x), W m-2 sr-1 um-1, as radiance_from_dn makes it.
    irradiance
        Band name to solar irradiance at 1 AU, W m-2 um-1.
    earth_sun_distance_au
        Astronomical units, 0.98 to 1.02.
    sun_elevation_deg
        Degrees above the horizon, one number or (y, x); on coarser y and x than the image's it is interpolated.

    Returns
    -------
    DataArray (band, y, x), float32, fraction.

    Raises
    ------
    CalibrationError
        When the input is no radiance, a band has no irradiance, the distance is not the Earth's, or the sun is down.
    """
    if radiance.attrs.get("units") != "W m-2 sr-1 um-1":
        raise CalibrationError(
            f"units {radiance.attrs.get('units')!r} are not those of radiance",
            item=str(radiance.name or "radiance"),
            enough="W m-2 sr-1 um-1",
            todo="pass what radiance_from_dn returns",
        )
    if not 0.98 <= earth_sun_distance_au <= 1.02:
        raise CalibrationError(
            f"the Earth is never {earth_sun_distance_au} AU from the sun",
            item="earth_sun_distance_au",
            enough="0.983 to 1.017",
            todo="use earth_sun_distance_au(acquisition time)",
        )
    irradiance_band = per_band(radiance, "irradiance", irradiance, zero=False, negative=False)
    factor = math.pi * earth_sun_distance_au**2 / irradiance_band
    return described(radiance * factor / _sine_of_sun(sun_elevation_deg, radiance), "toa_reflectance", "1", radiance)


def earth_sun_distance_au(when: datetime) -> float:
    """Distance from the Earth to the sun.

    d = 1.00014 - 0.01671 cos g - 0.00014 cos 2g, with the mean anomaly g = 357.529 + 0.98560028 D degrees and D the
    days since 2000-01-01 12:00 UTC. Source: U.S. Naval Observatory, Approximate Solar Coordinates; good to 1e-4.

    Parameters
    ----------
    when
        Acquisition time; without a time zone it is read as UTC.

    Returns
    -------
    Astronomical units, 0.983 to 1.017.
    """
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    days = (when - J2000).total_seconds() / 86_400
    anomaly = math.radians(357.529 + 0.98560028 * days)
    return 1.00014 - 0.01671 * math.cos(anomaly) - 0.00014 * math.cos(2 * anomaly)


def _sine_of_sun(elevation_deg: float | xr.DataArray, like: xr.DataArray) -> float | xr.DataArray:
    """Sine of the sun's elevation, refused below the horizon; per pixel of `like`, NaN where the sun is down."""
    if isinstance(elevation_deg, xr.DataArray):
        placed = _on_pixels(elevation_deg, like)
        return xr.apply_ufunc(np.sin, placed.where(placed > 0) * (math.pi / 180), dask="parallelized")
    if not 0 < elevation_deg <= 90:
        raise CalibrationError(
            f"a sun elevation of {elevation_deg} degrees gives no reflectance",
            item="sun_elevation_deg",
            enough="above 0 and at most 90 degrees",
            todo="look at the product's sun angles; a night scene has no reflectance",
        )
    return math.sin(math.radians(elevation_deg))


def _on_pixels(angles: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Angles on coarser y and x than an image's, linear between them and held outside; as lazy as the image."""
    for axis in ("y", "x"):
        if axis not in angles.coords or axis not in like.coords or angles[axis].equals(like[axis]):
            continue
        nodes, places = angles[axis].values.astype(float), like[axis].values.astype(float)
        if places.max() < nodes.min() or places.min() > nodes.max():
            raise CalibrationError(
                f"the sun's angles lie at {axis} {nodes.min():g} to {nodes.max():g}, the image at {places.min():g} to"
                f" {places.max():g}",
                item="sun_elevation_deg",
                enough="angles in the coordinates of the image",
                todo="read the image in the CRS of its product",
            )
        order = np.argsort(nodes)
        index = np.interp(places, nodes[order], order.astype(float))
        hats = np.maximum(0.0, 1.0 - np.abs(index[:, None] - np.arange(nodes.size))).astype(np.float32)
        weights = xr.DataArray(hats, dims=(axis, "node"), coords={axis: like[axis]})
        if like.chunks is not None:
            weights = weights.chunk({axis: like.chunksizes[axis]})
        angles = xr.dot(weights, angles.rename({axis: "node"}).drop_vars("node"), dim="node")
    return angles
