"""Two small published cubes over one place, a multispectral and a radar one, and a label raster that both obey."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog import cube, publish, register
from catalog.ledger import Ledger
from catalog.sensors import SENSORS, Quality
from flows.refs import Area, ItemRef, Where

SIDE = 192
BOX = GeoBox((SIDE, SIDE), Affine(10.0, 0, 6e5, 0, -10.0, 5e6), "EPSG:32632")
AREA = Area(geometry=BOX.extent.to_crs("EPSG:4326").json, name="here")
TIMES = np.array(["2025-06-01T10:00:00", "2025-07-01T10:00:00"], "datetime64[ns]")
CLASSES = {1: "water", 2: "forest", 3: "crop"}


def home(folder: Path, *, threads: int = 1, labelled: bool = True) -> tuple[Where, list[ItemRef]]:
    """A home with both cubes published and, where wanted, the label raster registered."""
    where = Where(scenes=folder / "scenes", published=folder / "catalog", threads=threads, keep_every=2)
    codes = np.random.default_rng(0).integers(1, 4, (SIDE // 16, SIDE // 16)).repeat(16, 0).repeat(16, 1)
    refs = [published(where, sensor, codes) for sensor in ("sentinel-2", "sentinel-1")]
    if labelled:
        _register(folder / "landcover_20250615.tif", codes.astype(np.uint8), where)
    return where, refs


def published(
    where: Where, sensor: str, codes: np.ndarray | None = None, *, quantity: str = "", quality: Quality = Quality.CLEAR
) -> ItemRef:
    """One more cube over the place, of other pixels where no codes are given; its id says what is odd about it."""
    codes = np.ones((SIDE, SIDE), np.int64) if codes is None else codes
    row, rng = SENSORS[sensor], np.random.default_rng(1)
    bands = row.bands[:4]
    level = np.linspace(0.05, 0.3, len(bands) * 4).reshape(len(bands), 4)[:, codes]
    values = level * rng.gamma(16.0, 1 / 16.0, (len(TIMES), *level.shape))
    data = xr.DataArray(
        values.astype(np.float32),
        dims=("time", "band", "y", "x"),
        coords={"time": TIMES, **cube.pixel_coordinates(BOX, (SIDE, SIDE))},
    )
    quality_TYX = xr.DataArray(np.full((len(TIMES), SIDE, SIDE), quality, np.uint8), dims=("time", "y", "x"))
    about = cube.Description(
        sensor=sensor, modality=row.modality, quantity=quantity or next(iter(row.quantities.values())), units=row.units,
        gsd_m=10.0, bands=bands, tile="a tile", period="2025-06-01/2025-07-31", scenes=("one", "two"), geobox=BOX,
        provenance={}, coregistration=(), notes=(),
    )  # fmt: skip
    odd = "".join(f"_{text}" for text in (quantity, quality.name.lower() if quality != Quality.CLEAR else "") if text)
    ledger, name = Ledger(where.published), f"{sensor}_cube{odd}"
    folder, dataset = ledger.attempt("cubes", name), cube.assemble(about, data, quality_TYX)
    cube.write(folder / "cube.zarr", dataset)
    start, stop = (datetime(2025, month, 1, 10, tzinfo=UTC) for month in (6, 7))
    item = publish.cube_item(
        ledger, name, folder, dataset, publish.Sources([], start, stop), publish.lonlat(BOX.extent)
    )
    return ItemRef.of(item, ledger.item_path("cubes", name), fresh=True)


def _register(path: Path, codes: np.ndarray, where: Where) -> None:
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 0, "height": SIDE, "width": SIDE}
    with rasterio.open(path, "w", crs="EPSG:32632", transform=BOX.affine, **profile) as out:
        out.write(codes, 1)
        out.update_tags(CLASSES=json.dumps(CLASSES))
    register.register_labels(path, where.scenes)
