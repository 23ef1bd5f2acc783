"""The Zarr store of a cube: laid out, written date by date, finished, opened."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from catalog.cube import geozarr, overviews
from catalog.cube.schema import geobox, grid_of, pixel_coordinates, placed
from catalog.errors import CubeError

SCHEMA = 2
"""Version of the layout on disk; a cube of another version is refused."""

MARK = "ringmoe_cube"
CHUNK = 256
SHARD = 1024

Window = tuple[slice, slice]
"""Rows and columns."""

_JSON_ATTRS = (
    "bands",
    "scenes",
    "acquisitions",
    "provenance",
    "coregistration",
    "geobox",
    "notes",
    "usable_share",
)


def write(uri: str | Path, cube: xr.Dataset) -> None:
    """Write a whole cube, as `assemble` makes it, as one Zarr 3 store where nothing lies yet."""
    create(uri, cube)
    for index in range(cube.sizes["time"]):
        layers = {str(k): v[index] for k, v in cube.data_vars.items() if v.dims == ("time", "y", "x")}
        write_look(uri, index, cube["data"][index], layers.pop("quality"), layers)
    finish(uri, cube.attrs)


def create(uri: str | Path, like: xr.Dataset) -> None:
    """Lay out the Zarr 3 store of a cube and of its overviews without their pixels.

    Chunks hold every band of one date over 256 x 256 pixels; a shard holds up to 4 x 4 chunks of one date, so
    that dates can be written one by one, by different workers. The store is no cube before `finish`.

    Parameters
    ----------
    like
        As `assemble` makes it; data and quality may be lazy and are not computed, all else is written.

    Raises
    ------
    CubeError
        When something lies there already: it may be another writer's.
    """
    path = Path(uri)
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise CubeError(
            "something lies where a cube is to be written",
            item=str(path),
            enough="a place where nothing lies yet",
            todo="choose another place; or remove what lies there, if nobody is at work on it",
        )
    box = geobox(like)
    count = overviews.levels(like.sizes["y"], like.sizes["x"])
    boxes = [] if box is None else [geozarr.scaled(box, 2**level) for level in range(1, count + 1)]
    pixels = "power" if like["data"].dtype.kind == "c" else "data"
    variables = ["data", *(f"{level}/{pixels}" for level in range(1, count + 1))]
    out = like.drop_vars("band")
    out.attrs = geozarr.attributes(box, boxes, variables)
    _lay_out(path, None, out)
    layers = like.drop_vars([v for v in ("spatial_ref", "y", "x", "band") if v in like.variables])
    for level in range(1, count + 1):
        layers = overviews.coarser(layers)
        own = boxes[level - 1] if boxes else None
        shape = (layers.sizes["y"], layers.sizes["x"])
        part = placed(layers.assign_coords({"time": like["time"], **pixel_coordinates(own, shape)}), own)
        part.attrs = geozarr.attributes(own, (), ("data",))
        _lay_out(path, str(level), part)


def _lay_out(path: Path, group: str | None, out: xr.Dataset) -> None:
    """Write a group without the pixels of its dates."""
    ny, nx = out.sizes["y"], out.sizes["x"]
    side_y, side_x = min(CHUNK, ny), min(CHUNK, nx)
    shard_y = side_y * min(SHARD // side_y or 1, math.ceil(ny / side_y))
    shard_x = side_x * min(SHARD // side_x or 1, math.ceil(nx / side_x))
    encoding: dict[str, dict[str, Any]] = {"time": {"units": "microseconds since 1970-01-01", "dtype": "int64"}}
    for name, layer in [(str(k), v) for k, v in out.data_vars.items() if v.dims[0] == "time"]:
        bands = layer.shape[1:-2]
        blank = da.empty(layer.shape, dtype=layer.dtype, chunks=(1, *bands, shard_y, shard_x))
        out[name] = (layer.dims, blank, dict(layer.attrs))
        if "spatial_ref" in out.coords:
            out[name].attrs["grid_mapping"] = "spatial_ref"
        encoding[name] = {"chunks": (1, *bands, side_y, side_x), "shards": (1, *bands, shard_y, shard_x)}
        if bands and layer.dtype == np.float32:
            encoding[name]["_FillValue"] = np.float32(np.nan)
    out.to_zarr(path, group=group, mode="w-", zarr_format=3, consolidated=False, encoding=encoding, compute=False)


def write_look(
    uri: str | Path,
    index: int,
    data: xr.DataArray,
    quality: xr.DataArray,
    layers: Mapping[str, xr.DataArray] | None = None,
) -> None:
    """Write one date into the store of a cube and into its overviews: whole shards that no other date shares.

    Parameters
    ----------
    index
        Position along time, from 0.
    data
        (band, y, x), of the dtype that the store was laid out for.
    quality
        (y, x), uint8.
    layers
        Further (y, x) values, all that the store was laid out for.

    Raises
    ------
    CubeError
        When a layer is missing, or of another shape or dtype than the store's.
    """
    store = zarr.open_group(Path(uri), mode="r+")
    given = {"data": data.values, "quality": quality.values} | {k: v.values for k, v in (layers or {}).items()}
    _write_level(str(uri), index, store, given)
    for _, level in sorted(store.groups(), key=lambda pair: int(pair[0])):
        given = overviews.halved(given)
        _write_level(str(uri), index, level, given)


def read_look(uri: str | Path, index: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """One date of a cube over some rows and columns, of which only the chunks touched are read.

    Returns
    -------
    tuple
        data (band, y, x), NaN where nothing was measured, and quality (y, x), uint8.
    """
    store = zarr.open_group(Path(uri), mode="r")
    data, quality = (store[name] for name in ("data", "quality"))
    assert isinstance(data, zarr.Array)
    assert isinstance(quality, zarr.Array)
    return np.asarray(data[(index, ..., *window)]), np.asarray(quality[(index, *window)])


def _write_level(uri: str, index: int, group: zarr.Group, given: Mapping[str, np.ndarray]) -> None:
    known = {name: v for name, v in group.arrays() if v.ndim >= 3}
    if set(known) - set(given):
        raise CubeError(f"a date lacks {', '.join(sorted(set(known) - set(given)))}", item=uri, enough="all layers")
    for name, target in known.items():
        values = given[name]
        if values.shape != target.shape[1:] or values.dtype != target.dtype:
            raise CubeError(
                f"{name} of a date is {values.dtype} {values.shape}",
                item=uri,
                enough=f"{target.dtype} {target.shape[1:]}, as the first date",
            )
        target[index] = values


def finish(uri: str | Path, attrs: Mapping[str, Any]) -> None:
    """Write a cube's attributes, then the mark by which `open` knows it: a store whose writer was killed is none."""
    group = zarr.open_group(Path(uri), mode="r+")
    kept = {k: v for k, v in attrs.items() if k != MARK}
    group.attrs.update({k: json.dumps(v, sort_keys=True) if k in _JSON_ATTRS else v for k, v in kept.items()})
    group.attrs[MARK] = SCHEMA


def open(uri: str | Path, level: int = 0) -> xr.Dataset:
    """A lazy Dataset of a cube, with band names and attributes as Python values.

    Parameters
    ----------
    uri
        The store, or the JSON file of the item that names it.
    level
        0 for all pixels, 1 for the overview of half the resolution, 2 for a quarter, and so on.

    Returns
    -------
    xr.Dataset
        `data` (time, band, y, x) in `attrs["units"]`, NaN where nothing was measured; `quality` (time, y, x).
        An overview of complex pixels has `power` in place of `data`: their mean squared amplitude.

    Raises
    ------
    CubeError
        When there is no cube, or a damaged one, or one of another schema, or no such overview.
    """
    if str(uri).endswith(".json"):
        uri = _store_of(Path(uri))
    cube = _group(uri, None)
    if cube.attrs.get(MARK) != SCHEMA or "data" not in cube:
        begun = MARK not in cube.attrs and "Conventions" in cube.attrs
        raise CubeError(
            "the store was begun and not finished: its writer was stopped, or is still at work"
            if begun
            else f"the store is no whole cube of schema {SCHEMA}",
            item=str(uri),
            enough="a store written by `ringmoe ingest` of this version",
            todo="ingest the scenes again",
        )
    attrs = {k: json.loads(v) if k in _JSON_ATTRS and isinstance(v, str) else v for k, v in cube.attrs.items()}
    attrs = {k: v for k, v in attrs.items() if k != MARK and not geozarr.is_ours(k)}
    if level:
        count = overviews.levels(cube.sizes["y"], cube.sizes["x"])
        if not 0 < level <= count:
            raise CubeError(f"the cube has no overview {level}", item=str(uri), enough=f"a level from 0 to {count}")
        box = geobox(cube.assign_attrs(attrs))
        cube = _group(uri, str(level))
        attrs["gsd_m"] = attrs["gsd_m"] * 2**level
        attrs["geobox"] = None if box is None else grid_of(geozarr.scaled(box, 2**level))
    cube.attrs = attrs
    return cube.assign_coords(band=[b["name"] for b in attrs["bands"]])


def _group(uri: str | Path, group: str | None) -> xr.Dataset:
    try:
        return xr.open_zarr(str(uri), group=group, consolidated=False, decode_coords="all", chunks={})
    except (FileNotFoundError, KeyError, ValueError, zarr.errors.GroupNotFoundError) as error:
        raise CubeError(
            f"there is no readable cube ({type(error).__name__}: {error})",
            item=str(uri),
            enough="a Zarr store that an item of the catalogue names",
            todo="open cubes through their item; `ringmoe ingest` makes missing ones again",
        ) from error


def _store_of(item: Path) -> Path:
    """The store that a published item names."""
    try:
        href = json.loads(item.read_text())["assets"]["cube"]["href"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CubeError(
            f"there is no item of a cube ({type(error).__name__}: {error})",
            item=str(item),
            enough="an item of the collection cubes, with the asset cube",
            todo="list them with `ringmoe status`, or open the store itself",
        ) from error
    return item.parent / str(href)
