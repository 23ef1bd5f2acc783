"""What is asked of pruning is what cutting does: criterion, what is dropped, method, refitting; typed and called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from routed_models import batch_of, made
from typer.testing import CliRunner

from flows import cli, interrupt, shelf
from flows.asking import prune_request
from flows.cutting import Cut, Goal, cut
from flows.refs import AdaptRequest, ItemRef, PruneRequest
from ringmoe.backbone import RingMoE
from ringmoe.errors import PruneError
from ringmoe.modality import Batch, Modality
from ringmoe.prune import Usage, integrate, profile, slice_modalities, survivors_of_blocks

BATCHES = 2
"""Of one chip, over which experts are watched here."""

FAVOURITE = 3
"""The collaborative expert that most tokens of the first block choose."""

pytestmark = pytest.mark.usefixtures("one_thread")


class Base:
    """A model of all modalities whose favourite says nothing, and a profile of its multispectral slice."""

    def __init__(self) -> None:
        self.model = made()
        self.batches: list[Batch] = [batch_of(Modality.MS, count=1, seed=n) for n in range(2 * BATCHES)]
        stack = self.model.blocks()[0].experts.experts
        with torch.no_grad():
            stack.w2_EHC[FAVOURITE - 4] = stack.b2_EC[FAVOURITE - 4] = 0.0
        self.usage: Usage = profile(slice_modalities(self.model, [Modality.MS]), self.batches[:BATCHES])

    def cut(self, **request: Any) -> Cut:
        return cut(self.model, Goal(PruneRequest(**request), Modality.MS, 0, torch.float32), self.batches, self.usage)


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.cutting.PROFILE_BATCHES", BATCHES)
        yield Base()


def same(a: RingMoE, b: RingMoE) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return a.config == b.config and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_a_dense_model_is_integrated_by_the_method_asked_for_and_then_refitted(base: Base) -> None:
    """Without refitting, the tensors of `integrate` over a profile of what was left; with it, others."""
    found = {
        (method, refit): base.cut(method=method, refit=refit)
        for method, refit in (("neurons", False), ("kc", False), ("neurons", True))
    }
    for method in ("neurons", "kc"):
        stages = [model for _, model in found[method, False].stages]
        assert len(stages) == 4
        usage = profile(stages[2], base.batches[:BATCHES])
        assert same(stages[3], integrate(stages[2], usage, method))
        assert found[method, False].stages[3][0] == f"dense ({method})"
    plain, fitted, other = (found[key].stages[3][1] for key in (("neurons", False), ("neurons", True), ("kc", False)))
    assert plain.config == fitted.config
    assert not same(plain, fitted)
    assert not same(plain, other)


def test_experts_are_kept_by_the_criterion_asked_for(base: Base) -> None:
    """Of 9 slots 6: by usage the collaborative expert chosen most stays; by error not where it says nothing."""
    used, lost = (base.cut(to="6", criterion=name).stages[-1][1] for name in ("usage", "error"))
    most = [(int(each.usage_ME[0].argmax()),) for each in base.usage.collaborative if each is not None]
    assert [left.collaborative for left in survivors_of_blocks(used)] == most
    assert [left.slots for left in survivors_of_blocks(used)] == [5] * 5
    assert most[0] == (FAVOURITE,)
    assert survivors_of_blocks(lost)[0].collaborative != (FAVOURITE,)


def test_experts_fall_silent_where_their_means_are_asked_for(base: Base) -> None:
    """Those gone are silent and their means are in a bias; where survivors take over none is, and it is as it was."""
    mean, survivor = (base.cut(to="6", criterion="usage", dropped=name).stages[-1][1] for name in ("mean", "survivor"))
    for quiet, left in zip(survivors_of_blocks(mean), survivors_of_blocks(survivor), strict=True):
        assert quiet.collaborative == left.collaborative
        assert sorted((*quiet.collaborative, *quiet.silent_collaborative)) == [0, 1, 2, 3]
        assert left.silent_collaborative == ()
    biases = [[b.experts.shared[2].bias for b in model.blocks()] for model in (base.model, mean, survivor)]
    assert all(torch.equal(a, c) and not torch.equal(a, b) for a, b, c in zip(*biases, strict=True))


def test_a_size_is_sliced_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the parent: one copy of the slice, however often its size is looked at."""
    calls: list[RingMoE] = []
    monkeypatch.setattr(
        "flows.cutting.slice_modalities", lambda *given: calls.append(slice_modalities(*given)) or calls[-1]
    )
    for share in ("25%", "10%"):
        base.cut(to=share, refit=False)
    assert len(calls) == 2


def test_what_is_typed_reaches_the_pruning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every option of `ringmoe prune` becomes its part of the request; none of them, the request's own defaults."""
    seen: list[tuple[PruneRequest, AdaptRequest]] = []
    made = ItemRef(collection="models", id="prune_x", href="x", asset="x", checksum="x")
    monkeypatch.setattr(interrupt, "with_api", nullcontext)
    monkeypatch.setattr(shelf, "cubes", lambda where, area: [])
    monkeypatch.setattr(shelf, "model", lambda where, step, item_id: made)
    monkeypatch.setattr(
        "flows.prune.prune", lambda parent, cubes, request, task, where: seen.append((request, task)) or made
    )
    known = tmp_path / "profile.safetensors"
    known.touch()
    words = ["prune", "--home", str(tmp_path), "--bbox", "11,46,12,47", "--from", "2025-06-01", "--to", "2025-06-30"]
    more = "--to 9,6,3,1 --for sentinel-1 --criterion usage --dropped survivor --method kc --no-refit"
    more += " --steps 7 --profile"
    for extra in ([], [*more.split(), str(known)], ["--streamed"]):
        done = CliRunner().invoke(cli.app, [*words, *extra])
        assert done.exit_code == 0, done.output
    (plain, first), (full, second), (streamed, _) = seen
    assert streamed == PruneRequest(steps=100, streamed=True)
    assert plain == PruneRequest(steps=100)
    assert full == PruneRequest(
        to="9,6,3,1", criterion="usage", dropped="survivor", method="kc", refit=False, profile=known, steps=7
    )
    assert [task.sensor for task in (first, second)] == ["sentinel-2", "sentinel-1"]
    assert first.period == second.period


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    """What learning is asked for where nothing learns, and a folder where a file is wanted."""
    words = ["prune", "--home", str(tmp_path), "--bbox", "11,46,12,47", "--streamed"]
    for extra in (["--steps", "7"], ["--no-refit"]):
        done = CliRunner().invoke(cli.app, [*words, *extra])
        assert done.exit_code == 2
        assert f"{extra[0].replace('no-', '')} would do nothing with --streamed" in " ".join(done.output.split())
    with pytest.raises(PruneError, match="no such profile"):
        prune_request(to=None, profile=tmp_path, steps=1)
