"""Gaofen-1 and Gaofen-2 scene XML (PMS and WFV cameras): camera, time, sun, size and corners."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import acos, asin, atan2, cos, degrees, radians, sin
from pathlib import Path

from catalog.metadata.xml import XmlNode, read_xml, refuse

_PLATFORMS = {"GF1": "gaofen-1", "GF2": "gaofen-2"}
_CLOCKS = {"Beijing time": timedelta(hours=8), "UTC": timedelta(0)}
"""What CenterTime may be told in, the usual one first."""
_AGREES_DEG = 1.0
"""How far SolarZenith may lie from where the sun stood over the scene's centre; of four real files at most 0.02."""
_CORNERS = ("TopLeft", "TopRight", "BottomRight", "BottomLeft")


@dataclass(frozen=True)
class GaofenScene:
    """What a scene's XML says."""

    path: Path
    """The file."""
    camera: str
    """Satellite and camera, as in GF2 PMS1: a row of the coefficient table."""
    platform: str
    """STAC platform name, as in gaofen-2."""
    level: str
    """As in L1A."""
    acquired: datetime
    """Centre of the scene, UTC."""
    clock: str
    """What CenterTime is told in, by the sun: Beijing time or UTC."""
    sun_zenith_deg: float
    """At the centre of the scene."""
    sun_azimuth_deg: float
    """At the centre of the scene, clockwise from north."""
    rows: int
    """Lines of the image."""
    columns: int
    """Pixels in a line."""
    gsd_m: float
    """Ground sampling distance."""
    cloud_cover: float | None
    """Per cent; None where nobody looked (the file says 101 then)."""
    corners_lonlat: tuple[tuple[float, float], ...]
    """Upper left, upper right, lower right, lower left, in degrees."""


def read_scene(path: Path) -> GaofenScene:
    """Parse the XML beside a multispectral image.

    CenterTime is Beijing time in most products and UTC in some, and nothing in the file says which: the sun does.
    The clock is the one for which SolarZenith is where the sun stood over the scene's centre.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong, or contradicts the others.
    """
    node = read_xml(path, "ProductMetaData")
    satellite, camera = node.text("SatelliteID").upper(), node.text("SensorID").upper()
    if satellite not in _PLATFORMS:
        raise refuse(path, "SatelliteID", f"is {satellite}", f"one of {', '.join(_PLATFORMS)}")
    if len(node.text("Bands").split(",")) != 4:
        raise refuse(path, "Bands", f"are {node.text('Bands')}", "the four bands of the multispectral image")
    level = node.text("ProductLevel").upper().replace("LEVEL", "L")
    corners = tuple((node.number(f"{c}Longitude"), node.number(f"{c}Latitude")) for c in _CORNERS)
    zenith = node.number("SolarZenith")
    acquired, clock = _clock(node, corners, zenith)
    cloud = node.optional(node.number, "CloudPercent")
    return GaofenScene(
        path=path,
        camera=f"{satellite} {camera}",
        platform=_PLATFORMS[satellite],
        level=level,
        acquired=acquired,
        clock=clock,
        sun_zenith_deg=zenith,
        sun_azimuth_deg=node.number("SolarAzimuth") % 360.0,
        rows=node.integer("HeightInPixels"),
        columns=node.integer("WidthInPixels"),
        gsd_m=node.number("ImageGSD"),
        cloud_cover=cloud if cloud is not None and 0 <= cloud <= 100 else None,
        corners_lonlat=corners,
    )


def sun_zenith_deg(when: datetime, longitude: float, latitude: float) -> float:
    """Angle of the sun from the zenith, to about 0.1 degrees.

    Source: U.S. Naval Observatory, Approximate Solar Coordinates, and its mean sidereal time.

    Parameters
    ----------
    when
        UTC.
    longitude, latitude
        Degrees east and north.
    """
    days = (when - datetime(2000, 1, 1, 12, tzinfo=UTC)).total_seconds() / 86_400
    anomaly = radians(357.529 + 0.98560028 * days)
    longitude_sun = radians(280.459 + 0.98564736 * days + 1.915 * sin(anomaly) + 0.020 * sin(2 * anomaly))
    tilt = radians(23.439 - 0.00000036 * days)
    ascension = atan2(cos(tilt) * sin(longitude_sun), cos(longitude_sun))
    declination = asin(sin(tilt) * sin(longitude_sun))
    hour_angle = radians(15 * (18.697374558 + 24.06570982441908 * days) + longitude) - ascension
    height = sin(radians(latitude)) * sin(declination) + cos(radians(latitude)) * cos(declination) * cos(hour_angle)
    return degrees(acos(max(-1.0, min(1.0, height))))


def _clock(node: XmlNode, corners: tuple[tuple[float, float], ...], zenith_deg: float) -> tuple[datetime, str]:
    longitude, latitude = (sum(c[k] for c in corners) / 4 for k in (0, 1))
    told = node.time("CenterTime")
    stood = {name: sun_zenith_deg(told - ahead, longitude, latitude) for name, ahead in _CLOCKS.items()}
    for name, angle in stood.items():
        if abs(angle - zenith_deg) <= _AGREES_DEG:
            return told - _CLOCKS[name], name
    angles = " or ".join(f"{angle:.1f} were CenterTime {name}" for name, angle in stood.items())
    raise refuse(
        node.path,
        "SolarZenith",
        f"is {zenith_deg:g} degrees, while over the scene's corners the sun stood at {angles}",
        "an angle from the zenith that CenterTime and the corners bear out",
    )
