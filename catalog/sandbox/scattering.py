"""Radar echoes: the polarimetric covariance of each surface, and speckle drawn from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox.spectra import SURFACES, Surface

FloatArray = NDArray[np.floating]
ComplexArray = NDArray[np.complexfloating]

TERMS = ("HH", "HV", "VV", "re(HH VV*)", "im(HH VV*)")
"""What a reciprocal, reflection-symmetric covariance consists of: three powers and one complex product."""

POLARISATIONS = ("HH", "HV", "VH", "VV")
"""Order of the four channels."""

_SURFACE_BETA = 0.86
"""HH over VV amplitude of a rough surface at 39 degrees."""
_DOUBLE_ALPHA = -1.12 + 0.12j
"""HH over VV amplitude of a wall and the ground before it; the phase is near pi."""
_SURFACE_COHERENCE = 0.92
"""Coherence of HH and VV in both coherent mechanisms."""


def covariance_of(surface: Surface) -> NDArray[np.float64]:
    """TERMS of one surface as linear power.

    Three mechanisms after Freeman and Durden (1998, eq. 1-13): a volume of thin random cylinders (HH = VV, HV = VV / 3,
    HH VV* = VV / 3) that alone explains HV; what VV has beyond it is split between a rough surface and a double bounce.
    """
    vv, hv = 10.0 ** (surface.vv_db / 10.0), 10.0 ** (surface.vh_db / 10.0)
    volume = 3.0 * hv
    rest = max(vv - volume, 0.0)
    twice, once = rest * surface.double, rest * (1.0 - surface.double)
    cross = once * _SURFACE_BETA + twice * _DOUBLE_ALPHA
    product = volume / 3.0 + _SURFACE_COHERENCE * cross
    hh = volume + once * _SURFACE_BETA**2 + twice * abs(_DOUBLE_ALPHA) ** 2
    return np.array([hh, hv, volume + rest, product.real, product.imag])


def covariance_table() -> NDArray[np.float32]:
    """TERMS of every surface, (surface, term), linear power."""
    return np.array([covariance_of(s) for s in SURFACES], np.float32)


def gamma_speckle(rng: np.random.Generator, mean: FloatArray, looks: float) -> FloatArray:
    """Multi-look intensity of a mean: gamma distributed with variance mean^2 / looks."""
    return mean * rng.gamma(looks, 1.0 / looks, mean.shape)


def complex_speckle(rng: np.random.Generator, terms: FloatArray, noise: float) -> NDArray[np.complex64]:
    """Single-look scattering vectors with a covariance, plus receiver noise.

    Parameters
    ----------
    terms
        (term, row, col), linear power, in the order of TERMS.
    noise
        Power of the noise that each channel adds by itself.

    Returns
    -------
    numpy.ndarray
        (polarisation, row, col) complex64 in the order of POLARISATIONS. The echo of HV and VH is one and the same
        (reciprocity); their noise is not.
    """
    hh, hv, vv, re, im = terms.astype(np.float32)
    shape = hh.shape

    def circular(power: FloatArray | float = 1.0) -> NDArray[np.complex64]:
        pair = rng.standard_normal((2, *shape), np.float32)
        return ((pair[0] + 1j * pair[1]) * np.sqrt(np.asarray(power, np.float32) / 2)).astype(np.complex64)

    first = circular(hh)
    link = (re - 1j * im) / np.maximum(hh, 1e-12)
    left = np.maximum(vv - (re**2 + im**2) / np.maximum(hh, 1e-12), 0.0)
    cross = circular(hv)
    echo = np.stack([first, cross, cross, link * first + circular(left)])
    return (echo + np.stack([circular(noise) for _ in POLARISATIONS])).astype(np.complex64)
