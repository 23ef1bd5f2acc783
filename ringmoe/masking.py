"""Which parts of an image the model must guess: SimMIM's random units of 32 by 32 px.

SimMIM: Xie et al., CVPR 2022. Shape legend: B image, H row and W column of units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringmoe.modality import Batch, Modality, ordered

UNIT_PX = 32
"""Side of what is masked at once."""

SHARE = 0.6
"""Share of the units masked, as in the paper."""


def random_units(batch: int, rows: int, cols: int, *, generator: torch.Generator, share: float = SHARE) -> Tensor:
    """True where masked, bool (B, H, W); never all of an image and, where it has two units or more, never none.

    The expected share is exact: where `share` of the units is no whole number, images are rounded up or down, from a
    random start so that the number in the whole batch is the same every time, but for one unit.
    """
    units = rows * cols
    upto = torch.arange(batch + 1, dtype=torch.float64) * (share * units) + torch.rand(1, generator=generator).double()
    count_B1 = upto.floor().diff()[:, None].clamp(min(1, units - 1), max(units - 1, 0))
    rank_BX = torch.rand(batch, units, generator=generator).argsort(-1).argsort(-1)
    return (rank_BX < count_B1).view(batch, rows, cols)


def mask_batch(batch: Batch, *, generator: torch.Generator, share: float = SHARE) -> dict[Modality, Tensor]:
    """A mask for every modality of a batch; on the CPU, as the generator."""
    masks = {}
    for modality in ordered(batch):
        chips = batch[modality]
        rows, cols = (side // UNIT_PX for side in chips.pixels_BCHW.shape[-2:])
        masks[modality] = random_units(len(chips), rows, cols, generator=generator, share=share)
    return masks


def units_of(mask_BHW: Tensor) -> Tensor:
    """Where a mask is True, as numbers of B x H x W that ascend, long; a mask on a CPU tells without waiting."""
    return mask_BHW.flatten().nonzero()[:, 0]
