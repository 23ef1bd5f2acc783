"""Bands on a grid by odc-stac or by stackstac, and any single layer by GDAL's own warp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import odc.stac
import pystac
import stackstac
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


def bare_item(scene: Scene, source: BandSource, header: RasterHeader) -> pystac.Item:
    """A bare item with one single-band asset, as both engines take it."""
    west, south, east, north = scene.bbox
    item = pystac.Item(scene.id, dict(scene.geometry), [west, south, east, north], datetime(2000, 1, 1, tzinfo=UTC), {})
    item.stac_extensions = ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"]
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


class Engine(Protocol):
    """One band of a scene on a grid, by one library."""

    def fill(self, asked: Asked, out: np.ndarray) -> None:
        """At once, over (y, x) float32 `out` of NaN."""
        ...

    def lazy(self, asked: Asked, chunks: Mapping[str, int]) -> Any:
        """(y, x) float32 Dask array."""
        ...


@dataclass(frozen=True)
class Asked:
    """What is asked of an engine."""

    scene: Scene
    """Whose band it is."""
    source: BandSource
    """The band, with its address as it opens now."""
    header: RasterHeader
    """What its file says of itself."""
    geobox: GeoBox
    """Where the result lies."""
    resampling: str
    """As GDAL calls it."""


class Odc:
    """odc-stac. What is read at once is one file and one chunk: nothing to plan, so its driver's part is called."""

    def fill(self, asked: Asked, out: np.ndarray) -> None:
        nodata = asked.header.nodata if asked.source.nodata is None else asked.source.nodata
        with opened(asked.source.href) as src:
            onto(src, asked.source.index, asked.geobox, method_of(asked.resampling), nodata, out)

    def lazy(self, asked: Asked, chunks: Mapping[str, int]) -> Any:
        """odc-stac's integer no-data is 0 even for float32 unless NaN is asked for."""
        loaded = odc.stac.load(
            [bare_item(asked.scene, asked.source, asked.header)],
            bands=[asked.source.band],
            geobox=asked.geobox,
            resampling=asked.resampling,
            dtype="float32",
            nodata=math.nan,
            chunks=_named_chunks(asked.geobox, chunks),
            fail_on_error=True,
            driver=OneWarp(),
        )
        return loaded[asked.source.band].isel(time=0, drop=True).data


class Stackstac:
    """stackstac 0.5.1, with what it takes on numpy 2 and projection 2: EPSG given back, typed fill value."""

    def fill(self, asked: Asked, out: np.ndarray) -> None:
        out[...] = _stacked(asked, {}).compute(scheduler="threads", num_workers=2)

    def lazy(self, asked: Asked, chunks: Mapping[str, int]) -> Any:
        return _stacked(asked, chunks)


ENGINES: Mapping[str, Engine] = {"odc": Odc(), "stackstac": Stackstac()}


def _stacked(asked: Asked, chunks: Mapping[str, int]) -> Any:
    geobox = asked.geobox
    a, b, _, d, e, _ = geobox.affine[:6]
    code = None if geobox.crs is None else geobox.crs.to_epsg()
    if b or d or a <= 0 or e >= 0 or code is None:
        raise GridError(
            "stackstac serves north-up grids of an EPSG code only",
            item=str(geobox),
            enough="an axis-aligned grid in a CRS with an EPSG code",
            todo="read it with engine odc",
        )
    item = bare_item(asked.scene, asked.source, asked.header).to_dict(transform_hrefs=False)
    for asset in item["assets"].values():
        asset["proj:epsg"] = int(asset["proj:code"].split(":")[1])
    left, bottom, right, top = geobox.boundingbox.bbox
    stacked = stackstac.stack(
        [item],
        assets=[asked.source.band],
        epsg=code,
        bounds=(left, bottom, right, top),
        resolution=(a, -e),
        snap_bounds=False,
        resampling=method_of(asked.resampling),
        dtype="float32",
        fill_value=np.float32("nan"),
        rescale=False,
        properties=False,
        band_coords=False,
        xy_coords="center",
        chunksize=(1, 1, chunks.get("y", geobox.height), chunks.get("x", geobox.width)),
    )
    if stacked.shape[-2:] != tuple(geobox.shape):
        raise GridError(
            f"stackstac made {stacked.shape[-2:]} of {tuple(geobox.shape)}", item=str(geobox), todo="use engine odc"
        )
    return stacked.isel(time=0, band=0).data


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
        values, index = np.full(tuple(dst_geobox.shape), math.nan, "float32"), self.source.band
        with opened(self.source.uri) as src:
            onto(src, index, dst_geobox, method_of(str(cfg.resampling)), src.nodatavals[index - 1], values)
        return (slice(None), slice(None)), values


def warp(
    href: str, geobox: GeoBox, method: Resampling, dtype: np.dtype, nodata: float | None, fill: float
) -> np.ndarray:
    """The first band of a file on a grid; pixels without data take no part."""
    values = np.full(tuple(geobox.shape), fill, dtype)
    with opened(href) as src:
        onto(src, 1, geobox, method, nodata, values)
    return values
