"""Looks of cubes as arrays of channels and validity."""

# Shape suffixes: C channels, H rows, W columns.
# xarray is imported where it is used only: this file must import where only torch and numpy are installed.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from catalog.sensors import USABLE
from ringmoe.pictures import Lost, Picture, Place, Source, in_parts, whole

if TYPE_CHECKING:
    import xarray as xr

    Cubes: TypeAlias = Sequence[xr.Dataset | Source]


def open_cubes(uris: Sequence[str]) -> list[xr.Dataset]:
    """Open cubes by address; the pixels stay where they are until a sampler asks for them.

    Raises
    ------
    CubeError
        When a cube is damaged or of another schema.
    """
    from catalog import cube

    return [cube.open(uri) for uri in uris]


def chips_from(piece: xr.Dataset, *, described: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and validity of a piece of one time of a cube, or of a composite.

    Parameters
    ----------
    piece
        `data` with dims (band, y, x), float32 or complex64, physical units, NaN where nothing was measured; `quality`
        with dims (y, x), `catalog.sensors.Quality`, where the piece has one.
    described
        Whether a band may be missing at a pixel that counts, as a contract of described bands allows.

    Returns
    -------
    pixels, valid
        (C, h, w) float32, a complex band as two channels (re, im) in band order; (h, w) bool, true where the quality
        is usable and every channel was measured, or, where bands are described, any.
    """
    values = np.asarray(piece["data"].transpose("band", "y", "x").values)
    valid = np.isfinite(values).any(axis=0)
    if np.iscomplexobj(values):
        values = in_parts(values)
    pixels = np.ascontiguousarray(values, dtype=np.float32)
    if "quality" in piece:
        quality = np.asarray(piece["quality"].transpose("y", "x").values)
        valid &= np.isin(quality, [int(q) for q in USABLE])
    return pixels, np.asarray(valid) if described else whole(pixels, valid)


def times(cube: xr.Dataset) -> int:
    """How many looks a cube holds; 1 for a composite, which has no dimension time."""
    return int(cube.sizes.get("time", 1))


def look(cube: xr.Dataset, time: int) -> xr.Dataset:
    """One look of a cube, dims (band, y, x); a composite is its own only look."""
    return cube.isel(time=time) if "time" in cube.sizes else cube


class CubeSource:
    """The looks of a cube, or a composite, as pictures.

    Parameters
    ----------
    cube
        `data` (time, band, y, x) or (band, y, x), float32 or complex64; `quality` beside it where there is one.
    """

    mapped = False
    lost: Sequence[Lost] = ()

    def __init__(self, cube: xr.Dataset) -> None:
        self.cube = cube

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the cube."""
        return self.cube.attrs

    @cached_property
    def pictures(self) -> Sequence[Picture]:
        """One per look."""
        place, days = _place(self.cube.attrs.get("geobox")), _days(self.cube)
        name = " ".join(str(self.cube.attrs[key]) for key in ("sensor", "tile") if self.cube.attrs.get(key))
        size = (int(self.cube.sizes["y"]), int(self.cube.sizes["x"]))
        dates = ["" if day is None else f" {np.datetime64(int(day), 'D')}" for day in days]
        return tuple(Picture(name + date, *size, place, day) for date, day in zip(dates, days, strict=True))

    def read(self, picture: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, h, w) of a rectangle of one look, and where any channel was measured and is usable (h, w)."""
        return chips_from(look(self.cube, picture).isel(y=rows, x=columns), described=True)


def sources_of(cubes: Cubes) -> list[Source]:
    """Cubes as sources; sources stay what they are."""
    return [cast(Source, cube) if hasattr(cube, "pictures") else CubeSource(cast("xr.Dataset", cube)) for cube in cubes]


def _place(grid: Mapping[str, Any] | None) -> Place | None:
    """Where a cube's attribute geobox says; None where that is nowhere or not parallel to the axes."""
    if grid is None:
        return None
    a, b, left, d, e, top = (float(v) for v in grid["affine"])
    square = abs(b) + abs(d) <= 1e-12 and abs(a + e) <= 1e-9 * abs(a) and a > 0
    return Place(str(grid["crs"]), left, top, a) if square else None


def _days(cube: xr.Dataset) -> list[float | None]:
    if "time" not in cube.coords:
        return [None] * times(cube)
    since = np.atleast_1d(cube["time"].values).astype("datetime64[us]") - np.datetime64(0, "us")
    return [float(span / np.timedelta64(1, "D")) for span in since]
