"""Sentinel-2 tile XML: the sun's angles every 5 km, onto any grid by bilinear interpolation; view angles per band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from odc.geo.geobox import GeoBox
from rasterio.warp import transform

from catalog.metadata.sentinel2 import BAND_NAMES
from catalog.metadata.xml import XmlNode, finite, read_xml, refuse


@dataclass(frozen=True)
class TileAngles:
    """Sun and view angles of one tile, degrees; azimuths clockwise from north."""

    crs: str
    """As in EPSG:32755."""
    ulx_m: float
    """Easting of the first node, the outer corner of the tile."""
    uly_m: float
    """Northing of the first node."""
    col_step_m: float
    """From node to node in a row."""
    row_step_m: float
    """From row to row, southward."""
    sun_zenith_deg: np.ndarray
    """(row, column) float64, NaN where the file says so."""
    sun_azimuth_deg: np.ndarray
    """(row, column) float64, 0 to 360."""
    mean_sun_deg: tuple[float, float]
    """Zenith and azimuth that the file gives for the tile."""
    mean_view_deg: Mapping[str, tuple[float, float]]
    """Band name to zenith and azimuth that the file gives for it."""


def read_angles(path: Path) -> TileAngles:
    """Parse the angles of a tile XML.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing, ragged or no number.
    """
    root = read_xml(path)
    geocoding = root.node("Geometric_Info/Tile_Geocoding")
    angles = root.node("Geometric_Info/Tile_Angles")
    grid, mean = angles.node("Sun_Angles_Grid"), angles.node("Mean_Sun_Angle")
    zenith, azimuth = _grid(grid, "Zenith"), _grid(grid, "Azimuth")
    steps = {(grid.number(f"{k}/COL_STEP"), grid.number(f"{k}/ROW_STEP")) for k in ("Zenith", "Azimuth")}
    if zenith.shape != azimuth.shape or len(steps) != 1:
        raise refuse(path, "Sun_Angles_Grid", "has zenith and azimuth on different nodes", "one grid for both")
    col_step, row_step = steps.pop()
    if col_step <= 0 or row_step <= 0:
        raise refuse(path, "Sun_Angles_Grid COL_STEP, ROW_STEP", f"are {col_step:g}, {row_step:g}", "steps above 0")
    return TileAngles(
        crs=geocoding.text("HORIZONTAL_CS_CODE"),
        ulx_m=geocoding.number("Geoposition/ULX"),
        uly_m=geocoding.number("Geoposition/ULY"),
        col_step_m=col_step,
        row_step_m=row_step,
        sun_zenith_deg=zenith,
        sun_azimuth_deg=azimuth,
        mean_sun_deg=(mean.number("ZENITH_ANGLE"), mean.number("AZIMUTH_ANGLE")),
        mean_view_deg=_views(angles),
    )


def sun_at(angles: TileAngles, x_m: ArrayLike, y_m: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The sun over points of the tile, bilinear between nodes.

    The azimuth is interpolated as a unit vector, so that it passes north without a jump.

    Parameters
    ----------
    x_m, y_m
        Easting and northing in the tile's CRS; they broadcast against each other.

    Returns
    -------
    tuple
        Zenith and azimuth in degrees, float64 in the shape of the points; azimuth 0 to 360. NaN outside the nodes and
        beside a node without a value.
    """
    column = (np.asarray(x_m, float) - angles.ulx_m) / angles.col_step_m
    row = (angles.uly_m - np.asarray(y_m, float)) / angles.row_step_m
    column, row = np.broadcast_arrays(column, row)
    radians = np.deg2rad(angles.sun_azimuth_deg)
    zenith, east, north = (
        _bilinear(table, row, column) for table in (angles.sun_zenith_deg, np.sin(radians), np.cos(radians))
    )
    return zenith, np.rad2deg(np.arctan2(east, north)) % 360.0


def sun_on(angles: TileAngles, grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """The sun over the pixel centres of a grid in any CRS: zenith and azimuth (y, x) in degrees, NaN outside the tile.

    Azimuths stay clockwise from the north of the tile's own CRS.
    """
    columns, rows = np.meshgrid(np.arange(grid.shape[1]) + 0.5, np.arange(grid.shape[0]) + 0.5)
    a, b, c, d, e, f = grid.affine[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    if grid.crs is not None and str(grid.crs) != angles.crs:
        flat = transform(str(grid.crs), angles.crs, x.ravel().tolist(), y.ravel().tolist())
        x, y = (np.asarray(values).reshape(columns.shape) for values in flat)
    return sun_at(angles, x, y)


def _bilinear(table: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Table (row, column) at fractional indices; NaN outside, and where a node that has weight is NaN."""
    last_row, last_column = table.shape[0] - 1, table.shape[1] - 1
    inside = (row >= 0) & (row <= last_row) & (column >= 0) & (column <= last_column)
    r, c = np.where(inside, row, 0.0), np.where(inside, column, 0.0)
    top = np.minimum(r.astype(int), max(0, last_row - 1))
    left = np.minimum(c.astype(int), max(0, last_column - 1))
    down, right = r - top, c - left
    total = np.zeros(r.shape)
    for dr, wr in ((0, 1 - down), (1, down)):
        for dc, wc in ((0, 1 - right), (1, right)):
            weight = wr * wc
            value = table[np.minimum(top + dr, last_row), np.minimum(left + dc, last_column)]
            total += np.where(weight == 0, 0.0, weight * value)
    return np.where(inside, total, np.nan)


def _grid(node: XmlNode, kind: str) -> np.ndarray:
    """Values_List of Zenith or Azimuth, one VALUES element a row."""
    field = f"Sun_Angles_Grid/{kind}/Values_List"
    lines = [(n.element.text or "").split() for n in node.node(f"{kind}/Values_List").children("VALUES")]
    try:
        rows = [[float(v) for v in line] for line in lines]
    except ValueError:
        raise refuse(node.path, field, "holds something that is no number", "rows of numbers") from None
    if len(rows) < 2 or len(rows[0]) < 2 or any(len(r) != len(rows[0]) for r in rows):
        raise refuse(node.path, field, "is cut off or ragged", "at least 2 x 2 numbers in rows of one length")
    table = np.array(rows)
    limit = 180.0 if kind == "Zenith" else 360.0
    if np.isnan(table).all() or (table[~np.isnan(table)] < 0).any() or (table[~np.isnan(table)] > limit).any():
        raise refuse(node.path, field, f"holds no angle, or one outside 0 to {limit:g}", "angles in degrees")
    return table


def _views(angles: XmlNode) -> dict[str, tuple[float, float]]:
    """Mean view zenith and azimuth per band."""
    field = "Mean_Viewing_Incidence_Angle"
    found: dict[str, tuple[float, float]] = {}
    for node in angles.descendants(field):
        text = node.element.get("bandId") or ""
        if not text.isdigit() or int(text) >= len(BAND_NAMES):
            raise refuse(angles.path, f"{field} bandId", f"{text!r} is no band", f"0 to {len(BAND_NAMES) - 1}")
        pair = (finite(angles.path, f"{field} {k}", node.text(k)) for k in ("ZENITH_ANGLE", "AZIMUTH_ANGLE"))
        zenith, azimuth = pair
        found[BAND_NAMES[int(text)]] = (zenith, azimuth)
    return found
