"""Units of work onto Dask workers: a bounded number at a time, each ended when it takes too long."""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from distributed import Client, KilledWorker
from prefect_dask.task_runners import PrefectDaskFuture

from catalog.errors import CatalogError
from catalog.ledger import Ledger
from catalog.read import settings
from flows import progress, workers
from flows.interrupt import spared
from flows.refs import ItemRef, Where

PER_THREAD = 3
"""Units submitted per thread of the workers: one at work, the others on their way to it."""

TICK_S = 5.0
"""How often units are held against their time limit."""

KILL_S = 30.0
"""How long a worker may take to end and to come back."""


class UnitEnded(CatalogError):
    """A unit of work took longer than it may, or took its workers down with it, and was ended."""


class _Died(UnitEnded):
    """Every worker that held the unit died."""


class Named(Protocol):
    """Whatever is known by the item it will become."""

    @property
    def item_id(self) -> str:
        """Id of the item."""


U = TypeVar("U", bound=Named)


@dataclass(frozen=True)
class Outcome(Generic[U]):
    """How a unit ended."""

    unit: U
    """The unit."""
    result: Any
    """What it returned; None where it failed."""
    error: BaseException | None
    """Why it failed."""


@dataclass(frozen=True)
class Step:
    """What units have in common."""

    name: str
    """As in ingest, composite: what records of failures and progress call it."""
    noun: str
    """What a unit makes, plural."""
    task: Any
    """Prefect task of a unit and the folder of published items; returns an ItemRef."""
    total: int
    """Units in all, those done before included."""


def make(pending: Sequence[U], step: Step, where: Where) -> list[ItemRef]:
    """Make units on Dask workers; one that fails or hangs does not stop the others.

    Raises
    ------
    CatalogError
        Naming every unit that failed, after all others are done.
    """
    made: list[ItemRef] = []
    failed: list[BaseException] = []
    with ExitStack() as stack:
        with spared():
            runner = stack.enter_context(workers.runner(where))
            client = runner.client  # the cluster starts when it is first asked for
        settings.carry(client)
        workers.tell(client)

        def submit(unit: U) -> PrefectDaskFuture[Any]:
            future: PrefectDaskFuture[Any] = runner.submit(
                step.task, parameters={"unit": unit, "published": where.published}
            )
            return future

        for count, outcome in enumerate(outcomes(pending, submit, client, where.unit_seconds), start=1):
            if outcome.error is None:
                made.append(outcome.result)
            else:
                failed.append(outcome.error)
            if isinstance(outcome.error, UnitEnded):  # what was ended could not leave a record itself
                Ledger(Path(where.published)).fail(outcome.unit.item_id, step.name, str(outcome.error))
            progress.tell(step.name, step.total - len(pending) + count, step.total, outcome.unit.item_id)
    if failed:
        raise _summary(failed, len(made), step.noun)
    return made


def outcomes(
    units: Iterable[U], submit: Callable[[U], PrefectDaskFuture[Any]], client: Client, limit_s: float | None = None
) -> Iterator[Outcome[U]]:
    """How each unit ended, in the order in which they do; as one ends, the next is submitted.

    At most PER_THREAD units for each thread of the cluster, as it is now, are submitted and not yet ended: neither the
    scheduler nor this process holds more of them, however many there are.

    Dask blames a worker's death on every unit that the worker held, and gives up one that was blamed often. Such units
    are therefore tried again at the end, one at a time and nothing beside them: who is blamed then is to blame.

    Parameters
    ----------
    submit
        Hands a unit to the cluster of `client`.
    limit_s
        Seconds that a unit may be at work, its waiting not counted; beyond them it is given up and its worker process
        is ended and started anew, for code that waits in a system call cannot be interrupted. None is no limit.
    """
    waiting, done = iter(units), queue.SimpleQueue[Any]()
    blamed: deque[U] = deque()
    running: dict[Any, tuple[U, PrefectDaskFuture[Any]]] = {}
    tick = TICK_S if limit_s is None else min(TICK_S, max(0.2, limit_s / 4))
    checked, width = time.monotonic(), _width(client)
    alone = False
    while True:
        begun = list(islice(waiting, max(0, width - len(running))))
        if not begun and not running:
            alone = True
            begun = [blamed.popleft()] if blamed else []
        for unit in begun:
            future = submit(unit)
            running[future.wrapped_future.key] = unit, future
            future.add_done_callback(done.put)
        if not running:
            return
        try:
            key = done.get(timeout=tick).wrapped_future.key
            if key in running:  # else it was given up before
                outcome = _outcome(*running[key], tick)
                if outcome is None:
                    running[key][1].add_done_callback(done.put)
                else:
                    del running[key]
                    if isinstance(outcome.error, _Died) and not alone:
                        blamed.append(outcome.unit)
                    else:
                        yield outcome
        except queue.Empty:
            pass
        if time.monotonic() - checked > tick:
            yield from _give_up(client, running, limit_s)
            checked, width = time.monotonic(), _width(client)


def _width(client: Client) -> int:
    """How many units the cluster may hold now; of a cluster without workers, enough to make it grow."""
    return PER_THREAD * max(1, sum(client.nthreads().values()))


def _outcome(unit: U, future: PrefectDaskFuture[Any], patience_s: float) -> Outcome[U] | None:
    """How a unit ended; None where its worker died with the result, so that Dask has it made again."""
    try:
        result: Any = future.result(timeout=patience_s, raise_on_failure=False)
    except Exception as raised:
        error = raised.with_traceback(None)  # its frames would keep the future, and so the unit on the scheduler
        if isinstance(error, TimeoutError) and future.wrapped_future.status != "error":  # not of the unit's own code
            return None
        if isinstance(error, KilledWorker):
            error = _Died(
                f"every worker that tried this unit died ({type(error).__name__})",
                item=unit.item_id,
                enough="workers with more memory, or a unit that does not crash them",
                todo="give workers more memory or make smaller tiles, then run the same command again",
            )
        return Outcome(unit, None, error)
    failed = isinstance(result, BaseException)
    return Outcome(unit, None if failed else result, result if failed else None)


def _give_up(
    client: Client, running: dict[Any, tuple[U, PrefectDaskFuture[Any]]], limit_s: float | None
) -> Iterator[Outcome[U]]:
    """End units that are over their time and the workers they hold."""
    if limit_s is None:
        return
    late = {key: found for key, found in _overdue(client, limit_s).items() if key in running}
    if not late:
        return
    given_up = {key: running.pop(key) for key in late}
    for _, future in given_up.values():
        future.wrapped_future.cancel()
    client.restart_workers([address for address, _ in late.values()], timeout=KILL_S, raise_for_error=False)
    for key, (unit, _) in given_up.items():
        address, seconds = late[key]
        error = UnitEnded(
            f"the unit was at work for {seconds:.0f} s and was ended",
            item=f"{unit.item_id}, on {address}",
            enough=f"an end within {limit_s:.0f} s",
            todo="see whether the server of its scenes answers, or allow more time (--unit-seconds); then run the same "
            "command again",
        )
        yield Outcome(unit, None, error)


def _overdue(client: Client, limit_s: float) -> dict[Any, tuple[str, float]]:
    """Keys at work for longer than a limit, each with its worker's address and seconds.

    The scheduler is asked, which hears them with each heartbeat: a worker that hangs would not answer.
    """

    def late(dask_scheduler: Any) -> dict[Any, tuple[str, float]]:  # nested, so that it travels by value
        import time

        now = time.time()
        return {
            task.key: (worker.address, seconds + max(0.0, now - worker.last_seen))
            for worker in dask_scheduler.workers.values()
            for task, seconds in worker.executing.items()
            if task in worker.processing and seconds + max(0.0, now - worker.last_seen) > limit_s
        }

    found: dict[Any, tuple[str, float]] = client.run_on_scheduler(late)
    return found


def _summary(failed: Sequence[BaseException], made: int, noun: str) -> BaseException:
    """One error for all that failed: the first that is none of ours, the only one, or every cause once."""
    refusals = [error for error in failed if isinstance(error, CatalogError)]
    if len(refusals) < len(failed):
        return next(error for error in failed if not isinstance(error, CatalogError))
    if len(refusals) == 1:
        return refusals[0]
    causes = Counter(f"{error.item}: {error.what}" for error in refusals)
    kinds = {type(error) for error in refusals}
    todo = "; ".join(dict.fromkeys(error.todo for error in refusals))
    return (kinds.pop() if len(kinds) == 1 else CatalogError)(
        f"{len(refusals)} {noun} could not be made",
        item="; ".join(f"{cause} ({count} of them)" for cause, count in causes.items()),
        enough="; ".join(dict.fromkeys(error.enough for error in refusals)),
        todo=f"{todo}; then run the same command again: {made} {noun} made now are kept",
    )
