"""From cubes and a model to maps: `infer`, `map`, `publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import terminal
from flows.settings import Settings
from flows.verbs.options import (
    SENSOR,
    AreaFile,
    Bbox,
    Debug,
    From,
    Home,
    Json,
    Model,
    OffsetChoice,
    To,
    app,
    report_items,
    settings_of,
    working,
)


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
    report_items("Maps", maps, json)
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
    report_items("Maps", maps, json)
