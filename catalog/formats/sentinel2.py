"""Sentinel-2: SAFE folders and tiles of the AWS layout; reflectance with the offset of the product."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalog.calibrate.constants import ReflectanceScale
from catalog.calibrate.offset import Policy, settle, weigh
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.formats.sentinel2_offset import claims_of, verdicts_of
from catalog.metadata import sentinel2
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.scene import Scene
from catalog.sensors import SENTINEL_2

_IMAGE = re.compile(r"(?:^|_)(B\d{2}|B8A|SCL)(?:_(\d{2})m)?$")
_ENDINGS = (".jp2", ".tif", ".tiff")


def products(folder: Path) -> tuple[Product, ...]:
    """A SAFE with MTD_MSIL1C.xml or MTD_MSIL2A.xml, or a tile of the AWS layout; () where the folder is neither."""
    return _safe(folder) or _aws(folder)


def calibration(scene: Scene, bands: Sequence[str]) -> ReflectanceScale:
    """Scale and offset where claims and pixels do not contradict each other."""
    return resolve_offset(scene, bands, "error")


def resolve_offset(scene: Scene, bands: Sequence[str], policy: Policy) -> ReflectanceScale:
    """Scale and offset by all that speaks of them, a contradiction settled by policy.

    Raises
    ------
    MetadataError, CalibrationError, AssetError
        Naming the file or item and the field, or the claims that cannot all be true.
    """
    heard = claims_of(scene)
    known = list(scene.bands)
    verdicts = verdicts_of(scene, heard.claims, heard.quantification)
    found = settle(weigh(heard.claims, verdicts, known, heard.notes), policy, scene.id)
    return ReflectanceScale(
        scale=dict.fromkeys(bands, 1 / heard.quantification),
        offset={b: found.offset_dn[b] / heard.quantification for b in bands},
        source=found.source,
        record={
            "quantification": heard.quantification,
            "quantification_source": heard.scale_source,
            **found.record(bands, heard.quantification),
        },
    )


def _safe(folder: Path) -> tuple[Product, ...]:
    """A SAFE with MTD_MSIL1C.xml or MTD_MSIL2A.xml; () where the folder is none."""
    found = sorted(folder.glob("MTD_MSIL*.xml"))
    if not found:
        return ()
    product = sentinel2.read_product(found[0])
    tiles = sorted(folder.glob("GRANULE/*/MTD_TL.xml"))
    if len(tiles) != 1:
        raise refuse(folder, "GRANULE/*/MTD_TL.xml", f"is there {len(tiles)} times", "one granule with its MTD_TL.xml")
    tile = sentinel2.read_tile(tiles[0])
    listed = [folder / image for image in product.images]
    images = listed or [p.with_suffix("") for p in sorted(tiles[0].parent.glob("IMG_DATA/**/*.*"))]
    properties = {"sat:relative_orbit": product.relative_orbit, "sat:orbit_state": product.orbit_state}
    return (_product(product.product_id, product, tile, images, properties),)


def _aws(folder: Path) -> tuple[Product, ...]:
    """A tile of the AWS layout, metadata.xml beside tileInfo.json; () where the folder is none."""
    if not (folder / "tileInfo.json").exists() or not (folder / "metadata.xml").exists():
        return ()
    tile = sentinel2.read_tile(folder / "metadata.xml")
    if tile.level == "L1C":
        images = [folder / band for band in sentinel2.BAND_NAMES]
    else:
        images = [p.with_name(f"{p.stem}_{p.parent.name[1:]}") for p in sorted(folder.glob("R*m/*.jp2"))]
    return (_product(tile.tile_id, None, tile, images, {}),)


def _product(
    scene_id: str,
    product: sentinel2.ProductMetadata | None,
    tile: sentinel2.TileMetadata,
    images: list[Path],
    properties: Mapping[str, Any],
) -> Product:
    known = product or tile
    radiometry = sentinel2.radiometry(product, tile)
    sun = {"view:sun_elevation": round(90.0 - tile.sun_zenith_deg, 6), "view:sun_azimuth": tile.sun_azimuth_deg}
    cloud = {} if known.cloud_cover is None else {"eo:cloud_cover": known.cloud_cover}
    metadata = {"tile": tile.path} | ({} if product is None else {"product": product.path})
    return Product(
        id=scene_id,
        sensor=SENTINEL_2.id,
        level=known.level,
        platform=known.platform,
        instruments=("msi",),
        start=known.sensing_time,
        stop=known.sensing_time,
        files=tuple(_file(n, r, p, tile, radiometry) for (n, r), p in _finest(images).items()),
        metadata=metadata,
        geolocation="affine",
        encoding="dn",
        properties={
            **properties,
            **sun,
            **cloud,
            "ringmoe:tile": f"MGRS-{tile.mgrs}",
            "ringmoe:baseline": known.baseline,
            "ringmoe:offset_source": radiometry.source,
        },
    )


def _finest(images: list[Path]) -> dict[tuple[str, int], Path]:
    """(Layer, resolution) to image: each band once, at its own resolution or the next finest that is listed."""
    gsd = {b.name: int(b.gsd_m) for b in SENTINEL_2.bands} | {"SCL": 20}
    found: dict[str, dict[int, Path]] = {}
    for image in images:
        if match := _IMAGE.search(image.name):
            found.setdefault(match[1], {})[int(match[2] or gsd[match[1]])] = image
    chosen: dict[tuple[str, int], Path] = {}
    for name in (n for n in gsd if n in found):
        resolution = gsd[name] if gsd[name] in found[name] else min(found[name])
        chosen[name, resolution] = found[name][resolution]
    return chosen


def _file(
    name: str, resolution: int, image: Path, tile: sentinel2.TileMetadata, radiometry: sentinel2.Radiometry
) -> ProductFile:
    if resolution not in tile.grids:
        raise refuse(tile.path, f"Geoposition resolution={resolution}", "is missing")
    grid = tile.grids[resolution]
    expected = ExpectedGrid((grid.rows, grid.cols), tile.crs, grid.transform)
    path = _with_ending(image)
    if name == "SCL":
        return ProductFile(name, path, expected=expected, nodata=0, gsd_m=resolution)
    unit = 1.0 / radiometry.quantification
    offset = {name: radiometry.offsets.get(name, 0.0) / radiometry.quantification}
    return ProductFile(name, path, (name,), expected, scale={name: unit}, offset=offset, gsd_m=resolution)


def _with_ending(image: Path) -> Path:
    """The file of an image listed without its ending; the AWS layout keeps resolutions in folders."""
    folders = [image]
    if match := re.fullmatch(r"(.+)_(\d{2}m)", image.name):
        folders.append(image.with_name(match[1]))
    for stem in folders:
        for ending in _ENDINGS:
            if (path := stem.with_name(stem.name + ending)).exists():
                return path
    raise unreadable(str(image.with_name(image.name + _ENDINGS[0])), "missing")
