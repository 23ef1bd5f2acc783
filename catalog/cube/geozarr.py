"""Where the pixels of a Zarr group lie, in CF's words and GeoZarr's: proj, spatial, multiscales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox

_KNOWN = {
    "proj": (
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    "multiscales": ("d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
}
"""Name of a convention to the id by which it is known, and its description (github.com/zarr-conventions, v0.1)."""

_OURS = ("zarr_conventions", "multiscales", "Conventions")


def attributes(box: GeoBox | None, overviews: Sequence[GeoBox], variables: Sequence[str]) -> dict[str, Any]:
    """Attributes of a group whose arrays have the dimensions y and x.

    Parameters
    ----------
    box
        CRS, affine and shape of its pixels; None in radar geometry, which these conventions cannot place.
    overviews
        The same of each overview in its sub-groups 1, 2, ..., each half as fine as the one before; () for none.
    variables
        Path of the pixels of each level, as in data, 1/data, 2/data.

    Returns
    -------
    dict
        JSON-able; affines are a, b, c, d, e, f from (column, row) of a pixel's upper left corner to (x, y).
    """
    found: dict[str, Any] = {"Conventions": "CF-1.11"}
    used = []
    if box is not None:
        used += ["proj", "spatial"]
        crs = str(box.crs)
        coded = crs.split(":")[-1].isdigit() and crs.count(":") == 1
        found |= {"proj:code": crs} if coded else {"proj:wkt2": crs}
        found |= {
            "spatial:dimensions": ["y", "x"],
            "spatial:bbox": [float(v) for v in box.boundingbox.bbox],
            **_place(box),
            "spatial:registration": "pixel",
        }
    if len(variables) > 1:
        used.append("multiscales")
        found["multiscales"] = {"layout": _layout(box, overviews, variables), "resampling_method": "average"}
    return found | {"zarr_conventions": [_declared(name) for name in used]} if used else found


def is_ours(name: str) -> bool:
    """Whether an attribute of a group was written by `attributes`."""
    return name in _OURS or name.startswith(("proj:", "spatial:"))


def scaled(box: GeoBox, factor: int) -> GeoBox:
    """The grid of pixels that hold factor x factor pixels of another; the last row and column may hold fewer."""
    rows, columns = (-(-n // factor) for n in box.shape)
    return GeoBox((rows, columns), box.affine * Affine.scale(factor), box.crs)


def _layout(box: GeoBox | None, overviews: Sequence[GeoBox], variables: Sequence[str]) -> list[dict[str, Any]]:
    """The chain of levels; a level's pixel (row, column) is (2 row, 2 column) of the level it derives from."""
    boxes: list[GeoBox | None] = [None] * len(variables) if box is None else [box, *overviews]
    levels: list[dict[str, Any]] = []
    for number, (path, own) in enumerate(zip(variables, boxes, strict=True)):
        step = 1.0 if number == 0 else 2.0
        level: dict[str, Any] = {"asset": path, "transform": {"scale": [step, step], "translation": [0.0, 0.0]}}
        level |= {"derived_from": variables[number - 1]} if number else {}
        levels.append(level | (_place(own) if own is not None else {}))
    return levels


def _place(box: GeoBox) -> dict[str, Any]:
    return {"spatial:transform": [float(v) for v in box.affine[:6]], "spatial:shape": [int(n) for n in box.shape]}


def _declared(name: str) -> dict[str, str]:
    number, text = _KNOWN[name]
    home = f"zarr-conventions/{name}"
    return {
        "name": name,
        "uuid": number,
        "schema_url": f"https://raw.githubusercontent.com/{home}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/{home}/blob/v0.1/README.md",
        "description": text,
    }
