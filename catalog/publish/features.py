"""Finished rows of feature maps -> one cloud-optimized GeoTIFF of many bands, and its item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from catalog.errors import PublishError
from catalog.ledger import Ledger
from catalog.publish.cog import room, to_cog
from catalog.publish.items import (
    FILE,
    PROJECTION,
    RASTER,
    Sources,
    cog_asset,
    commit,
    file_asset,
    lonlat,
    new_item,
    project,
)

NAME = "features.tif"


class Rows(Protocol):
    """Finished rows of a map of many numbers, from north to south."""

    @property
    def y0(self) -> int: ...

    @property
    def values_KHW(self) -> np.ndarray: ...


def write_features(path: Path, rows: Iterable[Rows], box: GeoBox, descriptions: Sequence[str]) -> int:
    """Write rows as PATH/features.tif: float32, a band for each description, NaN where there is no data.

    Returns
    -------
    int
        Pixels that have data.

    Raises
    ------
    PublishError
        When rows are left out or do not fit the grid.
    """
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": len(descriptions), "height": box.height, "width": box.width,
        "crs": str(box.crs), "transform": box.affine, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "deflate", "predictor": 3, "nodata": math.nan, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    draft, row, measured = path / "features.draft.tif", 0, 0
    with room(path, box, 8 * len(descriptions)), rasterio.open(draft, "w", **profile) as out:
        for part in rows:
            count, height, width = part.values_KHW.shape
            if part.y0 != row:
                raise PublishError(f"rows {row} to {part.y0} of the map are missing or repeated", item=str(path))
            if row + height > box.height or (count, width) != (len(descriptions), box.width):
                raise PublishError(f"rows {row} to {row + height} do not fit {box.shape}", item=str(path))
            out.write(part.values_KHW.astype(np.float32), window=Window(0, row, width, height))
            measured += int(np.isfinite(part.values_KHW[0]).sum())
            row += height
        for number, text in enumerate(descriptions, start=1):
            out.set_band_description(number, text)
    if row != box.height:
        raise PublishError(f"the map ends at row {row} of {box.height}", item=str(path))
    with room(path, box, 8 * len(descriptions)):
        to_cog(draft, path / NAME, "average")
        draft.unlink()
    return measured


def features_item(
    ledger: Ledger,
    item_id: str,
    folder: Path,
    box: GeoBox,
    descriptions: Sequence[str],
    sources: Sources,
    properties: Mapping[str, Any],
    tables: Sequence[Path] = (),
) -> dict[str, Any]:
    """Publish feature maps whose COG lies in folder, with tables (JSON) beside it."""
    item = new_item("maps", item_id, lonlat(box.extent), sources, [PROJECTION, RASTER, FILE])
    item.properties |= dict(properties)
    project(item, str(box.crs), box.shape, list(box.affine)[:6])
    gsd = round(math.hypot(box.affine.a, box.affine.d), 9)
    band = {"data_type": "float32", "nodata": "nan", "unit": "1", "spatial_resolution": gsd}
    named = [{"name": f"component-{k}", "description": text} for k, text in enumerate(descriptions, start=1)]
    item.add_asset("features", cog_asset(folder, NAME, "Features", [band] * len(named), {"bands": named}))
    for table in tables:
        item.add_asset(table.stem, file_asset(folder, table.name, table.stem, "application/json", ["metadata"]))
    return commit(ledger, "maps", item)
