"""Land cover as the benchmark's task: classes of chips and of pixels, straight from the features; and its training."""

# Shape suffixes: B chips, K classes, D features, H rows, W columns, N pixels.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from prune_land import CLASSES, Chipped
from torch import Tensor, nn

from ringmoe.backbone import RingMoE
from ringmoe.modality import Batch, Chips, Modality


class Cover(nn.Module):
    """One linear rule on each stage's map for pixels, and one on the mean of the last map for chips.

    Nothing but the backbone sees the pixels, so that what the task reaches is what the features are worth.

    Parameters
    ----------
    backbone
        RingMoE.
    modality
        Whose chips.
    """

    def __init__(self, backbone: RingMoE, modality: Modality) -> None:
        super().__init__()
        self.backbone, self.modality = backbone, modality
        widths = [backbone.config.dim * 2**stage for stage in range(4)]
        self.pixel = nn.ModuleList(nn.Conv2d(width, len(CLASSES), 1) for width in widths)
        self.chip = nn.Linear(widths[-1], len(CLASSES))

    def head_state(self) -> dict[str, Tensor]:
        """What is not the backbone's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}

    def pyramid_and_logits(self, chips: Chips) -> tuple[tuple[Tensor, ...], Tensor]:
        """The feature pyramid in float32, whatever the backbone computes in, and logits_BKHW of pixels."""
        pyramid = tuple(level.float() for level in self.backbone({self.modality: chips}).pyramids[self.modality])
        size = chips.pixels_BCHW.shape[-2:]
        pixel_BKHW = torch.zeros(())
        for rule, map_BDHW in zip(self.pixel, pyramid, strict=True):
            scaled = F.interpolate(rule(map_BDHW), size=size, mode="bilinear", align_corners=False)
            pixel_BKHW = scaled + pixel_BKHW
        return pyramid, pixel_BKHW

    def forward(self, chips: Chips) -> Tensor:
        """logits_BKHW of pixels."""
        return self.pyramid_and_logits(chips)[1]

    def loss(self, chips: Chips, cover_BHW: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cross entropy of pixels, and of the chip's shares of cover."""
        pyramid, logits_BKHW = self.pyramid_and_logits(chips)
        pixel = F.cross_entropy(logits_BKHW, cover_BHW)
        shares_BK = torch.stack([(cover_BHW == k).float().mean((1, 2)) for k in range(len(CLASSES))], 1)
        chip = F.cross_entropy(self.chip(pyramid[-1].mean((2, 3))), shares_BK)
        return pixel + chip, {"pixel": pixel, "chip": chip}


def student_of(teacher: Cover, backbone: RingMoE) -> Cover:
    """The same heads on a smaller backbone."""
    made = Cover(backbone, teacher.modality).to(next(teacher.parameters()).device)
    made.load_state_dict(teacher.head_state(), strict=False)
    return made


@dataclass(frozen=True)
class Draws:
    """Batches of chips; that of a step is a function of seed and step alone."""

    chipped: Chipped
    """Drawn from, mirrored and turned."""
    batch: int = 32
    """Chips of a batch."""
    seed: int = 0
    """Another seed, other chips."""

    def labelled(self, start: int = 0) -> Iterator[tuple[Chips, Tensor]]:
        """Chips and cover_BHW, int64."""
        while True:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + start)
            index_B = torch.randint(len(self.chipped), (self.batch,), generator=generator)
            turn, mirror = torch.randint(4, (1,), generator=generator).item(), torch.rand((), generator=generator) < 0.5
            chips, cover_BHW = self.chipped.chips(index_B), self.chipped.cover_NHW[index_B].long()
            pixels_BCHW = torch.rot90(chips.pixels_BCHW, int(turn), (2, 3))
            cover_BHW = torch.rot90(cover_BHW, int(turn), (1, 2))
            if mirror:
                pixels_BCHW, cover_BHW = pixels_BCHW.flip(3), cover_BHW.flip(2)
            yield Chips(pixels_BCHW, chips.valid_BHW, chips.bands, chips.gsd_B), cover_BHW
            start += 1

    def unlabelled(self, start: int = 0) -> Iterator[Batch]:
        """Chips alone."""
        for chips, _ in self.labelled(start):
            yield {self.chipped.sensor.modality: chips}
