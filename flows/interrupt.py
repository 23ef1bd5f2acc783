"""Ctrl-C is for the run alone: the servers and workers it starts are spared, so that it can end them in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def spared() -> Iterator[None]:
    """Processes started within never see Ctrl-C, which a terminal sends to all of them; ours comes when this ends.

    A signal mask is inherited by threads and processes, also by those that they start later.
    """
    resource_tracker.ensure_running()  # whoever starts it first lifts the mask of its own thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def with_api() -> Iterator[None]:
    """Prefect's API answers before a flow asks it: an embedded one is a process of its own.

    Flows of an embedded one send no heartbeats: nobody watches for them, and each flow would wait up to a second at its
    end for the thread that sends them.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    embedded = PREFECT_API_URL.value() is None
    for last in (False, False, True):
        try:
            with spared(), get_client(sync_client=True):
                break
        except httpx.TimeoutException:  # it is up, and so busy that its first answer took 5 s
            if last or not embedded:
                raise
            from prefect.server.api.server import SubprocessASGIServer

            SubprocessASGIServer().stop()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if embedded else {}):
        yield
