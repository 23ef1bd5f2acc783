"""ALOS-2 PALSAR-2 summary.txt, the calibration factor of a CEOS leader file, and the names of yearly mosaic tiles."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from catalog.metadata.xml import finite, refuse

LEVELS = ("1.1", "1.5", "2.1", "3.1")
_PRODUCT_ID = re.compile(r"([A-Z]{3})([LR])(\d\.\d)([RG_])([PULM_])([AD])")
"""Mode, side the antenna looks to, level, option, projection, direction of flight; as in FBDR1.5RUD."""
_MOSAIC = re.compile(r"([NS]\d{2}[EW]\d{3})_(\d{2})(?:_sl)?_(HH|HV|VH|VV)(?:_F02DA?R?)?", re.IGNORECASE)
_CORNERS = ("LeftTop", "RightTop", "RightBottom", "LeftBottom")
_RADIOMETRIC = bytes((18, 50, 18, 20))
"""Record type of a CEOS leader's radiometric data record."""


@dataclass(frozen=True)
class Palsar2Summary:
    """What a summary.txt says."""

    path: Path
    """The file."""
    scene_id: str
    """As in ALOS2049273700-150422."""
    product_id: str
    """As in FBDR1.5RUD."""
    level: str
    """1.1, 1.5, 2.1 or 3.1."""
    mode: str
    """As in FBD."""
    look: str
    """left or right."""
    orbit_state: str
    """ascending or descending."""
    start: datetime
    """UTC."""
    stop: datetime
    """UTC."""
    lines: int | None
    """Rows of the image; None where the file does not say."""
    samples: int | None
    """Columns of the image; None where the file does not say."""
    spacing_m: float | None
    """Pixel spacing; None where the file does not say."""
    corners_lonlat: tuple[tuple[float, float], ...]
    """Left top, right top, right bottom, left bottom, in degrees."""


@dataclass(frozen=True)
class MosaicTile:
    """What the name of a file of the yearly mosaic says."""

    tile: str
    """North-west corner, as in N01E100."""
    year: int
    """Of its passes."""
    polarisation: str
    """HH, HV, VH or VV."""


def read_summary(path: Path) -> Palsar2Summary:
    """Parse a summary.txt: lines of key="value".

    Raises
    ------
    MetadataError
        Naming the file and the field: missing, another satellite, a level that contradicts the product id.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})") from None
    fields = {k.strip(): v.strip() for k, v in re.findall(r'^\s*(\w+)\s*=\s*"?([^"\r\n]*)"?', text, re.MULTILINE)}
    satellite, level = _text(path, fields, "Lbi_Satellite"), _text(path, fields, "Lbi_ProcessLevel")
    if satellite.upper() != "ALOS2":
        raise refuse(path, "Lbi_Satellite", f"is {satellite}", "ALOS2")
    if level not in LEVELS:
        raise refuse(path, "Lbi_ProcessLevel", f"is {level}", f"one of {', '.join(LEVELS)}")
    product_id = _text(path, fields, "Pds_ProductID")
    parts = _PRODUCT_ID.match(product_id)
    if parts is None or parts[3] != level:
        raise refuse(path, "Pds_ProductID", f"{product_id} is no product of level {level}", "as in FBDR1.5RUD")
    return Palsar2Summary(
        path=path,
        scene_id=_text(path, fields, "Scs_SceneID"),
        product_id=product_id,
        level=level,
        mode=parts[1],
        look="left" if parts[2] == "L" else "right",
        orbit_state="ascending" if parts[6] == "A" else "descending",
        start=_time(path, fields, "Img_SceneStartDateTime"),
        stop=_time(path, fields, "Img_SceneEndDateTime"),
        lines=_count(path, fields, "Pdi_NoOfLines_0"),
        samples=_count(path, fields, "Pdi_NoOfPixels_0"),
        spacing_m=_spacing(path, fields),
        corners_lonlat=tuple(
            (
                _number(path, fields, f"Img_ImageScene{corner}Longitude"),
                _number(path, fields, f"Img_ImageScene{corner}Latitude"),
            )
            for corner in _CORNERS
        ),
    )


def calibration_factor_db(path: Path) -> float:
    """The calibration factor of a CEOS leader file, dB: 16 characters at byte 20 of its radiometric data record.

    Source: JAXA, ALOS-2/PALSAR-2 Level 1.1/1.5/2.1/3.1 CEOS SAR Product Format Description, leader file.

    Raises
    ------
    MetadataError
        When the file is cut off, is no leader, or its factor is no finite number.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})") from None
    place = 0
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place + 8 : place + 12])
        if length < 12:
            break
        if data[place + 4 : place + 8] == _RADIOMETRIC and place + 36 <= len(data):
            text = data[place + 20 : place + 36].decode("ascii", errors="replace").strip()
            return finite(path, "radiometric data record, calibration factor", text)
        place += length
    raise refuse(path, "radiometric data record", "is missing, or the leader file is cut off", "a whole LED file")


def read_mosaic_name(path: Path) -> MosaicTile | None:
    """What the name of a mosaic file says; None for another name."""
    match = _MOSAIC.match(path.stem)
    return None if match is None else MosaicTile(match[1].upper(), 2000 + int(match[2]), match[3].upper())


def _text(path: Path, fields: Mapping[str, str], field: str) -> str:
    if not fields.get(field):
        raise refuse(path, field, "is missing or empty")
    return fields[field]


def _number(path: Path, fields: Mapping[str, str], field: str) -> float:
    return finite(path, field, _text(path, fields, field))


def _count(path: Path, fields: Mapping[str, str], field: str) -> int | None:
    if not fields.get(field):
        return None
    number = finite(path, field, fields[field])
    if number != int(number) or number < 1:
        raise refuse(path, field, f"{fields[field]} is no number of pixels")
    return int(number)


def _spacing(path: Path, fields: Mapping[str, str]) -> float | None:
    return _number(path, fields, "Pds_PixelSpacing") if fields.get("Pds_PixelSpacing") else None


def _time(path: Path, fields: Mapping[str, str], field: str) -> datetime:
    text = _text(path, fields, field)
    try:
        return datetime.strptime(text, "%Y%m%d %H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError:
        raise refuse(path, field, f"{text!r} is no time", "a time as in 20150422 09:02:31.377") from None
