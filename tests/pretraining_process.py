"""Pre-training as a process of its own, which a test may kill: a tiny model on two cubes; torchrun may start several.

`pretraining_process.py FOLDER STEPS`: states and record in FOLDER, a pid a rank in FOLDER/pids, and at the end the
parameters in FOLDER/end.safetensors, of one process alone.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from test_36_data import cube_of

from catalog.sensors import SENTINEL_1, SENTINEL_2
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.data import EQUAL_MIX, ChipSampler, Crop
from ringmoe.measure import measure_contract
from ringmoe.objectives import MaskedModelling, Objective
from ringmoe.parallel import Layout, distribute, over_ranks, part_of, ranks_of_torchrun
from ringmoe.record import Recorder
from ringmoe.train import TrainConfig, pretrain

HELD_AT = int(os.environ.get("HELD_AT", "-1"))
"""The step before which it waits for who kills it; none where it is negative."""
SHAPE = RingMoEConfig(
    16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=2, collaborative=2, embedding="spectral"
)


def learn(folder: Path, steps: int, *, keep_every: int = 5) -> dict[str, torch.Tensor]:
    """So many steps, going on from a state where there is one; parameters at the end."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    cubes = [cube_of(sensor, seed=i) for i, sensor in enumerate((SENTINEL_2, SENTINEL_1))]
    contract = measure_contract(cubes, described=True).contract
    sampler = ChipSampler(cubes, contract, batch=6, mix=EQUAL_MIX, crop=Crop(chip_px=64), seed=3)
    torch.manual_seed(1)
    model = RingMoE(SHAPE, contract)
    modelling = MaskedModelling(Objective(model, **(over_ranks() if ranks > 1 else {})))
    if ranks > 1:
        distribute(model, Layout(shards=ranks), beside=modelling)
    config = TrainConfig(steps=steps, warmup=5, threads=1, keep_in=str(folder / "states"), keep_every=keep_every)

    def batches(first: int):
        for number, batch in enumerate(sampler.stream(first), first):
            if number == HELD_AT:
                time.sleep(3600)
            yield batch if ranks == 1 else part_of(batch, dist.get_rank(), ranks)

    with Recorder(folder, model) as recorder:
        pretrain(model, modelling, batches, config, recorder)
    return {f"{i}.{n}": t.detach().clone() for i, m in enumerate((model, modelling)) for n, t in m.state_dict().items()}


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "pids").mkdir(parents=True, exist_ok=True)
    (folder / "pids" / str(os.getpid())).touch()
    with ranks_of_torchrun(patience_s=60) if "RANK" in os.environ else nullcontext():
        parameters = learn(folder, int(sys.argv[2]))
        if not dist.is_initialized():
            save_file(parameters, folder / "end.safetensors")


if __name__ == "__main__":
    main()
