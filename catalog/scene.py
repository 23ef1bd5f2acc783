"""Scene: what a STAC item becomes once parsed; its bands, where their pixels lie and what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit

import pystac
from pystac.utils import str_to_datetime

from catalog.errors import AssetError, MetadataError
from catalog.sensors import SENSORS, Geolocation, Sensor

Encoding = Literal["dn", "db", "complex"]


@dataclass(frozen=True)
class BandSource:
    """Where the pixels of one band or quality layer lie."""

    band: str
    """The sensor's name of the band, or the quality layer's."""
    href: str
    """Absolute path or URL of the file, or GDAL's name of a raster inside it."""
    index: int = 1
    """Raster band of the file, from 1."""
    complex_pair: bool = False
    """True where raster bands `index` and `index + 1` are the real and imaginary parts."""
    dtype: str = ""
    """Stored type, as in uint16; empty where the item says nothing."""
    nodata: float | None = None
    """Stored number that means nothing was measured."""
    shape: tuple[int, int] | None = None
    """Rows, columns."""
    transform: tuple[float, ...] | None = None
    """Affine a, b, c, d, e, f; None in radar geometry."""
    crs: str | None = None
    """As in EPSG:32632; None in radar geometry."""
    scale: float | None = None
    """raster:scale of the item: physical = scale * stored + offset; for complex pixels the amplitude's factor."""
    offset: float | None = None
    """raster:offset of the item, in physical units."""


@dataclass(frozen=True)
class Scene:
    """One acquisition of one sensor."""

    id: str
    """Item id."""
    href: str
    """Where the item itself lies: its canonical place where it names one, else its own address, else its id."""
    sensor: str
    """Row of catalog.sensors."""
    collection: str
    """Collection id."""
    datetime: datetime
    """UTC; the start of the range where the item knows no instant."""
    platform: str
    """STAC platform name."""
    level: str
    """processing:level, a key of the sensor's quantities."""
    format: str
    """Module of catalog.formats that knows its metadata files."""
    quantity: str
    """What calibrated pixels are, as in surface_reflectance."""
    geolocation: Geolocation
    """How a pixel finds its place: affine, rpc or radar-grid."""
    encoding: Encoding
    """Digital numbers, decibels, or complex amplitude."""
    geometry: Mapping[str, Any]
    """GeoJSON, EPSG:4326."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    bands: Mapping[str, BandSource]
    """By the sensor's band name, in the sensor's order."""
    quality: Mapping[str, BandSource]
    """By layer name, as in SCL."""
    metadata: Mapping[str, str]
    """Role to the href of a product metadata file, as in product, tile, annotation-VV, meta, imd."""
    checksums: Mapping[str, str]
    """Asset key to file:checksum, else ETag, else size and time of update."""
    decimated: bool
    """True where the pixels are a decimated copy of the product's footprint; shapes and GSD are the files' own."""
    properties: Mapping[str, Any]
    """The item's properties."""

    @classmethod
    def from_item(cls, item: pystac.Item) -> Scene:
        """Parse an item whose asset hrefs are absolute.

        Raises
        ------
        MetadataError
            Naming the item and the field without which its pixels mean nothing.
        """
        properties = item.properties
        sensor = _sensor(item)
        level = str(_required(item, "processing:level"))
        quantity = properties.get("ringmoe:quantity") or sensor.quantities.get(level)
        if not quantity:
            raise _refuse(item, f"processing:level is {level!r}", f"one of {', '.join(sensor.quantities)}")
        if item.geometry is None or item.bbox is None:
            raise _refuse(item, "it has no geometry", "a geometry and a bbox")
        bands = dict(_sources(item, [b.name for b in sensor.bands], {b.common_name: b.name for b in sensor.bands}))
        if not bands:
            raise _refuse(
                item, "none of its assets is a band", f"assets whose bands are {[b.name for b in sensor.bands]}"
            )
        west, south, east, north = item.bbox if len(item.bbox) == 4 else (*item.bbox[:2], *item.bbox[3:5])
        encoding = "complex" if sensor.law == "complex-amplitude" else "dn"
        return cls(
            id=item.id,
            href=_place(item),
            sensor=sensor.id,
            collection=item.collection_id or "",
            datetime=_time(item),
            platform=str(properties.get("platform", "")),
            level=level,
            format=str(properties.get("ringmoe:format") or sensor.formats[0]),
            quantity=str(quantity),
            geolocation=cast(Geolocation, properties.get("ringmoe:geolocation", sensor.geolocation)),
            encoding=cast(Encoding, properties.get("ringmoe:encoding", encoding)),
            geometry=dict(item.geometry),
            bbox=(west, south, east, north),
            bands={b.name: bands[b.name] for b in sensor.bands if b.name in bands},
            quality=dict(_quality(item)),
            metadata={k: href_of(a) for k, a in item.assets.items() if "metadata" in (a.roles or ())},
            checksums={key: _checksum(asset) for key, asset in item.assets.items()},
            decimated=bool(properties.get("ringmoe:decimated", False)),
            properties=dict(properties),
        )


def _refuse(item: pystac.Item, problem: str, enough: str) -> MetadataError:
    return MetadataError(
        f"an item cannot be read as a scene: {problem}",
        item=f"item {item.id} of collection {item.collection_id}",
        enough=enough,
        todo="register the product with `ringmoe register`, or name another collection",
    )


def _required(item: pystac.Item, field: str) -> Any:
    if item.properties.get(field) in (None, ""):
        raise _refuse(item, f"{field} is missing", f"an item with the property {field}")
    return item.properties[field]


def _sensor(item: pystac.Item) -> Sensor:
    name = item.properties.get("ringmoe:sensor")
    if name is None:
        platform = str(_required(item, "platform")).lower()
        name = next((s.id for s in SENSORS.values() if platform in s.platforms), platform)
    if name not in SENSORS:
        raise _refuse(item, f"no row of the sensor table is {name!r}", f"one of {', '.join(SENSORS)}")
    return SENSORS[name]


def _time(item: pystac.Item) -> datetime:
    stamp = item.datetime or item.common_metadata.start_datetime
    if stamp is None:
        raise _refuse(item, "it has neither datetime nor start_datetime", "one of the two")
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def href_of(asset: pystac.Asset) -> str:
    """Absolute path or URL of an asset; a file: URL becomes the path, which GDAL and Python both open."""
    return _local(asset.href if "://" in asset.href else asset.get_absolute_href() or asset.href)


def _place(item: pystac.Item) -> str:
    canonical = item.get_single_link("canonical")
    return _local(canonical.href if canonical else item.get_self_href() or item.id)


def _local(href: str) -> str:
    return unquote(urlsplit(href).path) if href.startswith("file://") else href


def end_of(scene: Scene) -> datetime:
    """The last instant a scene may have been taken at: end_datetime where the item knows a range only."""
    end = scene.properties.get("end_datetime")
    return str_to_datetime(end) if end else scene.datetime


def metadata_file(scene: Scene, role: str) -> Path:
    """A metadata file of a scene on this machine's disk.

    Raises
    ------
    AssetError
        When the file lies on the web.
    """
    href = scene.metadata[role]
    if "://" in href:
        raise AssetError(
            "a product's metadata file lies on the web",
            item=f"{scene.id}: {href}",
            enough="a copy of the product on disk",
            todo="download the product and register its folder",
        )
    return Path(href)


def _described(asset: pystac.Asset) -> list[dict[str, Any]]:
    """The asset's bands: STAC 1.1 `bands`, else the older `eo:bands`."""
    return list(asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or [])


def _sources(
    item: pystac.Item, names: Sequence[str], by_common_name: Mapping[str, str]
) -> Iterator[tuple[str, BandSource]]:
    for asset in item.assets.values():
        if not {"data", "reflectance"} & set(asset.roles or ()):
            continue
        pair = bool(asset.extra_fields.get("ringmoe:complex_pair"))
        for position, band in enumerate(_described(asset), start=1):
            common = band.get("eo:common_name") or band.get("common_name") or ""
            name = band.get("name") if band.get("name") in names else by_common_name.get(common)
            if name:
                yield name, _source(item, asset, name, band, position, pair)


def _quality(item: pystac.Item) -> Iterator[tuple[str, BandSource]]:
    for key, asset in item.assets.items():
        if "data-mask" in (asset.roles or ()):
            yield key, _source(item, asset, key, {}, 1, False)


def _source(
    item: pystac.Item, asset: pystac.Asset, name: str, band: Mapping[str, Any], index: int, pair: bool
) -> BandSource:
    older = asset.extra_fields.get("raster:bands") or []  # raster 1.1, as Earth Search and CDSE still write it
    one = older[index - 1] if len(older) >= index else {}
    listed = {k if k in ("nodata", "data_type") else f"raster:{k}": v for k, v in one.items()}

    def field(key: str) -> Any:
        for level in (band, asset.extra_fields, listed, item.properties):
            if level.get(key) is not None:
                return level[key]
        return None

    shape, transform, scale, offset = (
        field(f) for f in ("proj:shape", "proj:transform", "raster:scale", "raster:offset")
    )
    return BandSource(
        band=name,
        href=str(asset.extra_fields.get("ringmoe:inside") or "{path}").replace("{path}", href_of(asset)),
        index=index,
        complex_pair=pair,
        dtype=str(field("data_type") or ""),
        nodata=_nodata(field("nodata"), str(field("data_type") or "")),
        shape=None if shape is None else (int(shape[0]), int(shape[1])),
        transform=None if transform is None else tuple(float(v) for v in transform[:6]),
        crs=None if transform is None else field("proj:code"),
        scale=None if scale is None else float(scale),
        offset=None if offset is None else float(offset),
    )


def _nodata(value: Any, dtype: str) -> float | None:
    """A no-data value; STAC writes those that JSON has not as text, and NaN of a float raster means it unsaid."""
    if value is None:
        return math.nan if dtype.startswith("float") else None
    return float(value)


def _checksum(asset: pystac.Asset) -> str:
    fields = asset.extra_fields
    for key in ("file:checksum", "etag", "file:etag"):
        if fields.get(key):
            return str(fields[key])
    return ":".join(str(fields.get(key, "")) for key in ("file:size", "updated"))
