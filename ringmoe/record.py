"""A training run, told to files as it goes: lines of JSON, TensorBoard where it is installed, and the experts' load."""

# Shape suffixes: L block, M modality, E expert, R router.

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor

from ringmoe.backbone import Features, RingMoE
from ringmoe.history import Step
from ringmoe.moe import Router

LINES = "steps.jsonl"


class ExpertLoad:
    """How evenly a model's experts are used by all tokens since one last asked; watches every forward pass of training.

    Parameters
    ----------
    model
        Watched until `close`.
    """

    def __init__(self, model: RingMoE) -> None:
        self.modalities = model.modalities
        self._alive = {kind: _alive(model, kind) for kind in ("specialized", "collaborative")}
        self._load: dict[str, Tensor] = {}
        self._handle = model.register_forward_hook(self._add)

    def close(self) -> None:
        """Watch no more."""
        self._handle.remove()

    def _add(self, model: torch.nn.Module, args: Any, features: Features) -> None:
        if torch.is_grad_enabled():
            for kind in self._alive:
                found = [r.load_ME.detach() for routing in features.routing if (r := getattr(routing, kind))]
                if found:
                    load_LME = torch.stack(found)
                    self._load[kind] = self._load[kind] + load_LME if kind in self._load else load_LME

    def taken(self) -> dict[str, float]:
        """What was counted since the last call, over all ranks, which call this together.

        Returns
        -------
        dict
            By kind of expert: `max_over_mean/KIND`, tokens of the busiest expert of a router over the mean of its
            experts, averaged over routers; `dead/KIND`, experts without a token in routers that had some;
            `entropy/KIND/MODALITY`, of the choice of a modality's tokens, 1 where all experts are chosen equally
            often and 0 where one is, averaged over blocks. Pruned experts do not count. And `share/MODALITY`, of the
            tokens of the first block: the mix as measured.
        """
        told: dict[str, float] = {}
        for kind in sorted(self._load):
            load_LME = self._load.pop(kind)
            if dist.is_initialized():
                dist.all_reduce(load_LME)
            load_LME = load_LME.double().cpu()
            told |= self._told(kind, load_LME, self._alive[kind])
            share_M = load_LME[0].sum(-1) / load_LME[0].sum().clamp(min=1)
            told |= {f"share/{m}": float(share) for m, share in zip(self.modalities, share_M, strict=True)}
        return told

    def _told(self, kind: str, load_LME: Tensor, alive_LRE: Tensor) -> dict[str, float]:
        load_LRE = load_LME if alive_LRE.shape[1] > 1 or len(self.modalities) == 1 else load_LME.sum(1, keepdim=True)
        seen_LR = load_LRE.sum(-1) > 0
        mean_LR = load_LRE.sum(-1) / alive_LRE.sum(-1)
        told = {
            f"max_over_mean/{kind}": float((load_LRE.amax(-1) / mean_LR)[seen_LR].mean()),
            f"dead/{kind}": float((alive_LRE & (load_LRE == 0) & seen_LR[..., None]).sum()),
        }
        share_LME = load_LME / load_LME.sum(-1, keepdim=True).clamp(min=1)
        choices_LM = alive_LRE.sum(-1).double().log().expand(share_LME.shape[:2])
        evenness_LM = -torch.special.xlogy(share_LME, share_LME).sum(-1) / choices_LM
        counted_LM = (load_LME.sum(-1) > 0) & (choices_LM > 0)
        for m, modality in enumerate(self.modalities):
            if counted_LM[:, m].any():
                told[f"entropy/{kind}/{modality}"] = float(evenness_LM[:, m][counted_LM[:, m]].mean())
        return told


def _alive(model: RingMoE, kind: str) -> Tensor:
    """Experts that pruning left, (L, R, E) bool, of the blocks that have a router of a kind."""
    routers = [getattr(block.experts, kind) for block in model.blocks()]
    found = [router.alive_RE.cpu() for router in routers if isinstance(router, Router)]
    return torch.stack(found) if found else torch.zeros(0, 1, 1, dtype=torch.bool)


class Recorder:
    """Writes what a run does into a folder: `steps.jsonl`, and TensorBoard's events where it is installed.

    Call it with every step, on every rank; the first rank writes. Steps between two lines are averaged. A run that
    goes on from a state first drops the lines of the steps that it takes again.

    Parameters
    ----------
    folder
        Made when missing.
    model
        Whose experts' load is told; None tells none.
    every
        Steps to a line.
    flops_per_image
        Of a training step, as three times a forward pass's (`presets.describe`).
    peak_flops
        FLOP/s that one device reaches in plain matrix products; with it the share of peak is told.
    """

    def __init__(
        self,
        folder: str | Path,
        model: RingMoE | None = None,
        *,
        every: int = 1,
        flops_per_image: float = 0.0,
        peak_flops: float | None = None,
    ) -> None:
        self.folder, self.every = Path(folder), every
        self.flops_per_image, self.peak_flops = flops_per_image, peak_flops
        self._experts = None if model is None else ExpertLoad(model)
        self._since: list[Step] = []
        self._lines: TextIO | None = None
        self._board: Any = None
        self._begun = False

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._experts is not None:
            self._experts.close()
        for target in (self._lines, self._board):
            if target is not None:
                target.close()

    def __call__(self, step: Step) -> None:
        """Take a step; every so many, write a line."""
        if not self._begun:
            self._begin(step.index)
        self._since.append(step)
        if (step.index + 1) % self.every == 0:
            line = self._line()
            self._since = []
            if self._lines is not None:
                self._lines.write(json.dumps(_plain(line), allow_nan=False) + "\n")
                self._lines.flush()
            if self._board is not None:
                for name, value in _flat(line):
                    self._board.add_scalar(name, value, step.index)

    def _begin(self, first: int) -> None:
        self._begun = True
        if dist.is_initialized() and dist.get_rank():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path, draft = self.folder / LINES, self.folder / f"{LINES}.draft"
        before = [json.dumps(line) + "\n" for line in read(self.folder) if line["step"] < first]
        draft.write_text("".join(before))
        draft.replace(path)
        self._lines = path.open("a")
        self._board = _board(self.folder, first)

    def _line(self) -> dict[str, Any]:
        steps, ranks = self._since, dist.get_world_size() if dist.is_initialized() else 1
        images = torch.tensor(float(sum(s.images for s in steps)), dtype=torch.float64)
        if dist.is_initialized():
            images = images.to(torch.device("cuda") if dist.get_backend() == "nccl" else "cpu")
            dist.all_reduce(images)
        seconds = sum(s.seconds for s in steps)
        rate = float(images) / max(seconds, 1e-9)
        counted = [s for s in steps if not s.skipped]
        names = dict.fromkeys(name for s in counted for name in s.terms)
        line: dict[str, Any] = {
            "step": steps[-1].index,
            "loss": _average([s.loss for s in counted]),
            "terms": {name: _average([s.terms[name] for s in counted if name in s.terms]) for name in names},
            "rate": steps[-1].rate,
            "norm": _average([s.norm for s in counted]),
            "skipped": len(steps) - len(counted),
            "images_per_second": rate,
            "step_s": seconds / len(steps),
            "waiting_share": sum(s.waited_s for s in steps) / max(seconds, 1e-9),
        }
        if self.peak_flops:
            line["share_of_peak"] = self.flops_per_image * rate / (self.peak_flops * ranks)
        if self._experts is not None:
            line["experts"] = self._experts.taken()
        return line


def read(folder: str | Path) -> list[dict[str, Any]]:
    """The lines a recorder wrote, in order; one that a kill cut short is left out."""
    path = Path(folder) / LINES
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def measured_peak(device: torch.device, dtype: torch.dtype, *, side: int | None = None, repeats: int = 5) -> float:
    """FLOP/s of the fastest of some plain products of square matrices: what a share of peak is a share of.

    Parameters
    ----------
    side
        Of the matrices; None takes 8192 on CUDA and 1024 elsewhere.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best = math.inf
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        product = left @ right
        float(product[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _board(folder: Path, first: int) -> Any:
    """TensorBoard's writer; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first)


def _average(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(line: Mapping[str, Any], before: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in line.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}/")
        elif name != "step":
            found.append((before + name, float(value)))
    return found
