"""Search -> read -> calibrate -> co-register -> cube."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
from odc.geo.geom import Geometry
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.futures import as_completed
from pydantic import BaseModel, ConfigDict

from catalog import cube, units
from catalog import ingest as making
from catalog.errors import AssetError, CatalogError, ServiceError
from catalog.ledger import Ledger
from catalog.quantify import Reading
from catalog.read import settings
from catalog.scene import Scene
from catalog.search import dems, search
from flows import progress
from flows.interrupt import spared
from flows.refs import IngestRequest, ItemRef, Where
from flows.stac import stac_api


def find(request: IngestRequest, where: Where, url: str) -> tuple[Scene, ...]:
    """Scenes of the area, the period and the sensors."""
    return search(
        url,
        geometry=request.area.geometry,
        start=request.period.start,
        end=request.period.end,
        sensors=request.sensors,
        provider=where.provider,
    )


def plan(request: IngestRequest, scenes: tuple[Scene, ...], where: Where, url: str) -> tuple[units.Unit, ...]:
    """The cubes to make, done or not."""
    heights = dems(url, geometry=request.area.geometry)
    area = Geometry(request.area.geometry, "EPSG:4326")
    return units.plan(
        scenes,
        area,
        str(request.period),
        tile_m=request.tile_m,
        how=Reading(
            engine=request.engine,
            dems=heights,
            flattened=request.flattened,
            offset_policy=where.offset_policy,
            dilate_m=request.dilate_m,
        ),
    )


def reference_of(item: dict[str, Any], path: Path, *, fresh: bool) -> ItemRef:
    """The address of a cube's item."""
    asset = item["assets"]["cube"]
    return ItemRef(
        collection="cubes",
        id=item["id"],
        href=str(path),
        asset=str((path.parent / asset["href"]).resolve()),
        checksum=asset["file:checksum"],
        fresh=fresh,
    )


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
    """Make cubes on Dask workers; one that fails does not stop the others.

    Raises
    ------
    CatalogError
        Naming every unit that failed, after all others are done.
    """
    made: list[ItemRef] = []
    failed: list[tuple[units.Unit, BaseException]] = []
    with ExitStack() as stack:
        with spared():
            workers = stack.enter_context(runner(where))
            settings.carry(workers.client)  # the cluster starts when it is first asked for
        futures = {
            workers.submit(ingest_unit, parameters={"unit": unit, "published": where.published}): unit
            for unit in pending
        }
        for count, future in enumerate(as_completed(list(futures)), start=1):
            result: Any = future.result(raise_on_failure=False)
            unit = futures[future]
            if isinstance(result, BaseException):
                failed.append((unit, result))
            else:
                made.append(result)
            progress.tell("ingest", total - len(pending) + count, total, unit.item_id)
    if failed:
        raise _summary(failed, len(made))
    return made


def _summary(failed: list[tuple[units.Unit, BaseException]], made: int) -> BaseException:
    """One error for all that failed: the first that is none of ours, the only one, or every cause once."""
    refusals = [error for _, error in failed if isinstance(error, CatalogError)]
    if len(refusals) < len(failed):
        return next(error for _, error in failed if not isinstance(error, CatalogError))
    if len(refusals) == 1:
        return refusals[0]
    causes = Counter(f"{error.item}: {error.what}" for error in refusals)
    kinds = {type(error) for error in refusals}
    todo = "; ".join(dict.fromkeys(error.todo for error in refusals))
    return (kinds.pop() if len(kinds) == 1 else CatalogError)(
        f"{len(refusals)} cubes could not be made",
        item="; ".join(f"{cause} ({count} of them)" for cause, count in causes.items()),
        enough="; ".join(dict.fromkeys(error.enough for error in refusals)),
        todo=f"{todo}; then run the same command again: {made} cubes made now are kept",
    )


class Ingested(BaseModel):
    """What an ingest found and made."""

    model_config = ConfigDict(frozen=True)

    scenes: dict[str, int]
    """Scenes found per sensor."""
    cubes: list[ItemRef]
    """One per sensor and tile, by id."""


@flow(name="ingest")
def ingest(request: IngestRequest, where: Where) -> Ingested:
    """Cubes of an area and a period; those already made are only looked up."""
    with stac_api(where) as url:
        scenes = find(request, where, url)
        planned = plan(request, scenes, where, url)
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
    counts = {sensor: sum(s.sensor == sensor for s in scenes) for sensor in request.sensors}
    return Ingested(scenes=counts, cubes=sorted(cubes, key=lambda ref: ref.id))


def runner(where: Where) -> Any:
    """Dask workers: a running cluster by its address, else a local one of one-threaded processes."""
    from prefect_dask import DaskTaskRunner

    if where.dask_address:
        return DaskTaskRunner(address=where.dask_address)
    # Workers take this over: their profiler's sys._current_frames can deadlock one (CPython gh-106883, seen on 3.11.7).
    dask.config.set({"distributed.worker.profile.enabled": False})
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": where.workers,
            "threads_per_worker": 1,
            "dashboard_address": "127.0.0.1:0",
            "silence_logs": logging.CRITICAL,
            "env": {"PREFECT_API_URL": _api_url(), "OMP_NUM_THREADS": "1"},
        }
    )


def _api_url() -> str:
    """The API of this run, the ephemeral one included, so that workers report to it."""
    with get_client(sync_client=True) as client:
        return str(client.api_url)


def open_cube(ref: ItemRef) -> Any:
    """The Dataset of a cube's address."""
    return cube.open(ref.asset)
