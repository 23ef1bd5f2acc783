"""Where an image shows a place: rational polynomials from longitude, latitude and height to line and sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rasterio.rpc import RPC

from catalog.errors import GeolocationError

BEYOND = 1.5
"""Polynomials are fitted within 1 of their scales; this far outside they may fold back into the image."""
METRES_PER_DEGREE = 111_320.0


def check_rpc(rpcs: RPC) -> None:
    """Refuse rational polynomials that place nothing.

    Raises
    ------
    GeolocationError
        A scale is zero, negative or no number; a polynomial has not 20 coefficients; a denominator is zero.
    """
    for name in ("line_scale", "samp_scale", "lat_scale", "long_scale", "height_scale"):
        value = getattr(rpcs, name)
        if value is None or not np.isfinite(value) or value <= 0:
            raise _refused(f"{name} is {value}", name, "a scale above zero")
    for name in ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff"):
        values = np.asarray(getattr(rpcs, name), dtype=float)
        if values.shape != (20,) or not np.isfinite(values).all() or ("den" in name and not values.any()):
            raise _refused(f"{name} holds {values.size} coefficients, or nothing but zeros", name, "20 numbers")


def image_of(
    rpcs: RPC, longitude: np.ndarray, latitude: np.ndarray, height_m: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Line and sample at which an image shows a place.

    Ratios of cubic polynomials of normalised longitude, latitude and height in the order of RPC00B. Source: NITF,
    STDI-0002 volume 1, appendix E, E.2.4; OGC / GDAL RFC 22.

    Parameters
    ----------
    rpcs
        As `check_rpc` lets pass.
    longitude, latitude
        Degrees WGS 84, any shape.
    height_m
        Above the ellipsoid, the same shape or one number.

    Returns
    -------
    line, sample
        float64, the shape of longitude, 0 at the centre of the first pixel; NaN at NaN heights and where a place lies
        more than 1.5 scales from the polynomials' centre.
    """
    x = (np.asarray(longitude, float) - rpcs.long_off) / rpcs.long_scale
    y = (np.asarray(latitude, float) - rpcs.lat_off) / rpcs.lat_scale
    z = (np.asarray(height_m, float) - rpcs.height_off) / rpcs.height_scale
    x, y, z = np.broadcast_arrays(x, y, z)
    near = (np.abs(x) <= BEYOND) & (np.abs(y) <= BEYOND)
    ratios = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for top, bottom in (
            (rpcs.line_num_coeff, rpcs.line_den_coeff),
            (rpcs.samp_num_coeff, rpcs.samp_den_coeff),
        ):
            ratios.append(np.where(near, _cubic(top, x, y, z) / _cubic(bottom, x, y, z), np.nan))
    return ratios[0] * rpcs.line_scale + rpcs.line_off, ratios[1] * rpcs.samp_scale + rpcs.samp_off


def moved_by_height_m(rpcs: RPC, higher_m: float) -> float:
    """How far on the ground, at the polynomials' centre, a height that is wrong by `higher_m` displaces a place."""
    longitude, latitude = float(rpcs.long_off), float(rpcs.lat_off)
    step = 1e-5
    east = step * METRES_PER_DEGREE * np.cos(np.radians(latitude))
    at = np.array([[longitude, latitude, 0.0], [longitude + step, latitude, 0.0], [longitude, latitude + step, 0.0],
                   [longitude, latitude, higher_m]])  # fmt: skip
    line, sample = image_of(rpcs, at[:, 0], at[:, 1], at[:, 2] + rpcs.height_off)
    per_m = np.array([[line[1] - line[0], line[2] - line[0]], [sample[1] - sample[0], sample[2] - sample[0]]])
    per_m = per_m / np.array([east, step * METRES_PER_DEGREE])
    moved = np.array([line[3] - line[0], sample[3] - sample[0]])
    return float(np.linalg.norm(np.linalg.solve(per_m, moved)))


def _cubic(c: Sequence[float], x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The 20 terms of RPC00B summed, x longitude, y latitude, z height."""
    value: np.ndarray = (
        c[0] + c[1] * x + c[2] * y + c[3] * z + c[4] * x * y + c[5] * x * z + c[6] * y * z
        + c[7] * x * x + c[8] * y * y + c[9] * z * z + c[10] * x * y * z
        + x * (c[11] * x * x + c[12] * y * y + c[13] * z * z) + c[14] * x * x * y
        + y * (c[15] * y * y + c[16] * z * z) + (c[17] * x * x + c[18] * y * y + c[19] * z * z) * z
    )  # fmt: skip
    return value


def _refused(what: str, item: str, enough: str) -> GeolocationError:
    return GeolocationError(
        f"rational polynomials cannot place an image: {what}", item=f"RPC, {item}", enough=enough,
        todo="look at the product's RPC file",
    )  # fmt: skip
