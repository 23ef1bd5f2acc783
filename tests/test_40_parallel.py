"""Many ranks equal one: trunk sharded, experts spread, both; a state kept on two ranks goes on on one and four."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from parallel_ranks import CONFIG, CONTRACT, STEPS, TWO, UNEVEN, batch_of, fitted, losses
from torch import nn

from ringmoe.backbone import RingMoE
from ringmoe.errors import ConfigError
from ringmoe.parallel import clip_gradients, part_of, spread

HERE = Path(__file__).resolve().parent


pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("ranks")]


def torchrun(ranks: int, folder: Path, which: str) -> dict[str, list[float]]:
    """Losses told by so many processes, started as on any machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, str(HERE / "parallel_ranks.py"), str(folder), which],
        cwd=HERE.parent, env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads((folder / f"{which}.json").read_text())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two ranks leave their states."""
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def two(kept: Path) -> dict[str, list[float]]:
    """What two ranks told."""
    return torchrun(2, kept, "two")


@pytest.fixture(scope="module")
def alone() -> dict[torch.dtype, list[float]]:
    """Losses of one process."""
    return {dtype: losses(dtype, STEPS) for dtype in (torch.float64, torch.float32)}


@pytest.mark.parametrize("layout", ["trunk", "experts", "both"])
def test_two_ranks_lose_what_one_process_loses(two, alone, layout):
    """Within 1e-7 over 20 steps, although one rank's last multispectral image holds nothing, so that loads differ."""
    one = alone[torch.float64]
    assert one[-1] < 0.98 * one[0]
    assert two[f"{torch.float64}/{layout}"] == pytest.approx(one, rel=1e-7)


def test_two_ranks_lose_what_one_process_loses_in_single_precision(two, alone):
    """Within 1e-4, the trunk sharded and the experts spread over the same two."""
    assert two[f"{torch.float32}/both"] == pytest.approx(alone[torch.float32], rel=1e-4)


@pytest.mark.slow
def test_each_way_by_itself_loses_the_same_in_single_precision(alone, tmp_path):
    """The trunk sharded alone, the experts spread alone."""
    for one in torchrun(2, tmp_path, "two_more").values():
        assert one == pytest.approx(alone[torch.float32], rel=1e-4)


def test_experts_that_do_not_divide_by_ranks_lose_the_same(two):
    """19 experts over two ranks: ten and nine."""
    assert two["uneven"] == pytest.approx(losses(torch.float64, 3, config=UNEVEN), rel=1e-7)


@pytest.mark.parametrize("what", ["branches", "activations"])
def test_expert_branches_computed_again_over_ranks_lose_the_same(two, alone, what):
    """What travelled between ranks is there again in the backward pass."""
    assert two[what] == pytest.approx(alone[torch.float64][:3], rel=1e-7)


def test_views_are_compared_over_all_ranks(two):
    """With one pair of each modality on a rank, views that a rank alone could not tell from any other."""
    one = losses(torch.float64, 3, views=1.0)
    assert two["views"] == pytest.approx(one, rel=1e-7)
    assert one[0] > losses(torch.float64, 1)[0] + 0.1


def test_ranks_know_whether_they_have_the_same(two):
    """A text that all have, and one that each has of its own."""
    assert two["same"] == [1.0, 0.0]


def test_a_state_kept_on_two_ranks_goes_on_on_one(two, kept, tmp_path):
    """The four steps after it are those of a run that never stopped, in one process."""
    whole = fitted(None, 8, None)
    assert two["kept"] == pytest.approx(whole[:4], rel=1e-7)
    shutil.copytree(kept / "float32", tmp_path / "float32")
    assert fitted(tmp_path / "float32", 8, None) == pytest.approx(whole[4:], rel=1e-7)


def test_moments_of_one_byte_kept_on_two_ranks_go_on_on_one(two, kept):
    """Rounding differs from rank to rank, so losses agree to 1e-2 only."""
    whole = fitted(None, 8, None, "8bit")
    assert fitted(kept / "8bit", 8, None, "8bit") == pytest.approx(whole[4:], rel=1e-2)


@pytest.mark.slow
def test_a_state_kept_on_two_ranks_goes_on_on_four(two, kept, tmp_path):
    """Two copies of a model shared by two ranks each: trunk in shards, experts spread and sharded over the copies."""
    shutil.copytree(kept / "float32", tmp_path / "float32")
    four = torchrun(4, tmp_path, "four")
    assert four["kept"] == pytest.approx(fitted(None, 8, None)[4:], rel=1e-7)
    assert four["half"] == pytest.approx(losses(torch.float64, 3, config=UNEVEN), rel=1e-7)


@dataclass(frozen=True)
class Ranks:
    """As much of a device mesh as the check of its size asks for: more ranks than one machine should start."""

    ranks: int

    def __getitem__(self, name: str) -> Ranks:
        return self

    def size(self) -> int:
        return self.ranks


@pytest.mark.parametrize(("ranks", "why"), [(21, "more ranks than experts"), (8, "A rank would be without experts")])
def test_ranks_that_would_hold_no_expert_are_refused(ranks, why):
    """The message lists the numbers of ranks that 20 experts can be shared by."""
    with pytest.raises(ConfigError, match=why) as caught:
        spread(RingMoE(CONFIG, CONTRACT), Ranks(ranks))
    assert "one of 1, 2, 3, 4, 5, 7, 10, 20 ranks" in str(caught.value)


def test_a_batch_smaller_than_its_ranks_is_refused():
    """Every rank must have an image of every modality, or the sums over ranks would not meet."""
    batch = batch_of(torch.float32, count=4)
    parts = [part_of(batch, rank, 3) for rank in range(3)]
    for modality in TWO:
        assert torch.equal(torch.cat([p[modality].pixels_BCHW for p in parts]), batch[modality].pixels_BCHW)
    with pytest.raises(ConfigError, match="without images"):
        part_of(batch, 0, 5)


def test_gradients_are_clipped_to_their_common_norm():
    """3 and 4 make 5; clipped to 1 they are 0.6 and 0.8; a smaller norm is left alone."""
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, 1.0).item() == pytest.approx(5.0)
    assert [p.grad.item() for p in parameters[:2]] == pytest.approx([0.6, 0.8], rel=1e-5)
    assert clip_gradients(parameters, 1e9).item() == pytest.approx(1.0, rel=1e-5)
