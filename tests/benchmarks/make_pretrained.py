"""The checkpoint that ships: nano pre-trained, pruned to an expert of each kind, recovered, scored, with its card.

    python tests/benchmarks/make_pretrained.py WORK --minutes 60 --out ringmoe/pretrained/nano

Each stage is found finished or goes on where it was stopped: chips, states of training, the checkpoint trained, the one
pruned. Where WORK/chips lies, training and pruning need torch, numpy and safetensors alone (`--until pruned`).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from ringmoe import checkpoint, presets  # noqa: E402
from ringmoe.backbone import RingMoE  # noqa: E402
from ringmoe.data import ChipSampler, Crop  # noqa: E402
from ringmoe.mapped import open_chips  # noqa: E402
from ringmoe.modality import Batch, Modality  # noqa: E402
from ringmoe.objectives import MaskedModelling, Objective, ObjectiveConfig  # noqa: E402
from ringmoe.prune import keep_experts, profile  # noqa: E402
from ringmoe.train import Step, TrainConfig, distil, pretrain  # noqa: E402

STAGES = ("chips", "trained", "pruned", "shipped")
RECOVERY = 0.15
"""Share of the minutes that recovery from pruning has."""
PROFILED = 32
"""Batches over which experts are counted."""


@dataclass(frozen=True)
class Recipe:
    """How it is taught; what it is asked by is the same for all."""

    preset: str = "nano"
    """Of ringmoe.presets."""
    chip_px: int = 64
    """Side of a chip."""
    batch: int = 96
    """Chips of a step, two of each place."""
    rate: float = 4e-4
    """Highest learning rate."""
    sparse: int = 1
    """1 where only what is shown passes the experts."""
    views: float = 0.5
    """Weight of telling views."""
    texture: float = 0.0
    """Weight of guessing what random filters answer."""
    light: float = 0.2
    """Largest logarithm of the factor between the lights of two views."""
    mix: str = "opt=30,ms=40,sar_l1=10,sar_l2=20"
    """Share of each modality among the chips."""
    scale: str = "0.6,1.8"
    """Factors of the pixel size of optical and multispectral chips."""
    precision: str = "bfloat16"
    """What autocast computes in."""
    seed: int = 0
    """Of everything drawn."""


class TimeIsUp(Exception):
    """The minutes are over before the steps are."""


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sampler_of(folder: Path, recipe: Recipe) -> ChipSampler:
    """Chips of all modalities as the recipe wants them."""
    sources, contract = open_chips(folder)
    shares = {Modality(k): float(v) for k, v in (part.split("=") for part in recipe.mix.split(","))}
    low, high = (float(part) for part in recipe.scale.split(","))
    crop = Crop(chip_px=recipe.chip_px, turns=True, scale=(low, high), twins=recipe.views > 0)
    return ChipSampler(sources, contract, batch=recipe.batch, mix=shares, crop=crop, seed=recipe.seed)


def train(work: Path, recipe: Recipe, minutes: float, threads: int | None) -> RingMoE:
    """Masked modelling over all modalities, for as many steps as fit, or for as many as were planned before."""
    if (work / "trained" / checkpoint.CONFIG).exists():
        return checkpoint.load(work / "trained", device=device()).model
    sampler = sampler_of(work / "chips", recipe)
    steps = _planned(work, recipe, sampler, minutes)
    model, objective = _made(work, recipe)
    config = TrainConfig(
        steps=steps, rate=recipe.rate, warmup=max(steps // 10, 1), precision=recipe.precision, seed=recipe.seed,
        threads=threads, keep_in=str(work / "states"), keep_every=200, run=json.dumps(asdict(recipe), sort_keys=True),
    )  # fmt: skip
    last = [0]
    try:
        pretrain(model, objective, lambda n: sampler.stream(n, workers=2), config, _told(steps, 1.15 * minutes, last))
    except TimeIsUp:
        print(f"the minutes are over at step {last[0]} of {steps}: taken as it is", file=sys.stderr)
    provenance = {"step": "pretrain", "recipe": asdict(recipe), "steps": last[0], "steps_planned": steps}
    checkpoint.save(work / "trained", model.eval(), provenance=provenance)
    return model


def _made(work: Path, recipe: Recipe) -> tuple[RingMoE, MaskedModelling]:
    _, contract = open_chips(work / "chips")
    torch.manual_seed(recipe.seed)
    model = RingMoE(getattr(presets, recipe.preset)(recipe.chip_px), contract).to(device())
    weights = ObjectiveConfig(views=recipe.views, cut=True, texture=recipe.texture, light=recipe.light)
    return model, MaskedModelling(Objective(model, weights), sparse=bool(recipe.sparse)).to(device())


def _planned(work: Path, recipe: Recipe, sampler: ChipSampler, minutes: float) -> int:
    """Steps that fit, by the pace of a few on a model that is thrown away; a plan made before is kept to."""
    plan = work / "plan.json"
    if plan.exists():
        before = json.loads(plan.read_text())
        if before["recipe"] != asdict(recipe):
            raise SystemExit(f"{work} holds a run of another recipe: {before['recipe']}; choose another folder")
        return int(before["steps"])
    model, objective = _made(work, recipe)
    some = TrainConfig(steps=2, rate=1e-6, warmup=1, precision=recipe.precision)  # type: ignore[arg-type]
    pretrain(model, objective, sampler.stream, some)
    start = time.perf_counter()
    pretrain(model, objective, sampler.stream, TrainConfig(**{**asdict(some), "steps": 6}))
    pace_s = (time.perf_counter() - start) / 6
    steps = max(int((1 - RECOVERY) * minutes * 60 / pace_s), 20)
    plan.write_text(json.dumps({"recipe": asdict(recipe), "steps": steps, "pace_s": round(pace_s, 3)}))
    return steps


def prune(work: Path, recipe: Recipe, model: RingMoE, minutes: float, threads: int | None) -> RingMoE:
    """One specialised expert a modality, one collaborative, one shared; then its features are those of the whole."""
    if (work / "pruned" / checkpoint.CONFIG).exists():
        return checkpoint.load(work / "pruned", device=device()).model
    sampler = sampler_of(work / "chips", recipe)
    usage = profile(model, islice(_on_device(sampler.stream()), PROFILED))
    small = keep_experts(model, usage, specialized=1, collaborative=1, criterion="norm")
    cut, pace_s = copy.deepcopy(small), _pace_of_recovery(small, model, sampler)
    steps = max(int(RECOVERY * minutes * 60 / pace_s), 10)
    config = TrainConfig(
        steps=steps, rate=recipe.rate / 3, warmup=max(steps // 10, 5), seed=recipe.seed + 1, threads=threads
    )
    last = [0]
    history = distil(small, model, lambda n: sampler.stream(n, workers=2), config, _told(steps, 1e9, last))
    edge = max(1, min(10, steps // 4))
    first, final = history.loss[0], sum(history.loss[-edge:]) / edge
    if final > first:  # too few steps to gain anything
        small, steps, final = cut, 0, first
    provenance = {
        "step": "prune",
        "kept": "1 specialised expert a modality, 1 collaborative, 1 shared",
        "recovery_steps": steps,
        "feature_error_first": round(first, 5),
        "feature_error_last": round(final, 5),
        "before": checkpoint.load(work / "trained").meta,
    }
    checkpoint.save(work / "pruned", small.eval(), provenance=provenance)
    return small


def _pace_of_recovery(small: RingMoE, model: RingMoE, sampler: ChipSampler) -> float:
    start = time.perf_counter()
    distil(small, model, sampler.stream, TrainConfig(steps=3, rate=1e-9, warmup=1))
    return (time.perf_counter() - start) / 3


def _on_device(batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield {m: chips.to(device()) for m, chips in batch.items()}


def _told(steps: int, minutes: float, last: list[int]) -> Callable[[Step], None]:
    """Tell of every twentieth part, and end what takes too long."""
    start = time.perf_counter()

    def tell(step: Step) -> None:
        last[0] = step.index + 1
        if step.index % max(steps // 20, 1) == 0 or step.index == steps - 1:
            terms = " ".join(f"{k} {v:.3f}" for k, v in step.terms.items() if not k.startswith(("balance", "z/")))
            spent_s = time.perf_counter() - start
            print(f"{spent_s:6.0f} s, step {step.index + 1} of {steps}: {terms}", file=sys.stderr, flush=True)
        if time.perf_counter() - start > minutes * 60 and last[0] < steps:
            raise TimeIsUp

    return tell


def main() -> None:
    """Go through the stages; the last line is a JSON object of what was shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of all that is made on the way")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training and recovery")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "ringmoe" / "pretrained" / "nano")
    parser.add_argument("--until", choices=STAGES, default="shipped", help="the last stage")
    parser.add_argument("--realdata", type=Path, default=HERE.parents[2] / "shared" / "realdata")
    parser.add_argument("--earths", type=int, default=3, help="procedural Earths to learn from")
    parser.add_argument("--size", type=int, default=512, help="their side in pixels of 10 m")
    parser.add_argument("--side", type=int, default=128, help="of the squares that chips are cut from")
    parser.add_argument("--threads", type=int, default=None)
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    wanted = STAGES.index(options.until)
    if not (options.work / "chips" / "sources.json").exists():
        from shipped_data import write_data

        realdata = options.realdata if options.realdata.is_dir() else None
        write_data(options.work, realdata, earths=options.earths, size_px=options.size, side_px=options.side)
    if wanted >= STAGES.index("trained"):
        model = train(options.work, recipe, options.minutes, options.threads)
    if wanted >= STAGES.index("pruned"):
        prune(options.work, recipe, model, options.minutes, options.threads)
    if wanted >= STAGES.index("shipped"):
        from shipped_card import ship

        print(json.dumps(ship(options.work, options.out, _command(options), options.realdata)))


def _command(options: argparse.Namespace) -> str:
    """What somebody else would type: choices that decide the result, and no folder of this machine."""
    known = vars(options)
    named = ("minutes", "earths", "size", "side", *asdict(Recipe()))
    words = [f"--{name.replace('_', '-')} {known[name]:g}" if isinstance(known[name], float) else
             f"--{name.replace('_', '-')} {known[name]}" for name in named]  # fmt: skip
    return " ".join(["python tests/benchmarks/make_pretrained.py WORK", *words])


if __name__ == "__main__":
    main()
