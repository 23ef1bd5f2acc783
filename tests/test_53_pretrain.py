"""Cubes to a published checkpoint: pictures and a table beside it, killed and gone on with, on one process and two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import training_cubes
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from catalog.ledger import Ledger, file_digest
from flows import progress
from flows.learn import STATES, Plan, recipe
from flows.models import once, open_checkpoint
from flows.pretrain import draft, pretrain
from flows.ranks import alone_at
from flows.refs import PretrainRequest
from ringmoe import presets
from ringmoe.backbone import RingMoEConfig
from ringmoe.errors import ConfigError, TrainingError
from ringmoe.record import read

TINY = RingMoEConfig(
    16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=2, collaborative=2, embedding="spectral"
)
HERE = Path(__file__).resolve().parent


def asked(**more: Any) -> PretrainRequest:
    return PretrainRequest(**{"area": training_cubes.AREA, "steps": 6, "chips": 8} | more)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that learns in seconds, under the name of the smallest."""
    monkeypatch.setattr(presets, "nano", lambda pixels: TINY)


def files_of(item: dict[str, Any], ledger: Ledger) -> dict[str, Path]:
    folder = ledger.item_path("models", item["id"]).parent
    return {name: (folder / asset["href"]).resolve() for name, asset in item["assets"].items()}


@pytest.mark.usefixtures("tiny", "prefect_harness")
def test_cubes_become_a_checkpoint_with_pictures_and_a_table(
    tmp_path: Path, validate_offline: Callable[[Any], None]
) -> None:
    """The item is valid and names every file by its checksum; the curve, the guesses and the table are there and on
    Prefect's pages; states are gone, the record stays."""
    where, cubes = training_cubes.home(tmp_path)
    made = pretrain(cubes, asked(), where)
    ledger, run = Ledger(where.published), made.id.removeprefix("pretrain_")
    item = ledger.done("models", made.id)
    assert item is not None
    validate_offline(item)
    files = files_of(item, ledger)
    assert {"model", "config", "loss", "loss_picture", "reconstructions_picture", "evaluation"} == set(files)
    assert all(file_digest(path) == item["assets"][name]["file:checksum"] for name, path in files.items())
    assert len(json.loads(files["loss"].read_text())["loss"]) == 6
    with Image.open(files["reconstructions_picture"]) as picture:
        assert picture.size == (720, 500)
    rows = json.loads(files["evaluation"].read_text())["rows"]
    kinds = ("pretrained", "untrained", "image_statistics", "random_features")
    assert [(r["sensor"], r["features"]) for r in rows] == [(s, k) for s in ("sentinel-1", "sentinel-2") for k in kinds]
    assert all(r["linear"] > 0.8 for r in rows if r["features"] == "image_statistics")
    assert open_checkpoint(made).config == TINY
    assert [p.name for p in sorted((where.training / run).iterdir()) if p.name == STATES] == []
    assert [line["step"] for line in read(where.training / run)] == list(range(6))
    with get_client(sync_client=True) as client:
        keys = [f"{kind}-{run}" for kind in ("loss", "reconstructions", "evaluation")]
        shown = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=keys)))
    assert sorted({(a.type, a.key) for a in shown}) == [("image", keys[0]), ("image", keys[1]), ("table", keys[2])]


@pytest.mark.usefixtures("tiny")
def test_without_labels_the_table_says_so(tmp_path: Path) -> None:
    """No row, and the reason; the rest is as ever."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    ledger = Ledger(where.published)
    made = once(draft(cubes, asked(steps=2), where), ledger)
    table = json.loads(files_of(ledger.done("models", made.id) or {}, ledger)["evaluation"].read_text())
    assert table["rows"] == []
    assert table["note"] == "there are no labels"


LEARNS = """
import sys
import time
from pathlib import Path
import test_53_pretrain as here, training_cubes
from catalog.ledger import Ledger
from flows import progress
from flows.models import once
from flows.pretrain import draft
from flows.refs import ItemRef, Where
from ringmoe import presets
presets.nano = lambda pixels: here.TINY
where = Where.model_validate_json(Path(sys.argv[1]).read_text())
cubes = [ItemRef.model_validate_json(line) for line in Path(sys.argv[2]).read_text().splitlines()]
progress.watch(lambda step, done, *_: time.sleep(3600) if done >= 12 else None)  # killed before the end
once(draft(cubes, here.asked(steps=20), where), Ledger(where.published))
"""


@pytest.mark.usefixtures("tiny")
def test_a_killed_run_goes_on_and_publishes_the_same_bytes(tmp_path: Path) -> None:
    """Killed after a state was kept, the same unit takes no step before it again, and every file is that of a run
    that nobody disturbed."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    (tmp_path / "where.json").write_text(where.model_dump_json())
    (tmp_path / "cubes").write_text("\n".join(c.model_dump_json() for c in cubes))
    child = subprocess.Popen(
        [sys.executable, "-c", LEARNS, str(tmp_path / "where.json"), str(tmp_path / "cubes")],
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}"},
    )
    until = time.monotonic() + 600
    while not list(where.training.glob(f"*/{STATES}/step-?????????/state.json")) and time.monotonic() < until:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not list(where.published.glob("models/*/*.json"))
    ledger, unit = Ledger(where.published), draft(cubes, asked(steps=20), where)
    told: list[int] = []
    progress.watch(listen := lambda step, done, total, note: told.append(int(done)))
    made = once(unit, ledger)
    progress.unwatch(listen)
    assert told[0] > 2
    other = where.model_copy(update={"published": tmp_path / "other" / "catalog"})
    again = once(draft(cubes, asked(steps=20), other), Ledger(other.published))
    assert again.checksum == made.checksum
    one, two = (Ledger(w.published) for w in (where, other))
    files = [files_of(ledger.done("models", made.id) or {}, ledger) for ledger in (one, two)]
    assert {n: p.read_bytes() for n, p in files[0].items()} == {n: p.read_bytes() for n, p in files[1].items()}


def test_a_second_process_at_the_same_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    """States of two runs at once would mix; the spare folder is removed, the first one stays."""
    with alone_at(tmp_path / "run", tmp_path / "spare") as first:
        with alone_at(tmp_path / "run", tmp_path / "spare") as second:
            assert (first.name, second.name) == ("run", "spare")
        assert not second.exists()
    with alone_at(tmp_path / "run", tmp_path / "spare") as third:
        assert third.name == "run"


@pytest.mark.slow
def test_two_processes_make_a_checkpoint_too(tmp_path: Path) -> None:
    """Started by torchrun under the unit, experts spread over both, with the loss of every step told; a
    refusal comes back in its four parts."""
    where, cubes = training_cubes.home(tmp_path, threads=2)
    ledger = Ledger(where.published)
    large = {"experts": 2, "recompute": "activations", "moments": "8bit"}
    made = once(draft(cubes, asked(steps=3, processes=2, **large), where), ledger)
    found = open_checkpoint(made)
    assert found.config == presets.nano(64)
    assert len(read(where.training / made.id.removeprefix("pretrain_"))) == 3
    with pytest.raises(TrainingError, match="of each rank an even part") as caught:
        once(draft(cubes, asked(steps=3, processes=2, chips=6), where), ledger)
    assert caught.value.enough == "a multiple of 4"


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """SIGKILL to the one that started torchrun: within seconds no rank of the run is left."""
    where, cubes = training_cubes.home(tmp_path, threads=2)
    (tmp_path / "where.json").write_text(where.model_dump_json())
    (tmp_path / "cubes").write_text("\n".join(c.model_dump_json() for c in cubes))
    code = LEARNS.replace("steps=20", "steps=2000, processes=2")
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "where.json"), str(tmp_path / "cubes")],
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}"},
    )
    until = time.monotonic() + 180
    while not any(map(read, where.training.glob("*"))) and time.monotonic() < until:
        assert child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    until = time.monotonic() + 30
    while ranks_of(tmp_path) and time.monotonic() < until:
        time.sleep(0.2)
    assert ranks_of(tmp_path) == []


def ranks_of(folder: Path) -> list[int]:
    """Processes whose command line names a plan under a folder."""
    import psutil

    found = psutil.process_iter(["cmdline", "status"])
    return [
        p.pid
        for p in found
        if any(str(folder) in word and "plan.json" in word for word in p.info["cmdline"] or ())
        and p.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_a_preset_that_is_none_is_refused(tmp_path: Path) -> None:
    """The error lists those there are."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    with pytest.raises(ConfigError, match="there is no preset huge"):
        once(draft(cubes, asked(preset="huge"), where), Ledger(where.published))


def test_ranks_share_the_threads(tmp_path: Path) -> None:
    """Four threads are two for each of two ranks, and at least one for each of eight."""
    where, cubes = training_cubes.home(tmp_path, threads=4, labelled=False)
    plan = Plan(cubes=tuple(cubes), request=asked(), where=where, run="r", out=tmp_path / "a", kept=tmp_path / "b")
    assert [recipe(plan, ranks).threads for ranks in (1, 2, 8)] == [4, 2, 1]
