"""What an instrument's physics lets us expect of a pixel, as pure functions of tensors.

Shape legend: B image, C channel, H row, W column.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

POWER_FLOOR = 1e-6
"""Least power, relative to the reference, told apart from none: 60 dB below it."""

SPECKLE_REACH = 2.0
"""ln of intensity over its mean that single-look speckle exceeds once in 1600 pixels; more than that is no speckle."""

REFLECTANCE_FLOOR = 0.01
"""Least reflectance whose ratio to another means something."""


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


def determinant_power(parts_BCHW: Tensor) -> Tensor:
    """|HH VV - HV VH| of a quad-pol image: the modulus of the scattering matrix's determinant.

    A unitary change of polarisation basis, S' = U^T S U, multiplies the determinant by det(U)^2, whose modulus is 1:
    with the total power it is all that one look conserves (Huynen 1970; Lee and Pottier 2009, section 3.2).
    That HV equals VH is not assumed.

    Parameters
    ----------
    parts_BCHW
        Amplitudes: real and imaginary part of HH, HV, VH and VV, in this order; axis 1 is the channel.

    Returns
    -------
    Tensor
        (B, 1, H, W), linear power, at least 0; NaN where a part is.
    """
    hh, hv, vh, vv = torch.view_as_complex(parts_BCHW.unflatten(1, (4, 2)).movedim(2, -1).contiguous()).unbind(1)
    return (hh * vv - hv * vh).abs()[:, None]


def multilooked_eigenvalues(parts_BCHW: Tensor, side_px: int) -> Tensor:
    """Eigenvalues of the covariance matrix of all polarisations, averaged over squares of so many pixels.

    C = <k k^H> with k the scattering vector; a unitary change of polarisation basis is a unitary change of k, which
    leaves them. Of one look C has rank 1 and one eigenvalue, the total power: they say more only after averaging over
    at least as many looks as there are polarisations (Lee and Pottier 2009, section 3.3). Rows and columns beyond the
    last whole square are left out.

    Parameters
    ----------
    parts_BCHW
        Amplitudes: real and imaginary part of each polarisation; axis 1 is the channel.
    side_px
        Side of a square, its square at least the number of polarisations.

    Returns
    -------
    Tensor
        (B, P, H / side_px, W / side_px), linear power, the largest first; NaN where a pixel of the square is.
    """
    k_BPHW = torch.view_as_complex(parts_BCHW.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())
    if side_px**2 < k_BPHW.shape[1]:
        raise ValueError(f"{side_px**2} looks cannot tell {k_BPHW.shape[1]} eigenvalues apart")
    products_BCHW = torch.view_as_real((k_BPHW[:, :, None] * k_BPHW[:, None].conj()).flatten(1, 2))
    averaged = torch.nn.functional.avg_pool2d(products_BCHW.movedim(-1, 1).flatten(0, 1), side_px)
    real, imaginary = averaged.unflatten(0, (-1, 2)).unbind(1)
    count = k_BPHW.shape[1]
    matrix = torch.complex(real, imaginary).movedim(1, -1).unflatten(-1, (count, count))
    known = torch.isfinite(torch.view_as_real(matrix)).all(-1).all(-1).all(-1)
    found = torch.linalg.eigvalsh(matrix.where(known[..., None, None], 0.0)).flip(-1).clamp(min=0)
    return found.where(known[..., None], float("nan")).movedim(-1, 1)


def log_power(power: Tensor, reference: float | Tensor = 1.0) -> Tensor:
    """Natural logarithm of a linear power over a reference, ln(P / P_ref + 1e-6); power below 0 counts as 0."""
    return torch.log(power.clamp(min=0) / reference + POWER_FLOOR)


def spectral_angle(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Angle between two spectra in radians, (B, H, W), 0 to pi; brightness alone does not change it.

    2 atan2(|a/|a| - b/|b||, |a/|a| + b/|b||), the spectral angle mapper (Kruse et al. 1993) in Kahan's form, which
    stays exact near 0 where the arc cosine does not. A zero spectrum is at angle 0 from a zero spectrum.
    """
    a = torch.nn.functional.normalize(a_BCHW, dim=1)
    b = torch.nn.functional.normalize(b_BCHW, dim=1)
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


def gamma_deviance(log_excess: Tensor, looks: float | Tensor = 1.0) -> Tensor:
    """How unlikely speckle makes an intensity, against the likeliest mean: L (I / m - 1 - ln(I / m)), at least 0.

    Minus the logarithm of the Gamma density of shape L and mean m, less its least value (Goodman 1976). Its minimum
    over m, for many intensities, is at their mean, not at the exponential of their mean logarithm as that of a squared
    or absolute error of logarithms. Beyond e^2 times the mean, where no speckle reaches, it goes on as a straight line.

    Parameters
    ----------
    log_excess
        ln(I / m), the logarithm of the measured intensity over the mean guessed; any shape.
    looks
        Equivalent number of looks L, above 0.
    """
    near = log_excess.clamp(max=SPECKLE_REACH)
    return looks * (torch.expm1(near) - near + (log_excess - near) * math.expm1(SPECKLE_REACH))


def log_ratios(reflectance_BCHW: Tensor) -> Tensor:
    """Logarithm of each band over the geometric mean of all bands, (B, C, H, W); illumination does not change it.

    The centred log-ratio (Aitchison 1982): differences of its channels are the logarithms of all band ratios.
    Reflectance below 0.01 counts as 0.01.
    """
    logarithm_BCHW = torch.log(reflectance_BCHW.clamp(min=REFLECTANCE_FLOOR))
    return logarithm_BCHW - logarithm_BCHW.mean(1, keepdim=True)
