"""One date of a cube -> a cloud-optimized GeoTIFF on the cube's own grid, for QGIS and for GDAL before 3.13."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
from rasterio.windows import Window

from catalog.cube import geobox
from catalog.publish.cog import room

PREVIEW = "preview.tif"
ROWS = 1024
_COLOURS = ("red", "green", "blue")


def write_preview(folder: Path, cube: xr.Dataset, date: int) -> Path | None:
    """Write one date of a cube to FOLDER/preview.tif, in the cube's units.

    Red, green and blue where the sensor has them, else its first bands, at most three; of complex pixels the power.

    Parameters
    ----------
    cube
        data (time, band, y, x), as catalog.cube.open gives it; read by rows of a shard.
    date
        Its position along time, from 0.

    Returns
    -------
    Path, or None for a cube in radar geometry, which has no affine that a viewer could use.
    """
    box = geobox(cube)
    if box is None:
        return None
    names = _bands(cube)
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": len(names),
        "height": box.height,
        "width": box.width,
        "crs": str(box.crs),
        "transform": box.affine,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "nodata": np.nan,
        "BIGTIFF": "IF_SAFER",
    }
    draft, target = folder / "preview.draft.tif", folder / PREVIEW
    chosen = cube["data"].isel(time=date).sel(band=names)
    with room(folder, box, 4 * len(names)):
        with rasterio.open(draft, "w", **profile) as out:
            for row in range(0, box.height, ROWS):
                values = chosen.isel(y=slice(row, row + ROWS)).values
                shown = np.abs(values) ** 2 if np.iscomplexobj(values) else values
                out.write(shown.astype(np.float32), window=Window(0, row, box.width, values.shape[1]))
            for number, name in enumerate(names, start=1):
                out.set_band_description(number, name)
            out.update_tags(
                date=str(cube["time"].values[date])[:10],
                units=str(cube.attrs["units"]),
                quantity=str(cube.attrs["quantity"]),
            )
        # The last bits of floats are noise: more than level 1 takes twice the time for 3 %.
        options = {"compress": "deflate", "level": 1, "blocksize": 256, "overview_resampling": "average"}
        rasterio.shutil.copy(str(draft), str(target), driver="COG", **options)
        draft.unlink()
    return target


def _bands(cube: xr.Dataset) -> list[str]:
    common = {b["common_name"]: b["name"] for b in cube.attrs["bands"]}
    if all(c in common for c in _COLOURS):
        return [common[c] for c in _COLOURS]
    return [b["name"] for b in cube.attrs["bands"][:3]]
