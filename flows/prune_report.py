"""What pruning cost and what it gained: JSON for machines, a page with pictures for people, and both on Prefect's."""

# Shape suffixes: L blocks, M modalities, E experts of a router.

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from catalog.ledger import write_whole
from flows import panels
from flows.artifacts import show_picture, show_table, show_text
from flows.cutting import Cut, parameters
from flows.models import device
from flows.prune_page import CAPTIONS, UNSCORED, markdown, page, score_rows, stage_rows
from flows.recovery import ASKED, Ground, Score, on_device
from flows.refs import AdaptRequest, ItemRef, PruneRequest
from ringmoe import presets
from ringmoe.backbone import RingMoE
from ringmoe.live import most_bytes
from ringmoe.modality import Batch
from ringmoe.ondisk import OnDisk
from ringmoe.prune import survivors_of_blocks
from ringmoe.train import History
from ringmoe.usage import ExpertUsage, Usage, similarity

SHOWN = 4
"""Batches of all modalities whose routes are shown."""
TIMINGS = 3
"""Of which the median counts, after one that does not."""


class Seen(NamedTuple):
    """What a pruning was."""

    cut: Cut
    """The models on the way, before they learned."""
    whole: Usage
    """What the parent's experts do on chips of every modality that it can take."""
    ground: Ground
    """Where it learned."""
    measured: Mapping[str, Score] = {}
    """Scores by how far the work was: teacher, pruned, distilled, tuned; none of models left in files."""
    histories: Mapping[str, History] = {}
    """Of both phases of the recovery."""


def write(folder: Path, seen: Seen, parent: str, request: PruneRequest, task: AdaptRequest) -> dict[str, Any]:
    """Write the report and its pictures beside a checkpoint; what of it the item's properties say.

    report.json is the same whenever the same is done; what was timed stands in speed.json, and report.html tells both.
    """
    batch, _ = seen.ground.batch(0)
    stages = [costs(name, model, batch) for name, model in seen.cut.stages]
    speed = {name: images_per_second(model, batch) for name, model in seen.cut.stages if not isinstance(model, OnDisk)}
    routed = _routed(seen.whole, seen)
    curves = {
        phase: {name: list(values) for name, values in history.terms.items()}
        for phase, history in seen.histories.items()
    }
    told = {
        "parent": parent,
        "sensor": task.sensor,
        "request": request.model_dump(mode="json", exclude={"profile"}),
        "stages": stages,
        "experts": routed,
        "similarity": _alike(seen.whole),
        "recovery": curves,
        "scores": {stage: dict(score.values) for stage, score in seen.measured.items()},
        "deviations": {stage: dict(score.deviations) for stage, score in seen.measured.items()},
        "scored_on": f"{ASKED} batches of {seen.ground.scored_on}; a teacher with a head has learned from all labels"
        if seen.measured
        else None,
    }
    write_whole(folder / "report.json", told)
    write_whole(folder / "speed.json", {"images_per_second": speed, "device": str(device())})
    _draw(folder, told)
    (folder / "report.html").write_text(page(folder, told, speed))
    return {"ringmoe:flops": [s["flops"] for s in stages], "ringmoe:slots": stages[-1]["slots"]}


def costs(name: str, model: RingMoE, batch: Batch) -> dict[str, Any]:
    """What a model takes: parameters and FLOPs are counted, memory measured on a batch; None of one left in files."""
    ((modality, chips),) = batch.items()
    pixels = int(chips.pixels_BCHW.shape[-1])
    cost = presets.describe(model.config, model.contract.only([modality]), pixels)
    held = None if isinstance(model, OnDisk) else _pass(model, batch)
    tensors = model.stored.like.values() if isinstance(model, OnDisk) else model.parameters()
    weights = sum(t.nbytes for t in tensors)
    return {
        "name": name,
        "slots": slots_of(model),
        "parameters": parameters(model),
        "flops": cost.flops,
        "weights_mb": round(weights / 1e6, 3),
        "memory_mb": None if held is None else round((weights + most_bytes(held)) / 1e6, 3),
        "pixels": pixels,
    }


def images_per_second(model: RingMoE, batch: Batch) -> float:
    """Of a batch, by the median of some passes after one that is not timed."""
    run, took = _pass(model, batch), []
    for _ in range(TIMINGS + 1):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return round(sum(len(chips) for chips in batch.values()) / statistics.median(took[1:]), 2)


def _pass(model: RingMoE, batch: Batch) -> Callable[[], None]:
    """One pass of a batch through a model, to its end, where there is a GPU on it."""
    there, model = on_device(batch), model.to(device()).eval()

    @torch.inference_mode()
    def run() -> None:
        model(there)
        if device().type == "cuda":
            torch.cuda.synchronize()

    return run


def slots_of(model: RingMoE) -> list[int]:
    """Expert networks of each block, of all modalities."""
    return [model.config.shared + left.slots for left in survivors_of_blocks(model)]


def _routed(whole: Usage, seen: Seen) -> dict[str, Any]:
    """Shares of tokens by modality, block and expert, and which experts the result kept; None where there is none."""
    config = whole.config
    shares: dict[str, list[list[float | None]]] = {}
    for row, modality in enumerate(whole.modalities):
        if whole.tokens_M[row] > 0:
            shares[modality.value] = [
                _shares(modal, row, config.specialized) + _shares(common, row, config.collaborative)
                for modal, common in zip(whole.specialized, whole.collaborative, strict=True)
            ]
    sparse = [model for _, model in seen.cut.stages[1:] if any(s.slots for s in survivors_of_blocks(model))]
    kept = None
    if sparse:
        kept = [
            [i in left.specialized[0] for i in range(config.specialized)]
            + [i in left.collaborative for i in range(config.collaborative)]
            for left in survivors_of_blocks(sparse[-1])
        ]
    return {
        "specialized": config.specialized,
        "collaborative": config.collaborative,
        "of": seen.ground.modality.value,
        "shares": shares,
        "kept": kept,
    }


def _shares(used: ExpertUsage | None, row: int, count: int) -> list[float | None]:
    if used is None:
        return [None] * count
    return [round(float(v), 6) for v in used.usage_ME[row]]


def _alike(whole: Usage) -> dict[str, Any] | None:
    """The similarity of the modalities profiled; None of one, or where no block has collaborative experts."""
    rows = [i for i in range(len(whole.modalities)) if whole.tokens_M[i] > 0]
    if len(rows) < 2 or all(used is None for used in whole.collaborative):
        return None
    alike_MM = similarity(whole)[rows][:, rows]
    names = [whole.modalities[i].value for i in rows]
    return {"modalities": names, "values": [[round(float(v), 6) for v in row] for row in alike_MM]}


def _draw(folder: Path, told: Mapping[str, Any]) -> None:
    found = told["experts"]
    if found["shares"] and found["specialized"] + found["collaborative"]:
        first = sorted(found["shares"], key=lambda name: name != found["of"])
        shown = {name: np.array(found["shares"][name], dtype=float) for name in first}
        kinds = (found["specialized"], found["collaborative"])
        kept = None if found["kept"] is None else np.array(found["kept"])
        panels.experts(folder / "experts.png", shown, kinds, kept)
    if told["similarity"]:
        panels.similarity(
            folder / "similarity.png", np.array(told["similarity"]["values"]), told["similarity"]["modalities"]
        )
    if told["recovery"]:
        panels.recovery(folder / "recovery.png", told["recovery"])
    shares = {
        stage: {k: v for k, v in values.items() if not k.startswith("stage")}
        for stage, values in told["scores"].items()
    }
    if shares and all(shares.values()):
        panels.scores(folder / "scores.png", shares)


def show(made: ItemRef) -> None:
    """The report of a model on Prefect's pages."""
    run, folder = made.id.removeprefix("prune_"), Path(made.asset).parent
    told = json.loads((folder / "report.json").read_text())
    speed = json.loads((folder / "speed.json").read_text())["images_per_second"]
    text = f"# Pruned for {told['sensor']}\n\nFrom {told['parent']}.\n\n{markdown(stage_rows(told, speed))}\n\n"
    worth = markdown(score_rows(told)) if told["scores"] else UNSCORED
    show_text(f"report-{run}", f"{text}{worth}\n", "What pruning left, and what it is worth")
    show_table(f"stages-{run}", told["stages"], "What each step of pruning left")
    for name, caption in CAPTIONS.items():
        if (folder / f"{name}.png").exists():
            show_picture(f"{name}-{run}", folder / f"{name}.png", caption)
