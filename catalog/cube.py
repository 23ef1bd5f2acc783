"""Cube: the Zarr schema; create, write, open."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import rioxarray  # noqa: F401  (registers the accessor .rio)
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog.errors import CubeError
from catalog.sensors import USABLE, Band, Quality

SCHEMA = 1
"""Version of the layout on disk; a cube of another version is refused."""

_MARK = "ringmoe_cube"
CHUNK = 256
SHARD = 1024

Window = tuple[slice, slice]
"""Rows and columns."""

WHOLE: Window = (slice(None), slice(None))
_JSON_ATTRS = ("bands", "scenes", "provenance", "coregistration", "geobox", "notes", "usable_share")


@dataclass(frozen=True)
class Description:
    """What a cube holds, beside its pixels; kept in the attributes of its Zarr group."""

    sensor: str
    """Row of `catalog.sensors`."""
    modality: str
    """opt, ms, sar_l1 or sar_l2."""
    quantity: str
    """Physical quantity of `data`, as in surface_reflectance."""
    units: str
    """Units of `data`."""
    gsd_m: float
    """Pixel size in metres."""
    bands: tuple[Band, ...]
    """In the order of dimension band."""
    tile: str
    """Name of the tile."""
    period: str
    """First and last day asked for, ISO 8601 interval."""
    scenes: tuple[str, ...] = ()
    """Ids of the scenes, in the order of dimension time."""
    geobox: GeoBox | None = None
    """Where the pixels lie; None in radar geometry."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How digital numbers became the quantity, per scene."""
    coregistration: tuple[Mapping[str, Any], ...] = ()
    """Measured shift of every scene, in the order of dimension time."""
    notes: tuple[str, ...] = ()
    """What a user should know, as in: no DEM, placed on the ellipsoid."""


def assemble(
    description: Description,
    data: xr.DataArray,
    quality: xr.DataArray,
    geolocation: Mapping[str, xr.DataArray] | None = None,
    layers: Mapping[str, xr.DataArray] | None = None,
) -> xr.Dataset:
    """One Dataset in the cube's schema.

    Parameters
    ----------
    data
        Dims (time, band, y, x), float32 or complex64, NaN where nothing was measured.
    quality
        Dims (time, y, x), uint8, values of `catalog.sensors.Quality`.
    geolocation
        In radar geometry: longitude, latitude (degrees) and height (m above the WGS 84 ellipsoid), dims (y, x).
    layers
        Further values of every scene, as incidence angles, layover and shadow; dims (time, y, x), units in attrs.

    Raises
    ------
    CubeError
        When dimensions, dtypes, or the count of bands, scenes or pixels contradict the description.
    """
    if data.dims != ("time", "band", "y", "x") or quality.dims != ("time", "y", "x"):
        raise CubeError(f"a cube is (time, band, y, x), this is {data.dims} with quality {quality.dims}")
    if data.sizes["band"] != len(description.bands) or data.sizes["time"] != len(description.scenes):
        raise CubeError(
            f"{data.sizes['band']} bands and {data.sizes['time']} times do not fit the description",
            item=description.tile,
            enough=f"{len(description.bands)} bands and {len(description.scenes)} scenes",
        )
    if data.dtype not in (np.float32, np.complex64):
        raise CubeError(f"data is {data.dtype}", item=description.tile, enough="float32 or complex64")
    if quality.dtype != np.uint8:
        raise CubeError(f"quality is {quality.dtype}", item=description.tile, enough="uint8")
    _check_shapes(description, data, quality, geolocation or {})
    attrs = {"units": description.units, "quantity": description.quantity, "long_name": description.quantity}
    flags = {
        "flag_values": [int(q) for q in Quality],
        "flag_meanings": " ".join(q.name.lower() for q in Quality),
        "long_name": "what the pixel is good for",
    }
    keep = {"time": data["time"], "y": data["y"], "x": data["x"]}
    cube = xr.Dataset(
        {"data": data.drop_vars(list(data.coords)).assign_attrs(attrs)}
        | {"quality": quality.drop_vars(list(quality.coords)).assign_attrs(flags)}
        | {k: v.drop_vars(list(v.coords)) for k, v in {**(geolocation or {}), **(layers or {})}.items()},
        coords=keep,
        attrs=attributes(description),
    )
    cube["data"].attrs, cube["quality"].attrs = attrs, flags
    if description.geobox is not None:
        cube = cube.rio.write_crs(str(description.geobox.crs)).rio.write_transform(description.geobox.affine)
    return cube.assign_coords(band=[b.name for b in description.bands])


def _check_shapes(
    description: Description, data: xr.DataArray, quality: xr.DataArray, geolocation: Mapping[str, xr.DataArray]
) -> None:
    pixels = (data.sizes["y"], data.sizes["x"])
    shapes = {"quality": (quality.sizes["y"], quality.sizes["x"])} | {k: v.shape for k, v in geolocation.items()}
    if description.geobox is not None:
        shapes["the grid"] = tuple(description.geobox.shape)
    for name, shape in shapes.items():
        if shape != pixels:
            raise CubeError(f"data has {pixels} pixels, {name} {shape}", item=description.tile, enough="one shape")
    if quality.sizes["time"] != data.sizes["time"]:
        raise CubeError("quality has another count of times than data", item=description.tile, enough="one per scene")


def attributes(description: Description) -> dict[str, Any]:
    """A description as the attributes of a cube."""
    geobox = description.geobox
    return {
        _MARK: SCHEMA,
        "sensor": description.sensor,
        "modality": description.modality,
        "quantity": description.quantity,
        "units": description.units,
        "gsd_m": float(description.gsd_m),
        "tile": description.tile,
        "period": description.period,
        "bands": [asdict(b) for b in description.bands],
        "scenes": list(description.scenes),
        "provenance": dict(description.provenance),
        "coregistration": [dict(c) for c in description.coregistration],
        "notes": list(description.notes),
        "geobox": None
        if geobox is None
        else {"crs": str(geobox.crs), "affine": list(geobox.affine)[:6], "shape": list(geobox.shape)},
    }


def write(uri: str | Path, cube: xr.Dataset) -> None:
    """Write a whole cube, as `assemble` makes it, as one Zarr 3 store; whatever lay there is replaced."""
    create(uri, cube)
    for index in range(cube.sizes["time"]):
        layers = {str(k): v[index] for k, v in cube.data_vars.items() if v.dims == ("time", "y", "x")}
        write_look(uri, index, cube["data"][index], layers.pop("quality"), layers)
    finish(uri, cube.attrs)


def create(uri: str | Path, like: xr.Dataset) -> None:
    """Lay out the Zarr 3 store of a cube without its pixels; whatever lay there is replaced.

    Chunks hold every band of one date over 256 x 256 pixels; a shard holds up to 4 x 4 chunks of one date, so
    that dates can be written one by one, by different workers. The store is no cube before `finish`.

    Parameters
    ----------
    like
        As `assemble` makes it; data and quality may be lazy and are not computed, all else is written.
    """
    path = Path(uri)
    if path.exists():
        shutil.rmtree(path)
    ny, nx, nb = like.sizes["y"], like.sizes["x"], like.sizes["band"]
    side_y, side_x = min(CHUNK, ny), min(CHUNK, nx)
    shard_y = side_y * min(SHARD // side_y or 1, math.ceil(ny / side_y))
    shard_x = side_x * min(SHARD // side_x or 1, math.ceil(nx / side_x))
    out = like.drop_vars("band").assign_attrs({})
    out.attrs = {}
    layers = [str(name) for name, v in out.data_vars.items() if v.dims == ("time", "y", "x")]
    for name, extra in (("data", {"band": nb}), *((layer, {}) for layer in layers)):
        blank = da.empty(like[name].shape, dtype=like[name].dtype)
        out[name] = (like[name].dims, blank, dict(like[name].attrs))
        out[name] = out[name].chunk({"time": 1, **extra, "y": shard_y, "x": shard_x})
        if "spatial_ref" in out.coords:
            out[name].attrs["grid_mapping"] = "spatial_ref"
    encoding: dict[str, dict[str, Any]] = {
        "data": {"chunks": (1, nb, side_y, side_x), "shards": (1, nb, shard_y, shard_x)},
        **{name: {"chunks": (1, side_y, side_x), "shards": (1, shard_y, shard_x)} for name in layers},
        "time": {"units": "microseconds since 1970-01-01", "dtype": "int64"},
    }
    if out["data"].dtype == np.float32:
        encoding["data"]["_FillValue"] = np.float32(np.nan)
    out.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding, compute=False)


def write_look(
    uri: str | Path,
    index: int,
    data: xr.DataArray,
    quality: xr.DataArray,
    layers: Mapping[str, xr.DataArray] | None = None,
    window: Window = WHOLE,
) -> None:
    """Write one date into the store of a cube: whole shards that no other date shares.

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
    window
        Rows and columns that the arrays are of, whole shards; all of the date by default.

    Raises
    ------
    CubeError
        When a layer is missing, or of another shape or dtype than the store's.
    """
    store = zarr.open_group(Path(uri), mode="r+")
    known = {name: v for name, v in store.arrays() if v.ndim >= 3}
    given = {"data": data.values, "quality": quality.values} | {k: v.values for k, v in (layers or {}).items()}
    if set(known) - set(given):
        raise CubeError(
            f"a date lacks {', '.join(sorted(set(known) - set(given)))}", item=str(uri), enough="all layers"
        )
    for name, target in known.items():
        values = given[name]
        place = tuple(len(range(n)[part]) for n, part in zip(target.shape[-2:], window, strict=True))
        if values.shape != (*target.shape[1:-2], *place) or values.dtype != target.dtype:
            raise CubeError(
                f"{name} of a date is {values.dtype} {values.shape}",
                item=str(uri),
                enough=f"{target.dtype} {(*target.shape[1:-2], *place)}, as the first date",
            )
        target[(index, ..., *window)] = values


def read_look(uri: str | Path, index: int, window: Window = WHOLE) -> tuple[np.ndarray, np.ndarray]:
    """One date of a cube over rows and columns, of which only the chunks touched are read.

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


def finish(uri: str | Path, attrs: Mapping[str, Any]) -> None:
    """Write a cube's attributes, then the mark by which `open` knows it: a store whose writer was killed is none."""
    group = zarr.open_group(Path(uri), mode="r+")
    kept = {k: v for k, v in attrs.items() if k != _MARK}
    group.attrs.update({k: json.dumps(v, sort_keys=True) if k in _JSON_ATTRS else v for k, v in kept.items()})
    group.attrs[_MARK] = SCHEMA


def open(uri: str | Path) -> xr.Dataset:
    """A lazy Dataset of a cube, with band names and attributes as Python values.

    Parameters
    ----------
    uri
        The store, or the JSON file of the item that names it.

    Returns
    -------
    xr.Dataset
        `data` (time, band, y, x) in `attrs["units"]`, NaN where nothing was measured; `quality` (time, y, x).

    Raises
    ------
    CubeError
        When there is no cube, or a damaged one, or one of another schema.
    """
    if str(uri).endswith(".json"):
        uri = _store_of(Path(uri))
    try:
        cube = xr.open_zarr(str(uri), consolidated=False, decode_coords="all", chunks={})
    except (FileNotFoundError, KeyError, ValueError, zarr.errors.GroupNotFoundError) as error:
        raise CubeError(
            f"there is no readable cube ({type(error).__name__}: {error})",
            item=str(uri),
            enough="a Zarr store that an item of the catalogue names",
            todo="open cubes through their item; `ringmoe ingest` makes missing ones again",
        ) from error
    if cube.attrs.get(_MARK) != SCHEMA or "data" not in cube:
        raise CubeError(
            f"the store is no whole cube of schema {SCHEMA}",
            item=str(uri),
            enough="a store written by `ringmoe ingest` of this version",
            todo="ingest the scenes again",
        )
    cube.attrs = {k: json.loads(v) if k in _JSON_ATTRS and isinstance(v, str) else v for k, v in cube.attrs.items()}
    return cube.assign_coords(band=[b["name"] for b in cube.attrs["bands"]])


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


def geobox(cube: xr.Dataset) -> GeoBox | None:
    """Where the pixels lie; None in radar geometry."""
    box: dict[str, Any] | None = cube.attrs["geobox"]
    return None if box is None else GeoBox(tuple(box["shape"]), Affine(*box["affine"]), box["crs"])


def crop(cube: xr.Dataset, rows: slice, columns: slice) -> xr.Dataset:
    """A rectangle of a cube, its geobox with it."""
    part = cube.isel(y=rows, x=columns)
    box = geobox(cube)
    if box is not None:
        own = box[rows, columns]
        grid = {"crs": str(own.crs), "affine": list(own.affine)[:6], "shape": list(own.shape)}
        part = part.assign_attrs(geobox=grid)
    return part


def usable(quality: xr.DataArray) -> xr.DataArray:
    """True where a pixel shows the ground; dims as given."""
    return quality.isin([int(q) for q in USABLE])


def usable_share(quality: xr.DataArray) -> list[float]:
    """Share of the pixels that show the ground, 0 to 1, per date of a (time, y, x) layer."""
    return [float(v) for v in usable(quality).mean(("y", "x")).values]


def valid_share(cube: xr.Dataset) -> float:
    """Share of (time, y, x) positions that show the ground, 0 to 1."""
    return float(np.mean(usable_share(cube["quality"])))


def pixel_coordinates(box: GeoBox | None, shape: Sequence[int]) -> dict[str, np.ndarray]:
    """Coordinates y, x: pixel centres in the CRS, or line and pixel numbers where no axis-parallel grid exists."""
    rows, columns = int(shape[0]), int(shape[1])
    if box is None or abs(box.affine.b) + abs(box.affine.d) > 1e-12:
        return {"y": np.arange(rows, dtype=np.float64), "x": np.arange(columns, dtype=np.float64)}
    a = box.affine
    return {"y": a.f + a.e * (np.arange(rows) + 0.5), "x": a.c + a.a * (np.arange(columns) + 0.5)}
