"""One constant per band, checked, and the attributes every calibrated array carries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from catalog.errors import CalibrationError

LONG_NAMES: Mapping[str, str] = {
    "surface_reflectance": "surface reflectance",
    "toa_reflectance": "top-of-atmosphere reflectance",
    "toa_radiance": "top-of-atmosphere spectral radiance",
    "sigma_nought": "sigma nought, linear power on the ellipsoid",
    "beta_nought": "beta nought, linear power in the slant plane",
    "gamma_nought": "gamma nought, linear power",
    "sigma_nought_amplitude": "complex amplitude whose squared magnitude is sigma nought",
    "beta_nought_amplitude": "complex amplitude whose squared magnitude is beta nought",
    "gamma_nought_amplitude": "complex amplitude whose squared magnitude is gamma nought",
}
"""Quantity to the name that a person reads."""


def real_dn(dn: xr.DataArray) -> xr.DataArray:
    """The digital numbers as float32, refused unless they are real, floating and have a band dimension.

    Raises
    ------
    CalibrationError
        For complex pixels, for integers (their no-data would be calibrated as if it were measured) and without `band`.
    """
    _has_bands(dn)
    if dn.dtype.kind != "f":
        raise CalibrationError(
            f"digital numbers of type {dn.dtype} cannot be calibrated as real ones",
            item=str(dn.name or "dn"),
            enough="float32, with NaN where nothing was measured",
            todo="read the bands through catalog.read; complex pixels take complex_from_gaofen3 or complex_from_scale",
        )
    return dn.astype("float32", copy=False)


def complex_dn(dn: xr.DataArray) -> xr.DataArray:
    """The digital numbers as complex64, refused unless they are complex and have a band dimension.

    Raises
    ------
    CalibrationError
        For real pixels, whose phase is lost, and without `band`.
    """
    _has_bands(dn)
    if dn.dtype.kind != "c":
        raise CalibrationError(
            f"digital numbers of type {dn.dtype} have no phase to keep",
            item=str(dn.name or "dn"),
            enough="complex64, made of the product's I and Q",
            todo="read the product as complex pairs, or calibrate it as backscatter",
        )
    return dn.astype("complex64")


def per_band(
    dn: xr.DataArray, field: str, values: Mapping[str, float], *, zero: bool = True, negative: bool = True
) -> xr.DataArray:
    """The constants of a field in the order of the array's bands.

    Parameters
    ----------
    dn
        Array with a `band` coordinate.
    field
        What the constants are called in the error.
    values
        Band name to constant; bands that the array lacks are ignored.
    zero, negative
        Whether such a constant makes sense.

    Returns
    -------
    DataArray (band,), float64.

    Raises
    ------
    CalibrationError
        When a band has no constant, or one that is not finite or not allowed.
    """
    bands = [str(b) for b in dn["band"].values]
    for band in bands:
        value = values.get(band)
        if value is None:
            raise _bad_constant(field, band, f"no {field} is given", f"a {field} for each of {bands}")
        if not np.isfinite(value) or (not zero and value == 0) or (not negative and value < 0):
            raise _bad_constant(field, band, f"{field} is {value}", "a finite number" + ("" if zero else " above zero"))
    return xr.DataArray([float(values[b]) for b in bands], dims="band", coords={"band": dn["band"].values})


def affine(dn: xr.DataArray, factor: xr.DataArray, added: xr.DataArray) -> xr.DataArray:
    """DN * factor + added per band in float32, in one buffer, for cubes wait for this; lazy where `dn` is.

    Parameters
    ----------
    dn
        (band, y, x), float32.
    factor, added
        (band,), as `per_band` gives them.

    Returns
    -------
    DataArray (band, y, x), float32, within 1.2e-7 of the exact value relative to the larger of the two summands.
    """
    whole = xr.apply_ufunc(
        _affine,
        dn,
        factor.astype("float32"),
        added.astype("float32"),
        input_core_dims=[["band"]] * 3,
        output_core_dims=[["band"]],
        dask="parallelized",
        output_dtypes=["float32"],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return whole.transpose(*dn.dims)


def _affine(dn: np.ndarray, factor: np.ndarray, added: np.ndarray) -> np.ndarray:
    """(..., band) digital numbers times and plus (band,) constants."""
    values: np.ndarray = np.multiply(dn, factor)
    values += added
    return values


def described(data: xr.DataArray, quantity: str, units: str, like: xr.DataArray) -> xr.DataArray:
    """The array in float32 or complex64 with the attributes of its quantity; coordinates as in `like`."""
    if quantity not in LONG_NAMES:
        raise CalibrationError(
            f"{quantity} is no quantity of ours", item="quantity", enough=f"one of {', '.join(LONG_NAMES)}"
        )
    data = data.astype("complex64" if data.dtype.kind == "c" else "float32", copy=False).transpose(*like.dims)
    data.attrs = {**like.attrs, "quantity": quantity, "units": units, "long_name": LONG_NAMES[quantity]}
    data.name = quantity
    return data


def on_grid(table: xr.DataArray, dn: xr.DataArray, name: str) -> xr.DataArray:
    """The table in the pixel order of `dn`, its coordinates taken from there; refused on another grid."""
    sizes = {d: n for d, n in dn.sizes.items() if d in table.dims}
    if dict(table.sizes) != sizes or not {"y", "x"} <= set(sizes):
        raise CalibrationError(
            f"the {name} table is {dict(table.sizes)}, the image is {dict(dn.sizes)}",
            item=name,
            enough="the table on the image's grid, (band, y, x) or (y, x)",
            todo="pass the image's shape and origin to interpolate_lut",
        )
    if "band" in table.dims and "band" in table.coords:
        missing = [b for b in dn["band"].values if b not in table["band"].values]
        if missing:
            raise CalibrationError(f"the {name} table lacks {missing}", item=name, enough="one table per band")
        table = table.sel(band=dn["band"].values)
    for axis in ("y", "x"):
        if axis in table.coords and axis in dn.coords and not np.array_equal(table[axis], dn[axis]):
            raise CalibrationError(
                f"the {name} table starts at {axis} {table[axis].values[0]:g}, the image at {dn[axis].values[0]:g}",
                item=name,
                enough="both on the same lines and pixels",
                todo="pass the image's origin to interpolate_lut",
            )
    return table.drop_vars([c for c in table.coords if c != "band"])


def line_numbers(dn: xr.DataArray, axis: str) -> np.ndarray:
    """Line (y) or pixel (x) number of every row or column: the coordinate, else counted from 0.

    Raises
    ------
    CalibrationError
        When the coordinate does not increase, as y of a map does not.
    """
    if axis not in dn.coords:
        return np.arange(dn.sizes[axis])
    numbers: np.ndarray = dn[axis].values
    if np.any(np.diff(numbers) <= 0):
        raise CalibrationError(
            f"{axis} runs from {numbers[0]:g} to {numbers[-1]:g}, which are no line or pixel numbers",
            item=str(dn.name or "dn"),
            enough="increasing line and pixel numbers, as read_native gives them for an image in radar geometry",
            todo="calibrate the product in its own geometry, before it is placed on a map",
        )
    return numbers


def _has_bands(dn: xr.DataArray) -> None:
    if "band" not in dn.coords or "band" not in dn.dims:
        raise CalibrationError(
            "the array has no band names",
            item=str(dn.name or "dn"),
            enough="dims (band, y, x) with a band coordinate",
            todo="assign_coords(band=[...])",
        )


def _bad_constant(field: str, band: str, what: str, enough: str) -> CalibrationError:
    return CalibrationError(
        f"{what} for band {band}", item=f"{field} of {band}", enough=enough, todo="look at the product's metadata file"
    )
