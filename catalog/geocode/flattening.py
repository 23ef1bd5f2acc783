"""Terrain-flattened gamma nought: power over the area it is from, summed from a DEM's facets in radar geometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import CRS
from scipy.ndimage import map_coordinates

from catalog.geocode.heights import Dem, ellipsoidal_heights, grid_of
from catalog.geocode.range_doppler import RadarGrid
from catalog.geocode.rpc_forward import METRES_PER_DEGREE
from catalog.geocode.sampling import row_blocks, sample
from catalog.geocode.terrain import MOST_PAD_M, look_on_terrain, radar_axes, surface, surroundings

COARSE_M = 90.0
"""Pixel size at which the relief around a tile is looked at."""
LEAST_SHARE = 0.05
"""Of the area of level ground: below, a pixel's power is nearly all noise and flattening would only raise it."""


def terrain_on(grid: RadarGrid, geobox: GeoBox, dems: Sequence[Dem], *, area: bool) -> xr.Dataset:
    """Heights, angles, layover and shadow of a tile, and the lit area, with as much around it as bears on it.

    Worked out at the tile's pixel size, or at the DEM's where that is coarser: between its heights nothing is known.

    Parameters
    ----------
    geobox
        The tile, in metres.
    dems
        As in ellipsoidal_heights.
    area
        Whether the lit area is wanted, for `flatten`.

    Returns
    -------
    Dataset (y, x) on the tile: `height`, the layers of look_on_terrain and, where wanted, `area` of gamma_area.

    Raises
    ------
    GeolocationError
        As in ellipsoidal_heights, or when the tile is not in metres.
    """
    pixel_m = abs(geobox.resolution.x)
    frame = geobox if _spacing_m(dems) < 1.5 * pixel_m else geobox.zoom_to(resolution=_spacing_m(dems))
    pad = int(np.ceil(MOST_PAD_M / abs(frame.resolution.x)))
    coarse = frame.pad(pad, pad).zoom_to(resolution=max(COARSE_M, abs(frame.resolution.x)))
    known = ellipsoidal_heights(dems, coarse)
    wide = surroundings(grid, frame, float(known.max() - known.min()))
    height = ellipsoidal_heights(dems, wide)
    found = look_on_terrain(grid, wide, height)
    if area:
        found["area"] = gamma_area(grid, wide, height, found["shadow"])
    layers = {str(name): _onto(values, wide, geobox) for name, values in found.data_vars.items()}
    return xr.Dataset(layers).assign(height=ellipsoidal_heights(dems, geobox))


def _spacing_m(dems: Sequence[Dem]) -> float:
    """Metres between the heights of the finest DEM."""
    found = []
    for dem in dems:
        crs, affine = grid_of(dem)
        found.append(abs(affine.e) * (METRES_PER_DEGREE if CRS.from_user_input(crs).is_geographic else 1.0))
    return min(found)


def _onto(values: xr.DataArray, wide: GeoBox, geobox: GeoBox) -> xr.DataArray:
    """Values of a wider grid on the tile: numbers bilinear, flags nearest."""
    row, column = np.indices(geobox.shape) + 0.5
    to_pixel = ~wide.affine * geobox.affine
    across, down = (
        to_pixel.a * column + to_pixel.b * row + to_pixel.c,
        to_pixel.d * column + to_pixel.e * row + to_pixel.f,
    )
    flag = values.dtype == np.uint8
    one = values.expand_dims("band")
    found = sample(one, np.round(down - 0.5, 6), np.round(across - 0.5, 6), "nearest" if flag else "bilinear")[0]
    coords = xr_coords(geobox, dims=("y", "x"))
    return xr.DataArray(np.nan_to_num(found).astype("uint8") if flag else found, coords, ("y", "x"), attrs=values.attrs)


def gamma_area(grid: RadarGrid, geobox: GeoBox, height: xr.DataArray, shadow: xr.DataArray) -> xr.DataArray:
    """Illuminated area across the look per area of level ground, of the radar cell that each pixel lies in.

    The terrain's facets are projected onto the plane across the look and summed in radar geometry, those in layover
    with the rest, those in shadow not; and so is level ground at the mean height, as it lies. Dividing sigma nought by
    their ratio gives terrain-flattened gamma nought; on level ground the ratio is the cosine of the incidence angle.
    Source: Small, Flattening Gamma: Radiometric Terrain Correction for SAR Imagery, IEEE TGRS 49 (8), 2011, eq. 15-18.

    Parameters
    ----------
    grid, geobox, height
        As in look_on_terrain.
    shadow
        (y, x) of look_on_terrain.

    Returns
    -------
    DataArray (y, x), float32, NaN where heights are unknown.
    """
    heights_m = height.values.astype(float)
    level = np.where(np.isfinite(heights_m), np.nanmean(heights_m), np.nan)
    cell = _cell(grid, geobox, float(np.nanmean(heights_m)))
    terrain, flat = _Sums(), _Sums()
    where = np.full((2, *heights_m.shape), np.nan)
    for rows in row_blocks(heights_m.shape[0]):
        seen, area, _ = surface(grid, geobox, heights_m, rows)
        where[:, rows] = np.stack([seen.time_s / cell[0], seen.slant_m / cell[1]])
        lit = np.maximum(np.sum(seen.towards * area, axis=-1), 0) * (shadow.values[rows] == 0)
        terrain.add(where[:, rows], lit)
        seen, area, _ = surface(grid, geobox, level, rows)
        flat.add(np.stack([seen.time_s / cell[0], seen.slant_m / cell[1]]), np.linalg.norm(area, axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = terrain.at(where) / flat.at(where)
    ratio[~np.isfinite(ratio)] = np.nan
    attrs = {"units": "1", "long_name": "illuminated area over that of level ground"}
    return xr.DataArray(ratio.astype("float32"), dims=("y", "x"), coords=height.coords, attrs=attrs)


def flatten(sigma_nought: xr.DataArray, area: xr.DataArray, incidence_deg: xr.DataArray) -> xr.DataArray:
    """Terrain-flattened gamma nought = sigma nought / area ratio.

    Parameters
    ----------
    sigma_nought
        (band, y, x) linear, as calibrated for the ellipsoid.
    area
        (y, x) of gamma_area.
    incidence_deg
        (y, x) on the ellipsoid.

    Returns
    -------
    DataArray (band, y, x), float32; NaN where less than a twentieth of level ground's area is lit.
    """
    enough = area.values >= LEAST_SHARE * np.cos(np.radians(incidence_deg.values))
    values = np.where(enough, sigma_nought.values / np.where(enough, area.values, 1.0), np.nan)
    return sigma_nought.copy(data=values.astype("float32"))


class _Sums:
    """Areas summed in radar cells, each shared out over 4 x 4 of them by cubic B-splines.

    A bilinear share would beat between the two grids by per cents; with three facets to a cell this one does by 1e-3.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, where: np.ndarray, areas: np.ndarray) -> None:
        """Areas (...) at fractional cells (2, ...)."""
        known = np.isfinite(where).all(axis=0) & np.isfinite(areas)
        if not known.any():
            return
        row, column = where[0][known], where[1][known]
        top, left = int(np.floor(row.min())) - 1, int(np.floor(column.min())) - 1
        shape = (int(np.floor(row.max())) - top + 3, int(np.floor(column.max())) - left + 3)
        (i, by_row), (j, by_column) = _spline(row - top), _spline(column - left)
        total = np.zeros(shape[0] * shape[1])
        for k in range(4):
            for m in range(4):
                at = (i + k - 1) * shape[1] + j + m - 1
                total += np.bincount(at, areas[known] * by_row[k] * by_column[m], minlength=total.size)
        self._parts.append((np.array([top, left]), total.reshape(shape)))

    def at(self, where: np.ndarray) -> np.ndarray:
        """Bilinear sums per cell at fractional cells (2, ...); zero where nothing fell."""
        corner = np.min([c for c, _ in self._parts], axis=0)
        end = np.max([c + np.array(t.shape) for c, t in self._parts], axis=0)
        total = np.zeros(end - corner)
        for (top, left), part in ((c - corner, t) for c, t in self._parts):
            total[top : top + part.shape[0], left : left + part.shape[1]] += part
        known = np.isfinite(where).all(axis=0)
        found = np.full(where.shape[1:], np.nan)
        found[known] = map_coordinates(total, where[:, known] - corner[:, None], order=1, mode="constant")
        return found


def _spline(position: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Whole cell and cubic B-spline weights of the cells at -1, 0, 1 and 2 from it."""
    whole = np.floor(position).astype(int)
    t = position - whole
    return whole, (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )


def _cell(grid: RadarGrid, geobox: GeoBox, height_m: float) -> tuple[float, float]:
    """Seconds and metres of slant range of a radar cell three map pixels wide."""
    _, _, time, slant = radar_axes(grid, geobox, height_m)
    side = 3 * abs(geobox.resolution.x)
    return side * float(np.linalg.norm(time)), side * float(np.linalg.norm(slant))
