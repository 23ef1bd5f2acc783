"""Covariance and coherency matrices of complex channels, what turns one into the other, span and coherence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import xarray as xr

from catalog.calibrate.bands import complex_dn
from catalog.errors import CalibrationError

PAULI = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, -1.0], [0.0, np.sqrt(2.0), 0.0]]) / np.sqrt(2.0)
"""Unitary: lexicographic (HH, sqrt(2) HV, VV) to Pauli (HH + VV, HH - VV, 2 HV) / sqrt(2)."""


def covariance4(channels: xr.DataArray, window: int = 1) -> xr.DataArray:
    """C4 = <k k*>, k = (HH, HV, VH, VV): the covariance of four channels, nothing assumed of them.

    Source: Lee and Pottier, Polarimetric Radar Imaging (2009), 3.3. Its trace is the span.

    Parameters
    ----------
    channels
        (band, y, x) complex with bands HH, HV, VH and VV, calibrated; NaN where nothing was measured; may be lazy.
    window
        Odd side in pixels of the boxcar mean < >; 1 leaves single looks. A window that holds a NaN, or reaches
        beyond the image, gives NaN.

    Returns
    -------
    DataArray (row, column, y, x) complex64, linear power, Hermitian in row and column.

    Raises
    ------
    CalibrationError
        For real pixels, a missing polarisation or an even window.
    """
    return _outer(_vector(channels, ("HH", "HV", "VH", "VV")), window)


def covariance3(channels: xr.DataArray, window: int = 1) -> xr.DataArray:
    """C3 = <k k*>, k = (HH, (HV + VH) / sqrt(2), VV): the covariance of a reciprocal target.

    HV and VH are averaged, so that half of their difference, which is noise where the target is reciprocal, is
    left out; k is (HH, sqrt(2) HV, VV) where they are equal, and only then is the trace the span. Where VH is
    missing, HV stands for both. Source and parameters as in covariance4; returns (row, column, y, x) with three rows.
    """
    names = [str(b) for b in complex_dn(channels)["band"].values]
    if "VH" not in names or "HV" not in names:
        hh, cross, vv = _vector(channels, ("HH", "HV" if "HV" in names else "VH", "VV"))
        return _outer([hh, cross * np.sqrt(2.0), vv], window)
    hh, hv, vh, vv = _vector(channels, ("HH", "HV", "VH", "VV"))
    return _outer([hh, (hv + vh) / np.sqrt(2.0), vv], window)


def coherency3(channels: xr.DataArray, window: int = 1) -> xr.DataArray:
    """T3 = <k k*>, k = (HH + VV, HH - VV, HV + VH) / sqrt(2); parameters and result as in covariance3."""
    return coherency_from_covariance(covariance3(channels, window))


def coherency_from_covariance(covariance: xr.DataArray) -> xr.DataArray:
    """T3 = U C3 U*, U the unitary matrix from the lexicographic to the Pauli basis; trace and eigenvalues stay.

    Source: Lee and Pottier (2009), 3.3.4.

    Parameters
    ----------
    covariance
        (row, column, y, x) complex with three rows and columns.

    Returns
    -------
    DataArray (row, column, y, x) complex, as precise as its input.

    Raises
    ------
    CalibrationError
        For another shape.
    """
    return _turned(covariance, PAULI)


def covariance_from_coherency(coherency: xr.DataArray) -> xr.DataArray:
    """C3 = U* T3 U, the way back of coherency_from_covariance."""
    return _turned(coherency, PAULI.T)


def span(matrix: xr.DataArray) -> xr.DataArray:
    """Total power: the trace of a covariance or coherency matrix, (row, column, y, x) to (y, x), real."""
    size = _side(matrix)
    return cast(xr.DataArray, sum(_entry(matrix, i, i).real for i in range(size)))


def coherence(one: xr.DataArray, other: xr.DataArray, window: int | None = None) -> xr.DataArray:
    """|<a b*>| / sqrt(<|a|^2> <|b|^2>), between 0 and 1.

    Parameters
    ----------
    one, other
        (y, x) complex channels, NaN where nothing was measured.
    window
        Odd side in pixels of the boxcar mean < >; None takes the mean over the whole image.

    Returns
    -------
    DataArray (y, x), or a scalar where window is None.

    Raises
    ------
    CalibrationError
        For an even window.
    """

    def mean(values: xr.DataArray) -> xr.DataArray:
        return values.mean(("y", "x")) if window is None else _boxcar(values, window)

    power: xr.DataArray = mean((one * one.conj()).real) * mean((other * other.conj()).real)
    crossed: xr.DataArray = np.abs(mean(one * other.conj()))  # type: ignore[assignment]
    return crossed / np.sqrt(power)


def _vector(channels: xr.DataArray, names: Sequence[str]) -> list[xr.DataArray]:
    channels = complex_dn(channels).astype("complex128")
    known = [str(b) for b in channels["band"].values]
    missing = [n for n in names if n not in known]
    if missing:
        raise CalibrationError(
            f"the matrix needs {', '.join(missing)}",
            item=f"channels {', '.join(known)}",
            enough=f"the polarisations {', '.join(names)}",
            todo="take a product of all these polarisations",
        )
    return [channels.sel(band=n, drop=True) for n in names]


def _outer(k: Sequence[xr.DataArray], window: int) -> xr.DataArray:
    rows = [xr.concat([_boxcar(a * b.conj(), window) for b in k], dim="column") for a in k]
    matrix = xr.concat(rows, dim="row").astype("complex64")
    matrix.attrs = {"units": "1", "long_name": "polarimetric matrix, linear power"}
    return matrix


def _boxcar(values: xr.DataArray, window: int) -> xr.DataArray:
    if window < 1 or window % 2 == 0:
        raise CalibrationError(f"a window of {window} pixels has no centre", item="window", enough="an odd number")
    if window == 1:
        return values
    windows = values.rolling(y=window, x=window, center=True).construct(y="v", x="u")
    return windows.mean(("v", "u"), skipna=False)


def _turned(matrix: xr.DataArray, basis: np.ndarray) -> xr.DataArray:
    if _side(matrix) != 3:
        raise CalibrationError(
            f"a matrix of {_side(matrix)} rows has no Pauli basis of three",
            item="matrix",
            enough="dims (row, column, y, x) with three rows and columns",
        )
    turned: xr.DataArray = xr.apply_ufunc(
        lambda m: basis @ m @ basis.T,
        matrix,
        input_core_dims=[["row", "column"]],
        output_core_dims=[["row", "column"]],
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.complex128],
    )
    return turned.transpose(*matrix.dims).astype(matrix.dtype).assign_attrs(matrix.attrs)


def _side(matrix: xr.DataArray) -> int:
    sizes = matrix.sizes
    if "row" not in sizes or sizes.get("row") != sizes.get("column"):
        raise CalibrationError(
            f"dims {dict(sizes)} are no matrix per pixel", item="matrix", enough="dims (row, column, y, x)"
        )
    return int(sizes["row"])


def _entry(matrix: xr.DataArray, i: int, j: int) -> xr.DataArray:
    return matrix.isel(row=i, column=j)
