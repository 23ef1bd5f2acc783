"""infra/prefect.yaml: every deployment can be deployed, with parameters its flow accepts and a schedule that fires."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow, load_flow_from_entrypoint

from flows.refs import CompositeRequest, IngestRequest, RunRequest, Where

ROOT = Path(__file__).resolve().parent.parent
FILE = "infra/prefect.yaml"
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    d["name"]: d for d in yaml.safe_load((ROOT / FILE).read_text())["deployments"]
}
SCHEDULED = {
    "mapping": "0 4 * * *",
    "season": "0 3 * * *",
    "weekly": "0 5 * * 0",
    "composites": "0 6 * * 0",
    "checksums": "0 2 * * *",
}


def flow_of(name: str) -> Flow[..., Any]:
    path, function = DEPLOYMENTS[name]["entrypoint"].split(":")
    return load_flow_from_entrypoint(f"{ROOT / path}:{function}", use_placeholder_flow=False)


def test_what_is_scheduled_and_what_is_not() -> None:
    """Mapping, ingest and checks run daily, learning and composites weekly, the whole house by hand."""
    found = {n: d["schedules"][0]["cron"] for n, d in DEPLOYMENTS.items() if d["schedules"]}
    assert found == SCHEDULED
    assert set(DEPLOYMENTS) - set(found) == {"whole"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_an_entrypoint_is_a_flow_that_takes_the_parameters(name: str) -> None:
    """The entrypoint leads from the repository to a flow, and what JSON leaves of its parameters validates."""
    parameters = json.loads(json.dumps(DEPLOYMENTS[name]["parameters"]))
    flow = flow_of(name)
    assert isinstance(flow, Flow)
    taken = flow.validate_parameters(parameters)
    assert set(parameters) <= set(taken)


def test_parameters_become_the_models_of_the_flows() -> None:
    """Nested parameters arrive as the pydantic models that the flows are written for, areas and periods included."""
    season = flow_of("season").validate_parameters(DEPLOYMENTS["season"]["parameters"])
    assert isinstance(season["request"], IngestRequest)
    assert isinstance(season["where"], Where)
    monthly = flow_of("composites").validate_parameters(DEPLOYMENTS["composites"]["parameters"])
    assert isinstance(monthly["request"], CompositeRequest)
    assert (monthly["request"].every, monthly["request"].sensors) == ("month", ("sentinel-2",))
    assert monthly["where"] == season["where"]
    whole = flow_of("whole").validate_parameters(DEPLOYMENTS["whole"]["parameters"])["request"]
    assert isinstance(whole, RunRequest)
    assert whole.adapt is not None
    assert whole.infer is not None
    assert whole.adapt.area != whole.infer.area


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_cron_schedule_has_a_next_time(name: str) -> None:
    """The schedule parses, and fires at the hour it names."""
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert ZoneInfo(schedule["timezone"])


def test_a_parameter_that_the_flow_does_not_know_is_refused() -> None:
    """A slip in the file is an error, not a silence."""
    slipped = DEPLOYMENTS["mapping"]["parameters"] | {"dayz": 3}
    with pytest.raises(Exception, match="dayz"):
        flow_of("mapping").validate_parameters(slipped)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server of this test alone, with everything in the file deployed; its API and what `prefect deploy` said."""
    folder = tmp_path_factory.mktemp("deployed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment = kept | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    prefect = [sys.executable, "-m", "prefect"]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
            env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    try:
        wait_for_answer(f"http://127.0.0.1:{port}/api/health", folder / "server.log")
        said = ""
        for command in (
            ["work-pool", "create", "ringmoe", "--type", "process"],
            ["--no-prompt", "deploy", "--all", "--prefect-file", FILE],
        ):
            done = subprocess.run(
                [*prefect, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
            )
            said += done.stdout + done.stderr
            assert done.returncode == 0, said[-3000:]
        yield f"http://127.0.0.1:{port}/api", said
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(url: str, log: Path) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"Prefect's server does not answer\n{log.read_text()[-2000:]}")


@pytest.mark.xdist_group("deployments")
def test_all_of_them_deploy(deployed: tuple[str, str]) -> None:
    """`prefect deploy --all` from the repository lists each with its flow, pool, entrypoint, schedule and folder."""
    api, said = deployed
    listed = {d["name"]: d for d in httpx.post(f"{api}/deployments/filter", json={}, timeout=120).json()}
    assert set(listed) == set(DEPLOYMENTS), said[-2000:]
    for name, wanted in DEPLOYMENTS.items():
        found = listed[name]
        assert found["work_pool_name"] == "ringmoe"
        assert found["entrypoint"] == wanted["entrypoint"]
        assert found["parameters"] == json.loads(json.dumps(wanted["parameters"]))
        assert [s["schedule"]["cron"] for s in found["schedules"]] == [s["cron"] for s in wanted["schedules"]]
        assert all(s["active"] and s["schedule"]["timezone"] == "UTC" for s in found["schedules"])
        assert found["global_concurrency_limit"]["limit"] == 1
        (step,) = found["pull_steps"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(ROOT)


@pytest.mark.xdist_group("deployments")
def test_scheduled_runs_are_created_and_at_the_hour_named(deployed: tuple[str, str]) -> None:
    """The server plans the next runs of each scheduled deployment, at its hour in UTC, and none of the manual one."""
    api, _ = deployed
    names = {d["id"]: d["name"] for d in httpx.post(f"{api}/deployments/filter", json={}, timeout=120).json()}
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    until, hours = time.monotonic() + 600, dict[str, set[int]]()
    while time.monotonic() < until and set(hours) != set(SCHEDULED):
        runs = httpx.post(f"{api}/flow_runs/filter", json=wanted, timeout=120).json()
        for run in runs:
            planned = dt.datetime.fromisoformat(run["expected_start_time"])
            hours.setdefault(names[run["deployment_id"]], set()).add(planned.astimezone(dt.UTC).hour)
        time.sleep(1)
    assert hours == {name: {int(cron.split()[1])} for name, cron in SCHEDULED.items()}
