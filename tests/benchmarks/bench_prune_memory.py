"""Pruning a checkpoint of the giant's shape by stream: peak memory of each step beside the largest block.

A full-size checkpoint is written with random weights in bfloat16 (29.5 GB), and 21 slots a block become 9, 6 and 1,
each step in a process of its own; what a step was made of is removed after it, and everything at the end. `--quick`
takes a narrowed giant; where the disk has no room for the whole, stage 4 alone is pruned, and the figures say so.
There is no peer: no other toolkit prunes experts of such a model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GIANT_GB, STAGE_GB, QUICK_GB = 46.0, 14.0, 2.0
"""Room taken at most: a parent and what is made of it."""

STEPS = ("write", "slice", "keep", "integrate")
SLOTS = {"write": 21, "slice": 9, "keep": 6, "integrate": 1}


def shape(kind: str) -> Any:
    """The configuration pruned: giant, stage or quick."""
    from dataclasses import replace

    from ringmoe import presets

    giant = presets.giant()
    if kind == "stage":
        return replace(giant, depths=(0, 0, 0, giant.depths[3]))
    return giant if kind == "giant" else replace(giant, dim=64, heads=(2, 4, 8, 16))


def write(target: Path, kind: str) -> None:
    """A checkpoint of random weights, tensor by tensor; norms are ones, so that tokens stay of their size."""
    import torch

    from ringmoe import presets
    from ringmoe.backbone import RingMoE
    from ringmoe.checkpoint import Description, conclude
    from ringmoe.stored import Writer

    config, contract = shape(kind), presets.paper_contract()
    with torch.device("meta"):
        like = {name: t.to(torch.bfloat16) for name, t in RingMoE(config, contract).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    pool = (0.02 * torch.randn(1 << 24, generator=generator)).to(torch.bfloat16)
    target.mkdir(parents=True)
    writer = Writer(target, like)
    for name, wanted in like.items():
        tensor = torch.ones(wanted.shape, dtype=torch.bfloat16)
        if "norm" not in name or name.endswith("bias"):
            for run in tensor.view(-1).split(len(pool) // 2):
                start = int(torch.randint(len(pool) // 2, (), generator=generator))
                run.copy_(pool[start : start + len(run)])
        writer.put(name, tensor)
    conclude(target, Description(config, contract, tuple(writer.finish()), {"bfloat16"}))


def batches(images: int) -> Any:
    """Chips that the experts are profiled on."""
    import torch

    from ringmoe.modality import Chips, Modality

    pixels = torch.randn(images, 4, 192, 192, generator=torch.Generator().manual_seed(1))
    return [{Modality.MS: Chips(pixels, torch.ones(images, 192, 192, dtype=torch.bool))}]


def most_used(usage: Any) -> list[Any]:
    """The paper's choice: of four collaborative experts a block the one chosen most."""
    from dataclasses import replace

    from ringmoe.criteria import Router, to_keep

    blocks = range(len(usage.collaborative))
    left = [usage.config.survivors_of(i, len(usage.modalities)) for i in blocks]
    kept = [to_keep(usage, Router(i, "collaborative"), 1, "usage") for i in blocks]
    return [replace(old, collaborative=ids) for old, ids in zip(left, kept, strict=True)]


def step(name: str, parent: Path, target: Path, kind: str) -> dict[str, Any]:
    """One step of pruning, in this process."""
    import torch

    from ringmoe.modality import Modality
    from ringmoe.stream import integrate_streamed, select_streamed
    from ringmoe.walk import profile_streamed

    torch.set_num_threads(1)
    started = time.perf_counter()
    told: dict[str, Any] = {}
    if name == "write":
        write(target, kind)
    elif name == "slice":
        select_streamed(parent, target, modalities=[Modality.MS])
    else:
        usage = profile_streamed(parent, batches(1))
        told["profile_s"] = time.perf_counter() - started
        if name == "keep":
            select_streamed(parent, target, survivors=most_used(usage))
        else:
            integrate_streamed(parent, target, usage, "neurons")
    return told | {"seconds": time.perf_counter() - started} | sizes(target)


def sizes(folder: Path) -> dict[str, Any]:
    """Parameters and bytes of a checkpoint, and of its largest block."""
    from ringmoe.checkpoint import describe
    from ringmoe.stored import Stored

    like = Stored(folder, describe(folder).files).like
    blocks: dict[str, int] = {}
    for name, tensor in like.items():
        if name.startswith("stages."):
            block = ".".join(name.split(".")[:3])
            blocks[block] = blocks.get(block, 0) + tensor.nbytes
    return {
        "params": sum(t.numel() for t in like.values()),
        "gb": sum(t.nbytes for t in like.values()) / 1e9,
        "block_gb": max(blocks.values()) / 1e9,
    }


def in_a_process(name: str, parent: Path, target: Path, kind: str) -> dict[str, Any]:
    """The same in a process of its own, with the most memory it held; this one stays small, as children inherit it."""
    command = [sys.executable, __file__, "--step", name, "--of", str(parent), "--to", str(target), "--kind", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{name} ended with {child.returncode}")
    return json.loads(said.splitlines()[-1]) | {"peak_gb": usage.ru_maxrss * 1024 / 1e9, "slots": SLOTS[name]}


def measured(folder: Path, kind: str) -> dict[str, Any]:
    """All steps; every folder is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="prune-memory-", dir=folder))
    found: dict[str, dict[str, Any]] = {}
    try:
        for before, name in zip((None, *STEPS), STEPS, strict=False):
            parent = home / (before or "nothing")
            found[name] = in_a_process(name, parent, home / name, kind)
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
            shutil.rmtree(parent, ignore_errors=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    largest = found["write"]["block_gb"]
    peak = max(found[name]["peak_gb"] for name in STEPS[1:])
    return {
        "peak_gb": peak,
        "largest_block_gb": largest,
        "target_gb": 1.2 * largest + 2,
        "within_target": peak <= 1.2 * largest + 2,
        "checkpoint_gb": found["write"]["gb"],
        "seconds": sum(found[name]["seconds"] for name in STEPS[1:]),
        "params": [found[name]["params"] for name in STEPS],
        "steps": found,
    }


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a giant narrowed to a seventh of its width")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where there is room: 46 GB")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(step(asked.step, asked.of, asked.to, asked.kind)))
        return
    free = shutil.disk_usage(asked.folder).free / 1e9
    needs = {"quick": QUICK_GB} if asked.quick else {"giant": GIANT_GB, "stage": STAGE_GB}
    kind = next((name for name, wanted in needs.items() if free >= wanted), None)
    if kind is None:
        raise SystemExit(f"{asked.folder} has {free:.1f} GB free; {min(needs.values()):.0f} GB would be enough")
    what = {
        "giant": "the giant's shape, 14.7 B parameters",
        "stage": f"stage 4 of the giant alone: for all of it the disk has no room ({free:.0f} of {GIANT_GB:.0f} GB)",
        "quick": "a giant narrowed to width 64: its figures are not the giant's",
    }[kind]
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "python": platform.python_version()}
    print(json.dumps({"name": "prune_memory", "what": what} | measured(asked.folder, kind) | machine))


if __name__ == "__main__":
    main()
