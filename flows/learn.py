"""Pre-training by itself: cubes and a request to a checkpoint, its losses and its guesses, on one rank or many."""

from __future__ import annotations

import copy
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xarray as xr
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from catalog.errors import Refusal
from catalog.ledger import write_whole
from flows.curriculum import crop_of, flops_per_image, mix_of, objective_config, objective_of, preset
from flows.models import device, recipe_of
from flows.refs import ItemRef, PretrainRequest, Where
from flows.select import within
from ringmoe import checkpoint
from ringmoe.ahead import Ahead
from ringmoe.backbone import RingMoE
from ringmoe.compiled import compile_checked
from ringmoe.data import ChipSampler
from ringmoe.errors import TrainingError
from ringmoe.guesses import guesses
from ringmoe.history import History, Step
from ringmoe.loop import TrainConfig
from ringmoe.measure import Measured, measure_contract
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.objectives import MaskedModelling
from ringmoe.parallel import Layout, distribute, ranks_of_torchrun, same_on_all_ranks
from ringmoe.recompute import recompute
from ringmoe.record import Recorder, measured_peak
from ringmoe.train import pretrain as train

LEARNED, GUESSES, REFUSED, STATES = "learned.json", "guesses.safetensors", "refused.json", "states"
LOST = "lost_{}.json"
"""What a rank could not read of its own chips."""
LINES = 2000
"""Lines of the record that a run of any length has, about."""
HELD = "--held"
"""Said by who starts the ranks and wants them to end with it."""
RARE = 100
"""Batches looked through for a chip of every modality."""


class Plan(BaseModel):
    """A run of pre-training, as its ranks are told of it."""

    model_config = ConfigDict(frozen=True)

    cubes: tuple[ItemRef, ...]
    """What is learned from."""
    request: PretrainRequest
    """How."""
    where: Where
    """Threads of each rank, steps between two states."""
    run: str
    """Hash of all that determines the result."""
    out: Path
    """Folder that the checkpoint is written to."""
    kept: Path
    """Folder of the record, the states, and what is told of the end."""


def learn(plan: Plan, on_step: Callable[[Step], None] | None = None) -> None:
    """Pre-train by masked modelling on all modalities at once, going on where a killed run of the plan stopped.

    The checkpoint goes to `plan.out`; LEARNED and GUESSES to `plan.kept`.
    """
    request, ranks = plan.request, dist.get_world_size() if dist.is_initialized() else 1
    datasets = within(plan.cubes, request.area)
    shape = preset(request)
    objective_config(request)  # refused before any pixel is read
    measured = measure_contract(datasets, described=shape.embedding == "spectral", seed=request.seed)
    if ranks > 1 and not same_on_all_ranks(measured.contract.digest(), device()):
        raise TrainingError(
            "the processes of the run measured unlike pixels",
            item=f"{len(datasets)} cubes, {ranks} processes",
            enough="cubes that every process can read",
            todo="look for storage that fails now and then, and run the same command again",
        )
    sampler = _sampler([datasets[i] for i in measured.used], measured, request, ranks)
    torch.manual_seed(request.seed)
    model = RingMoE(shape, measured.contract).to(device())
    objective = objective_of(model, request, ranks=ranks).to(device())
    recompute(model, request.recompute)
    if request.compiled:
        compile_checked(model, _losses_of(objective, sampler, request))
    if ranks > 1:
        distribute(model, Layout(shards=ranks, experts=request.experts), beside=objective)
    with _recorder(plan, model) as recorder:

        def tell(step: Step) -> None:
            recorder(step)
            if on_step is not None:
                on_step(step)

        with closing(_Batches(sampler, plan)) as batches:
            history = train(model, objective, batches.stream, recipe(plan, ranks), on_step=tell)
    model, objective = _whole(model, objective, request, ranks)
    if not dist.is_initialized() or dist.get_rank() == 0:
        left_out = [[datasets[o.index].attrs["tile"], o.reason] for o in measured.left_out]
        _write(plan, model, history, left_out)
        _keep_guesses(plan, model, objective, _unseen(sampler, request.steps * request.accumulate))


def _sampler(cubes: Sequence[xr.Dataset], measured: Measured, request: PretrainRequest, ranks: int) -> ChipSampler:
    contract = measured.contract
    mix, crop = mix_of(request, contract.inputs), crop_of(request)
    return ChipSampler(cubes, contract, batch=request.chips, mix=mix, crop=crop, least=ranks, seed=request.seed)


def _losses_of(
    objective: MaskedModelling, sampler: ChipSampler, request: PretrainRequest
) -> Callable[[RingMoE, int], Tensor]:
    """The loss of a model at a step of the run, for the gate of compiling; the objective is left as it is."""
    beside = copy.deepcopy(objective)

    def loss_of(model: RingMoE, step: int) -> Tensor:
        batch = {m: chips.to(device()) for m, chips in sampler.batch(step).items()}
        with torch.autocast(device().type, torch.bfloat16, enabled=request.precision == "bfloat16"):
            loss, _ = beside(model, batch)
        return loss

    return loss_of


class _Batches:
    """This rank's part of every batch, made ahead, and no more of it.

    What cannot be read is kept on file as soon as it is known, beside what a killed run had found.
    """

    def __init__(self, sampler: ChipSampler, plan: Plan) -> None:
        self.sampler, self.plan = sampler, plan
        self._known = 0
        self._ahead: list[Ahead[Batch]] = []

    def stream(self, first: int) -> Iterator[Batch]:
        """From a batch on, without end."""
        rank = dist.get_rank() if dist.is_initialized() else None
        self._ahead.append(self.sampler.stream(first, workers=self.plan.where.loaders, rank=rank))
        for batch in self._ahead[-1]:
            self._keep_lost()
            yield batch

    def close(self) -> None:
        """End the threads."""
        for ahead in self._ahead:
            ahead.close()
        self._keep_lost()

    def _keep_lost(self) -> None:
        if len(self.sampler.lost) > self._known:
            path = self.plan.kept / LOST.format(dist.get_rank() if dist.is_initialized() else 0)
            found = _lost_in(path) | {each.name: each.reason for each in self.sampler.lost}
            write_whole(path, {"lost": sorted(found.items())})
            self._known = len(self.sampler.lost)


def lost_of(kept: Path) -> list[tuple[str, str]]:
    """Blocks of pixels that no rank of a run could read, before and after it was stopped: names and reasons."""
    found: dict[str, str] = {}
    for path in sorted(kept.glob(LOST.format("*"))):
        found |= _lost_in(path)
    return sorted(found.items())


def _lost_in(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_text())["lost"]) if path.exists() else {}


def _unseen(sampler: ChipSampler, first: int) -> Batch:
    """Chips of every modality from a batch on: a rare one may be in none of the first."""
    found: dict[Modality, Chips] = {}
    for step in range(first, first + RARE):
        for modality, chips in sampler.batch(step).items():
            found.setdefault(modality, chips)
        if len(found) == len(sampler.shares):
            break
    return found


def recipe(plan: Plan, ranks: int) -> TrainConfig:
    """How a plan trains, on so many ranks that share its threads."""
    request, where = plan.request, plan.where
    return replace(
        recipe_of(request, where),
        accumulate=request.accumulate,
        precision=request.precision,
        moments=request.moments,
        threads=max(1, where.threads // ranks),
        keep_in=str(plan.kept / STATES),
        keep_every=where.keep_every,
        run=plan.run,
    )


def _recorder(plan: Plan, model: RingMoE) -> Recorder:
    request = plan.request
    dtype = torch.bfloat16 if request.precision == "bfloat16" else torch.float32
    return Recorder(
        plan.kept,
        model,
        every=max(1, request.steps // LINES),
        flops_per_image=flops_per_image(request, model),
        peak_flops=measured_peak(device(), dtype),
    )


def _whole(
    model: RingMoE, objective: MaskedModelling, request: PretrainRequest, ranks: int
) -> tuple[RingMoE, MaskedModelling]:
    """Both on one device and eager, all their parts gathered; every rank takes part."""
    if ranks == 1 and not request.compiled:
        return model, objective
    whole = RingMoE.from_tensors(model.config, model.contract, _gathered(model))
    own = objective_of(whole, request)
    own.load_state_dict(_gathered(objective))
    return whole.eval(), own


def _gathered(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).cpu() for name, t in state.items()}


def _write(plan: Plan, model: RingMoE, history: History, left_out: list[list[Any]]) -> None:
    provenance = {
        "step": "pretrain",
        "cubes": [c.id for c in plan.cubes],
        "request": plan.request.model_dump(mode="json"),
        "left_out": left_out,
    }
    checkpoint.save(plan.out, model, provenance=provenance)
    told = {name: value for name, value in asdict(history).items() if name not in ("seconds", "waited_s")}
    write_whole(plan.kept / LEARNED, told | {"left_out": left_out})


def _keep_guesses(plan: Plan, model: RingMoE, objective: MaskedModelling, batch: Batch) -> None:
    """Of a batch that was not learned from."""
    found = guesses(model, objective, batch, seed=plan.request.seed)
    tensors = {
        f"{m}/{name}": getattr(guess, name).contiguous()
        for m, guess in found.items()
        for name in ("truth_CHW", "known_CHW", "guess_CHW", "hidden_HW")
    }
    channels = {m.value: ",".join(guess.channels) for m, guess in found.items()}
    save_file(tensors, plan.kept / GUESSES, metadata=channels)


def _end_with_parent() -> None:
    """Whoever started the ranks holds the other end of standard input; it closes when they die, however they die."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # unbuffered: a lock held at the interpreter's end would abort it
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """`torchrun ... -m flows.learn PLAN.json`: one rank; a refusal goes to a file, for whoever started the ranks."""
    if HELD in sys.argv[2:]:
        _end_with_parent()
    plan = Plan.model_validate_json(Path(sys.argv[1]).read_bytes())
    try:
        with ranks_of_torchrun():
            learn(plan)
    except Refusal as error:
        parts = {"what": error.what, "item": error.item, "enough": error.enough, "todo": error.todo}
        (plan.kept / REFUSED).write_text(json.dumps(parts))
        raise


if __name__ == "__main__":
    main()
