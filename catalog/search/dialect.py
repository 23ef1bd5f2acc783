"""Items as public providers write them -> items as the house reads them; nothing is invented, refusals are named."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import pystac

from catalog.antimeridian import centre_of, split
from catalog.errors import MetadataError
from catalog.geocode.affine import refuse_item
from catalog.grid import check_zone
from catalog.scene import Scene
from catalog.search.pages import Document
from catalog.sensors import SENSORS, Sensor

LEVELS: Mapping[str, str] = {"S2MSI1C": "L1C", "S2MSI2A": "L2A", "GRD": "GRD", "RTC": "RTC", "SLC": "SLC"}
"""What providers call a product, to the level that a sensor's row knows."""
CRS_FIELDS = ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")
"""Fields of the projection extension that name a CRS."""
GRID_FIELDS = ("proj:transform",)
"""The field of the projection extension that says where the pixels lie."""
LANDSAT_SURFACE = ("L2SP", "L2SR")
"""Landsat's corrections that hold surface reflectance; L2SR has no surface temperature beside it."""


def scene_of(item: Document, provider: str) -> Scene:
    """A provider's item as a scene that knows who answered it (`ringmoe:provider`).

    Raises
    ------
    MetadataError
        The item has no CRS, names a band in two files of one kind, or lacks what a scene needs, or is no item.
    GeolocationError
        It gives an affine to a product in radar geometry.
    GridError
        Its grid does not fit its UTM zone.
    """
    try:
        own = unlinked(translated(item, provider))
        refuse_item(own)
        scene = Scene.from_item(own)
        refuse_zone(scene)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, pystac.STACError) as error:
        raise MetadataError(
            f"an item is not as the standard says ({type(error).__name__}: {str(error)[:160]})",
            item=f"item {item.get('id')} of collection {item.get('collection')}",
            enough="an item of STAC 1.0 or 1.1 with properties, geometry and assets",
            todo="report it to the provider, or leave the item out",
        ) from None
    return scene


def refuse_zone(scene: Scene) -> None:
    """Refuse a scene that lies where its UTM grid does not reach.

    Raises
    ------
    GridError
        It says which zone would.
    """
    if scene.geolocation != "affine":
        return
    centre = centre_of(scene.geometry)
    for crs in {b.crs for b in scene.bands.values() if b.crs}:
        check_zone(crs, *centre, item=f"item {scene.id} of collection {scene.collection}")


def unlinked(item: Document) -> pystac.Item:
    """An item of which only its own places are kept, so that reading it asks nobody for its root or collection."""
    places = [link for link in item.get("links", ()) if link.get("rel") in ("self", "canonical")]
    with warnings.catch_warnings():  # of a storage extension whose fields we do not use
        warnings.filterwarnings("ignore", "Could not parse bucket", UserWarning)
        return pystac.Item.from_dict({**item, "links": places})


def translated(item: Document, provider: str) -> Document:
    """A copy of an item in the house's words; one that we registered only learns its provider.

    Roles, band names, levels, no-data, scale and offset are moved to where `Scene` looks for them. An affine that a
    radar scene in its own geometry was given is taken away, and so is an offset that the pixels have had already.
    """
    own = copy.deepcopy(item)
    properties = own["properties"]
    properties["ringmoe:provider"] = provider
    for holder in (properties, *own["assets"].values()):
        if holder.get("proj:epsg") and not holder.get("proj:code"):
            holder["proj:code"] = f"EPSG:{holder['proj:epsg']}"
    if own.get("geometry"):
        own["geometry"] = split(own["geometry"])
    if "ringmoe:format" in properties or "ringmoe:sensor" in properties:
        _require_once(own)
        if properties.get("ringmoe:geolocation") == "affine":
            _require_place(own)
        return own
    properties["platform"] = str(properties.get("platform") or "").lower().replace("_", "-")
    sensor = next((s for s in SENSORS.values() if properties["platform"] in s.platforms), None)
    if sensor is None:
        return own
    _level(properties, sensor)
    own["assets"] = _assets(own, sensor)
    if properties.get("earthsearch:boa_offset_applied"):
        for asset in own["assets"].values():
            if "raster:offset" in asset:
                asset["raster:offset"] = 0.0
    if _in_radar_geometry(properties, sensor):
        _without_affine(own)
    elif sensor.law != "complex-amplitude":
        _require_place(own)
    return own


def _level(properties: dict[str, Any], sensor: Sensor) -> None:
    said = properties.get("s2:product_type") or properties.get("sar:product_type")
    level = LEVELS.get(str(said)) or properties.get("landsat:correction")
    if (level and "processing:level" not in properties) or properties.get("processing:level") not in sensor.quantities:
        properties["processing:level"] = level or properties.get("processing:level")
    if properties.get("landsat:correction") in LANDSAT_SURFACE:
        properties["ringmoe:quantity"] = "surface_reflectance"
    if level == "RTC":
        properties["ringmoe:geolocation"] = "affine"


def _in_radar_geometry(properties: Mapping[str, Any], sensor: Sensor) -> bool:
    return properties.get("ringmoe:geolocation", sensor.geolocation) == "radar-grid"


def _without_affine(item: Document) -> None:
    for holder in (item["properties"], *item["assets"].values()):
        for key in ("proj:transform", "proj:epsg", "proj:code", "proj:bbox", "proj:shape"):
            holder.pop(key, None)


def _assets(item: Document, sensor: Sensor) -> dict[str, Any]:
    """Assets with house roles: each band once, the quality layer by its name, composites without a role in it."""
    found: dict[str, Any] = {}
    carriers: dict[str, str] = {}
    for key, asset in item["assets"].items():
        name = _quality_name(key, sensor)
        _flatten(asset)
        if name is not None:
            asset["roles"] = ["data-mask"]
        elif "data" in (asset.get("roles") or ()) or "reflectance" in (asset.get("roles") or ()):
            band = _band(key, asset, sensor)
            if band is None:
                asset["roles"] = ["visual"]
            else:
                carriers[band] = _carrier(item, found, band, carriers.get(band), key, asset)
        found[name or key] = asset
    return found


def _carrier(item: Document, found: dict[str, Any], band: str, held: str | None, key: str, asset: Any) -> str:
    """Which of two assets carries a band: the cloud-optimised one; the same file twice is one."""
    if held is None:
        return key
    other = found[held]
    held_rank, rank = _optimised(other), _optimised(asset)
    if held_rank == rank and other["href"] != asset["href"]:
        raise _twice(item, band, held, key)
    loser = asset if held_rank >= rank else other
    loser["roles"] = ["alternate"]
    return held if loser is asset else key


def _optimised(asset: Mapping[str, Any]) -> bool:
    return "cloud-optimized" in str(asset.get("type", ""))


def _quality_name(key: str, sensor: Sensor) -> str | None:
    layer = sensor.quality_layer
    return layer if layer is not None and key.lower() == layer.lower() else None


def _flatten(asset: dict[str, Any]) -> None:
    """The first of raster:bands on the asset itself, in the words of STAC 1.1."""
    rows: list[dict[str, Any]] = list(asset.get("raster:bands") or [])
    if len(rows) == 1:
        row = rows[0]
        for ours, theirs in (("raster:scale", "scale"), ("raster:offset", "offset")):
            if row.get(theirs) is not None:
                asset.setdefault(ours, row[theirs])
        for key in ("nodata", "data_type"):
            if row.get(key) is not None:
                asset.setdefault(key, row[key])


def _band(key: str, asset: dict[str, Any], sensor: Sensor) -> str | None:
    """The one band of an asset, written onto it; None for a composite or what is no band."""
    rows = list(asset.get("bands") or asset.get("eo:bands") or [])
    names = {b.name for b in sensor.bands}
    common = {b.common_name: b.name for b in sensor.bands if b.common_name}
    if len(rows) > 1:
        return None
    fields = ("name", "common_name", "eo:common_name")
    said = [rows[0].get(f) for f in fields] if rows else [key.upper()]
    name = next((n if n in names else common[n] for n in said if n in names or n in common), None)
    if name is not None:
        asset.pop("eo:bands", None)
        asset["bands"] = [{"name": name}]
        if asset.get("nodata") is None and sensor.nodata is not None:
            asset["nodata"] = sensor.nodata
    return name


def _require_once(item: Document) -> None:
    """Refuse an item of ours with two files for one band; the same file listed twice is one."""
    held: dict[str, tuple[str, Any]] = {}
    for key, asset in item["assets"].items():
        if "data" not in (asset.get("roles") or ()):
            continue
        for position, band in enumerate(asset.get("bands") or ()):
            place = (asset["href"], asset.get("ringmoe:inside"), position)
            before, file = held.setdefault(str(band.get("name")), (key, place))
            if file != place:
                raise _twice(item, str(band.get("name")), before, key)


def _twice(item: Document, band: str, one: str, other: str) -> MetadataError:
    return MetadataError(
        f"two assets carry the band {band}: {one} and {other}",
        item=f"item {item['id']} of collection {item.get('collection')}",
        enough="one file per band, or one of them cloud-optimised",
        todo="report it to the provider, or leave the item out",
    )


def _require_place(item: Document) -> None:
    """Refuse pixels with an affine that nobody can place: without a CRS, or without the affine."""
    for keys, lacks in ((CRS_FIELDS, "names no CRS for its pixels"), (GRID_FIELDS, "gives its pixels no affine")):
        for key, asset in item["assets"].items():
            if not (asset.get("bands") and "data" in (asset.get("roles") or ())):
                continue
            if not any(holder.get(k) for k in keys for holder in (asset, item["properties"])):
                raise MetadataError(
                    f"an item {lacks}",
                    item=f"item {item['id']} of collection {item.get('collection')}, asset {key}",
                    enough=f"{' or '.join(keys)} on the item or its assets",
                    todo="report it to the provider, or ask another one",
                )
