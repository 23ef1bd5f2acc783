"""Gaofen-2 and Gaofen-1 scenes (PMS and WFV): XML and RPB beside each image; radiance by the year's coefficients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rasterio.rpc import RPC

from catalog.calibrate.constants import RadianceGain
from catalog.calibrate.reflectance import earth_sun_distance_au
from catalog.errors import CalibrationError, GeolocationError
from catalog.formats.optics import counts, sun_up
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.metadata import gaofen2, gaofen_coefficients, rpb
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import GAOFEN_2

_XML = re.compile(r"GF[12]_(?:PMS[12]_.+-MSS[12]|WFV[1-4]_.+)\.xml", re.IGNORECASE)
_PANCHROMATIC = re.compile(r"GF[12]_PMS[12]_.+-PAN[12]\.xml", re.IGNORECASE)


def products(folder: Path) -> tuple[Product, ...]:
    """Each multispectral image with its XML; () where the folder holds none. The panchromatic one is not read."""
    names = sorted(p for p in folder.iterdir() if not p.name.lower().endswith(".aux.xml"))
    found = [p for p in names if _XML.fullmatch(p.name)]
    if not found and (alone := [p for p in names if _PANCHROMATIC.fullmatch(p.name)]):
        raise refuse(alone[0], "the product", "is the panchromatic image only", "the multispectral image, -MSS1 or 2")
    return tuple(_product(path) for path in found)


def calibration(scene: Scene, bands: Sequence[str]) -> RadianceGain | None:
    """Gain and bias of the scene's year and camera; None without the XML.

    L = gain DN + bias (CRESDA's yearly notice), rho = pi L d^2 / (E cos(SolarZenith)).

    Raises
    ------
    CalibrationError
        No coefficients of that camera or year are known, or the sun is below the horizon. Another year's are not
        taken in their place: from 2016 to 2017 Gaofen-1's fell by 40 %.
    """
    if "xml" not in scene.metadata:
        return None
    path = metadata_file(scene, "xml")
    found = gaofen2.read_scene(path)
    known = gaofen_coefficients.COEFFICIENTS.get(found.camera, {})
    year = found.acquired.year
    if year not in known:
        years = ", ".join(map(str, known)) or "none"
        raise CalibrationError(
            f"no calibration coefficients of {found.camera} for {year} are known",
            item=f"{path}: CenterTime",
            enough=f"a scene of a year with published coefficients: {years}",
            todo="add the year's notice of CRESDA to catalog/metadata/gaofen_coefficients.py",
        )
    row = known[year]
    order = gaofen_coefficients.BANDS
    irradiance = dict(zip(order, gaofen_coefficients.IRRADIANCE[found.camera], strict=True))
    return RadianceGain(
        gain={b: row.gain[order.index(b)] for b in bands},
        bias={b: row.bias[order.index(b)] for b in bands},
        irradiance={b: irradiance[b] for b in bands},
        earth_sun_distance_au=earth_sun_distance_au(found.acquired),
        sun_elevation_deg=sun_up(path, "SolarZenith", 90.0 - found.sun_zenith_deg),
        source=f"coefficients of {found.camera} for {year}: {row.source}; SolarZenith of {path.name}",
        record={
            "camera": found.camera,
            "coefficients_year": year,
            "irradiance_source": gaofen_coefficients.IRRADIANCE_SOURCE,
            "clock": found.clock,
        },
    )


def geometry(scene: Scene) -> RPC:
    """Rational polynomials of the image's .rpb."""
    if "rpb" not in scene.metadata:
        raise GeolocationError(
            "a product in image geometry has no rational polynomials",
            item=scene.id,
            enough="an .rpb file beside the image",
            todo="fetch the product whole",
        )
    return rpb.read_rpb(metadata_file(scene, "rpb"))


def _product(xml: Path) -> Product:
    meta = gaofen2.read_scene(xml)
    image = _beside(xml, ".tiff", ".tif")
    if image is None:
        raise unreadable(str(xml.with_suffix(".tiff")), "missing")
    polynomials = _beside(xml, ".rpb")
    cloud = {} if meta.cloud_cover is None else {"eo:cloud_cover": meta.cloud_cover}
    return Product(
        id=xml.stem,
        sensor=GAOFEN_2.id,
        level=meta.level,
        platform=meta.platform,
        instruments=(meta.camera.split()[1].lower(),),
        start=meta.acquired,
        stop=meta.acquired,
        files=(
            ProductFile(
                "image",
                image,
                gaofen_coefficients.BANDS,
                ExpectedGrid((meta.rows, meta.columns)),
                nodata=0,
                gsd_m=meta.gsd_m,
                header=counts(image),
            ),
        ),
        metadata={"xml": xml} | ({} if polynomials is None else {"rpb": polynomials}),
        geolocation="rpc",
        encoding="dn",
        footprint_lonlat=meta.corners_lonlat,
        properties={
            **cloud,
            "view:sun_elevation": round(90.0 - meta.sun_zenith_deg, 6),
            "view:sun_azimuth": meta.sun_azimuth_deg,
        },
    )


def _beside(path: Path, *endings: str) -> Path | None:
    """The file of the same name with one of those endings, in either case."""
    wanted = [path.with_suffix(e) for ending in endings for e in (ending, ending.upper())]
    return next((p for p in wanted if p.exists()), None)
