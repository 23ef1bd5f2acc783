"""What runs on a schedule: ingest what is new, map it with the latest model, learn again, check what is kept."""

from __future__ import annotations

import calendar
import datetime as dt
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow
from prefect import serve as serve_deployments
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL, temporary_settings

from catalog.errors import NothingFound, ServiceError
from catalog.serve import listens
from flows import shelf
from flows.infer import infer
from flows.ingest import ingest
from flows.pretrain import pretrain
from flows.publish import publish
from flows.refs import Area, InferRequest, IngestRequest, Period, PretrainRequest, Where
from flows.settings import Settings

SERVER_SECONDS = 120.0
"""How long Prefect's server may take to answer; a new database takes about 15 s on two quiet cores."""


def months(last: dt.date, days: int) -> Period:
    """The calendar months that hold the `days` days up to `last`.

    Whole months, because the period is part of what names a map: a window that moved each day would make the same map
    again each day.
    """
    first = (last - dt.timedelta(days=days)).replace(day=1)
    return Period(start=first, end=last.replace(day=calendar.monthrange(last.year, last.month)[1]))


@flow(name="update")
def update(home: str, bbox: list[float], days: int = 30, sensor: str = "sentinel-2", last_day: str = "") -> str:
    """Ingest scenes of the last months over a box and map it with the latest pruned model; done units are only found.

    Parameters
    ----------
    home
        Folder of everything kept.
    bbox
        West, south, east, north in degrees.
    days
        How far back to look, rounded up to whole months.
    last_day
        ISO date; empty means today.

    Returns
    -------
    str
        The path of the published catalog.json, or why there was nothing to do.

    Raises
    ------
    NothingFound
        When there are scenes but no pruned model.
    """
    where = Where.of(Settings(home=Path(home)))
    period = months(dt.date.fromisoformat(last_day) if last_day else dt.datetime.now(dt.UTC).date(), days)
    area = Area.box(bbox, "the scheduled area")
    size = shelf.tile_m(where, sensor)
    try:
        cubes = ingest(
            IngestRequest(area=area, period=period, sensors=(sensor,), tile_m=size, every="month"), where
        ).cubes
    except NothingFound as nothing:
        return f"nothing new: {nothing.what}"
    infer(shelf.model(where, "prune", None), cubes, InferRequest(area=area, period=period, sensor=sensor), where)
    return str(publish(where))


@flow(name="relearn")
def relearn(home: str, bbox: list[float], preset: str = "nano", steps: int = 120, seed: int = 0) -> str:
    """Pre-train on all cubes that a box has by now; the id of the model, found again where no cube is new.

    Raises
    ------
    NothingFound
        When no cube touches the box.
    """
    where = Where.of(Settings(home=Path(home)))
    area = Area.box(bbox, "the scheduled area")
    request = PretrainRequest(area=area, preset=preset, steps=steps, seed=seed)
    return pretrain(shelf.cubes(where, area), request, where).id


@flow(name="check")
def check(home: str) -> str:
    """Hold everything published against its checksums and rebuild the links; the path of catalog.json.

    Raises
    ------
    LedgerError
        Naming the first asset that is missing or changed.
    """
    return str(publish(Where.of(Settings(home=Path(home)))))


def serve(settings: Settings, cron: str, bbox: list[float], days: int) -> None:
    """Keep running and update at each firing; ends with Ctrl-C.

    Parameters
    ----------
    cron
        Five fields, as in `0 3 * * *`, UTC.

    Raises
    ------
    ServiceError
        When Prefect's server cannot be started.
    """
    with server(settings.root / "prefect") as api, temporary_settings({PREFECT_API_URL: api}):
        # as a deployment, not by `update.serve`: that hands the flow on pickled, and nested flows do not survive it
        deployed: Any = update.to_deployment(
            "embedded",
            cron=cron,
            parameters={"home": str(settings.root), "bbox": bbox, "days": days},
            description="Ingest what is new and map it with the latest pruned model",
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        serve_deployments(deployed, limit=1, print_starting_message=False)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of Prefect's API: the one the environment names, else a server that ends with the block.

    The ephemeral API runs flows but fires no schedule, so that serving needs a whole server. It keeps to 127.0.0.1.

    Parameters
    ----------
    folder
        Where its log goes.
    """
    if named := PREFECT_API_URL.value():
        yield str(named)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    with log.open("w") as sink:
        # a session of its own: Ctrl-C must reach it after the flows have said goodbye to it
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(port, process, log)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    api = f"http://127.0.0.1:{port}/api"
    until = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=2):
                if listens(process, port):
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise ServiceError(
        "Prefect's server does not answer",
        item=api,
        enough=f"an answer within {SERVER_SECONDS:.0f} s",
        todo=f"see {log}, or start a server yourself and name it in PREFECT_API_URL",
    )
