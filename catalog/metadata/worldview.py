"""WorldView and QuickBird IMD, as text or XML: calibration factor and bandwidth per band, sun, time, projection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.metadata.xml import XmlNode, finite, read_xml, refuse, utc

_PLATFORMS = {
    "WV01": "worldview-1",
    "WV02": "worldview-2",
    "WV03": "worldview-3",
    "GE01": "geoeye-1",
    "QB02": "quickbird-2",
}
_CORNERS = ("UL", "UR", "LR", "LL")

ADJUSTMENT_SOURCE = "Absolute Radiometric Calibration: 2016v0, ABSRADCAL_FLEET_2016v0_Rel20170606.pdf"
"""The vendor's note: L = GAIN DN absCalFactor / effectiveBandwidth + OFFSET, adjusted over calibration sites."""

ADJUSTMENT: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "worldview-2": {
        "C": (1.151, -7.478),
        "B": (0.988, -5.736),
        "G": (0.936, -3.546),
        "Y": (0.949, -3.564),
        "R": (0.952, -2.512),
        "RE": (0.974, -4.120),
        "N": (0.961, -3.300),
        "N2": (1.002, -2.891),
    },
    "worldview-3": {
        "C": (0.905, -8.604),
        "B": (0.940, -5.809),
        "G": (0.938, -4.996),
        "Y": (0.962, -3.649),
        "R": (0.964, -3.021),
        "RE": (1.000, -4.521),
        "N": (0.961, -5.522),
        "N2": (0.978, -2.992),
    },
}
"""Platform to band to GAIN and OFFSET (W m-2 sr-1 um-1) of that note."""


@dataclass(frozen=True)
class WorldViewBand:
    """One BAND_ group; radiance = gain * DN * absCalFactor / effectiveBandwidth + offset."""

    name: str
    """Without BAND_, as in B, G, R, N."""
    abs_cal_factor: float
    """W m-2 sr-1 per digital number."""
    effective_bandwidth_um: float
    """In micrometres."""
    corners_lonlat: tuple[tuple[float, float], ...]
    """Upper left, upper right, lower right, lower left, in degrees."""


@dataclass(frozen=True)
class WorldViewMetadata:
    """What an IMD says."""

    path: Path
    """The file."""
    platform: str
    """STAC platform name, as in worldview-3."""
    level: str
    """productLevel, as in LV2A."""
    band_id: str
    """What the bands are together, as in Multi or RGB."""
    bands: tuple[WorldViewBand, ...]
    """In the order of the image's raster bands."""
    acquired: datetime
    """First line, UTC."""
    sun_elevation_deg: float
    """Mean over the image."""
    sun_azimuth_deg: float
    """Mean over the image, clockwise from north."""
    off_nadir_deg: float | None
    """Mean off-nadir view angle."""
    cloud_cover: float | None
    """Per cent."""
    rows: int
    """Lines of the image."""
    columns: int
    """Pixels in a line."""
    crs: str | None
    """UTM, from mapProjName, mapZone and mapHemi; None where the product is not map-projected."""
    gsd_m: float | None
    """productGSD, else the mean collected GSD."""


def read_imd(path: Path) -> WorldViewMetadata:
    """Parse an IMD: the text file, or the .XML of a delivery, which holds the same fields in capitals.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    tree = _tree(path)
    image = next((v for k, v in tree.items() if re.fullmatch(r"IMAGE(_\d+)?", k)), None)
    bands = {k.removeprefix("BAND_"): v for k, v in tree.items() if k.startswith("BAND_") and isinstance(v, Mapping)}
    if not isinstance(image, Mapping) or not bands:
        raise refuse(path, "BAND_ and IMAGE_ groups", "are missing", "one IMAGE_ group and a BAND_ group per band")
    satellite = _text(path, image, "satId")
    if satellite not in _PLATFORMS:
        raise refuse(path, "satId", f"is {satellite}", f"one of {', '.join(_PLATFORMS)}")
    projected = tree.get("MAP_PROJECTED_PRODUCT") or {}
    cloud = _maybe(path, image, "cloudCover")
    return WorldViewMetadata(
        path=path,
        platform=_PLATFORMS[satellite],
        level=_text(path, tree, "productLevel"),
        band_id=_text(path, tree, "bandId"),
        bands=tuple(_band(path, name, group) for name, group in bands.items()),
        acquired=_time(path, image, projected),
        sun_elevation_deg=_number(path, image, "meanSunEl"),
        sun_azimuth_deg=_number(path, image, "meanSunAz"),
        off_nadir_deg=_maybe(path, image, "meanOffNadirViewAngle"),
        cloud_cover=None if cloud is None or cloud < 0 else 100.0 * cloud,
        rows=int(_number(path, tree, "numRows")),
        columns=int(_number(path, tree, "numColumns")),
        crs=_crs(path, projected),
        gsd_m=_maybe(path, projected, "productGSD") or _maybe(path, image, "meanCollectedGSD"),
    )


def _text(path: Path, group: Mapping[str, Any], field: str) -> str:
    text = group.get(field.upper())
    if not isinstance(text, str) or not text:
        raise refuse(path, field, "is missing or empty")
    return text


def _number(path: Path, group: Mapping[str, Any], field: str) -> float:
    return finite(path, field, _text(path, group, field))


def _maybe(path: Path, group: Mapping[str, Any], field: str) -> float | None:
    return _number(path, group, field) if field.upper() in group else None


def _band(path: Path, name: str, group: Mapping[str, Any]) -> WorldViewBand:
    factor, width = _number(path, group, "absCalFactor"), _number(path, group, "effectiveBandwidth")
    if factor <= 0 or width <= 0:
        raise refuse(path, f"BAND_{name}", f"absCalFactor {factor} over effectiveBandwidth {width} is no gain")
    corners = tuple((_number(path, group, f"{c}Lon"), _number(path, group, f"{c}Lat")) for c in _CORNERS)
    return WorldViewBand(name, factor, width, corners)


def _time(path: Path, image: Mapping[str, Any], projected: Mapping[str, Any]) -> datetime:
    for group, field in ((image, "firstLineTime"), (projected, "earliestAcqTime")):
        if field.upper() in group:
            return utc(path, field, re.sub(r"(\.\d{6})\d+", r"\1", _text(path, group, field)))
    raise refuse(path, "firstLineTime", "is missing")


def _crs(path: Path, projected: Mapping[str, Any]) -> str | None:
    if "MAPPROJNAME" not in projected:
        return None
    name, zone = _text(path, projected, "mapProjName"), int(_number(path, projected, "mapZone"))
    if name != "UTM":
        raise refuse(path, "mapProjName", f"is {name}", "UTM")
    return f"EPSG:{(32700 if _text(path, projected, 'mapHemi').upper() == 'S' else 32600) + zone}"


def _tree(path: Path) -> dict[str, Any]:
    """Field to value and group to fields, names in capitals."""
    if path.suffix.upper() == ".XML":
        return _fields(read_xml(path, "isd").node("IMD"))
    return _pvl(path)


def _fields(node: XmlNode) -> dict[str, Any]:
    children = [XmlNode(node.path, child) for child in node.element]
    return {c.tag.upper(): _fields(c) if len(c.element) else (c.element.text or "").strip() for c in children}


def _pvl(path: Path) -> dict[str, Any]:
    """`name = value;`, lists in brackets over several lines, and BEGIN_GROUP = NAME ... END_GROUP = NAME."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})", "a readable IMD file") from None
    root: dict[str, Any] = {}
    group = root
    for key, value in re.findall(r"^\s*(\w+)\s*=\s*(\([^)]*\)|[^;\n]*)", text, flags=re.MULTILINE):
        if key == "BEGIN_GROUP":
            group = root.setdefault(value.strip().upper(), {})
        elif key == "END_GROUP":
            group = root
        else:
            group[key.upper()] = value.strip().strip('"')
    if group is not root or not re.search(r"^\s*END\s*;", text, flags=re.MULTILINE):
        raise refuse(path, "END", "is missing: the file is cut off", "a whole IMD file")
    return root
