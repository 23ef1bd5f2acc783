"""Gaofen-3 meta.xml: qualify value and calibration constant per polarisation, times, size and corners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from catalog.metadata.xml import XmlNode, read_xml, refuse, utc

POLARISATIONS = ("HH", "HV", "VH", "VV")
FULL_SCALES = {"L1A": 32767.0, "L2": 65535.0}
_PLATFORMS = {"GF3": "gaofen-3", "GF3A": "gaofen-3", "GF3B": "gaofen-3-02", "GF3C": "gaofen-3-03"}
_CORNERS = ("topLeft", "topRight", "bottomRight", "bottomLeft")


@dataclass(frozen=True)
class Gaofen3Metadata:
    """What a meta.xml says."""

    path: Path
    """The file."""
    platform: str
    """STAC platform name, as in gaofen-3."""
    mode: str
    """Imaging mode, as in QPSI."""
    level: str
    """L1A for the complex image, L1B and L2 for detected ones."""
    polarisations: tuple[str, ...]
    """Those that have a calibration constant."""
    qualify: Mapping[str, float]
    """Polarisation to QualifyValue: the amplitude of full scale before it was quantised."""
    constant_db: Mapping[str, float]
    """Polarisation to CalibrationConst in dB."""
    start: datetime
    """UTC."""
    stop: datetime
    """UTC."""
    lines: int
    """Rows of the image."""
    samples: int
    """Columns of the image."""
    range_spacing_m: float
    """Slant range from column to column."""
    azimuth_spacing_m: float
    """Along the track from line to line."""
    frequency_ghz: float
    """Radar centre frequency."""
    look: str
    """left or right."""
    corners_lonlat: tuple[tuple[float, float], ...]
    """Top left, top right, bottom right, bottom left, in degrees."""

    @property
    def full_scale(self) -> float:
        """The digital number that stands for QualifyValue: signed 16 bits at level 1A, unsigned at level 2.

        Raises
        ------
        MetadataError
            At any other level.
        """
        if self.level not in FULL_SCALES:
            raise refuse(
                self.path, "productinfo/productLevel", f"is {self.level}, whose full scale is not known", "L1A or L2"
            )
        return FULL_SCALES[self.level]


def read_meta(path: Path) -> Gaofen3Metadata:
    """Parse a meta.xml.

    sigma nought in dB = 10 log10((I^2 + Q^2) (QualifyValue / 32767)^2) - CalibrationConst at level 1A, and
    20 log10(DN QualifyValue / 65535) - CalibrationConst at level 2, per polarisation.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    root = read_xml(path, "product")
    image, sensor, product = root.node("imageinfo"), root.node("sensor"), root.node("productinfo")
    constants = _by_polarisation(root.node("processinfo/CalibrationConst"))
    qualify = _by_polarisation(image.node("QualifyValue"))
    shared = tuple(p for p in POLARISATIONS if p in constants and p in qualify)
    if not shared:
        raise refuse(path, "QualifyValue and CalibrationConst", "share no polarisation", "both, for HH, HV, VH or VV")
    if any(qualify[p] <= 0 for p in shared):
        raise refuse(path, "imageinfo/QualifyValue", "is not above 0", "a value above 0 per polarisation")
    satellite = root.text("satellite").upper().replace("-", "")
    if satellite not in _PLATFORMS:
        raise refuse(path, "satellite", f"is {satellite}", f"one of {', '.join(_PLATFORMS)}")
    return Gaofen3Metadata(
        path=path,
        platform=_PLATFORMS[satellite],
        mode=sensor.text("imagingMode"),
        level=_level(path, product.text("productLevel")),
        polarisations=shared,
        qualify={p: qualify[p] for p in shared},
        constant_db={p: constants[p] for p in shared},
        start=utc(path, "imagingTime/start", image.text("imagingTime/start")),
        stop=utc(path, "imagingTime/end", image.text("imagingTime/end")),
        lines=image.integer("height"),
        samples=image.integer("width"),
        range_spacing_m=image.number("widthspace"),
        azimuth_spacing_m=image.number("heightspace"),
        frequency_ghz=sensor.number("RadarCenterFrequency"),
        look="left" if (sensor.optional(sensor.text, "lookDirection") or "R").upper().startswith("L") else "right",
        corners_lonlat=tuple(
            (image.number(f"corner/{c}/longitude"), image.number(f"corner/{c}/latitude")) for c in _CORNERS
        ),
    )


def _by_polarisation(node: XmlNode) -> dict[str, float]:
    """Values per polarisation; the text NULL stands for a polarisation that was not taken."""
    present = [p for p in POLARISATIONS if node.children(p) and node.text(p).upper() != "NULL"]
    return {p: node.number(p) for p in present}


def _level(path: Path, text: str) -> str:
    names = {"1": "L1A", "1A": "L1A", "L1A": "L1A", "1B": "L1B", "L1B": "L1B", "2": "L2", "L2": "L2"}
    if text.upper() not in names:
        raise refuse(path, "productinfo/productLevel", f"is {text!r}", f"one of {', '.join(names)}")
    return names[text.upper()]
