"""What an encoder sees of a raster, as a few numbers for each patch: principal components of all stages of its pyramid.

Shape legend: C channel, H row and W column of patches, D feature of all stages, K component, N patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.backbone import RingMoE
from ringmoe.errors import DataError, TileError
from ringmoe.infer import GRAIN, Read, Tiling
from ringmoe.modality import BandSpec, Chips, Modality
from ringmoe.tiling import Blender, Window, plan

FITTED = 64
"""Tiles that components are taken from, spread over the raster."""


class Rows(NamedTuple):
    """Finished rows of patches, over the whole width."""

    y0: int
    """First row."""
    values_KHW: np.ndarray
    """float32; NaN where less than half of a patch was measured."""


@dataclass(frozen=True)
class Components:
    """Directions in which features vary most, found on one raster."""

    mean_D: Tensor
    """Of the features, finest stage first."""
    weight_KD: Tensor
    """Projections; each stage is scaled to a total variance of 1 before, so that none drowns the others."""
    shares: tuple[float, ...]
    """Of the variance of all stages, by component, falling."""


class FeatureMap:
    """A frozen encoder over a raster of one sensor, tile by tile, in memory that does not grow with its height.

    Parameters
    ----------
    encoder
        RingMoE, on the device where it computes.
    modality, bands, gsd_m
        What the raster's pixels are; bands as `Chips` takes them, none for those of the contract's first sensor.
    read
        Reads one window of pixels.
    size
        Rows and columns of the raster, in pixels.
    tiling
        Sides in pixels.

    Raises
    ------
    TileError
        When tile and overlap make no sense.
    """

    def __init__(
        self,
        encoder: RingMoE,
        modality: Modality,
        read: Read,
        size: tuple[int, int],
        *,
        bands: tuple[BandSpec, ...] = (),
        gsd_m: float | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        tiling, self.patch = tiling or Tiling(), encoder.config.patch
        if tiling.tile % GRAIN or tiling.overlap % self.patch:
            raise TileError(
                "the encoder cannot take tiles of that size",
                item=f"tile {tiling.tile}, overlap {tiling.overlap}",
                enough=f"a tile that is a multiple of {GRAIN}, an overlap that is one of {self.patch}",
                todo="choose other tiles",
            )
        self.encoder, self.modality, self.read, self.size = encoder.eval(), modality, read, size
        self.bands, self.gsd_m, self.tiling = bands, gsd_m, tiling
        self.rows, self.columns = (-(-n // self.patch) for n in size)
        self.windows = plan(self.rows, self.columns, tiling.tile // self.patch, tiling.overlap // self.patch)

    def components(self, count: int) -> Components:
        """The so many directions in which the features of the raster vary most; their signs are fixed.

        Raises
        ------
        DataError
            When fewer patches are measured than components are wanted.
        """
        stages = [self.encoder.config.dim * 2**stage for stage in range(4)]
        seen, total_D, square_DD = (
            0.0,
            torch.zeros(sum(stages)).double(),
            torch.zeros(sum(stages), sum(stages)).double(),
        )
        for k in np.unique(np.linspace(0, len(self.windows) - 1, FITTED).round().astype(int)):
            values_DHW, valid_HW = self._features(self.windows[k])
            x_ND = values_DHW.flatten(1).T[valid_HW.flatten()].double().cpu()
            seen, total_D, square_DD = seen + len(x_ND), total_D + x_ND.sum(0), square_DD + x_ND.T @ x_ND
        if seen <= count:
            raise DataError(
                "there is too little to take components of",
                item=f"{seen:.0f} measured patches of {self.patch} px",
                enough=f"more than {count}",
                todo="choose a larger area or a clearer period, or ask for fewer components",
            )
        mean_D = total_D / seen
        covariance_DD = square_DD / seen - torch.outer(mean_D, mean_D)
        variances = [part.clamp(min=0).sum().clamp(min=1e-12) for part in covariance_DD.diagonal().split(stages)]
        scale_D = torch.cat([v.rsqrt().expand(n) for v, n in zip(variances, stages, strict=True)])
        value_D, turned_DD = torch.linalg.eigh(covariance_DD * torch.outer(scale_D, scale_D))
        first_KD = turned_DD.flip(1)[:, :count].T
        largest_K1 = first_KD.gather(1, first_KD.abs().argmax(1, keepdim=True))
        weight_KD = first_KD * largest_K1.sign() * scale_D
        shares = (value_D.flip(0)[:count].clamp(min=0) / value_D.clamp(min=0).sum()).tolist()
        return Components(mean_D.float(), weight_KD.float(), tuple(shares))

    def project(self, found: Components, on_row: Callable[[int], None] | None = None) -> Iterator[Rows]:
        """Components of every patch, rows from the top, each once; overlapping tiles are blended."""
        blender = Blender(self.windows, len(found.weight_KD) + 1, self.tiling.overlap // self.patch)
        for window in self.windows:
            values_DHW, valid_HW = self._features(window)
            off_NHW = values_DHW.cpu() - found.mean_D[:, None, None]
            values_KHW = torch.einsum("kd,dhw->khw", found.weight_KD, off_NHW)
            for strip in blender.add(window, torch.cat([values_KHW, valid_HW[None].float().cpu()])):
                measured = strip.values_KHW[-1:] > 0.5
                yield Rows(strip.y0, strip.values_KHW[:-1].where(measured, torch.nan).numpy())
                if on_row is not None:
                    on_row(strip.y0 + strip.values_KHW.shape[1])

    @torch.inference_mode()
    def _features(self, window: Window) -> tuple[Tensor, Tensor]:
        """All stages on the patches of a window, (D, h, w) float32, and which patches were measured, (h, w) bool."""
        y, x = window.y0 * self.patch, window.x0 * self.patch
        height, width = min(window.h * self.patch, self.size[0] - y), min(window.w * self.patch, self.size[1] - x)
        pixels, valid = self.read(Window(y, x, height, width))
        device = self.encoder.norm.weight.device
        if not valid.any():
            return torch.zeros(15 * self.encoder.config.dim, window.h, window.w, device=device), torch.zeros(
                window.h, window.w, dtype=torch.bool, device=device
            )
        pixels_BCHW, valid_BHW = (torch.from_numpy(_padded(a))[None].to(device) for a in (pixels, valid))
        gsd_B = None if self.gsd_m is None or not self.bands else torch.tensor([self.gsd_m])
        chips = Chips(pixels_BCHW, valid_BHW, self.bands, gsd_B).to(device)
        pyramid: Sequence[Tensor] = self.encoder({self.modality: chips}).pyramids[self.modality]
        side = pyramid[0].shape[-2:]
        maps = [F.interpolate(m.float(), side, mode="bilinear", align_corners=False)[0] for m in pyramid]
        share_HW = F.avg_pool2d(valid_BHW.float()[:, None], self.patch)[0, 0]
        return torch.cat(maps)[:, : window.h, : window.w], share_HW[: window.h, : window.w] >= 0.5


def _padded(a: np.ndarray) -> np.ndarray:
    """Zeros at the lower and right edge until both sides are multiples of GRAIN: in a mask, nothing measured."""
    h, w = a.shape[-2:]
    return np.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, -h % GRAIN), (0, -w % GRAIN)])
