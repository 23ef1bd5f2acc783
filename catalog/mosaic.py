"""A version, or an area and a period -> one lazy Dataset over tiles and dates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog import cube, versions
from catalog.composite import Day, Method
from catalog.errors import CubeError, NothingFound
from catalog.ledger import Ledger
from catalog.search import recalled, superseded
from catalog.sensors import Quality
from catalog.versions import Listed

Box = tuple[float, float, float, float]

MOST_TASKS = 100_000
"""A larger graph slows Dask's scheduler down and fills its memory."""

TASKS_PER_CHUNK = 10
"""Of a graph as it is built, before Dask fuses it: data and quality of a chunk are opened, cut, placed and stacked."""

PER_LOOK = ("scenes", "acquisitions", "coregistration", "usable_share")
"""Attributes of a cube that have an entry for each of its dates."""


def open_area(
    catalogue: str | Path,
    sensor: str,
    bbox: Box | None = None,
    start: Day | None = None,
    end: Day | None = None,
    crs: str | None = None,
) -> xr.Dataset:
    """What counts of an instrument over an area and a period, as one lazy Dataset: its latest version.

    Parameters
    ----------
    catalogue
        Folder of published items, as HOME/catalog.
    sensor
        Row of catalog.sensors.
    bbox
        West, south, east, north in degrees: every tile that touches it, whole. None takes all.
    start, end
        First and last day, both included; None is open.
    crs
        Which UTM zone, as EPSG:32632, where the area has tiles of several.

    Returns
    -------
    Dataset
        data (time, band, y, x) in `attrs["units"]`, NaN where no scene was; quality (time, y, x),
        `catalog.sensors.Quality`, NO_DATA there; attributes as of a cube. A scene that several cubes of a tile hold
        comes from the one listed last, and a scene does not count beside its reprocessed self: no date counts twice.

    Raises
    ------
    NothingFound
        When no cube of the sensor touches area and period.
    CubeError
        When the cubes lie on several grids or hold several quantities: they are never mixed; when one is gone; or when
        the graph would have more than MOST_TASKS tasks, before any cube is opened.
    """
    return _opened(versions.current(Ledger(catalogue), sensor), f"{catalogue}: {sensor}", bbox, (start, end), crs)


def open_version(
    item: str | Path,
    bbox: Box | None = None,
    start: Day | None = None,
    end: Day | None = None,
    crs: str | None = None,
) -> xr.Dataset:
    """All tiles and dates that a version lists, as one lazy Dataset; all as `open_area`.

    Parameters
    ----------
    item
        Path of the version's JSON, as HOME/catalog/versions/ID/ID.json.
    """
    ledger, version = versions.read(item)
    return _opened(versions.contents(ledger, version), f"version {version['id']}", bbox, (start, end), crs)


def open_composites(
    catalogue: str | Path,
    sensor: str,
    method: Method = "median",
    bbox: Box | None = None,
    start: Day | None = None,
    end: Day | None = None,
) -> xr.Dataset:
    """All composites of a method that a catalogue holds over an area and a time, as `open_area` gives cubes.

    Their time is the first day of the period each is of; a period that was composited again comes from the newest.
    """
    found = [
        versions.listed(path, item)
        for path, item in Ledger(catalogue).items("composites")
        if (item["properties"]["ringmoe:sensor"], item["properties"]["ringmoe:composite"]) == (sensor, method)
    ]
    found.sort(key=lambda unit: (unit.item["properties"]["created"], unit.id))
    return _opened(found, f"{catalogue}: {method} composites of {sensor}", bbox, (start, end), None)


def _opened(
    units: Sequence[Listed], called: str, bbox: Box | None, period: tuple[Day | None, Day | None], crs: str | None
) -> xr.Dataset:
    found = [u for u in units if _touches(u.item["bbox"], bbox)]
    _check_tasks(sum(_chunks(u.item["properties"], *period) for u in found), f"{called}: {len(found):,} stores")
    datasets = [d for d in (_within(cube.open(u.store), *period) for u in found) if d.attrs["geobox"]]
    datasets = [d for d in datasets if d.sizes["time"] and crs in (None, d.attrs["geobox"]["crs"])]
    if not datasets:
        start, end = period
        raise NothingFound(
            f"no cube touches the area between {start or 'the beginning'} and {end or 'the end'}",
            item=f"{called}: {len(found)} cubes over {bbox or 'everywhere'}",
            enough="one cube on a map grid with a look in the period" + (f", in {crs}" if crs else ""),
            todo="ingest the area first, or ask for a wider box or period",
        )
    return together(datasets, called)


def together(datasets: Sequence[xr.Dataset], called: str) -> xr.Dataset:
    """Cubes on one grid of tiles as one lazy Dataset: tiles side by side, dates in their order, none twice.

    Parameters
    ----------
    datasets
        As `catalog.cube.open` gives them; of a scene that several hold over one tile the last is taken.
    called
        How an error names them.

    Raises
    ------
    CubeError
        When they lie on several grids or hold several quantities.
    """
    _alike(datasets, called)
    return _assembled(_current(datasets))


def _current(datasets: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Cubes without the looks whose reprocessed self another cube of the same tile has."""
    tiles: dict[str, dict[str, Any]] = defaultdict(dict)
    for dataset in datasets:
        tiles[dataset.attrs["tile"]] |= {a["id"]: a for a in dataset.attrs["acquisitions"]}
    gone = {tile: superseded([recalled(a) for a in kept.values()]) for tile, kept in tiles.items()}
    return [_kept(d, np.array([s not in gone[d.attrs["tile"]] for s in d.attrs["scenes"]], bool)) for d in datasets]


def _chunks(about: Mapping[str, Any], start: Day | None, end: Day | None) -> int:
    """Chunks of one layer of a cube within a period, by its item."""
    times = [t[:10] for t in about["cube:dimensions"]["time"]["values"]]
    inside = sum((start is None or str(start)[:10] <= t) and (end is None or t <= str(end)[:10]) for t in times)
    return inside * math.prod(math.ceil(n / cube.SHARD) for n in about["ringmoe:shape"])


def _check_tasks(chunks: int, item: str) -> None:
    if TASKS_PER_CHUNK * chunks > MOST_TASKS:
        raise CubeError(
            f"a graph of {TASKS_PER_CHUNK * chunks:,} tasks is too large",
            item=f"{item}, {chunks:,} chunks",
            enough=f"{MOST_TASKS:,} tasks, that is {MOST_TASKS // TASKS_PER_CHUNK:,} chunks",
            todo="name a smaller box or a shorter period and go over the area part by part, or make composites first",
        )


def _touches(one: Sequence[float], other: Box | None) -> bool:
    if other is None:
        return True
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _within(dataset: xr.Dataset, start: Day | None, end: Day | None) -> xr.Dataset:
    """The dates of a cube within a period, its list of scenes with them."""
    days = pd.DatetimeIndex(dataset["time"].values).normalize()
    keep = np.ones(len(days), bool)
    if start is not None:
        keep &= days >= pd.Timestamp(str(start)[:10])
    if end is not None:
        keep &= days <= pd.Timestamp(str(end)[:10])
    return _kept(dataset, keep)


def _kept(dataset: xr.Dataset, keep: np.ndarray) -> xr.Dataset:
    """Some of the looks of a cube, with what its attributes say of each."""
    if keep.all():
        return dataset
    chosen = dataset.isel(time=np.flatnonzero(keep))
    said = {name: dataset.attrs[name] for name in PER_LOOK if len(dataset.attrs.get(name, ())) == len(keep)}
    return chosen.assign_attrs({k: [v for v, yes in zip(of, keep, strict=True) if yes] for k, of in said.items()})


def _alike(datasets: Sequence[xr.Dataset], called: str) -> None:
    first = datasets[0]
    kinds: Mapping[str, set[str]] = {
        "CRS": {d.attrs["geobox"]["crs"] for d in datasets},
        "pixel size": {str(d.attrs["geobox"]["affine"][0]) for d in datasets},
        "tile size": {str(d.attrs["geobox"]["shape"]) for d in datasets},
        "quantity": {d.attrs["quantity"] for d in datasets},
        "bands": {", ".join(str(b) for b in d["band"].values) for d in datasets},
    }
    if any(abs(v - round(v)) > 1e-6 for d in datasets for v in _place(first, d)):
        kinds = {**kinds, "grids of tiles": {str(d.attrs["tile"]) for d in datasets}}
    for what, values in kinds.items():
        if len(values) > 1:
            raise CubeError(
                f"cubes of {len(values)} different {what} do not make one Dataset",
                item=f"{called}: {'; '.join(sorted(values))}",
                enough=f"cubes of one {what}",
                todo="name one (crs=...), or a smaller box, or open cubes by themselves with catalog.cube.open",
            )


def _place(first: xr.Dataset, other: xr.Dataset) -> tuple[float, float]:
    """Rows and columns of tiles from one tile to another, whole numbers on one grid of tiles."""
    one, two = first.attrs["geobox"], other.attrs["geobox"]
    down = (two["affine"][5] - one["affine"][5]) / one["affine"][4] / one["shape"][0]
    right = (two["affine"][2] - one["affine"][2]) / one["affine"][0] / one["shape"][1]
    return down, right


def _assembled(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Every date's tiles side by side on the smallest rectangle of tiles that holds them all."""
    first = datasets[0]
    places = [(round(y), round(x)) for y, x in (_place(first, d) for d in datasets)]
    top, left = min(y for y, _ in places), min(x for _, x in places)
    down, right = max(y for y, _ in places) - top + 1, max(x for _, x in places) - left + 1
    looks: dict[tuple[Any, str], dict[tuple[int, int], xr.Dataset]] = defaultdict(dict)
    for (y, x), dataset in zip(places, datasets, strict=True):
        for index, scene in enumerate(dataset.attrs["scenes"]):
            looks[(dataset["time"].values[index], scene)][(y - top, x - left)] = dataset.isel(time=index)
    times = sorted(looks)
    of_a_tile = math.prod(math.ceil(n / cube.SHARD) for n in first.attrs["geobox"]["shape"])
    _check_tasks(len(times) * down * right * of_a_tile, f"{len(times):,} dates of {down} x {right} tiles")
    said: dict[str, dict[str, Any]] = {name: {} for name in PER_LOOK}
    for dataset in datasets:
        for name in PER_LOOK:
            said[name] |= dict(zip(dataset.attrs["scenes"], dataset.attrs.get(name, ()), strict=False))
    kept = {"data": np.float32(np.nan).astype(first["data"].dtype), "quality": np.uint8(Quality.NO_DATA)}
    layers = {
        name: da.stack([_blocks(looks[t], name, (down, right), first[name], value) for t in times])
        for name, value in kept.items()
    }
    rows, columns = first.attrs["geobox"]["shape"]
    a, b, c, d, e, f = first.attrs["geobox"]["affine"]
    corner = Affine(a, b, c + left * columns * a, d, e, f + top * rows * e)
    box = GeoBox((down * rows, right * columns), corner, first.attrs["geobox"]["crs"])
    merged = xr.Dataset(
        {
            "data": (("time", "band", "y", "x"), layers["data"], first["data"].attrs),
            "quality": (("time", "y", "x"), layers["quality"], first["quality"].attrs),
        },
        coords={
            "time": [t for t, _ in times],
            "band": first["band"].values,
            **cube.pixel_coordinates(box, box.shape),
        },
        attrs={
            **first.attrs,
            "tile": "+".join(sorted({str(d.attrs["tile"]) for d in datasets})),
            "provenance": {k: v for d in datasets for k, v in d.attrs["provenance"].items()},
            **{name: [of[s] for _, s in times if s in of] for name, of in said.items()},
            "period": _span(datasets),
            "notes": list(dict.fromkeys(n for d in datasets for n in d.attrs["notes"])),
            "geobox": {"crs": str(box.crs), "affine": list(box.affine)[:6], "shape": list(box.shape)},
        },
    )
    return merged.rio.write_crs(str(box.crs)).rio.write_transform(box.affine)


def _span(datasets: Sequence[xr.Dataset]) -> str:
    """First and last day of the periods that cubes answer."""
    days = [day for d in datasets for day in str(d.attrs["period"]).split("/")]
    return f"{min(days)}/{max(days)}"


def _blocks(
    tiles: Mapping[tuple[int, int], xr.Dataset], name: str, size: tuple[int, int], like: xr.DataArray, value: Any
) -> da.Array:
    """One layer of one date: the tiles that have it, and nothing measured where there is none."""
    blank = da.full(like.shape[1:], value, dtype=like.dtype, chunks=like.data.chunks[1:])
    return da.block(
        [[tiles[y, x][name].data if (y, x) in tiles else blank for x in range(size[1])] for y in range(size[0])]
    )
