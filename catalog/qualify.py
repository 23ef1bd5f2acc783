"""A scene's own quality layers on a tile, in the one vocabulary over all sensors."""

from __future__ import annotations

import xarray as xr
from odc.geo.geobox import GeoBox

from catalog import read
from catalog.calibrate import quality
from catalog.scene import Scene


def quality_of(scene: Scene, grid: GeoBox, valid: xr.DataArray, shift_m: tuple[float, float]) -> xr.DataArray:
    """What every pixel of a grid is good for, by the layers that the scene ships.

    Parameters
    ----------
    valid
        (y, x) bool on `grid`: a number was measured.
    shift_m
        dx, dy in metres, as the bands were moved.

    Returns
    -------
    DataArray (y, x), uint8, `catalog.sensors.Quality`; what is not valid is NO_DATA.
    """
    if "SCL" in scene.quality:
        return quality.from_scl(read.read_quality(scene, grid, "SCL", shift_m=shift_m), valid)
    if "QA_PIXEL" in scene.quality:
        return quality.from_qa_pixel(read.read_quality(scene, grid, "QA_PIXEL", shift_m=shift_m), valid)
    return quality.from_valid(valid)
