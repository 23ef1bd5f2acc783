"""What runs on a schedule: ingest what is new, map it with the latest model."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from prefect import flow

from catalog.errors import NothingFound
from flows import shelf
from flows.infer import infer
from flows.ingest import ingest
from flows.publish import publish
from flows.refs import Area, InferRequest, IngestRequest, Period, Where
from flows.settings import Settings


@flow(name="update")
def update(home: str, bbox: list[float], days: int = 30, sensor: str = "sentinel-2", last_day: str = "") -> str:
    """Ingest scenes of the last days over a box and map it with the latest pruned model; done units are only found.

    Parameters
    ----------
    home
        Folder of everything kept.
    bbox
        West, south, east, north in degrees.
    days
        How far back to look.
    last_day
        ISO date; empty means today.

    Returns
    -------
    str
        The path of the published catalog.json, or why there was nothing to do.
    """
    where = Where.of(Settings(home=Path(home)))
    end = dt.date.fromisoformat(last_day) if last_day else dt.datetime.now(dt.UTC).date()
    period = Period(start=end - dt.timedelta(days=days), end=end)
    area = Area.box(bbox, "the scheduled area")
    size = shelf.tile_m(where, sensor)
    try:
        cubes = ingest(IngestRequest(area=area, period=period, sensors=(sensor,), tile_m=size), where).cubes
    except NothingFound as nothing:
        return f"nothing new: {nothing.what}"
    infer(shelf.model(where, "prune", None), cubes, InferRequest(area=area, period=period, sensor=sensor), where)
    return str(publish(where))


def serve(settings: Settings, cron: str, bbox: list[float], days: int) -> None:
    """Keep running and update at each firing; ends with Ctrl-C.

    Parameters
    ----------
    cron
        Five fields, as in `0 3 * * *`, UTC.
    """
    update.serve(
        name="embedded",
        cron=cron,
        parameters={"home": str(settings.root), "bbox": bbox, "days": days},
        description="Ingest what is new and map it with the latest pruned model",
        limit=1,
    )
