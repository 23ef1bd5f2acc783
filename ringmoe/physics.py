"""What an instrument's physics lets us expect of a pixel, as pure functions of tensors.

Shape legend: B image, C channel, H row, W column.
"""

from __future__ import annotations

import torch
from torch import Tensor

POWER_FLOOR = 1e-6
"""Least power, relative to the reference, told apart from none: 60 dB below it."""


def total_power(parts_BCHW: Tensor) -> Tensor:
    """Total backscattered power (span) of a complex radar image.

    P = |HH|^2 + |HV|^2 + |VH|^2 + |VV|^2, which every unitary change of polarisation basis and every polarimetric
    decomposition conserves (Lee and Pottier, Polarimetric Radar Imaging, 2009, section 3.2).

    Parameters
    ----------
    parts_BCHW
        Real and imaginary parts of all polarisations, in any order, as amplitudes; axis 1 is the channel.

    Returns
    -------
    Tensor
        (B, 1, H, W), linear power, at least 0; NaN where a part is.
    """
    return parts_BCHW.square().sum(1, keepdim=True)


def log_power(power: Tensor, reference: float | Tensor = 1.0) -> Tensor:
    """Natural logarithm of a linear power over a reference, ln(P / P_ref + 1e-6); power below 0 counts as 0."""
    return torch.log(power.clamp(min=0) / reference + POWER_FLOOR)


def speckle_bias(looks: float | Tensor) -> Tensor:
    """By how much the mean of the logarithm of a speckled intensity differs from the logarithm of its mean.

    psi(L) - ln L, at most 0: the intensity of L looks is Gamma distributed with shape L (Goodman 1976); -0.577
    (2.5 dB) at one look.
    """
    looks_f = torch.as_tensor(looks, dtype=torch.float64)
    return torch.digamma(looks_f) - torch.log(looks_f)


def log_ratio(power_a: Tensor, power_b: Tensor, looks_a: float = 1.0, looks_b: float = 1.0) -> Tensor:
    """Logarithm of the ratio of two backscatters, free of the bias that speckle gives images of unequal looks.

    (ln a - psi(La) + ln La) - (ln b - psi(Lb) + ln Lb): its expectation is 0 where nothing changed.

    Parameters
    ----------
    power_a, power_b
        Linear power of any equal shape, above 0.
    looks_a, looks_b
        Equivalent number of looks of each.
    """
    correction = (speckle_bias(looks_a) - speckle_bias(looks_b)).to(power_a.dtype)
    return torch.log(power_a) - torch.log(power_b) - correction


def spectral_angle(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Angle between two spectra in radians, (B, H, W), 0 to pi; brightness alone does not change it.

    2 atan2(|a/|a| - b/|b||, |a/|a| + b/|b||), the spectral angle mapper (Kruse et al. 1993) in Kahan's form, which
    stays exact near 0 where the arc cosine does not. A zero spectrum is at angle 0 from a zero spectrum.
    """
    a = torch.nn.functional.normalize(a_BCHW, dim=1)
    b = torch.nn.functional.normalize(b_BCHW, dim=1)
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))
