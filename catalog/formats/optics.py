"""What optical formats check alike: counts of the type the product has, and a sun above the horizon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from catalog.errors import AssetError, CalibrationError
from catalog.metadata.raster import RasterHeader, read_header


def counts(path: Path, dtypes: tuple[str, ...] = ("uint16",)) -> RasterHeader:
    """The header of an image whose pixels are counts of a type the product may have.

    Raises
    ------
    AssetError
        The file is missing, no raster, or of another type, as pictures stretched to 8 bits are.
    """
    header = read_header(str(path))
    if header.dtype not in dtypes:
        raise AssetError(
            f"a file holds pixels of type {header.dtype}",
            item=str(path),
            enough=f"{' or '.join(dtypes)}, as the product was delivered",
            todo="fetch the analytic product; a stretched picture cannot be calibrated",
        )
    return header


def sun_up(path: Path, field: str, elevation_deg: float) -> float:
    """The sun's elevation, refused unless it stands above the horizon.

    Raises
    ------
    CalibrationError
        Naming the file and the field.
    """
    if not 0 < elevation_deg <= 90:
        raise CalibrationError(
            f"the sun stands {elevation_deg:g} degrees above the horizon, which gives no reflectance",
            item=f"{path}: {field}",
            enough="above 0 and at most 90 degrees",
            todo="look at the product's sun angles; a night scene has no reflectance",
        )
    return elevation_deg


def complete(path: Path, field: str, bands: list[str], values: Mapping[str, float]) -> dict[str, float]:
    """The value of every band, refused where one is missing.

    Raises
    ------
    CalibrationError
        Naming the file, the field and the bands.
    """
    missing = [b for b in bands if b not in values]
    if missing:
        raise CalibrationError(
            f"{field} is missing for {', '.join(missing)}",
            item=str(path),
            enough=f"{field} of every band",
            todo="fetch the product's metadata file again",
        )
    return {b: values[b] for b in bands}
