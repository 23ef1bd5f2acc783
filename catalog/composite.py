"""Many looks at one place to one clear one, with its count and its dates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr

from catalog.errors import CubeError, NothingFound
from catalog.sensors import USABLE, Quality

Method = Literal["median", "medoid", "clearest"]
Day = str | date | np.datetime64
NEVER = np.datetime64("NaT", "ns")

BLOCK_BYTES = 2**24
"""Pixels of a block that a kernel works on at once, all looks of them; its temporaries are a few times that."""

TIE = 1e-9
"""Medoids whose costs differ by less than this share are equal: sums of distances round differently."""

Parts = tuple[np.ndarray, ...]
"""data, quality, looks, first, last, spread."""


def composite(
    cube: xr.Dataset,
    method: Method = "median",
    start: Day | None = None,
    end: Day | None = None,
    clarity: Sequence[float] | None = None,
) -> xr.Dataset:
    """One picture of a period, made of the pixels whose quality shows the ground.

    median: per band over the looks; medoid: the look whose mean distance to the others is smallest, so that a pixel's
    bands are of one date (Flood, Remote Sensing 5, 2013), the earlier of equals; the distance of two looks is the
    root mean square over the bands that both measured. clearest: of the looks, clear before snow, the one of the date
    with the largest usable share of the cube, the later of equals.

    Parameters
    ----------
    cube
        data (time, band, y, x), float32 or complex64, NaN where nothing was measured; quality (time, y, x), values of
        catalog.sensors.Quality. May be lazy, then the result is.
    method
        median, medoid or clearest. Complex pixels take clearest only.
    start, end
        First and last day, both included; None is open.
    clarity
        Usable share, 0 to 1, of each date of the cube that a part was cut from; None measures it on what is given.

    Returns
    -------
    Dataset with data (band, y, x), NaN without a look; quality (y, x): clear or snow, or why there is no look (that of
    the latest date that measured anything); looks (y, x), uint16; first and last (y, x), datetime64[ns], NaT without;
    spread (y, x), float32 in the cube's units: per band the median over the looks of their distance to the composite,
    then the mean over the bands, NaN without a look, 0 of a single one.

    Raises
    ------
    NothingFound
        When no date of the cube lies in the period.
    CubeError
        For an unknown method, a cube without data or quality, or complex pixels under median or medoid.
    """
    _check(cube, method)
    shown = xr.DataArray(clarity, dims="time", coords={"time": cube["time"]}) if clarity is not None else None
    period = slice(_day(start), _day(end))
    chosen = cube.sel(time=period)
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
        partial(_in_blocks, KERNELS[method]),
        chosen["data"],
        chosen["quality"],
        usable.mean(("y", "x")) if shown is None else shown.sel(time=period),
        chosen["time"].astype("datetime64[ns]"),
        input_core_dims=[["time", "band"], ["time"], ["time"], ["time"]],
        output_core_dims=[["band"], [], [], [], [], []],
        dask="parallelized",
        output_dtypes=[chosen["data"].dtype, "uint8", "uint16", "datetime64[ns]", "datetime64[ns]", "float32"],
    )
    names = ("data", "quality", "looks", "first", "last", "spread")
    return _described(dict(zip(names, parts, strict=True)), chosen, method)


def _in_blocks(
    kernel: Callable[..., Parts], data: np.ndarray, quality: np.ndarray, clarity: np.ndarray, time: np.ndarray
) -> Parts:
    """A kernel over a few rows at a time, so that its temporaries are bounded whatever the chunk is."""
    rows = max(1, BLOCK_BYTES // max(1, data.nbytes // max(1, len(data))))
    parts = [
        kernel(data[row : row + rows], quality[row : row + rows], clarity, time)
        for row in range(0, max(1, len(data)), rows)
    ]
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(p) for p in zip(*parts, strict=True))


def _median(data: np.ndarray, quality: np.ndarray, _clarity: np.ndarray, time: np.ndarray) -> Parts:
    """Arrays come (y, x, time, band) and (y, x, time); the quality is snow where most looks are."""
    look = _looks(data, quality)
    middle = _middle(np.where(look[..., None], data, np.nan)).astype(data.dtype)
    snow = 2 * np.sum(look & (quality == Quality.SNOW), axis=-1) > look.sum(axis=-1)
    first, last = _span(look, time)
    ground = _quality(look, quality, np.where(snow, Quality.SNOW, Quality.CLEAR))
    return middle, ground, look.sum(axis=-1).astype("uint16"), first, last, _spread(data, look, middle)


def _middle(values: np.ndarray) -> np.ndarray:
    """The median over time of (..., time, band), NaN left out and NaN where all is; NaN sorts last."""
    ordered = np.sort(values, axis=-2)
    count = np.sum(~np.isnan(values), axis=-2, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=-2)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-2] - 1), axis=-2)
    middle: np.ndarray = (low + (high - low) / 2)[..., 0, :]
    return middle


def _spread(data: np.ndarray, look: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Median over the looks of their distance to the composite, per band, then the mean over bands that have one."""
    apart = _middle(np.where(look[..., None], np.abs(data - picture[..., None, :]), np.nan))
    known = ~np.isnan(apart)
    bands = known.sum(axis=-1)
    mean = np.where(known, apart, 0).sum(axis=-1) / np.maximum(bands, 1)
    return np.where(bands > 0, mean, np.nan).astype("float32")


def _medoid(data: np.ndarray, quality: np.ndarray, _clarity: np.ndarray, time: np.ndarray) -> Parts:
    look = _looks(data, quality)
    flat, seen = data.reshape(-1, *data.shape[-2:]), look.reshape(-1, look.shape[-1])
    step = max(1, BLOCK_BYTES // (8 * data.shape[-2] * data.shape[-1]))
    costs = [_cost(flat[at : at + step], seen[at : at + step]) for at in range(0, max(1, len(flat)), step)]
    cost = np.concatenate(costs).reshape(look.shape)
    least = cost.min(axis=-1, keepdims=True)
    return _picked(data, quality, look, np.argmax(cost <= least * (1 + TIE), axis=-1), time)


def _cost(data: np.ndarray, look: np.ndarray) -> np.ndarray:
    """(pixel, time) mean distance of each look to the others; each pair once, no matrix of pairs is kept.

    Without a look infinite; of a look that shares no band with another 1e300: it is taken where there is no other.
    """
    values_BTP = np.moveaxis(np.where(look[..., None], data, np.nan).astype(np.float64), (0, 1, 2), (2, 1, 0)).copy()
    total_TP, pairs_TP = (np.zeros(values_BTP.shape[1:]) for _ in range(2))
    for one in range(values_BTP.shape[1] - 1):
        square_TP, common_TP = (np.zeros(total_TP[one + 1 :].shape) for _ in range(2))
        for band_TP in values_BTP:
            apart_TP = band_TP[one + 1 :] - band_TP[one]
            known_TP = ~np.isnan(apart_TP)
            square_TP += np.where(known_TP, apart_TP, 0.0) ** 2
            common_TP += known_TP
        distance_TP = np.sqrt(square_TP / np.maximum(common_TP, 1))
        total_TP[one] += distance_TP.sum(axis=0)
        total_TP[one + 1 :] += distance_TP
        pairs_TP[one] += (common_TP > 0).sum(axis=0)
        pairs_TP[one + 1 :] += common_TP > 0
    mean_TP = np.where(pairs_TP > 0, total_TP / np.maximum(pairs_TP, 1), 1e300)
    return np.where(look, mean_TP.T, np.inf)


def _clearest(data: np.ndarray, quality: np.ndarray, clarity: np.ndarray, time: np.ndarray) -> Parts:
    look = _looks(data, quality)
    later_of_equals = np.argsort(np.argsort(clarity, axis=-1, kind="stable"), axis=-1, kind="stable")
    score = later_of_equals + look.shape[-1] * (quality == Quality.CLEAR)
    return _picked(data, quality, look, np.where(look, score, -1).argmax(axis=-1), time)


KERNELS: Mapping[str, Callable[..., Parts]] = {"median": _median, "medoid": _medoid, "clearest": _clearest}
"""Method to the function that makes it."""


def _looks(data: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """(..., time) true where the quality shows the ground and some band was measured."""
    measured: np.ndarray = np.isfinite(data).any(axis=-1)
    return np.isin(quality, [int(q) for q in USABLE]) & measured


def _picked(data: np.ndarray, quality: np.ndarray, look: np.ndarray, index: np.ndarray, time: np.ndarray) -> Parts:
    """The chosen date's pixels, and that date as first and last."""
    any_look = np.asarray(look.any(axis=-1))
    pixels = np.take_along_axis(data, index[..., None, None], axis=-2)[..., 0, :]
    pixels = np.where(any_look[..., None], pixels, np.nan).astype(data.dtype)
    own = np.take_along_axis(quality, index[..., None], axis=-1)[..., 0]
    date_used = np.where(any_look, time[index], NEVER)
    ground, count = _quality(look, quality, own), look.sum(axis=-1).astype("uint16")
    return pixels, ground, count, date_used, date_used, _spread(data, look, pixels)


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
    parts["spread"] = parts["spread"].assign_attrs(
        units=str(chosen.attrs.get("units", "1")),
        long_name="median distance of the looks to the composite, mean over the bands",
    )
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
