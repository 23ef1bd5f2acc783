"""The model over a whole raster, tile by tile; yields finished blocks, writes nothing."""

# Shape suffixes: B tiles, C channels, K classes, H rows, W columns.
# xarray comes in as an argument only: this file must import where only torch and numpy are installed.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ringmoe.errors import TileError
from ringmoe.looks import chips_from
from ringmoe.modality import Chips
from ringmoe.tasks.segmentation import NO_DATA
from ringmoe.tiling import Blender, Strip, Window, plan

if TYPE_CHECKING:
    import xarray as xr

Read: TypeAlias = Callable[[Window], tuple[np.ndarray, np.ndarray]]
"""A window's pixels (C, h, w), float32, physical units, NaN where missing, and validity (h, w), bool."""

GRAIN = 32
"""Sides of what the model sees are multiples of this many pixels: the stride of its coarsest stage."""


@dataclass(frozen=True)
class Tiling:
    """How a raster is cut and blended."""

    tile: int = 256
    """Side of a tile in pixels, a multiple of 32."""
    overlap: int = 64
    """Pixels shared by neighbouring tiles."""
    batch: int = 4
    """Tiles that go through the model together."""


@dataclass(frozen=True)
class Block:
    """Finished rows of a map, over the raster's whole width."""

    y0: int
    """First row."""
    x0: int
    """First column, always 0."""
    classes: np.ndarray
    """(h, w) uint8 class codes from 1; 0 where nothing was measured."""
    probabilities: np.ndarray
    """(K, h, w) float32 probability of class codes 1 to K, summing to 1; NaN where nothing was measured."""


class Mapper(Protocol):
    """What `predict` asks of a model: `ringmoe.tasks.segmentation.Segmenter` is one."""

    training: bool
    n_classes: int

    def __call__(self, chips: Chips) -> Tensor:
        """logits_BKHW of the chips."""

    def train(self, mode: bool) -> object:
        """Set the mode, as in torch.nn.Module."""


def reader(composite: xr.Dataset, *, described: bool = False) -> Read:
    """Read windows of a composite, or of one look of a cube: `data` with dims (band, y, x).

    Parameters
    ----------
    described
        As the model's contract says: whether pixels that lack a band are mapped from the others, or not at all.
    """
    return lambda w: chips_from(
        composite.isel(y=slice(w.y0, w.y0 + w.h), x=slice(w.x0, w.x0 + w.w)), described=described
    )


def predict(
    mapper: Mapper,
    read: Read,
    size: tuple[int, int],
    tiling: Tiling | None = None,
    device: torch.device | str = "cpu",
    on_tile: Callable[[int, int], None] | None = None,
) -> Iterator[Block]:
    """Map a raster of any size in memory that does not grow with its height.

    Class probabilities of overlapping tiles are averaged with weights that fall towards a tile's edge, always in the
    same order, so that the same raster gives the same bits. Tiles without a valid pixel never see the model.

    Parameters
    ----------
    mapper
        Model with a head, on `device`.
    read
        Reads one window; called once per window, from the top row by row.
    size
        Rows and columns of the raster.
    device
        Where the model is.
    on_tile
        Told, after each tile, how many are done and how many there are.

    Yields
    ------
    Block
        Rows from the top, each once.

    Raises
    ------
    TileError
        When tile and overlap make no sense.
    """
    tiling = tiling or Tiling()
    if tiling.tile % GRAIN:
        raise TileError(
            "the model cannot take tiles of that size",
            item=f"tile {tiling.tile}",
            enough=f"a multiple of {GRAIN}",
            todo=f"choose {max(tiling.tile // GRAIN, 1) * GRAIN}",
        )
    windows = plan(size[0], size[1], tiling.tile, tiling.overlap)
    training = mapper.training
    mapper.train(False)
    try:
        yield from _mapped(mapper, read, windows, tiling, torch.device(device), on_tile)
    finally:
        mapper.train(training)


def _mapped(
    mapper: Mapper,
    read: Read,
    windows: Sequence[Window],
    tiling: Tiling,
    device: torch.device,
    on_tile: Callable[[int, int], None] | None,
) -> Iterator[Block]:
    blender = Blender(windows, mapper.n_classes + 1, tiling.overlap, device)
    for start in range(0, len(windows), tiling.batch):
        group = windows[start : start + tiling.batch]
        answers = _answers(mapper, [read(w) for w in group], device)
        for done, (window, answer_KHW) in enumerate(zip(group, answers, strict=True), start + 1):
            for strip in blender.add(window, answer_KHW):
                yield _block(strip)
            if on_tile is not None:
                on_tile(done, len(windows))


@torch.inference_mode()
def _answers(mapper: Mapper, tiles: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> list[Tensor]:
    """Probabilities of every class, and as a last channel the validity, (K + 1, h, w) float32 per tile.

    All tiles say the same of a pixel's validity, so that its blend is exactly 0 or 1.
    """
    h, w = tiles[0][1].shape
    valid_BHW = torch.from_numpy(np.stack([valid for _, valid in tiles])).to(device)
    answer_BKHW = torch.zeros(len(tiles), mapper.n_classes + 1, h, w, device=device)
    answer_BKHW[:, -1] = valid_BHW
    seen = [i for i, (_, valid) in enumerate(tiles) if valid.any()]
    if seen:
        pixels_BCHW = torch.from_numpy(np.stack([_filled(tiles[i][0]) for i in seen]))
        valid_seen_BHW = torch.from_numpy(np.stack([_filled(tiles[i][1]) for i in seen]))
        logits_BKHW = mapper(Chips(pixels_BCHW.to(device), valid_seen_BHW.to(device)))
        answer_BKHW[seen, :-1] = logits_BKHW[:, :, :h, :w].float().softmax(dim=1)
    return list(answer_BKHW)


def _filled(a: np.ndarray) -> np.ndarray:
    """Mirrored at the lower and right edge until both sides are multiples of GRAIN."""
    h, w = a.shape[-2:]
    return np.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, -h % GRAIN), (0, -w % GRAIN)], mode="symmetric")


def _block(strip: Strip) -> Block:
    values_KHW = strip.values_KHW.cpu().numpy()
    valid = values_KHW[-1] > 0.5
    classes = np.where(valid, values_KHW[:-1].argmax(axis=0) + 1, NO_DATA).astype(np.uint8)
    return Block(strip.y0, 0, classes, np.where(valid, values_KHW[:-1], np.nan).astype(np.float32))
