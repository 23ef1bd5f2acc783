"""From cubes and a model to maps: `infer`, `map`, `publish`."""

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
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ID", help="Item id, or nano. [default: pruned, adapted, an encoder]"),
    ] = None,
    features: Annotated[bool, typer.Option("--features", help="Map what the encoder sees, not classes.")] = False,
    components: Annotated[int, typer.Option(min=1, max=256, help="Bands of a feature map.")] = 16,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Map the cubes of an area: classes with a model that was adapted, else what an encoder sees.

    Without a model of your own that is the encoder that comes with the package; `ringmoe adapt` makes one of your
    labels.
    """
    settings = settings_of(home)
    from flows import asking, shelf
    from flows.infer import infer as flow
    from flows.models import has_head
    from flows.refs import InferRequest

    place = asking.area_of(settings, bbox, area)
    request = InferRequest(
        area=place,
        period=asking.period_of(settings, start, end),
        sensor=sensor,
        features=features,
        components=components,
    )
    with working(settings):
        where = asking.where(settings)
        cubes = shelf.cubes(where, place)
        chosen = shelf.mapper(where, model, features=features)
        maps = flow(chosen, cubes, request, where)
    if not features and not has_head(chosen):
        terminal.say(f"No adapted model here: these are feature maps by {chosen.id}, not classes (`ringmoe adapt`).")
    report_items("Maps", maps, json)


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
