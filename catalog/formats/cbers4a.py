"""CBERS-4A scenes (WPM, MUX, WFI): an XML and an image per band; radiance at DN level, surface reflectance at SR."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from catalog.calibrate.constants import RadianceGain, ReflectanceScale
from catalog.calibrate.reflectance import earth_sun_distance_au
from catalog.errors import CalibrationError
from catalog.formats.optics import complete, counts, sun_up
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.metadata import cbers4a
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import CBERS_4A

_XML = re.compile(
    r"(?P<scene>CBERS_4A_(?P<camera>WPM|MUX|WFI)_\d{8}_\d{3}_\d{3}_L(?P<level>[24])(?:_LEFT|_RIGHT)?)"
    r"_BAND(?P<band>\d+)\.xml",
    re.IGNORECASE,
)
_NAMES = ("B", "G", "R", "N")
SURFACE_SCALE = 1e-4
"""Surface reflectance is stored times 10,000, -9999 where there is none (Brazil Data Cube, CB4A-WFI-L4-SR-1)."""
_SURFACE = "_GRID_SURFACE"
"""What the names of surface reflectance files end in, as in ..._L4_BAND13_GRID_SURFACE.tif."""


def products(folder: Path) -> tuple[Product, ...]:
    """The scenes whose band XML lie in a folder, or in a folder per band below; () where there is none.

    A scene is a product of digital numbers, one of surface reflectance, or both. The panchromatic band is not read.
    """
    scenes: dict[str, dict[str, Path]] = {}
    for path in sorted([*folder.glob("*.xml"), *folder.glob("*_BAND*/*.xml"), *folder.glob("*.XML")]):
        match = _XML.fullmatch(path.name)
        if match and match["band"] in cbers4a.CAMERAS[match["camera"].upper()]:
            scenes.setdefault(match["scene"], {})[match["band"]] = path
    return tuple(p for name, bands in sorted(scenes.items()) for p in _products(name, bands))


def calibration(scene: Scene, bands: Sequence[str]) -> RadianceGain | ReflectanceScale | None:
    """Surface reflectance: DN / 10,000. Else L = absoluteCalibrationCoefficient DN, and reflectance; None without XML.

    Irradiance: Thuillier (2003) over the four bands, which the three cameras share.
    Source: International Charter, CBERS-4 and CBERS-4A, https://docs.disasterscharter.org/concepts/opt/cbers-4

    Raises
    ------
    CalibrationError
        The XML has no coefficients, as WPM's of 2020, or the sun is below the horizon.
    """
    if scene.quantity == "surface_reflectance":
        return ReflectanceScale(
            dict.fromkeys(bands, SURFACE_SCALE), dict.fromkeys(bands, 0.0), "Brazil Data Cube, L4-SR: DN / 10,000"
        )
    roles = [f"xml-{b}" for b in bands]
    if any(role not in scene.metadata for role in roles):
        return None
    read = {b: cbers4a.read_scene(metadata_file(scene, f"xml-{b}")) for b in bands}
    first = next(iter(read.values()))
    gain: dict[str, float] = {}
    for band, found in read.items():
        number = cbers4a.CAMERAS[found.camera][_NAMES.index(band)]
        gain |= {band: complete(found.path, "absoluteCalibrationCoefficient", [number], found.gain)[number]}
        if abs(found.sun_elevation_deg - first.sun_elevation_deg) > 0.1:
            raise CalibrationError(
                f"the sun's elevation is {found.sun_elevation_deg:g} degrees, and {first.sun_elevation_deg:g} in"
                f" {first.path.name}",
                item=f"{found.path}: sunPosition/elevation",
                enough="bands of one scene",
                todo="fetch the scene's XML files again",
            )
    irradiance = {b: CBERS_4A.irradiance_of(scene.platform, b) for b in bands}
    return RadianceGain(
        gain=gain,
        bias=dict.fromkeys(bands, 0.0),
        irradiance={b: float(v) for b, v in irradiance.items() if v is not None},
        earth_sun_distance_au=earth_sun_distance_au(first.acquired),
        sun_elevation_deg=sun_up(first.path, "sunPosition/elevation", first.sun_elevation_deg),
        source=f"absoluteCalibrationCoefficient of {', '.join(f.path.name for f in read.values())}",
        record={"irradiance_source": "https://docs.disasterscharter.org/concepts/opt/cbers-4"},
    )


def _products(scene: str, xml: Mapping[str, Path]) -> list[Product]:
    read = {number: cbers4a.read_scene(path) for number, path in xml.items()}
    for number, path in xml.items():
        match = _XML.fullmatch(path.name)
        said = f"{read[number].camera} at level {read[number].level}"
        if match and (match["camera"].upper(), match["level"]) != (read[number].camera, read[number].level):
            raise refuse(path, "satellite/instrument and image/level", f"are {said}", f"what the name says, {scene}")
    surface = {n: p for n, path in xml.items() if (p := _image(path, _SURFACE)) is not None}
    numbers = {n: p for n, path in xml.items() if (p := _image(path)) is not None}
    if not surface and len(numbers) < len(xml):
        absent = next(path for n, path in xml.items() if n not in numbers)
        raise unreadable(str(absent.with_suffix(".tif")), "missing")
    found = []
    if numbers:
        level = f"L{next(iter(read.values())).level}-DN"
        found.append(_product(scene, level, {n: read[n] for n in numbers}, numbers))
    if surface:
        found.append(_product(f"{scene}_SR", "L4-SR", {n: read[n] for n in surface}, surface))
    return found


def _product(name: str, level: str, read: Mapping[str, cbers4a.CbersScene], images: Mapping[str, Path]) -> Product:
    meta = next(iter(read.values()))
    order = cbers4a.CAMERAS[meta.camera]
    expected = ExpectedGrid((meta.rows, meta.columns))
    surface = level.endswith("SR")
    files = [_file(n, images[n], _NAMES[order.index(n)], expected, meta, surface) for n in order if n in images]
    if surface and (mask := _mask(next(iter(images.values())))):
        files.append(ProductFile("CMASK", mask, expected=expected))
    return Product(
        id=name,
        sensor=CBERS_4A.id,
        level=level,
        platform="cbers-4a",
        instruments=(meta.camera.lower(),),
        start=meta.acquired,
        stop=meta.acquired,
        files=tuple(files),
        metadata={f"xml-{_NAMES[order.index(n)]}": scene.path for n, scene in read.items()},
        geolocation="affine",
        encoding="dn",
        properties={"view:sun_elevation": meta.sun_elevation_deg, "view:sun_azimuth": meta.sun_azimuth_deg},
    )


def _file(
    number: str, path: Path, band: str, expected: ExpectedGrid, meta: cbers4a.CbersScene, surface: bool
) -> ProductFile:
    scale = {band: SURFACE_SCALE} if surface else {}
    header = counts(path, ("int16",) if surface else ("uint16",))
    return ProductFile(
        f"BAND{number}",
        path,
        (band,),
        expected,
        nodata=-9999 if surface else 0,
        scale=scale,
        gsd_m=meta.pixel_m,
        header=header,
    )


def _image(xml: Path, suffix: str = "") -> Path | None:
    """The image beside a band's XML, with a suffix to its name."""
    wanted = [xml.with_name(f"{xml.stem}{suffix}{ending}") for ending in (".tif", ".TIF", ".tiff")]
    return next((p for p in wanted if p.exists()), None)


def _mask(image: Path) -> Path | None:
    path = image.with_name(re.sub(r"_BAND\d+_", "_CMASK_", image.name))
    return path if path.exists() and path != image else None
