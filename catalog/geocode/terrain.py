"""What relief does to a radar image: incidence angles, layover, shadow, and the lit area behind a pixel's power."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Transformer
from scipy.ndimage import map_coordinates

from catalog.errors import GeolocationError
from catalog.geocode.range_doppler import RadarGrid, Sight, incidence_angle, sight, vertical
from catalog.geocode.sampling import places, row_blocks

MOST_PAD_M = 10_000.0
LAYERS = ("incidence_angle", "local_incidence_angle", "layover", "shadow")


def surroundings(grid: RadarGrid, geobox: GeoBox, relief_m: float) -> GeoBox:
    """A grid with as much of its surroundings as may lie over it or shade it.

    Parameters
    ----------
    geobox
        A grid in metres.
    relief_m
        Highest less lowest height around it.
    """
    row = geobox.shape[0] // 2
    longitude, latitude = (v[:, geobox.shape[1] // 2] for v in places(geobox, slice(row, row + 1)))
    tangent = float(np.tan(np.radians(incidence_angle(grid, longitude, latitude, 0.0)[0])))
    if not np.isfinite(tangent):
        return geobox
    pixel_m = abs(geobox.resolution.x)
    pad = int(np.ceil(min(relief_m * max(tangent, 1 / tangent), MOST_PAD_M) / pixel_m)) + 16
    return geobox.pad(pad, pad)


def look_on_terrain(grid: RadarGrid, geobox: GeoBox, height: xr.DataArray) -> xr.Dataset:
    """How the radar sees every pixel of a map grid.

    Layover and shadow are found along lines of one zero-Doppler time, from near to far: a place lies in layover where a
    nearer one is further from the satellite than it or a further one nearer, in shadow where a nearer one is seen under
    a larger angle from the nadir. Source: Kropatsch and Strobl, The generation of SAR layover and shadow maps from
    digital elevation models, IEEE TGRS 28 (1), 1990.

    Parameters
    ----------
    grid
        Orbit and timing.
    geobox
        In metres; its edge knows nothing of what lies beyond, so ask for `surroundings` and crop.
    height
        (y, x) metres above the ellipsoid on `geobox`, NaN where unknown.

    Returns
    -------
    Dataset (y, x): `incidence_angle` on the ellipsoid and `local_incidence_angle` on the terrain (float32, degrees, NaN
    where unknown; above 90 the slope faces away), `layover` and `shadow` (uint8, 0 or 1).

    Raises
    ------
    GeolocationError
        The grid is not in metres.
    """
    _check_metres(geobox)
    heights_m = height.values.astype(float)
    incidence, local = (np.full(heights_m.shape, np.nan, "float32") for _ in range(2))
    for rows in row_blocks(heights_m.shape[0]):
        seen, area, up = surface(grid, geobox, heights_m, rows)
        flat = np.sum(seen.towards * up, axis=-1)
        slope = np.sum(seen.towards * area, axis=-1) / np.linalg.norm(area, axis=-1)
        incidence[rows], local[rows] = (np.degrees(np.arccos(np.clip(c, -1, 1))) for c in (flat, slope))
    layover, shadow = _along_range(grid, geobox, heights_m)
    values = dict(zip(LAYERS, (incidence, local, layover, shadow), strict=True))
    coords = xr_coords(geobox, dims=("y", "x"))
    units = {"incidence_angle": "degree", "local_incidence_angle": "degree"}
    return xr.Dataset(
        {k: (("y", "x"), v, {"units": units.get(k, "1"), "long_name": k}) for k, v in values.items()}, coords=coords
    )


def surface(
    grid: RadarGrid, geobox: GeoBox, heights_m: np.ndarray, rows: slice
) -> tuple[Sight, np.ndarray, np.ndarray]:
    """Sight, area vector (upwards, m2) and vertical of the pixels of some rows."""
    wide = slice(max(rows.start - 1, 0), min(rows.stop + 1, heights_m.shape[0]))
    longitude, latitude = places(geobox, wide)
    seen = sight(grid, longitude, latitude, heights_m[wide])
    across, down = np.gradient(seen.place_m, axis=1), np.gradient(seen.place_m, axis=0)
    area = np.cross(down, across)
    up = vertical(longitude, latitude)
    area *= np.sign(np.sum(area * up, axis=-1))[..., None]
    inner = slice(rows.start - wide.start, rows.stop - wide.start)
    cut = Sight(*(getattr(seen, f)[inner] for f in ("time_s", "slant_m", "towards", "place_m", "satellite_m")))
    return cut, area[inner], up[inner]


def radar_axes(
    grid: RadarGrid, geobox: GeoBox, height_m: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centre (x, y), unit vector away from the sensor at one zero-Doppler time, gradients of time and slant range."""
    step = abs(geobox.resolution.x)
    rows, columns = geobox.shape
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    centre = np.array([a * columns / 2 + b * rows / 2 + c, d * columns / 2 + e * rows / 2 + f])
    x, y = (centre + step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])).T
    longitude, latitude = Transformer.from_crs(geobox.crs, "EPSG:4326", always_xy=True).transform(x, y)
    seen = sight(grid, longitude, latitude, height_m)
    time, slant = (np.array([v[0] - v[1], v[2] - v[3]]) / (2 * step) for v in (seen.time_s, seen.slant_m))
    away = np.array([-time[1], time[0]]) / np.linalg.norm(time)
    return centre, away * np.sign(away @ slant), time, slant


def _along_range(grid: RadarGrid, geobox: GeoBox, heights_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layover and shadow (y, x) uint8, from lines along the range one pixel apart."""
    height_m = float(np.nanmean(heights_m)) if np.isfinite(heights_m).any() else 0.0
    centre, away, _, _ = radar_axes(grid, geobox, height_m)
    flags = np.zeros((2, *heights_m.shape), "uint8")
    if not np.isfinite(away).all():
        return flags[0], flags[1]
    step, along = abs(geobox.resolution.x), np.array([-away[1], away[0]])
    row, column = np.indices(heights_m.shape) + 0.5
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    x, y = a * column + b * row + c - centre[0], d * column + e * row + f - centre[1]
    line, sample = (np.rint((x * v[0] + y * v[1]) / step).astype(int) for v in (along, away))
    first = sample.min()
    for lines in _line_blocks(int(line.min()), int(line.max())):
        s, v = np.meshgrid(lines, np.arange(first, sample.max() + 1), indexing="ij")
        place = centre[:, None, None] + step * (along[:, None, None] * s + away[:, None, None] * v)
        hidden = _one_block(grid, geobox, heights_m, place)
        mine = (line >= lines[0]) & (line <= lines[-1])
        flags[:, mine] = hidden[:, line[mine] - lines[0], sample[mine] - first]
    return flags[0], flags[1]


def _line_blocks(first: int, last: int) -> Iterator[np.ndarray]:
    return (np.arange(block.start, block.stop) + first for block in row_blocks(last - first + 1, 128))


def _one_block(grid: RadarGrid, geobox: GeoBox, heights_m: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Layover and shadow (2, lines, samples) of places (2, lines, samples) in map coordinates, near to far."""
    to_pixel = ~geobox.affine
    column = to_pixel.a * place[0] + to_pixel.b * place[1] + to_pixel.c - 0.5
    row = to_pixel.d * place[0] + to_pixel.e * place[1] + to_pixel.f - 0.5
    height = map_coordinates(heights_m, [row, column], order=1, mode="constant", cval=np.nan)
    longitude, latitude = Transformer.from_crs(geobox.crs, "EPSG:4326", always_xy=True).transform(place[0], place[1])
    seen = sight(grid, longitude, latitude, height)
    radius = np.linalg.norm(seen.satellite_m, axis=-1)
    from_nadir = np.arccos(np.clip(np.sum(seen.towards * seen.satellite_m, axis=-1) / radius, -1, 1))
    nearer = np.fmax.accumulate(seen.slant_m, axis=1)
    further = np.fmin.accumulate(seen.slant_m[:, ::-1], axis=1)[:, ::-1]
    layover = (seen.slant_m < nearer) | (seen.slant_m > further)
    shadow = from_nadir < np.fmax.accumulate(from_nadir, axis=1)
    return np.stack([layover, shadow])


def _check_metres(geobox: GeoBox) -> None:
    if geobox.crs is None or not geobox.crs.projected:
        raise GeolocationError(
            "layover and shadow need a grid in metres",
            item=str(geobox.crs),
            enough="a projected grid",
            todo="take a tile of catalog.grid",
        )
