"""Ready requests: the sandbox, and product folders from disk; and the inputs they need, made once."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odc.geo.geom import box

from catalog import register, sandbox
from catalog.errors import CatalogError
from catalog.ledger import write_whole
from catalog.sensors import SENSORS
from flows import progress
from flows.refs import (
    AdaptRequest,
    Area,
    InferRequest,
    IngestRequest,
    Period,
    PretrainRequest,
    PruneRequest,
    RunRequest,
    Where,
)
from flows.settings import Settings

SANDBOX_SENSORS = ("sentinel-2", "sentinel-1", "gaofen-3", "worldview")
EVEN: dict[str, float] = {SENSORS[name].modality: 1.0 for name in SANDBOX_SENSORS}
"""Chips of so few steps are of every modality alike."""
SANDBOX_PERIOD = Period(start=dt.date(2025, 5, 1), end=dt.date(2025, 8, 31))
SANDBOX_MAPPED = Period(start=dt.date(2025, 8, 1), end=dt.date(2025, 8, 31))


def make_sandbox(settings: Settings, *, seed: int, size_px: int) -> sandbox.Summary:
    """Write the procedural Earth, or find it whole."""
    return sandbox.write(
        settings.sandbox,
        seed=seed,
        size_px=size_px,
        progress=lambda note, share: progress.tell("sandbox", round(share * 100), 100, note),
    )


def register_once(
    settings: Settings,
    products: Sequence[Path],
    labels: Sequence[Path] = (),
    dems: Sequence[Path] = (),
    *,
    height_reference: str | None = None,
    geoid: Path | None = None,
) -> tuple[int, list[tuple[str, str]]]:
    """Register products, label rasters and DEMs into one static catalogue; unchanged files are not read again.

    Parameters
    ----------
    height_reference, geoid
        What the DEMs' heights count from, and a raster of that geoid, as catalog.register.register_dem takes them.

    Returns
    -------
    tuple
        How many items the catalogue has now, and (folder, reason) of what failed.

    Raises
    ------
    CatalogError
        When nothing could be registered.
    """
    key = _state([*products, *labels, *dems, *([geoid] if geoid else ())]) + (height_reference or "")
    stamp = settings.scenes / "registered.json"
    if stamp.exists():
        before = json.loads(stamp.read_text())
        if before["state"] == key:
            progress.tell("register", before["items"], before["items"], "done before")
            return int(before["items"]), [(f, r) for f, r in before["failed"]]
    found = register.register(
        list(products),
        settings.scenes,
        progress=lambda done, total, note: progress.tell("register", done, total, note),
    )
    rasters = register.register_labels(list(labels), settings.scenes) if labels else ()
    if dems:
        rasters += register.register_dem(list(dems), settings.scenes, height_reference=height_reference, geoid=geoid)
    failed = list(found.failed)
    if not found.items:
        raise CatalogError(
            "no product could be registered",
            item="; ".join(f"{folder}: {reason.splitlines()[0]}" for folder, reason in failed) or "no folder",
            enough="one product folder with its metadata",
            todo="name product folders, or the folder that holds them",
        )
    count = len(found.items) + len(rasters)
    write_whole(stamp, {"state": key, "items": count, "failed": failed})
    return count, failed


def _state(paths: Sequence[Path]) -> str:
    """Hash of names, sizes and times of all files under some paths."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            if file.is_file():
                stat = file.stat()
                digest.update(f"{file.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def sandbox_run(settings: Settings, made: sandbox.Summary, *, quick: bool = False) -> RunRequest:
    """Learn on the west region, map the east, which nothing was trained on."""
    west, east = (_square(region, made.size_px) for region in sandbox.REGIONS)
    both = Area(
        geometry={"type": "MultiPolygon", "coordinates": [west.geometry["coordinates"], east.geometry["coordinates"]]},
        name="sandbox",
    )
    share = 10 if quick else 1
    return RunRequest(
        where=Where.of(settings),
        ingest=IngestRequest(area=both, period=SANDBOX_PERIOD, sensors=SANDBOX_SENSORS, tile_m=2560.0),
        pretrain=PretrainRequest(area=west, steps=120 // share, mix=EVEN, views=0.0),
        adapt=AdaptRequest(area=west, period=SANDBOX_MAPPED, steps=150 // share),
        prune=PruneRequest(steps=60 // share),
        infer=InferRequest(area=east, period=SANDBOX_MAPPED),
    )


def sandbox_rasters(settings: Settings) -> tuple[list[Path], list[Path]]:
    """Land cover rasters and heights of the sandbox."""
    root = settings.sandbox
    return sorted(root.glob("truth/*/landcover_*.tif")), sorted(root.glob("dem/*.tif"))


def _square(region: sandbox.Region, size_px: int) -> Area:
    side, crs = size_px * 10.0, f"EPSG:{region.epsg}"
    ground = box(region.west_m, region.south_m, region.west_m + side, region.south_m + side, crs)
    corners = ground.to_crs("EPSG:4326").json["coordinates"][0]
    ring = [[float(x), float(y)] for x, y in corners]
    return Area(geometry={"type": "Polygon", "coordinates": [ring]}, name=region.name)


def products_run(
    settings: Settings,
    area: Area,
    period: Period,
    *,
    train: Area | None = None,
    mapped: Area | None = None,
    sensor: str | None = None,
    labelled: bool = False,
    steps: int = 100,
    tile_m: float | None = None,
) -> RunRequest:
    """Registered products: cubes and a pre-trained model; with labels also an adapted, pruned model and a map.

    Parameters
    ----------
    train
        Only pixels within are learned from; None takes the whole area.
    mapped
        What is mapped; None takes the whole area.
    sensor
        Whose cubes are labelled and mapped.
    """
    train, mapped = train or area, mapped or area
    options: dict[str, Any] = {} if tile_m is None else {"tile_m": tile_m}
    request = RunRequest(
        where=Where.of(settings),
        ingest=IngestRequest(area=area, period=period, sensors=tuple(SENSORS), **options),
        pretrain=PretrainRequest(area=train, steps=steps, chips=16),
    )
    if not labelled:
        return request
    chosen = sensor or "sentinel-2"
    return request.model_copy(
        update={
            "adapt": AdaptRequest(area=train, period=period, sensor=chosen, steps=2 * steps),
            "prune": PruneRequest(steps=steps),
            "infer": InferRequest(area=mapped, period=period, sensor=chosen),
        }
    )
