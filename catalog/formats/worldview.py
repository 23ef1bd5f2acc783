"""WorldView-2 and 3 deliveries: an IMD or its XML beside each image; radiance by gain and effective bandwidth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rasterio.rpc import RPC

from catalog.calibrate.constants import RadianceGain
from catalog.calibrate.reflectance import earth_sun_distance_au
from catalog.errors import AssetError, CalibrationError, GeolocationError
from catalog.formats.optics import counts, sun_up
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.metadata import rpb, worldview
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import WORLDVIEW

_DELIVERY = re.compile(r"\d\d[A-Z]{3}\d{8}-.+", re.IGNORECASE)
"""Names of the vendor's files, as in 10MAY01103045-M2AS-052301614010_01_P001."""


def products(folder: Path) -> tuple[Product, ...]:
    """Each IMD, or its XML where there is no IMD, with the image of the same name, or the only one; () without."""
    files = sorted(folder.iterdir())
    found = {p.stem: p for p in files if p.suffix.upper() == ".XML" and _DELIVERY.fullmatch(p.stem)}
    found |= {p.stem: p for p in files if p.suffix.upper() == ".IMD"}
    return tuple(_product(folder, found[stem], alone=len(found) == 1) for stem in sorted(found))


def calibration(scene: Scene, bands: Sequence[str]) -> RadianceGain | None:
    """absCalFactor over effectiveBandwidth of the IMD; None without it.

    L = DN absCalFactor / effectiveBandwidth (Radiometric Use of WorldView-3 Imagery, 4.1), and the irradiance of the
    satellite after Thuillier (2003), from the vendor's Absolute Radiometric Calibration 2016v0. The gain and offset by
    which that note adjusts the factors for each year are in no metadata file and are not applied; the record says so.

    Raises
    ------
    CalibrationError
        Naming the bands without a factor or an irradiance, or the sun's elevation where it is down.
    """
    if "imd" not in scene.metadata:
        return None
    path = metadata_file(scene, "imd")
    found = worldview.read_imd(path)
    gain = {b.name: b.abs_cal_factor / b.effective_bandwidth_um for b in found.bands}
    irradiance = {b: WORLDVIEW.irradiance_of(found.platform, b) for b in bands}
    missing = [b for b in bands if b not in gain or irradiance[b] is None]
    if missing:
        raise CalibrationError(
            f"no calibration factor or solar irradiance for {', '.join(missing)}",
            item=f"{path}: BAND_",
            enough="absCalFactor and effectiveBandwidth per band in the IMD",
            todo="fetch the product with its IMD",
        )
    return RadianceGain(
        gain={b: gain[b] for b in bands},
        bias=dict.fromkeys(bands, 0.0),
        irradiance={b: float(v) for b, v in irradiance.items() if v is not None},
        earth_sun_distance_au=earth_sun_distance_au(found.acquired),
        sun_elevation_deg=sun_up(path, "meanSunEl", found.sun_elevation_deg),
        source=f"absCalFactor and effectiveBandwidth of {path.name}",
        record={"vendor_adjustment": _adjustment(found.platform, bands)},
    )


def _adjustment(platform: str, bands: Sequence[str]) -> dict[str, object]:
    """The vendor's gain and offset of those bands, as a record of what was left out."""
    table = worldview.ADJUSTMENT.get(platform, {})
    listed = {b: table[b] for b in bands if b in table}
    return {
        "applied": False,
        "gain": {b: gain for b, (gain, _) in listed.items()},
        "offset": {b: offset for b, (_, offset) in listed.items()},
        "source": worldview.ADJUSTMENT_SOURCE,
    }


def geometry(scene: Scene) -> RPC:
    """Rational polynomials of the image's RPB."""
    if "rpb" not in scene.metadata:
        raise GeolocationError(
            "a product in image geometry has no rational polynomials",
            item=scene.id,
            enough="an RPB file beside the image",
            todo="fetch the product whole",
        )
    return rpb.read_rpb(metadata_file(scene, "rpb"))


def _product(folder: Path, imd: Path, alone: bool) -> Product:
    meta = worldview.read_imd(imd)
    if meta.platform not in WORLDVIEW.platforms:
        raise refuse(imd, "satId", f"is of {meta.platform}", f"one of {', '.join(WORLDVIEW.platforms)}")
    if not {b.name for b in meta.bands} & {b.name for b in WORLDVIEW.bands}:
        raise refuse(imd, "BAND_", f"groups are {[b.name for b in meta.bands]}", "the multispectral image's IMD")
    image = _image(folder, imd, alone)
    polynomials = next((p for p in sorted(folder.iterdir()) if p.name.upper() == f"{imd.stem}.RPB".upper()), None)
    cloud = {} if meta.cloud_cover is None else {"eo:cloud_cover": meta.cloud_cover}
    nadir = {} if meta.off_nadir_deg is None else {"view:off_nadir": meta.off_nadir_deg}
    return Product(
        id=imd.stem,
        sensor="worldview",
        level=meta.level,
        platform=meta.platform,
        instruments=("wv110" if meta.platform == "worldview-2" else "wv3",),
        start=meta.acquired,
        stop=meta.acquired,
        files=(
            ProductFile(
                "image",
                image,
                tuple(band.name for band in meta.bands),
                ExpectedGrid((meta.rows, meta.columns), meta.crs),
                gsd_m=meta.gsd_m,
                header=counts(image),
            ),
        ),
        metadata={"imd": imd} | ({} if polynomials is None else {"rpb": polynomials}),
        geolocation="affine" if meta.crs else "rpc",
        encoding="dn",
        footprint_lonlat=meta.bands[0].corners_lonlat,
        properties={
            **cloud,
            **nadir,
            "view:sun_elevation": meta.sun_elevation_deg,
            "view:sun_azimuth": meta.sun_azimuth_deg,
        },
    )


def _image(folder: Path, imd: Path, alone: bool) -> Path:
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff"))
    named = [p for p in images if p.stem == imd.stem] or (images if alone and len(images) == 1 else [])
    if not named:
        raise AssetError(
            "an IMD has no image", item=str(imd), enough=f"{imd.stem}.TIF beside it", todo="fetch the image"
        )
    return named[0]
