"""Sentinel-1 annotation and manifest: orbit, timing, spacings, ground-range polynomials and the geolocation grid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from catalog.metadata.xml import XmlNode, read_xml, refuse


@dataclass(frozen=True)
class CoordinateConversion:
    """Polynomials between ground range and slant range, valid around one azimuth time."""

    azimuth_time_s: float
    """Seconds after the annotation's reference time."""
    sr0_m: float
    """Slant range that srgr counts from."""
    srgr: np.ndarray
    """Coefficients (n,) of (slant range - sr0)^k that give ground range in metres."""
    gr0_m: float
    """Ground range that grsr counts from."""
    grsr: np.ndarray
    """Coefficients (n,) of (ground range - gr0)^k that give slant range in metres."""


@dataclass(frozen=True)
class GeolocationGrid:
    """The annotated points, all arrays (n,); they carry terrain height."""

    azimuth_time_s: np.ndarray
    """Seconds after the annotation's reference time."""
    slant_range_time_s: np.ndarray
    """Two-way travel time."""
    line: np.ndarray
    """Line of the image."""
    pixel: np.ndarray
    """Pixel in the line."""
    latitude_deg: np.ndarray
    """Geodetic, WGS 84."""
    longitude_deg: np.ndarray
    """Geodetic, WGS 84."""
    height_m: np.ndarray
    """Above the ellipsoid."""
    incidence_deg: np.ndarray
    """Between the look direction and the ellipsoid's normal."""


@dataclass(frozen=True)
class Annotation:
    """One polarisation's annotation file; times are seconds after `reference_time`."""

    path: Path
    """The file."""
    platform: str
    """STAC platform name, as in sentinel-1b."""
    product_type: str
    """GRD or SLC."""
    mode: str
    """IW, EW, SM."""
    swath: str
    """IW for a merged GRD, IW1 to IW3 for an SLC."""
    polarisation: str
    """VV, VH, HH or HV."""
    pass_direction: str
    """ascending or descending."""
    radar_frequency_hz: float
    """Centre frequency."""
    range_sampling_rate_hz: float
    """Samples per second of two-way travel time."""
    reference_time: np.datetime64
    """Zero-Doppler time of the first line, UTC, in nanoseconds."""
    start: datetime
    """First line, UTC."""
    stop: datetime
    """Last line, UTC."""
    lines: int
    """Rows of the image."""
    samples: int
    """Columns of the image."""
    range_pixel_spacing_m: float
    """Ground range in a GRD, slant range in an SLC."""
    azimuth_pixel_spacing_m: float
    """Along the track."""
    azimuth_time_interval_s: float
    """Seconds from line to line."""
    slant_range_time_s: float
    """Two-way travel time to the first sample."""
    incidence_mid_deg: float
    """In the middle of the swath."""
    orbit_time_s: np.ndarray
    """State vectors' times (n,)."""
    orbit_position_m: np.ndarray
    """Earth-fixed positions (n, xyz)."""
    orbit_velocity_m_s: np.ndarray
    """Earth-fixed velocities (n, xyz)."""
    conversions: tuple[CoordinateConversion, ...]
    """In order of azimuth time; empty for an SLC."""
    geolocation: GeolocationGrid
    """The annotated points."""


@dataclass(frozen=True)
class Manifest:
    """manifest.safe: what the whole product is."""

    path: Path
    """The file."""
    platform: str
    """STAC platform name, as in sentinel-1b."""
    product_type: str
    """GRD or SLC."""
    mode: str
    """IW, EW, SM."""
    polarisations: tuple[str, ...]
    """As in VV, VH."""
    pass_direction: str
    """ascending or descending."""
    relative_orbit: int
    """1 to 175."""
    absolute_orbit: int
    """Since launch."""
    start: datetime
    """UTC."""
    stop: datetime
    """UTC."""
    footprint_lonlat: tuple[tuple[float, float], ...]
    """Open ring of corners in degrees."""


def read_annotation(path: Path) -> Annotation:
    """Parse an annotation file.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    root = read_xml(path, "product")
    header, general = root.node("adsHeader"), root.node("generalAnnotation")
    product, image = general.node("productInformation"), root.node("imageAnnotation/imageInformation")
    reference = nanoseconds(image, "productFirstLineUtcTime")
    orbit = general.children("orbitList/orbit")
    if len(orbit) < 4:
        raise refuse(path, "orbitList", f"holds {len(orbit)} state vectors", "four or more, to interpolate between")
    axes = ("x", "y", "z")
    return Annotation(
        path=path,
        platform=_platform(header.text("missionId")),
        product_type=header.text("productType"),
        mode=header.text("mode"),
        swath=header.text("swath"),
        polarisation=header.text("polarisation"),
        pass_direction=product.text("pass").lower(),
        radar_frequency_hz=product.number("radarFrequency"),
        range_sampling_rate_hz=product.number("rangeSamplingRate"),
        reference_time=reference,
        start=image.time("productFirstLineUtcTime"),
        stop=image.time("productLastLineUtcTime"),
        lines=image.integer("numberOfLines"),
        samples=image.integer("numberOfSamples"),
        range_pixel_spacing_m=image.number("rangePixelSpacing"),
        azimuth_pixel_spacing_m=image.number("azimuthPixelSpacing"),
        azimuth_time_interval_s=image.number("azimuthTimeInterval"),
        slant_range_time_s=image.number("slantRangeTime"),
        incidence_mid_deg=image.number("incidenceAngleMidSwath"),
        orbit_time_s=np.array([seconds_after(reference, o, "time") for o in orbit]),
        orbit_position_m=np.array([[o.number(f"position/{a}") for a in axes] for o in orbit]),
        orbit_velocity_m_s=np.array([[o.number(f"velocity/{a}") for a in axes] for o in orbit]),
        conversions=_conversions(root, reference),
        geolocation=_geolocation(root, reference),
    )


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest.safe.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    root = read_xml(path, "XFDU")

    def first(tag: str) -> XmlNode:
        found = root.descendants(tag)
        if not found or not (found[0].element.text or "").strip():
            raise refuse(path, tag, "is missing or empty")
        return found[0]

    def text(tag: str) -> str:
        return (first(tag).element.text or "").strip()

    platforms = root.descendants("platform")
    if not platforms:
        raise refuse(path, "platform", "is missing")
    periods = root.descendants("acquisitionPeriod")
    if not periods:
        raise refuse(path, "acquisitionPeriod", "is missing")
    pairs = [pair.split(",") for pair in text("coordinates").split()]
    if len(pairs) < 4 or any(len(pair) != 2 for pair in pairs):
        raise refuse(path, "footPrint/coordinates", "is no ring of latitudes and longitudes", "four corners or more")
    polarisations = [(n.element.text or "").strip() for n in root.descendants("transmitterReceiverPolarisation")]
    return Manifest(
        path=path,
        platform=_platform(f"S1{platforms[0].text('number')}"),
        product_type=text("productType"),
        mode=text("mode"),
        polarisations=tuple(polarisations),
        pass_direction=text("pass").lower(),
        relative_orbit=int(text("relativeOrbitNumber")),
        absolute_orbit=int(text("orbitNumber")),
        start=periods[0].time("startTime"),
        stop=periods[0].time("stopTime"),
        footprint_lonlat=tuple((float(lon), float(lat)) for lat, lon in pairs),
    )


def nanoseconds(node: XmlNode, field: str) -> np.datetime64:
    """The time at `field`, UTC, in nanoseconds."""
    text = node.text(field)
    try:
        return np.datetime64(text.removesuffix("Z"), "ns")
    except ValueError:
        raise refuse(node.path, field, f"{text!r} is no time") from None


def seconds_after(reference: np.datetime64, node: XmlNode, field: str) -> float:
    """Seconds from `reference` to the time at `field`."""
    return float((nanoseconds(node, field) - reference) / np.timedelta64(1, "s"))


def _platform(mission: str) -> str:
    return f"sentinel-{mission[1:].lower()}"


def _conversions(root: XmlNode, reference: np.datetime64) -> tuple[CoordinateConversion, ...]:
    found = (
        CoordinateConversion(
            azimuth_time_s=seconds_after(reference, node, "azimuthTime"),
            sr0_m=node.number("sr0"),
            srgr=node.vector("srgrCoefficients"),
            gr0_m=node.number("gr0"),
            grsr=node.vector("grsrCoefficients"),
        )
        for node in root.children("coordinateConversion/coordinateConversionList/coordinateConversion")
    )
    return tuple(sorted(found, key=lambda c: c.azimuth_time_s))


def _geolocation(root: XmlNode, reference: np.datetime64) -> GeolocationGrid:
    points = root.children("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    if len(points) < 4:
        raise refuse(root.path, "geolocationGridPointList", f"holds {len(points)} points", "four or more")

    def column(field: str) -> np.ndarray:
        return np.array([p.number(field) for p in points])

    return GeolocationGrid(
        azimuth_time_s=np.array([seconds_after(reference, p, "azimuthTime") for p in points]),
        slant_range_time_s=column("slantRangeTime"),
        line=column("line"),
        pixel=column("pixel"),
        latitude_deg=column("latitude"),
        longitude_deg=column("longitude"),
        height_m=column("height"),
        incidence_deg=column("incidenceAngle"),
    )
