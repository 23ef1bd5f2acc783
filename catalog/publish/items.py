"""STAC items of cubes, maps and models with their lineage."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pystac
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from catalog import antimeridian
from catalog.cube import usable_share
from catalog.ledger import Ledger, file_digest, tree_digest
from catalog.publish.cog import MapClass
from catalog.publish.preview import write_preview

_SCHEMA = "https://stac-extensions.github.io"
PROCESSING = f"{_SCHEMA}/processing/v1.1.0/schema.json"
PROJECTION = f"{_SCHEMA}/projection/v2.0.0/schema.json"
RASTER = f"{_SCHEMA}/raster/v1.1.0/schema.json"
CLASSIFICATION = f"{_SCHEMA}/classification/v2.0.0/schema.json"
FILE = f"{_SCHEMA}/file/v2.1.0/schema.json"
DATACUBE = f"{_SCHEMA}/datacube/v2.2.0/schema.json"
MLM = f"{_SCHEMA}/mlm/v1.4.0/schema.json"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True)
class Sources:
    """What an output was made of."""

    items: Sequence[tuple[str, str]]
    """(id, href) of every item it derives from."""
    start: datetime
    """First moment of the Earth it shows, UTC."""
    end: datetime
    """Last moment, UTC."""


def cube_item(
    ledger: Ledger, item_id: str, folder: Path, cube: xr.Dataset, sources: Sources, footprint: Mapping[str, Any]
) -> dict[str, Any]:
    """Publish a finished cube, or a composite in its schema, that lies at folder/cube.zarr.

    Parameters
    ----------
    cube
        The Dataset as written, in the schema of `catalog.cube`; the attribute composite makes it one.
    footprint
        GeoJSON geometry in EPSG:4326.

    Returns
    -------
    dict
        The item as recorded.
    """
    attrs = cube.attrs
    shares = attrs.get("usable_share") or usable_share(cube["quality"])
    collection = "composites" if "composite" in attrs else "cubes"
    item = new_item(collection, item_id, footprint, sources, [DATACUBE, FILE])
    item.properties |= {
        "ringmoe:sensor": attrs["sensor"],
        "ringmoe:modality": attrs["modality"],
        "ringmoe:quantity": attrs["quantity"],
        "ringmoe:units": attrs["units"],
        "ringmoe:tile": attrs["tile"],
        "ringmoe:period": attrs["period"],
        "ringmoe:acquisitions": attrs["acquisitions"],
        "ringmoe:shape": [cube.sizes["y"], cube.sizes["x"]],
        "ringmoe:valid_share": round(sum(shares) / len(shares), 6),
        "ringmoe:provenance": attrs["provenance"],
        "ringmoe:coregistration": attrs["coregistration"],
        "ringmoe:notes": attrs["notes"],
        "gsd": attrs["gsd_m"],
        "cube:dimensions": _dimensions(cube),
        "cube:variables": {
            "data": {"dimensions": ["time", "band", "y", "x"], "type": "data", "unit": attrs["units"]},
            "quality": {"dimensions": ["time", "y", "x"], "type": "auxiliary"},
            **_layers(cube),
        },
    }
    if collection == "composites":
        item.properties |= {"ringmoe:composite": attrs["composite"], "ringmoe:period": attrs["period"]}
    if attrs["geobox"] is not None:
        project(item, attrs["geobox"]["crs"], attrs["geobox"]["shape"], attrs["geobox"]["affine"])
    preview = write_preview(folder, cube, shares.index(max(shares)))
    digest, size = tree_digest(folder / "cube.zarr")
    bands = [
        {k: v for k, v in (("name", b["name"]), ("description", b["polarisation"] or b["common_name"])) if v}
        for b in attrs["bands"]
    ]
    item.add_asset(
        "cube",
        pystac.Asset(
            f"./{folder.name}/cube.zarr",
            title="Zarr 3 group; open with catalog.cube.open",
            media_type="application/vnd+zarr; version=3",
            roles=["data"],
            extra_fields={"file:checksum": digest, "file:size": size, "bands": bands},
        ),
    )
    if preview is not None:
        item.add_asset(
            "preview", file_asset(folder, preview.name, "Clearest date, on the cube's grid", COG, ["overview"])
        )
    return commit(ledger, collection, item)


def _layers(cube: xr.Dataset) -> dict[str, Any]:
    """What a cube keeps of every scene beside its data and quality, as angles, layover and shadow."""
    found = {str(k): v for k, v in cube.data_vars.items() if v.dims == ("time", "y", "x") and k != "quality"}
    return {
        k: {"dimensions": ["time", "y", "x"], "type": "auxiliary", "unit": _unit(v)} for k, v in sorted(found.items())
    }


def _unit(layer: xr.DataArray) -> str:
    """The unit as stored: that of a date is kept by xarray beside its attributes."""
    return str(layer.attrs.get("units") or layer.encoding.get("units") or "1")


def map_item(
    ledger: Ledger,
    item_id: str,
    folder: Path,
    box: GeoBox,
    classes: Sequence[MapClass],
    sources: Sources,
    properties: Mapping[str, Any],
    tables: Sequence[Path] = (),
) -> dict[str, Any]:
    """Publish a map whose COGs lie in folder, with tables (CSV or JSON) beside it."""
    footprint = lonlat(box.extent)
    item = new_item("maps", item_id, footprint, sources, [PROJECTION, RASTER, CLASSIFICATION, FILE])
    item.properties |= dict(properties)
    project(item, str(box.crs), box.shape, list(box.affine)[:6])
    gsd = round(math.hypot(box.affine.a, box.affine.d), 9)
    listed = [
        {"value": c.value, "name": re.sub("[^0-9A-Za-z_-]+", "_", c.name), "title": c.name, "description": c.name}
        | ({"color_hint": c.colour.upper()} if c.colour else {})
        for c in classes
    ]
    nothing = {"value": 0, "name": "no_data", "title": "no data", "description": "nothing measured", "nodata": True}
    item.add_asset(
        "classes",
        cog_asset(
            folder,
            "classes.tif",
            "Most likely class",
            [{"data_type": "uint8", "nodata": 0, "spatial_resolution": gsd}],
            {"classification:classes": [nothing, *listed]},
        ),
    )
    item.add_asset(
        "confidence",
        cog_asset(
            folder,
            "confidence.tif",
            "Probability of that class",
            [{"data_type": "uint8", "nodata": 255, "scale": 0.01, "unit": "1", "spatial_resolution": gsd}],
            {},
        ),
    )
    for table in tables:
        kind = "text/csv" if table.suffix == ".csv" else "application/json"
        item.add_asset(table.stem, file_asset(folder, table.name, table.stem, kind, ["metadata"]))
    return commit(ledger, "maps", item)


_BESIDE = {
    ".png": ("image/png", "overview", "_picture"),
    ".html": ("text/html", "overview", "_page"),
    ".md": ("text/markdown", "metadata", ""),
    ".safetensors": ("application/octet-stream; application=safetensors", "metadata", ""),
}
"""Media type, role and what an asset's name ends in, of files beside a checkpoint; others are JSON."""


def model_item(
    ledger: Ledger,
    item_id: str,
    folder: Path,
    description: Mapping[str, Any],
    footprint: Mapping[str, Any],
    sources: Sources,
) -> dict[str, Any]:
    """Publish a checkpoint whose files lie in folder/checkpoint; tables and pictures of its training lie beside it.

    Parameters
    ----------
    description
        `mlm:*` and `ringmoe:*` properties; `mlm:name`, `mlm:architecture`, `mlm:tasks`, `mlm:input` and
        `mlm:output` are what the extension asks for at least.
    footprint
        GeoJSON geometry in EPSG:4326 of what the model was trained on.
    """
    item = new_item("models", item_id, footprint, sources, [MLM, FILE])
    item.properties |= dict(description)
    names = dict.fromkeys(name for taken in description["mlm:input"] for name in taken["bands"])
    bands = {"bands": [{"name": name} for name in names]} if names else {}
    item.properties |= bands  # mlm wants the bands that its inputs name here, STAC 1.1 only if an asset has them too
    for file in sorted((folder / "checkpoint").iterdir()):
        weights = file.suffix == ".safetensors"
        kind = "application/octet-stream; application=safetensors" if weights else "application/json"
        asset = file_asset(
            folder, f"checkpoint/{file.name}", file.name, kind, ["mlm:model"] if weights else ["metadata"]
        )
        if weights:
            asset.extra_fields |= {"mlm:artifact_type": "safetensors"} | bands
        item.add_asset(file.stem, asset)
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        kind, role, ending = _BESIDE.get(file.suffix, ("application/json", "metadata", ""))
        name = file.stem + ending
        item.add_asset(name, file_asset(folder, file.name, file.name, kind, [role]))
    return commit(ledger, "models", item)


def new_item(
    collection: str, item_id: str, footprint: Mapping[str, Any], sources: Sources, extensions: Sequence[str]
) -> pystac.Item:
    """An item with its extent, its software and its links to where it lies and what it derives from."""
    shape = Geometry(dict(footprint), "EPSG:4326")
    item = pystac.Item(
        id=item_id,
        geometry=dict(footprint),
        bbox=antimeridian.bbox_of(shape),
        datetime=None,
        start_datetime=sources.start,
        end_datetime=sources.end,
        properties={
            "created": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),  # the newest counts
            "processing:software": {"ringmoe": version("ringmoe")},
        },
        stac_extensions=sorted([*extensions, PROCESSING]),
        collection=collection,
    )
    item.add_link(pystac.Link("root", "../../catalog.json", media_type="application/json"))
    for relation in ("parent", "collection"):
        item.add_link(pystac.Link(relation, "../collection.json", media_type="application/json"))
    for source_id, href in sources.items:
        item.add_link(pystac.Link("derived_from", href, media_type="application/geo+json", title=source_id))
    return item


def commit(ledger: Ledger, collection: str, item: pystac.Item) -> dict[str, Any]:
    """Record an item as it lies in a static catalogue; returns the one that counts."""
    record = item.to_dict(include_self_link=False, transform_hrefs=False)
    return ledger.commit(collection, item.id, record)


def project(item: pystac.Item, crs: str, shape: Sequence[int], affine: Sequence[float]) -> None:
    """Say on which grid an item's pixels lie: shape (rows, columns), affine as a, b, c, d, e, f."""
    if PROJECTION not in item.stac_extensions:
        item.stac_extensions = sorted([*item.stac_extensions, PROJECTION])
    item.properties |= {
        "proj:code": crs,
        "proj:shape": [int(v) for v in shape],
        "proj:transform": [float(v) for v in affine],
    }


def _dimensions(cube: xr.Dataset) -> dict[str, Any]:
    times = [str(t)[:19] + "Z" for t in cube["time"].values.astype("datetime64[s]")]
    box = cube.attrs["geobox"]
    rotated = box is not None and (box["affine"][1] or box["affine"][3])
    dimensions: dict[str, Any] = {
        "time": {"type": "temporal", "values": times},
        "band": {"type": "bands", "values": [b["name"] for b in cube.attrs["bands"]]},
    }
    for axis in ("y", "x"):
        values = cube[axis].values
        extent = [float(values.min()), float(values.max())]
        if box is None or rotated:
            dimensions[axis] = {"type": "other", "extent": extent, "unit": "line" if axis == "y" else "pixel"}
        else:
            dimensions[axis] = {"type": "spatial", "axis": axis, "extent": extent}
            code = box["crs"].split(":")[-1]
            dimensions[axis] |= {"reference_system": int(code)} if code.isdigit() else {}
    return dimensions


def cog_asset(
    folder: Path, name: str, title: str, bands: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]
) -> pystac.Asset:
    """A cloud-optimized GeoTIFF beside an item, with what the raster extension says of each band."""
    asset = file_asset(folder, name, title, COG, ["data"])
    asset.extra_fields |= {"raster:bands": [dict(band) for band in bands], **extra}
    return asset


def file_asset(folder: Path, name: str, title: str, kind: str, roles: list[str]) -> pystac.Asset:
    """A file beside an item, with its checksum and size."""
    path = folder / name
    fields = {"file:checksum": file_digest(path), "file:size": os.path.getsize(path)}
    return pystac.Asset(f"./{folder.name}/{name}", title=title, media_type=kind, roles=roles, extra_fields=fields)


def lonlat(extent: Geometry) -> dict[str, Any]:
    """A polygon as GeoJSON in EPSG:4326, to a centimetre; two where it crosses the antimeridian."""
    rings = [
        [[round(x, 7), round(y, 7)] for x, y in part.json["coordinates"][0]]
        for part in antimeridian.parts_of(antimeridian.lonlat(extent))
    ]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
