"""Scenes of one instrument over one tile -> a cube and its item."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from catalog import coregister, cube, publish, quantify, read
from catalog.errors import AssetError, CatalogError, CubeError
from catalog.ledger import Ledger, no_space_left
from catalog.quantify import Look
from catalog.scene import Scene
from catalog.sensors import SENSORS, Sensor
from catalog.units import REFERENCE_SENSOR, Unit

MATCH_M = 10.0
"""Pixel size at which shifts are measured."""


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
    folder = ledger.attempt("cubes", unit.item_id)
    try:
        with no_space_left(unit.item_id):
            dataset = build(unit, folder / "cube.zarr")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        ledger.fail(unit.item_id, "ingest", str(error) if isinstance(error, CatalogError) else repr(error))
        raise
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
    matched = _Matcher(unit)
    looks: list[Look] = []
    shifts: list[dict[str, Any]] = []
    seen, usable = False, []
    for index, scene in enumerate(unit.scenes):
        refused = None
        try:
            shift = matched.shift(scene)
            accepted = shift is not None and shift["verdict"] == "accepted"
            move = (float(shift["dx_m"]), float(shift["dy_m"])) if accepted and shift else (0.0, 0.0)
            look = quantify.look(scene, unit.tile, unit.how, shift_m=move)
        except AssetError as error:
            refused = error
        if refused is not None:
            raise read.joined([refused, *read.absent(unit.scenes)])
        if index == 0:
            cube.create(store, _blank(unit, look))
        cube.write_look(store, index, look.data, look.quality, look.layers)
        usable.append(float(cube.usable(look.quality).mean()))
        seen = seen or usable[-1] > 0 or bool(look.data.notnull().any())
        shifts.append(shift or {"scene": scene.id, "verdict": "not attempted", "reason": _why_not(unit, scene)})
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


def _description(unit: Unit, looks: Sequence[Look], shifts: Sequence[dict[str, Any]]) -> cube.Description:
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
        geobox=unit.tile.geobox if unit.tile else None,
        provenance={s.id: dict(look.provenance) for s, look in zip(unit.scenes, looks, strict=True)},
        coregistration=tuple(shifts),
        notes=tuple(dict.fromkeys(n for look in looks for n in look.notes)),
    )


def _why_not(unit: Unit, scene: Scene) -> str:
    if unit.tile is None:
        return "the cube stays in radar geometry"
    if unit.reference is None:
        return f"no {REFERENCE_SENSOR} scene over this tile"
    return "this scene is the reference" if scene.id == unit.reference.id else "the tile is the scene's own raster"


class _Matcher:
    """Measures shifts onto the reference of a unit, whose image is read once."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._reference: quantify.MatchImage | None = None

    def shift(self, scene: Scene) -> dict[str, Any] | None:
        """The measured shift of a scene onto its tile's reference, JSON-able; None where none is measured."""
        unit = self.unit
        if unit.tile is None or unit.reference is None or scene.id == unit.reference.id:
            return None
        if unit.tile.id.startswith("native_"):
            return None
        grid = unit.tile.geobox
        grid = grid.zoom_to(resolution=MATCH_M) if grid.resolution.x < MATCH_M else grid
        if self._reference is None:
            self._reference = quantify.match_image(unit.reference, grid, unit.how)
        moving = quantify.match_image(scene, grid, unit.how)
        shift = coregister.estimate_shift(
            self._reference.data,
            moving.data,
            self._reference.usable,
            moving.usable,
            float(grid.resolution.x),
            method="structure",  # fields turn from darker to brighter than their neighbours between dates, too
        )
        return {"scene": scene.id, "reference": unit.reference.id, "pixel_m": float(grid.resolution.x), **_plain(shift)}


def _relative(href: str, folder: Path) -> str:
    """A link to a scene from a cube's folder; addresses on the web, and bare ids, stay as they are."""
    return href if "://" in href or not os.path.isabs(href) else Path(os.path.relpath(href, folder)).as_posix()


def _plain(shift: coregister.Shift) -> dict[str, Any]:
    """A shift as JSON takes it: rounded, and None where nothing was measured."""
    return {
        k: (round(v, 4) if np.isfinite(v) else None) if isinstance(v, float) else v for k, v in asdict(shift).items()
    }


def _footprint(unit: Unit) -> dict[str, Any]:
    if unit.tile is None:
        return dict(unit.scenes[0].geometry)
    return publish.lonlat(unit.tile.geobox.extent)
