"""What a product folder holds once it is recognised: files with their bands, the grid they ought to have, metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from catalog.errors import AssetError
from catalog.metadata.raster import RasterHeader, read_header
from catalog.scene import Encoding
from catalog.sensors import Geolocation

_POLARISATION = re.compile(r"(?:^|[_-])(HH|HV|VH|VV)(?:[_.-]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class ExpectedGrid:
    """Where the product's metadata says the pixels of a file lie; None where it does not say."""

    shape: tuple[int, int]
    """Rows, columns."""
    crs: str | None = None
    """As in EPSG:32632; None for an image in radar geometry, or where only the file knows."""
    transform: tuple[float, ...] | None = None
    """Affine a, b, c, d, e, f; None for an image in radar geometry, or where only the file knows."""


@dataclass(frozen=True)
class ProductFile:
    """One raster file of a product."""

    key: str
    """Asset key."""
    path: Path
    """The file."""
    bands: tuple[str, ...] = ()
    """Names of its raster bands in order; empty for a quality layer."""
    expected: ExpectedGrid | None = None
    """What the metadata says of its grid."""
    nodata: float | None = None
    """Overrides the file's own, and the sensor's."""
    layers: int = 1
    """Raster bands of a quality layer, as the eight of UDM2."""
    complex_pair: bool = False
    """True where two raster bands are one complex band."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """Band to raster:scale."""
    offset: Mapping[str, float] = field(default_factory=dict)
    """Band to raster:offset."""
    gsd_m: float | None = None
    """Ground sampling distance; the sensor row's where None."""
    inside: str = ""
    """GDAL's name of a raster inside the file, {path} standing for its path; empty where the file is the raster."""
    header: RasterHeader | None = None
    """The file's header where recognising the folder read it already."""

    @property
    def raster(self) -> str:
        """What GDAL opens: the file, or the raster inside it."""
        return (self.inside or "{path}").replace("{path}", str(self.path))


@dataclass(frozen=True)
class Product:
    """One item to be."""

    id: str
    """Item id."""
    sensor: str
    """Row of catalog.sensors."""
    level: str
    """processing:level."""
    platform: str
    """STAC platform name."""
    instruments: tuple[str, ...]
    """STAC instrument names."""
    start: datetime
    """UTC."""
    stop: datetime
    """UTC; equal to start for an instant."""
    files: tuple[ProductFile, ...]
    """Bands and quality layers."""
    metadata: Mapping[str, Path]
    """Role to metadata file."""
    geolocation: Geolocation
    """How a pixel finds its place."""
    encoding: Encoding
    """What the stored numbers are."""
    footprint_lonlat: tuple[tuple[float, float], ...] = ()
    """Open ring in degrees; taken from the rasters where empty."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Further STAC properties, in the words of their extensions."""


def by_polarisation(folder: Path) -> dict[str, Path]:
    """Polarisation to the TIFF of a folder that is named after it."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff")):
        if match := _POLARISATION.search(path.stem):
            found.setdefault(match[1].upper(), path)
    return found


def checked_header(path: Path | str, pixels: Literal["complex", "real"]) -> RasterHeader:
    """The header of a raster whose pixels are complex, or real.

    Raises
    ------
    AssetError
        Naming the file and the type its pixels have.
    """
    header = read_header(str(path))
    if header.dtype.startswith("complex") != (pixels == "complex"):
        raise AssetError(
            f"the pixels of a file are {header.dtype}, its product says {pixels} ones",
            item=str(path),
            enough=f"a raster of {pixels} numbers",
            todo="fetch the file again, at the level that its metadata names",
        )
    return header
