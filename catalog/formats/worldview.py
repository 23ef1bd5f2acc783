"""WorldView-2 and 3 deliveries: an IMD beside each image; radiance by gain and effective bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from catalog.calibrate.constants import RadianceGain
from catalog.calibrate.reflectance import earth_sun_distance_au
from catalog.errors import AssetError, CalibrationError
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.metadata import worldview
from catalog.scene import Scene, metadata_file
from catalog.sensors import WORLDVIEW


def products(folder: Path) -> tuple[Product, ...]:
    """Each IMD of a folder with the image of the same name, or the only one; () where the folder holds no IMD."""
    found = sorted(p for p in folder.iterdir() if p.suffix.upper() == ".IMD")
    return tuple(_product(folder, imd, alone=len(found) == 1) for imd in found)


def calibration(scene: Scene, bands: Sequence[str]) -> RadianceGain | None:
    """absCalFactor over effectiveBandwidth of the IMD; None without it."""
    if "imd" not in scene.metadata:
        return None
    found = worldview.read_imd(metadata_file(scene, "imd"))
    gain = {b.name: b.abs_cal_factor / b.effective_bandwidth_um for b in found.bands}
    irradiance = {b: WORLDVIEW.band(b).irradiance for b in bands}
    missing = [b for b in bands if b not in gain or irradiance[b] is None]
    if missing:
        raise CalibrationError(
            f"no calibration factor or solar irradiance for {', '.join(missing)}",
            item=scene.id,
            enough="absCalFactor and effectiveBandwidth per band in the IMD",
            todo="fetch the product with its IMD",
        )
    return RadianceGain(
        gain={b: gain[b] for b in bands},
        bias=dict.fromkeys(bands, 0.0),
        irradiance={b: float(v) for b, v in irradiance.items() if v is not None},
        earth_sun_distance_au=earth_sun_distance_au(found.acquired),
        sun_elevation_deg=found.sun_elevation_deg,
        source=f"absCalFactor and effectiveBandwidth of {Path(scene.metadata['imd']).name}",
    )


def _product(folder: Path, imd: Path, alone: bool) -> Product:
    meta = worldview.read_imd(imd)
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff"))
    named = [p for p in images if p.stem == imd.stem] or (images if alone and len(images) == 1 else [])
    if not named:
        raise AssetError(
            "an IMD has no image", item=str(imd), enough=f"{imd.stem}.TIF beside it", todo="fetch the image"
        )
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
                named[0],
                tuple(band.name for band in meta.bands),
                ExpectedGrid((meta.rows, meta.columns), meta.crs),
                gsd_m=meta.gsd_m,
            ),
        ),
        metadata={"imd": imd},
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
