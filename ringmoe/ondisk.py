"""A model whose weights stay in its checkpoint's files: its shape in memory, each tensor read when it is asked for."""

# Shape suffixes: T token of the whole mixed batch, C width.

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import RingMoE
from ringmoe.checkpoint import HEAD, Description, check_names, describe, outline
from ringmoe.modality import Batch
from ringmoe.quantise import quantised
from ringmoe.stored import Stored


class OnDisk(RingMoE):
    """A model without memory: profiles are held against it, budgets are spent on it, and batches walk through it.

    Its `state_dict` is a mapping that reads one tensor at a time.
    """

    stored: Stored

    def state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Tensor]:  # type: ignore[override]
        """The checkpoint's tensors, read as they are asked for; arguments change nothing."""
        return self.stored

    def walk(self, batch: Batch) -> Iterator[None]:
        """The forward pass of a batch, which stops before every block, for that to be filled, and at the end."""
        x_TC, spans, counted, _ = self._embed(batch, {}, None)
        for stage, blocks in enumerate(self.stages):
            if stage:
                x_TC = self.merges[stage](x_TC, spans)
                spans = tuple(s._replace(rows=s.rows // 2, cols=s.cols // 2) for s in spans)
                counted = [F.max_pool2d(c[:, None].float(), 2)[:, 0] > 0 for c in counted]
            groups = self._groups(spans, counted)
            for block in blocks:  # type: ignore[attr-defined]
                yield
                x_TC = block(x_TC, spans, groups)[0]
        yield


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose configuration was read and whose files were looked at."""

    told: Description
    """What the configuration says."""
    tensors: Stored
    """All tensors, a head's too."""
    model: OnDisk
    """The encoder."""


def open_on_disk(folder: str | os.PathLike[str], device: torch.device | str = "cpu", *, verify: bool = True) -> Opened:
    """Open a checkpoint of floating-point weights without reading them.

    Parameters
    ----------
    folder
        The checkpoint.
    device
        Where tensors go when they are read.
    verify
        Hold the files against their checksums, in one pass over them; sizes, names, shapes and dtypes always are.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged.
    PruneError
        Its weights are quantised.
    """
    path = Path(folder)
    told = describe(path)
    stored = Stored(path, told.files, device)
    like = {name: tensor for name, tensor in stored.like.items() if not name.startswith(HEAD)}
    check_names(path, outline(path, told).state_dict(), like, told.dtypes)
    if "int8" in told.dtypes:
        raise quantised(str(path))
    if verify:
        stored.verify()
    with torch.device("meta"):
        model = OnDisk(told.config, told.contract).eval()
    model.stored = stored.only(like)
    return Opened(told, stored, model)


def prefixes(model: RingMoE) -> list[str]:
    """What the names of each block's tensors begin with, first block to last."""
    return [f"stages.{stage}.{i}." for stage, depth in enumerate(model.config.depths) for i in range(depth)]


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Read all tensors of a part of a model into it; `module.to("meta")` lets go of them."""
    module.load_state_dict(dict(tensors), assign=True)
