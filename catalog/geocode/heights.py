"""Heights above the ellipsoid on any grid: DEMs mosaicked, a geoid added by a grid that is really there, or refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import rasterio
import rasterio.warp
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import TransformerGroup
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from catalog.errors import GeolocationError
from catalog.geocode.sampling import places, row_blocks

ELLIPSOID = "ellipsoid"
GEOIDS: Mapping[str, str] = {"EGM96": "EPSG:9707", "EGM2008": "EPSG:9518"}
"""Geoids that PROJ can take off, each with the CRS of longitude, latitude and height above it."""
FETCH = "projsync --file"


@dataclass(frozen=True)
class Dem:
    """One raster of heights in metres."""

    href: str
    """Where the file lies."""
    reference: str
    """What its heights count from: ellipsoid, EGM96, EGM2008, or the name of another vertical datum."""
    geoid: str = ""
    """Raster of that geoid's undulation above the ellipsoid, in metres; empty where PROJ is to know it."""
    id: str = ""
    """Item id, for errors."""

    @property
    def name(self) -> str:
        return f"DEM {self.id or self.href}"


def ellipsoidal_heights(dems: Sequence[Dem], geobox: GeoBox) -> xr.DataArray:
    """Heights above the WGS 84 ellipsoid on a grid, from one DEM or several that lie side by side.

    h = H + N, with N the geoid's undulation: of the raster that came with the DEM, else by PROJ, whose transformation
    is taken only where its grid file is there (it would return H unchanged in silence).

    Parameters
    ----------
    dems
        The first that knows a pixel decides it.
    geobox
        Where the heights are wanted.

    Returns
    -------
    DataArray (y, x), float32, metres above the ellipsoid, bilinear, NaN where no DEM reaches; no-data weighs nothing.

    Raises
    ------
    GeolocationError
        A DEM has no CRS, counts from a datum that nobody can convert, cannot be read, or none knows a height here.
    """
    heights = np.full(tuple(geobox.shape), np.nan, "float32")
    for dem in dems:
        found = _on_grid(dem.href, geobox, dem.name)
        if dem.reference != ELLIPSOID:
            found = found + undulation(dem, geobox)
        heights = np.where(np.isfinite(heights), heights, found)
    if not np.isfinite(heights).any():
        raise _refused(
            "no DEM knows a height here",
            ", ".join(d.name for d in dems) or "no DEM was given",
            f"heights within {_extent(geobox)}",
            "register a DEM that covers the area, or take the DEM away to place on the ellipsoid",
        )
    attrs = {"units": "m", "long_name": "height above the WGS 84 ellipsoid"}
    coords = xr_coords(geobox, dims=("y", "x"))
    return xr.DataArray(heights.astype("float32"), dims=("y", "x"), coords=coords, name="height", attrs=attrs)


def grid_of(dem: Dem) -> tuple[str, rasterio.Affine]:
    """Horizontal CRS and affine of a DEM's own pixels.

    Raises
    ------
    GeolocationError
        It has no CRS or no affine, or cannot be read.
    """
    with _opened(dem.href, dem.name) as source:
        return _horizontal(source.crs.to_wkt()), source.transform


def undulation(dem: Dem, geobox: GeoBox) -> np.ndarray:
    """How far the geoid of a DEM lies above the ellipsoid, metres, (y, x) on a grid.

    Raises
    ------
    GeolocationError
        The datum is unknown, or PROJ has no grid of it; it names the grid and how to get it.
    """
    if dem.geoid:
        found = _on_grid(dem.geoid, geobox, f"geoid of {dem.name}")
        if not np.isfinite(found).any():
            raise _refused("the geoid does not reach the area", dem.geoid, f"undulations within {_extent(geobox)}")
        return found
    if dem.reference not in GEOIDS:
        raise _refused(
            f"its heights count from {dem.reference or 'nobody knows what'!r}",
            dem.name,
            f"heights above the ellipsoid, or above one of {', '.join(GEOIDS)}",
            "register it again with its height reference, and for another geoid with a raster of its undulation",
        )
    to_ellipsoid = _operation(dem)
    out = np.empty(tuple(geobox.shape), "float32")
    for rows in row_blocks(geobox.shape[0]):
        longitude, latitude = places(geobox, rows)
        try:
            out[rows] = to_ellipsoid.transform(longitude, latitude, np.zeros_like(longitude), errcheck=True)[2]
        except ProjError as error:
            raise _refused(f"PROJ cannot apply its geoid ({error})", dem.name, "a whole grid file") from None
    return np.where(np.isfinite(out), out, np.nan)


def missing_grid(reference: str) -> str:
    """Name of the grid file that PROJ lacks to convert heights above a geoid; empty where it has one."""
    group = _group(reference)
    if group.transformers:
        return ""
    named = (g.short_name for o in group.unavailable_operations for g in o.grids if not g.available)
    return next(named, "its geoid grid")


def vertical_reference(wkt: str) -> str:
    """What heights of a file count from, by its CRS; empty where the CRS is merely horizontal.

    Parameters
    ----------
    wkt
        Any text of a CRS that PROJ reads.

    Returns
    -------
    ellipsoid for a 3D CRS, EGM96 or EGM2008, or the name of another vertical CRS.
    """
    try:
        crs = CRS.from_user_input(wkt)
    except CRSError:
        return ""
    vertical = next((part for part in crs.sub_crs_list if part.is_vertical), None)
    if vertical is not None:
        plain = vertical.name.upper().replace(" ", "").replace("_", "")
        if any("metre" not in a.unit_name and "meter" not in a.unit_name for a in vertical.axis_info):
            return f"{vertical.name} ({vertical.axis_info[0].unit_name})"
        return next((name for name in GEOIDS if name in plain), vertical.name)
    return ELLIPSOID if len(crs.axis_info) == 3 else ""


def _group(reference: str) -> TransformerGroup:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # it says "best transformation is not available": we ask and refuse
        return TransformerGroup(GEOIDS[reference], "EPSG:4979", always_xy=True, allow_ballpark=False)


def _operation(dem: Dem) -> Transformer:
    group = _group(dem.reference)
    if group.transformers:
        return group.transformers[0]
    grid = missing_grid(dem.reference)
    raise _refused(
        f"they count from the geoid {dem.reference}, and PROJ has no grid of it (it would leave them as they are)",
        dem.name,
        f"the grid {grid} in PROJ's data folder, or a raster of the undulation",
        f"run `{FETCH} {grid}` or put the file into a folder named by PROJ_DATA; "
        "or register the DEM with a geoid raster (--geoid)",
    )


def _on_grid(href: str, geobox: GeoBox, name: str) -> np.ndarray:
    """The first band of a raster on a grid, bilinear, float32, NaN where it has no data or does not reach."""
    values = np.full(tuple(geobox.shape), np.nan, "float32")
    with _opened(href, name) as source:
        rasterio.warp.reproject(
            rasterio.band(source, 1),
            values,
            src_crs=_horizontal(source.crs.to_wkt()),
            src_nodata=source.nodata,
            dst_transform=geobox.affine,
            dst_crs=str(geobox.crs),
            dst_nodata=math.nan,
            resampling=Resampling.bilinear,
        )
    return values


@contextmanager
def _opened(href: str, name: str) -> Iterator[DatasetReader]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(href) as source:
                if source.crs is None or source.transform.is_identity:
                    raise _refused("a raster of heights has no CRS", f"{name}: {href}", "a raster with CRS and affine")
                yield source
    except RasterioError as error:
        raise _refused(f"a raster of heights cannot be read: {error}", f"{name}: {href}", "the whole file") from None


def _horizontal(wkt: str) -> str:
    """The horizontal part of a CRS: GDAL must not meet the vertical one, for which it may lack a grid."""
    crs = CRS.from_wkt(wkt)
    flat = crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()
    return str(flat.to_wkt())


def _extent(geobox: GeoBox) -> str:
    west, south, east, north = geobox.extent.to_crs("EPSG:4326").boundingbox.bbox
    return f"west {west:.4f}, south {south:.4f}, east {east:.4f}, north {north:.4f}"


def _refused(what: str, item: str, enough: str, todo: str = "look at the file, or take another") -> GeolocationError:
    return GeolocationError(f"heights cannot be used: {what}", item=item, enough=enough, todo=todo)
