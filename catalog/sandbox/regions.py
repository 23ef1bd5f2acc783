"""Where the sandbox lies: square regions in UTM zones, and the pixel grids drawn over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from catalog.errors import CatalogError

FloatArray = NDArray[np.floating]

STEP_M = 10.0
"""Pixel of the truth rasters in metres."""
FINE_M = 2.0
"""Pixel of the landscape in metres."""
MARGIN_M = 160.0
"""Land drawn beyond the region's border, so that a shifted image still sees ground."""
RADAR_MARGIN_M = 2200.0
"""Relief known beyond the region's border, so that a slanted radar frame still sees ground."""
DEM_MARGIN_M = 2000.0
"""Margin of the height model that is handed out."""


@dataclass(frozen=True)
class Region:
    """A square of the procedural Earth; its side comes with the call that writes it."""

    name: str
    """Folder name of its truth."""
    epsg: int
    """EPSG code of a WGS 84 UTM zone."""
    west_m: float
    """Easting of its lower left corner; a multiple of 2560 m in the default regions."""
    south_m: float
    """Northing of its lower left corner."""


REGIONS = (Region("west", 32632, 716_800.0, 5_204_480.0), Region("east", 32633, 273_920.0, 5_204_480.0))
"""Two neighbours on both sides of 12 degrees east, each in its own zone."""


@dataclass(frozen=True)
class Grid:
    """North-up square pixels in a UTM zone; row 0 is the northernmost."""

    epsg: int
    """EPSG code of the zone."""
    west_m: float
    """Easting of the left edge."""
    north_m: float
    """Northing of the upper edge."""
    step_m: float
    """Side of a pixel."""
    rows: int
    """Number of rows."""
    cols: int
    """Number of columns."""

    @property
    def x_m(self) -> FloatArray:
        """Eastings of the pixel centres, (cols,)."""
        return self.west_m + (np.arange(self.cols) + 0.5) * self.step_m

    @property
    def y_m(self) -> FloatArray:
        """Northings of the pixel centres, (rows,), descending."""
        return self.north_m - (np.arange(self.rows) + 0.5) * self.step_m

    @property
    def transform(self) -> Affine:
        """Pixel corner (col, row) to map (x, y)."""
        return Affine(self.step_m, 0.0, self.west_m, 0.0, -self.step_m, self.north_m)

    def corner(self, col: float, row: float) -> tuple[float, float]:
        """Map position of a pixel corner."""
        return self.west_m + col * self.step_m, self.north_m - row * self.step_m


def grid_over(region: Region, size_m: float, step_m: float, margin_m: float = 0.0) -> Grid:
    """The grid of a pixel size over a region of a side, with a margin on all four sides."""
    count = round((size_m + 2 * margin_m) / step_m)
    return Grid(
        region.epsg, region.west_m - margin_m, region.south_m + size_m + margin_m, step_m, rows=count, cols=count
    )


def mgrs_square(epsg: int, x_m: float, y_m: float) -> str:
    """Zone, band and 100 km square of the Military Grid Reference System, as Sentinel-2 names its tiles.

    Parameters
    ----------
    epsg
        326zz; the northern hemisphere only.
    x_m, y_m
        A place in the zone, in metres.

    Raises
    ------
    CatalogError
        For any other CRS.
    """
    zone = epsg - 32600
    if not 1 <= zone <= 60:
        raise CatalogError(
            "the sandbox lies in a northern UTM zone only",
            item=f"EPSG:{epsg}",
            enough="EPSG:32601 to EPSG:32660",
            todo="choose a region in one of these",
        )
    band = "CDEFGHJKLMNPQRSTUVWX"[min(int(y_m / 111_200.0 + 80.0) // 8, 19)]
    columns = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3]
    rows = "ABCDEFGHJKLMNPQRSTUV" if zone % 2 else "FGHJKLMNPQRSTUVABCDE"
    return f"{zone:02d}{band}{columns[int(x_m // 100_000) - 1]}{rows[int(y_m // 100_000) % 20]}"
