"""PlanetScope scenes: analytic images with their metadata XML or JSON and UDM2; reflectance at both levels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from rasterio.rpc import RPC

from catalog.calibrate.constants import ReflectanceScale
from catalog.calibrate.reflectance import earth_sun_distance_au
from catalog.errors import CalibrationError, GeolocationError
from catalog.formats.optics import complete, counts, sun_up
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.metadata import planetscope
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import PLANETSCOPE

_IMAGE = re.compile(
    r"(?P<scene>\d{8}_\d{6}_\w+?)_(?P<level>[13]B)_AnalyticMS(?P<sr>_SR)?(?P<eight>_8b)?(?:_harmonized)?(?:_clip)?\.tif",
    re.IGNORECASE,
)
_BANDS = {4: ("blue", "green", "red", "nir"), 8: tuple(b.name for b in PLANETSCOPE.bands)}
"""Count of raster bands to their order. https://support.planet.com/hc/en-us/articles/35928274738333"""
SURFACE_SCALE = 1e-4
"""Surface reflectance is stored times 10,000 (Planet surface reflectance product)."""
_IRRADIANCE = (500.0, 2300.0)
"""W m-2 um-1: what the sun gives between 400 and 900 nm, with room."""


def products(folder: Path) -> tuple[Product, ...]:
    """Each analytic image of a folder; () where it holds none. UDM2 is listed where it lies beside."""
    found = [(p, match) for p in sorted(folder.iterdir()) if (match := _IMAGE.fullmatch(p.name))]
    return tuple(_product(folder, path, match) for path, match in found)


def calibration(scene: Scene, bands: Sequence[str]) -> ReflectanceScale | None:
    """Surface reflectance: DN / 10,000. At the top of the atmosphere: DN reflectanceCoefficient; None without XML.

    The coefficient holds radiometricScaleFactor, sun and distance already: pi d^2 scale / (E sin(sun elevation)), so
    nothing is divided by the sun's elevation again. The irradiance E that it implies is checked.
    Source: comments of the product's own XML; PlanetScope Product Specifications, radiometric interpretation.
    """
    if scene.quantity == "surface_reflectance":
        return ReflectanceScale(
            dict.fromkeys(bands, SURFACE_SCALE), dict.fromkeys(bands, 0.0), "Planet's surface reflectance, DN / 10,000"
        )
    if "xml" not in scene.metadata:
        return None
    path = metadata_file(scene, "xml")
    found = planetscope.read_metadata(path)
    sun_up(path, "illuminationElevationAngle", found.sun_elevation_deg)
    order = _BANDS.get(len(found.reflectance), ())
    scale = {order[n - 1]: v for n, v in found.reflectance.items() if n <= len(order)}
    for number, coefficient in found.reflectance.items():
        _check_coefficient(path, found, number, coefficient)
    return ReflectanceScale(
        scale=complete(path, "reflectanceCoefficient", list(bands), scale),
        offset=dict.fromkeys(bands, 0.0),
        source=f"reflectanceCoefficient of {path.name}",
    )


def geometry(scene: Scene) -> RPC:
    """Rational polynomials of the `_RPC.TXT` of a basic scene."""
    if "rpc" not in scene.metadata:
        raise GeolocationError(
            "a product in image geometry has no rational polynomials",
            item=scene.id,
            enough="an _RPC.TXT beside the image",
            todo="fetch the asset basic_analytic_4b_rpc or _8b_rpc",
        )
    return planetscope.read_rpc(metadata_file(scene, "rpc"))


def _check_coefficient(path: Path, found: planetscope.PlanetMetadata, number: int, coefficient: float) -> None:
    """Whether the irradiance that a coefficient implies is one that the sun has."""
    height = math.sin(math.radians(found.sun_elevation_deg))
    distance = earth_sun_distance_au(found.acquired)
    implied = math.pi * distance**2 * found.radiance[number] / (coefficient * height)
    if not _IRRADIANCE[0] <= implied <= _IRRADIANCE[1]:
        raise CalibrationError(
            f"reflectanceCoefficient of band {number} is {coefficient:g}, which with radiometricScaleFactor"
            f" {found.radiance[number]:g} would make the sun's irradiance {implied:.0f} W m-2 um-1",
            item=f"{path}: reflectanceCoefficient",
            enough=f"coefficients of an irradiance between {_IRRADIANCE[0]:.0f} and {_IRRADIANCE[1]:.0f}",
            todo="fetch the product's metadata XML again",
        )


def _product(folder: Path, image: Path, match: re.Match[str]) -> Product:
    basic, surface = match["level"].upper() == "1B", match["sr"] is not None
    roles = _metadata(folder, match)
    described = roles.get("xml") or (roles.get("json") if surface else None)
    if described is None:
        raise refuse(
            folder / f"{image.stem}_metadata.xml",
            "the file",
            "is missing",
            "the image's metadata XML, or the item's JSON for surface reflectance",
        )
    meta = planetscope.read_metadata(described)
    if described == roles.get("xml") and "json" in roles:
        _check_twins(meta, planetscope.read_metadata(roles["json"]))
    return Product(
        id=image.stem,
        sensor=PLANETSCOPE.id,
        level="SR" if surface else f"L{match['level'].upper()}",
        platform="planetscope",
        instruments=(meta.instrument,),
        start=meta.acquired,
        stop=meta.acquired,
        files=_files(folder, image, match, meta),
        metadata=roles,
        geolocation="rpc" if basic else "affine",
        encoding="dn",
        footprint_lonlat=meta.corners_lonlat if basic else (),
        properties={
            **({} if meta.cloud_cover is None else {"eo:cloud_cover": meta.cloud_cover}),
            "view:sun_elevation": meta.sun_elevation_deg,
            "view:sun_azimuth": meta.sun_azimuth_deg,
            "ringmoe:satellite": meta.satellite,
        },
    )


def _metadata(folder: Path, match: re.Match[str]) -> dict[str, Path]:
    """XML of the image's count of bands, JSON of the scene, RPC of a basic image: those that are there."""
    eight = "_8b" if match["eight"] else ""
    wanted = {
        "xml": rf"{match['scene']}_{match['level']}_AnalyticMS{eight}_metadata(_clip)?\.xml",
        "json": rf"{match['scene']}_metadata\.json",
        "rpc": rf"{match['scene']}_1B_AnalyticMS{eight}_RPC\.txt" if match["level"].upper() == "1B" else "-",
    }
    found = {role: _named(folder, pattern) for role, pattern in wanted.items()}
    return {role: path for role, path in found.items() if path is not None}


def _files(
    folder: Path, image: Path, match: re.Match[str], meta: planetscope.PlanetMetadata
) -> tuple[ProductFile, ...]:
    header = counts(image)
    count = meta.count or header.count
    if count not in _BANDS:
        raise refuse(meta.path, "numBands", f"is {count}", "an analytic image of 4 or 8 bands")
    basic = match["level"].upper() == "1B"
    expected = None if meta.shape is None else ExpectedGrid(meta.shape, None if basic else meta.crs)
    scale = dict.fromkeys(_BANDS[count], SURFACE_SCALE) if match["sr"] else {}
    bands = ProductFile("image", image, _BANDS[count], expected, nodata=0, scale=scale, header=header)
    masks = _named(folder, rf"{match['scene']}_{match['level']}_udm2(_clip)?\.tif")
    return (bands,) if masks is None else (bands, ProductFile("UDM2", masks, expected=expected, layers=8))


def _check_twins(xml: planetscope.PlanetMetadata, other: planetscope.PlanetMetadata) -> None:
    """The scene's JSON must be of the scene of the XML: its time to a minute, its sun to a degree."""
    apart_s = abs((xml.acquired - other.acquired).total_seconds())
    if apart_s > 60 or abs(xml.sun_elevation_deg - other.sun_elevation_deg) > 1:
        raise refuse(
            other.path,
            "properties/acquired and sun_elevation",
            f"are {other.acquired:%Y-%m-%dT%H:%M:%S} and {other.sun_elevation_deg:g} degrees, and"
            f" {xml.acquired:%Y-%m-%dT%H:%M:%S} and {xml.sun_elevation_deg:g} in {xml.path.name}",
            "XML and JSON of one scene",
        )


def _named(folder: Path, pattern: str) -> Path | None:
    return next((p for p in sorted(folder.iterdir()) if re.fullmatch(pattern, p.name, re.IGNORECASE)), None)
