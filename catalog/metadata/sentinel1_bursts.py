"""Sentinel-1 IW and EW SLC bursts: timing, valid samples, Doppler centroid and azimuth FM rate of one swath."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.metadata.sentinel1 import nanoseconds, seconds_after
from catalog.metadata.xml import XmlNode, read_xml, refuse


@dataclass(frozen=True)
class RangePolynomial:
    """A polynomial in two-way slant range time that holds around one azimuth time."""

    azimuth_time_s: float
    """Seconds after the annotation's reference time."""
    t0_s: float
    """Two-way slant range time that the polynomial counts from."""
    coefficients: np.ndarray
    """(n,) of (slant range time - t0)^k, in hertz, or hertz per second for the FM rate."""


@dataclass(frozen=True)
class Burst:
    """One burst of a swath."""

    azimuth_time_s: float
    """Zero-Doppler time of its first line, seconds after the annotation's reference time."""
    sensing_time_s: float
    """When its first echo was taken, seconds after the annotation's reference time."""
    first_valid: np.ndarray
    """(lines,) first sample that holds data; -1 on a line without any."""
    last_valid: np.ndarray
    """(lines,) last sample that holds data, included; -1 on a line without any."""


@dataclass(frozen=True)
class BurstTiming:
    """What deramping, deburst and placing of one swath and polarisation need."""

    path: Path
    """The file."""
    lines: int
    """Lines of each burst."""
    samples: int
    """Samples of each burst."""
    bursts: tuple[Burst, ...]
    """In order of time; empty for a strip map image."""
    steering_rate_deg_s: float
    """Rate at which the antenna was steered along the track; 0 for a strip map image."""
    doppler_centroid: tuple[RangePolynomial, ...]
    """Estimated from the data, in order of time."""
    fm_rate: tuple[RangePolynomial, ...]
    """Azimuth frequency modulation, in order of time."""


def read_bursts(path: Path) -> BurstTiming:
    """Parse the burst parameters of an SLC annotation file.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong, such as bursts that overfill the image.
    """
    root = read_xml(path, "product")
    image, timing = root.node("imageAnnotation/imageInformation"), root.node("swathTiming")
    reference = nanoseconds(image, "productFirstLineUtcTime")
    lines = timing.integer("linesPerBurst")
    bursts = tuple(_burst(node, lines, reference) for node in timing.children("burstList/burst"))
    if bursts and len(bursts) * lines != image.integer("numberOfLines"):
        raise refuse(
            path, "swathTiming", f"{len(bursts)} bursts of {lines} lines do not make {image.text('numberOfLines')}"
        )
    centroids = root.children("dopplerCentroid/dcEstimateList/dcEstimate")
    rates = root.children("generalAnnotation/azimuthFmRateList/azimuthFmRate")
    steering = root.node("generalAnnotation/productInformation").number("azimuthSteeringRate")
    return BurstTiming(
        path=path,
        lines=lines,
        samples=timing.integer("samplesPerBurst"),
        bursts=tuple(sorted(bursts, key=lambda b: b.azimuth_time_s)),
        steering_rate_deg_s=steering,
        doppler_centroid=tuple(_polynomial(n, "dataDcPolynomial", reference) for n in centroids),
        fm_rate=tuple(_polynomial(n, "azimuthFmRatePolynomial", reference) for n in rates),
    )


def _burst(node: XmlNode, lines: int, reference: np.datetime64) -> Burst:
    first, last = node.vector("firstValidSample"), node.vector("lastValidSample")
    for field, found in (("firstValidSample", first), ("lastValidSample", last)):
        if found.size != lines:
            raise refuse(node.path, f"burst/{field}", f"holds {found.size} values for {lines} lines")
    return Burst(
        azimuth_time_s=seconds_after(reference, node, "azimuthTime"),
        sensing_time_s=seconds_after(reference, node, "sensingTime"),
        first_valid=first.astype(int),
        last_valid=last.astype(int),
    )


def _polynomial(node: XmlNode, field: str, reference: np.datetime64) -> RangePolynomial:
    """A polynomial; the FM rate of products before 2015 lists its three coefficients as c0, c1 and c2."""
    if node.children(field):
        coefficients = node.vector(field)
    else:
        coefficients = np.array([node.number(c) for c in ("c0", "c1", "c2")])
    return RangePolynomial(seconds_after(reference, node, "azimuthTime"), node.number("t0"), coefficients)
