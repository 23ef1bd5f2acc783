"""arosics' answers to pairs of images, in an interpreter that has it: python coregister_arosics.py FOLDER."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from coregister_trials import Trial

SECONDS = 1800
GRID_PX, WINDOW_PX, GLOBAL_PX, REACH_PX = 32, 64, 256, 8
FRAME = (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0)


def ask(python: str | None, cases: list[Trial], folder: Path) -> dict[str, Any] | str:
    """arosics' version and answers by the interpreter named, or why there are none."""
    if python is None:
        return "no interpreter with arosics was named (--arosics-python)"
    for k, case in enumerate(cases):
        images = {"reference": case.reference, "moving": case.moving}
        np.savez(folder / f"{k:05d}.npz", **images, fixed=case.usable[0], seen=case.usable[1])
    done = subprocess.run([python, __file__, str(folder)], capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        return f"arosics does not run there: {done.stderr.strip().splitlines()[-1][:300]}"
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main(folder: Path) -> None:
    """Print arosics' version and per pair the answers (rows, columns) and seconds of COREG and of COREG_LOCAL."""
    from pyproj import CRS

    wkt = CRS.from_epsg(32633).to_wkt()
    warnings.simplefilter("ignore")
    found = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as case:
            images = {name: case[name] for name in case.files}
        row: dict[str, Any] = {}
        for name, measure in (("global", whole), ("local", local)):
            start = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                try:
                    row[name] = measure(images, wkt)
                except Exception:  # its ways to find no match are many: RuntimeError, ValueError, AssertionError, ...
                    row[name] = None
            row[f"{name}_s"] = time.process_time() - start
        found.append(row)
    print(json.dumps({"version": version("arosics"), "answers": found}))


def _inputs(images: dict[str, np.ndarray], wkt: str) -> tuple[Any, Any, dict[str, Any]]:
    from geoarray import GeoArray

    def placed(values: np.ndarray, nodata: float | None = None) -> Any:
        return GeoArray(np.ascontiguousarray(values), geotransform=FRAME, projection=wkt, nodata=nodata)

    pair = [placed(images[name].astype("float32"), -9999.0) for name in ("reference", "moving")]
    masks = {
        f"mask_baddata_{side}": placed(~images[name]) for side, name in (("ref", "fixed"), ("tgt", "seen"))
    }  # of them it takes no windows
    said = {"max_shift": REACH_PX, "q": True, "progress": False, "CPUs": 1, "calc_corners": False}
    return pair[0], pair[1], said | (masks if any(~images[n].all() for n in ("fixed", "seen")) else {})


def whole(images: dict[str, np.ndarray], wkt: str) -> list[float] | None:
    """The shift that COREG finds in one window, rows and columns to add to the moving image's."""
    from arosics import COREG

    one, other, said = _inputs(images, wkt)
    found = COREG(one, other, ws=(GLOBAL_PX, GLOBAL_PX), **said)
    found.calculate_spatial_shifts()
    return [float(found.y_shift_px), float(found.x_shift_px)] if found.success else None


def local(images: dict[str, np.ndarray], wkt: str) -> list[float] | None:
    """The median of the tie points that COREG_LOCAL keeps."""
    from arosics import COREG_LOCAL

    one, other, said = _inputs(images, wkt)
    found = COREG_LOCAL(one, other, grid_res=GRID_PX, window_size=(WINDOW_PX, WINDOW_PX), **said)
    table = found.CoRegPoints_table
    kept = table[~table["OUTLIER"].astype(bool)] if "OUTLIER" in table else table[:0]
    return None if kept.empty else [float(kept["Y_SHIFT_PX"].median()), float(kept["X_SHIFT_PX"].median())]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
