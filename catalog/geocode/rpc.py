"""Products in their own geometry onto the Earth by rational polynomials, at one height or on a DEM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer

from catalog.errors import GeolocationError
from catalog.geocode.heights import Dem
from catalog.geocode.place import Places, place
from catalog.geocode.rpc_forward import check_rpc

PIXEL_ERROR = 1e-6
"""GDAL stops inverting at a tenth of a pixel unless told otherwise."""


def place_by_rpc(
    rpcs: RPC, shape: tuple[int, int], height: float | Sequence[Dem], *, origin: tuple[int, int] = (0, 0)
) -> Places:
    """Longitude, latitude and height of every pixel of a product kept in its own geometry.

    Parameters
    ----------
    rpcs
        Rational polynomial coefficients; their heights are ellipsoidal.
    shape, height, origin
        As in `place.place`, which says what is returned.

    Raises
    ------
    GeolocationError
        As in `place.place`, or when the polynomials place nothing (a scale of zero).
    """
    check_rpc(rpcs)
    levels_m = rpcs.height_off + rpcs.height_scale * np.array([-1.0, 0.0, 1.0])
    with RPCTransformer(rpcs, RPC_PIXEL_ERROR_THRESHOLD=PIXEL_ERROR) as transformer:
        return place(lambda r, c, h: _invert(transformer, r, c, h), shape, height, levels_m, origin)


def _invert(transformer: RPCTransformer, rows: np.ndarray, columns: np.ndarray, height_m: float) -> np.ndarray:
    """Longitude and latitude (2, rows, columns) of pixel centres at one height."""
    row, column = np.meshgrid(rows, columns, indexing="ij")
    # GDAL counts from pixel corners, RPC from pixel centres: "center" adds the half pixel that GDAL takes off.
    heights = np.full(row.size, height_m)
    longitude, latitude = transformer.xy(row.ravel(), column.ravel(), zs=heights, offset="center")
    placed = np.stack([np.reshape(longitude, row.shape), np.reshape(latitude, row.shape)])
    if not np.isfinite(placed).all():
        raise GeolocationError(
            "the rational polynomials cannot be inverted",
            item="RPC",
            enough="coefficients valid over the whole image",
            todo="look at the product's RPC file",
        )
    return placed
