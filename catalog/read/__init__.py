"""Scenes and a grid become digital numbers; alone in opening rasters, with odc-stac or stackstac behind one verb."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from catalog.displacement import Displacement, Move, moved_grid
from catalog.errors import AssetError, CalibrationError, FootprintError, GeolocationError
from catalog.metadata.raster import check_complete, read_header
from catalog.read.attempts import absent, asked, each, joined
from catalog.read.bent import bent_band, bent_classes
from catalog.read.classes import Decode, coarser, warp_classes
from catalog.read.engines import ENGINES, Asked, Chunks, warp
from catalog.read.files import checked, method_of, no_such, same_affine
from catalog.read.native import native_band, native_coords
from catalog.read.rules import RULES, refuse_unless_allowed
from catalog.scene import BandSource, Scene

__all__ = ["absent", "joined", "read", "read_native", "read_quality", "read_raster"]


def read(
    scene: Scene,
    geobox: GeoBox,
    bands: Sequence[str] | None = None,
    *,
    resampling: str = "bilinear",
    shift_m: Move = (0.0, 0.0),
    engine: str = "odc",
    chunks: Chunks = None,
) -> xr.DataArray:
    """Digital numbers of a geocoded scene on a grid, in one resampling that holds the measured shift too.

    Parameters
    ----------
    scene
        Whose pixels have an affine (`geolocation` affine) and are real numbers.
    geobox
        Where the result lies.
    bands
        Names, in the order wanted; all where None.
    resampling
        As GDAL calls it: nearest, bilinear, cubic, average, ... Pixels without data take no part in any of them.
    shift_m
        (dx, dy) to add to the scene's map coordinates, in the units of the grid's CRS, to bring it onto the
        reference: what lay at (x, y) lies at (x + dx, y + dy) in the result. Or a Displacement, by place: an affine is
        read on a grid that holds it; a field (and with stackstac an affine too) is read at once, nearest or bilinear.
    engine
        odc (odc-stac, any grid) or stackstac (north-up grids of an EPSG code). They agree exactly where nothing is
        interpolated.
    chunks
        Dask chunks of y and x; None reads at once.

    Returns
    -------
    xr.DataArray
        (band, y, x) float32 digital numbers, NaN where nothing was measured or the scene does not reach.

    Raises
    ------
    AssetError
        Files are missing, truncated or unreadable; it names item and files, `failed` lists all of them. Those on the
        web were asked for several times. Of a lazy result only what the headers show.
    FootprintError
        A file's CRS, shape or affine is not what the item says.
    GeolocationError
        The scene is in radar geometry or complex: read_native.
    CalibrationError
        Decibels were to be interpolated.
    GridError
        The engine does not serve such a grid, or there is no such band, engine or resampling.
    """
    sources = _chosen(scene, bands)
    _check_readable(scene, resampling)
    if engine not in ENGINES:
        raise no_such("engine", engine, ENGINES)
    serving, moved, names = ENGINES[engine], moved_grid(geobox, shift_m), [s.band for s in sources]
    values: Any
    if moved is None or (isinstance(shift_m, Displacement) and engine != "odc"):
        values = np.stack(each(scene, sources, lambda s: bent_band(s, checked(scene, s), geobox, shift_m, resampling)))
    elif chunks is None:
        values = np.full((len(sources), *geobox.shape), math.nan, "float32")
        rows = dict(zip(names, values, strict=True))
        each(
            scene,
            sources,
            lambda s: serving.fill(Asked(scene, s, checked(scene, s), moved, resampling), rows[s.band]),
        )
    else:
        values = da.stack(
            each(
                scene,
                sources,
                lambda s: serving.lazy(Asked(scene, s, checked(scene, s), moved, resampling), chunks),
            )
        )
    coords = {"band": names, **xr_coords(geobox, always_yx=True)}
    return xr.DataArray(
        values, dims=("band", "y", "x"), coords=coords, name="dn", attrs={"units": "1", "long_name": "digital number"}
    )


def read_quality(
    scene: Scene,
    geobox: GeoBox,
    layer: str,
    *,
    shift_m: Move = (0.0, 0.0),
    resampling: str | None = None,
    bands: Sequence[int] = (1,),
    decode: Decode | None = None,
) -> xr.DataArray:
    """A quality layer of a scene on a grid, by mode onto coarser pixels, else by nearest neighbour.

    Parameters
    ----------
    resampling
        nearest or mode, whatever the pixels are; classes and bits are never mixed.
    bands
        Raster bands of the layer that `decode` takes, from 1.
    decode
        From the file's own codes (band, y, x) to classes (y, x) uint8, 0 for no data, before they are resampled: so
        several codes of one meaning count together in a mode, and pixels without data do not count.

    Returns
    -------
    xr.DataArray
        (y, x) in the file's own unsigned type, or uint8 of `decode`; the layer's no-data number (0 where it has none,
        and of decoded classes) outside.

    Raises
    ------
    GridError
        The scene has no such layer, or the resampling would mix classes.
    AssetError, FootprintError
        As in `read`; also where the file lacks one of the raster bands.
    """
    if layer not in scene.quality:
        raise no_such("quality layer", layer, scene.quality, scene.id)
    if resampling is not None:
        refuse_unless_allowed("classes", resampling, f"{scene.id}: {layer}")
    moved, rule = moved_grid(geobox, shift_m), RULES["classes"]

    def on_grid(source: BandSource) -> np.ndarray:
        header = checked(scene, source)
        if max(bands) > header.count:
            raise AssetError(
                f"a {layer} layer has {header.count} raster bands",
                item=f"{scene.id}: {source.href}",
                enough=str(max(bands)),
            )
        if moved is None:
            return bent_classes(source, header, geobox, shift_m, (bands, decode))
        method = method_of(resampling or (rule.coarser if coarser(geobox, header) else rule.usual))
        if decode is not None:
            return warp_classes(source.href, moved, method, bands, decode)
        fill = 0 if source.nodata is None else int(source.nodata)
        return warp(source.href, moved, method, np.dtype(header.dtype), source.nodata, fill)

    values = asked(scene, scene.quality[layer], on_grid)
    return xr.DataArray(values, dims=("y", "x"), coords=xr_coords(geobox, always_yx=True), name=layer)


def read_native(scene: Scene, bands: Sequence[str] | None = None, *, chunks: Chunks = None) -> xr.DataArray:
    """Digital numbers of a scene in its files' own geometry: no pixel is moved.

    Parameters
    ----------
    bands
        Names, in the order wanted; all where None. They share one grid.
    chunks
        Dask chunks of y and x; None reads at once.

    Returns
    -------
    xr.DataArray
        (band, y, x) float32, or complex64 where the pixels are complex; NaN where nothing was measured. y and x are
        pixel centres in the file's CRS, or line and pixel numbers where it has none or is rotated. `transform` and
        `crs` in attrs where the file has them.

    Raises
    ------
    AssetError, FootprintError
        As in `read`; the bands also do when they lie on different grids.
    """
    sources = _chosen(scene, bands)
    headers = each(scene, sources, lambda s: checked(scene, s))
    first = headers[0]
    for header in headers:
        if header.shape != first.shape or not same_affine(header.transform, first.transform):
            raise FootprintError(
                f"bands lie on different grids: {first.shape} and {header.shape}",
                item=f"{scene.id}: {header.href}",
                enough="bands of one grid",
                todo="name bands of one resolution, or read the scene on a grid",
            )
    values = xr.concat(each(scene, sources, lambda s: native_band(s, chunks)), dim="band")
    grid = {} if first.transform is None else {"transform": first.transform, "crs": first.crs}
    attrs = {"units": "1", "long_name": "digital number", **grid}
    coords = {"band": [s.band for s in sources], **native_coords(first)}
    return xr.DataArray(values.data, dims=("band", "y", "x"), coords=coords, name="dn", attrs=attrs)


def read_raster(href: str, geobox: GeoBox, resampling: str = "nearest") -> xr.DataArray:
    """The first band of any raster on a grid: labels by nearest or mode, heights by bilinear.

    Returns
    -------
    xr.DataArray
        (y, x) float32, NaN where the file has no data or does not reach; class numbers up to 2^24 are exact.

    Raises
    ------
    AssetError
        Missing, truncated or unreadable.
    GridError
        No such resampling.
    """
    header = read_header(href)
    if "://" not in href:
        check_complete(href, decode=False)
    method = method_of(resampling)
    values = warp(href, geobox, method, np.dtype(np.float32), header.nodata, math.nan)
    return xr.DataArray(values, dims=("y", "x"), coords=xr_coords(geobox, always_yx=True), name="value")


def _check_readable(scene: Scene, resampling: str) -> None:
    method_of(resampling)
    if scene.geolocation != "affine" or scene.encoding == "complex":
        raise GeolocationError(
            "a scene in radar geometry or with complex pixels cannot be warped onto a grid",
            item=f"{scene.id} ({scene.geolocation}, {scene.encoding})",
            enough="a scene of real numbers with an affine",
            todo="read_native it, calibrate it, then geocode it",
        )
    refuse_unless_allowed(scene.encoding, resampling, scene.id, CalibrationError)


def _chosen(scene: Scene, bands: Sequence[str] | None) -> list[BandSource]:
    names = list(scene.bands) if bands is None else list(bands)
    for name in names:
        if name not in scene.bands:
            raise no_such("band", name, scene.bands, scene.id)
    return [scene.bands[name] for name in names]
