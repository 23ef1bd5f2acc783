"""Radiometry measured: errors per satellite, Sentinel-2's offset cases, and speed beside a bare read and a peer."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]


def truths(size_px: int) -> dict[str, Any]:
    """Worst errors of every satellite against what its counts are worth."""
    from radiometry_truth import worst_errors

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sensors = worst_errors(Path(folder), size_px=size_px)
    return {
        "sensors": sensors,
        "worst_reflectance_error": max(known.get("reflectance", 0.0) for known in sensors.values()),
        "worst_db_error": max(known.get("db", 0.0) for known in sensors.values()),
        "worst_relative_power_error_below_dn_100": max(known.get("relative", 0.0) for known in sensors.values()),
        "truth_s": round(time.perf_counter() - began, 2),
    }


def offsets() -> dict[str, Any]:
    """How many of the contradictory Sentinel-2 items are classified right."""
    from offset_cases import run_cases

    right, count, rows = run_cases()
    wrong = [row for row in rows if not row["right"]]
    return {"s2_offset_cases_right": right, "s2_offset_cases": count, "s2_offset_cases_wrong": wrong}


def speed(quick: bool) -> dict[str, Any]:
    """Calibrating a large GRD beside reading it, and beside xarray-sentinel; its peaks of memory are the process's."""
    from radiometry_speed import QUICK_SIDE, SIDE, measure

    return {**measure(QUICK_SIDE if quick else SIDE, 3 if quick else 5)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = ("numpy", "xarray", "dask", "rasterio", "xarray-sentinel")
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "memory_gb": round(pages * page / 1e9, 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small rasters: figures to look at, not to quote")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    figures = speed(quick)  # first, while the process is small
    figures |= truths(64 if quick else 256) | offsets()
    head = {"name": "radiometry", "ratio": figures.get("speed_vs_xarray_sentinel"), "quick": quick}
    print(json.dumps(head | figures | machine(), default=float))


if __name__ == "__main__":
    main()
