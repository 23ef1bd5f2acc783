"""The profile of a model too large for memory: one block at a time, over the activations of all batches."""

# Shape suffixes: T token of the whole mixed batch, C width.

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.backbone import Features, RingMoE
from ringmoe.checkpoint import HEAD, check_names, describe, outline
from ringmoe.modality import Batch, Modality
from ringmoe.stored import Part, Stored
from ringmoe.stream import prefixes
from ringmoe.usage import Usage, profile


class Walked(RingMoE):
    """A model that is not run but walked through: called, it embeds a batch and waits before its first block.

    What is registered on its blocks, a profile's hooks among it, sees them run as they do in any model.
    """

    walks: list[Iterator[None]]

    def forward(
        self,
        batch: Batch,
        masked: Mapping[Modality, Tensor] | None = None,
        *,
        visible: Mapping[Modality, Tensor] | None = None,
    ) -> Features:
        """No features yet; the batch takes its first step."""
        walk = self._walk(batch, masked or {}, visible)
        next(walk)
        self.walks.append(walk)
        return Features({}, [], self.modalities)

    def _walk(
        self, batch: Batch, masked: Mapping[Modality, Tensor], visible: Mapping[Modality, Tensor] | None
    ) -> Iterator[None]:
        """As `RingMoE.forward`, but stops before every block and at the end."""
        x_TC, spans, counted, _ = self._embed(batch, masked, visible)
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


def profile_streamed(
    folder: str | os.PathLike[str],
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    verify: bool = True,
) -> Usage:
    """What `ringmoe.usage.profile` tells of a model, in the memory of its largest block and the tokens of all batches.

    Parameters
    ----------
    folder
        A checkpoint.
    batches
        Unmasked chips on that device; all are gone through before the second block is read.
    device
        Where blocks are read to and run.
    verify
        Hold the checkpoint's files against their checksums first.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged.
    PruneError
        The batches hold no measured pixel.
    """
    path = Path(folder)
    told = describe(path)
    stored = Stored(path, told.files, device)
    wanted = outline(path, told).state_dict()
    check_names(path, wanted, {n: t for n, t in stored.like.items() if not n.startswith(HEAD)}, told.dtypes)
    if verify:
        stored.verify()
    with torch.device("meta"):
        model = Walked(told.config, told.contract).eval()
    model.walks = []
    names = prefixes(model)
    outside = {name: stored[name] for name in wanted if not name.startswith(tuple(names))}
    model.load_state_dict(outside, strict=False, assign=True)

    def all_steps() -> Iterator[Batch]:
        """The batches, and once the model has taken the last of them, its blocks one after the other."""
        yield from batches
        for index, (block, name) in enumerate(zip(model.blocks(), names, strict=True)):
            block.load_state_dict(dict(Part(stored, name)), assign=True)
            block.experts.keep(told.config.survivors_of(index, len(model.modalities)), device)
            for walk in model.walks:
                next(walk)
            block.to("meta")

    return profile(model, all_steps())
