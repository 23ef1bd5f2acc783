"""How long calibration takes beside reading the same pixels and beside xarray-sentinel: ratios of medians."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import rasterio
import rasterio.shutil
import rioxarray
import xarray as xr
import xarray_sentinel
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from catalog.calibrate.constants import BackscatterTables, GainVectors, NoiseVectors, calibrate
from catalog.calibrate.lut import AzimuthBlock
from catalog.metadata.raster import read_header
from catalog.read.native import native_band, native_coords
from catalog.scene import BandSource

SIDE = 10_000
QUICK_SIDE = 3_000
BLOCK = 2048
THREADS = 2
LINES_APART, PIXELS_APART = 668, 40
"""Spacing of the vectors of an IW GRDH product."""


class Sink:
    """Takes blocks and keeps none, so that only the making of them is timed."""

    def __setitem__(self, _key: object, _block: np.ndarray) -> None: ...


def make_image(path: Path, side: int) -> None:
    """A deflate-compressed COG of speckled amplitudes like those of VV over land, 512-pixel tiles, no georeference."""
    rng = np.random.default_rng(0)
    plain = path.with_suffix(".plain.tif")
    column = 90 * np.sin(np.arange(side) / 300)
    options = {"width": side, "height": side, "count": 1, "dtype": "uint16", "tiled": True}
    with rasterio.open(plain, "w", driver="GTiff", blockxsize=512, blockysize=512, **options) as target:
        for top in range(0, side, 512):
            rows = min(512, side - top)
            mean = 170 + column[None, :] + 60 * np.cos(np.arange(top, top + rows) / 200)[:, None]
            speckle = np.sqrt(rng.standard_gamma(4.4, (rows, side), dtype=np.float32) / 4.4)
            dn = np.clip(mean * speckle, 1, 65_535).astype("uint16")
            target.write(dn, 1, window=Window(0, top, side, rows))
    rasterio.shutil.copy(plain, path, driver="COG", compress="DEFLATE", overviews="NONE", nodata=0)
    plain.unlink()


def constants(side: int, noisy: bool) -> BackscatterTables:
    """Gain and noise vectors as dense as a product's, azimuth factors in three swaths."""
    lines = np.arange(0, side + LINES_APART, LINES_APART)
    pixels = np.arange(0, side + PIXELS_APART, PIXELS_APART)
    gain = [480 + 0.01 * pixels + np.sin(line / 1000) for line in lines]
    noise = [700 + 0.02 * pixels + 0.001 * line for line in lines]
    edges = [0, side // 3, 2 * side // 3, side]
    at = np.arange(0, side, 12)
    blocks = tuple(
        AzimuthBlock(0, side - 1, first, last - 1, at, 1 + 0.05 * np.cos(at / 30)) for first, last in pairwise(edges)
    )
    shared = [pixels] * lines.size
    removed = {"VV": NoiseVectors(lines, shared, noise, blocks)} if noisy else {}
    return BackscatterTables({"VV": GainVectors(lines, shared, gain)}, removed, "benchmark")


def read(path: Path) -> xr.DataArray:
    """(band, y, x) as read_native gives it, lazy."""
    header = read_header(str(path))
    source = BandSource("VV", str(path), 1, False, "uint16", 0.0, header.shape, None, None, None, None)
    dn = native_band(source, {"y": BLOCK, "x": BLOCK})
    return dn.expand_dims(band=["VV"]).assign_coords(native_coords(header))


def calibrated(path: Path, tables: BackscatterTables) -> xr.DataArray:
    """Sigma nought, lazy."""
    return calibrate(read(path), tables, "sigma_nought")


def by_xarray_sentinel(path: Path, tables: BackscatterTables) -> xr.DataArray:
    """Sigma nought of the same pixels and vectors by xarray-sentinel, lazy where it is; it removes no noise."""
    stored = rioxarray.open_rasterio(path, chunks={"band": 1, "y": BLOCK, "x": BLOCK}, lock=False)
    assert isinstance(stored, xr.DataArray)
    dn = stored.isel(band=0, drop=True).drop_vars("spatial_ref").rename(y="line", x="pixel")
    dn = dn.assign_coords(line=np.arange(dn.sizes["line"]), pixel=np.arange(dn.sizes["pixel"]))
    vectors = tables.gain["VV"]
    lut = xr.DataArray(
        np.array(vectors.values, dtype="float32"),
        dims=("line", "pixel"),
        coords={"line": vectors.lines, "pixel": vectors.pixels[0]},
        attrs={"long_name": "sigma nought calibration LUT", "units": "1"},
    )
    found: xr.DataArray = xarray_sentinel.calibrate_intensity(dn, lut)
    return found


def timed(run: Callable[[], xr.DataArray]) -> tuple[float, float]:
    """Wall and processor seconds from the call to the last block."""
    wall, processor = time.perf_counter(), time.process_time()
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        da.store(run().data, Sink(), lock=False)
    return time.perf_counter() - wall, time.process_time() - processor


def measure(side: int, rounds: int) -> dict[str, float]:
    """Time the four in turn, round after round; the peak of memory is taken before xarray-sentinel first runs."""
    with tempfile.TemporaryDirectory() as folder, rasterio.Env(GDAL_CACHEMAX=64):
        path = Path(folder) / "grd.tif"
        make_image(path, side)
        noisy, plain = constants(side, noisy=True), constants(side, noisy=False)
        runs: dict[str, Callable[[], xr.DataArray]] = {
            "read": lambda: read(path),
            "calibrated": lambda: calibrated(path, noisy),
            "without_noise": lambda: calibrated(path, plain),
            "xarray_sentinel": lambda: by_xarray_sentinel(path, plain),
        }
        start_gb = _peak_gb()
        timed(runs["read"])
        timed(runs["calibrated"])
        peak_gb = _peak_gb()
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                took[name].append(timed(run))
        corner = {"y": slice(0, 500), "x": slice(0, 500)}
        ours = runs["without_noise"]()[0].isel(corner).values
        theirs = runs["xarray_sentinel"]().isel(line=corner["y"], pixel=corner["x"]).values
    wall_s = {name: statistics.median(w for w, _ in times) for name, times in took.items()}
    processor_s = {name: statistics.median(p for _, p in times) for name, times in took.items()}
    return {
        "side_px": side,
        "rounds": rounds,
        **{f"{name}_s": round(seconds, 3) for name, seconds in wall_s.items()},
        "overhead_vs_read": round(wall_s["calibrated"] / wall_s["read"], 3),
        "overhead_vs_read_processor": round(processor_s["calibrated"] / processor_s["read"], 3),
        "speed_vs_xarray_sentinel": round(wall_s["xarray_sentinel"] / wall_s["without_noise"], 3),
        "speed_vs_xarray_sentinel_processor": round(processor_s["xarray_sentinel"] / processor_s["without_noise"], 3),
        "peak_gb": round(peak_gb, 3),
        "peak_over_start_gb": round(peak_gb - start_gb, 3),
        "peak_gb_with_xarray_sentinel": round(_peak_gb(), 3),
        "worst_relative_difference": float(np.max(np.abs(ours / theirs - 1))),
    }


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIDE} pixels a side instead of {SIDE}")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    print(json.dumps(measure(QUICK_SIDE if options.quick else SIDE, options.rounds), indent=2))


if __name__ == "__main__":
    main()
