"""What a clean `pip check` does not catch: a flow that cannot run at all, a schedule that never fires."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)

from flows.interrupt import with_api

SERVED = """
from prefect import flow

@flow
def heartbeat() -> int:
    return 42

if __name__ == "__main__":
    heartbeat.serve(name="each-minute", cron="* * * * *", pause_on_shutdown=False)
"""


def test_a_flow_runs_on_the_ephemeral_api(prefect_harness: None) -> None:
    """A flow with a task runs to Completed on Prefect's own API, started for it (a newer fastapi breaks this)."""
    from prefect import flow, task

    @task
    def double(number: int) -> int:
        return 2 * number

    @flow
    def smoke(number: int) -> int:
        return double(number)

    state = smoke(21, return_state=True)
    assert state.is_completed()
    assert state.result() == 42


def test_a_cron_deployment_fires(tmp_path: Path) -> None:
    """A served cron schedule has a scheduled run Completed, within two minutes where nothing else runs (a newer
    SQLAlchemy never creates it)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    script = tmp_path / "served.py"
    script.write_text(SERVED)
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/prefect.db",
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with running(server, environment, tmp_path / "server.log") as started:
        wait_for(lambda: answers(f"{api}/health"), 300, "Prefect's server answers", started)
        with running([sys.executable, str(script)], environment, tmp_path / "served.log") as serving:
            wait_for(lambda: scheduled_and_completed(api), 600, "a scheduled run is Completed", serving)


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[Path]:
    """A process and its children for as long as the block lasts; its output goes to `log`."""
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield log
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to stop, then end the group that it leads."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=15)


def wait_for(happens: Callable[[], bool], seconds: float, what: str, log: Path) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if happens():
            return
        time.sleep(1)
    pytest.fail(f"not within {seconds:.0f} s: {what}\n{log.read_text()[-3000:]}")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def scheduled_and_completed(api: str) -> bool:
    """Whether a run that the scheduler made, not a person, has ended as it should."""
    wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    try:
        answer = httpx.post(f"{api}/flow_runs/filter", json=wanted, timeout=60)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and any(run["auto_scheduled"] for run in answer.json())


def test_an_api_that_is_slow_to_answer_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice no answer in time, then one; a third time is an error, and a team's server is not started by us at all."""
    tried: list[bool] = []
    ended: list[bool] = []
    monkeypatch.setattr("prefect.server.api.server.SubprocessASGIServer.stop", lambda self: ended.append(True))

    def slow(until: int) -> Callable[..., Any]:
        def get_client(**_: bool) -> nullcontext[None]:
            tried.append(True)
            if len(tried) <= until:
                raise httpx.ReadTimeout("no answer")
            return nullcontext()

        return get_client

    for api, until, tries in ((None, 2, 3), (None, 9, 3), ("http://127.0.0.1:4200/api", 1, 1)):
        tried.clear()
        ended.clear()
        monkeypatch.setattr("prefect.client.orchestration.get_client", slow(until))
        ends = pytest.raises(httpx.ReadTimeout) if until >= tries else nullcontext()
        with temporary_settings({PREFECT_API_URL: api}), ends, with_api():
            pass
        assert len(tried) == tries
        assert len(ended) == tries - 1  # the slow one, before another is started


@pytest.mark.parametrize(("api", "wanted"), [(None, None), ("http://127.0.0.1:4200/api", 180)])
def test_heartbeats_are_for_a_server_that_somebody_watches(
    api: str | None, wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flows of a run's own API send none; those of a team's server do, wherever Prefect was told its address."""
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda **_: nullcontext())
    with temporary_settings({PREFECT_API_URL: api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 180}):
        with with_api():
            assert get_current_settings().flows.heartbeat_frequency == wanted
        assert get_current_settings().flows.heartbeat_frequency == 180
