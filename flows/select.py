"""Which pixels a step may see: cubes, composites and labels within an area and a period."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import rasterio.features
import shapely
import xarray as xr
from odc.geo.geom import Geometry
from shapely.geometry import shape

from catalog import cube
from catalog.composite import Method, composite
from catalog.errors import MetadataError, NothingFound
from catalog.grid import whole
from catalog.mosaic import together
from catalog.read import read_raster
from catalog.search import LabelClass, Raster
from catalog.sensors import Quality
from flows.refs import Area, ItemRef, Period


def inside(dataset: xr.Dataset, area: Area) -> np.ndarray:
    """True where a pixel's centre lies within an area; (y, x) bool."""
    polygon = Geometry(area.geometry, "EPSG:4326")
    box = cube.geobox(dataset)
    if box is None or box.crs is None:
        place = shape(area.geometry)
        shapely.prepare(place)
        return np.asarray(shapely.contains_xy(place, dataset["longitude"].values, dataset["latitude"].values))
    local = shape(polygon.to_crs(box.crs, resolution=float("inf")).json)
    return ~np.asarray(rasterio.features.geometry_mask([local], box.shape, box.affine, all_touched=False))


def opened(cubes: Sequence[ItemRef]) -> list[xr.Dataset]:
    """Cubes, those of one tile that differ in their dates only as one."""
    kinds: dict[tuple[str, ...], list[xr.Dataset]] = {}
    for ref in cubes:
        dataset = cube.open(ref.asset)
        said = dataset.attrs
        key = (said["sensor"], said["tile"], said["quantity"], *(str(b) for b in dataset["band"].values))
        kinds.setdefault(key, []).append(dataset)
    return [own[0] if len(own) == 1 else together(own, own[0].attrs["tile"]) for own in kinds.values()]


def within(cubes: Sequence[ItemRef], area: Area) -> list[xr.Dataset]:
    """The parts of cubes that touch an area, in whole chunks; every pixel outside it counts as no data."""
    found = []
    for dataset in opened(cubes):
        mask = inside(dataset, area)
        quality = dataset["quality"].where(xr.DataArray(mask, dims=("y", "x")), np.uint8(Quality.NO_DATA))
        measured = np.asarray((quality != Quality.NO_DATA).any("time"))
        if measured.any():
            rows, columns = (_chunks(np.asarray(measured.any(axis=axis))) for axis in (1, 0))
            found.append(cube.crop(dataset.assign(quality=quality), rows, columns))
    return found


def _chunks(touched: np.ndarray) -> slice:
    """The whole chunks of an axis that hold everything touched."""
    places = np.flatnonzero(touched)
    stop = -(-(int(places[-1]) + 1) // cube.CHUNK) * cube.CHUNK
    return slice(int(places[0]) // cube.CHUNK * cube.CHUNK, min(stop, len(touched)))


def looks(dataset: xr.Dataset, period: Period, method: Method = "median") -> xr.Dataset | None:
    """The composite of a cube's looks within a period, dims (band, y, x); None where it has no look then."""
    start, end = pd.Timestamp(period.start), pd.Timestamp(period.end) + pd.Timedelta(days=1)
    chosen = (dataset["time"] >= start.to_datetime64()) & (dataset["time"] < end.to_datetime64())
    if not bool(chosen.any()):
        return None
    return composite(dataset.isel(time=np.flatnonzero(chosen.values)), method=method)


def composites(cubes: Sequence[ItemRef], area: Area, period: Period, method: Method = "median") -> list[xr.Dataset]:
    """Composites of the cubes that touch an area and have looks in a period.

    Raises
    ------
    NothingFound
        When there is none.
    """
    found = [c for c in (looks(d, period, method) for d in within(cubes, area)) if c is not None]
    if not found:
        raise NothingFound(
            f"no cube has a look in {period} within {area.name}",
            item=f"{len(cubes)} cubes",
            enough="one cube of the sensor in that area and period",
            todo="ingest scenes of that period first (`ringmoe ingest`)",
        )
    return found


def of_sensor(cubes: Sequence[ItemRef], sensor: str) -> list[ItemRef]:
    """The cubes of one sensor.

    Raises
    ------
    NothingFound
        When there is none.
    """
    found = [ref for ref in cubes if ref.id.startswith(f"{sensor}_")]
    if not found:
        raise NothingFound(
            f"there is no cube of {sensor}",
            item=f"{len(cubes)} cubes",
            enough="one cube of that sensor",
            todo=f"ingest its scenes first (`ringmoe ingest --sensor {sensor}`)",
        )
    return found


def by_grid(cubes: Sequence[ItemRef], area: Area) -> dict[str, list[ItemRef]]:
    """Cubes that touch an area, by the grid they share: a UTM zone and a tile size, or a native raster.

    Raises
    ------
    NothingFound
        When none touches it.
    """
    groups: dict[str, list[ItemRef]] = {}
    for ref in cubes:
        dataset = cube.open(ref.asset)
        if not inside(dataset, area).any():
            continue
        tile = str(dataset.attrs["tile"])
        groups.setdefault(tile if tile.startswith(("native", "radar")) else tile.rsplit("_", 2)[0], []).append(ref)
    if not groups:
        raise NothingFound(
            f"no cube touches {area.name}",
            item=f"{len(cubes)} cubes",
            enough="one cube within the area",
            todo="ingest scenes of that area first (`ringmoe ingest`)",
        )
    return groups


def classes_of(labels: Sequence[Raster]) -> tuple[LabelClass, ...]:
    """The classes that all label rasters share, in the order of their values.

    Raises
    ------
    MetadataError
        When rasters disagree.
    """
    kinds = {r.classes for r in labels}
    if len(kinds) != 1:
        raise MetadataError(
            f"{len(kinds)} lists of classes among the label rasters",
            item=", ".join(r.id for r in labels) or "no label raster",
            enough="label rasters of one list of classes",
            todo="register labels of one legend, or choose a smaller area",
        )
    return kinds.pop()


def identities(labels: Sequence[Raster]) -> list[list[object]]:
    """All of label rasters that determines what is learned from them, JSON-able."""
    return sorted([r.id, r.checksum, str(r.nodata), [[c.value, c.name] for c in r.classes]] for r in labels)


def label_grid(labels: Sequence[Raster], dataset: xr.Dataset) -> np.ndarray:
    """Labels on a cube's grid by nearest neighbour, the first raster that knows a pixel wins.

    Returns
    -------
    np.ndarray
        (y, x) int64: k for the k-th class of `classes_of`, 0 where nobody knows or the cube is in radar geometry.
    """
    box = cube.geobox(dataset)
    out = np.zeros((int(dataset.sizes["y"]), int(dataset.sizes["x"])), np.int64)
    if box is None:
        return out
    codes = {c.value: k for k, c in enumerate(classes_of(labels), start=1)}
    for raster in labels:
        values = np.asarray(read_raster(raster.href, box, resampling="nearest")).reshape(out.shape)
        for value, code in codes.items():
            out[(out == 0) & (values == value)] = code
    return out


def mosaic(pieces: Sequence[xr.Dataset]) -> xr.Dataset:
    """Composites of one grid side by side as one Dataset, NaN and NO_DATA in the gaps; its geobox in attrs."""
    boxes = [cube.geobox(p) for p in pieces]
    present = [b for b in boxes if b is not None]
    if len(pieces) == 1 or not present:
        return pieces[0]
    box = whole(present)
    first = pieces[0]
    data = np.full((first.sizes["band"], *box.shape), np.nan, np.float32)
    quality = np.zeros(box.shape, np.uint8)
    for piece, own in zip(pieces, present, strict=True):
        row = round((own.affine.f - box.affine.f) / box.affine.e)
        column = round((own.affine.c - box.affine.c) / box.affine.a)
        place = (slice(row, row + own.height), slice(column, column + own.width))
        data[(slice(None), *place)] = piece["data"].transpose("band", "y", "x").values
        quality[place] = piece["quality"].values
    grid = {"crs": str(box.crs), "affine": list(box.affine)[:6], "shape": list(box.shape)}
    return xr.Dataset(
        {"data": (("band", "y", "x"), data), "quality": (("y", "x"), quality)},
        coords={"band": first["band"].values, **cube.pixel_coordinates(box, box.shape)},
        attrs={**first.attrs, "geobox": grid},
    )
