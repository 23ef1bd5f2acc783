"""`ringmoe composite` as a person starts it: months of the sandbox, once; a worker killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from command_line import own_prefect, ringmoe, start

from catalog import sandbox
from catalog.ledger import Ledger
from catalog.mosaic import open_composites
from flows.publish import verify
from flows.refs import Where
from flows.settings import Settings

pytestmark = pytest.mark.xdist_group("composite")
INGEST = ("ingest", "--sensor", "sentinel-2", "--tile", "640")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registered sandbox, not yet ingested."""
    place = tmp_path_factory.mktemp("composite") / "home"
    sandbox.write(place / "sandbox", size_px=128)
    done = ringmoe(place, "register", str(place / "sandbox" / "products"))
    assert done.code == 0, done.said
    return place


def commands_under(pid: int) -> Iterator[tuple[int, str]]:
    """Processes that a process started, and those that they did; one that ends meanwhile is left out."""
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            yield process.pid, " ".join(process.cmdline())


def test_a_killed_worker_costs_the_unit_it_was_at(home: Path, tmp_path: Path) -> None:
    """SIGKILL to a Dask worker while it writes a cube: the same command goes on and makes every cube; one attempt at
    most is dead, no other unit was begun twice."""
    shutil.rmtree(home / "catalog", ignore_errors=True)  # cubes of the tests beside this one
    process = start(
        home, *INGEST, "--performance", str(tmp_path / "report.html"), log=tmp_path / "log", **own_prefect(home)
    )
    while not list(home.glob("catalog/cubes/*/attempt-1/cube.zarr")) and process.poll() is None:
        time.sleep(0.01)
    at_work = [pid for pid, words in commands_under(process.pid) if "spawn_main" in words]
    assert at_work
    os.kill(at_work[0], signal.SIGKILL)
    assert process.wait(timeout=900) == 0, (tmp_path / "log.err").read_text()
    ledger = Ledger(home / "catalog")
    cubes = list(ledger.items("cubes"))
    attempts = [len(list(path.parent.glob("attempt-*"))) for path, _ in cubes]
    assert sum(attempts) - len(cubes) == len(ledger.dead_attempts()) <= 1
    assert not ledger.failures()
    assert "bokeh" in (tmp_path / "report.html").read_text().lower()


def test_months_become_composites_once(home: Path) -> None:
    """A plan, then composites of every month with a scene, then nothing left to do; all published files hold."""
    if not list(home.glob("catalog/cubes/*/*.json")):
        assert ringmoe(home, *INGEST).code == 0
    words = ("composite", "--sensor", "sentinel-2", "--method", "medoid", "--every", "month")
    days = ("--from", "2025-04-01", "--to", "2025-08-31")
    planned = ringmoe(home, *words, *days, "--plan", "--json", str(home / "plan.json"))
    assert planned.code == 0, planned.said
    row = json.loads((home / "plan.json").read_text())[0]
    assert row["units"] > 0
    assert row["done"] == 0
    assert "2025-04-01/2025-04-30" in planned.out
    made = ringmoe(home, *words, *days, "--json", str(home / "made.json"))
    assert made.code == 0, made.said
    refs = json.loads((home / "made.json").read_text())
    assert [r["fresh"] for r in refs] == [True] * row["units"]
    again = ringmoe(home, *words, *days, "--json", str(home / "again.json"))
    assert [r["fresh"] for r in json.loads((home / "again.json").read_text())] == [False] * row["units"]
    assert again.code == 0
    where = Where.of(Settings(home=home))
    items = [json.loads(Path(r["href"]).read_text()) for r in refs]
    assert verify(where) >= 2 * len(items)
    ids = {item["id"] for _, item in Ledger(home / "catalog").items("cubes")}
    for item in items:
        sources = {link["title"] for link in item["links"] if link["rel"] == "derived_from"}
        assert sources
        assert sources <= ids
    crs = {item["properties"]["proj:code"] for item in items}
    west = min(item["bbox"][0] for item in items)
    box = (west, -80.0, west + 0.05, 84.0) if len(crs) > 1 else None
    opened = open_composites(home / "catalog", "sentinel-2", "medoid", box)
    assert opened.sizes["time"] >= 1
    assert float(opened["data"].notnull().mean()) > 0.2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "2001-01-01", "--to", "2001-02-01"), "no cube has a look"),
        (("--method", "mean"), "method"),
        (("--every", "fortnight"), "every"),
        (("--sensor", "nobody"), "there is no sensor"),
    ],
)
def test_what_cannot_be_composited_is_refused(home: Path, words: tuple[str, ...], said: str) -> None:
    """A period without cubes, a method, a part of the calendar or a sensor that does not exist: a clear refusal."""
    done = ringmoe(home, "composite", *words)
    assert done.code in (1, 2, 3)
    assert said in done.err
    assert "Traceback" not in done.said
