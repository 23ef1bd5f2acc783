"""One resampling by a measured shift, affine or field."""

from __future__ import annotations

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import map_coordinates

from catalog.coregister.deformation import Deformation
from catalog.coregister.shift import Shift
from catalog.errors import GridError


def moved_grid(geobox: GeoBox, shift: Shift) -> GeoBox:
    """Where the ground of a grid lies in the scene that was measured: read on it, the scene lies on the reference.

    Parameters
    ----------
    geobox
        Grid of the reference, with the extent that the shift was measured on, in metres.
    shift
        Of model shift or affine; one that was not accepted moves nothing.

    Returns
    -------
    GeoBox of the same shape and CRS, whose affine holds the shift or the affine.

    Raises
    ------
    GridError
        For a field, which no affine holds, or a grid in degrees.
    """
    if shift.model == "field" or (geobox.crs is not None and geobox.crs.geographic):
        raise GridError(
            f"a {shift.model} in metres is no affine of this grid",
            item=str(geobox.crs),
            enough="a shift or an affine, and a projected grid",
            todo="warp pixels by coregister.warp, or ask for models shift and affine alone",
        )
    east, south, (a, b, c, d, e, f) = shift.dx_m, shift.dy_m, tuple(geobox.affine)[:6]
    move = Affine.translation(-east, -south)
    if shift.deformation is not None:
        x, y = geobox.affine * (geobox.shape[1] / 2, geobox.shape[0] / 2)
        move = Affine.translation(x, y) * _inverse_displacement(shift.deformation) * Affine.translation(-x, -y)
    return GeoBox(geobox.shape, move * Affine(a, b, c, d, e, f), geobox.crs)


def warp(image: np.ndarray, usable: np.ndarray, shift: Shift, pixel_m: float) -> np.ndarray:
    """The moving image where the reference shows it, by one bilinear resampling.

    Parameters
    ----------
    image
        (y, x) real, on the grid that the shift was measured on.
    usable
        (y, x) bool; pixels that are not take no part.
    shift
        Of any model; one that was not accepted moves nothing.
    pixel_m
        Side of a pixel in metres.

    Returns
    -------
    (y, x) float, NaN where less than half of the bilinear weight is usable.
    """
    rows, columns = np.meshgrid(*(np.arange(n, dtype=float) for n in image.shape), indexing="ij")
    dx_m, dy_m = np.full(image.shape, shift.dx_m), np.full(image.shape, shift.dy_m)
    if shift.deformation is not None:
        east_m = (columns - (image.shape[1] - 1) / 2) * pixel_m
        north_m = ((image.shape[0] - 1) / 2 - rows) * pixel_m
        dx_m, dy_m = shift.deformation.at(east_m, north_m)
    at = np.stack([rows + dy_m / pixel_m, columns - dx_m / pixel_m])
    usable = usable & np.isfinite(image)
    weight = map_coordinates(usable.astype(float), at, order=1, mode="grid-constant")
    total = map_coordinates(np.where(usable, image, 0.0), at, order=1, mode="grid-constant")
    return np.where(weight >= 0.5, total / np.maximum(weight, 1e-6), np.nan)


def _inverse_displacement(deformation: Deformation) -> Affine:
    """From places on the reference, in metres from the centre, to the places at which the scene shows them."""
    (dx, dx_e, dx_n), (dy, dy_e, dy_n) = deformation.dx_m, deformation.dy_m
    half_w, half_h = deformation.width_m / 2, deformation.height_m / 2
    return Affine(1 - dx_e / half_w, -dx_n / half_h, -dx, -dy_e / half_w, 1 - dy_n / half_h, -dy)
