"""Terms beside the pixels: what fixed random filters answer in a unit, and which two views are of one image.

Shape legend: B image, C channel, H row, W column, F filter, D feature, T target, N view, U unit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.backbone import STRIDE
from ringmoe.contract import InputContract
from ringmoe.embed import normalised
from ringmoe.modality import BandSpec, Chips, Modality

FILTERS = 32
"""Random filters at each scale; both signs of each count."""

SCALES = 3
"""Resolutions the filters look at: the chip's own, a half and a quarter of it."""

MOMENTUM = 0.98
"""Share of a running mean that a step leaves."""

SHRINK = 0.03
"""Of the mean variance, added to every direction's before it is made one."""

TEMPERATURE = 0.1
"""Of the comparison of views."""

Summed = Callable[[Tensor], Tensor]
Gathered = Callable[[Tensor], Tensor]


@lru_cache(maxsize=64)
def random_filters(bands: tuple[BandSpec, ...]) -> Tensor:
    """Filters (F, C, 3, 3) for a list of bands; a band's own part is the same wherever its name stands."""
    parts = []
    for band in bands:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{band.name}{band.part}".encode()))
        parts.append(torch.randn(FILTERS, 3, 3, generator=generator))
    return torch.stack(parts, 1) / (9 * len(bands)) ** 0.5


@torch.no_grad()
def texture(asked: InputContract, chips: Chips) -> tuple[Tensor, Tensor]:
    """How strongly random filters answer in each unit of 32 px: (B, T, U, U), and which units are whole, (B, U, U).

    Both signs of each filter at each scale are rectified and averaged over the unit, as random convolutional features
    are over a chip (Rolf et al., Nature Communications 2021); their logarithm is taken.
    """
    x_BCHW, valid_BHW = normalised(chips, asked)
    weight_FCKK = random_filters(asked.bands).to(x_BCHW)
    answers = []
    for scale in range(SCALES):
        answer_BFHW = F.conv2d(F.pad(x_BCHW, (1, 1, 1, 1), mode="replicate"), weight_FCKK)
        both_BTHW = torch.cat([answer_BFHW.relu(), (-answer_BFHW).relu()], 1)
        answers.append(F.avg_pool2d(both_BTHW, STRIDE >> scale))
        x_BCHW = F.avg_pool2d(x_BCHW, 2)
    whole_BUU = F.avg_pool2d(valid_BHW[:, None].float(), STRIDE)[:, 0] > 0.99
    return torch.log(torch.cat(answers, 1) + 0.01), whole_BUU


class Whitening(nn.Module):
    """Makes targets of equal variance in every direction, by their running mean and covariance.

    Without it the first direction, overall contrast, holds nearly all the variance, and the error hardly sees texture.
    """

    mean_T: Tensor
    covariance_TT: Tensor
    weight: Tensor

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.register_buffer("mean_T", torch.zeros(targets))
        self.register_buffer("covariance_TT", torch.zeros(targets, targets))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def forward(self, x_NT: Tensor, count_N: Tensor, summed: Summed) -> Tensor:
        """Targets (N, T), turned and scaled: their mean variance is 1, that of the least directions stays smaller."""
        total = summed(count_N.sum()).clamp(min=1)
        mean_T = summed((x_NT * count_N[:, None]).sum(0)) / total
        off_NT = (x_NT - mean_T) * count_N[:, None]
        covariance_TT = summed(off_NT.T @ off_NT) / total
        for kept, new in (
            (self.mean_T, mean_T),
            (self.covariance_TT, covariance_TT),
            (self.weight, torch.ones_like(total)),
        ):
            kept.lerp_(new, 1 - MOMENTUM)
        variance_T, turned_TT = torch.linalg.eigh((self.covariance_TT / self.weight).cpu().double())
        variance_T = variance_T.clamp(min=0)
        scale_T = (variance_T + SHRINK * variance_T.mean()).clamp(min=1e-8).rsqrt()
        scale_T = scale_T / (variance_T * scale_T.square()).mean().clamp(min=1e-4).sqrt()
        return (x_NT - self.mean_T / self.weight) @ (turned_TT * scale_T).to(x_NT)


class TextureTerm(nn.Module):
    """Guesses, from the last map, what random filters answer in each unit, hidden or shown."""

    def __init__(self, dim: int, sensors: Sequence[InputContract]) -> None:
        super().__init__()
        targets = 2 * FILTERS * SCALES
        self.places = {sensor.bands: i for i, sensor in enumerate(sensors)}
        self.white = nn.ModuleList(Whitening(targets) for _ in sensors)
        self.guess = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, targets))

    def forward(self, last_BDUU: Tensor, asked: InputContract, chips: Chips, summed: Summed) -> Tensor:
        """Mean squared error over whole units and directions; 0 for bands the contract does not list."""
        guess_NT = self.guess(last_BDUU.movedim(1, -1)).flatten(0, 2)
        if asked.bands not in self.places:
            return guess_NT.sum() * 0
        wanted_BTUU, whole_BUU = texture(asked, chips)
        wanted_NT, count_N = wanted_BTUU.movedim(1, -1).flatten(0, 2), whole_BUU.flatten().to(wanted_BTUU)
        with torch.autocast(wanted_NT.device.type, enabled=False):  # a covariance is no matter for bfloat16
            white_NT = self.white[self.places[asked.bands]](wanted_NT.float(), count_N.float(), summed)
        error_N = (guess_NT.float() - white_NT).square().mean(1) * count_N
        return summed(error_N.sum()) / summed(count_N.sum()).clamp(min=1)


class ViewTerm(nn.Module):
    """Tells which two views are of one image, by means and deviations of all maps over what each was shown.

    NT-Xent (Chen et al., ICML 2020): each view must know its fellow among all others of the batch, by each stage alone
    and by all of them side by side.
    """

    def __init__(self, dims: Sequence[int], width: int = 128) -> None:
        super().__init__()
        pooled = [2 * dim for dim in dims]
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(n, 256), nn.GELU(), nn.Linear(256, width)) for n in (*pooled, sum(pooled))
        )

    def forward(self, pyramid: Sequence[Tensor], shown_BUU: Tensor, gathered: Gathered) -> Tensor:
        """Cross entropy, averaged over the stages and their whole, and over views whose pair shows something.

        Parameters
        ----------
        pyramid
            Maps (B, D, H, W), finest first; the second half of the images shows what the first half does.
        shown_BUU
            Units that count, bool.
        gathered
            Puts the rows of all ranks together: every view is compared with those of all of them.
        """
        pooled = [_over_shown(map_BDHW, shown_BUU) for map_BDHW in pyramid]
        asked = zip(self.project, (*pooled, torch.cat(pooled, 1)), strict=True)
        z_BKD = torch.stack([F.normalize(_precise(project(x_BD)), dim=1) for project, x_BD in asked], 1)
        z_NKD, seen_N = (_side_by_side(x, gathered) for x in (z_BKD, shown_BUU.flatten(1).any(1).to(z_BKD)))
        seen_N = seen_N > 0
        with torch.autocast(z_NKD.device.type, enabled=False):
            loss_KN = torch.stack([_fellows(z_ND, seen_N) for z_ND in z_NKD.unbind(1)])
        both_N = (seen_N & seen_N.roll(len(seen_N) // 2)).to(loss_KN)
        return (loss_KN.mean(0) * both_N).sum() / both_N.sum().clamp(min=1)


def _over_shown(map_BDHW: Tensor, shown_BUU: Tensor) -> Tensor:
    """Mean and standard deviation of every channel over the units that were shown, (B, 2 D)."""
    times, map_BDHW = map_BDHW.shape[-1] // shown_BUU.shape[-1], _precise(map_BDHW)
    shown_B1HW = shown_BUU.repeat_interleave(times, 1).repeat_interleave(times, 2)[:, None].to(map_BDHW)
    count_B1 = shown_B1HW.sum((2, 3)).clamp(min=1)
    mean_BD = (map_BDHW * shown_B1HW).sum((2, 3)) / count_B1
    off_BDHW = (map_BDHW - mean_BD[..., None, None]) * shown_B1HW
    return torch.cat([mean_BD, (off_BDHW.square().sum((2, 3)) / count_B1 + 1e-6).sqrt()], 1)


def _precise(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _side_by_side(x_B: Tensor, gathered: Gathered) -> Tensor:
    """Rows of all ranks: all first views, then in the same order all second ones."""
    return gathered(torch.stack(x_B.chunk(2), 1)).movedim(1, 0).flatten(0, 1)


def _fellows(z_ND: Tensor, seen_N: Tensor) -> Tensor:
    """Cross entropy of each view's choice of its fellow among all views that show something, (N,)."""
    views = len(z_ND)
    barred_NN = torch.eye(views, dtype=torch.bool, device=z_ND.device) | ~seen_N
    fellow_N = (torch.arange(views, device=z_ND.device) + views // 2) % views
    return F.cross_entropy((z_ND @ z_ND.T / TEMPERATURE).masked_fill(barred_NN, -1e9), fellow_N, reduction="none")


def twice(chips: Chips, modality: Modality) -> Chips:
    """Every image and, after all of them, the same ones mirrored or turned; draws are torch's own.

    Complex radar keeps its rows and columns: they are azimuth and range, which are not alike.
    """
    pixels_BCHW, valid_BHW = chips.pixels_BCHW, chips.valid_BHW
    flips = [axis for axis in (-2, -1) if torch.rand(()) < 0.5]
    turned, valid = pixels_BCHW.flip(flips), valid_BHW.flip(flips)
    square = pixels_BCHW.shape[-1] == pixels_BCHW.shape[-2]
    if square and modality is not Modality.SAR_L1 and torch.rand(()) < 0.5:
        turned, valid = turned.transpose(-1, -2), valid.transpose(-1, -2)
    gsd_B = None if chips.gsd_B is None else chips.gsd_B.repeat(2)
    return Chips(torch.cat([pixels_BCHW, turned]), torch.cat([valid_BHW, valid]), chips.bands, gsd_B)


def apart(chips: Chips) -> Chips:
    """Twins that come one after the other: the first of each and then, in the same order, the second."""
    order_B = torch.arange(len(chips), device=chips.pixels_BCHW.device).view(-1, 2).t().flatten()
    gsd_B = None if chips.gsd_B is None else chips.gsd_B[order_B.to(chips.gsd_B.device)]
    return Chips(chips.pixels_BCHW[order_B], chips.valid_BHW[order_B], chips.bands, gsd_B)


def lit(chips: Chips, modality: Modality, light: float) -> Chips:
    """The second half of the images in another light than the first.

    Light is one factor, its logarithm between - `light` and `light`, for all bands of an optical or multispectral
    image, as of another sun: it leaves their ratios.
    Radar lights its own ground, and its values are left alone.
    """
    if light <= 0 or modality not in (Modality.OPT, Modality.MS):
        return chips
    light_B = torch.exp(light * (2 * torch.rand(len(chips)) - 1))
    light_B[: len(chips) // 2] = 1.0
    return replace(chips, pixels_BCHW=chips.pixels_BCHW * light_B.to(chips.pixels_BCHW.device).view(-1, 1, 1, 1))
