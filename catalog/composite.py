"""Many looks at one place to one clear one, with its count and its dates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import date
from typing import Literal

import numpy as np
import xarray as xr

from catalog.errors import CubeError, NothingFound
from catalog.sensors import USABLE, Quality

Method = Literal["median", "medoid", "clearest"]
Day = str | date | np.datetime64
NEVER = np.datetime64("NaT", "ns")


def composite(
    cube: xr.Dataset, method: Method = "median", start: Day | None = None, end: Day | None = None
) -> xr.Dataset:
    """One picture of a period, made of the pixels whose quality shows the ground.

    median: per band over the looks; medoid: the look whose summed distance to the others is smallest, so that a pixel's
    bands are of one date (Flood, Remote Sensing 5, 2013); clearest: of the looks, clear before snow, the one
    of the date with the largest usable share of the cube, the later of equals.

    Parameters
    ----------
    cube
        data (time, band, y, x), float32 or complex64, NaN where nothing was measured; quality (time, y, x), values of
        catalog.sensors.Quality. May be lazy, then the result is.
    method
        median, medoid or clearest. Complex pixels take clearest only.
    start, end
        First and last day, both included; None is open.

    Returns
    -------
    Dataset with data (band, y, x), NaN without a look; quality (y, x): clear or snow, or why there is no look (that of
    the latest date that measured anything); looks (y, x), uint16; first and last (y, x), datetime64[ns], NaT without.

    Raises
    ------
    NothingFound
        When no date of the cube lies in the period.
    CubeError
        For an unknown method, a cube without data or quality, or complex pixels under median or medoid.
    """
    _check(cube, method)
    chosen = cube.sel(time=slice(_day(start), _day(end)))
    if chosen.sizes["time"] == 0:
        days = [str(t)[:10] for t in cube["time"].values]
        raise NothingFound(
            f"no look between {start or 'the beginning'} and {end or 'the end'}",
            item=str(cube.attrs.get("tile", "cube")),
            enough=f"a period that holds one of {', '.join(days)}",
            todo="widen the period or ingest more scenes",
        )
    chosen = chosen.chunk({"time": -1, "band": -1}) if chosen["data"].chunks else chosen
    usable = chosen["quality"].isin([int(q) for q in USABLE])
    parts = xr.apply_ufunc(
        KERNELS[method],
        chosen["data"],
        chosen["quality"],
        usable.mean(("y", "x")),
        chosen["time"].astype("datetime64[ns]"),
        input_core_dims=[["time", "band"], ["time"], ["time"], ["time"]],
        output_core_dims=[["band"], [], [], [], []],
        dask="parallelized",
        output_dtypes=[chosen["data"].dtype, "uint8", "uint16", "datetime64[ns]", "datetime64[ns]"],
    )
    return _described(dict(zip(("data", "quality", "looks", "first", "last"), parts, strict=True)), chosen, method)


def _median(data: np.ndarray, quality: np.ndarray, _clarity: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, ...]:
    """Arrays come (y, x, ..., time, band) and (y, x, time); the quality is snow where most looks are."""
    look = _looks(data, quality)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels without a look stay NaN
        middle = np.nanmedian(np.where(look[..., None], data, np.nan), axis=-2)
    snow = 2 * np.sum(look & (quality == Quality.SNOW), axis=-1) > look.sum(axis=-1)
    first, last = _span(look, time)
    ground = _quality(look, quality, np.where(snow, Quality.SNOW, Quality.CLEAR))
    return middle.astype(data.dtype), ground, look.sum(axis=-1).astype("uint16"), first, last


def _medoid(data: np.ndarray, quality: np.ndarray, _clarity: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, ...]:
    look = _looks(data, quality)
    cost = np.zeros(look.shape)
    for other in range(look.shape[-1]):
        apart = data - data[..., other : other + 1, :]
        distance = np.sqrt(np.nansum(apart**2, axis=-1))
        cost += np.where(look[..., other : other + 1], distance, 0.0)
    return _picked(data, quality, look, np.where(look, cost, np.inf).argmin(axis=-1), time)


def _clearest(data: np.ndarray, quality: np.ndarray, clarity: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, ...]:
    look = _looks(data, quality)
    later_of_equals = np.argsort(np.argsort(clarity, axis=-1, kind="stable"), axis=-1, kind="stable")
    score = later_of_equals + look.shape[-1] * (quality == Quality.CLEAR)
    return _picked(data, quality, look, np.where(look, score, -1).argmax(axis=-1), time)


KERNELS: Mapping[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "median": _median,
    "medoid": _medoid,
    "clearest": _clearest,
}
"""Method to the function that makes it."""


def _looks(data: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """(..., time) true where the quality shows the ground and some band was measured."""
    measured: np.ndarray = np.isfinite(data).any(axis=-1)
    return np.isin(quality, [int(q) for q in USABLE]) & measured


def _picked(
    data: np.ndarray, quality: np.ndarray, look: np.ndarray, index: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The chosen date's pixels, and that date as first and last."""
    any_look = np.asarray(look.any(axis=-1))
    pixels = np.take_along_axis(data, index[..., None, None], axis=-2)[..., 0, :]
    pixels = np.where(any_look[..., None], pixels, np.nan).astype(data.dtype)
    own = np.take_along_axis(quality, index[..., None], axis=-1)[..., 0]
    date_used = np.where(any_look, time[index], NEVER)
    return pixels, _quality(look, quality, own), look.sum(axis=-1).astype("uint16"), date_used, date_used


def _quality(look: np.ndarray, quality: np.ndarray, where_seen: np.ndarray) -> np.ndarray:
    """The given quality where there is a look, else that of the latest date that measured anything."""
    measured: np.ndarray = np.not_equal(quality[..., ::-1], Quality.NO_DATA)
    latest = np.take_along_axis(quality[..., ::-1], measured.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    # Usable by its quality, yet NaN in every band: nothing was measured.
    latest = np.where(np.isin(latest, [int(q) for q in USABLE]), Quality.NO_DATA, latest)
    return np.where(look.any(axis=-1), where_seen, latest).astype("uint8")


def _span(look: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seen = look.any(axis=-1)
    first = time[look.argmax(axis=-1)]
    last = time[look.shape[-1] - 1 - look[..., ::-1].argmax(axis=-1)]
    return np.where(seen, first, NEVER), np.where(seen, last, NEVER)


def _described(parts: dict[str, xr.DataArray], chosen: xr.Dataset, method: str) -> xr.Dataset:
    """The Dataset with the cube's coordinates and attributes, those of its dates reduced to the dates used."""
    parts["data"] = parts["data"].transpose("band", "y", "x").assign_attrs(chosen["data"].attrs)
    parts["quality"] = parts["quality"].assign_attrs(chosen["quality"].attrs)
    parts["looks"] = parts["looks"].assign_attrs(units="1", long_name="number of looks that show the ground")
    parts["first"] = parts["first"].assign_attrs(long_name="first date used")
    parts["last"] = parts["last"].assign_attrs(long_name="last date used")
    extra = {name: chosen[name] for name in ("longitude", "latitude", "height") if name in chosen.data_vars}
    days = [str(t)[:10] for t in chosen["time"].values]
    attrs = {**chosen.attrs, "composite": method, "period": f"{days[0]}/{days[-1]}"}
    return xr.Dataset(parts | extra, attrs=attrs).drop_vars("time", errors="ignore")


def _day(day: Day | None) -> str | None:
    """Whole days: xarray takes the end of a slice of days to its last instant."""
    return None if day is None else str(day)[:10]


def _check(cube: xr.Dataset, method: str) -> None:
    missing = [name for name in ("data", "quality") if name not in cube]
    if missing or cube["data"].dims != ("time", "band", "y", "x"):
        raise CubeError(
            f"no composite of a Dataset with {sorted(map(str, cube.data_vars))}",
            item=str(cube.attrs.get("tile", "cube")),
            enough="data (time, band, y, x) and quality (time, y, x)",
            todo="open it with catalog.cube.open",
        )
    if method not in KERNELS:
        raise CubeError(f"no composite is called {method}", item="method", enough=f"one of {', '.join(KERNELS)}")
    if cube["data"].dtype.kind == "c" and method != "clearest":
        raise CubeError(
            f"a {method} of complex pixels means nothing: their phases are independent from date to date",
            item=str(cube.attrs.get("tile", "cube")),
            enough="method clearest, which keeps one date's phase",
            todo="pass method='clearest', or composite the power",
        )
