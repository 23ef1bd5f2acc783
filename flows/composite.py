"""Cubes -> composites: one picture per tile and period."""

from __future__ import annotations

from pathlib import Path

import dask
from odc.geo.geom import Geometry
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from catalog import compositing, periods, versions
from catalog.errors import NothingFound
from catalog.ledger import Ledger
from flows import batches, progress
from flows.refs import CompositeRequest, ItemRef, Where


class Composited(BaseModel):
    """What a composite flow found and made."""

    model_config = ConfigDict(frozen=True)

    composites: list[ItemRef]
    """One per sensor, tile and period, by id."""
    empty: list[tuple[str, str, str]]
    """Sensor, tile and period in which the tile has no scene."""
    left_out: list[str]
    """Cubes in radar geometry, which share no grid with another."""


def plan(request: CompositeRequest, where: Where) -> periods.Planned:
    """The composites to make, done or not.

    Raises
    ------
    NothingFound
        When no cube of the sensors on a map grid has a look within area and period.
    """
    days = periods.divide(request.period.start, request.period.end, request.every)
    area = Geometry(request.area.geometry, "EPSG:4326")
    ledger = Ledger(where.published)
    cubes = [unit for sensor in request.sensors for unit in versions.current(ledger, sensor)]
    found = periods.plan(cubes, area, request.sensors, days, request.method)
    if not found.units:
        raise NothingFound(
            f"no cube has a look in {request.period} within {request.area.name}",
            item=f"{', '.join(request.sensors)} in {where.published}",
            enough="one cube on a map grid with a look in that area and period",
            todo="ingest scenes of that period first (`ringmoe ingest`)",
        )
    return found


@task(name="composite one unit", cache_policy=NO_CACHE)
def composite_unit(unit: periods.CompositeUnit, published: Path) -> ItemRef:
    """Make one composite, or find it done."""
    ledger = Ledger(published)
    with dask.config.set(scheduler="synchronous"):  # the worker is the parallelism; its pixels stay with it
        item = compositing.make(unit, ledger)
    return ItemRef.of(item, ledger.item_path("composites", unit.item_id), fresh=True)


@flow(name="composite")
def composite(request: CompositeRequest, where: Where) -> Composited:
    """Composites of an area, one per tile and period; those already made are only looked up."""
    planned, ledger = plan(request, where), Ledger(where.published)
    found: list[ItemRef] = []
    pending: list[periods.CompositeUnit] = []
    for unit in planned.units:
        item = ledger.done("composites", unit.item_id)
        if item is None:
            pending.append(unit)
        else:
            found.append(ItemRef.of(item, ledger.item_path("composites", unit.item_id), fresh=False))
    total = len(planned.units)
    progress.tell("composite", len(found), total, f"{len(found)} done before")
    if pending:
        found += batches.make(pending, batches.Step("composite", "composites", composite_unit, total), where)
    return Composited(
        composites=sorted(found, key=lambda ref: ref.id), empty=list(planned.empty), left_out=list(planned.left_out)
    )
