"""A stopped run goes on to the very bits; the last good state is whole at any moment; nothing is pickled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ringmoe import training_state
from ringmoe.errors import CheckpointError, TrainingError
from ringmoe.history import History
from ringmoe.loop import TrainConfig, fit
from ringmoe.training_state import RECORD, Keeper, latest, restore, save


def run(folder: Path | None, moments: str, batches: int = 12) -> tuple[History, nn.Module]:
    """Twelve steps on batches that depend on the step, with noise in the loss; fewer batches stop it early."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8), nn.BatchNorm1d(8))

    def stream(start: int = 0) -> list[Tensor]:
        return [torch.randn(16, 64, generator=torch.Generator().manual_seed(i)) for i in range(start, batches)]

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (module(batch + 0.1 * torch.randn_like(batch)) - 1).square().mean()
        return loss, {"square": loss}

    config = TrainConfig(
        steps=12, warmup=2, threads=1, keep_in=None if folder is None else str(folder), keep_every=5, moments=moments
    )
    return fit(module, loss_of, stream, config, size=len), module


@pytest.mark.parametrize("moments", ["float32", "8bit"])
def test_a_stopped_run_ends_with_the_bits_of_one_that_never_stopped(tmp_path, moments):
    """Stopped at step 8, it goes on from the state of step 5: equal losses, terms, weights and buffers."""
    whole, want = run(None, moments)
    with pytest.raises(TrainingError, match="ran out"):
        run(tmp_path, moments, batches=8)
    assert latest(tmp_path).step == 5
    again, got = run(tmp_path, moments)
    assert (again.loss, again.terms, again.images) == (whole.loss, whole.terms, whole.images)
    assert all(torch.equal(a, b) for a, b in zip(want.state_dict().values(), got.state_dict().values(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000010"]


def test_a_state_is_safetensors_and_json(tmp_path):
    """Every file is one or the other, and the record names each with its size."""
    run(tmp_path, "float32")
    folder = latest(tmp_path).folder
    told = json.loads((folder / RECORD).read_text())
    files = {p.name: p.stat().st_size for p in folder.iterdir() if p.name != RECORD}
    assert told["files"] == files
    for name in files:
        with safe_open(folder / name, framework="pt") as file:
            assert "module.0.weight" in file.keys()  # noqa: SIM118


SAVES = """
import sys, torch
from torch import nn
from ringmoe.training_state import save
module = nn.Linear(2000, 2000)
optimiser = torch.optim.AdamW(module.parameters())
for step in range(1, 1000):
    nn.init.constant_(module.weight, step)
    save(sys.argv[1], module, optimiser, step)
"""


def one_kept_and_one_under_way(folder):
    """Whether a state is whole and another partly written; either may be renamed or removed meanwhile."""
    names = os.listdir(folder)
    under_way = [name for name in names if name.endswith(".partial")]
    with suppress(FileNotFoundError):
        return len(under_way) < len(names) and any(os.listdir(folder / name) for name in under_way)
    return False


def test_a_run_killed_in_the_middle_of_a_save_leaves_the_state_before_it(tmp_path):
    """Killed while the next state was being written: the last one is whole and is of one step."""
    child = subprocess.Popen([sys.executable, "-c", SAVES, str(tmp_path)], env=os.environ, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while not one_kept_and_one_under_way(tmp_path) and time.monotonic() < until:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept, module = latest(tmp_path), nn.Linear(2000, 2000)
    restore(kept, module, torch.optim.AdamW(module.parameters()))
    assert kept.step >= 1
    assert bool((module.weight == kept.step).all())


def test_states_that_cannot_be_gone_on_from_are_refused(tmp_path):
    """A truncated file, a record that is no JSON, another model, another optimiser; an empty folder is no error."""
    assert latest(tmp_path) is None
    module = nn.Linear(4, 3)
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimiser.step()
    folder = save(tmp_path, module, optimiser, 1)
    kept = latest(tmp_path)
    other = nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match="another model"):
        restore(kept, other, torch.optim.AdamW(other.parameters()))
    more = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(CheckpointError, match="missing"):
        restore(kept, more, torch.optim.AdamW(more.parameters()))
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="bytes instead of"):
        latest(tmp_path)
    (folder / RECORD).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        latest(tmp_path)


@pytest.mark.parametrize(("fused", "where"), [(True, "meta"), (False, "cpu")])
def test_steps_are_counted_where_the_optimiser_counts_them(tmp_path, fused, where, monkeypatch):
    """A fused optimiser's count of steps lies on its parameter's device, any other's on the CPU."""
    module = nn.Linear(4, 3)
    optimiser = torch.optim.AdamW(module.parameters(), fused=True)
    module(torch.ones(1, 4)).sum().backward()
    optimiser.step()
    save(tmp_path, module, optimiser, 1)
    elsewhere = nn.Linear(4, 3, device="meta")
    other = torch.optim.AdamW(elsewhere.parameters(), fused=False)
    other.param_groups[0]["fused"] = fused
    monkeypatch.setattr("ringmoe.training_state.dcp.load", lambda *_, **__: None)
    restore(latest(tmp_path), elsewhere, other)
    assert {str(state["step"].device) for state in other.state.values()} == {where}
    assert {str(state["exp_avg"].device) for state in other.state.values()} == {"meta"}


def test_a_state_of_another_run_is_refused(tmp_path):
    """Another rate, other data: the error names what differs; more patience or another pace of states does not."""
    module, batches = nn.Linear(4, 1), [torch.ones(2, 4)] * 4

    def fitted(**more: object) -> History:
        config = TrainConfig(**{"steps": 4, "threads": 1, "keep_in": str(tmp_path), "keep_every": 2, "run": "a"} | more)
        return fit(module, lambda b: (module(b).square().mean(), {}), batches, config, size=len)

    assert len(fitted().loss) == 4
    with pytest.raises(CheckpointError, match=r"another run: rate 0\.001 instead of 0\.5"):
        fitted(rate=0.5)
    with pytest.raises(CheckpointError, match="another run: run a instead of b"):
        fitted(run="b")
    assert len(fitted(keep_every=3, patience=2).loss) == 4


def test_what_is_kept_is_what_was_there_at_the_time(tmp_path):
    """Weights changed while the thread still writes do not reach the disk; the next state waits for it."""
    module = nn.Linear(1500, 1500)
    optimiser, keeper = torch.optim.AdamW(module.parameters()), Keeper(tmp_path)
    for step in (1, 2):
        nn.init.constant_(module.weight, step)
        keeper.keep(module, optimiser, step, {"step": step})
        nn.init.constant_(module.weight, -1)
    keeper.close()
    kept = latest(tmp_path)
    restore(kept, module, optimiser)
    assert (kept.step, kept.record) == (2, {"step": 2})
    assert bool((module.weight == 2).all())


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    """While a state is written, the steps after it go on to the last; the run waits for it at its end alone."""
    write, last, waited, ends = training_state._write, threading.Event(), [], []

    def slow(*args: object) -> Path:
        waited.append(last.wait(60))
        return write(*args)

    def listen(step: object) -> None:
        ends.append(step)
        if len(ends) == 8:
            last.set()

    monkeypatch.setattr(training_state, "_write", slow)
    module = nn.Linear(4, 1)
    config = TrainConfig(steps=8, threads=1, keep_in=str(tmp_path), keep_every=5)
    fit(module, lambda b: (module(b).square().mean(), {}), [torch.ones(2, 4)] * 8, config, size=len, on_step=listen)
    assert waited == [True]
    assert latest(tmp_path).step == 5


def test_a_state_that_cannot_be_written_stops_the_run(tmp_path):
    """The thread's error comes back, in its four parts."""
    (tmp_path / "states").write_text("a file")
    keeper, module = Keeper(tmp_path / "states"), nn.Linear(4, 1)
    keeper.keep(module, torch.optim.AdamW(module.parameters()), 1)
    with pytest.raises(CheckpointError, match="cannot be kept"):
        keeper.close()
