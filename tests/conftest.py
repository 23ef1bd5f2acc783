"""What all tests share: no network, no telemetry, a temporary home for Prefect, validation against kept schemas."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, Finished, Run, own_prefect, ringmoe

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = Path(__file__).resolve().parent / "schemas"

PREFECT_HOME = Path(tempfile.mkdtemp(prefix="ringmoe-prefect-"))
os.environ["PREFECT_HOME"] = str(PREFECT_HOME)
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.pop("PREFECT_API_URL", None)
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, so each takes one
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one main job stay on one worker: another would only wait until the job is done."""
    for item in items:
        if "small_run" in getattr(item, "fixturenames", ()) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("main-job"))


def pytest_unconfigure() -> None:
    shutil.rmtree(PREFECT_HOME, ignore_errors=True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread of torch would only wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A connection of this process to anywhere but this machine is an error."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise OSError(f"a test tried to reach the network: {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1", "0.0.0.0", "") or host.startswith("127.")


@pytest.fixture(scope="session", autouse=True)
def no_heartbeats() -> Iterator[None]:
    """Flows send none, as in a run of its own: each would wait up to a second for the thread that does."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """Prefect's ephemeral API on a temporary database; once a session, entering takes seconds."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture(scope="session")
def schema_registry() -> Any:
    """`referencing.Registry` of every schema kept in tests/schemas and in pystac; anything else is an error."""
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT7

    def refuse(uri: str) -> Resource[Any]:
        raise LookupError(f"no schema kept for {uri}: add it to tests/schemas, or use a version that is there")

    kept = {published_at(path): json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("*.json"))}
    kept |= get_local_schema_cache()
    resources = [(uri, DRAFT7.create_resource(schema)) for uri, schema in kept.items()]
    return Registry(retrieve=refuse).with_resources(resources)  # type: ignore[call-arg]


def published_at(path: Path) -> str:
    """Address that a file of tests/schemas is published at."""
    name, version = path.stem.split("-v")
    if name == "projjson":
        return f"https://proj.org/schemas/v{version}/projjson.schema.json"
    return f"https://stac-extensions.github.io/{name}/v{version}/schema.json"


@pytest.fixture(scope="session")
def validate_offline(schema_registry: Any) -> Callable[[Any], None]:
    """Call with an item, collection or catalogue (pystac object, dict or path of a JSON file).

    Fails where the core of STAC 1.1.0 or a declared extension is not kept to, or where an extension's schema is not
    in tests/schemas.
    """
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import best_match

    def validate(thing: Any) -> None:
        document = as_document(thing)
        kind = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}[document["type"]]
        core = f"https://schemas.stacspec.org/v{document['stac_version']}/{kind}-spec/json-schema/{kind}.json"
        for uri in [core, *document.get("stac_extensions", [])]:
            schema = schema_registry.get_or_retrieve(uri).value.contents
            error = best_match(Draft7Validator(schema, registry=schema_registry).iter_errors(document))
            if error is not None:
                where = "/".join(str(part) for part in error.absolute_path) or "the document"
                pytest.fail(f"{document['id']} breaks {uri}\n  at {where}: {error.message[:500]}")

    return validate


def as_document(thing: Any) -> dict[str, Any]:
    """Plain JSON of a pystac object, a mapping or a file; tuples become lists on the way."""
    if isinstance(thing, str | Path):
        return json.loads(Path(thing).read_text())
    plain = thing if isinstance(thing, Mapping) else thing.to_dict(transform_hrefs=False)
    return json.loads(json.dumps(plain))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The main job, run once a session from its start to its end, whatever number of workers asks for it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers
    home, told = shared / "small-run", shared / "small-run.json"
    with open(shared / "small-run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            done = ringmoe(home, *SMALL, "--json", str(shared / "small-run-summary.json"), **own_prefect(home))
            told.write_text(json.dumps(dataclasses.asdict(done)))
    finished = Finished(**json.loads(told.read_text()))
    assert finished.code == 0, finished.said
    return Run(home, json.loads((shared / "small-run-summary.json").read_text()), finished)
