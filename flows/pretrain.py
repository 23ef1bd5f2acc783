"""Cubes -> checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from catalog.ledger import Ledger, unit_id, write_whole
from flows import assess, pictures, progress
from flows.artifacts import Watched, show_picture, show_table
from flows.learn import GUESSES, LEARNED, STATES, Plan, learn, lost_of
from flows.models import Draft, described, device, machine, once
from flows.ranks import alone_at, run_ranks
from flows.refs import ItemRef, PretrainRequest, Where
from flows.select import within
from ringmoe import checkpoint

RESULTS_VERSION = 7


def draft(cubes: Sequence[ItemRef], request: PretrainRequest, where: Where) -> Draft:
    """The checkpoint that these cubes and parameters determine."""
    inputs = {
        "cubes": sorted([c.id, c.checksum] for c in cubes),
        "request": request.model_dump(mode="json"),
        "machine": machine(where),
    }
    run = unit_id("pretrain", RESULTS_VERSION, inputs)
    return Draft(
        "pretrain",
        RESULTS_VERSION,
        inputs,
        tuple(cubes),
        lambda folder: make(folder, run, cubes, request, where),
        where.threads,
    )


def make(folder: Path, run: str, cubes: Sequence[ItemRef], request: PretrainRequest, where: Where) -> Mapping[str, Any]:
    """Pre-train on one process or many, going on where a killed run stopped, and tell what came of it.

    Parameters
    ----------
    folder
        The checkpoint's; tables and pictures go beside it.
    run
        Names the run's own folder, `where.training`/RUN: its record stays there, its states go when it has ended.
    """
    with alone_at(where.training / run, folder.parent / "run") as kept:
        plan = Plan(cubes=tuple(cubes), request=request, where=where, run=run, out=folder, kept=kept)
        watched = Watched(run, request.steps)
        if request.processes > 1:
            run_ranks(plan, lambda done, loss: _tell(watched, request, done, loss))
        else:
            learn(plan, lambda step: _tell(watched, request, step.index + 1, step.loss))
        learned = json.loads((kept / LEARNED).read_text())
        properties = _tell_all(folder, kept, learned, request)
        _assess(folder, cubes, request, where)
        shutil.rmtree(kept / STATES, ignore_errors=True)
    return properties


def _tell(watched: Watched, request: PretrainRequest, done: int, loss: float) -> None:
    progress.tell("pretrain", done, request.steps, f"loss {loss:.3f}")
    watched.tell(done, loss)


def _tell_all(folder: Path, kept: Path, learned: Mapping[str, Any], request: PretrainRequest) -> dict[str, Any]:
    """Write the losses and the pictures beside the checkpoint; its item's properties."""
    loss, terms = learned["loss"], learned["terms"]
    write_whole(folder.parent / "loss.json", {k: learned[k] for k in ("loss", "terms", "skipped", "images")})
    lost = lost_of(kept)
    if lost:
        write_whole(folder.parent / "lost.json", {"lost": [{"what": name, "reason": why} for name, why in lost]})
    pictures.loss_curve(folder.parent / "loss.png", loss, terms)
    pictures.reconstructions(folder.parent / "reconstructions.png", kept / GUESSES)
    found = checkpoint.load(folder)
    edge = max(1, min(10, len(loss) // 4))
    return described(found.model, f"RingMoE {request.preset} pre-trained") | {
        "ringmoe:loss_first": sum(loss[:edge]) / edge,
        "ringmoe:loss_last": sum(loss[-edge:]) / edge,
        "ringmoe:terms_last": {k: sum(v[-edge:]) / len(v[-edge:]) for k, v in terms.items()},
        "ringmoe:images": learned["images"],
        "ringmoe:skipped_steps": len(learned["skipped"]),
        "ringmoe:left_out": learned["left_out"],
        "ringmoe:lost_blocks": len(lost),
    }


def _assess(folder: Path, cubes: Sequence[ItemRef], request: PretrainRequest, where: Where) -> None:
    """Write what the frozen features are worth beside the checkpoint."""
    found = checkpoint.load(folder, device=device())
    trained = [c for c in within(cubes, request.area) if c.attrs["modality"] in set(found.contract.inputs)]
    write_whole(folder.parent / "evaluation.json", assess.table(found.model, trained, request, where))


def show(made: ItemRef) -> None:
    """Losses, guesses and the table of a model on Prefect's pages."""
    run, folder = made.id.removeprefix("pretrain_"), Path(made.asset).parent
    show_picture(f"loss-{run}", folder / "loss.png", "Loss by step, and each term over its start")
    show_picture(f"reconstructions-{run}", folder / "reconstructions.png", "Chips, what is shown of them, the guess")
    table = json.loads((folder / "evaluation.json").read_text())
    text = table["note"] or f"Shares of pixels told right by frozen features; {table['split']}"
    show_table(f"evaluation-{run}", table["rows"] or [{"note": table["note"]}], text)


@task(name="pretrain", cache_policy=NO_CACHE)
def pretrain_task(cubes: list[ItemRef], request: PretrainRequest, where: Where) -> ItemRef:
    """One checkpoint, on the GPU where there is one."""
    made = once(draft(cubes, request, where), Ledger(where.published))
    if made.fresh:
        show(made)
    return made


@flow(name="pretrain", validate_parameters=False)
def pretrain(cubes: list[ItemRef], request: PretrainRequest, where: Where) -> ItemRef:
    """Cubes to a pre-trained checkpoint; one already made is only looked up."""
    return pretrain_task(cubes, request, where)
