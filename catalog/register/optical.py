"""Folders of optical products: Sentinel-2 SAFE and AWS tile, Landsat Collection 2, WorldView with IMD."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.errors import AssetError
from catalog.metadata import landsat, sentinel2, worldview
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.register.product import ExpectedGrid, Product, ProductFile
from catalog.sensors import LANDSAT, SENTINEL_2

_S2_IMAGE = re.compile(r"(?:^|_)(B\d{2}|B8A|SCL)(?:_(\d{2})m)?$")
_S2_ENDINGS = (".jp2", ".tif", ".tiff")


def sentinel2_safe(folder: Path) -> tuple[Product, ...]:
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
    return (_sentinel2(product.product_id, product, tile, images, properties),)


def sentinel2_aws(folder: Path) -> tuple[Product, ...]:
    """A tile of the AWS layout, metadata.xml beside tileInfo.json; () where the folder is none."""
    if not (folder / "tileInfo.json").exists() or not (folder / "metadata.xml").exists():
        return ()
    tile = sentinel2.read_tile(folder / "metadata.xml")
    if tile.level == "L1C":
        images = [folder / band for band in sentinel2.BAND_NAMES]
    else:
        images = [p.with_name(f"{p.stem}_{p.parent.name[1:]}") for p in sorted(folder.glob("R*m/*.jp2"))]
    return (_sentinel2(tile.tile_id, None, tile, images, {}),)


def _sentinel2(
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
        files=tuple(_sentinel2_file(n, r, p, tile, radiometry) for (n, r), p in _finest(images).items()),
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
        if match := _S2_IMAGE.search(image.name):
            found.setdefault(match[1], {})[int(match[2] or gsd[match[1]])] = image
    chosen: dict[tuple[str, int], Path] = {}
    for name in (n for n in gsd if n in found):
        resolution = gsd[name] if gsd[name] in found[name] else min(found[name])
        chosen[name, resolution] = found[name][resolution]
    return chosen


def _sentinel2_file(
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
        for ending in _S2_ENDINGS:
            if (path := stem.with_name(stem.name + ending)).exists():
                return path
    raise unreadable(str(image.with_name(image.name + _S2_ENDINGS[0])), "missing")


def landsat_c2(folder: Path) -> tuple[Product, ...]:
    """A Collection 2 folder with an MTL; () where the folder is none."""
    found = [p for ending in ("json", "xml", "txt") for p in sorted(folder.glob(f"*_MTL.{ending}"))]
    if not found:
        return ()
    mtl = landsat.read_mtl(found[0])
    expected = ExpectedGrid((mtl.lines, mtl.samples), mtl.crs, mtl.transform)
    bands = [b.name for b in LANDSAT.bands if b.name in mtl.files]
    files = [
        ProductFile(b, folder / mtl.files[b], (b,), expected, scale={b: mtl.mult[b]}, offset={b: mtl.add[b]})
        for b in bands
    ]
    # Bit 0 of QA_PIXEL is fill, so 1 stands for no data though the files name none.
    layers = (("QA_PIXEL", 1), ("QA_RADSAT", None))
    files += [ProductFile(n, folder / mtl.files[n], expected=expected, nodata=v) for n, v in layers if n in mtl.files]
    product = Product(
        id=mtl.product_id,
        sensor=LANDSAT.id,
        level=mtl.level,
        platform=mtl.platform,
        instruments=mtl.instruments,
        start=mtl.acquired,
        stop=mtl.acquired,
        files=tuple(files),
        metadata={"mtl": found[0]},
        geolocation="affine",
        encoding="dn",
        properties={
            "eo:cloud_cover": mtl.cloud_cover,
            "view:sun_elevation": mtl.sun_elevation_deg,
            "view:sun_azimuth": mtl.sun_azimuth_deg % 360.0,
            "ringmoe:tile": f"WRS2-{mtl.wrs[0]:03d}{mtl.wrs[1]:03d}",
            "ringmoe:offset_source": f"REFLECTANCE_ADD of {found[0].name}",
        },
    )
    return (product,)


def worldview_imd(folder: Path) -> tuple[Product, ...]:
    """Each IMD of a folder with the image of the same name, or the only one; () where the folder holds no IMD."""
    found = sorted(p for p in folder.iterdir() if p.suffix.upper() == ".IMD")
    return tuple(_worldview(folder, imd, alone=len(found) == 1) for imd in found)


def _worldview(folder: Path, imd: Path, alone: bool) -> Product:
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
