"""What each instrument's hidden pixels are guessed as, and how far a guess is off: named errors that know the physics.

Shape legend: B image, C channel, H row, W column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ringmoe.contract import InputContract
from ringmoe.embed import normalised_bands
from ringmoe.modality import Chips, Modality
from ringmoe.physics import (
    determinant_power,
    gamma_deviance,
    log_power,
    log_ratios,
    multilooked_eigenvalues,
    spectral_angle,
    total_power,
)

QUAD_POL = tuple((polarisation, part) for polarisation in ("HH", "HV", "VH", "VV") for part in ("re", "im"))
"""Channels of which the determinant is made, in its order."""

BRIGHT = 10.0
"""Power over the reference above which the linear term counts no more: bright targets stand in the logarithmic one."""


POLARISATIONS = 4
"""Eigenvalues that are guessed; of fewer polarisations the rest is unknown, as sensors of one modality differ."""

LOOKED = 4
"""Side, in pixels, of the squares over which covariance matrices are averaged: 16 looks for at most 4 channels."""


@dataclass(frozen=True)
class TermWeights:
    """Weights of what is guessed; 0 leaves a term out. Without its physics, radar is guessed channel by channel."""

    pixels: float = 1.0
    """Absolute error of normalised pixels: optical, multispectral, and radar whose own terms are all 0."""
    angle: float = 0.1
    """Multispectral: spectral angle in radians, blind to illumination."""
    ratio: float = 0.1
    """Multispectral: absolute error of the logarithms of band ratios, blind to illumination."""
    power: float = 1.0
    """Complex radar: absolute error of the logarithm of total power."""
    linear_power: float = 0.1
    """Complex radar: absolute error of total power over its mean."""
    determinant: float = 0.5
    """Complex quad-pol radar: absolute error of the logarithm of |HH VV - HV VH|."""
    eigenvalues: float = 0.0
    """Complex radar of several polarisations: absolute error of the logarithms of the eigenvalues of the covariance
    matrix averaged over squares of LOOKED pixels."""
    speckle: float = 1.0
    """Detected radar: Gamma deviance of the intensity, by the product's number of looks."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError(f"weights of terms are at least 0: {self}")

    def physical(self, modality: Modality) -> bool:
        """Whether any term of a radar modality's own physics is on."""
        if modality is Modality.SAR_L1:
            return max(self.power, self.linear_power, self.determinant, self.eigenvalues) > 0
        return modality is Modality.SAR_L2 and self.speckle > 0


class Truth(NamedTuple):
    """What is to be guessed."""

    values_BCHW: Tensor
    """Without units; 0 where unknown."""
    known_BCHW: Tensor
    """bool."""


class Error(NamedTuple):
    """One term's error, before it is averaged."""

    values_BCHW: Tensor
    """At least 0; the channel axis may be 1."""
    known_BCHW: Tensor
    """bool, where it counts."""
    weight: float
    """In the sum of all terms."""


def guessed_bands(contract: InputContract, weights: TermWeights) -> int:
    """Channels a decoder guesses: the bands; of complex radar, with its physics, what a change of basis conserves."""
    if contract.modality is Modality.SAR_L1 and weights.physical(Modality.SAR_L1):
        return 2 + (POLARISATIONS if weights.eigenvalues > 0 else 0)
    return len(contract.bands)


def truth(contract: InputContract, chips: Chips, weights: TermWeights) -> Truth:
    """What the model must guess of chips: normalised bands, or the logarithms of what complex radar conserves."""
    if contract.modality is not Modality.SAR_L1 or not weights.physical(Modality.SAR_L1):
        return Truth(*normalised_bands(chips, contract))
    reference = sum(s * s for s in contract.std)
    power_B1HW = total_power(chips.pixels_BCHW)
    have = [(band.polarisation, band.part) for band in contract.bands]
    if sorted(have) == sorted(QUAD_POL):
        determinant_B1HW = determinant_power(chips.pixels_BCHW[:, [have.index(channel) for channel in QUAD_POL]])
    else:
        determinant_B1HW = torch.full_like(power_B1HW, float("nan"))
    conserved = [power_B1HW, determinant_B1HW]
    if weights.eigenvalues > 0:
        conserved.append(_eigenvalues(chips))
    all_BCHW = torch.cat(conserved, 1)
    known_BCHW = chips.valid_BHW[:, None] & torch.isfinite(all_BCHW)
    return Truth(log_power(all_BCHW, reference).where(known_BCHW, 0.0), known_BCHW)


def _eigenvalues(chips: Chips) -> Tensor:
    """Of each pixel those of its square; NaN where a pixel of it is invalid."""
    parts_BCHW = chips.pixels_BCHW.where(chips.valid_BHW[:, None], float("nan"))
    found_BPHW = multilooked_eigenvalues(parts_BCHW, LOOKED)
    all_BPHW = F.pad(found_BPHW, (0, 0, 0, 0, 0, POLARISATIONS - found_BPHW.shape[1]), value=float("nan"))
    return all_BPHW.repeat_interleave(LOOKED, -2).repeat_interleave(LOOKED, -1)


def errors(contract: InputContract, guess_BCHW: Tensor, wanted: Truth, weights: TermWeights) -> Mapping[str, Error]:
    """The terms of one modality that are on, by name."""
    guess_BCHW = guess_BCHW.to(wanted.values_BCHW.dtype)
    if contract.modality is Modality.SAR_L1 and weights.physical(Modality.SAR_L1):
        found = _complex_radar(guess_BCHW, wanted, weights)
    elif contract.modality is Modality.SAR_L2 and weights.physical(Modality.SAR_L2):
        found = {"speckle": _detected_radar(contract, guess_BCHW, wanted, weights)}
    else:
        off_BCHW = (guess_BCHW - wanted.values_BCHW).abs()
        found = {"pixels": Error(off_BCHW, wanted.known_BCHW, weights.pixels)}
        if contract.modality is Modality.MS:
            found |= _spectra(contract, guess_BCHW, wanted, weights)
    return {name: error for name, error in found.items() if error.weight > 0}


def _complex_radar(guess_BCHW: Tensor, wanted: Truth, weights: TermWeights) -> dict[str, Error]:
    off_BCHW = (guess_BCHW - wanted.values_BCHW).abs()
    linear_B1HW, true_B1HW = (v[:, :1].clamp(max=math.log(BRIGHT)).exp() for v in (guess_BCHW, wanted.values_BCHW))
    power_known, determinant_known = wanted.known_BCHW[:, :1], wanted.known_BCHW[:, 1:2]
    return {
        "power": Error(off_BCHW[:, :1], power_known, weights.power),
        "linear_power": Error((linear_B1HW - true_B1HW).abs(), power_known, weights.linear_power),
        "determinant": Error(off_BCHW[:, 1:2], determinant_known, weights.determinant),
        "eigenvalues": Error(off_BCHW[:, 2:], wanted.known_BCHW[:, 2:], weights.eigenvalues),
    }


def _detected_radar(contract: InputContract, guess_BCHW: Tensor, wanted: Truth, weights: TermWeights) -> Error:
    """The guess is the logarithm of the mean intensity, in the units of the contract's normalisation."""
    excess_BCHW = (wanted.values_BCHW - guess_BCHW) * _channels(contract.std, guess_BCHW)
    return Error(gamma_deviance(excess_BCHW, contract.looks), wanted.known_BCHW, weights.speckle)


def _spectra(contract: InputContract, guess_BCHW: Tensor, wanted: Truth, weights: TermWeights) -> dict[str, Error]:
    mean_C11, std_C11 = (_channels(v, guess_BCHW) for v in (contract.mean, contract.std))
    guess, true = (v * std_C11 + mean_C11 for v in (guess_BCHW, wanted.values_BCHW))
    whole_B1HW = wanted.known_BCHW.all(1, keepdim=True)
    ratios_BCHW = (log_ratios(guess) - log_ratios(true)).abs()
    return {
        "angle": Error(spectral_angle(guess, true)[:, None], whole_B1HW, weights.angle),
        "ratio": Error(ratios_BCHW, whole_B1HW.expand_as(ratios_BCHW), weights.ratio),
    }


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1)
