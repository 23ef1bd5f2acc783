"""One tiling of the Earth; a tile is an odc.geo GeoBox."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry, box, multipolygon

from catalog.errors import GridError

TILE_M = 15_360.0
"""Default side of a tile in metres: 1536 pixels at 10 m, 512 at 30 m, 7680 at 2 m."""


@dataclass(frozen=True)
class Tile:
    """A square of the Earth in one UTM zone or polar grid, or the whole raster of one scene."""

    id: str
    """Name, as in 32632_2560m_E0268_N2032; unique for a CRS, a size and a place."""
    geobox: GeoBox
    """CRS, affine and shape (rows, columns) of its pixels."""


NORTH_POLE, SOUTH_POLE = "EPSG:3413", "EPSG:3031"
"""Polar stereographic grids on WGS 84, true at 70 N and 71 S, where UTM ends; those of NSIDC and of Landsat over
Antarctica. A metre of theirs is 0.97 m of ground at the pole."""
FROM_MERIDIAN_M = 600_000.0
"""How far the centre of a scene may lie from its zone's central meridian: half a zone at the equator is 334 km, and the
widest scenes, on the grid of a neighbouring zone, reach half their swath of 290 km further."""


def crs_of(longitude: float, latitude: float) -> str:
    """EPSG code of the grid of a place: its UTM zone, or a polar stereographic grid beyond 84 N and 80 S.

    Parameters
    ----------
    longitude, latitude
        Degrees.

    Raises
    ------
    GridError
        The latitude is none.
    """
    if not -90.0 <= latitude <= 90.0:
        raise GridError(
            f"no place lies at latitude {latitude:.2f}",
            item=f"lon {longitude:.4f} lat {latitude:.4f}",
            enough="a latitude between -90 and 90 degrees",
            todo="check the order: longitude, then latitude",
        )
    if latitude > 84.0:
        return NORTH_POLE
    return SOUTH_POLE if latitude < -80.0 else utm_crs(longitude, latitude)


def utm_crs(longitude: float, latitude: float) -> str:
    """EPSG code of the WGS 84 UTM zone of a place; the exceptions of Norway and Svalbard are not made.

    Parameters
    ----------
    longitude, latitude
        Degrees; latitude within 80 S and 84 N.

    Raises
    ------
    GridError
        Where UTM is not defined.
    """
    if not -80.0 <= latitude <= 84.0:
        raise GridError(
            f"no UTM zone at latitude {latitude:.2f}",
            item=f"lon {longitude:.4f} lat {latitude:.4f}",
            enough="a place between 80 S and 84 N",
            todo=f"take a polar stereographic grid ({NORTH_POLE}, {SOUTH_POLE}), as `crs_of` does",
        )
    zone = int((longitude + 180.0) // 6.0) % 60 + 1
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


def is_utm(crs: str) -> bool:
    """Whether a CRS is a UTM zone on WGS 84."""
    code = crs.removeprefix("EPSG:")
    return code.isdigit() and (32601 <= int(code) <= 32660 or 32701 <= int(code) <= 32760)


def is_tiled(crs: str) -> bool:
    """Whether our tiling knows a CRS: UTM on WGS 84, and the two polar grids."""
    return is_utm(crs) or crs in (NORTH_POLE, SOUTH_POLE)


def check_zone(crs: str, longitude: float, latitude: float, *, item: str) -> None:
    """Refuse a UTM grid for a place that lies far outside of its zone; other grids pass.

    Raises
    ------
    GridError
        It says which zone would fit.
    """
    if not is_utm(crs):
        return
    meridian = (int(crs[-2:]) - 1) * 6.0 - 177.0
    off_deg = (longitude - meridian + 180.0) % 360.0 - 180.0
    off_m = math.radians(off_deg) * math.cos(math.radians(latitude)) * EARTH_M
    if abs(off_m) > FROM_MERIDIAN_M:
        raise GridError(
            f"a grid does not fit its zone: {crs} ends {abs(off_deg) - 3.0:.1f} degrees before the place",
            item=f"{item}, centre lon {longitude:.4f} lat {latitude:.4f}",
            enough=f"{crs_of(longitude, latitude)}, in whose zone it lies",
            todo="correct the CRS or the footprint of the item, or leave it out",
        )


EARTH_M = 6_378_137.0
"""Equatorial radius of WGS 84 in metres."""


def area_from_bbox(bbox: Sequence[float]) -> Geometry:
    """A polygon in EPSG:4326 from west, south, east, north in degrees; two where the box crosses the antimeridian.

    Raises
    ------
    GridError
        When the four numbers are no box.
    """
    west, south, east, north = (float(v) for v in bbox)
    if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east and -90 <= south < north <= 90):
        raise GridError(
            "the area is no box",
            item=f"bbox {west},{south},{east},{north}",
            enough="west and east within -180..180, south < north within -90..90",
            todo="put west, south, east, north in that order; west beyond east crosses the antimeridian",
        )
    if west < east:
        return box(west, south, east, north, crs="EPSG:4326")
    halves = [(w, south, e, north) for w, e in ((west, 180.0), (-180.0, east)) if w < e]
    return multipolygon([[_ring(half)] for half in halves], "EPSG:4326")


def _ring(bbox: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    west, south, east, north = bbox
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]


def tiles(area: Geometry, crs: str, resolution_m: float, *, tile_m: float = TILE_M) -> Iterator[Tile]:
    """The tiles of one UTM zone, or polar grid, that an area touches, row by row from the north-west.

    Tile corners lie on multiples of `tile_m`, so every area gives the same tiles. A tile that shares less than a pixel
    with the area is left out, unless the area itself is that small.

    Parameters
    ----------
    area
        Polygon in any CRS.
    crs
        A projected CRS in metres, as in EPSG:32632.
    resolution_m
        Pixel size in metres; must divide `tile_m`.

    Raises
    ------
    GridError
        When pixels do not fill a tile.
    """
    pixels = tile_m / resolution_m
    if abs(pixels - round(pixels)) > 1e-9:
        raise GridError(
            f"pixels of {resolution_m} m do not fill a tile of {tile_m} m",
            item=crs,
            enough="a tile size that is a multiple of every pixel size",
            todo="choose another tile size (--tile)",
        )
    size = round(pixels)
    local = onto(area, crs)
    left, bottom, right, top = local.boundingbox.bbox
    for row in range(math.ceil(top / tile_m) - 1, math.floor(bottom / tile_m) - 1, -1):
        for column in range(math.floor(left / tile_m), math.ceil(right / tile_m)):
            transform = Affine(resolution_m, 0, column * tile_m, 0, -resolution_m, (row + 1) * tile_m)
            geobox = GeoBox((size, size), transform, crs)
            overlap = geobox.extent.intersection(local)
            if overlap.is_empty or overlap.area < min(resolution_m**2, local.area / 4):
                continue
            yield Tile(f"{crs.split(':')[-1]}_{tile_m:.0f}m_E{column:04d}_N{row:04d}", geobox)


def onto(area: Geometry, crs: str) -> Geometry:
    """An area in another CRS: its corners, and on a polar grid points along its edges, which are circles there."""
    if str(area.crs) == crs:
        return area
    polar = crs in (NORTH_POLE, SOUTH_POLE) and area.crs is not None and area.crs.geographic
    moved = area.to_crs(crs, resolution=POLAR_STEP_DEG if polar else math.inf)
    return moved.buffer(0) if polar else moved


POLAR_STEP_DEG = 0.25
"""Distance of points along the edges of an area on a polar grid, in degrees of longitude or latitude."""


def native(shape: tuple[int, int], transform: Sequence[float], crs: str) -> Tile:
    """The tile that is a raster's own grid, rotated or not: no pixel is moved; equal grids give the same tile."""
    a, b, c, d, e, f = (float(v) for v in transform)
    place = hashlib.sha256(repr([round(v, 9) for v in (a, b, c, d, e, f)]).encode()).hexdigest()[:8]
    name = f"native_{crs.split(':')[-1]}_{shape[0]}x{shape[1]}_{place}"
    return Tile(name, GeoBox(shape, Affine(a, b, c, d, e, f), crs))


def whole(tiles_of_one_zone: Iterable[GeoBox]) -> GeoBox:
    """The smallest GeoBox that holds all of these, which share CRS, resolution and pixel corners."""
    boxes = list(tiles_of_one_zone)
    first = boxes[0]
    step_x, step_y = first.affine.a, first.affine.e
    left = min(b.affine.c for b in boxes)
    top = max(b.affine.f for b in boxes)
    right = max(b.affine.c + b.width * step_x for b in boxes)
    bottom = min(b.affine.f + b.height * step_y for b in boxes)
    shape = (round((bottom - top) / step_y), round((right - left) / step_x))
    return GeoBox(shape, Affine(step_x, 0, left, 0, step_y, top), first.crs)
