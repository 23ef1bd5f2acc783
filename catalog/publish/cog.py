"""Finished rows of a map -> cloud-optimized GeoTIFFs, in memory that does not grow with the map."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_translate
from rio_cogeo.profiles import cog_profiles

from catalog.errors import PublishError
from catalog.ledger import no_space_left


@dataclass(frozen=True)
class MapClass:
    """One class of a map."""

    value: int
    """Pixel value, 1 to 255; 0 means no data."""
    name: str
    """Short name, lower case."""
    colour: str = ""
    """RRGGBB; empty for none."""


class Block(Protocol):
    """Finished rows of a map, as inference yields them from north to south."""

    @property
    def y0(self) -> int: ...

    @property
    def classes(self) -> np.ndarray: ...

    @property
    def probabilities(self) -> np.ndarray: ...


def write_map(
    path: Path, blocks: Iterable[Block], box: GeoBox, classes: Sequence[MapClass], each: Callable[[int], None]
) -> dict[str, int]:
    """Write blocks of a map as two COGs beside each other, row by row: PATH/classes.tif and PATH/confidence.tif.

    Parameters
    ----------
    blocks
        Rows in order from north to south: classes (rows, columns) uint8, 0 no data, and probabilities
        (class, rows, columns), 0 to 1, NaN where there is no data.
    each
        Called with the count of rows finished.

    Returns
    -------
    dict
        Pixels per class name.

    Raises
    ------
    PublishError
        When blocks leave rows out, do not fit the grid or hold values that are no class.
    """
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": box.height,
        "width": box.width,
        "crs": str(box.crs),
        "transform": box.affine,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "BIGTIFF": "IF_SAFER",
    }
    drafts = {name: path / f"{name}.draft.tif" for name in ("classes", "confidence")}
    counts, row = np.zeros(256, np.int64), 0
    with (
        room(path, box),
        rasterio.open(drafts["classes"], "w", nodata=0, **profile) as first,
        rasterio.open(drafts["confidence"], "w", nodata=255, **profile) as second,
    ):
        for block in blocks:
            if block.y0 != row:
                raise PublishError(f"rows {row} to {block.y0} of the map are missing or repeated", item=str(path))
            rows = block.classes.shape[0]
            if row + rows > box.height or block.classes.shape[1] != box.width:
                raise PublishError(f"rows {row} to {row + rows} do not fit {box.shape}", item=str(path))
            window = Window(0, row, box.width, rows)
            confidence = np.nan_to_num(block.probabilities.max(axis=0), nan=0.0)
            percent = np.where(block.classes == 0, 255, np.rint(confidence.clip(0, 1) * 100))
            first.write(block.classes.astype(np.uint8), 1, window=window)
            second.write(percent.astype(np.uint8), 1, window=window)
            counts += np.bincount(block.classes.ravel(), minlength=256)
            row += rows
            each(row)
        if any(c.colour for c in classes):
            first.write_colormap(1, {c.value: _rgb(c.colour) for c in classes if c.colour})
    if row != box.height:
        raise PublishError(f"the map ends at row {row} of {box.height}", item=str(path))
    strange = set(np.flatnonzero(counts).tolist()) - {0} - {c.value for c in classes}
    if strange:
        raise PublishError(f"the map holds values {sorted(strange)} that are no class", item=str(path))
    for name, draft in drafts.items():
        with room(path, box):
            to_cog(draft, path / f"{name}.tif", "nearest" if name == "classes" else "average")
            draft.unlink()
    return {c.name: int(counts[c.value]) for c in classes}


@contextmanager
def room(path: Path, box: GeoBox, pixel_bytes: int = 4) -> Iterator[None]:
    """GDAL forgets why it could not write: with less space free than the map may take, the disk is full."""
    with no_space_left(str(path)):
        try:
            yield
        except (RasterioError, CPLE_BaseError) as error:
            if shutil.disk_usage(path).free < pixel_bytes * box.height * box.width + (1 << 20):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise


def to_cog(source: Path, target: Path, overview: Literal["nearest", "average"]) -> None:
    """A GeoTIFF as a cloud-optimized one, with overviews."""
    profile = cog_profiles.get("deflate") | {"blockxsize": 256, "blockysize": 256}
    profile.pop("interleave", None)  # which the driver COG does not know
    cog_translate(
        str(source),
        str(target),
        profile,
        overview_resampling=overview,
        quiet=True,
        use_cog_driver=True,
        in_memory=False,
    )


def _rgb(colour: str) -> tuple[int, int, int, int]:
    return int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16), 255
