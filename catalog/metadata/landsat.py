"""Landsat Collection 2 MTL in its three encodings (JSON, text, XML): scale, offset, sun, grid and corners."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.metadata.xml import XmlNode, finite, read_xml, refuse, utc

ROOT = "LANDSAT_METADATA_FILE"
_REFLECTIVE = tuple(str(n) for n in range(1, 10))


@dataclass(frozen=True)
class LandsatMetadata:
    """What an MTL file says, the same in every encoding."""

    product_id: str
    """As in LC08_L2SP_005009_20150710_20200908_02_T2."""
    level: str
    """L1TP, L1GT, L2SP and so on."""
    platform: str
    """STAC platform name, as in landsat-8."""
    instruments: tuple[str, ...]
    """As in oli, tirs."""
    acquired: datetime
    """Centre of the scene, UTC."""
    cloud_cover: float
    """Per cent."""
    sun_elevation_deg: float
    """At the centre of the scene."""
    sun_azimuth_deg: float
    """At the centre of the scene, clockwise from north."""
    earth_sun_distance_au: float
    """In astronomical units."""
    crs: str
    """UTM, always the northern zone, or EPSG:3031 over Antarctica."""
    lines: int
    """Rows of the reflective bands."""
    samples: int
    """Columns of the reflective bands."""
    cell_m: float
    """Side of a pixel of the reflective bands."""
    transform: tuple[float, float, float, float, float, float]
    """Affine a, b, c, d, e, f to the outer corner of pixels; the MTL's corners are pixel centres."""
    corners_lonlat: tuple[tuple[float, float], ...]
    """Upper left, upper right, lower right, lower left, in degrees."""
    mult: Mapping[str, float]
    """Band (B1, ...) to reflectance per digital number, at the product's own level."""
    add: Mapping[str, float]
    """Band to the reflectance of digital number 0, at the product's own level."""
    level1_mult: Mapping[str, float]
    """The same for level 1, kept in the record of its making."""
    level1_add: Mapping[str, float]
    """The same for level 1."""
    files: Mapping[str, str]
    """Band or layer (B1, QA_PIXEL, QA_RADSAT, SZA) to file name."""
    wrs: tuple[int, int]
    """Path and row of the Worldwide Reference System 2."""


def read_mtl(path: Path) -> LandsatMetadata:
    """Parse an MTL file by its ending: .json, .txt or .xml.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    tree = _tree(path)
    contents, image, grid = (
        _Group(path, tree, g) for g in ("PRODUCT_CONTENTS", "IMAGE_ATTRIBUTES", "PROJECTION_ATTRIBUTES")
    )
    level, name = contents.text("PROCESSING_LEVEL"), contents.text("LANDSAT_PRODUCT_ID")
    if f"_{level}_" not in name:
        raise refuse(path, "PROCESSING_LEVEL", f"is {level} and LANDSAT_PRODUCT_ID {name}", "one level in both")
    own = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS" if level.startswith("L2") else "LEVEL1_RADIOMETRIC_RESCALING"
    parameters, level1 = _Group(path, tree, own), _Group(path, tree, "LEVEL1_RADIOMETRIC_RESCALING")
    cell = grid.number("GRID_CELL_SIZE_REFLECTIVE")
    x, y = grid.number("CORNER_UL_PROJECTION_X_PRODUCT"), grid.number("CORNER_UL_PROJECTION_Y_PRODUCT")
    time = f"{image.text('DATE_ACQUIRED')}T{image.text('SCENE_CENTER_TIME')}"
    return LandsatMetadata(
        product_id=name,
        level=level,
        platform=image.text("SPACECRAFT_ID").lower().replace("_", "-"),
        instruments=tuple(image.text("SENSOR_ID").lower().split("_")),
        acquired=utc(path, "SCENE_CENTER_TIME", re.sub(r"(\.\d{6})\d*", r"\1", time)),
        cloud_cover=image.number("CLOUD_COVER"),
        sun_elevation_deg=image.number("SUN_ELEVATION"),
        sun_azimuth_deg=image.number("SUN_AZIMUTH"),
        earth_sun_distance_au=image.number("EARTH_SUN_DISTANCE"),
        crs=_crs(grid),
        lines=int(grid.number("REFLECTIVE_LINES")),
        samples=int(grid.number("REFLECTIVE_SAMPLES")),
        cell_m=cell,
        transform=(cell, 0.0, x - cell / 2, 0.0, -cell, y + cell / 2),
        corners_lonlat=tuple(
            (grid.number(f"CORNER_{c}_LON_PRODUCT"), grid.number(f"CORNER_{c}_LAT_PRODUCT"))
            for c in ("UL", "UR", "LR", "LL")
        ),
        mult=parameters.by_band("REFLECTANCE_MULT_BAND_"),
        add=parameters.by_band("REFLECTANCE_ADD_BAND_"),
        level1_mult=level1.by_band("REFLECTANCE_MULT_BAND_"),
        level1_add=level1.by_band("REFLECTANCE_ADD_BAND_"),
        files=_files(contents),
        wrs=(int(image.number("WRS_PATH")), int(image.number("WRS_ROW"))),
    )


@dataclass(frozen=True)
class _Group:
    """One group of an MTL, its fields read or refused by name."""

    path: Path
    tree: Mapping[str, Any]
    name: str

    def text(self, field: str) -> str:
        group = self.tree.get(self.name)
        if not isinstance(group, Mapping):
            raise refuse(self.path, self.name, "is missing")
        if not str(group.get(field) or "").strip():
            raise refuse(self.path, f"{self.name}/{field}", "is missing or empty")
        return str(group[field]).strip()

    def number(self, field: str) -> float:
        return finite(self.path, f"{self.name}/{field}", self.text(field))

    def by_band(self, prefix: str) -> dict[str, float]:
        group = self.tree.get(self.name) or {}
        found = {f"B{n}": self.number(prefix + n) for n in _REFLECTIVE if prefix + n in group}
        if not found:
            raise refuse(self.path, f"{self.name}/{prefix}n", "is missing for every band")
        if "MULT" in prefix and not all(v > 0 for v in found.values()):
            raise refuse(self.path, f"{self.name}/{prefix}n", "is not above 0", "a gain above 0 per band")
        return found


def _files(contents: _Group) -> dict[str, str]:
    layers = {f"B{n}": f"FILE_NAME_BAND_{n}" for n in _REFLECTIVE}
    layers |= {"QA_PIXEL": "FILE_NAME_QUALITY_L1_PIXEL", "QA_RADSAT": "FILE_NAME_QUALITY_L1_RADIOMETRIC_SATURATION"}
    layers |= {"SZA": "FILE_NAME_ANGLE_SOLAR_ZENITH_BAND_4"}
    held = contents.tree[contents.name]
    return {name: contents.text(field) for name, field in layers.items() if field in held}


def _crs(grid: _Group) -> str:
    projection = grid.text("MAP_PROJECTION")
    if projection == "UTM":
        return f"EPSG:{32600 + int(grid.number('UTM_ZONE'))}"
    if projection == "PS":
        return "EPSG:3031"
    raise refuse(grid.path, "MAP_PROJECTION", f"is {projection}", "UTM or PS")


def _tree(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() == ".xml":
        return {g.tag: {f.tag: f.element.text for f in _elements(g)} for g in _elements(read_xml(path, ROOT))}
    try:
        text = path.read_text("utf-8")
        tree = json.loads(text) if path.suffix.lower() == ".json" else _odl(path, text)
    except OSError as error:
        raise refuse(path, "the file", f"cannot be read ({error.strerror})", "a readable MTL file") from None
    except ValueError as error:
        raise refuse(path, "the file", f"is damaged or cut off ({error})", "a whole MTL file") from None
    if not isinstance(tree, Mapping) or not isinstance(tree.get(ROOT), Mapping):
        raise refuse(path, ROOT, "is missing")
    held: Mapping[str, Any] = tree[ROOT]
    return held


def _elements(node: XmlNode) -> list[XmlNode]:
    return [XmlNode(node.path, child) for child in node.element]


def _odl(path: Path, text: str) -> dict[str, Any]:
    """GROUP = NAME ... END_GROUP = NAME, and NAME = value lines, as a nested mapping."""
    root: dict[str, Any] = {}
    stack = [root]
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if key == "GROUP":
            stack.append(stack[-1].setdefault(value, {}))
        elif key == "END_GROUP":
            stack.pop()
        elif equals:
            stack[-1][key] = value.strip('"')
        if not stack:
            raise refuse(path, "END_GROUP", "closes a group that was never opened")
    if len(stack) != 1:
        raise refuse(path, "END_GROUP", "is missing: the file is cut off", "a whole MTL file")
    return root
