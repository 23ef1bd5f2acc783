"""CBERS-4A scene XML (WPM, MUX and WFI): camera, time, sun, size and the absolute calibration of every band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from catalog.metadata.xml import XmlNode, finite, read_xml, refuse

CAMERAS: Mapping[str, tuple[str, ...]] = {
    "WPM": ("1", "2", "3", "4"),
    "MUX": ("5", "6", "7", "8"),
    "WFI": ("13", "14", "15", "16"),
}
"""Camera to its numbers for blue, green, red and near infrared; WPM's band 0 is panchromatic."""
_AGREES_DEG = 1.0
"""How far sunPosition and sunIncidenceAngle may lie apart; in real files up to 0.4."""


@dataclass(frozen=True)
class CbersScene:
    """What the XML beside a band says."""

    path: Path
    """The file."""
    camera: str
    """WPM, MUX or WFI."""
    level: str
    """2 or 4, the geometric level."""
    acquired: datetime
    """Centre of the scene, UTC."""
    sun_elevation_deg: float
    """At the centre of the scene."""
    sun_azimuth_deg: float
    """At the centre of the scene, clockwise from north."""
    rows: int
    """Lines of the image."""
    columns: int
    """Pixels in a line."""
    pixel_m: float
    """Side of a pixel."""
    gain: Mapping[str, float]
    """Band number to W m-2 sr-1 um-1 per digital number; empty where the file has no coefficients."""


def read_scene(path: Path) -> CbersScene:
    """Parse the XML beside a band's image. A wide scene of two cameras holds most fields twice.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong, or contradicts another.
    """
    root = read_xml(path, "prdf")
    sides = [n for n in root.children("leftCamera") + root.children("rightCamera") if n.children("image")] or [root]
    first = sides[0]
    if first.text("satellite/number").upper() != "4A":
        raise refuse(path, "satellite/number", f"is {first.text('satellite/number')}", "4A")
    camera = first.text("satellite/instrument").upper()
    if camera not in CAMERAS:
        raise refuse(path, "satellite/instrument", f"is {camera}", f"one of {', '.join(CAMERAS)}")
    elevation = first.number("image/sunPosition/elevation")
    _check_sun(first, elevation)
    return CbersScene(
        path=path,
        camera=camera,
        level=first.text("image/level"),
        acquired=first.time("image/timeStamp/center"),
        sun_elevation_deg=elevation,
        sun_azimuth_deg=first.number("image/sunPosition/sunAzimuth") % 360.0,
        rows=first.integer("image/lines"),
        columns=first.integer("image/columns"),
        pixel_m=first.number("image/horizontalPixelSize"),
        gain=_gains(path, sides),
    )


def _check_sun(node: XmlNode, elevation_deg: float) -> None:
    """sunIncidenceAngle, the zenith angle in degrees, minutes and seconds, against the elevation."""
    if not node.children("sunIncidenceAngle"):
        return
    parts = [node.number(f"sunIncidenceAngle/{p}") for p in ("degree", "minute", "second")]
    zenith = parts[0] + parts[1] / 60 + parts[2] / 3600
    if abs(90.0 - zenith - elevation_deg) > _AGREES_DEG:
        raise refuse(
            node.path,
            "sunPosition/elevation",
            f"is {elevation_deg:g} degrees, while sunIncidenceAngle is {zenith:.2f} from the zenith",
            "two angles that make 90 degrees",
        )


def _gains(path: Path, sides: list[XmlNode]) -> dict[str, float]:
    """Coefficients by band; two cameras' must agree, since one image holds both."""
    found: dict[str, float] = {}
    for side in sides:
        for band in side.children("image/absoluteCalibrationCoefficient/band"):
            name = band.element.get("name") or ""
            field = f"absoluteCalibrationCoefficient of band {name}"
            value = finite(path, field, (band.element.text or "").strip())
            if value <= 0:
                raise refuse(path, field, f"is {value:g}", "a number above 0")
            if abs(found.setdefault(name, value) - value) > 1e-9:
                raise refuse(path, field, f"is {found[name]:g} of one camera and {value:g} of the other", "one number")
    return found
