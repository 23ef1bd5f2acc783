"""What each instrument's hidden pixels are guessed as, and how far a guess is off: named errors that know the physics.

Shape legend: B image, C channel, H row, W column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ringmoe.contract import InputContract
from ringmoe.embed import normalised_bands
from ringmoe.modality import Chips, Modality
from ringmoe.physics import (
    determinant_power,
    gamma_deviance,
    log_power,
    log_ratios,
    spectral_angle,
    total_power,
)

QUAD_POL = ("HH", "HV", "VH", "VV")
BRIGHT = 10.0
"""Power over the reference above which the linear term counts no more: bright targets stand in the logarithmic one."""


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
    speckle: float = 1.0
    """Detected radar: Gamma deviance of the intensity, by the product's number of looks."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError(f"weights of terms are at least 0: {self}")

    def physical(self, modality: Modality) -> bool:
        """Whether any term of a radar modality's own physics is on."""
        if modality is Modality.SAR_L1:
            return max(self.power, self.linear_power, self.determinant) > 0
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
    """Channels a decoder guesses: the bands; of complex radar, with its physics, total power and determinant."""
    if contract.modality is Modality.SAR_L1 and weights.physical(Modality.SAR_L1):
        return 2
    return len(contract.bands)


def truth(contract: InputContract, chips: Chips, weights: TermWeights) -> Truth:
    """What the model must guess of chips: normalised bands, or the logarithms of what complex radar conserves."""
    if contract.modality is not Modality.SAR_L1 or not weights.physical(Modality.SAR_L1):
        return Truth(*normalised_bands(chips, contract))
    reference = sum(s * s for s in contract.std)
    power_B1HW = total_power(chips.pixels_BCHW)
    if tuple(b.polarisation for b in contract.bands[::2]) == QUAD_POL:
        determinant_B1HW = determinant_power(chips.pixels_BCHW)
    else:
        determinant_B1HW = torch.full_like(power_B1HW, float("nan"))
    both_BCHW = torch.cat([power_B1HW, determinant_B1HW], 1)
    known_BCHW = chips.valid_BHW[:, None] & torch.isfinite(both_BCHW)
    return Truth(log_power(both_BCHW, reference).where(known_BCHW, 0.0), known_BCHW)


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
    linear_B1HW, true_B1HW = (v[:, :1].exp().clamp(max=BRIGHT) for v in (guess_BCHW, wanted.values_BCHW))
    power_known, determinant_known = wanted.known_BCHW.split(1, 1)
    return {
        "power": Error(off_BCHW[:, :1], power_known, weights.power),
        "linear_power": Error((linear_B1HW - true_B1HW).abs(), power_known, weights.linear_power),
        "determinant": Error(off_BCHW[:, 1:], determinant_known, weights.determinant),
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
