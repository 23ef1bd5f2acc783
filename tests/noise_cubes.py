"""Cubes in the schema of catalog.cube made of noise whose level tells band and time apart, and files of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from catalog import cube
from catalog.sensors import GAOFEN_3, SENTINEL_1, SENTINEL_2, WORLDVIEW, Band, Quality, Sensor
from ringmoe.modality import Batch


def cube_of(
    sensor: Sensor, size: int = 96, n_times: int = 2, n_bands: int = 3, seed: int = 0, gsd_m: float = 10.0
) -> xr.Dataset:
    """A cube in the schema of catalog.cube: noise whose level tells band and time apart."""
    rng = np.random.default_rng(seed)
    bands = sensor.bands[:n_bands]
    shape = (n_times, len(bands), size, size)
    if sensor.law == "complex-amplitude":
        values = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    elif sensor.law == "backscatter":
        values = rng.gamma(4.0, 0.025, shape).astype(np.float32)
    else:
        values = (0.1 * np.arange(1, len(bands) + 1)[:, None, None] + 0.02 * rng.normal(size=shape)).astype(np.float32)
    return xr.Dataset(
        {
            "data": (("time", "band", "y", "x"), values),
            "quality": (("time", "y", "x"), np.full((n_times, size, size), Quality.CLEAR, np.uint8)),
        },
        attrs={
            "sensor": sensor.id,
            "modality": sensor.modality,
            "quantity": next(iter(sensor.quantities.values())),
            "units": sensor.units,
            "gsd_m": gsd_m,
            "bands": [described(b) for b in bands],
            "tile": f"{sensor.id}-{seed}",
        },
    )


def described(band: Band) -> dict[str, object]:
    keys = ("name", "common_name", "centre_nm", "width_nm", "frequency_ghz", "polarisation", "gsd_m")
    return {k: getattr(band, k) for k in keys}


def four_cubes() -> list[xr.Dataset]:
    return [cube_of(s, seed=i) for i, s in enumerate((WORLDVIEW, SENTINEL_2, GAOFEN_3, SENTINEL_1))]


def batches_equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[m].pixels_BCHW, b[m].pixels_BCHW) and torch.equal(a[m].valid_BHW, b[m].valid_BHW) for m in a
    )


def placed(dataset: xr.Dataset, day: str, left: float = 500_000.0, top: float = 5_000_000.0) -> xr.Dataset:
    """A cube on a grid of UTM zone 32, its looks a day apart from `day` on."""
    step, (rows, columns) = float(dataset.attrs["gsd_m"]), dataset["quality"].shape[1:]
    times = np.datetime64(day, "ns") + np.arange(dataset.sizes["time"]) * np.timedelta64(1, "D")
    grid = {"crs": "EPSG:32632", "affine": [step, 0.0, left, 0.0, -step, top], "shape": [rows, columns]}
    return dataset.assign_coords(time=times).assign_attrs(geobox=grid)


def stored(dataset: xr.Dataset, path: Path) -> xr.Dataset:
    """The same cube, written as a Zarr store and opened."""
    box, times = dataset.attrs["geobox"], dataset.sizes["time"]
    assert box is not None
    full = dataset.assign_attrs({"period": "2024-01-01/2024-12-31", "scenes": [str(i) for i in range(times)]})
    coordinates = cube.pixel_coordinates(cube.geobox(full), box["shape"])
    full = full.assign_coords(coordinates).assign_coords(band=[b["name"] for b in full.attrs["bands"]])
    cube.write(path, full)
    return cube.open(path)
