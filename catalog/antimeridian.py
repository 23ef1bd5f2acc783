"""Footprints at the edge of the map: cut where they cross 180 degrees, closed where they touch a pole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from odc.geo.geom import Geometry
from shapely import MultiPolygon, Polygon, transform
from shapely.affinity import translate
from shapely.geometry import box, mapping, shape

EDGE_POINTS = 16
"""Points along each edge of a square on a polar grid, where longitude turns along it."""
POLE_DEG = 1e-7
"""A latitude so near to 90 degrees is a pole, which has every longitude."""


def split(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """A footprint whose rings cross the antimeridian as one on each side of it (RFC 7946, section 3.1.9).

    Some catalogues write such a ring straight round the Earth, others with longitudes beyond 180. A ring round a pole,
    and any other that is wide whichever way it is read, stays as it is.
    """
    parts = shape(geometry)
    if not isinstance(parts, Polygon | MultiPolygon) or parts.is_empty:
        return dict(geometry)
    rings = list(getattr(parts, "geoms", [parts]))
    pieces = [piece for ring in rings for piece in _halves(ring)]
    if pieces == rings:
        return dict(geometry)
    found: dict[str, Any] = mapping(MultiPolygon(pieces))
    return found


def _halves(ring: Polygon) -> list[Polygon]:
    west, _, east, _ = ring.bounds
    inside = west >= -180 and east <= 180
    if inside and east - west <= 180:
        return [ring]
    turned = transform(ring, _eastward) if inside else ring
    if turned.bounds[2] - turned.bounds[0] >= 180 or turned.area == 0:
        return [ring]
    cut = [translate(turned.intersection(box(s - 180, -90, s + 180, 90)), -s) for s in (-360, 0, 360)]
    return [p for c in cut for p in getattr(c, "geoms", [c]) if isinstance(p, Polygon) and p.area > 0]


def _eastward(places: np.ndarray) -> np.ndarray:
    return places + np.where(places < 0, [360.0, 0.0], 0.0)


def lonlat(extent: Geometry) -> Geometry:
    """A square of a projected grid as a footprint in degrees, cut at 180 degrees and closed at a pole."""
    side = max(extent.boundingbox.span_x, extent.boundingbox.span_y)
    polar = abs(extent.to_crs("EPSG:4326").centroid.coords[0][1]) > 78.0
    moved = extent.to_crs("EPSG:4326", resolution=side / EDGE_POINTS) if polar else extent.to_crs("EPSG:4326")
    ring = list(_closed(moved.json["coordinates"][0]))
    return Geometry(split({"type": "Polygon", "coordinates": [ring]}), "EPSG:4326")


def _closed(ring: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """A ring whose corner at a pole is the edge that the pole is in degrees."""
    neighbours = ring[:-1]
    for number, (x, y) in enumerate(neighbours):
        if abs(y) < 90.0 - POLE_DEG:
            yield x, y
            continue
        before, after = neighbours[number - 1], neighbours[(number + 1) % len(neighbours)]
        yield before[0], y
        yield after[0], y
    first = neighbours[0]
    yield (neighbours[-1][0], first[1]) if abs(first[1]) >= 90.0 - POLE_DEG else first


def centre_of(geometry: Mapping[str, Any]) -> tuple[float, float]:
    """Longitude and latitude of the centroid of GeoJSON polygons; halves on both sides of 180 degrees count as one."""
    place = Geometry(dict(geometry), "EPSG:4326")
    west, _, east, _ = place.boundingbox.bbox
    found = [(part.area, *part.centroid.coords[0]) for part in parts_of(place)]
    around = 360.0 if east - west > 180.0 and place.is_multi else 0.0
    weight = sum(area for area, _, _ in found)
    if weight == 0:
        longitude, latitude = place.centroid.coords[0]
        return float(longitude), float(latitude)
    longitude = sum(area * (lon + around * (lon < 0)) for area, lon, _ in found) / weight
    return (longitude + 180.0) % 360.0 - 180.0, sum(area * lat for area, _, lat in found) / weight


def parts_of(area: Geometry) -> list[Geometry]:
    """Its polygons."""
    return list(area.geoms) if area.is_multi else [area]


def bbox_of(area: Geometry) -> list[float]:
    """West, south, east, north of an area in EPSG:4326 in degrees; west beyond east where that is the shorter way."""
    west, south, east, north = area.boundingbox.bbox
    parts = [part.boundingbox.bbox for part in parts_of(area)]
    across = [p for p in parts if p[0] < 0], [p for p in parts if p[0] >= 0]
    if east - west <= 180 or not all(across):
        return [west, south, east, north]
    left, right = min(p[0] for p in across[1]), max(p[2] for p in across[0])
    return [left, south, right, north] if right + 360 - left < east - west else [west, south, east, north]
