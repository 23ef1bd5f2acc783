"""A scene's own quality layers on a tile, and saturation of its numbers, in the one vocabulary over all sensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from catalog import read
from catalog.calibrate import lut, quality
from catalog.calibrate.bands import line_numbers
from catalog.calibrate.border import border_noise
from catalog.calibrate.constants import BackscatterTables, Calibration
from catalog.displacement import Move
from catalog.scene import Scene
from catalog.sensors import SENSORS, Quality

DILATE_M = 0.0
"""How far cloud and shadow grow unless a caller says otherwise: not at all, for products differ in what they add
themselves (QA_PIXEL holds dilated cloud already); 100 to 200 m take in most soft edges."""


def quality_of(
    scene: Scene, grid: GeoBox, valid: xr.DataArray, shift_m: Move, *, dilate_m: float = DILATE_M
) -> xr.DataArray:
    """What every pixel of a grid is good for, by the layers that the scene ships.

    Parameters
    ----------
    valid
        (y, x) bool on `grid`: a number was measured.
    shift_m
        dx, dy in metres, as the bands were moved.
    dilate_m
        Distance by which cloud and shadow grow, also from beyond the grid's edge.

    Returns
    -------
    DataArray (y, x), uint8, `catalog.sensors.Quality`; what is not valid is NO_DATA. `attrs["source"]` says which
    layers it is from, `attrs["notes"]`, a tuple, what a user should know: that none is shipped, that one is unknown.
    """
    known = {name: quality.DECODERS[kind] for name in scene.quality if (kind := kind_of(name))}
    notes = [
        f"{scene.id}: quality layer {name} is of no known kind and not used" for name in scene.quality.keys() - known
    ]
    if not known:
        clear = unlayered(scene, valid)
        return _noted(clear, [*clear.attrs["notes"], *notes])
    pixel_m = _pixel_m(grid)
    reach = math.ceil(dilate_m / pixel_m) if np.isfinite(dilate_m) and dilate_m > 0 else 0
    wide = grid.pad(reach) if reach else grid
    layers = [
        read.read_quality(scene, wide, name, shift_m=shift_m, bands=d.bands, decode=d.decode).values
        for name, d in known.items()
    ]
    inside = slice(reach, reach + valid.sizes["y"]), slice(reach, reach + valid.sizes["x"])
    # Each grows by itself, so that what overrules a cloud's core does not stop its edge.
    whole = quality.combined([quality.grown(layer, dilate_m, pixel_m) for layer in layers])[inside]
    if dilate_m:
        notes.append(f"cloud and shadow are grown by {dilate_m:g} m")
    source = f"the product's own {' and '.join(known)}"
    return _noted(quality.described(valid.copy(data=whole), valid, source), notes)


def unlayered(scene: Scene, valid: xr.DataArray) -> xr.DataArray:
    """Quality without any layer of the product's: clear where measured; the notes say what that hides."""
    hidden = "clouds count as clear" if SENSORS[scene.sensor].modality in ("opt", "ms") else "all measured is clear"
    return _noted(quality.from_valid(valid), [f"{scene.id} ships no quality layer: {hidden}"])


@dataclass(frozen=True)
class Edges:
    """What a detected radar image says of itself where no layer does, on its own lines and pixels."""

    border: xr.DataArray
    """(y, x) bool: strips at its edges that hold no measurement."""
    flag: xr.DataArray
    """(y, x) float32, 1 where border or saturated, else 0: placed on a grid like power, its weight decides there."""
    note: str
    """What was looked for."""


def edges_of(scene: Scene, dn: xr.DataArray, constants: Calibration) -> Edges:
    """Border noise of the first band, by its own noise vectors, and saturation of any; lazy where `dn` is.

    Parameters
    ----------
    dn
        (band, y, x) amplitudes of the whole image.
    constants
        Look-up tables with noise vectors; without them border noise cannot be told from dark water and is not sought.
    """
    band = str(dn["band"].values[0])
    lines, pixels = line_numbers(dn, "y"), line_numbers(dn, "x")
    if isinstance(constants, BackscatterTables) and band in constants.noise:
        v = constants.noise[band]
        table = lut.noise_table(v.lines, v.pixels, v.values, v.blocks, lines, pixels)
        edge = border_noise(dn.sel(band=band, drop=True), table)
        note = f"{scene.id} ships no quality layer: border is where edges hold less than half the thermal noise"
    else:
        edge = xr.zeros_like(dn.sel(band=band, drop=True), dtype=bool)
        note = f"{scene.id} ships no quality layer and no noise vectors: border noise is not marked"
    tops = [(dn.sel(band=b, drop=True), top_of(scene.bands[b].dtype)) for b in map(str, dn["band"].values)]
    full = [values >= top for values, top in tops if top]
    flag = reduce(operator.or_, full, edge).astype("float32")
    return Edges(edge, flag, note)


def of_edges(scene: Scene, valid: xr.DataArray, flag: xr.DataArray, note: str) -> xr.DataArray:
    """Quality on a grid of a placed radar image: of flagged pixels those without a number are border, others saturated.

    Parameters
    ----------
    valid, flag
        (y, x) on the grid; `flag` as Edges has it, bilinear: half the weight or more is the majority of its neighbours.
    """
    most = flag.values >= 0.5
    seen = unlayered(scene, valid)
    values = marked(seen.values, most & ~valid.values, Quality.BORDER)
    seen = seen.copy(data=marked(values, most & valid.values, Quality.SATURATED))
    return _noted(seen, [note])


def with_saturation(
    seen: xr.DataArray, scene: Scene, dn: xr.DataArray, grid: GeoBox, shift_m: Move, engine: str
) -> xr.DataArray:
    """The quality, SATURATED where a band's nearest pixel holds the largest number of its type.

    Parameters
    ----------
    seen
        (y, x) uint8, as quality_of gives it.
    dn
        (band, y, x) float32 digital numbers on the grid, however resampled. A pixel whose nearest is saturated has at
        least a quarter of that number in a bilinear mean, so only where one has are the bands read again.
    """
    tops = {b: top_of(scene.bands[b].dtype) for b in map(str, dn["band"].values)}
    names = [b for b, top in tops.items() if top and bool((dn.sel(band=b) >= top / 4).any())]
    if not names:
        return seen
    nearest = read.read(scene, grid, names, resampling="nearest", shift_m=shift_m, engine=engine)
    full = np.logical_or.reduce([nearest.sel(band=b).values == tops[b] for b in names])
    return seen.copy(data=marked(seen.values, full, Quality.SATURATED))


def marked(seen: np.ndarray, where: np.ndarray, kind: Quality) -> np.ndarray:
    """A quality layer (y, x) with a kind where it holds, by precedence."""
    return quality.combined([seen, np.where(where, np.uint8(kind), np.uint8(Quality.CLEAR))])


def top_of(dtype: str) -> float | None:
    """The largest number of an integer type, at which pixels saturate; None of other types, which do not."""
    return float(np.iinfo(dtype).max) if dtype.startswith(("uint", "int")) else None


def kind_of(name: str) -> str | None:
    """Which of DECODERS a layer's name ends in, as ortho_udm2 and qa_pixel do; None for an unknown kind."""
    plain = name.upper().replace("-", "_")
    return next((kind for kind in quality.DECODERS if plain == kind or plain.endswith(f"_{kind}")), None)


def _pixel_m(grid: GeoBox) -> float:
    """Side of a pixel in metres, of a grid in degrees at its middle latitude."""
    a = grid.affine
    side = math.sqrt(abs(a.a * a.e - a.b * a.d))
    if grid.crs is not None and grid.crs.geographic:
        latitude = grid.extent.centroid.coords[0][1]
        side *= 111_195.0 * math.sqrt(math.cos(math.radians(latitude)))
    return side


def _noted(seen: xr.DataArray, notes: Sequence[str]) -> xr.DataArray:
    seen.attrs["notes"] = tuple(notes)
    return seen
