"""Radar onto optics in the sandbox, where the displacement on the map is known: what closure cannot see, a bias."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from coregister_closure import WRONG_BETWEEN_PX
from odc.geo.geobox import GeoBox

from catalog import quantify, sandbox
from catalog.coregister import estimate_shift
from catalog.matching import MODELS
from catalog.quantify import MatchImage, Reading
from catalog.register import register
from catalog.sandbox import optics, radar, regions, sentinel1, sentinel2, truth
from catalog.sandbox.landscape import draw
from catalog.sandbox.plan import PASSES, Pass
from catalog.scene import Scene
from catalog.search import Raster

SIZE_PX, PART_PX, STEP_M = 512, 256, regions.STEP_M
MOST_M = 30.0
"""Timing errors along and across the flight are drawn up to this."""


def pair(root: Path, seed: int, rng: np.random.Generator) -> tuple[MatchImage, MatchImage, np.ndarray]:
    """Sentinel-2 and Sentinel-1 of one region as the pipeline matches them, and how far the radar is displaced.

    The radar is geocoded by its orbit and the region's heights; metres east and north.
    """
    region = sandbox.REGIONS[seed % len(sandbox.REGIONS)]
    land = draw(region, SIZE_PX * STEP_M, seed)
    relief = radar.ground(land)
    truth.write_dem(root, relief, region.name)
    seen, looked = (next(p for p in PASSES if p.sensor == name) for name in ("sentinel-2", "sentinel-1"))
    looked = replace(looked, shift_m=tuple(rng.uniform(-MOST_M, MOST_M, 2)))
    _write_optical(root, land, relief, seen)
    echo = radar.covariance(land, looked.season)
    told, _ = sentinel1.write(root / "products", land, relief, echo, looked)
    scenes = {s.sensor: s for s in map(Scene.from_item, register(root / "products", root / "catalog").items)}
    grid = GeoBox.from_bbox(_bounds(region), f"EPSG:{region.epsg}", resolution=STEP_M, tight=True)
    return *(_image(root, scenes[p.sensor], grid) for p in (seen, looked)), np.array(told.shift_m)  # type: ignore[return-value]


def _bounds(region: sandbox.Region) -> tuple[float, float, float, float]:
    side = SIZE_PX * STEP_M
    return (region.west_m, region.south_m, region.west_m + side, region.south_m + side)


def _write_optical(root: Path, land: Any, relief: Any, seen: Pass) -> None:
    middle = tuple(n // 2 for n in relief.height_m.shape)
    at = optics.sun(seen.when, float(relief.longitude_deg[middle]), float(relief.latitude_deg[middle]))
    ground = optics.growth(land, seen.season)
    shown = sentinel2.views(land, seen, ground, optics.light(land, seen.season, at))
    sentinel2.write(root / "products", land, seen, shown, at)


def _image(root: Path, scene: Scene, grid: GeoBox) -> MatchImage:
    path = next((root / "dem").glob("*.tif"))
    now = datetime.now(UTC)
    heights = Raster(path.stem, str(path), "", scene.geometry, now, now, None, height_reference="ellipsoid")
    return quantify.match_image(scene, grid, Reading(dems=(heights,)))


def against_truth(rng: np.random.Generator, landscapes: int) -> dict[str, Any]:
    """Absolute error of radar onto optics: whole regions of 512 pixels a side, and their quarters."""
    rows: dict[str, list[tuple[bool, np.ndarray]]] = {"": [], "_quarters": []}
    for seed in range(100, 100 + landscapes):
        with tempfile.TemporaryDirectory() as folder:
            still, moving, told_m = pair(Path(folder), seed, rng)
        quarters = [(slice(r, r + PART_PX), slice(c, c + PART_PX)) for r in (0, PART_PX) for c in (0, PART_PX)]
        for name, parts in (("", [(slice(None), slice(None))]), ("_quarters", quarters)):
            for cut in parts:
                images = (still.data[cut], moving.data[cut], still.usable[cut], moving.usable[cut])
                found = estimate_shift(*images, STEP_M, method="structure", models=MODELS)
                left = (np.array([found.dx_m, found.dy_m]) + told_m) / STEP_M
                rows[name].append((found.verdict == "accepted", left))
    figures: dict[str, Any] = {"sar_optical_truth_landscapes": landscapes}
    for name, measured in rows.items():
        left = np.array([error for taken, error in measured if taken]).reshape(-1, 2)
        key, errors = f"sar_optical_truth{name}", np.hypot(*left.T)
        figures[f"{key}_accept_share"] = len(left) / len(measured)
        if len(left):
            figures |= {
                f"{key}_median_px": float(np.median(errors)),
                f"{key}_p95_px": float(np.quantile(errors, 0.95)),
                f"{key}_bias_px": [round(float(v), 3) for v in left.mean(axis=0)],
                f"{key}_wrong_accept_share": float(np.mean(errors > WRONG_BETWEEN_PX)),
            }
    return figures
