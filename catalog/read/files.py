"""A raster file held against the item that names it: whole, and lying where the item says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds
from shapely.geometry import shape

from catalog.errors import AssetError, CatalogError, FootprintError, GridError
from catalog.geocode import refuse_affine
from catalog.metadata.raster import RasterHeader, check_complete, read_header
from catalog.scene import BandSource, Scene

SAME_GRID = 1e-6
"""Two affines are one when they differ by less than this share of a pixel."""
FOOTPRINT_MARGIN = 0.1
"""How far an item's geometry may reach beyond its pixels, as a share of their extent: some draw it generously."""


def checked(scene: Scene, source: BandSource) -> RasterHeader:
    """The header of a file that is whole and lies where the item says."""
    with failures(scene):
        header = _header(source.href)
    problems = []
    if source.shape is not None and header.shape != source.shape:
        problems.append(f"its shape is {header.shape}, the item says {source.shape}")
    if source.transform is not None and not same_affine(header.transform, source.transform):
        problems.append(f"its affine is {header.transform}, the item says {source.transform}")
    if source.crs is not None and header.crs != source.crs:
        problems.append(f"its CRS is {header.crs}, the item says {source.crs}")
    refuse_affine(
        f"{scene.id}: {source.href}",
        scene.geolocation,
        source.transform,
        shape=source.shape,
        bounds=scene.properties.get("proj:bbox") or scene.bbox,
        file_shape=header.shape,
    )
    if source.index + source.complex_pair > header.count:
        problems.append(
            f"it has {header.count} raster bands, the item names number {source.index + source.complex_pair}"
        )
    if not problems and _beyond(scene, header):
        problems.append("the item's geometry reaches far beyond its pixels")
    if problems:
        raise FootprintError(
            f"a file is not what its item says: {'; '.join(problems)}",
            item=f"{scene.id}: {source.href}",
            enough="the file that was registered",
            todo="register the product again",
        )
    return header


def _header(href: str) -> RasterHeader:
    """The header of a file that is whole; of a local one kept, because every tile of a scene asks, until it changes."""
    try:
        found = os.stat(href)
    except OSError:  # on the web, inside another file, or gone
        return read_header(href)
    return _local_header(href, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _local_header(href: str, size: int, changed_ns: int) -> RasterHeader:
    header = read_header(href)
    check_complete(href, decode=False)
    return header


def _beyond(scene: Scene, header: RasterHeader) -> bool:
    """Whether an item's geometry lies elsewhere than the pixels of a file; False where nobody can tell."""
    if header.bounds is None or header.crs is None:
        return False
    west, south, east, north = transform_bounds(header.crs, "EPSG:4326", *header.bounds)
    left, bottom, right, top = shape(scene.geometry).bounds
    if west > east or right - left > 180:  # the antimeridian
        return False
    margin = FOOTPRINT_MARGIN * max(east - west, north - south)
    return max(west - left, right - east, south - bottom, top - north) > margin


def same_affine(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    if one is None or other is None:
        return one is None and other is None
    pixel = max(abs(one[0]), abs(one[1]))
    return all(abs(a - b) <= SAME_GRID * pixel for a, b in zip(one, other, strict=True))


@contextmanager
def failures(scene: Scene) -> Iterator[None]:
    """Whatever a reader raises becomes an AssetError that names the item; our own errors gain the item's name."""
    try:
        yield
    except CatalogError as error:
        item = error.item if error.item.startswith(scene.id) else f"{scene.id}: {error.item}"
        raise type(error)(error.what, item=item, enough=error.enough, todo=error.todo) from None
    except (RasterioError, RuntimeError, OSError) as error:
        files = {s.href for s in (*scene.bands.values(), *scene.quality.values())}
        named = sorted(f for f in files if f in str(error)) or sorted(files)[:1]
        raise AssetError(
            f"a file cannot be read ({str(error)[:300]})",
            item=f"{scene.id}: {', '.join(named)}",
            enough="the whole file, as its provider published it",
            todo="fetch the file again, then register the product again",
        ) from None


def no_such(kind: str, name: str, known: Mapping[str, Any], item: str = "") -> GridError:
    return GridError(
        f"there is no {kind} {name!r}",
        item=item or "the reading asked for",
        enough=f"one of {', '.join(known) or 'none: the scene ships no such thing'}",
        todo=f"name another {kind}",
    )


def method_of(resampling: str) -> Resampling:
    if resampling not in Resampling.__members__:
        raise no_such("resampling", resampling, Resampling.__members__)
    return Resampling[resampling]
