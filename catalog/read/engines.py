"""Bands on a grid by odc-stac or by stackstac, and any single layer by GDAL's own warp."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import odc.stac
import pystac
import stackstac
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.loader import RioDriver
from odc.loader.types import RasterLoadParams, RasterSource
from rasterio.enums import Resampling

from catalog.errors import GridError
from catalog.metadata.raster import RasterHeader, opened
from catalog.read.files import method_of
from catalog.read.onto import onto
from catalog.scene import BandSource, Scene

Chunks = Mapping[str, int] | None
"""Dask chunks of y and x; None reads at once."""


def bare_item(scene: Scene, sources: Sequence[BandSource], headers: Mapping[str, RasterHeader]) -> pystac.Item:
    """A bare item with one single-band asset per band, as both engines take it."""
    west, south, east, north = scene.bbox
    item = pystac.Item(scene.id, dict(scene.geometry), [west, south, east, north], datetime(2000, 1, 1, tzinfo=UTC), {})
    item.stac_extensions = ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"]
    for source in sources:
        header = headers[source.band]
        asset = pystac.Asset(_view(source, header), media_type=pystac.MediaType.GEOTIFF, roles=["data"])
        asset.extra_fields = {
            "proj:code": header.crs,
            "proj:shape": list(header.shape),
            "proj:transform": list(header.transform or ()),
        }
        item.add_asset(source.band, asset)
    return item


def _view(source: BandSource, header: RasterHeader) -> str:
    """The file, or a GDAL view of one band with the item's no-data; stackstac reads files of one band only."""
    said, own = source.nodata, header.nodata
    agree = said is None or said == own or (math.isnan(said) and (own is None or math.isnan(own)))
    if header.count == 1 and agree:
        return source.href
    path = f"/vsicurl/{source.href}" if source.href.startswith("http") else source.href
    nodata = "" if said is None else f"&a_nodata={said!r}"
    return f"vrt://{path}?bands={source.index}{nodata}"


def _by_odc(item: pystac.Item, names: list[str], geobox: GeoBox, resampling: str, chunks: Chunks) -> Any:
    """odc-stac; its integer no-data is 0 even for float32 unless NaN is asked for.

    A scene that is read at once is one file a band and one chunk: what odc-stac would plan for it takes it longer than
    to read some of them, so that its driver is called straight.
    """
    if chunks is None:
        values = np.full((len(names), *geobox.shape), math.nan, "float32")
        for name, band in zip(names, values, strict=True):
            _onto(item.assets[name].href, 1, geobox, method_of(resampling), band)
        return values
    loaded = odc.stac.load(
        [item],
        bands=names,
        geobox=geobox,
        resampling=resampling,
        dtype="float32",
        nodata=math.nan,
        chunks=_named_chunks(geobox, chunks),
        fail_on_error=True,
        driver=OneWarp(),
    )
    return xr.concat([loaded[name].isel(time=0, drop=True) for name in names], dim="band").data


def _by_stackstac(item: pystac.Item, names: list[str], geobox: GeoBox, resampling: str, chunks: Chunks) -> Any:
    """stackstac 0.5.1, with what it takes on numpy 2 and projection extension 2: EPSG given back, typed fill value."""
    a, b, _, d, e, _ = geobox.affine[:6]
    code = None if geobox.crs is None else geobox.crs.to_epsg()
    if b or d or a <= 0 or e >= 0 or code is None:
        raise GridError(
            "stackstac serves north-up grids of an EPSG code only",
            item=str(geobox),
            enough="an axis-aligned grid in a CRS with an EPSG code",
            todo="read it with engine odc",
        )
    asked = item.to_dict(transform_hrefs=False)
    for asset in asked["assets"].values():
        asset["proj:epsg"] = int(asset["proj:code"].split(":")[1])
    left, bottom, right, top = geobox.boundingbox.bbox
    size = (1, 1, *((geobox.height, geobox.width) if chunks is None else (chunks.get("y", -1), chunks.get("x", -1))))
    stacked = stackstac.stack(
        [asked],
        assets=names,
        epsg=code,
        bounds=(left, bottom, right, top),
        resolution=(a, -e),
        snap_bounds=False,
        resampling=method_of(resampling),
        dtype="float32",
        fill_value=np.float32("nan"),
        rescale=False,
        properties=False,
        band_coords=False,
        xy_coords="center",
        chunksize=size,
    )
    if stacked.shape[-2:] != tuple(geobox.shape):
        raise GridError(
            f"stackstac made {stacked.shape[-2:]} of {tuple(geobox.shape)}", item=str(geobox), todo="use engine odc"
        )
    values = stacked.isel(time=0).data
    return values.compute(scheduler="threads", num_workers=2) if chunks is None else values


ENGINES: Mapping[str, Any] = {"odc": _by_odc, "stackstac": _by_stackstac}


def _named_chunks(geobox: GeoBox, chunks: Mapping[str, int]) -> Any:
    """Chunks by the names that odc gives the axes: latitude and longitude on a geographic grid."""
    return {dim: chunks.get(ours, -1) for dim, ours in zip(geobox.dimensions, ("y", "x"), strict=True)}


class OneWarp(RioDriver):
    """odc-stac's rasterio driver, whose bands come onto a grid by `onto`."""

    def open(self, src: RasterSource, ctx: Any) -> Any:
        return _OneBand(src)


@dataclass(frozen=True)
class _OneBand:
    """A band as odc-stac asks for it."""

    source: RasterSource
    """Its file, or GDAL's view of one."""

    def read(
        self, cfg: RasterLoadParams, dst_geobox: GeoBox, *, dst: np.ndarray | None = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        values = np.full(tuple(dst_geobox.shape), math.nan, "float32")
        _onto(self.source.uri, self.source.band, dst_geobox, method_of(str(cfg.resampling)), values)
        return (slice(None), slice(None)), values


def _onto(href: str, index: int, geobox: GeoBox, method: Resampling, out: np.ndarray) -> None:
    with opened(href) as src:
        onto(src, index, geobox, method, src.nodatavals[index - 1], out)


def warp(
    href: str, geobox: GeoBox, method: Resampling, dtype: np.dtype, nodata: float | None, fill: float
) -> np.ndarray:
    """The first band of a file on a grid; pixels without data take no part."""
    values = np.full(tuple(geobox.shape), fill, dtype)
    with opened(href) as src:
        onto(src, 1, geobox, method, nodata, values)
    return values
