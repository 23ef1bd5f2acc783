"""A class map and some parcels to areas per class and parcel, with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  (the .odc accessor)
import pandas as pd
import rasterio
import shapely
import xarray as xr
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource, RasterioRasterSource
from pyproj import CRS, Proj
from rasterio.errors import RasterioError

from catalog.errors import AssetError, GridError

NOT_GIVEN = "no confusion matrix from a validation was given"
STRATIFIED = "stratified estimator, taking the error rates of the validation for those of the parcel"


def areas(
    class_map: str | Path | xr.DataArray,
    parcels: gpd.GeoDataFrame,
    classes: Mapping[int, str],
    confusion: pd.DataFrame | np.ndarray | None = None,
    *,
    name: str | None = None,
) -> pd.DataFrame:
    """Area of every class in every parcel, pixels on a border counted by the share of them inside.

    Areas are on the ground: the map's grid area over the areal scale of its projection at the parcel's centroid (in UTM
    0.9992 at the central meridian to about 1.002 at the zone's edge), which the table states.

    With a confusion matrix of counts n (rows the map's class i, columns the reference's class k) the error-adjusted
    share of class k is p_k = sum_i W_i n_ik / n_i, W_i being the mapped share of class i in the parcel, and its
    standard error the root of sum_i W_i^2 (n_ik / n_i) (1 - n_ik / n_i) / (n_i - 1) (Olofsson et al., Remote Sensing
    of Environment 148, 2014, eq. 9 and 10). That takes the validation's error rates for the parcel's own.

    Parameters
    ----------
    class_map
        Path of a one-band raster, or (y, x) integers with georeferencing; no-data is not mapped.
    parcels
        Polygons in any CRS; reprojected to the map's.
    classes
        Class number to its name; a row comes for each, zero areas included.
    confusion
        (classes, classes) counts in the order of `classes`; None leaves the standard error NaN and says why.
    name
        Column that names the parcels; None takes the index.

    Returns
    -------
    DataFrame with one row per parcel and class: parcel, class_id, class_name, area_m2, area_ha, share (of what is
    mapped in the parcel), coverage (mapped share of the parcel), areal_scale, adjusted_m2, se_m2, uncertainty (how it
    was estimated, or why not).

    Raises
    ------
    GridError
        When parcels have no CRS, are none, empty, invalid or outside the map (named), when the map has no projected
        CRS or holds classes without a name, or the confusion matrix does not fit.
    AssetError
        When the map cannot be read.
    """
    counts = _counts(confusion, classes)
    with ExitStack() as stack:
        source, crs, box, pixel_m2 = _source(class_map, stack)
        names = _names(parcels, name)
        placed = _placed(parcels, names, crs, box)
        found = exact_extract(source, placed, ["unique", "frac", "count"], output="pandas")
    rows: list[dict[str, Any]] = []
    for i, parcel in enumerate(names):
        mapped_px = {int(c): f * found["count"][i] for c, f in zip(found["unique"][i], found["frac"][i], strict=True)}
        _refuse_unnamed(mapped_px, classes, parcel)
        geometry = placed.geometry.iloc[i]
        scale = _areal_scale(crs, geometry)
        grid_m2 = np.array([mapped_px.get(c, 0.0) for c in classes]) * pixel_m2
        rows += _rows(parcel, classes, grid_m2 / scale, geometry.area / scale, scale, counts)
    return pd.DataFrame(rows)


def _rows(
    parcel: object,
    classes: Mapping[int, str],
    area_m2: np.ndarray,
    parcel_m2: float,
    scale: float,
    counts: np.ndarray | None,
) -> list[dict[str, Any]]:
    """The table's rows of one parcel."""
    mapped_m2 = float(area_m2.sum())
    share = area_m2 / mapped_m2 if mapped_m2 else np.full(len(classes), np.nan)
    adjusted, error, how = stratified(share, counts)
    return [
        {
            "parcel": parcel,
            "class_id": c,
            "class_name": label,
            "area_m2": area_m2[k],
            "area_ha": area_m2[k] / 1e4,
            "share": share[k],
            "coverage": min(mapped_m2 / parcel_m2, 1.0),
            "areal_scale": scale,
            "adjusted_m2": adjusted[k] * mapped_m2,
            "se_m2": error[k] * mapped_m2,
            "uncertainty": how,
        }
        for k, (c, label) in enumerate(classes.items())
    ]


def stratified(share: np.ndarray, counts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Error-adjusted shares and their standard errors from mapped shares and a confusion matrix; see areas.

    Parameters
    ----------
    share
        (classes,) mapped shares W, summing to 1.
    counts
        (classes, classes) validation counts, rows mapped, columns reference; None gives NaN.

    Returns
    -------
    shares (classes,), standard errors (classes,), and how they were estimated or why they are NaN.
    """
    unknown = np.full(len(share), np.nan)
    if counts is None:
        return unknown, unknown, NOT_GIVEN
    if not np.isfinite(share).all():
        return unknown, unknown, "nothing is mapped in the parcel"
    samples = counts.sum(axis=1)
    if np.any((share > 0) & (samples < 2)):
        return unknown, unknown, "a class mapped here has fewer than two validation samples"
    rate = counts / np.maximum(samples, 1)[:, None]
    variance = share[:, None] ** 2 * rate * (1 - rate) / np.maximum(samples - 1, 1)[:, None]
    return share @ rate, np.sqrt(variance.sum(axis=0)), STRATIFIED


def _source(class_map: str | Path | xr.DataArray, stack: ExitStack) -> tuple[Any, CRS, shapely.Polygon, float]:
    """What exactextract reads, its CRS, its extent and the area of a pixel in its grid."""
    if isinstance(class_map, xr.DataArray):
        geobox = class_map.odc.geobox
        if geobox is None or geobox.crs is None:
            raise _refused("the map has no georeferencing", "class_map", "a DataArray with a CRS and coordinates")
        crs, affine, shape = CRS(str(geobox.crs)), geobox.affine, geobox.shape
    else:
        try:
            dataset = stack.enter_context(rasterio.open(class_map))
        except RasterioError as error:
            raise AssetError(f"the map cannot be read: {error}", item=str(class_map), enough="a GeoTIFF") from error
        crs, affine, shape = CRS(dataset.crs.to_wkt()) if dataset.crs else CRS(4326), dataset.transform, dataset.shape
    if not crs.is_projected or affine.b or affine.d or affine.e > 0:
        raise _refused("areas need a projected, north-up map", str(class_map)[:80], "a map on a UTM or equal-area grid")
    left, top = affine.c, affine.f
    right, bottom = left + affine.a * shape[1], top + affine.e * shape[0]
    extent = shapely.box(left, bottom, right, top)
    pixel_m2 = abs(affine.a * affine.e)
    if not isinstance(class_map, xr.DataArray):
        return RasterioRasterSource(dataset), crs, extent, pixel_m2
    values = np.ascontiguousarray(class_map.transpose("y", "x").values)
    missing = class_map.odc.nodata
    nodata = None if missing is None or np.isnan(missing) else values.dtype.type(missing).item()
    source = NumPyRasterSource(values, left, bottom, right, top, nodata=nodata, srs_wkt=crs.to_wkt())
    return source, crs, extent, pixel_m2


def _names(parcels: gpd.GeoDataFrame, name: str | None) -> list[Any]:
    if name is not None and name not in parcels:
        raise _refused(f"no column {name}", "parcels", f"one of {', '.join(map(str, parcels.columns))}")
    return list(parcels.index if name is None else parcels[name])


def _placed(parcels: gpd.GeoDataFrame, names: list[Any], crs: CRS, extent: shapely.Polygon) -> gpd.GeoDataFrame:
    """The parcels in the map's CRS; refused, by name, where they cannot be measured."""
    if len(parcels) == 0:
        raise _refused("there are no parcels", "parcels", "one polygon or more")
    if parcels.crs is None:
        raise _refused("the parcels have no CRS", "parcels", "a CRS", "set_crs(...), or write it into the file")
    polygons = parcels.geometry.geom_type.isin(["Polygon", "MultiPolygon"])
    bad = parcels.geometry.isna() | parcels.geometry.is_empty | ~polygons | ~parcels.geometry.is_valid
    _refuse_named(bad.to_numpy(), names, "no valid polygon", "valid, non-empty polygons", "repair them with make_valid")
    placed = gpd.GeoDataFrame(geometry=parcels.geometry.to_crs(crs).reset_index(drop=True))
    outside = ~placed.geometry.intersects(extent).to_numpy() | (placed.geometry.intersection(extent).area == 0)
    _refuse_named(np.asarray(outside), names, "outside the map", "parcels on the map", "drop them or map a larger area")
    return placed


def _refuse_named(bad: np.ndarray, names: list[Any], what: str, enough: str, todo: str) -> None:
    culprits = [str(n) for n, b in zip(names, bad, strict=True) if b]
    if culprits:
        listed = ", ".join(culprits[:10]) + (f" and {len(culprits) - 10} more" if len(culprits) > 10 else "")
        raise _refused(f"{len(culprits)} of {len(names)} parcels: {what}", f"parcels {listed}", enough, todo)


def _refuse_unnamed(mapped: Mapping[int, float], classes: Mapping[int, str], parcel: object) -> None:
    unnamed = sorted(set(mapped) - set(classes))
    if unnamed:
        raise _refused(
            f"the map holds classes {unnamed} without a name", f"parcel {parcel}", f"a name beside {sorted(classes)}"
        )


def _areal_scale(crs: CRS, geometry: shapely.Geometry) -> float:
    """Grid area over ground area at the geometry's centroid."""
    projection = Proj(crs)
    longitude, latitude = projection(geometry.centroid.x, geometry.centroid.y, inverse=True)
    return float(projection.get_factors(longitude, latitude).areal_scale)


def _counts(confusion: pd.DataFrame | np.ndarray | None, classes: Mapping[int, str]) -> np.ndarray | None:
    if confusion is None:
        return None
    counts = np.asarray(confusion, dtype=float)
    if counts.shape != (len(classes),) * 2 or not np.all(np.isfinite(counts) & (counts >= 0)):
        raise _refused(
            f"a confusion matrix of shape {counts.shape} does not fit {len(classes)} classes",
            "confusion",
            "counts, rows mapped and columns reference, in the order of the classes",
        )
    return counts


def _refused(what: str, item: str, enough: str, todo: str = "correct it and run again") -> GridError:
    return GridError(what, item=item, enough=enough, todo=todo)
