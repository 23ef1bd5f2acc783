"""A stopped run goes on to the very bits; the last good state is whole at any moment; nothing is pickled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ringmoe.errors import CheckpointError, TrainingError
from ringmoe.history import History
from ringmoe.loop import TrainConfig, fit
from ringmoe.training_state import RECORD, latest, restore, save


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


def test_a_run_killed_in_the_middle_of_a_save_leaves_the_state_before_it(tmp_path):
    """Killed while the next state was being written: the last one is whole and is of one step."""
    child = subprocess.Popen([sys.executable, "-c", SAVES, str(tmp_path)], env=os.environ, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (any(tmp_path.glob("*.partial/*")) and latest(tmp_path)) and time.monotonic() < until:
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
