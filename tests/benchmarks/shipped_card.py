"""A pruned checkpoint to the folder that ships: weights in bfloat16, provenance, and a card with scores."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pretrain_sets
import torch
from pretrain_run import ROWS, ask

from ringmoe import checkpoint
from ringmoe.backbone import RingMoE
from ringmoe.shipped import CARD

FOR = {
    "rsscn7": "seven kinds of scene, optical",
    "ombria_s1": "flooded pixels, Sentinel-1",
    "ombria_s2": "flooded pixels, three bands of Sentinel-2",
    "sen1floods11_s1": "water pixels, Sentinel-1",
    "sen1floods11_s2": "water pixels, Sentinel-2",
    "landsat8_cover": "cloud, snow, water or land, Landsat-8",
    "sandbox_sar_l1": "land cover of a procedural Earth, complex radar alone",
}
"""What each set asks."""

ASKED_PX = 128
"""Side that whole scenes are averaged down to before they are asked about."""

Table = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Data set, row, probe."""


def ship(work: Path, out: Path, command: str, realdata: Path) -> dict[str, Any]:
    """Write the folder; what is scored is what is shipped, rounding included.

    Returns
    -------
    dict
        Parameters, bytes, sha256 of the weights, and the scores.
    """
    found = checkpoint.load(work / "pruned")
    small = found.model.to(torch.bfloat16)
    told = json.loads((work / "chips" / "sources.json").read_text())
    table = scores(RingMoE.from_tensors(found.config, found.contract, _floats(small)), realdata)
    training = {k: v for k, v in found.meta.items() if k != "contract_digest"}
    provenance = {
        "step": "ship", "command": command, "data": told["rows"], "extent": told["extent"], "training": training,
        "scores": table,
    }  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    checkpoint.save(out, small, provenance=provenance)
    weights = out / checkpoint.WEIGHTS
    facts = {
        "parameters": sum(p.numel() for p in small.parameters()),
        "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "contract": found.contract.digest(),
    }
    (out / CARD).write_text(card(out.name, facts, provenance, found))
    return {"name": "make_pretrained", "out": str(out), **facts, "scores": table}


def _floats(model: RingMoE) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in model.state_dict().items()}


def scores(model: RingMoE, realdata: Path) -> dict[str, dict[str, dict[str, float]]]:
    """k-NN and linear probe of frozen features on sets that served to ask alone, beside what takes no training."""
    torch.manual_seed(0)
    untrained = RingMoE(model.config, model.contract).eval()
    found = {}
    for task in pretrain_sets.read_all(root=realdata).tasks:
        table = ask({"pretrained": model, "untrained": untrained}, task, seed=0, asked_px=ASKED_PX)
        found[task.name] = {
            row: {probe: round(float(getattr(table[row], probe)), 4) for probe in ("knn", "linear")} for row in ROWS
        }
        print(f"{task.name}: {found[task.name]}", file=sys.stderr, flush=True)
    return found


def card(name: str, facts: Mapping[str, Any], provenance: Mapping[str, Any], found: checkpoint.Checkpoint) -> str:
    """Markdown; a test holds its figures against the files."""
    training = provenance["training"]
    before = training["before"]
    data = "\n".join(
        f"| {row['what']} | {', '.join(row['sensors'])} | {row['licence']} |" for row in provenance["data"]
    )
    takes = "\n".join(
        f"| {entry.modality.value} | {entry.sensor} | {entry.quantity} | {entry.gsd_m[0]:g} to {entry.gsd_m[1]:g} | "
        f"{', '.join(dict.fromkeys(band.name for band in entry.bands))} |"
        for entry in (*found.contract.inputs.values(), *found.contract.also)
    )
    return f"""# RingMoE `{name}`

An encoder of optical, multispectral, complex and detected radar pixels: `ringmoe.load("{name}")`. Weights alone, no
head. It is what `ringmoe adapt` starts from where nothing was pre-trained, and what `ringmoe infer` draws feature maps
with where there is no model of one's own.

| | |
|---|---|
| parameters | {facts["parameters"]} |
| weights | {facts["bytes"]} bytes, bfloat16, safetensors |
| sha256 of `model.safetensors` | `{facts["sha256"]}` |
| data contract | `{facts["contract"]}` |
| experts in a block | one specialised for each modality, one collaborative, one shared |
| licence of the weights | Apache-2.0 |

## How it was made
    {provenance["command"]}

- Masked modelling of all modalities at once: {before["steps"]} of {before["steps_planned"]} steps of
  {before["recipe"]["batch"]} chips of {before["recipe"]["chip_px"]} px, two views of each where views weigh
  more than 0.
- Cut to {training["kept"]}.
- {training["recovery_steps"]} steps in which its features learned to be those of the whole; their error over the
  variance of the whole's went from {training["feature_error_first"]:g} to {training["feature_error_last"]:g}.

`minutes` is a budget: steps are planned by the pace of a few, so that another machine makes another number of them.

## What it learned from
| data | sensors | licence |
|---|---|---|
{data}

Nothing that is for research only, and nothing that it is asked about below.

## What it takes
| modality | sensor | quantity | pixels, m | bands |
|---|---|---|---|---|
{takes}

Bands of other sensors too, where they are of the same quantity and say their wavelength, or frequency and polarisation.

## What its frozen features are worth
{_table(provenance["scores"])}

## What it is not
It is small, it saw a few square kilometres of the real Earth, and most of its chips are of a procedural one. Where the
table shows plain statistics or random filters above it, they are better. Adapt it before anything depends on it.
"""


def _table(table: Table) -> str:
    if not table:
        return "Not scored."
    lines = ["| asked | " + " | ".join(row.replace("_", " ") for row in ROWS) + " |", "|---" * (len(ROWS) + 1) + "|"]
    for name, rows in table.items():
        cells = [f"{100 * rows[row]['knn']:.1f} / {100 * rows[row]['linear']:.1f}" for row in ROWS]
        lines.append(f"| {FOR.get(name, name)} | " + " | ".join(cells) + " |")
    how = f"one split, one seed, scenes of {ASKED_PX} px"
    text = f"Share told right, in percent, by five nearest neighbours / by logistic regression; {how}.\n\n"
    return text + "\n".join(lines)
