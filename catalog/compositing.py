"""Cubes of a tile over a period -> a composite in the cube's schema, and its item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from catalog import cube, publish
from catalog.composite import composite
from catalog.ledger import Ledger
from catalog.periods import CompositeUnit, LookRef
from catalog.sensors import Band

WINDOW_BYTES = 2**25
"""Pixels read at once, all looks of a window; with many looks its rows become fewer than a chunk's."""

EPOCH = np.datetime64("1970-01-01", "ns")
LAYERS: Mapping[str, tuple[str, dict[str, str]]] = {
    "looks": ("uint16", {"units": "1", "long_name": "number of looks that show the ground"}),
    "first": ("float64", {"units": "days since 1970-01-01", "long_name": "first date used"}),
    "last": ("float64", {"units": "days since 1970-01-01", "long_name": "last date used"}),
    "spread": ("float32", {"long_name": "median distance of the looks to the composite, mean over the bands"}),
}
"""What a composite keeps of every pixel beside its value and quality; dates open as datetime64, NaT without a look."""


def make(unit: CompositeUnit, ledger: Ledger) -> dict[str, Any]:
    """Make a composite and publish its item; a unit that is done is only looked up.

    Returns
    -------
    dict
        The item as recorded.

    Raises
    ------
    CatalogError
        Naming the cube; the failure is recorded in the ledger.
    """
    found = ledger.done("composites", unit.item_id)
    if found is not None:
        return found
    with ledger.attempting("composites", unit.item_id, "composite") as folder:
        dataset = build(unit, folder / "cube.zarr")
    box = cube.geobox(dataset)
    assert box is not None
    sources = publish.Sources(
        items=tuple((name, f"../../cubes/{name}/{name}.json") for name in dict.fromkeys(x.cube for x in unit.looks)),
        start=_moment(unit.looks[0].time),
        end=_moment(unit.looks[-1].time),
    )
    return publish.cube_item(ledger, unit.item_id, folder, dataset, sources, publish.lonlat(box.extent))


def build(unit: CompositeUnit, store: Path) -> xr.Dataset:
    """The composite of a unit, window by window: memory is that of one look, however many there are.

    Parameters
    ----------
    store
        Where the Zarr store is written.

    Returns
    -------
    Dataset
        A cube of one date, the first day of the period, with the layers of `LAYERS`.
    """
    opened = {name: cube.open(name) for name in dict.fromkeys(look.store for look in unit.looks)}
    description = _description(unit, list(opened.values()))
    shares = {name: _clarity(dataset) for name, dataset in opened.items()}
    clarity = [shares[look.store][look.index] for look in unit.looks]
    first = opened[unit.looks[0].store]
    cube.create(store, _blank(unit, description, first))
    made = _made(unit, first, clarity)
    cube.write_look(store, 0, made["data"], made["quality"], {name: made[name] for name in LAYERS})
    share = float(cube.usable(made["quality"]).mean())
    about = {**cube.attributes(description), "platform": first.attrs.get("platform", "")}
    cube.finish(store, {**about, "usable_share": [share], "composite": unit.method})
    return cube.open(store)


def _made(unit: CompositeUnit, like: xr.Dataset, clarity: Sequence[float]) -> xr.Dataset:
    """The composite, made of windows whose looks fit into WINDOW_BYTES."""
    shape = (like.sizes["y"], like.sizes["x"])
    bands, dtype = like.sizes["band"], like["data"].dtype
    room = WINDOW_BYTES // (len(unit.looks) * bands * dtype.itemsize)
    rows = max(1, min(cube.CHUNK, room // cube.CHUNK))
    out = {
        "data": np.empty((bands, *shape), dtype),
        "quality": np.empty(shape, np.uint8),
        **{name: np.empty(shape, kind) for name, (kind, _) in LAYERS.items()},
    }
    for place in _windows(shape, rows, cube.CHUNK):
        part = composite(_looks(unit, like, place), unit.method, clarity=clarity)
        for name, target in out.items():
            values = part[name].values
            days = (values - EPOCH) / np.timedelta64(1, "D") if values.dtype.kind == "M" else values
            target[(..., *place)] = days
    return xr.Dataset({name: (("band", "y", "x")[-v.ndim :], v) for name, v in out.items()})


def _looks(unit: CompositeUnit, like: xr.Dataset, window: cube.Window) -> xr.Dataset:
    """Every look of a unit over a window, in memory."""
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    data = np.empty((len(unit.looks), like.sizes["band"], *shape), like["data"].dtype)
    quality = np.empty((len(unit.looks), *shape), np.uint8)
    for number, look in enumerate(unit.looks):
        data[number], quality[number] = cube.read_look(look.store, look.index, window)
    return xr.Dataset(
        {"data": (("time", "band", "y", "x"), data), "quality": (("time", "y", "x"), quality)},
        coords={"time": np.array([_ns(look) for look in unit.looks])},
        attrs={"tile": unit.tile},
    )


def _windows(shape: tuple[int, int], rows: int, columns: int) -> list[cube.Window]:
    """Rectangles that cover a shape, from the upper left."""
    return [
        (slice(row, min(row + rows, shape[0])), slice(column, min(column + columns, shape[1])))
        for row in range(0, shape[0], rows)
        for column in range(0, shape[1], columns)
    ]


def _clarity(dataset: xr.Dataset) -> list[float]:
    found = dataset.attrs.get("usable_share")
    return list(found) if found else cube.usable_share(dataset["quality"])


def _description(unit: CompositeUnit, cubes: Sequence[xr.Dataset]) -> cube.Description:
    first = cubes[0].attrs
    made_of: dict[str, list[str]] = {}
    for look in unit.looks:
        made_of.setdefault(look.cube, []).append(look.scene)
    return cube.Description(
        sensor=unit.sensor,
        modality=first["modality"],
        quantity=first["quantity"],
        units=first["units"],
        gsd_m=first["gsd_m"],
        bands=tuple(Band(**b) for b in first["bands"]),
        tile=unit.tile,
        period=unit.period,
        scenes=(unit.label,),
        geobox=cube.geobox(cubes[0]),
        provenance={unit.label: {"method": unit.method, "cubes": made_of}},
        coregistration=({"scene": unit.label, "verdict": "not attempted", "reason": "its cubes lie on one grid"},),
        notes=tuple(dict.fromkeys(n for c in cubes for n in c.attrs["notes"])),
    )


def _blank(unit: CompositeUnit, description: cube.Description, like: xr.Dataset) -> xr.Dataset:
    """The composite's layout without pixels."""
    shape = (like.sizes["y"], like.sizes["x"])
    axes = {"time": np.array([np.datetime64(unit.days[0], "ns")]), "y": like["y"].values, "x": like["x"].values}
    data = xr.DataArray(
        da.empty((1, like.sizes["band"], *shape), dtype=like["data"].dtype),
        dims=("time", "band", "y", "x"),
        coords=axes,
    )
    flat = ("time", "y", "x")
    quality = xr.DataArray(da.empty((1, *shape), dtype="uint8"), dims=flat)
    layers = {
        name: xr.DataArray(da.empty((1, *shape), dtype=kind), dims=flat, attrs={"units": description.units, **attrs})
        for name, (kind, attrs) in LAYERS.items()
    }
    return cube.assemble(description, data, quality, None, layers)


def _ns(look: LookRef) -> np.datetime64:
    return np.datetime64(look.time.removesuffix("Z"), "ns")


def _moment(time: str) -> datetime:
    return datetime.fromisoformat(time.removesuffix("Z")).replace(tzinfo=UTC)
