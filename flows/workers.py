"""Dask workers of a run: a cluster by its address or a local one, and where to watch it."""

from __future__ import annotations

import logging
from typing import Any

import dask
from distributed import Client
from prefect.client.orchestration import get_client

from flows import progress
from flows.refs import Where


def runner(where: Where) -> Any:
    """Dask workers: a running cluster by its address, else a local one of one-threaded processes."""
    from prefect_dask import DaskTaskRunner

    report = str(where.performance_report) if where.performance_report else None
    if where.dask_address:
        return DaskTaskRunner(address=where.dask_address, performance_report_path=report)
    dask.config.set(
        {
            # The profiler's sys._current_frames can deadlock a worker (CPython gh-106883, seen on 3.11.7).
            "distributed.worker.profile.enabled": False,
            # A worker holds the one unit it is at: none that merely waits is blamed when it dies.
            "distributed.scheduler.worker-saturation": 1.0,
        }
    )
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": where.workers,
            "threads_per_worker": 1,
            "dashboard_address": "127.0.0.1:0",
            "silence_logs": logging.CRITICAL,
            "env": {"PREFECT_API_URL": _api_url(), "OMP_NUM_THREADS": "1"},
        },
        performance_report_path=report,
    )


def tell(client: Client) -> None:
    """Say how many workers there are and where Dask shows what they do, while they do it."""
    count = len(client.nthreads())
    progress.tell("workers", count, count, f"dashboard {client.dashboard_link}")


def _api_url() -> str:
    """The API of this run, the ephemeral one included, so that workers report to it."""
    with get_client(sync_client=True) as client:
        return str(client.api_url)
