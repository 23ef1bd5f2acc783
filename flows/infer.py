"""Cubes, checkpoint -> predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
import xarray as xr
from odc.geo.geobox import GeoBox
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from shapely.geometry import shape

from catalog import cube, publish, zones
from catalog.errors import CubeError
from catalog.ledger import Ledger, file_digest, unit_id
from catalog.publish import MapClass
from flows import features, progress, score, segment
from flows.models import device, has_head, machine, open_checkpoint
from flows.refs import AdaptRequest, InferRequest, ItemRef, Where
from flows.select import by_grid, composites, mosaic, of_sensor
from ringmoe.infer import Tiling, predict, reader

RESULTS_VERSION = 2


def maps(
    model: ItemRef, cubes: Sequence[ItemRef], truth: score.Truth | None, request: InferRequest, where: Where
) -> list[ItemRef]:
    """One map per grid (UTM zone or native raster) of the cubes that touch the area; finished ones are looked up."""
    groups = by_grid(of_sensor(cubes, request.sensor), request.area)
    made = []
    for number, (grid, members) in enumerate(sorted(groups.items())):
        made.append(_once(grid, model, members, truth, request, where))
        progress.tell("infer", number + 1, len(groups), grid)
    return made


def _once(
    grid: str,
    model: ItemRef,
    cubes: Sequence[ItemRef],
    truth: score.Truth | None,
    request: InferRequest,
    where: Where,
) -> ItemRef:
    ledger, headless = Ledger(where.published), request.features or (not has_head(model) and not request.parcels)
    spare = {"parcels"} if headless else {"parcels", "features", "components"}
    inputs = {
        "model": model.checksum,
        "cubes": sorted([c.id, c.checksum] for c in cubes),
        "truth": truth.inputs() if truth else None,
        "parcels": file_digest(request.parcels) if request.parcels else None,
        "request": request.model_dump(mode="json", exclude=spare),
        "machine": machine(where),
    }
    kind = "features" if headless else "landcover"
    item_id = f"{kind}_{grid}_{unit_id('infer', RESULTS_VERSION, inputs)}"
    found = ledger.done("maps", item_id)
    if found is not None:
        return reference_of(found, ledger, fresh=False)
    with ledger.attempting("maps", item_id, "infer") as folder:
        make(folder, item_id, model, cubes, None if headless else truth, request, ledger, where.threads, headless)
    item = ledger.done("maps", item_id)
    assert item is not None
    return reference_of(item, ledger, fresh=True)


def make(
    folder: Path,
    item_id: str,
    model: ItemRef,
    cubes: Sequence[ItemRef],
    truth: score.Truth | None,
    request: InferRequest,
    ledger: Ledger,
    threads: int,
    headless: bool = False,
) -> dict[str, Any]:
    """Map a mosaic of composites tile by tile, count areas, score where truth is given, and publish.

    Parameters
    ----------
    headless
        Publish what the encoder sees instead of classes.
    """
    torch.set_num_threads(threads)  # sums depend on it
    found = open_checkpoint(model)
    segmenter = None if headless else segment.segmenter_of(found).to(device())
    pieces = composites(cubes, request.area, request.period, request.composite)
    for piece in pieces:
        found.contract.check(piece.attrs)
    whole = mosaic(pieces)
    box = cube.geobox(whole)
    if box is None:
        raise CubeError(
            "a cube in radar geometry cannot be mapped onto the ground",
            item=", ".join(c.id for c in cubes),
            enough="a cube on a grid",
            todo="map another sensor (--sensor)",
        )
    sources = publish.Sources([(r.id, _relative(r)) for r in (*cubes, model)], *_span(pieces))
    properties: dict[str, Any] = {"ringmoe:model": model.id, "ringmoe:composite": request.composite}
    if segmenter is None:
        return features.make(folder, item_id, found, whole, box, request, ledger, sources, properties)
    classes = [MapClass(i, n, segment.colour(i, n)) for i, n in enumerate(segmenter.config.classes, start=1)]
    blocks = predict(
        segmenter,
        reader(whole, described=found.contract.described),
        (int(whole.sizes["y"]), int(whole.sizes["x"])),
        Tiling(tile=request.tile_px, overlap=request.overlap_px),
        device=device(),
    )
    pixels = publish.write_map(
        folder, blocks, box, classes, lambda row: progress.tell("infer", row, box.height, item_id)
    )
    tables, counted = _tables(folder, whole, box, classes, pixels, truth, request)
    properties |= counted
    return publish.map_item(ledger, item_id, folder, box, classes, sources, properties, tables)


def _tables(
    folder: Path,
    whole: xr.Dataset,
    box: GeoBox,
    classes: Sequence[MapClass],
    pixels: dict[str, int],
    truth: score.Truth | None,
    request: InferRequest,
) -> tuple[list[Path], dict[str, Any]]:
    """Areas per class, areas per parcel, and the score; as files and as properties of the item."""
    pixel_ha = pixel_area_ha(box)
    areas = pd.DataFrame({"class": list(pixels), "pixels": list(pixels.values())})
    areas["area_ha"] = (areas["pixels"] * pixel_ha).round(4)
    areas.to_csv(folder / "areas.csv", index=False)
    tables = [folder / "areas.csv"]
    properties: dict[str, Any] = {
        "ringmoe:area_ha": {
            c: (None if np.isnan(a) else a) for c, a in zip(areas["class"], areas["area_ha"], strict=True)
        }
    }
    scored = score.against_truth(folder / "classes.tif", whole, truth, [c.name for c in classes]) if truth else None
    if scored is not None:
        (folder / "score.json").write_text(json.dumps(scored, indent=1, sort_keys=True) + "\n")
        tables.append(folder / "score.json")
        properties |= {
            "ringmoe:accuracy": scored["accuracy"],
            "ringmoe:mean_iou": scored["mean_iou"],
            "ringmoe:baseline_accuracy": scored["baseline"]["accuracy"],
        }
    if request.parcels and box.crs is not None:
        parcels = gpd.read_file(request.parcels)
        here = parcels.to_crs(str(box.crs)).intersects(shape(box.extent.json))
        parcels = parcels[here]
        names = {c.value: c.name for c in classes}
        confusion = np.array(scored["confusion"]).T if scored else None  # rows become the map's classes
        table = zones.areas(folder / "classes.tif", parcels, names, confusion=confusion, name=request.parcel_name)
        table.to_csv(folder / "parcels.csv", index=False)
        tables.append(folder / "parcels.csv")
    return tables, properties


def pixel_area_ha(box: GeoBox) -> float:
    """Hectares of one pixel on the grid; NaN where the grid is in degrees."""
    if box.crs is None or not box.crs.projected:
        return float("nan")
    a = box.affine
    return float(abs(a.a * a.e - a.b * a.d) / 1e4)


def reference_of(item: dict[str, Any], ledger: Ledger, *, fresh: bool) -> ItemRef:
    """The address of a map's item."""
    path = ledger.item_path("maps", item["id"])
    asset = item["assets"].get("classes") or item["assets"]["features"]
    return ItemRef(
        collection="maps",
        id=item["id"],
        href=str(path),
        asset=str((path.parent / asset["href"]).resolve()),
        checksum=asset["file:checksum"],
        fresh=fresh,
    )


def _relative(ref: ItemRef) -> str:
    return f"../../{ref.collection}/{ref.id}/{ref.id}.json"


def _span(pieces: Sequence[xr.Dataset]) -> tuple[datetime, datetime]:
    """First and last instant of the looks composited."""
    days = [day for piece in pieces for day in str(piece.attrs["period"]).split("/")]
    first, last = pd.Timestamp(min(days)), pd.Timestamp(max(days)) + pd.Timedelta(days=1, seconds=-1)
    return first.to_pydatetime().replace(tzinfo=UTC), last.to_pydatetime().replace(tzinfo=UTC)


@task(name="infer", cache_policy=NO_CACHE)
def infer_task(
    model: ItemRef, cubes: list[ItemRef], request: InferRequest, where: Where, trained: AdaptRequest | None
) -> list[ItemRef]:
    """Maps of an area, on the GPU where there is one."""
    truth = score.truth_of(cubes, request, trained, where) if trained else None
    return maps(model, cubes, truth, request, where)


@flow(name="infer")
def infer(
    model: ItemRef, cubes: list[ItemRef], request: InferRequest, where: Where, trained: AdaptRequest | None = None
) -> list[ItemRef]:
    """A model over every cube of an area; maps already made are only looked up.

    Where `trained` says what the model learned from, and labels lie in the area, maps are scored against them.
    """
    return infer_task(model, cubes, request, where, trained)
