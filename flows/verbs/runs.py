"""The whole line at once and what it left: `run`, `serve`, `status`, `gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import terminal
from flows.verbs.options import (
    SENSOR,
    AreaFile,
    Bbox,
    Debug,
    Home,
    Json,
    OffsetChoice,
    app,
    refuse_idle,
    report_failed,
    report_unreadable,
    settings_of,
    working,
)

SANDBOX_ONLY = ("seed", "size", "quick")
PRODUCTS_ONLY = ("products", "labels", "dem", "train_bbox", "map_bbox", "sensor", "steps")


@app.command()
def run(
    context: typer.Context,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="On the procedural Earth.")] = False,
    products: Annotated[list[Path] | None, typer.Option("--products", help="Product folder, repeatable.")] = None,
    labels: Annotated[list[Path] | None, typer.Option("--labels", help="Label raster, repeatable.")] = None,
    dem: Annotated[list[Path] | None, typer.Option("--dem", help="Raster of heights in metres.")] = None,
    train_bbox: Annotated[str | None, typer.Option("--train-bbox", help="Learn only within. [default: all]")] = None,
    map_bbox: Annotated[str | None, typer.Option("--map-bbox", help="Map only this. [default: all]")] = None,
    sensor: SENSOR = "sentinel-2",
    steps: Annotated[int, typer.Option(help="Pre-training steps on products.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the sandbox.")] = 7,
    size: Annotated[int, typer.Option(help="Side of each sandbox region in pixels of 10 m.")] = 512,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the training, to see the line run.")] = False,
    home: Home = None,
    json: Json = None,
    offset_policy: OffsetChoice = None,
    debug: Debug = False,
) -> None:
    """All of it: register, search, ingest, pretrain, adapt, prune, infer, publish."""
    if sandbox == bool(products):
        raise typer.BadParameter("name either --sandbox or --products FOLDER")
    refuse_idle(context, SANDBOX_ONLY if products else PRODUCTS_ONLY, "--products" if products else "--sandbox")
    settings = settings_of(home, offset_policy)
    from flows import asking, progress, report

    watch = report.Stopwatch()
    progress.watch(watch.told)
    with working(settings):
        if sandbox:
            request, failed = asking.sandbox_run(settings, seed=seed, size_px=size, quick=quick)
        else:
            request, failed = asking.products_run(
                settings, products or [], labels or [], dem or [], train_bbox, map_bbox, sensor, steps
            )
        from flows.pipeline import ringmoe_on_earth

        found = ringmoe_on_earth(request)
    summary = report.summarise(found, request, watch.seconds()) | {"dask": watch.dashboards}
    report.show(summary)
    terminal.machine(summary, json)
    report_failed(failed)
    report_unreadable(found.unreadable)


@app.command()
def serve(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    cron: Annotated[str, typer.Option(help="When to ingest and map what is new, five fields, UTC.")] = "0 3 * * *",
    days: Annotated[int, typer.Option(help="How far back to look.")] = 30,
    debug: Debug = False,
) -> None:
    """Keep running and map an area on a schedule, embedded: no server, no work pool."""
    settings = settings_of(home)
    from flows import asking, schedule

    place = asking.area_of(settings, bbox, area)
    terminal.say(f"mapping {place.name} at '{cron}' UTC from {settings.root}; Ctrl-C ends it")
    schedule.serve(settings, cron, asking.bounds(place), days)


@app.command()
def status(home: Home = None, json: Json = None, debug: Debug = False) -> None:
    """What is finished, what counts, what is out of date and why, what failed, what is left to sweep."""
    settings = settings_of(home)
    from catalog import versions
    from catalog.ledger import Ledger
    from catalog.publish import COLLECTIONS
    from catalog.stale import removable
    from flows import asking, shelf

    ledger = Ledger(settings.published)
    counts = {name: sum(1 for _ in ledger.items(name)) for name in COLLECTIONS}
    latest = [head["id"] for sensor in versions.sensors(ledger) for head in versions.heads(ledger, sensor)]
    outdated = shelf.outdated(asking.where(settings))
    superseded = removable(ledger, outdated)
    failures, dead = ledger.failures(), ledger.dead_attempts()
    terminal.table(f"Finished in {settings.published}", ("what", "items"), list(counts.items()))
    if latest:
        terminal.table("What counts now", ("version",), [(name,) for name in latest])
    if outdated:
        stale_rows = [(s.collection, s.id, "; ".join(s.reasons)) for s in outdated.values()]
        terminal.table("Out of date", ("what", "item", "reason"), stale_rows)
    if failures:
        rows = [(f["unit"], f["step"], f["reason"].splitlines()[0]) for f in failures]
        terminal.table("Failed", ("unit", "step", "reason"), rows)
    if superseded:
        terminal.say(f"{len(superseded)} superseded outputs that nothing needs; `ringmoe gc --superseded` removes them")
    if dead:
        terminal.say(f"{len(dead)} unfinished attempts; `ringmoe gc` removes them")
    told = {"finished": counts, "failed": failures, "unfinished": [str(d) for d in dead], "latest": latest}
    told |= {"stale": [s.record() for s in outdated.values()], "superseded": [list(pair) for pair in superseded]}
    terminal.machine(told, json)


@app.command()
def gc(
    hours: Annotated[float, typer.Option("--older-than", help="Leave younger attempts: a run may be at work.")] = 24.0,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Also cubes that no latest version lists and nothing derives from.")
    ] = False,
    derived_too: Annotated[
        bool, typer.Option("--derived-too", help="Also maps and models that are out of date, and then their cubes.")
    ] = False,
    home: Home = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Remove what killed runs left behind; nothing that an item names. Superseded outputs are listed, or removed."""
    settings = settings_of(home)
    from catalog.ledger import Ledger
    from catalog.stale import removable, remove
    from flows import asking, shelf

    ledger = Ledger(settings.published)
    removed = ledger.sweep(older_than_s=hours * 3600)
    terminal.say(f"{len(removed)} unfinished attempts removed")
    going = removable(ledger, shelf.outdated(asking.where(settings)), derived_too=derived_too)
    if going:
        terminal.table("Superseded", ("what", "item"), going)
    if going and (superseded or derived_too):
        remove(ledger, going)
        terminal.say(f"{len(going)} superseded outputs removed")
    told = [str(r) for r in removed]
    if superseded or derived_too:
        told += [str(ledger.item_path(*pair).parent) for pair in going]
    terminal.machine(told, json)
