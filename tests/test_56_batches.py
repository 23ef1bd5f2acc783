"""Units onto a real Dask cluster: never more than a few outstanding, hung ones ended, a dead worker's repeated."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

import dask
import psutil
import pytest
from distributed import Client, KilledWorker
from prefect_dask.task_runners import PrefectDaskFuture

from catalog.ledger import Ledger
from flows import batches, progress, workers
from flows.refs import ItemRef, Where

pytestmark = pytest.mark.xdist_group("dask")
WORKERS = 2


@dataclass(frozen=True)
class Light:
    """A unit of work that is none: it returns its number, waits for ever, or ends its process, now or when asked."""

    number: int
    payload: bytes = b""
    kind: str = "returns"

    @property
    def item_id(self) -> str:
        """A name."""
        return f"unit-{self.number}"


class Deadly:
    """A result that ends the worker that is asked for it."""

    def __reduce__(self) -> str:
        os._exit(9)


def begun(log: str, number: int) -> int:
    """How often a unit was begun."""
    return [line.split()[0] for line in Path(log).read_text().splitlines()].count(str(number))


def work(number: int, payload: bytes, kind: str, log: str) -> int | Deadly:
    """What a worker does with one; which units were begun is written to a file."""
    import os

    if log:
        with open(log, "a") as out:
            out.write(f"{number} {os.getpid()}\n")
    if kind == "is lost" and begun(log, number) == 1:
        return Deadly()
    if kind in ("hangs", "is lost"):
        time.sleep(3600)
    if kind == "blamed once" and begun(log, number) == 1:
        raise KilledWorker(f"unit {number}", SimpleNamespace(address="elsewhere"), 1)  # type: ignore[arg-type]
    if kind == "raises":
        raise ValueError(f"unit {number}")
    if kind == "kills":
        os._exit(9)
    if kind == "dies once" and begun(log, number) == 1:
        os.kill(os.getpid(), 9)
    return number


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler that is a process of its own, with two workers under a nanny each."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file)]
    here = Path(__file__).parent
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    found["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "1"
    found["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"  # as in flows/workers.py
    scheduling = ["dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    working = ["dask_worker", "--nworkers", str(WORKERS), "--nthreads", "1", "--local-directory", str(folder)]
    scheduler, worker = (
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *words, *common], env=found, stderr=subprocess.DEVNULL
        )
        for name, *words in (scheduling, working)
    )
    try:
        with Client(scheduler_file=str(file), timeout=300, set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=300)
            address = client.scheduler.address
        yield address
    finally:
        for process in (worker, scheduler):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def client(cluster: str) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as found:
        found.wait_for_workers(WORKERS, timeout=300)
        yield found


def submitter(client: Client, log: str = "") -> Any:
    def submit(unit: Light) -> PrefectDaskFuture[Any]:
        future = client.submit(work, unit.number, unit.payload, unit.kind, log, pure=False)
        return PrefectDaskFuture(wrapped_future=future, task_run_id=uuid4())

    return submit


def until(true: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether something comes true; what is let go of here reaches client and scheduler a moment later."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        gc.collect()
        time.sleep(0.2)
    return true()


def tasks_of(client: Client) -> list[str]:
    """What the scheduler holds, and for whom."""

    def told(dask_scheduler: Any) -> list[str]:
        return [f"{task.key}: {task.state}, for {task.who_wants}" for task in dask_scheduler.tasks.values()]

    return list(client.run_on_scheduler(told))


def outstanding(client: Client, count: int, payload: int) -> tuple[int, int, float]:
    """Most units ever submitted and not ended, most units alive here, and MB grown over the second half."""
    process, begun, most, alive, half = psutil.Process(), 0, 0, 0, 0
    submit = submitter(client)

    def counted(unit: Light) -> PrefectDaskFuture[Any]:
        nonlocal begun
        begun += 1
        return submit(unit)

    seen = set()
    made: WeakValueDictionary[int, Light] = WeakValueDictionary()
    units = (made.setdefault(n, Light(n, os.urandom(payload))) for n in range(count))
    for ended, outcome in enumerate(batches.outcomes(units, counted, client)):
        if ended == count // 2:
            half = process.memory_info().rss
        if ended % (count // 10) == 0:
            gc.collect()
            alive = max(alive, len(made))
        most = max(most, begun - ended)
        assert outcome.error is None
        seen.add(outcome.result)
    assert seen == set(range(count))
    assert until(lambda: len(client.futures) <= 1), f"{len(client.futures)} futures are still held"
    return most, alive, (process.memory_info().rss - half) / 2**20


def test_many_units_are_never_more_than_a_few_at_once(client: Client) -> None:
    """Of 300 units three a thread are outstanding at most, and this process holds no more of them than those."""
    most, alive, _ = outstanding(client, 300, 1000)
    assert most <= batches.PER_THREAD * WORKERS
    assert alive <= most + 2  # the one that ended and the one about to be submitted


@pytest.mark.slow
def test_ten_thousand_units_take_no_more_memory(client: Client) -> None:
    """The same of 10,000 of 30 kB: of the 150 MB of the second half at most a tenth stays in this process."""
    most, alive, grown_mb = outstanding(client, 10_000, 30_000)
    assert most <= batches.PER_THREAD * WORKERS
    assert alive <= most + 2
    assert grown_mb < 15


def test_a_hung_unit_is_ended_and_holds_nobody_up(client: Client, tmp_path: Path) -> None:
    """Two of twenty never return: after their time they are given up by name, their workers come back, the others are
    done, and one that raises stays what it was."""
    units = [Light(n, kind={3: "hangs", 11: "hangs", 7: "raises"}.get(n, "returns")) for n in range(20)]
    ended = {o.unit.number: o for o in batches.outcomes(units, submitter(client), client, limit_s=4)}
    assert [n for n, o in sorted(ended.items()) if o.error is not None] == [3, 7, 11]
    for number in (3, 11):
        assert isinstance(ended[number].error, batches.UnitEnded)
        assert f"unit-{number}" in str(ended[number].error)
        assert "within 4 s" in str(ended[number].error)
    assert isinstance(ended[7].error, ValueError)
    client.wait_for_workers(WORKERS, timeout=300)
    assert until(lambda: not tasks_of(client)), tasks_of(client)


def test_units_of_a_killed_worker_are_repeated_and_no_others(client: Client, tmp_path: Path) -> None:
    """One worker dies by SIGKILL: what it was at is begun again, and what it had not yet handed over; all else once.

    Results that this process has not yet fetched lie on the worker and die with it: at most those of all units out.
    """
    log = tmp_path / "begun"
    units = [Light(n, kind="dies once" if n == 5 else "returns") for n in range(30)]
    ended = list(batches.outcomes(units, submitter(client, str(log)), client))
    assert sorted(o.result for o in ended) == list(range(30))
    begun = [(int(number), int(process)) for number, process in map(str.split, log.read_text().splitlines())]
    killed = next(process for number, process in begun if number == 5)
    again = Counter(number for number, _ in begun) - Counter(range(30))
    assert again[5] == 1
    assert set(again.values()) == {1}
    assert set(again) <= {number for number, process in begun if process == killed}
    assert len(again) <= batches.PER_THREAD * WORKERS


def test_a_result_lost_with_its_worker_is_made_again_within_the_same_limit(client: Client, tmp_path: Path) -> None:
    """The worker dies as its result is fetched, and the second attempt hangs: it is given up like any other."""
    units = [Light(n, kind="is lost" if n == 1 else "returns") for n in range(8)]
    log = tmp_path / "begun"
    ended = {o.unit.number: o for o in batches.outcomes(units, submitter(client, str(log)), client, limit_s=4)}
    assert begun(str(log), 1) == 2
    assert isinstance(ended[1].error, batches.UnitEnded)
    assert sorted(o.result for o in ended.values() if o.error is None) == [0, *range(2, 8)]
    client.wait_for_workers(WORKERS, timeout=300)


def test_a_unit_that_kills_every_worker_is_listed(client: Client) -> None:
    """After Dask's count of deaths it is given up with its reason; the others are done, those that waited behind it on
    the workers that it took down too; the scheduler holds none of them."""
    units = [Light(n, kind="kills" if n == 1 else "returns") for n in range(6)]
    ended = {o.unit.number: o for o in batches.outcomes(units, submitter(client), client)}
    assert isinstance(ended[1].error, batches.UnitEnded)
    assert "KilledWorker" in str(ended[1].error)
    assert sorted(o.result for o in ended.values() if o.error is None) == [0, 2, 3, 4, 5]
    assert until(lambda: not tasks_of(client)), tasks_of(client)


def test_a_unit_that_was_blamed_for_another_is_tried_alone(client: Client, tmp_path: Path) -> None:
    """What Dask gave up because it waited where another unit ended the worker is begun once more, after all others."""
    log = tmp_path / "begun"
    units = [Light(n, kind="blamed once" if n in (2, 4) else "returns") for n in range(8)]
    ended = [o.result for o in batches.outcomes(units, submitter(client, str(log)), client)]
    assert sorted(ended) == list(range(8))
    assert [line.split()[0] for line in log.read_text().splitlines()][-2:] == [str(n) for n in ended[-2:]]
    assert set(ended[-2:]) == {2, 4}


def slow_task() -> Any:
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    @task(cache_policy=NO_CACHE)
    def make_one(unit: Any, published: Path) -> Any:

        from flows.refs import ItemRef

        time.sleep(3600 if unit.kind == "hangs" else 0)
        payer = os.environ.get("AWS_REQUEST_PAYER", "")
        return ItemRef(collection="cubes", id=unit.item_id, href=payer, asset="", checksum="", fresh=True)

    return make_one


def test_a_cluster_elsewhere_reads_as_this_process_does(
    cluster: str, tmp_path: Path, prefect_harness: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What says how files on the web are opened reaches workers that began before it was said."""
    from prefect import flow

    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    where = Where(scenes=tmp_path, published=tmp_path / "catalog", workers=2, dask_address=cluster)

    @flow
    def both() -> list[ItemRef]:
        return batches.make([Light(0), Light(1)], batches.Step("ingest", "cubes", slow_task(), 2), where)

    assert [made.href for made in both()] == ["requester", "requester"]


@pytest.mark.parametrize("by_address", [True, False])
def test_a_flow_ends_what_hangs_and_records_it(
    by_address: bool, cluster: str, tmp_path: Path, prefect_harness: None
) -> None:
    """Through Prefect, on a cluster by its address and on one of its own: one unit hangs, its record says how long it
    took, the others are made; the dashboard is told and answers, and Dask's report is written."""
    import httpx
    from prefect import flow

    where = Where(
        scenes=tmp_path, published=tmp_path / "catalog", workers=2, unit_seconds=10,
        dask_address=cluster if by_address else None, performance_report=tmp_path / "report.html",
    )  # fmt: skip
    told: list[str] = []
    answered: list[int] = []

    def watcher(step: str, done: float, total: float, note: str) -> None:
        if step == "workers":
            told.append(note)
            answered.append(httpx.get(note.split()[-1], timeout=120).status_code)

    units = [Light(n, kind="hangs" if n == 2 else "returns") for n in range(6)]

    @flow
    def all_of_them() -> list[ItemRef]:
        return batches.make(units, batches.Step("ingest", "cubes", slow_task(), len(units)), where)

    progress.watch(watcher)
    try:
        with pytest.raises(batches.UnitEnded, match="unit-2"):
            all_of_them()
    finally:
        progress.unwatch(watcher)
    assert [f["unit"] for f in Ledger(where.published).failures()] == ["unit-2"]
    assert "at work for" in Ledger(where.published).failures()[0]["reason"]
    assert len(told) == 1
    assert answered == [200]
    assert "bokeh" in (tmp_path / "report.html").read_text().lower()


def test_local_workers_go_without_the_profiler_that_deadlocks_them(tmp_path: Path, prefect_harness: None) -> None:
    """A local worker's own configuration has it off, and it holds no unit beside the one it is at."""
    from prefect import flow

    where = Where(scenes=tmp_path, published=tmp_path, workers=1)

    @flow
    def asked() -> Any:
        with workers.runner(where) as runner:
            names = ("distributed.worker.profile.enabled", "distributed.scheduler.worker-saturation")
            return runner.client.run(lambda: [dask.config.get(name) for name in names])

    assert list(asked().values()) == [[False, 1.0]]
