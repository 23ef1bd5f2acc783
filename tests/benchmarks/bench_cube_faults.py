"""Kills: eight writers make the cubes of a small Earth while one after another is killed at random moments.

The cubes must end as those of an uninterrupted run, by checksum, and a kill may cost the one unit its writer was at.
Then a server answers searches and files with 429, 5xx, dropped and cut connections, slowly and truncated: no item may
be lost, and each refusal is listed with its reason.

    python tests/benchmarks/bench_cube_faults.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import server_faults
from odc.geo.geom import box

from catalog import ingest, sandbox
from catalog.ledger import Ledger
from catalog.register import load, register
from catalog.scene import Scene
from catalog.units import Unit, plan

WRITERS = 8
FORK = multiprocessing.get_context("fork")


def units_of(folder: Path, size_px: int, tile_m: float) -> tuple[Unit, ...]:
    """Every cube of a sandbox that is registered under a folder."""
    sandbox.write(folder / "sandbox", size_px=size_px)
    register(folder / "sandbox" / "products", folder / "scenes")
    scenes = [Scene.from_item(item) for item in load(folder / "scenes")]
    return plan(scenes, box(-180, -80, 180, 84, "EPSG:4326"), "2025", tile_m=tile_m)


def _write(units: tuple[Unit, ...], number: int, root: Path, started: Path) -> None:
    import dask

    ledger = Ledger(root)
    unit = units[number]
    if ledger.done("cubes", unit.item_id) is None:
        with started.open("a") as log:
            log.write(f"{number}\n")
    with dask.config.set(scheduler="synchronous"):
        ingest.ingest(unit, ledger)


def run(units: tuple[Unit, ...], root: Path, kills: int, chance: random.Random) -> dict[str, int]:
    """Make all units, `kills` times killing a writer; returns what it took."""
    root.mkdir(parents=True)
    started, todo = root / "started", list(range(len(units)))
    chance.shuffle(todo)
    at_work: dict[int, BaseProcess] = {}
    killed = failed = 0
    next_kill = time.monotonic()
    while todo or at_work:
        while todo and len(at_work) < WRITERS:
            number = todo.pop()
            process = FORK.Process(target=_write, args=(units, number, root, started))
            process.start()
            at_work[number] = process
        if killed < kills and time.monotonic() >= next_kill:
            victim = chance.choice(sorted(at_work))
            pid = at_work[victim].pid
            if pid is not None and at_work[victim].is_alive():
                os.kill(pid, signal.SIGKILL)
                killed += 1
            next_kill = time.monotonic() + chance.uniform(0.0, 0.25)
        for number, process in list(at_work.items()):
            if not process.is_alive():
                process.join()
                del at_work[number]
                if process.exitcode == -signal.SIGKILL:
                    todo.insert(chance.randrange(len(todo) + 1), number)
                elif process.exitcode:
                    failed += 1
        time.sleep(0.005)
    begun = [int(line) for line in started.read_text().split()]
    return {"kills": killed, "failed": failed, "begun": len(begun), "repeated": len(begun) - len(set(begun))}


def checksums(root: Path) -> dict[str, str]:
    """Id of every finished cube to the checksum of its store."""
    return {item["id"]: item["assets"]["cube"]["file:checksum"] for _, item in Ledger(root).items("cubes")}


def measure(size_px: int, tile_m: float, kills: int, faults: int) -> dict[str, Any]:
    """All figures, as one JSON-able mapping."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        units = units_of(folder, size_px, tile_m)
        calm = run(units, folder / "calm", 0, random.Random(1))
        empty = calm["failed"]  # tiles at the rim that no valid pixel reaches, which is an error by intent
        units = tuple(u for u in units if Ledger(folder / "calm").done("cubes", u.item_id))
        storm = run(units, folder / "storm", kills, random.Random(2))
        wanted, found = checksums(folder / "calm"), checksums(folder / "storm")
        dead = len(Ledger(folder / "storm").dead_attempts())
        swept = len(Ledger(folder / "storm").sweep())
        shutil.rmtree(folder / "storm")
        served = server_faults.measure(folder / "scenes", folder / "sandbox" / "products", faults)
    return {
        "name": "cube_faults",
        "ratio": storm["begun"] / len(units),
        "units": len(units),
        "kills": storm["kills"],
        "lost": len(wanted.keys() - found.keys()),
        "identical": wanted == found,
        "units_repeated_per_kill": storm["repeated"] / max(storm["kills"], 1),
        "failed": storm["failed"],
        "empty": empty,
        "dead_attempts": dead,
        "swept": swept,
        **served,
        "writers": WRITERS,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def main() -> None:
    """Print the figures, the last line one JSON object."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--quick", action="store_true", help="ten kills, forty faults of a server")
    quick = asked.parse_args().quick
    print(json.dumps(measure(64, 320.0, 10, 40) if quick else measure(160, 320.0, 100, 400)))


if __name__ == "__main__":
    main()
