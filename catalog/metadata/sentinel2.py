"""Sentinel-2 product and tile XML: level, baseline, quantification, offsets per band and where each came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from catalog.errors import MetadataError
from catalog.metadata.xml import XmlNode, read_xml, refuse

BAND_NAMES = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Band names by `band_id`, from 0 to 12."""

OFFSET_BASELINE = (4, 0)
"""The processing baseline that introduced the radiometric offset; a date tells nothing, old scenes are reprocessed."""

OFFSET_DN = -1000.0
"""What every product from then on lists for every band, so far (github.com/stactools-packages/sentinel2 #44)."""

LAST_KNOWN_MAJOR = 5
"""Baselines from 06.00 on are not known to keep the offset."""

QUANTIFICATION = 10_000.0
"""Digital numbers per unit of reflectance, the same in every baseline."""


@dataclass(frozen=True)
class TileGrid:
    """Where the pixels of one resolution lie."""

    rows: int
    """Number of lines."""
    cols: int
    """Number of pixels in a line."""
    ulx_m: float
    """Easting of the outer corner of the upper left pixel."""
    uly_m: float
    """Northing of the outer corner of the upper left pixel."""
    xdim_m: float
    """Step to the next column."""
    ydim_m: float
    """Step to the next line, negative."""

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine a, b, c, d, e, f from (column, line) to (easting, northing)."""
        return (self.xdim_m, 0.0, self.ulx_m, 0.0, self.ydim_m, self.uly_m)


@dataclass(frozen=True)
class TileMetadata:
    """MTD_TL.xml of a SAFE, or metadata.xml of the AWS layout."""

    path: Path
    """The file."""
    tile_id: str
    """Whole tile identifier, as in S2B_OPER_MSI_L1C_TL_EPAE_..._T55JGF_N02.06."""
    mgrs: str
    """Square of the tiling grid, as in 55JGF."""
    platform: str
    """STAC platform name, as in sentinel-2b."""
    level: str
    """L1C or L2A."""
    baseline: str
    """Processing baseline, as in 02.06."""
    sensing_time: datetime
    """UTC."""
    crs: str
    """As in EPSG:32755."""
    grids: Mapping[int, TileGrid]
    """Resolution in metres to the grid of its bands."""
    sun_zenith_deg: float
    """Mean over the tile."""
    sun_azimuth_deg: float
    """Mean over the tile, clockwise from north."""
    cloud_cover: float | None
    """Per cent; None where the file says nothing."""


@dataclass(frozen=True)
class ProductMetadata:
    """MTD_MSIL1C.xml or MTD_MSIL2A.xml."""

    path: Path
    """The file."""
    product_id: str
    """Name of the SAFE without its ending."""
    platform: str
    """STAC platform name, as in sentinel-2a."""
    level: str
    """L1C or L2A."""
    baseline: str
    """Processing baseline, as in 05.09."""
    sensing_time: datetime
    """Start of the acquisition, UTC."""
    quantification: float
    """Digital numbers per unit of reflectance."""
    offsets: Mapping[str, float] | None
    """Band name to the number to add to DN before dividing; None where the file lists none."""
    cloud_cover: float | None
    """Per cent."""
    relative_orbit: int
    """1 to 143."""
    orbit_state: str
    """ascending or descending."""
    images: tuple[str, ...]
    """Image files from the product's root, without their ending."""


@dataclass(frozen=True)
class Radiometry:
    """What turns digital numbers into reflectance: rho = (DN + offset) / quantification."""

    quantification: float
    """Digital numbers per unit of reflectance."""
    offsets: Mapping[str, float]
    """Band name to offset in digital numbers."""
    source: str
    """The field or rule that the offsets came from."""


def read_product(path: Path) -> ProductMetadata:
    """Parse a product XML.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    root = read_xml(path)
    levels = {"Level-1C_User_Product": "L1C", "Level-2A_User_Product": "L2A"}
    if root.tag not in levels:
        raise refuse(path, "the root element", f"is {root.tag}", " or ".join(levels))
    level = levels[root.tag]
    info = root.node("General_Info/Product_Info")
    image = root.node("General_Info/Product_Image_Characteristics")
    kind, field = ("BOA", "QUANTIFICATION_VALUES_LIST/BOA_QUANTIFICATION_VALUE")
    if level == "L1C":
        kind, field = ("RADIO", "QUANTIFICATION_VALUE")
    quantification = image.number(field)
    if quantification <= 0:
        raise refuse(path, field, f"{quantification} divides nothing", "a number above 0")
    return ProductMetadata(
        path=path,
        product_id=info.text("PRODUCT_URI").removesuffix(".SAFE"),
        platform=info.text("Datatake/SPACECRAFT_NAME").lower(),
        level=level,
        baseline=_baseline(path, "PROCESSING_BASELINE", info.text("PROCESSING_BASELINE")),
        sensing_time=info.time("PRODUCT_START_TIME"),
        quantification=quantification,
        offsets=_offsets(image, kind),
        cloud_cover=root.optional(root.number, "Quality_Indicators_Info/Cloud_Coverage_Assessment"),
        relative_orbit=info.integer("Datatake/SENSING_ORBIT_NUMBER"),
        orbit_state=info.text("Datatake/SENSING_ORBIT_DIRECTION").lower(),
        images=tuple((n.element.text or "").strip() for n in info.descendants("IMAGE_FILE")),
    )


def read_tile(path: Path) -> TileMetadata:
    """Parse a tile XML.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    root = read_xml(path)
    levels = {"Level-1C_Tile_ID": "L1C", "Level-2A_Tile_ID": "L2A"}
    if root.tag not in levels:
        raise refuse(path, "the root element", f"is {root.tag}", " or ".join(levels))
    tile_id = root.text("General_Info/TILE_ID")
    named = re.fullmatch(r"(S2[A-Z])_.*_T(\d{2}[A-Z]{3})_N(\d{2}\.\d{2})", tile_id)
    if named is None:
        raise refuse(path, "TILE_ID", f"{tile_id!r} names no platform, tile and baseline")
    geocoding = root.node("Geometric_Info/Tile_Geocoding")
    sun = root.node("Geometric_Info/Tile_Angles/Mean_Sun_Angle")
    quality = "Quality_Indicators_Info/Image_Content_QI/CLOUDY_PIXEL_PERCENTAGE"
    return TileMetadata(
        path=path,
        tile_id=tile_id,
        mgrs=named[2],
        platform=f"sentinel-{named[1][1:].lower()}",
        level=levels[root.tag],
        baseline=_baseline(path, "TILE_ID", named[3]),
        sensing_time=root.time("General_Info/SENSING_TIME"),
        crs=geocoding.text("HORIZONTAL_CS_CODE"),
        grids=_grids(geocoding),
        sun_zenith_deg=sun.number("ZENITH_ANGLE"),
        sun_azimuth_deg=sun.number("AZIMUTH_ANGLE"),
        cloud_cover=root.optional(root.number, quality),
    )


def radiometry(product: ProductMetadata | None, tile: TileMetadata | None) -> Radiometry:
    """The offsets of a scene, from the product XML where there is one, else from the baseline the tile XML names.

    Raises
    ------
    MetadataError
        Where baseline 04.00 or later asks for an offset and the product XML lists none; a baseline not yet known.
    """
    if product is not None and product.offsets is not None:
        tag = "RADIO_ADD_OFFSET" if product.level == "L1C" else "BOA_ADD_OFFSET"
        return Radiometry(product.quantification, product.offsets, f"{tag} of {product.path.name}")
    known = product or tile
    if known is None:
        raise MetadataError("no metadata file says which offset applies", enough="the product XML or the tile XML")
    later = _version(known.baseline) >= OFFSET_BASELINE
    if later and product is None and _version(known.baseline)[0] <= LAST_KNOWN_MAJOR:
        return Radiometry(QUANTIFICATION, dict.fromkeys(BAND_NAMES, OFFSET_DN), f"baseline {known.baseline}")
    if later:
        field = "BOA_ADD_OFFSET" if known.level == "L2A" else "RADIO_ADD_OFFSET"
        problem = f"is listed nowhere though baseline {known.baseline} applies one"
        raise refuse(known.path, field, problem, f"the product XML (MTD_MSI{known.level}.xml) with its {field} list")
    quantification = product.quantification if product else QUANTIFICATION
    return Radiometry(quantification, dict.fromkeys(BAND_NAMES, 0.0), f"baseline {known.baseline}")


def _version(baseline: str) -> tuple[int, int]:
    major, minor = baseline.split(".")
    return int(major), int(minor)


def _baseline(path: Path, field: str, text: str) -> str:
    if not re.fullmatch(r"\d{2}\.\d{2}", text):
        raise refuse(path, field, f"{text!r} is no processing baseline", "a baseline as in 05.09")
    return text


def _offsets(image: XmlNode, kind: str) -> dict[str, float] | None:
    """Band name to offset; the list's name differs: BOA_ADD_OFFSET_VALUES_LIST, Radiometric_Offset_List."""
    tag = f"{kind}_ADD_OFFSET"
    offsets: dict[str, float] = {}
    for node in image.descendants(tag):
        text = node.element.get("band_id") or ""
        if not text.isdigit() or int(text) >= len(BAND_NAMES):
            raise refuse(image.path, f"{tag} band_id", f"{text!r} is no band", f"0 to {len(BAND_NAMES) - 1}")
        try:
            offsets[BAND_NAMES[int(text)]] = float(node.element.text or "")
        except ValueError:
            raise refuse(image.path, tag, f"{node.element.text!r} is no number") from None
    if not offsets:
        return None
    absent = [b for b in BAND_NAMES if b not in offsets and not (kind == "BOA" and b == "B10")]
    if absent:
        raise refuse(image.path, tag, f"is missing for {', '.join(absent)}", "one offset per band")
    return offsets


def _grids(geocoding: XmlNode) -> dict[int, TileGrid]:
    sizes = {n.element.get("resolution"): n for n in geocoding.children("Size")}
    places = {n.element.get("resolution"): n for n in geocoding.children("Geoposition")}
    grids = {
        int(resolution): TileGrid(
            rows=sizes[resolution].integer("NROWS"),
            cols=sizes[resolution].integer("NCOLS"),
            ulx_m=place.number("ULX"),
            uly_m=place.number("ULY"),
            xdim_m=place.number("XDIM"),
            ydim_m=place.number("YDIM"),
        )
        for resolution, place in places.items()
        if resolution and resolution in sizes
    }
    if not grids:
        raise refuse(geocoding.path, "Geoposition", "is missing", "Size and Geoposition per resolution")
    return grids
