"""Scenes onto one grid into Zarr: our whole path against odc-stac and stackstac, in turn, on the same cluster.

Twenty Sentinel-2-like scenes (uint16 COGs, four bands of 10 m, classes of 20 m) lie in two UTM zones; half of them
must be reprojected. Ours calibrates, masks and writes provenance, quality and the item; the peers load digital numbers
and write them. All run on one LocalCluster of two processes, with the same chunks, shards and compressor.

    python tests/benchmarks/bench_cube.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import psutil
import pystac
import rasterio
import rasterio.warp
import stackstac
import xarray as xr
from affine import Affine
from dask.distributed import Client, LocalCluster
from odc.geo.geobox import GeoBox
from odc.geo.geom import box as polygon_of
from rasterio.enums import Resampling
from scipy.ndimage import gaussian_filter

from catalog import ingest
from catalog.grid import Tile
from catalog.ledger import Ledger
from catalog.read import read
from catalog.scene import Scene
from catalog.units import Unit

BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
PROJ = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
SHARD = 1024


def write_scenes(folder: Path, count: int, side: int) -> tuple[list[pystac.Item], GeoBox]:
    """Scenes around 12 degrees east, half of them in each of two zones, and the grid of the first."""
    chance = np.random.default_rng(7)
    relief = gaussian_filter(chance.normal(size=(side, side)), 20)
    relief = (relief - relief.min()) / np.ptp(relief)
    first = GeoBox((side, side), Affine(10, 0, 720_000, 0, -10, 5_220_000), "EPSG:32632")
    corner = rasterio.warp.transform("EPSG:32632", "EPSG:32633", [720_000], [5_220_000])
    second = GeoBox((side, side), Affine(10, 0, round(corner[0][0], -1), 0, -10, round(corner[1][0], -1)), "EPSG:32633")
    items = []
    for number in range(count):
        grid = first if number % 2 == 0 else second
        name, files = f"scene-{number:02d}", {}
        for k, band in enumerate(BANDS):
            dn = 1100 + 800 * (k + 1) * relief + chance.normal(0, 30, (side, side))
            files[band] = _cog(folder / f"{name}_{band}.tif", dn.clip(1, 10_000).astype("uint16"), grid)
        classes = np.where(gaussian_filter(chance.normal(size=(side // 2, side // 2)), 12) > 0.02, 9, 4)
        files["SCL"] = _cog(folder / f"{name}_SCL.tif", classes.astype("uint8"), grid.zoom_to(resolution=20))
        items.append(_item(name, number, grid, files))
    return items, first


def _cog(path: Path, values: np.ndarray, grid: GeoBox) -> tuple[Path, GeoBox]:
    profile = {"driver": "COG", "dtype": values.dtype, "count": 1, "height": grid.height, "width": grid.width}
    with rasterio.open(
        path, "w", **profile, crs=str(grid.crs), transform=grid.affine, nodata=0, compress="deflate", blocksize=512
    ) as out:
        out.write(values, 1)
    return path, grid


def _item(name: str, number: int, grid: GeoBox, files: dict[str, tuple[Path, GeoBox]]) -> pystac.Item:
    place = polygon_of(*grid.extent.boundingbox.bbox, grid.crs).to_crs("EPSG:4326")
    when = datetime(2025, 5, 1, 10, tzinfo=UTC) + timedelta(days=5 * number)
    properties = {"platform": "sentinel-2a", "processing:level": "L2A", "ringmoe:sensor": "sentinel-2", "gsd": 10}
    item = pystac.Item(name, place.json, list(place.boundingbox.bbox), when, properties, stac_extensions=[PROJ])
    for key, (path, lies) in files.items():
        roles = ["data-mask"] if key == "SCL" else ["data"]
        asset = pystac.Asset(str(path), media_type=pystac.MediaType.COG, roles=roles)
        asset.extra_fields = {
            "proj:code": str(lies.crs),
            "proj:shape": list(lies.shape),
            "proj:transform": list(lies.affine)[:6],
            "nodata": 0,
            "data_type": "uint8" if key == "SCL" else "uint16",
        }
        if key in BANDS:
            asset.extra_fields["bands"] = [{"name": key, "eo:common_name": BANDS[key]}]
            asset.extra_fields |= {"raster:scale": 1e-4, "raster:offset": -0.1}
        item.add_asset(key, asset)
    return item


def tiles_of(grid: GeoBox) -> list[Tile]:
    """The grid cut into squares of a shard."""
    steps = range(0, grid.height, SHARD)
    return [Tile(f"tile_{y}_{x}", grid[y : y + SHARD, x : x + SHARD]) for y in steps for x in steps]


def ours(client: Client, items: list[pystac.Item], grid: GeoBox, out: Path) -> None:
    """Units of one tile each: calibrated, masked, with quality, provenance, checksums and item."""
    scenes = tuple(Scene.from_item(i) for i in items)
    units = [Unit("sentinel-2", t, scenes, "2025", None) for t in tiles_of(grid)]
    client.gather([client.submit(_ours, unit, out, pure=False) for unit in units])


def _ours(unit: Unit, out: Path) -> None:
    import dask

    with dask.config.set(scheduler="synchronous"):
        ingest.ingest(unit, Ledger(out))


def by_odc(client: Client, items: list[pystac.Item], grid: GeoBox, out: Path) -> None:
    """odc.stac.load and to_zarr."""
    loaded = odc.stac.load(
        items,
        bands=list(BANDS),
        geobox=grid,
        resampling="bilinear",
        dtype="float32",
        nodata=float("nan"),
        chunks={"x": SHARD, "y": SHARD},
    )
    _to_zarr(loaded.to_array("band").transpose("time", "band", "y", "x"), out)


def by_stackstac(client: Client, items: list[pystac.Item], grid: GeoBox, out: Path) -> None:
    """stackstac.stack with its workarounds for numpy 2 and projection 2, and to_zarr."""
    asked = [i.to_dict(transform_hrefs=False) for i in items]
    for item in asked:
        for asset in item["assets"].values():
            asset["proj:epsg"] = int(asset["proj:code"].split(":")[1])
    stacked = stackstac.stack(
        asked,
        assets=list(BANDS),
        epsg=grid.crs.to_epsg() if grid.crs else None,
        bounds=grid.extent.boundingbox.bbox,
        resolution=10,
        snap_bounds=False,
        resampling=Resampling.bilinear,
        dtype="float32",
        fill_value=np.float32("nan"),
        rescale=False,
        properties=False,
        band_coords=False,
        xy_coords="center",
        chunksize=(1, 1, SHARD, SHARD),
    )
    stacked.attrs = {}
    _to_zarr(stacked.drop_vars([c for c in stacked.coords if c not in ("x", "y")]), out)


def _to_zarr(data: xr.DataArray, out: Path) -> None:
    bands = data.sizes["band"]
    whole = data.drop_vars([c for c in data.coords if c not in ("x", "y")]).astype("float32")
    whole = whole.chunk({"time": 1, "band": bands, "y": SHARD, "x": SHARD})
    whole.attrs, whole.encoding = {}, {}
    encoding = {"data": {"chunks": (1, bands, 256, 256), "shards": (1, bands, SHARD, SHARD)}}
    whole.to_dataset(name="data").to_zarr(out, mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def gdal_alone(client: Client, items: list[pystac.Item], grid: GeoBox, out: Path) -> None:
    """GDAL's warp of the same pixels into memory, nothing else."""
    work = [(i.assets[b].href, t.geobox) for t in tiles_of(grid) for i in items for b in BANDS]
    client.gather(client.map(_warp, work, pure=False))


def _warp(work: tuple[str, GeoBox]) -> None:
    href, grid = work
    out = np.full(tuple(grid.shape), np.nan, "float32")
    with rasterio.open(href) as source:
        rasterio.warp.reproject(
            rasterio.band(source, 1),
            out,
            dst_transform=grid.affine,
            dst_crs=str(grid.crs),
            dst_nodata=np.nan,
            resampling=Resampling.bilinear,
        )


def engines_apart(items: list[pystac.Item], grid: GeoBox) -> dict[str, float]:
    """Median difference in DN of odc-stac by itself, and of stackstac, from ours where pixels are interpolated.

    Both take the width of their kernels from rectangles around what they warp. Where nothing is interpolated all three
    are identical; that a test holds.
    """
    scene, box = Scene.from_item(items[1]), grid[:SHARD, :SHARD]
    ours_dn = read(scene, box, ["B04"]).values[0]
    plain = odc.stac.load(
        items[1:2], bands=["B04"], geobox=box, resampling="bilinear", dtype="float32", nodata=float("nan")
    )
    others = {"odc_stac": plain["B04"].values[0], "stackstac": read(scene, box, ["B04"], engine="stackstac").values[0]}
    return {name: float(np.nanmedian(np.abs(other - ours_dn))) for name, other in others.items()}


class Peak:
    """Largest memory of this process's children while it is open, in GB (proportional set sizes)."""

    def __enter__(self) -> Peak:
        self.gb, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            held = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    held += child.memory_full_info().pss
                except psutil.Error:
                    continue
            self.gb = max(self.gb, held / 1e9)


def timed(call: Callable[..., None], client: Client, items: list[pystac.Item], grid: GeoBox, folder: Path) -> float:
    """Seconds of one run into an empty folder."""
    out = folder / "out"
    start = time.perf_counter()
    call(client, items, grid, out)
    seconds = time.perf_counter() - start
    shutil.rmtree(out, ignore_errors=True)
    return seconds


def peak_of(items: list[pystac.Item], grid: GeoBox, folder: Path) -> float:
    """Memory of the workers over one run of ours, on a fresh cluster."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        with Peak() as peak:
            timed(ours, client, items, grid, folder)
        return peak.gb


def measure(count: int, side: int, rounds: int) -> dict[str, Any]:
    """All figures, as one JSON-able mapping."""
    calls = {"ours": ours, "odc_stac": by_odc, "stackstac": by_stackstac, "gdal_warp": gdal_alone}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        items, grid = write_scenes(folder, 2 * count, side)
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            for call in calls.values():
                timed(call, client, items[:2], grid, folder)
            for _ in range(rounds):
                for name, call in calls.items():
                    seconds[name].append(timed(call, client, items[:count], grid, folder))
        apart = engines_apart(items, grid)
        once, twice = peak_of(items[:count], grid, folder), peak_of(items, grid, folder)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "name": "cube",
        "ratio": medians["ours"] / medians["odc_stac"],
        "ratio_vs_odc_stac": medians["ours"] / medians["odc_stac"],
        "ratio_vs_stackstac": medians["ours"] / medians["stackstac"],
        "share_beyond_gdal_warp": 1 - medians["gdal_warp"] / medians["ours"],
        "engines_apart_dn": apart,
        "peak_gb": once,
        "peak_growth": twice / once,
        "seconds": medians,
        "rounds": seconds,
        "scenes": count,
        "side_px": side,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "machine": platform.processor() or platform.machine(),
    }


def main() -> None:
    """Print the figures, the last line one JSON object."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--quick", action="store_true", help="four scenes, one round")
    quick = asked.parse_args().quick
    found = measure(4, 2048, 1) if quick else measure(20, 2048, 3)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}))


if __name__ == "__main__":
    main()
