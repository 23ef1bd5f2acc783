"""From cubes to one picture per tile and period: `composite`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from flows import terminal
from flows.verbs.options import (
    AreaFile,
    Bbox,
    Debug,
    From,
    Home,
    Json,
    Performance,
    Sensors,
    To,
    UnitSeconds,
    app,
    report_items,
    settings_of,
    working,
)


@app.command()
def composite(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: Sensors = None,
    method: Annotated[str, typer.Option(help="median, medoid or clearest.")] = "median",
    every: Annotated[str, typer.Option(help="month, quarter, year, or whole for one of all days.")] = "month",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what there is to make and what is done.")] = False,
    unit_seconds: UnitSeconds = None,
    performance: Performance = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Make one picture per tile and period of the looks of cubes that show the ground."""
    settings = settings_of(home, unit_seconds=unit_seconds, performance_report=performance)
    from flows import asking
    from flows.composite import composite as flow
    from flows.composite import plan as planned

    request = asking.composite_request(settings, bbox, area, start, end, sensor, method=method, every=every)
    where = asking.where(settings)
    if plan:
        _show_plan(planned(request, where), where, json)
        return
    with working(settings):
        made = flow(request, where)
    report_items("Composites", made.composites, json)
    _say_missing(made.empty, made.left_out)


def _show_plan(found: Any, where: Any, json: Any) -> None:
    """Composites to make per sensor, and how many of them are done."""
    from catalog.ledger import Ledger

    ledger = Ledger(where.published)
    units, looks, done = Counter[str](), Counter[str](), Counter[str]()
    for unit in found.units:
        units[unit.sensor] += 1
        looks[unit.sensor] += len(unit.looks)
        done[unit.sensor] += ledger.done("composites", unit.item_id) is not None
    rows = [(sensor, count, looks[sensor], done[sensor]) for sensor, count in sorted(units.items())]
    terminal.table("Plan", ("sensor", "composites", "looks", "done"), rows)
    _say_missing(found.empty, found.left_out)
    terminal.machine([dict(zip(("sensor", "units", "looks", "done"), row, strict=True)) for row in rows], json)


def _say_missing(empty: Any, left_out: Any) -> None:
    if empty:
        terminal.table("No scene, no composite", ("sensor", "tile", "period"), list(empty))
    if left_out:
        terminal.say(f"left out, in radar geometry: {', '.join(left_out)}")
