"""Weights generated from what a band is, so that every instrument shares one embedding and bands are a set.

That a small network can make a patch embedding's weights from wavelengths is DOFA's finding (Xiong et al., Neural
Plasticity-Inspired Multimodal Foundation Model for Earth Observation, 2024). Here a band is its whole response, radar
included, and the ground sampling distance is an input.
Shape legend: B image, C channel, H row, W column (of pixels or of tokens), D width of a token, P pixel of a patch,
X number generated for a band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ringmoe.contract import InputContract
from ringmoe.embed import Learned, Tokens, check_chips, finished, normalised_bands, patches
from ringmoe.errors import ConfigError
from ringmoe.modality import BandSpec, Chips

PERIODS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
"""In octaves of wavelength, frequency or pixel size: from the whole range down to a red edge band's distance."""

FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
"""Standard deviation of a Gaussian over its full width at half maximum."""

HIDDEN = 128
"""Hidden width of the network that makes a band's weights."""


def description(band: BandSpec) -> list[float]:
    """What a band is, as numbers within -1 and 1.

    A band is an expectation over its response: cos(2 pi u / T) and sin(2 pi u / T) for each period T, where u is the
    octave of the wavelength over 1 um (or of the radar frequency over 1 GHz), damped by exp(-(2 pi s / T)^2 / 2) for a
    Gaussian response of deviation s, so that a broad band is what the narrow ones within it are on average. Then
    what is sent and received (H, V; R and L as their equal parts), and the part of a complex number.

    Raises
    ------
    ConfigError
        The band says neither a wavelength nor a frequency with its polarisation.
    """
    if not band.described:
        raise ConfigError(
            f"Nothing says what band {band.name or '(unnamed)'} measures",
            item=str(band),
            enough="a centre wavelength in nm, or a radar frequency in GHz and a polarisation of H, V, R and L",
            todo="describe the band, or choose the fixed embedding",
        )
    none = [0.0] * (2 * len(PERIODS))
    if band.centre_nm is not None:
        spread = (band.width_nm or 0.0) * FWHM_TO_SIGMA / band.centre_nm / math.log(2)
        waves = [1.0, 0.0, *_waves(math.log2(band.centre_nm / 1000), spread), *none]
        return [*waves, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert band.frequency_ghz is not None
    assert band.polarisation is not None
    half = math.sqrt(0.5)
    parts = {"H": (1.0, 0.0), "V": (0.0, 1.0), "R": (half, -half), "L": (half, half)}
    waves = [0.0, 1.0, *none, *_waves(math.log2(band.frequency_ghz), 0.0)]
    return [*waves, *parts[band.polarisation[0]], *parts[band.polarisation[1]], *map(float, _part(band))]


def _part(band: BandSpec) -> tuple[bool, bool]:
    return band.part == "re", band.part == "im"


def _waves(octave: float, spread: float) -> list[float]:
    found = []
    for period in PERIODS:
        angle, damp = 2 * math.pi * octave / period, math.exp(-((2 * math.pi * spread / period) ** 2) / 2)
        found += [damp * math.cos(angle), damp * math.sin(angle)]
    return found


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _descriptions(bands: tuple[BandSpec, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor([description(band) for band in bands], dtype=torch.float64, device="cpu").to(device, dtype)


class BandWeights(nn.Module):
    """X numbers for each band, generated from its description; in float32 at least, whatever autocast says.

    Parameters
    ----------
    numbers
        X.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        inputs = len(description(BandSpec("any", centre_nm=1000.0)))
        self.net = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU()
        )
        self.out = nn.Linear(HIDDEN, numbers)

    def forward(self, bands: Sequence[BandSpec]) -> Tensor:
        """(C, X), a row per band."""
        weight = self.out.weight
        with torch.autocast(weight.device.type, enabled=False):
            return self.out(self.net(_descriptions(tuple(bands), weight.device, weight.dtype)))


class SpectralEmbed(nn.Module):
    """Patches of any bands to tokens: a mean over the bands present, each weighed by weights made for it.

    token = norm(sum_b (W_b p_b + a_b e_b) / sum_b a_b) (1 + s) + t, with W_b and e_b generated from band b, s and t
    from the ground sampling distance, p_b the band's normalised pixels (0 where missing) and a_b the share of the
    patch's measured pixels that have band b. A band that is missing is absent from every sum, and the order of bands
    is the order of a sum. What is no data in all bands is told as the fixed embedding tells it.

    Parameters
    ----------
    dim
        Width of a token.
    patch
        Side of a patch in pixels.
    """

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.dim, self.patch = dim, patch
        self.weights = BandWeights(dim * (patch**2 + 1))
        self.gsd = nn.Sequential(nn.Linear(2 * len(PERIODS), HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2 * dim))
        self.norm = nn.LayerNorm(dim)
        self.no_data = nn.Parameter(torch.zeros(dim))
        self.mask_token = nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.no_data, std=0.02)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, chips: Chips, contract: InputContract, masked_BHW: Tensor | None, unit: int) -> Tokens:
        """Tokens of the chips; parameters and errors as of `ringmoe.embed.PatchEmbed.forward`."""
        check_chips(chips, masked_BHW, contract, unit)
        pixels_BCHW, seen_BCHW = normalised_bands(chips, contract)
        dtype = self.no_data.dtype
        weight_DCP, bias_DC = self.generated(contract.bands)
        any_BHW = F.avg_pool2d(seen_BCHW.any(1, keepdim=True).to(dtype), self.patch)[:, 0]
        share_BHWC = F.avg_pool2d(seen_BCHW.to(dtype), self.patch).permute(0, 2, 3, 1)
        empty_BHW1 = (any_BHW == 0)[..., None]
        share_BHWC = (share_BHWC / any_BHW[..., None].masked_fill(empty_BHW1, 1.0)).masked_fill(empty_BHW1, 1.0)
        flat_BHWX = patches(pixels_BCHW.to(dtype), self.patch)
        x_BHWD = F.linear(flat_BHWX, weight_DCP.flatten(1)) + F.linear(share_BHWC, bias_DC)
        scale_BD, shift_BD = self.modulation(self._gsd(chips, contract))
        x_BHWD = self.norm(x_BHWD / share_BHWC.sum(-1, keepdim=True)) * (1 + scale_BD[:, None, None])
        learned = Learned(self.no_data, self.mask_token)
        return finished(x_BHWD + shift_BD[:, None, None], any_BHW, masked_BHW, unit // self.patch, learned)

    def generated(self, bands: Sequence[BandSpec]) -> tuple[Tensor, Tensor]:
        """Weights (D, C, P) and biases (D, C) of bands."""
        numbers_CDX = self.weights(bands).view(len(bands), self.dim, self.patch**2 + 1)
        return numbers_CDX[..., :-1].transpose(0, 1), numbers_CDX[..., -1].t()

    def modulation(self, gsd_B: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (B, D) of tokens for ground sampling distances in metres."""
        octave_B1 = torch.log2(gsd_B.to(torch.promote_types(self.no_data.dtype, torch.float32)))[:, None]
        angle_BX = octave_B1 * octave_B1.new_tensor([2 * math.pi / period for period in PERIODS])
        waves_BX = torch.cat([angle_BX.cos(), angle_BX.sin()], 1).to(self.no_data.dtype)
        with torch.autocast(waves_BX.device.type, enabled=False):
            scale_BD, shift_BD = self.gsd(waves_BX).chunk(2, -1)
        return scale_BD, shift_BD

    def _gsd(self, chips: Chips, contract: InputContract) -> Tensor:
        if chips.gsd_B is not None:
            return chips.gsd_B
        return torch.full((len(chips),), contract.middle_m, device=chips.pixels_BCHW.device)
