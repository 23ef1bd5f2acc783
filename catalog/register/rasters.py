"""Rasters that are no scene: land cover and other labels with their classes, and heights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pystac

from catalog.errors import FootprintError, MetadataError
from catalog.formats.outline import ring_lonlat
from catalog.geocode.heights import ELLIPSOID, GEOIDS, vertical_reference
from catalog.metadata.raster import RasterHeader, check_complete, read_header
from catalog.register.items import declare_extensions, file_fields, grid_fields, json_number, media_type, new_item

LABELS, DEM = "labels", "dem"
"""Collections."""

CLASSES_TAG = "CLASSES"
"""GeoTIFF tag with the classes as JSON, number to name."""


def label_item(
    path: Path,
    classes: Mapping[int, str] | None = None,
    start: datetime | None = None,
    stop: datetime | None = None,
    nodata: float | None = None,
) -> pystac.Item:
    """The item of a class raster.

    Parameters
    ----------
    path
        A raster of one band of whole numbers.
    classes
        Number to name; from the CLASSES tag of the file where None.
    start, stop
        UTC period the labels hold for; from a date in the file's name (as in _20240615) where None.
    nodata
        Number that is no class; the file's own where None.

    Raises
    ------
    MetadataError
        No classes or no date are known, or the raster is no class raster.
    AssetError, FootprintError
        The file is damaged or has no place.
    """
    header = _placed(path)
    if header.count != 1 or not re.fullmatch(r"u?int(8|16|32)", header.dtype):
        raise _refuse(path, f"holds {header.count} bands of {header.dtype}", "one band of whole numbers")
    known = dict(classes) if classes else _classes(path, header)
    begin = start or _date(path)
    item = new_item(_name(path), ring_lonlat(header), begin, stop or begin, LABELS)
    item.properties |= {"proj:code": header.crs, "ringmoe:role": "label"}
    asset = _asset(path, header, nodata if nodata is not None else header.nodata)
    asset.extra_fields["classification:classes"] = [
        {"value": int(value), "name": re.sub(r"[^0-9A-Za-z_-]+", "_", name), "description": name}
        for value, name in sorted(known.items())
    ]
    item.add_asset("labels", asset)
    declare_extensions(item)
    return item


def dem_item(path: Path, height_reference: str | None = None, geoid: Path | None = None) -> pystac.Item:
    """The item of a height raster in metres.

    Parameters
    ----------
    path
        A raster of one band.
    height_reference
        What heights count from: ellipsoid, EGM96, EGM2008, or with `geoid` the name of any other. None asks the
        vertical CRS of the file, then whether it is a tile of the Copernicus DEM (EGM2008), and then assumes the
        ellipsoid; the item says which of these it was.
    geoid
        Raster of the geoid's undulation above the ellipsoid in metres.

    Raises
    ------
    MetadataError
        The height reference is none that can be converted, or contradicts the file's vertical CRS.
    AssetError, FootprintError
        The file is damaged or has no place.
    """
    header = _placed(path)
    reference, source = _height_reference(path, header, height_reference)
    if reference not in (ELLIPSOID, *GEOIDS) and geoid is None:
        known = f"one of {', '.join((ELLIPSOID, *GEOIDS))}, or a raster of the geoid's undulation"
        raise _refuse(path, f"its heights count from {reference!r} ({source}), which nobody here can convert", known)
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    item = new_item(_name(path), ring_lonlat(header), epoch, epoch, DEM)
    item.properties |= {
        "proj:code": header.crs,
        "ringmoe:role": "dem",
        "ringmoe:height_reference": reference,
        "ringmoe:height_reference_source": source,
        "ringmoe:datetime_source": "heights hold for any date",
    }
    item.add_asset("height", _asset(path, header, header.nodata))
    item.assets["height"].extra_fields["unit"] = "m"
    if geoid is not None:
        item.add_asset("geoid", _asset(geoid, _placed(geoid), None))
        item.assets["geoid"].extra_fields["unit"] = "m"
    declare_extensions(item)
    return item


def _height_reference(path: Path, header: RasterHeader, said: str | None) -> tuple[str, str]:
    """What heights count from, and who says so."""
    own = vertical_reference(header.crs or "")
    if said and own and said != own:
        raise _refuse(path, f"its CRS says that its heights count from {own}, you say {said}", "one of the two")
    if said:
        return said, "given at registration"
    if own:
        return own, "vertical CRS of the file"
    if path.name.startswith("Copernicus_DSM"):
        return "EGM2008", "Copernicus DEM by its file name"
    return ELLIPSOID, "assumed: the file names no vertical CRS"


def _name(path: Path) -> str:
    """Folder and file: rasters of one name in several folders are different rasters."""
    return f"{path.resolve().parent.name}_{path.stem}"


def _asset(path: Path, header: RasterHeader, nodata: float | None) -> pystac.Asset:
    asset = pystac.Asset(str(path.resolve()), media_type=media_type(path), roles=["data"])
    asset.extra_fields |= grid_fields(header) | {"data_type": header.dtype}
    if nodata is not None:
        asset.extra_fields["nodata"] = json_number(nodata)
    asset.extra_fields |= file_fields(path)
    return asset


def _placed(path: Path) -> RasterHeader:
    header = read_header(str(path))
    check_complete(str(path))
    if header.crs is None or header.transform is None:
        raise FootprintError(
            "a raster has no place on the Earth",
            item=str(path),
            enough="a GeoTIFF with a CRS and an affine",
            todo="give the file its georeference",
        )
    return header


def _classes(path: Path, header: RasterHeader) -> dict[int, str]:
    sidecar = path.with_suffix(".json")
    text = header.tags.get(CLASSES_TAG) or (sidecar.read_text("utf-8") if sidecar.exists() else "")
    try:
        held = json.loads(text)
        held = held.get("classes", held)
        return {int(value): str(name) for value, name in held.items()}
    except (ValueError, AttributeError):
        raise _refuse(path, "its classes are not known", f"a {CLASSES_TAG} tag with JSON, number to name") from None


def _date(path: Path) -> datetime:
    for digits in re.findall(r"(?<!\d)(\d{4}-?\d{2}-?\d{2})(?!\d)", path.stem):
        try:
            return datetime.strptime(digits.replace("-", ""), "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            continue
    raise _refuse(path, "its date is not known", "a date in its name, as in landcover_20240615.tif")


def _refuse(path: Path, problem: str, enough: str) -> MetadataError:
    return MetadataError(
        f"a raster cannot be registered: {problem}", item=str(path), enough=enough, todo="correct the file"
    )
