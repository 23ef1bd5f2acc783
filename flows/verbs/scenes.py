"""From products to cubes: `sandbox`, `register`, `search`, `plan`, `ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import terminal
from flows.verbs.options import (
    Anew,
    AreaFile,
    Bbox,
    Debug,
    Every,
    Fill,
    From,
    Home,
    Json,
    Offline,
    OffsetChoice,
    Performance,
    Providers,
    Sensors,
    To,
    UnitSeconds,
    app,
    report_failed,
    report_items,
    report_unreadable,
    settings_of,
    working,
)

if TYPE_CHECKING:
    from catalog.search import Found, Gaps


@app.command()
def sandbox(
    home: Home = None,
    json: Json = None,
    seed: Annotated[int, typer.Option(help="Another seed, another Earth.")] = 7,
    size: Annotated[int, typer.Option(help="Side of each region in pixels of 10 m.")] = 512,
    debug: Debug = False,
) -> None:
    """Write a small procedural Earth: products of four satellites, heights, labels and truth."""
    settings = settings_of(home)
    from flows import recipes

    with terminal.bars():
        made = recipes.make_sandbox(settings, seed=seed, size_px=size)
    rows = [(p.sensor, p.region, p.date, Path(p.folder).name) for p in made.products]
    terminal.table("Products", ("sensor", "region", "date", "folder"), rows)
    terminal.machine({"root": str(settings.sandbox), "products": [list(r) for r in rows]}, json)


@app.command()
def register(
    products: Annotated[list[Path], typer.Argument(help="Product folders, or folders that hold them.")],
    labels: Annotated[list[Path] | None, typer.Option("--labels", help="Label raster, repeatable.")] = None,
    dem: Annotated[list[Path] | None, typer.Option("--dem", help="Raster of heights in metres, repeatable.")] = None,
    height_reference: Annotated[
        str | None,
        typer.Option("--height-reference", help="ellipsoid, EGM96 or EGM2008. [default: as the file says]"),
    ] = None,
    geoid: Annotated[Path | None, typer.Option("--geoid", help="Raster of the geoid's undulation in metres.")] = None,
    home: Home = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Turn product folders into STAC items."""
    settings = settings_of(home)
    from flows import recipes

    with terminal.bars():
        count, failed = recipes.register_once(
            settings, products, labels or [], dem or [], height_reference=height_reference, geoid=geoid
        )
    terminal.say(f"{count} items in {settings.scenes / 'catalog.json'}")
    terminal.machine({"items": count, "failed": failed, "catalog": str(settings.scenes / "catalog.json")}, json)
    report_failed(failed)


@app.command()
def search(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: Sensors = None,
    provider: Providers = None,
    fill: Fill = None,
    gaps: Annotated[
        str | None, typer.Option(metavar="PROVIDER", help="List what this provider has and the others lack.")
    ] = None,
    offline: Offline = False,
    anew: Anew = False,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Find scenes of an area and a period."""
    settings = settings_of(home, provider=provider, fill=fill, offline=offline, anew=anew)
    from flows import asking, stac

    request = asking.ingest_request(settings, bbox, area, start, end, sensor)
    where = asking.where(settings)
    with stac.providers(where) as asked:
        found = stac.find(request, where, asked)
        gap = stac.lacks(request, where, asked, found, gaps) if gaps else None
    answers = [(p["name"], p["provider"], p["items"], p["verified"], len(p["refused"])) for p in found.record()]
    terminal.table("Answers", ("part", "provider", "items", "count held", "repeated pages"), answers)
    refusals = [(p["name"], name, " ".join(why.split())) for p in found.record() for name, why in p["failures"].items()]
    if refusals:
        terminal.table("Did not answer", ("part", "provider", "reason"), refusals)
    if found.duplicates:
        dropped = [(d.kept.id, ", ".join(s.id for s in d.dropped), d.why) for d in found.duplicates]
        terminal.table("One of each overpass", ("taken", "left out", "decided by"), dropped)
    if gap is not None:
        terminal.table(f"Only {gap.provider} has", ("platform", "time", "place", "id"), [g[1:] for g in gap.table()])
    rows = [(s.sensor, s.datetime.isoformat(timespec="minutes"), s.level, s.id) for s in found.scenes]
    terminal.table(f"{len(rows)} scenes", ("sensor", "time", "level", "id"), rows)
    terminal.machine(_as_told(found, gap), json)
    report_unreadable(found.unreadable)


def _as_told(found: Found, gap: Gaps | None) -> dict[str, Any]:
    """A search, JSON-able: scenes with who answered each, the record of the answers, what was left out and why."""
    keys = ("sensor", "time", "level", "id", "provider")
    rows = [(s.sensor, s.datetime.isoformat(), s.level, s.id, s.properties["ringmoe:provider"]) for s in found.scenes]
    return {
        "scenes": [dict(zip(keys, row, strict=True)) for row in rows],
        "answers": found.record(),
        "verified": found.verified,
        "duplicates": [
            {"kept": d.kept.id, "dropped": [s.id for s in d.dropped], "why": d.why} for d in found.duplicates
        ],
        "unreadable": [list(pair) for pair in found.unreadable],
        "gaps": [list(row) for row in gap.table()] if gap else [],
    }


@app.command()
def plan(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: Sensors = None,
    provider: Providers = None,
    fill: Fill = None,
    offline: Offline = False,
    anew: Anew = False,
    tile: Annotated[float, typer.Option(help="Side of a tile in metres.")] = 15_360.0,
    every: Every = "year",
    pilot: Annotated[bool, typer.Option("--pilot", help="First make and time two cubes of each sensor.")] = False,
    json: Json = None,
    offset_policy: OffsetChoice = None,
    debug: Debug = False,
) -> None:
    """What `ingest` would make and take: scenes, tiles, gigabytes, what is done, and with --pilot the time."""
    settings = settings_of(home, offset_policy, provider=provider, fill=fill, offline=offline, anew=anew)
    from flows import asking
    from flows.forecast import forecast

    request = asking.ingest_request(settings, bbox, area, start, end, sensor, tile_m=tile, engine="odc", every=every)
    with working(settings):
        found = forecast(request, asking.where(settings), pilot=pilot)
    rows = [
        (
            f.sensor,
            f.scenes,
            f.units,
            f.done,
            f"{f.gigabytes:.3g}" + ("" if f.measured else " uncompressed"),
            f"{f.seconds[0]:.0f} to {f.seconds[1]:.0f}" if f.seconds else "unknown: --pilot",
        )
        for f in found
    ]
    terminal.table("Plan", ("sensor", "scenes", "cubes", "done", "GB", "seconds left"), rows)
    terminal.machine([f.record() for f in found], json)


@app.command()
def ingest(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: Sensors = None,
    provider: Providers = None,
    fill: Fill = None,
    offline: Offline = False,
    anew: Anew = False,
    tile: Annotated[float, typer.Option(help="Side of a tile in metres.")] = 15_360.0,
    every: Every = "year",
    engine: Annotated[str, typer.Option(help="odc or stackstac reads and warps.")] = "odc",
    flatten: Annotated[bool, typer.Option("--flatten", help="Radar to terrain-flattened gamma nought.")] = False,
    dilate: Annotated[float, typer.Option(help="Metres by which cloud and shadow grow.")] = 0.0,
    unit_seconds: UnitSeconds = None,
    performance: Performance = None,
    json: Json = None,
    offset_policy: OffsetChoice = None,
    debug: Debug = False,
) -> None:
    """Make cubes in physical units of an area and a period."""
    settings = settings_of(
        home,
        offset_policy,
        provider=provider,
        fill=fill,
        offline=offline,
        anew=anew,
        unit_seconds=unit_seconds,
        performance_report=performance,
    )
    from flows import asking
    from flows.ingest import ingest as flow

    request = asking.ingest_request(
        settings,
        bbox,
        area,
        start,
        end,
        sensor,
        tile_m=tile,
        engine=engine,
        flattened=flatten,
        dilate_m=dilate,
        every=every,
    )
    with working(settings):
        found = flow(request, asking.where(settings))
    report_items("Cubes", found.cubes, json)
    rows = [(v.id, "published" if v.fresh else "says so already") for v in found.versions]
    terminal.table("What counts now", ("version", "state"), rows)
    report_unreadable(found.unreadable)
