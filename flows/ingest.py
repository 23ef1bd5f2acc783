"""Search -> read -> calibrate -> co-register -> cube."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
from odc.geo.geom import Geometry
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from catalog import cube, units, versions
from catalog import ingest as making
from catalog.errors import AssetError, ServiceError
from catalog.ledger import Ledger, file_digest
from catalog.providers import Provider
from catalog.quantify import Reading
from catalog.scene import Scene
from flows import batches, progress
from flows.refs import IngestRequest, ItemRef, Where
from flows.stac import find, heights, providers


def plan(
    request: IngestRequest, scenes: tuple[Scene, ...], where: Where, asked: Sequence[Provider]
) -> tuple[units.Unit, ...]:
    """The cubes to make, done or not."""
    placed = all(scene.geolocation == "affine" for scene in scenes)
    area = Geometry(request.area.geometry, "EPSG:4326")
    return units.plan(
        scenes,
        area,
        str(request.period),
        tile_m=request.tile_m,
        every=request.every,
        how=Reading(
            engine=request.engine,
            dems=() if placed else heights(where, asked, request.area),
            flattened=request.flattened,
            offset_policy=where.offset_policy,
            dilate_m=request.dilate_m,
        ),
    )


def reference_of(item: dict[str, Any], path: Path, *, fresh: bool) -> ItemRef:
    """The address of a cube's item."""
    return ItemRef.of(item, path, fresh=fresh)


@task(
    name="ingest one unit",
    retries=2,
    retry_delay_seconds=1,
    retry_condition_fn=lambda task, run, state: isinstance(_cause(state), (AssetError, ServiceError)),
    cache_policy=NO_CACHE,
)
def ingest_unit(unit: units.Unit, published: Path) -> ItemRef:
    """Make one cube, or find it done."""
    ledger = Ledger(published)
    with dask.config.set(scheduler="synchronous"):  # the worker is the parallelism; its pixels stay with it
        item = making.ingest(unit, ledger)
    return reference_of(item, ledger.item_path("cubes", unit.item_id), fresh=True)


def _cause(state: Any) -> BaseException | None:
    data = state.data
    return data if isinstance(data, BaseException) else None


def ingest_units(pending: Sequence[units.Unit], where: Where, total: int) -> list[ItemRef]:
    """Make cubes on Dask workers; one that fails or hangs does not stop the others.

    Raises
    ------
    CatalogError
        Naming every unit that failed, after all others are done.
    """
    return batches.make(pending, batches.Step("ingest", "cubes", ingest_unit, total), where)


class Ingested(BaseModel):
    """What an ingest found and made."""

    model_config = ConfigDict(frozen=True)

    scenes: dict[str, int]
    """Scenes found per sensor."""
    cubes: list[ItemRef]
    """One per sensor, tile and part of the calendar, by id."""
    versions: list[ItemRef] = []
    """One per sensor: what counts of it now."""
    unreadable: list[tuple[str, str]] = []
    """Items that are no scene, as collection/id, and why; everything else was found."""


@flow(name="ingest")
def ingest(request: IngestRequest, where: Where) -> Ingested:
    """Cubes of an area and a period; those already made are only looked up."""
    with providers(where) as asked:
        found = find(request, where, asked)
        planned = plan(request, found.scenes, where, asked)
    ledger = Ledger(where.published)
    cubes: list[ItemRef] = []
    pending: list[units.Unit] = []
    for unit in planned:
        item = ledger.done("cubes", unit.item_id)
        if item is None:
            pending.append(unit)
        else:
            cubes.append(reference_of(item, ledger.item_path("cubes", unit.item_id), fresh=False))
    progress.tell("ingest", len(cubes), len(planned), f"{len(cubes)} done before")
    if pending:
        cubes += ingest_units(pending, where, len(planned))
    counts = {sensor: sum(s.sensor == sensor for s in found.scenes) for sensor in request.sensors}
    return Ingested(
        scenes=counts,
        cubes=sorted(cubes, key=lambda ref: ref.id),
        versions=publish_versions(planned, where),
        unreadable=list(found.unreadable),
    )


def publish_versions(done: Sequence[units.Unit], where: Where) -> list[ItemRef]:
    """What counts of each sensor after an ingest; a version that says so already is only looked up."""
    ledger, found = Ledger(where.published), []
    for sensor in sorted({unit.sensor for unit in done}):
        before = {item["id"] for item in versions.heads(ledger, sensor)}
        item = versions.publish_version(ledger, sensor, sorted(u.item_id for u in done if u.sensor == sensor))
        path = str(ledger.item_path(versions.COLLECTION, item["id"]))
        found.append(
            ItemRef(
                collection=versions.COLLECTION,
                id=item["id"],
                href=path,
                asset=path,
                checksum=file_digest(path),
                fresh=item["id"] not in before,
            )
        )
    return found


def open_cube(ref: ItemRef) -> Any:
    """The Dataset of a cube's address."""
    return cube.open(ref.asset)
