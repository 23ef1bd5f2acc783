"""`ringmoe serve`: a schedule that really fires on one machine, maps what there is, and leaves nothing running."""

from __future__ import annotations

import datetime as dt
import json
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Run, copy_of, start

from flows.schedule import months

EAST = "12.03,46.956,12.06,46.978"
FIRST_SCENE = dt.date(2025, 5, 1)
SOONER = {"PREFECT_RUNNER_POLL_FREQUENCY": "3", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}


def test_a_rolling_period_is_of_whole_months() -> None:
    """The period, which names maps, is the same on each day of a month, and holds the days asked for."""
    assert str(months(dt.date(2025, 3, 1), 30)) == "2025-01-01/2025-03-31"
    assert months(dt.date(2025, 3, 3), 30) == months(dt.date(2025, 3, 30), 30 + 27 - 1)
    assert {str(months(dt.date(2024, 2, day), 0)) for day in range(1, 30)} == {"2024-02-01/2024-02-29"}
    for days in (0, 30, 400):
        found = months(dt.date(2025, 12, 31), days)
        assert found.start <= dt.date(2025, 12, 31) - dt.timedelta(days=days)
        assert found.end == dt.date(2025, 12, 31)


@pytest.mark.slow
def test_a_served_schedule_fires_and_maps(small_run: Run, tmp_path: Path) -> None:
    """Without any server, the next full minute makes a cube of the period and a map, and publishes both; Ctrl-C ends
    it with the server that it started."""
    home = copy_of(small_run.home, tmp_path / "home")
    before = {p.name for p in maps(home)}
    days = str((dt.datetime.now(dt.UTC).date() - FIRST_SCENE).days)
    words = ("serve", "--cron", "* * * * *", "--days", days, "--bbox", EAST)
    process = start(home, *words, log=tmp_path / "serve", **SOONER)
    try:
        wait_for(lambda: linked(home) - before, 240, tmp_path / "serve.err")
        port = int(re.findall(r"http://127\.0\.0\.1:(\d+)", (home / "prefect" / "server.log").read_text())[0])
        assert answers(port)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert not answers(port)
    finally:
        process.kill()
    for name in linked(home) - before:
        item = json.loads((home / "catalog" / "maps" / name / f"{name}.json").read_text())
        assert item["properties"]["start_datetime"] < "2025-08-01"  # looks that the main job's map did not use
        assert sum(item["properties"]["ringmoe:area_ha"].values()) > 0
        assert item["properties"]["ringmoe:model"].startswith("prune_")


def maps(home: Path) -> list[Path]:
    return [p for p in (home / "catalog" / "maps").iterdir() if p.is_dir()]


def linked(home: Path) -> set[str]:
    """Ids of the maps that the published catalogue links to."""
    links = json.loads((home / "catalog" / "maps" / "collection.json").read_text())["links"]
    return {Path(link["href"]).stem for link in links if link["rel"] == "item"}


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(happens: Callable[[], object], seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if happens():
            return
        time.sleep(1)
    pytest.fail(f"not within {seconds:.0f} s\n{log.read_text()[-3000:]}")
