"""The verbs for a terminal: `ringmoe ingest`, `ringmoe infer`, `ringmoe map`, ..."""

from __future__ import annotations

import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from catalog.errors import CatalogError, NothingFound, Refusal, StorageFull
from flows import terminal
from flows.orphans import end_orphans
from flows.settings import Settings, prepare

app = typer.Typer(
    name="ringmoe",
    help="Satellite scenes to maps with one multi-modal mixture-of-experts model.\n\n"
    "Start with `ringmoe run --sandbox`: it makes a small Earth, learns on one region of it and maps another. "
    "Each verb is one step of that; what a step finished is kept and never made twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Home = Annotated[Path | None, typer.Option("--home", help="Folder of everything kept. [default: ringmoe-data]")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON; - prints it.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]
Bbox = Annotated[str | None, typer.Option("--bbox", help="West,south,east,north in degrees.")]
AreaFile = Annotated[Path | None, typer.Option("--area", help="Polygons of the area, any vector file.")]
From = Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day, as in 2025-05-01.")]
To = Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last day, included.")]
Sensors = Annotated[list[str] | None, typer.Option("--sensor", help="A sensor, repeatable. [default: all]")]
Model = Annotated[str | None, typer.Option("--model", metavar="ID", help="Item id. [default: the latest]")]
SENSOR = Annotated[str, typer.Option("--sensor", help="Whose cubes are mapped.")]

OffsetChoice = Annotated[
    str | None,
    typer.Option(
        "--offset-policy",
        metavar="POLICY",
        help="Where Sentinel-2's metadata and pixels contradict each other on the radiometric offset: error, "
        "trust-product or trust-pixels. [default: error]",
    ),
]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells know it."""
SANDBOX_ONLY = ("seed", "size", "quick")
PRODUCTS_ONLY = ("products", "labels", "dem", "train_bbox", "map_bbox", "sensor", "steps")

ROOM_BYTES = 8 * 2**20
"""With less than this on the disk a run does not begin: the database of an embedded Prefect takes 6 MB."""


def settings_of(home: Path | None, offset_policy: str | None = None) -> Settings:
    """Settings with the options over the environment; Prefect is told before it is imported."""
    given = {"home": home, "offset_policy": offset_policy}
    settings = Settings.model_validate({k: v for k, v in given.items() if v is not None})
    prepare(settings, debug="--debug" in sys.argv)
    end_orphans(settings)
    return settings


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """Bars for a person, an API for the flows, and a full disk called so whoever met it."""
    from flows.interrupt import start_api

    _check_room(settings)
    with terminal.bars():
        try:
            start_api()
            yield
        except Refusal:
            raise
        except Exception:  # of Prefect's, whose database has no room either
            _check_room(settings)
            raise


def _refuse_idle(context: typer.Context, options: Sequence[str], mode: str) -> None:
    """Refuse options that would do nothing in this mode."""
    given = [o for o in options if (found := context.get_parameter_source(o)) and found.name == "COMMANDLINE"]
    if given:
        named = ", ".join(f"--{o.replace('_', '-')}" for o in given)
        raise typer.BadParameter(f"{named} would do nothing with {mode}")


def _check_room(settings: Settings) -> None:
    settings.root.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(settings.root).free < ROOM_BYTES:
        raise StorageFull(
            "the disk is full",
            item=str(settings.root),
            enough=f"{ROOM_BYTES // 2**20} MB for a run's own records, and room for what it makes",
            todo="free space or choose another home (--home), then run the same command again",
        )


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
    _report_failed(failed)


@app.command()
def search(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: Sensors = None,
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", help="A public provider, not what is registered; repeatable."),
    ] = None,
    fill: Annotated[str | None, typer.Option(help="A provider that fills what the others lack.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder of answered months: none is asked for twice.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only replay what --keep holds.")] = False,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Find scenes of an area and a period."""
    settings = settings_of(home)
    if not provider and (fill or keep or offline):
        raise typer.BadParameter("--fill, --keep and --offline would do nothing without --provider")
    from flows import asking
    from flows.ingest import find
    from flows.stac import stac_api

    if provider:
        query = asking.query(settings, bbox, area, start, end, sensor)
        found, gap = asking.discovered(query, provider, keep, offline=offline, second=fill)
        scenes = found.scenes
        answers = [(p["name"], p["provider"], p["items"], p["verified"], len(p["refused"])) for p in found.record()]
        terminal.table("Answers", ("part", "provider", "items", "count held", "repeated pages"), answers)
        if gap is not None:
            terminal.table(f"Only {gap.provider} has", ("platform", "time", "place"), [g[1:4] for g in gap.table()])
    else:
        request = asking.ingest_request(settings, bbox, area, start, end, sensor)
        where = asking.where(settings)
        with stac_api(where) as url:
            scenes = find(request, where, url)
    rows = [(s.sensor, s.datetime.isoformat(timespec="minutes"), s.level, s.id) for s in scenes]
    terminal.table(f"{len(rows)} scenes", ("sensor", "time", "level", "id"), rows)
    terminal.machine([dict(zip(("sensor", "time", "level", "id"), r, strict=True)) for r in rows], json)


@app.command()
def plan(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: Sensors = None,
    tile: Annotated[float, typer.Option(help="Side of a tile in metres.")] = 15_360.0,
    pilot: Annotated[bool, typer.Option("--pilot", help="First make and time two cubes of each sensor.")] = False,
    json: Json = None,
    offset_policy: OffsetChoice = None,
    debug: Debug = False,
) -> None:
    """What `ingest` would make and take: scenes, tiles, gigabytes, what is done, and with --pilot the time."""
    settings = settings_of(home, offset_policy)
    from flows import asking
    from flows.forecast import forecast

    request = asking.ingest_request(settings, bbox, area, start, end, sensor, tile_m=tile, engine="odc")
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
    tile: Annotated[float, typer.Option(help="Side of a tile in metres.")] = 15_360.0,
    engine: Annotated[str, typer.Option(help="odc or stackstac reads and warps.")] = "odc",
    flatten: Annotated[bool, typer.Option("--flatten", help="Radar to terrain-flattened gamma nought.")] = False,
    dilate: Annotated[float, typer.Option(help="Metres by which cloud and shadow grow.")] = 0.0,
    json: Json = None,
    offset_policy: OffsetChoice = None,
    debug: Debug = False,
) -> None:
    """Make cubes in physical units of an area and a period."""
    settings = settings_of(home, offset_policy)
    from flows import asking
    from flows.ingest import ingest as flow

    request = asking.ingest_request(
        settings, bbox, area, start, end, sensor, tile_m=tile, engine=engine, flattened=flatten, dilate_m=dilate
    )
    with working(settings):
        cubes = flow(request, asking.where(settings)).cubes
    _report_items("Cubes", cubes, json)


@app.command()
def pretrain(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    preset: Annotated[str, typer.Option(help="A configuration of ringmoe.presets.")] = "nano",
    steps: Annotated[int, typer.Option(help="Batches to learn from.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed, another run.")] = 0,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Pre-train a model on the cubes of an area."""
    settings = settings_of(home)
    from flows import asking, shelf
    from flows.pretrain import pretrain as flow
    from flows.refs import PretrainRequest

    place = asking.area_of(settings, bbox, area)
    request = PretrainRequest(area=place, preset=preset, steps=steps, seed=seed)
    with working(settings):
        made = flow(shelf.cubes(asking.where(settings), place), request, asking.where(settings))
    _report_items("Model", [made], json)


@app.command()
def adapt(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: SENSOR = "sentinel-2",
    model: Model = None,
    steps: Annotated[int, typer.Option(help="Batches to learn from.")] = 300,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Teach a pre-trained model the classes of registered label rasters."""
    settings = settings_of(home)
    from flows import asking, shelf
    from flows.adapt import adapt as flow

    request = asking.adapt_request(settings, bbox, area, start, end, sensor, steps)
    with working(settings):
        parent = shelf.model(asking.where(settings), "pretrain", model)
        made = flow(parent, shelf.cubes(asking.where(settings), request.area), request, asking.where(settings))
    _report_items("Model", [made], json)


@app.command()
def prune(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: SENSOR = "sentinel-2",
    model: Model = None,
    method: Annotated[str, typer.Option(help="neurons, kc, ks or ka.")] = "neurons",
    steps: Annotated[int, typer.Option(help="Recovery steps.")] = 100,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Cut an adapted model down to one dense expert a block, and let it recover."""
    settings = settings_of(home)
    from flows import asking, shelf
    from flows.prune import prune as flow
    from flows.refs import PruneRequest

    task = asking.adapt_request(settings, bbox, area, start, end, sensor, 1)
    request = PruneRequest.model_validate({"method": method, "steps": steps})
    with working(settings):
        parent = shelf.model(asking.where(settings), "adapt", model)
        made = flow(parent, shelf.cubes(asking.where(settings), task.area), request, task, asking.where(settings))
    _report_items("Model", [made], json)


@app.command()
def infer(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: SENSOR = "sentinel-2",
    model: Model = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Map the cubes of an area with a model."""
    _map(settings_of(home), bbox, area, start, end, sensor, model, json)


@app.command("map")
def map_parcels(
    parcels: Annotated[Path, typer.Option("--parcels", help="Vector file of parcels.")],
    name: Annotated[str | None, typer.Option("--name", help="Column that names parcels. [default: row number]")] = None,
    start: From = None,
    end: To = None,
    home: Home = None,
    sensor: SENSOR = "sentinel-2",
    model: Model = None,
    json: Json = None,
    offset_policy: OffsetChoice = None,
    debug: Debug = False,
) -> None:
    """From parcels to a map and a table of areas per class and parcel; missing cubes are made first."""
    settings = settings_of(home, offset_policy)
    from catalog.units import REFERENCE_SENSOR
    from flows import asking, shelf
    from flows.infer import infer as infer_flow
    from flows.ingest import ingest as flow
    from flows.refs import InferRequest, IngestRequest

    where = asking.where(settings)
    place, period = asking.around(parcels), asking.period_of(settings, start, end)
    sensors = dict.fromkeys((*asking.sensors_of([sensor]), REFERENCE_SENSOR))
    request = IngestRequest(area=place, period=period, sensors=tuple(sensors), tile_m=shelf.tile_m(where, sensor))
    mapped = InferRequest(area=place, period=period, sensor=sensor, parcels=parcels, parcel_name=name)
    with working(settings):
        cubes = flow(request, where).cubes
        maps = infer_flow(shelf.model(where, "prune", model), cubes, mapped, where)
    _report_items("Maps", maps, json)
    terminal.csv_tables([Path(ref.asset).with_name("parcels.csv") for ref in maps])


@app.command()
def publish(home: Home = None, json: Json = None, debug: Debug = False) -> None:
    """Hold everything published against its checksums and rebuild the catalogue's links."""
    settings = settings_of(home)
    from flows import asking
    from flows.publish import items
    from flows.publish import publish as flow

    with working(settings):
        path = flow(asking.where(settings))
    count = sum(1 for _ in items(asking.where(settings)))
    terminal.say(f"{count} items in {path}")
    terminal.machine({"catalog": str(path), "items": count}, json)


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
    _refuse_idle(context, SANDBOX_ONLY if products else PRODUCTS_ONLY, "--products" if products else "--sandbox")
    settings = settings_of(home, offset_policy)
    from flows import asking, report

    watch = report.Stopwatch()
    with working(settings):
        if sandbox:
            request, failed = asking.sandbox_run(settings, seed=seed, size_px=size, quick=quick)
        else:
            request, failed = asking.products_run(
                settings, products or [], labels or [], dem or [], train_bbox, map_bbox, sensor, steps
            )
        from flows.pipeline import ringmoe_on_earth

        found = ringmoe_on_earth(request)
    summary = report.summarise(found, request, watch.seconds())
    report.show(summary)
    terminal.machine(summary, json)
    _report_failed(failed)


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
    """What is finished, what failed and why, what is left to sweep."""
    settings = settings_of(home)
    from catalog.ledger import Ledger
    from catalog.publish import COLLECTIONS

    ledger = Ledger(settings.published)
    counts = {name: sum(1 for _ in ledger.items(name)) for name in COLLECTIONS}
    failures, dead = ledger.failures(), ledger.dead_attempts()
    terminal.table(f"Finished in {settings.published}", ("what", "items"), list(counts.items()))
    if failures:
        rows = [(f["unit"], f["step"], f["reason"].splitlines()[0]) for f in failures]
        terminal.table("Failed", ("unit", "step", "reason"), rows)
    if dead:
        terminal.say(f"{len(dead)} unfinished attempts; `ringmoe gc` removes them")
    terminal.machine({"finished": counts, "failed": failures, "unfinished": [str(d) for d in dead]}, json)


@app.command()
def gc(
    hours: Annotated[float, typer.Option("--older-than", help="Leave younger attempts: a run may be at work.")] = 24.0,
    home: Home = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Remove what killed runs left behind; nothing that an item names."""
    from catalog.ledger import Ledger

    removed = Ledger(settings_of(home).published).sweep(older_than_s=hours * 3600)
    terminal.say(f"{len(removed)} unfinished attempts removed")
    terminal.machine([str(r) for r in removed], json)


def _map(
    settings: Settings,
    bbox: str | None,
    area: Path | None,
    start: str | None,
    end: str | None,
    sensor: str,
    model: str | None,
    json: Path | None,
) -> None:
    from flows import asking, shelf
    from flows.infer import infer as flow
    from flows.refs import InferRequest

    place = asking.area_of(settings, bbox, area)
    request = InferRequest(area=place, period=asking.period_of(settings, start, end), sensor=sensor)
    with working(settings):
        where = asking.where(settings)
        maps = flow(shelf.model(where, "prune", model), shelf.cubes(where, place), request, where)
    _report_items("Maps", maps, json)


def _report_items(title: str, refs: list[Any], json: Path | None) -> None:
    rows = [(ref.id, "made" if ref.fresh else "found finished", ref.asset) for ref in refs]
    terminal.table(title, ("item", "state", "where"), rows)
    terminal.machine([ref.model_dump(mode="json") for ref in refs], json)


def _report_failed(failed: list[tuple[str, str]]) -> None:
    if failed:
        terminal.table("Not registered", ("folder", "reason"), [(f, r.splitlines()[0]) for f, r in failed])
        raise CatalogError(
            f"{len(failed)} folders could not be registered; everything else is done",
            item=", ".join(folder for folder, _ in failed),
            enough=failed[0][1],
            todo="mend or leave out these folders and run the same command again",
        )


def main() -> None:
    """Run a verb; a refusal is printed in its four parts and ends with a code that is not 0."""
    debug = "--debug" in sys.argv
    if not debug:
        warnings.simplefilter("ignore")  # what libraries tell programmers
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(_explain(error, debug))
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        _say_interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def _say_interrupted() -> None:
    terminal.err.print("[bold]interrupted[/]  what was finished is kept; run the same command to go on")


def _explain(error: Exception, debug: bool) -> int:
    """Print an error for a person; returns the exit code."""
    if isinstance(error, typer.Abort):
        _say_interrupted()
        return INTERRUPTED
    show = getattr(error, "show", None)
    if callable(show):  # what typer says of options it cannot read
        show()
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        terminal.refuse(CatalogError(str(first["msg"]), item=".".join(str(p) for p in first["loc"]), todo="see --help"))
        return 2
    if isinstance(error, Refusal):
        terminal.refuse(error)
        return 3 if isinstance(error, NothingFound) else 4 if isinstance(error, StorageFull) else 1
    hint = "" if debug else "; --debug shows where"
    terminal.err.print(f"[bold red]error[/]  unexpected {type(error).__name__}: {error}{hint}", markup=True)
    return 70


if __name__ == "__main__":
    main()
