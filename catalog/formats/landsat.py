"""Landsat Collection 2 folders with an MTL; reflectance at level 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from catalog.calibrate.constants import ReflectanceScale
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.metadata import landsat
from catalog.scene import Scene, metadata_file
from catalog.sensors import LANDSAT


def calibration(scene: Scene, bands: Sequence[str]) -> ReflectanceScale | None:
    """REFLECTANCE_MULT and REFLECTANCE_ADD of the MTL, level 1 still to be divided by the sun's; None without it."""
    if "mtl" not in scene.metadata:
        return None
    found = landsat.read_mtl(metadata_file(scene, "mtl"))
    return ReflectanceScale(
        scale={b: found.mult[b] for b in bands},
        offset={b: found.add[b] for b in bands},
        source=f"REFLECTANCE_MULT and REFLECTANCE_ADD of {Path(scene.metadata['mtl']).name}",
        sun_elevation_deg=None if scene.quantity == "surface_reflectance" else found.sun_elevation_deg,
    )


def products(folder: Path) -> tuple[Product, ...]:
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
