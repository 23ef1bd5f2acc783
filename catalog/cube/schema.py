"""What a cube is: its layers, its attributes, and where its pixels lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import rioxarray  # noqa: F401  (registers the accessor .rio)
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog.errors import CubeError
from catalog.sensors import USABLE, Band, Quality


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
    acquisitions: tuple[Mapping[str, Any], ...] = ()
    """What tells a scene from its reprocessed selves, in the order of dimension time."""
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
    return placed(cube, description.geobox).assign_coords(band=[b.name for b in description.bands])


def placed(cube: xr.Dataset, box: GeoBox | None) -> xr.Dataset:
    """A Dataset with its CRS and affine as CF says them."""
    if box is None:
        return cube
    found = cube.rio.write_crs(str(box.crs)).rio.write_transform(box.affine)
    axis_parallel = abs(box.affine.b) + abs(box.affine.d) <= 1e-12
    return found.rio.write_coordinate_system() if axis_parallel else found


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
        "sensor": description.sensor,
        "modality": description.modality,
        "quantity": description.quantity,
        "units": description.units,
        "gsd_m": float(description.gsd_m),
        "tile": description.tile,
        "period": description.period,
        "bands": [asdict(b) for b in description.bands],
        "scenes": list(description.scenes),
        "acquisitions": [dict(a) for a in description.acquisitions],
        "provenance": dict(description.provenance),
        "coregistration": [dict(c) for c in description.coregistration],
        "notes": list(description.notes),
        "geobox": None if geobox is None else grid_of(geobox),
    }


def grid_of(box: GeoBox) -> dict[str, Any]:
    """A grid as the attribute geobox of a cube."""
    return {"crs": str(box.crs), "affine": list(box.affine)[:6], "shape": list(box.shape)}


def geobox(cube: xr.Dataset) -> GeoBox | None:
    """Where the pixels lie; None in radar geometry."""
    box: dict[str, Any] | None = cube.attrs["geobox"]
    return None if box is None else GeoBox(tuple(box["shape"]), Affine(*box["affine"]), box["crs"])


def crop(cube: xr.Dataset, rows: slice, columns: slice) -> xr.Dataset:
    """A rectangle of a cube, its geobox with it."""
    part = cube.isel(y=rows, x=columns)
    box = geobox(cube)
    if box is not None:
        part = part.assign_attrs(geobox=grid_of(box[rows, columns]))
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
