"""Sentinel-1 calibration and noise files: look-up tables in line and pixel, new and old noise format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.metadata.xml import XmlNode, read_xml, refuse


@dataclass(frozen=True)
class CalibrationTable:
    """A calibration file; sigma nought = |DN|^2 / sigma_nought^2, bilinear in line and pixel between the vectors."""

    path: Path
    """The file."""
    polarisation: str
    """VV, VH, HH or HV."""
    lines: np.ndarray
    """Line of each vector (l,), ascending; may begin before the image and end after it."""
    pixels: np.ndarray
    """Pixel of each column (p,), ascending."""
    sigma_nought: np.ndarray
    """Amplitude divisor for sigma nought (l, p)."""
    beta_nought: np.ndarray
    """Amplitude divisor for beta nought (l, p)."""
    gamma: np.ndarray
    """Amplitude divisor for gamma nought on the ellipsoid (l, p)."""
    absolute_constant: float
    """The absolute calibration constant, already part of the tables."""

    def gain(self, quantity: str) -> np.ndarray:
        """The amplitude divisor (l, p) of sigma_nought, beta_nought or gamma_nought.

        Raises
        ------
        MetadataError
            For a quantity that the file has no table of.
        """
        tables = {"sigma_nought": self.sigma_nought, "beta_nought": self.beta_nought, "gamma_nought": self.gamma}
        if quantity not in tables:
            raise refuse(self.path, "calibrationVector", f"holds no {quantity}", f"one of {', '.join(tables)}")
        return tables[quantity]


@dataclass(frozen=True)
class NoiseRangeVector:
    """Thermal noise across the swath at one line, in units of |DN|^2 before the azimuth factor."""

    line: int
    """Line it holds for; between vectors, linear."""
    pixels: np.ndarray
    """Ascending (n,)."""
    lut: np.ndarray
    """Noise power (n,)."""


@dataclass(frozen=True)
class NoiseAzimuthVector:
    """How the noise of one block varies along the track; multiplies the range vectors."""

    swath: str
    """As in IW1."""
    first_line: int
    """First line of the block."""
    last_line: int
    """Last line of the block, included."""
    first_pixel: int
    """First pixel of the block."""
    last_pixel: int
    """Last pixel of the block, included."""
    lines: np.ndarray
    """Ascending (n,)."""
    lut: np.ndarray
    """Factor (n,)."""


@dataclass(frozen=True)
class NoiseTable:
    """A noise file."""

    path: Path
    """The file."""
    polarisation: str
    """VV, VH, HH or HV."""
    range_vectors: tuple[NoiseRangeVector, ...]
    """Ascending in line."""
    azimuth_vectors: tuple[NoiseAzimuthVector, ...]
    """Empty in the format used before March 2018, which knew range alone."""


def read_calibration(path: Path) -> CalibrationTable:
    """Parse a calibration file.

    Vectors whose pixels differ from the first one's are read on the union of all pixels: the tables are piecewise
    linear, so nothing is lost.

    Raises
    ------
    MetadataError
        Naming the file and the field: a list that is missing, shorter than it says, or holds a gain not above 0.
    """
    root = read_xml(path, "calibration")
    vectors = sorted(
        root.children("calibrationVectorList/calibrationVector"),
        key=lambda v: v.number("line"),
    )
    if len(vectors) < 2:
        raise refuse(path, "calibrationVectorList", f"holds {len(vectors)} vectors", "two or more")
    positions = [_ascending(v, "pixel") for v in vectors]
    same = all(np.array_equal(p, positions[0]) for p in positions)
    pixels = positions[0] if same else np.unique(np.concatenate(positions))

    def table(field: str) -> np.ndarray:
        rows = [_paired(v, field, p) for v, p in zip(vectors, positions, strict=True)]
        if min(row.min() for row in rows) <= 0:
            raise refuse(path, field, "holds a gain that is not above 0", "gains above 0")
        return np.stack([np.interp(pixels, p, row) for p, row in zip(positions, rows, strict=True)])

    return CalibrationTable(
        path=path,
        polarisation=root.text("adsHeader/polarisation"),
        lines=np.array([v.integer("line") for v in vectors]),
        pixels=pixels,
        sigma_nought=table("sigmaNought"),
        beta_nought=table("betaNought"),
        gamma=table("gamma"),
        absolute_constant=root.number("calibrationInformation/absoluteCalibrationConstant"),
    )


def read_noise(path: Path) -> NoiseTable:
    """Parse a noise file of either format.

    Raises
    ------
    MetadataError
        Naming the file and the field.
    """
    root = read_xml(path, "noise")
    kind, lut = "noiseRange", "noiseRangeLut"
    if not root.children("noiseRangeVectorList"):
        kind, lut = "noise", "noiseLut"
    nodes = root.children(f"{kind}VectorList/{kind}Vector")
    if not nodes:
        raise refuse(path, f"{kind}VectorList", "is missing or empty")
    vectors = (
        NoiseRangeVector(n.integer("line"), _ascending(n, "pixel"), _paired(n, lut, n.vector("pixel"))) for n in nodes
    )
    return NoiseTable(
        path=path,
        polarisation=root.text("adsHeader/polarisation"),
        range_vectors=tuple(sorted(vectors, key=lambda v: v.line)),
        azimuth_vectors=tuple(
            NoiseAzimuthVector(
                swath=n.text("swath"),
                first_line=n.integer("firstAzimuthLine"),
                last_line=n.integer("lastAzimuthLine"),
                first_pixel=n.integer("firstRangeSample"),
                last_pixel=n.integer("lastRangeSample"),
                lines=_ascending(n, "line"),
                lut=_paired(n, "noiseAzimuthLut", n.vector("line")),
            )
            for n in root.children("noiseAzimuthVectorList/noiseAzimuthVector")
        ),
    )


def _ascending(node: XmlNode, field: str) -> np.ndarray:
    positions = node.vector(field)
    if positions.size == 0 or (np.diff(positions) <= 0).any():
        raise refuse(node.path, f"{node.tag}/{field}", "is not ascending")
    return positions


def _paired(node: XmlNode, field: str, positions: np.ndarray) -> np.ndarray:
    values = node.vector(field)
    if values.shape != positions.shape:
        raise refuse(node.path, f"{node.tag}/{field}", f"holds {values.size} values for {positions.size} positions")
    return values
