"""Features without training: the pyramid of a frozen model, and the plain features that must stand beside them."""

# Shape suffixes: B images, N samples or pixels, C channels, H rows, W columns, D features, F filters.

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.backbone import RingMoE
from ringmoe.contract import InputContract
from ringmoe.embed import normalised_bands
from ringmoe.errors import DataError
from ringmoe.modality import Chips, Modality

SIDE = 3
"""Side in pixels of a random filter, and of the neighbourhood a pixel's statistics are taken over."""


@torch.inference_mode()
def features(
    backbone: RingMoE, chips: Iterable[Chips], modality: Modality, *, spread: bool = False
) -> tuple[Tensor, ...]:
    """Frozen features of whole chips: each stage's map averaged over the chip.

    Parameters
    ----------
    spread
        Put the standard deviation over the chip beside each mean: how much a feature varies there says what its mean
        does not, as in texture.

    Returns
    -------
    tuple of Tensor
        One (N, D) float32 per stage, finest first, with spread (N, 2 D); concatenate for all stages.
    """
    device = next(backbone.parameters()).device
    training = backbone.training
    backbone.eval()
    rows = [[_pooled(m.float(), spread) for m in _pyramid(backbone, c.to(device), modality)] for c in chips]
    backbone.train(training)
    return tuple(torch.cat(stage).cpu() for stage in zip(*rows, strict=True))


def _pooled(map_BDHW: Tensor, spread: bool) -> Tensor:
    mean_BD = map_BDHW.mean((2, 3))
    return torch.cat([mean_BD, map_BDHW.std((2, 3), correction=0)], 1) if spread else mean_BD


def _pyramid(backbone: RingMoE, chips: Chips, modality: Modality) -> Sequence[Tensor]:
    return backbone({modality: chips}).pyramids[modality]


@torch.inference_mode()
def pixel_features(backbone: RingMoE, chips: Chips, modality: Modality, rows_N: Tensor, cols_N: Tensor) -> Tensor:
    """Frozen features of single pixels: every stage's map, read between its tokens, side by side.

    Parameters
    ----------
    chips
        One or more images.
    rows_N, cols_N
        int64 pixel numbers, the same in each image.

    Returns
    -------
    Tensor
        (B x N, D) float32, image by image.
    """
    training = backbone.training
    backbone.eval()
    found = [_sampled(m.float(), rows_N, cols_N, chips) for m in _pyramid(backbone, chips, modality)]
    backbone.train(training)
    return torch.cat(found, 1)


def _sampled(map_BDHW: Tensor, rows_N: Tensor, cols_N: Tensor, chips: Chips) -> Tensor:
    """A map at pixel centres by bilinear interpolation, (B x N, D)."""
    height, width = chips.pixels_BCHW.shape[-2:]
    places_N2 = torch.stack([(2 * cols_N + 1) / width - 1, (2 * rows_N + 1) / height - 1], -1).to(map_BDHW)
    grid_B1N2 = places_N2[None, None].expand(len(chips), -1, -1, -1)
    at_BDN = F.grid_sample(map_BDHW, grid_B1N2, padding_mode="border", align_corners=False)[:, :, 0]
    return at_BDN.movedim(1, 2).flatten(0, 1)


def image_statistics(contract: InputContract, chips: Iterable[Chips]) -> Tensor:
    """Mean, deviation, least and greatest of each normalised band over a chip's pixels that have it: (N, 4 C) float32.

    Raises
    ------
    DataError
        A chip has no valid pixel.
    """
    found = []
    for one in chips:
        x_BCHW, seen_BCHW = normalised_bands(one, contract)
        if not seen_BCHW.flatten(1).any(1).all():
            raise DataError(
                "a chip without a valid pixel has no statistics",
                item=f"{len(one)} chips of {contract.modality}",
                enough="one valid pixel in each",
                todo="leave out chips that are all no-data",
            )
        count_BC = seen_BCHW.sum((2, 3)).clamp(min=1)
        mean_BC = x_BCHW.where(seen_BCHW, 0.0).sum((2, 3)) / count_BC
        centred_BCHW = (x_BCHW - mean_BC[..., None, None]).where(seen_BCHW, 0.0)
        std_BC = (centred_BCHW.square().sum((2, 3)) / count_BC).sqrt()
        low_BC = x_BCHW.where(seen_BCHW, float("inf")).amin((2, 3))
        high_BC = x_BCHW.where(seen_BCHW, float("-inf")).amax((2, 3))
        none_BC = ~seen_BCHW.any(3).any(2)
        low_BC, high_BC = (v.masked_fill(none_BC, 0.0) for v in (low_BC, high_BC))
        found.append(torch.cat([mean_BC, std_BC, low_BC, high_BC], 1).float())
    return torch.cat(found)


def random_features(contract: InputContract, chips: Sequence[Chips], *, filters: int = 256, seed: int = 0) -> Tensor:
    """Random convolutional features of a chip: how strongly random filters answer on average, (N, 2 F) float32.

    Filters are drawn from a normal distribution over SIDE by SIDE windows of the normalised bands; both signs of each
    are rectified and averaged over the chip (MOSAIKS, Rolf et al., Nature Communications 2021, with random weights).
    """
    answers = _answers(contract, chips, filters, seed)
    return torch.cat(
        [_of_both_signs(answer_BFHW.mean((2, 3)), answer_BFHW.relu_().mean((2, 3))) for answer_BFHW in answers]
    )


def random_pixel_features(
    contract: InputContract, chips: Chips, rows_N: Tensor, cols_N: Tensor, *, seed: int = 0
) -> Tensor:
    """The same at single pixels, averaged over 7 by 7 around each: (B x N, 2 F) float32 of 64 filters."""
    (answer_BFHW,) = _answers(contract, [chips], 64, seed)
    around = (F.avg_pool2d(a, 7, 1, 3, count_include_pad=False) for a in (answer_BFHW, answer_BFHW.relu()))
    return _of_both_signs(*around)[:, :, rows_N, cols_N].movedim(1, 2).flatten(0, 1)


def _of_both_signs(mean_BF: Tensor, above_BF: Tensor) -> Tensor:
    """Means of max(x, 0) and of max(-x, 0), from the means of x and of the former: max(-x, 0) = max(x, 0) - x."""
    return torch.cat([above_BF, above_BF - mean_BF], 1)


def pixel_statistics(contract: InputContract, chips: Chips, rows_N: Tensor, cols_N: Tensor) -> Tensor:
    """The normalised bands of a pixel, with mean and deviation of the SIDE by SIDE around it: (B x N, 3 C) float32."""
    x_BCHW = normalised_bands(chips, contract)[0].float()
    mean_BCHW, square_BCHW = (
        F.avg_pool2d(v, SIDE, 1, SIDE // 2, count_include_pad=False) for v in (x_BCHW, x_BCHW.square())
    )
    std_BCHW = (square_BCHW - mean_BCHW.square()).clamp(min=0).sqrt()
    both_BDHW = torch.cat([x_BCHW, mean_BCHW, std_BCHW], 1)
    return both_BDHW[:, :, rows_N, cols_N].movedim(1, 2).flatten(0, 1)


def _answers(contract: InputContract, chips: Sequence[Chips], filters: int, seed: int) -> Iterable[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bands = chips[0].pixels_BCHW.shape[1]
    weight_FCKK = torch.randn(filters, bands, SIDE, SIDE, generator=generator) / (bands * SIDE**2) ** 0.5
    for one in chips:
        x_BCHW = normalised_bands(one, contract)[0].float()
        yield F.conv2d(x_BCHW, weight_FCKK, padding=SIDE // 2)
