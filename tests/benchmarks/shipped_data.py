"""What the shipped checkpoint learns from: cubes of procedural Earths, and open scenes of Sentinel-2 and Landsat."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import rasterio
import rasterio.warp
import xarray as xr

from catalog import cube, register, sandbox
from catalog.ingest import ingest
from catalog.ledger import Ledger
from catalog.sensors import SENSORS, Band
from flows.ingest import plan
from flows.recipes import SANDBOX_SENSORS
from flows.refs import Area, IngestRequest, Period, Where
from flows.stac import find, providers
from ringmoe.mapped import Cut, write_chips
from ringmoe.measure import measure_contract

SEEDS = (1001, 1002, 1003, 1004, 1005, 1006)
"""Of the Earths learned from; the one that everybody starts with, seed 7, is not among them."""

PERIOD = Period(start=dt.date(2025, 5, 1), end=dt.date(2025, 8, 31))

TILE_M = 2560.0
"""Of the cubes: the regions' corners lie on such tiles, so that none is mostly empty."""

TM = (
    ("B10", "blue", 485.0, 70.0), ("B20", "green", 560.0, 80.0), ("B30", "red", 660.0, 60.0),
    ("B40", "nir08", 830.0, 140.0), ("B50", "swir16", 1650.0, 200.0), ("B70", "swir22", 2215.0, 270.0),
)  # fmt: skip
"""Landsat-5 Thematic Mapper."""

SOURCES = "sources.json"


@dataclass(frozen=True)
class OpenScene:
    """A scene that anybody may use, and learn from."""

    dataset: xr.Dataset
    """`data` (band, y, x), surface reflectance; NaN where nothing was measured."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    licence: str
    """As its providers word it."""
    day: str
    """First day of it, ISO."""


def write_data(work: Path, realdata: Path | None, *, earths: int, size_px: int, side_px: int) -> Path:
    """Chips of all that is learned from, as memory maps, with the contract measured on them; made once.

    Returns
    -------
    Path
        The folder; it holds `sources.json` too: what went in, under which licence, where and when.
    """
    folder = work / "chips"
    if (folder / SOURCES).exists():
        return folder
    cubes: list[xr.Dataset] = []
    for seed in SEEDS[:earths]:
        cubes += earth(work / f"earth-{seed}", seed, size_px)
    scenes = open_scenes(realdata) if realdata else []
    everything = [*cubes, *(scene.dataset for scene in scenes)]
    measured = measure_contract(everything, described=True)
    for left in measured.left_out:
        print(f"left out {everything[left.index].attrs['tile']}: {left.reason}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    used = [everything[i] for i in measured.used]
    written = write_chips(folder, used, measured.contract, Cut(side_px=side_px))
    print(f"{written.pictures} squares, {written.size_bytes / 1e6:.0f} MB", file=sys.stderr)
    told = _told(earths, size_px, [s for s in scenes if any(s.dataset is each for each in used)])
    (folder / SOURCES).write_text(json.dumps(told, indent=1) + "\n")
    return folder


def earth(home: Path, seed: int, size_px: int) -> list[xr.Dataset]:
    """All cubes of one procedural Earth, calibrated and co-registered from its products as any other's."""
    made = sandbox.write(home / "sandbox", seed=seed, size_px=size_px)
    where = Where(scenes=home / "scenes", published=home / "catalog")
    if not (where.scenes / "catalog.json").exists():
        register.register([home / "sandbox" / "products"], where.scenes)
        register.register_dem(sorted(home.glob("sandbox/dem/*.tif")), where.scenes)
    request = IngestRequest(
        area=Area.box((11.0, 46.0, 13.0, 48.0), f"earth {made.seed}"), period=PERIOD, sensors=SANDBOX_SENSORS,
        tile_m=TILE_M,
    )  # fmt: skip
    ledger = Ledger(where.published)
    with providers(where) as asked:
        units = plan(request, find(request, where, asked).scenes, where, asked)
    found = []
    for unit in units:
        with dask.config.set(scheduler="synchronous"):
            item = ingest(unit, ledger)
        path = ledger.item_path("cubes", unit.item_id).parent / item["assets"]["cube"]["href"]
        found.append(cube.open(str(path.resolve())))
    return found


def open_scenes(root: Path) -> list[OpenScene]:
    """Surface reflectance under licences that allow to learn from it and to pass on what was learned.

    Left alone: what is for research only; digital numbers (NAIP), top-of-atmosphere reflectance and gamma nought,
    which are other quantities than the sandbox's of their modality and never mixed with them.
    """
    return [*_fields(root / "ftw_s2_bitemporal"), *_landsat8(root / "landsat8_l2sp_stac"), *_landsat5(root)]


def _fields(folder: Path) -> list[OpenScene]:
    paths = sorted(folder.glob("*.tif"))
    bands = {band.name: band for band in SENSORS["sentinel-2"].bands}
    colours = [bands[name] for name in ("B04", "B03", "B02", "B08")]
    found = []
    for path in paths:
        pixels, bbox = _read([path])
        for k in range(2):
            one = np.where(pixels[4 * k : 4 * k + 4] > 0, pixels[4 * k : 4 * k + 4] / 1e4, np.nan)
            dataset = _dataset("sentinel-2", colours, one, 10.0, f"fields {k + 1}")
            found.append(
                OpenScene(dataset, bbox, "contains modified Copernicus Sentinel data, free and open", "2021-01-01")
            )
    return found


def _landsat8(folder: Path) -> list[OpenScene]:
    """The western half: the eastern serves to ask."""
    bands = SENSORS["landsat"].bands
    paths = [path for band in bands for path in folder.glob(f"*_SR_{band.name}.TIF")]
    if len(paths) < len(bands):
        return []
    pixels, bbox = _read(paths)
    pixels = np.where(pixels > 0, pixels * 2.75e-5 - 0.2, np.nan)[:, :, :256]
    dataset = _dataset("landsat", bands, pixels, 516.0, "005009 west, 516 m")
    half = (bbox[0], bbox[1], (bbox[0] + bbox[2]) / 2, bbox[3])
    return [OpenScene(dataset, half, "Landsat, U.S. Geological Survey, public domain", "2015-07-10")]


def _landsat5(root: Path) -> list[OpenScene]:
    paths = [path for name, *_ in TM for path in root.glob(f"landsat5_nbar_ga/LS5_TM_NBAR*/scene01/*_{name}.tif")]
    if len(paths) < len(TM):
        return []
    pixels, bbox = _read(paths)
    bands = [Band(name, common, centre, width) for name, common, centre, width in TM]
    dataset = _dataset("landsat-5", bands, np.where(pixels > 0, pixels / 1e4, np.nan), 25.0, "090084")
    licence = "Landsat, U.S. Geological Survey and Geoscience Australia, CC BY 4.0"
    return [OpenScene(dataset, bbox, licence, "1992-03-23")]


def _read(paths: list[Path]) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    parts = []
    for path in paths:
        with rasterio.open(path) as source:
            parts.append(source.read().astype(np.float32))
            bbox = rasterio.warp.transform_bounds(source.crs, "EPSG:4326", *source.bounds)
    return np.concatenate(parts), bbox


def _dataset(sensor: str, bands: Any, pixels: np.ndarray, gsd_m: float, tile: str) -> xr.Dataset:
    attrs = {
        "sensor": sensor, "modality": "ms", "quantity": "surface_reflectance", "units": "1", "gsd_m": gsd_m,
        "bands": [asdict(band) for band in bands], "tile": tile,
    }  # fmt: skip
    data = xr.DataArray(pixels.astype(np.float32), dims=("band", "y", "x"), coords={"band": [b.name for b in bands]})
    return xr.Dataset({"data": data}, attrs=attrs)


def _told(earths: int, size_px: int, scenes: list[OpenScene]) -> dict[str, Any]:
    """What went in, and the part of the Earth and of time that it shows."""
    land = "procedural Earths of this package (`catalog.sandbox`), seeds "
    land += f"{', '.join(map(str, SEEDS[:earths]))}, {size_px} px of 10 m a side, both regions"
    rows = [{"what": land, "licence": "Apache-2.0, drawn by this package", "sensors": list(SANDBOX_SENSORS)}]
    for scene in scenes:
        said = scene.dataset.attrs
        rows.append(
            {"what": f"{said['sensor']}, {said['tile']}", "licence": scene.licence, "sensors": [said["sensor"]]}
        )
    boxes = [(11.85, 46.95, 12.1, 47.01), *dict.fromkeys(scene.bbox for scene in scenes)]
    rings = [[[w, s], [e, s], [e, n], [w, n], [w, s]] for w, s, e, n in boxes]
    days = [str(PERIOD.start), *(scene.day for scene in scenes)]
    extent = {
        "geometry": {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]},
        "start": f"{min(days)}T00:00:00+00:00",
        "end": f"{PERIOD.end}T23:59:59+00:00",
    }
    return {"rows": rows, "extent": extent}
