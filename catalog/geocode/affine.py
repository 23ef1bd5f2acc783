"""An affine on a product in radar geometry is refused: somebody divided a bounding box by a shape."""

from __future__ import annotations

from collections.abc import Sequence

import pystac

from catalog.errors import GeolocationError
from catalog.sensors import SENSORS

Six = Sequence[float]


def refuse_affine(
    item: str,
    geolocation: str,
    transform: Six | None,
    *,
    shape: tuple[int, int] | None = None,
    bounds: Six | None = None,
    file_shape: tuple[int, int] | None = None,
) -> None:
    """Refuse an affine on a product in radar geometry: no affine is true there, an invented one misplaces in silence.

    Parameters
    ----------
    item
        The scene, for the error.
    geolocation
        affine, rpc or radar-grid.
    transform
        The affine a, b, c, d, e, f that the item claims; None or the identity claims nothing.
    shape
        Rows and columns that the item claims; the error explains where the affine is from.
    bounds
        West, south, east, north that the item claims (proj:bbox, else bbox), in the affine's units.
    file_shape
        Rows and columns of the file itself.

    Raises
    ------
    GeolocationError
        When a product that has no affine claims one, or its shape is the file's with rows and columns exchanged.
    """
    if geolocation == "affine":
        return
    turned = file_shape is not None and shape is not None and shape != file_shape and shape == file_shape[::-1]
    if turned:
        raise _refused(
            f"the item gives the shape {shape}, the file is {file_shape}: rows and columns are exchanged", item
        )
    if transform is None or tuple(transform)[:6] in ((1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0)):
        return
    how = f"{tuple(transform)[:6]}"
    if shape and bounds and invented(transform, shape, bounds):
        how += ", which is its bounding box divided by its shape"
    raise _refused(f"the item gives an affine to a product in radar geometry: {how}", item)


def refuse_item(item: pystac.Item) -> None:
    """Refuse an item of a product in radar or image geometry that gives it an affine, as some providers' GRDs do.

    Raises
    ------
    GeolocationError
        As refuse_affine.
    """
    said = item.properties
    platform = str(said.get("platform", "")).lower()
    row = next((s for s in SENSORS.values() if platform in s.platforms), None)
    ungeocoded = row is not None and said.get("sar:product_type") in ("GRD", "SLC")
    geolocation = said.get("ringmoe:geolocation") or (row.geolocation if row and ungeocoded else "affine")
    for fields in (said, *(a.extra_fields for a in item.assets.values() if "data" in (a.roles or ()))):
        shape = fields.get("proj:shape") or said.get("proj:shape")
        bounds = fields.get("proj:bbox") or said.get("proj:bbox") or item.bbox
        refuse_affine(
            f"item {item.id}",
            str(geolocation),
            fields.get("proj:transform"),
            shape=(int(shape[0]), int(shape[1])) if shape else None,
            bounds=bounds,
        )


def invented(transform: Six, shape: tuple[int, int], bounds: Six) -> bool:
    """Whether an affine is a bounding box (west, south, east, north) divided by a shape (rows, columns).

    Either way round, to one pixel at the image's far corner.
    """
    west, south, east, north = bounds
    a, b, c, d, e, f = tuple(transform)[:6]
    if b or d:
        return False
    for rows, columns in (shape, shape[::-1]):
        wide, high = (east - west) / columns, (north - south) / rows
        pixels = abs(a / wide - 1) * columns < 1 and abs(abs(e) / high - 1) * rows < 1
        if pixels and abs(c - west) < wide and min(abs(f - north), abs(f - south)) < high:
            return True
    return False


def _refused(what: str, item: str) -> GeolocationError:
    return GeolocationError(
        what,
        item=item,
        enough="no affine, or a product that was geocoded",
        todo="remove proj:transform and correct proj:shape, or register the product's own folder; "
        "such pixels are placed by orbit, timing and height, or by rational polynomials",
    )
