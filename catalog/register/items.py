"""A product becomes a STAC item: files checked against the metadata, grids, bands, checksums."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pystac
from pystac.utils import datetime_to_str

from catalog.errors import AssetError, MetadataError
from catalog.formats.outline import Ring, bbox_of, check_corners, check_place, check_radar, polygon, ring_lonlat
from catalog.formats.product import Product, ProductFile
from catalog.metadata.raster import RasterHeader, check_complete, read_header, unreadable
from catalog.sensors import SENSORS, Band, Sensor

_EXTENSIONS = {
    "proj:": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "eo:": "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "raster:": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "file:": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "processing:": "https://stac-extensions.github.io/processing/v1.1.0/schema.json",
    "view:": "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "sar:": "https://stac-extensions.github.io/sar/v1.0.0/schema.json",
    "sat:": "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
    "classification:": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
}
_MEDIA = {
    ".jp2": pystac.MediaType.JPEG2000,
    ".tif": pystac.MediaType.GEOTIFF,
    ".tiff": pystac.MediaType.GEOTIFF,
    ".xml": pystac.MediaType.XML,
    ".safe": pystac.MediaType.XML,
    ".json": pystac.MediaType.JSON,
    ".h5": pystac.MediaType.HDF5,
}


def item_of(product: Product) -> pystac.Item:
    """The item of a product, its files opened, checked and summed; hrefs absolute.

    Raises
    ------
    AssetError
        A file is missing, truncated or holds other bands than its metadata says.
    FootprintError
        A file does not lie where its metadata says.
    MetadataError
        The level is none that the sensor's row knows.
    """
    sensor = SENSORS[product.sensor]
    if product.level not in sensor.quantities:
        raise MetadataError(
            f"processing level {product.level} is not known for {sensor.id}",
            item=product.id,
            enough=f"one of {', '.join(sensor.quantities)}",
            todo="fetch the product at one of these levels",
        )
    files = [replace(f, header=f.header or read_header(f.raster)) for f in product.files]
    decimated = [_checked(product, file, sensor) for file in files]
    ring = product.footprint_lonlat
    if not ring or product.geolocation == "affine":
        ring = next(filter(None, (ring_lonlat(f.header) for f in files if f.header)), ring)
    gsd = min(_gsd(f, sensor, d) for f, d in zip(files, decimated, strict=True) if f.bands)
    codes = {f.header.crs for f in files if f.header}
    item = new_item(product.id, ring, product.start, product.stop, collection_of(sensor, product.level))
    item.properties |= {
        "platform": product.platform,
        "instruments": list(product.instruments),
        "constellation": sensor.id,
        "gsd": gsd,
        "processing:level": product.level,
        "proj:code": codes.pop() if len(codes) == 1 else None,
        "ringmoe:quantity": sensor.quantities[product.level],
        **product.properties,
        "ringmoe:sensor": sensor.id,
        "ringmoe:geolocation": product.geolocation,
        "ringmoe:encoding": product.encoding,
        "ringmoe:decimated": any(decimated),
    }
    for file, coarse in zip(files, decimated, strict=True):
        item.add_asset(file.key, _image_asset(file, sensor, coarse))
    for role, path in sorted(product.metadata.items()):
        item.add_asset(role, metadata_asset(path))
    declare_extensions(item)
    return item


def new_item(item_id: str, ring: Ring, start: datetime, stop: datetime, collection: str) -> pystac.Item:
    """An empty item of a place and a time; an instant where `start` and `stop` are one."""
    span = {} if start == stop else {"start_datetime": datetime_to_str(start), "end_datetime": datetime_to_str(stop)}
    # Of a pass that lasts seconds the start serves as the instant; of a mere date there is none.
    instant = start if (stop - start).total_seconds() < 3600 else None
    return pystac.Item(item_id, polygon(ring), bbox_of([ring]), instant, dict(span), collection=collection)


def declare_extensions(item: pystac.Item) -> None:
    """List the schemas of every prefix that the item or one of its assets uses."""
    held: set[str] = set(item.properties)
    for asset in item.assets.values():
        held |= set(asset.extra_fields)
        held |= {key for band in asset.extra_fields.get("bands", []) for key in band}
    item.stac_extensions = [url for prefix, url in _EXTENSIONS.items() if any(k.startswith(prefix) for k in held)]


def collection_of(sensor: Sensor, level: str) -> str:
    """The sensor's local collection for a level."""
    names = sensor.collections["local"]
    return next((n for n in names if level.lower() in n), names[0])


def file_fields(path: Path) -> dict[str, Any]:
    """file:checksum (SHA-256 as a multihash) and file:size."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return {"file:checksum": f"1220{digest.hexdigest()}", "file:size": path.stat().st_size}
    except OSError as error:
        raise unreadable(str(path), error) from None


def grid_fields(header: RasterHeader) -> dict[str, Any]:
    """proj:code, proj:shape and proj:transform as the file has them."""
    fields: dict[str, Any] = {"proj:code": header.crs, "proj:shape": list(header.shape)}
    return fields | ({} if header.transform is None else {"proj:transform": list(header.transform)})


def media_type(path: Path) -> str | None:
    """By the file's ending."""
    return _MEDIA.get(path.suffix.lower(), pystac.MediaType.TEXT)


def metadata_asset(path: Path) -> pystac.Asset:
    """A metadata file as an asset."""
    asset = pystac.Asset(str(path.resolve()), media_type=media_type(path), roles=["metadata"])
    asset.extra_fields |= file_fields(path)
    return asset


def json_number(value: float) -> float | str:
    """A no-data value as STAC writes it: nan, inf and -inf as text."""
    return value if math.isfinite(value) else str(value)


def _checked(product: Product, file: ProductFile, sensor: Sensor) -> bool:
    """Whether a file is a decimated copy; refuses one that is damaged, misplaced or of another make."""
    header = file.header or read_header(file.raster)
    check_complete(header.href)
    wanted = 2 if file.complex_pair else len(file.bands) or file.layers
    if header.count != wanted:
        raise AssetError(
            f"a file holds {header.count} raster bands, its product says {wanted}",
            item=header.href,
            enough=f"a file with the bands {', '.join(file.bands) or file.key}",
            todo="fetch the file again",
        )
    if product.geolocation == "affine" and header.crs and product.footprint_lonlat:
        check_corners(header, product.footprint_lonlat, _gsd(file, sensor, False))
    if product.geolocation != "affine":
        check_radar(header)
    return file.expected is not None and check_place(header, file.expected)


def _gsd(file: ProductFile, sensor: Sensor, decimated: bool) -> float:
    """Ground sampling distance of a file in metres; of a decimated copy its own, coarser one."""
    known = [b.gsd_m for b in sensor.bands if b.name in file.bands]
    gsd = file.gsd_m or min(known, default=sensor.bands[0].gsd_m)
    if decimated and file.header and file.header.transform:
        gsd *= max(says / has for says, has in zip(_said(file), file.header.shape, strict=True))
    return round(gsd, 6)


def _said(file: ProductFile) -> tuple[int, int]:
    return file.expected.shape if file.expected else (1, 1)


def _image_asset(file: ProductFile, sensor: Sensor, decimated: bool) -> pystac.Asset:
    header = file.header or read_header(file.raster)
    roles = ["data"] if file.bands else ["data-mask"]
    asset = pystac.Asset(str(file.path.resolve()), media_type=media_type(file.path), roles=roles)
    nodata = next(
        (n for n in (file.nodata, header.nodata, sensor.nodata if file.bands else None) if n is not None), None
    )
    asset.extra_fields |= grid_fields(header)
    asset.extra_fields |= {"data_type": _stac_type(header.dtype), "gsd": _gsd(file, sensor, decimated)}
    if nodata is not None:
        asset.extra_fields["nodata"] = json_number(nodata)
    if file.bands:
        rows = {b.name: b for b in sensor.bands}
        asset.extra_fields["bands"] = [_band(name, rows.get(name), file) for name in file.bands]
    if file.inside:
        asset.extra_fields["ringmoe:inside"] = file.inside
    if file.complex_pair:
        asset.extra_fields["ringmoe:complex_pair"] = True
    asset.extra_fields |= file_fields(file.path)
    return asset


def _band(name: str, row: Band | None, file: ProductFile) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name}
    if row is not None and row.centre_nm is not None:
        described |= {"eo:common_name": row.common_name, "eo:center_wavelength": round(row.centre_nm / 1000, 6)}
        described["eo:full_width_half_max"] = round((row.width_nm or 0) / 1000, 6)
    for key, values in (("raster:scale", file.scale), ("raster:offset", file.offset)):
        described |= _given(key, values, name)
    return described


def _given(key: str, values: Mapping[str, float], name: str) -> dict[str, float]:
    return {key: values[name]} if name in values else {}


def _stac_type(dtype: str) -> str:
    """A rasterio type in STAC's words."""
    return {"complex64": "cfloat32", "complex128": "cfloat64", "complex_int16": "cint16"}.get(dtype, dtype)
