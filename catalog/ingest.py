"""Scenes of one instrument over one tile -> a cube and its item."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from catalog import cube, publish, quantify, read
from catalog.errors import AssetError, CubeError
from catalog.ledger import Ledger
from catalog.matching import Matcher
from catalog.quantify import Look
from catalog.scene import Scene
from catalog.search import remembered
from catalog.sensors import SENSORS, Sensor
from catalog.units import Unit


def ingest(unit: Unit, ledger: Ledger) -> dict[str, Any]:
    """Make a cube and publish its item; a unit that is done is only looked up.

    Returns
    -------
    dict
        The item as recorded.

    Raises
    ------
    CatalogError
        Naming the scene; the failure is recorded in the ledger.
    """
    found = ledger.done("cubes", unit.item_id)
    if found is not None:
        return found
    with ledger.attempting("cubes", unit.item_id, "ingest") as folder:
        dataset = build(unit, folder / "cube.zarr")
    times = pd.to_datetime(dataset["time"].values).tz_localize("UTC")
    sources = publish.Sources(
        items=tuple((s.id, _relative(s.href, folder.parent)) for s in unit.scenes),
        start=times.min().to_pydatetime(),
        end=times.max().to_pydatetime(),
    )
    return publish.cube_item(ledger, unit.item_id, folder, dataset, sources, _footprint(unit))


def build(unit: Unit, store: Path) -> xr.Dataset:
    """The cube of a unit: each scene calibrated, brought onto the reference and written before the next is read.

    Memory is that of one scene over the tile and of the reference's band, however many scenes there are.

    Parameters
    ----------
    store
        Where the Zarr store is written.

    Returns
    -------
    Dataset
        The cube, opened.

    Raises
    ------
    CubeError
        When no scene leaves a valid pixel.
    AssetError
        A file cannot be read; then all files of the unit are asked for, and those that fail are listed in one error.
        A quality layer counts as a band does: a cube without it would show clouds as clear under the same id.
    """
    matcher = Matcher(unit)
    looks: list[Look] = []
    shifts: list[Mapping[str, Any]] = []
    seen, usable = False, []
    for index, scene in enumerate(unit.scenes):
        refused = None
        try:
            match = matcher.match(scene)
            look = quantify.look(scene, unit.tile, unit.how, shift_m=match.move)
        except AssetError as error:
            refused = error
        if refused is not None:
            raise read.joined([refused, *read.absent(unit.scenes)])
        if index == 0:
            cube.create(store, _blank(unit, look))
        cube.write_look(store, index, look.data, look.quality, look.layers)
        usable.append(float(cube.usable(look.quality).mean()))
        seen = seen or usable[-1] > 0 or bool(look.data.notnull().any())
        shifts.append(match.record)
        looks.append(_spent(look))
        del look  # or it would live on while the next scene is read
    if not seen:
        raise CubeError(
            "no scene leaves a valid pixel in this tile",
            item=f"{unit.tile_id}: {', '.join(s.id for s in unit.scenes)}",
            enough="one scene with data inside its footprint",
            todo="choose another period or area; if a map viewer shows data there, the item's footprint is wrong",
        )
    attrs = cube.attributes(_description(unit, looks, shifts))
    cube.finish(store, {**attrs, "platform": unit.scenes[0].platform, "usable_share": usable})
    return cube.open(store)


def _spent(look: Look) -> Look:
    """A look whose pixels are written: its words without its arrays, which a view would keep alive."""
    return replace(
        look,
        data=look.data[:, :0, :0].copy(),
        quality=look.quality[:0, :0].copy(),
        geolocation=None,
        layers={},
    )


def _blank(unit: Unit, first: Look) -> xr.Dataset:
    """The cube's layout by its first look, without pixels."""
    box = unit.tile.geobox if unit.tile else None
    times, (bands, rows, columns) = len(unit.scenes), first.data.shape
    coordinates: dict[str, Any] = {
        "time": np.array([np.datetime64(s.datetime.replace(tzinfo=None), "ns") for s in unit.scenes]),
        **cube.pixel_coordinates(box, (rows, columns)),
    }
    data = xr.DataArray(
        da.empty((times, bands, rows, columns), dtype=first.data.dtype),
        dims=("time", "band", "y", "x"),
        coords=coordinates,
    )
    quality = xr.DataArray(da.empty((times, rows, columns), dtype="uint8"), dims=("time", "y", "x"))
    description = _description(unit, [first] * times, [{}] * times)
    layers = {
        name: xr.DataArray(da.empty((times, rows, columns), dtype=v.dtype), dims=("time", "y", "x"), attrs=v.attrs)
        for name, v in first.layers.items()
    }
    return cube.assemble(description, data, quality, first.geolocation, layers)


def _description(unit: Unit, looks: Sequence[Look], shifts: Sequence[Mapping[str, Any]]) -> cube.Description:
    sensor: Sensor = SENSORS[unit.sensor]
    return cube.Description(
        sensor=unit.sensor,
        modality=sensor.modality,
        quantity=looks[0].quantity,
        units=sensor.units,
        gsd_m=looks[0].gsd_m,
        bands=tuple(sensor.band(str(n)) for n in looks[0].data["band"].values),
        tile=unit.tile_id,
        period=unit.period,
        scenes=tuple(s.id for s in unit.scenes),
        acquisitions=tuple(remembered(s) for s in unit.scenes),
        geobox=unit.tile.geobox if unit.tile else None,
        provenance={s.id: {**look.provenance, **_origin(s)} for s, look in zip(unit.scenes, looks, strict=True)},
        coregistration=tuple(shifts),
        notes=tuple(dict.fromkeys(n for look in looks for n in look.notes)),
    )


def _origin(scene: Scene) -> dict[str, Any]:
    """Who answered a scene, and the items of the same overpass that it was taken instead of."""
    keys = ("ringmoe:provider", "ringmoe:instead_of")
    return {k.removeprefix("ringmoe:"): scene.properties[k] for k in keys if k in scene.properties}


def _relative(href: str, folder: Path) -> str:
    """A link to a scene from a cube's folder; addresses on the web, and bare ids, stay as they are."""
    return href if "://" in href or not os.path.isabs(href) else Path(os.path.relpath(href, folder)).as_posix()


def _footprint(unit: Unit) -> dict[str, Any]:
    if unit.tile is None:
        return dict(unit.scenes[0].geometry)
    return publish.lonlat(unit.tile.geobox.extent)
