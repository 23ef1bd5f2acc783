"""PlanetScope metadata XML, item JSON and RPC text: coefficients per band, sun, time, grid."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rasterio.rpc import RPC

from catalog.metadata.xml import XmlNode, finite, read_xml, refuse, utc

_CORNERS = ("topLeft", "topRight", "bottomRight", "bottomLeft")
_RPC_OFFSETS = ("LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF")
_RPC_POLYNOMIALS = ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN")


@dataclass(frozen=True)
class PlanetMetadata:
    """What the XML or the JSON of a scene says; what a JSON does not say is None or empty."""

    path: Path
    """The file."""
    satellite: str
    """Serial, as in 0c74."""
    instrument: str
    """PS2, PS2.SD or PSB.SD, lower case."""
    acquired: datetime
    """UTC."""
    sun_elevation_deg: float
    """At the centre of the scene."""
    sun_azimuth_deg: float
    """At the centre of the scene, clockwise from north."""
    cloud_cover: float | None
    """Per cent."""
    level: str | None = None
    """L3B or L1B."""
    shape: tuple[int, int] | None = None
    """Rows, columns."""
    count: int | None = None
    """Raster bands."""
    crs: str | None = None
    """As in EPSG:32632."""
    reflectance: Mapping[int, float] = field(default_factory=dict)
    """Raster band, from 1, to top-of-atmosphere reflectance per digital number; the sun and its distance are in it."""
    radiance: Mapping[int, float] = field(default_factory=dict)
    """Raster band to W m-2 sr-1 um-1 per digital number."""
    corners_lonlat: tuple[tuple[float, float], ...] = ()
    """Upper left, upper right, lower right, lower left, in degrees."""


def read_metadata(path: Path) -> PlanetMetadata:
    """Parse a `_metadata.xml` or `_metadata.json`.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    return _json(path) if path.suffix.lower() == ".json" else _xml(path)


def read_rpc(path: Path) -> RPC:
    """Rational polynomials of a `_RPC.TXT`: LINE_OFF: 1234.5 pixels and so on, twenty coefficients a polynomial.

    Raises
    ------
    MetadataError
        Naming the field that is missing or not finite.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})", "an RPC text file") from None
    held = dict(re.findall(r"^\s*(\w+)\s*:\s*(\S+)", text, flags=re.MULTILINE))

    def number(name: str) -> float:
        if name not in held:
            raise refuse(path, name, "is missing", f"a line {name}: NUMBER")
        return finite(path, name, held[name])

    offsets = {name.lower(): number(name) for name in _RPC_OFFSETS}
    scales = {name.lower(): number(name) for name in (n.replace("_OFF", "_SCALE") for n in _RPC_OFFSETS)}
    polynomials = {
        f"{name.lower()}_coeff": [number(f"{name}_COEFF_{k}") for k in range(1, 21)] for name in _RPC_POLYNOMIALS
    }
    return RPC(**offsets, **scales, **polynomials)


def _xml(path: Path) -> PlanetMetadata:
    root = read_xml(path, "EarthObservation")
    bands = {int(_number(b, "bandNumber")): b for b in root.descendants("bandSpecificMetadata")}
    if not bands:
        raise refuse(path, "bandSpecificMetadata", "is missing", "one per band")
    place = root.descendants("geographicLocation")
    projected = root.descendants("epsgCode")
    instrument = root.descendants("Instrument")
    return PlanetMetadata(
        path=path,
        satellite=_text(root, "serialIdentifier"),
        instrument=_text(instrument[0] if instrument else root, "shortName").lower(),
        acquired=utc(path, "acquisitionDateTime", _text(root, "acquisitionDateTime")),
        sun_elevation_deg=_number(root, "illuminationElevationAngle"),
        sun_azimuth_deg=_number(root, "illuminationAzimuthAngle") % 360.0,
        cloud_cover=_number(root, "cloudCoverPercentage"),
        level=_text(root, "productType"),
        shape=(int(_number(root, "numRows")), int(_number(root, "numColumns"))),
        count=int(_number(root, "numBands")),
        crs=f"EPSG:{int(_number(root, 'epsgCode'))}" if projected else None,
        reflectance={n: _positive(b, "reflectanceCoefficient", n) for n, b in sorted(bands.items())},
        radiance={n: _positive(b, "radiometricScaleFactor", n) for n, b in sorted(bands.items())},
        corners_lonlat=tuple((place[0].number(f"{c}/longitude"), place[0].number(f"{c}/latitude")) for c in _CORNERS)
        if place
        else (),
    )


def _text(node: XmlNode, tag: str) -> str:
    """The text of the first element of that name below."""
    found = node.descendants(tag)
    text = (found[0].element.text or "").strip() if found else ""
    if not text:
        raise refuse(node.path, tag, "is empty" if found else "is missing")
    return text


def _number(node: XmlNode, tag: str) -> float:
    return finite(node.path, tag, _text(node, tag))


def _positive(band: XmlNode, tag: str, number: int) -> float:
    value = _number(band, tag)
    if value <= 0:
        raise refuse(band.path, f"{tag} of band {number}", f"is {value:g}", "a number above 0")
    return value


def _json(path: Path) -> PlanetMetadata:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})", "a readable JSON file") from None
    except ValueError as error:
        raise refuse(path, "the JSON", f"is damaged or cut off ({error})", "a whole item JSON") from None
    held = tree.get("properties") if isinstance(tree, Mapping) else None
    if not isinstance(held, Mapping):
        raise refuse(path, "properties", "is missing", "the JSON of an item")

    def text(name: str) -> str:
        if held.get(name) in (None, ""):
            raise refuse(path, f"properties/{name}", "is missing or empty")
        return str(held[name])

    cloud = held.get("cloud_cover")
    return PlanetMetadata(
        path=path,
        satellite=text("satellite_id"),
        instrument=text("instrument").lower(),
        acquired=utc(path, "properties/acquired", text("acquired")),
        sun_elevation_deg=finite(path, "properties/sun_elevation", text("sun_elevation")),
        sun_azimuth_deg=finite(path, "properties/sun_azimuth", text("sun_azimuth")) % 360.0,
        cloud_cover=None if cloud is None else 100.0 * finite(path, "properties/cloud_cover", str(cloud)),
    )
