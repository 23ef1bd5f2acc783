"""Footprints in longitude and latitude, and whether a file lies where its metadata says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pyproj import Transformer

from catalog.errors import FootprintError
from catalog.formats.product import ExpectedGrid
from catalog.metadata.raster import RasterHeader

Ring = tuple[tuple[float, float], ...]
"""Open ring of longitudes and latitudes in degrees."""

EDGE_POINTS = 8
"""Points along each edge of a raster, so that a reprojected edge keeps its curve."""

TOLERANCE_PX = 1.0
"""How far an outline may lie from where its metadata says, in pixels of the product."""


def ring_lonlat(header: RasterHeader) -> Ring:
    """The outline of a raster as an open ring in degrees; empty where the file is in radar geometry.

    Raises
    ------
    FootprintError
        When the outline crosses the antimeridian or leaves the CRS's area.
    """
    if header.crs is None:
        return ()
    corners = np.array(header.corners)
    along = np.linspace(0.0, 1.0, EDGE_POINTS, endpoint=False)[:, None]
    edges = [a + along * (b - a) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    x, y = np.concatenate(edges).T
    lon, lat = Transformer.from_crs(header.crs, "EPSG:4326", always_xy=True).transform(x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()) or np.ptp(lon) > 180:
        raise FootprintError(
            "a file's outline leaves its CRS or crosses the antimeridian",
            item=f"{header.href} ({header.crs})",
            enough="an outline within 180 W and 180 E",
            todo="split the scene at the antimeridian before registering it",
        )
    return tuple((round(float(a), 7), round(float(b), 7)) for a, b in zip(lon, lat, strict=True))


def polygon(ring: Ring) -> dict[str, Any]:
    """GeoJSON of a ring, counter-clockwise as RFC 7946 asks."""
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True))
    turned = ring if area > 0 else ring[::-1]
    return {"type": "Polygon", "coordinates": [[list(p) for p in (*turned, turned[0])]]}


def bbox_of(rings: Sequence[Ring]) -> list[float]:
    """West, south, east, north of rings."""
    lon, lat = zip(*(p for ring in rings for p in ring), strict=True)
    return [min(lon), min(lat), max(lon), max(lat)]


def check_place(header: RasterHeader, expected: ExpectedGrid) -> bool:
    """Whether a file is a decimated copy of the grid that its metadata describes.

    Returns
    -------
    False where file and metadata agree, True where the file covers the same outline with fewer pixels.

    Raises
    ------
    FootprintError
        CRS, outline or size is not what the metadata says.
    """
    if expected.crs is not None and header.crs != expected.crs:
        raise _refuse(header, f"its CRS is {header.crs}, its metadata says {expected.crs}")
    if expected.transform is not None:
        a, b, c, d, e, f = expected.transform
        said = RasterHeader("", "", 1, expected.shape, "", None, (a, b, c, d, e, f), None, {})
        off = np.abs(np.array(header.corners) - np.array(said.corners)).max()
        if header.transform is None or off > TOLERANCE_PX * max(abs(a), abs(e)):
            raise _refuse(header, f"its outline {header.bounds} is not {said.bounds}, off by {off:.1f}")
    if header.shape == expected.shape:
        return False
    fewer = all(has <= says for has, says in zip(header.shape, expected.shape, strict=True))
    if expected.crs is None or not fewer:
        turned = ", which is the same transposed" if header.shape == expected.shape[::-1] else ""
        raise _refuse(header, f"its size is {header.shape}, its metadata says {expected.shape}{turned}")
    return True


def check_radar(header: RasterHeader) -> None:
    """Refuse an affine on an image in radar geometry: somebody made it up from a bounding box.

    Raises
    ------
    FootprintError
        When the file has an affine transform of its own.
    """
    if header.transform is not None:
        raise _refuse(header, "it has an affine, which an image in radar geometry cannot have")


def check_corners(header: RasterHeader, said: Ring, pixel_m: float) -> None:
    """Whether a file's four corners lie within two pixels of those its metadata lists.

    Raises
    ------
    FootprintError
        When one lies further away.
    """
    if header.crs is None:
        raise _refuse(header, "it names no CRS")
    to_file = Transformer.from_crs("EPSG:4326", header.crs, always_xy=True)
    lon, lat = np.array(said).T
    places = np.stack(to_file.transform(lon, lat), axis=-1)
    off = np.linalg.norm(places[:, None, :] - np.array(header.corners)[None, :, :], axis=-1).min(axis=1).max()
    if off > 2.0 * pixel_m:
        raise _refuse(header, f"its corners lie {off:.1f} m from those its metadata lists")


def _refuse(header: RasterHeader, problem: str) -> FootprintError:
    return FootprintError(
        f"a file does not lie where its product says: {problem}",
        item=header.href,
        enough="a file with the CRS and outline of its metadata, decimated or not",
        todo="fetch file and metadata of the same product again",
    )
