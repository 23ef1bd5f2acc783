"""Polarimetric matrices by closed forms: canonical targets, invariants, the identity there and back."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from catalog.calibrate import polarimetry
from catalog.errors import CalibrationError


def quad(seed: int = 1, reciprocal: bool = True) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4, 9, 11)) + 1j * rng.normal(size=(4, 9, 11))
    if reciprocal:
        values[2] = values[1]
    return xr.DataArray(values.astype("complex64"), dims=("band", "y", "x"), coords={"band": ["HH", "HV", "VH", "VV"]})


def test_span_is_the_power_of_all_channels() -> None:
    """Trace of C4, and of C3 and T3 of a reciprocal target, is |HH|^2 + |HV|^2 + |VH|^2 + |VV|^2."""
    channels = quad()
    power = (np.abs(channels) ** 2).sum("band")
    for matrix in (polarimetry.covariance4, polarimetry.covariance3, polarimetry.coherency3):
        np.testing.assert_allclose(polarimetry.span(matrix(channels)), power, rtol=1e-6)
    lost = polarimetry.span(polarimetry.covariance4(quad(reciprocal=False))) - polarimetry.span(
        polarimetry.covariance3(quad(reciprocal=False))
    )
    hv, vh = quad(reciprocal=False).sel(band="HV"), quad(reciprocal=False).sel(band="VH")
    np.testing.assert_allclose(lost, np.abs(hv - vh) ** 2 / 2, atol=1e-5)


def test_canonical_targets_have_their_pauli_component() -> None:
    """A sphere is T11 = 2, a dihedral T22 = 2, a dihedral turned by 45 degrees T33 = 2, and nothing else."""
    targets = {0: (1, 0, 0, 1), 1: (1, 0, 0, -1), 2: (0, 1, 1, 0)}
    for k, scattering in targets.items():
        channels = xr.DataArray(
            np.array(scattering, "complex64")[:, None, None] * np.exp(1j * 0.7).astype("complex64"),
            dims=("band", "y", "x"),
            coords={"band": ["HH", "HV", "VH", "VV"]},
        )
        expected = np.zeros((3, 3))
        expected[k, k] = 2.0
        np.testing.assert_allclose(polarimetry.coherency3(channels).values[..., 0, 0], expected, atol=1e-6)


def test_matrices_turn_into_each_other_and_stay_hermitian() -> None:
    """C3 to T3 and back is the identity; eigenvalues stay; T12 is <(HH + VV)(HH - VV)*> / 2 by hand."""
    channels = quad(2)
    covariance = polarimetry.covariance3(channels, window=3)
    coherency = polarimetry.coherency_from_covariance(covariance)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(
        polarimetry.covariance_from_coherency(coherency).values[inner], covariance.values[inner], atol=1e-6
    )
    matrix = coherency.values[inner].transpose(2, 3, 0, 1)
    np.testing.assert_allclose(matrix, matrix.conj().swapaxes(-1, -2), atol=1e-6)
    before = np.linalg.eigvalsh(covariance.values[inner].transpose(2, 3, 0, 1))
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), before, atol=1e-5)
    hh, vv = (channels.sel(band=b).values[3:6, 4:7] for b in ("HH", "VV"))
    by_hand = ((hh + vv) * (hh - vv).conj()).mean() / 2
    assert coherency.values[0, 1, 4, 5] == pytest.approx(by_hand, abs=1e-6)
    assert np.isnan(covariance.values[..., 0, 0]).all()


def test_coherence_of_equal_independent_and_delayed_channels() -> None:
    """A channel with itself, in any phase, is 1; of two with a shared part of half their power it is 1 / 2."""
    rng = np.random.default_rng(4)
    a, b, c = (xr.DataArray(rng.normal(size=(300, 300)) + 1j * rng.normal(size=(300, 300)), dims=("y", "x"))
               for _ in range(3))  # fmt: skip
    assert float(polarimetry.coherence(a, a * np.exp(2j))) == pytest.approx(1.0)
    assert float(polarimetry.coherence(a + b, a + c)) == pytest.approx(0.5, abs=0.01)
    local = polarimetry.coherence(a, 3j * a, window=5)
    np.testing.assert_allclose(local[2:-2, 2:-2], 1.0)


def test_matrices_of_missing_or_detected_channels_are_refused() -> None:
    """A missing polarisation, real pixels, an even window, a matrix of another size."""
    channels = quad()
    for act, word in (
        (lambda: polarimetry.covariance4(channels.sel(band=["HH", "VV"])), "HV, VH"),
        (lambda: polarimetry.covariance4(channels.real), "no phase to keep"),
        (lambda: polarimetry.covariance3(channels, window=4), "no centre"),
        (lambda: polarimetry.coherency_from_covariance(polarimetry.covariance4(channels)), "4 rows"),
        (lambda: polarimetry.span(channels), "no matrix per pixel"),
    ):
        with pytest.raises(CalibrationError, match=word):
            act()
