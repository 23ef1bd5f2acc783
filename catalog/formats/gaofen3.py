"""Gaofen-3 L1A folders: a meta.xml and a two-band complex image per polarisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rasterio.rpc import RPC

from catalog.calibrate.complex_amplitude import amplitude_factor
from catalog.calibrate.constants import AmplitudeFactor
from catalog.errors import GeolocationError
from catalog.formats.product import ExpectedGrid, Product, ProductFile, by_polarisation
from catalog.metadata import gaofen3, rpb
from catalog.metadata.raster import unreadable
from catalog.scene import Scene, metadata_file
from catalog.sensors import GAOFEN_3


def products(folder: Path) -> tuple[Product, ...]:
    """A Gaofen-3 folder with its .meta.xml and a two-band image per polarisation; () where the folder is none."""
    found = sorted(p for p in folder.iterdir() if p.name.lower().endswith("meta.xml") and "GF3" in p.name.upper())
    if not found:
        return ()
    meta = gaofen3.read_meta(found[0])
    images = by_polarisation(folder)
    absent = [p for p in meta.polarisations if p not in images]
    if absent:
        stem = found[0].name.removesuffix(".meta.xml")
        raise unreadable(str(folder / f"{stem}_{absent[0]}.tiff"), "missing")
    expected = ExpectedGrid((meta.lines, meta.samples))
    spacing = max(meta.range_spacing_m, meta.azimuth_spacing_m)
    files = tuple(
        ProductFile(p, images[p], (p,), expected, nodata=0, complex_pair=True, gsd_m=spacing)
        for p in gaofen3.POLARISATIONS
        if p in meta.polarisations
    )
    beside = [(f"rpc-{p}", images[p].with_suffix(e)) for p in meta.polarisations for e in (".rpc", ".rpb")]
    product = Product(
        id=re.sub(r"[._]?meta$", "", found[0].stem),
        sensor=GAOFEN_3.id,
        level=meta.level,
        platform=meta.platform,
        instruments=("c-sar",),
        start=meta.start,
        stop=meta.stop,
        files=files,
        metadata={"meta": found[0]} | {role: path for role, path in beside if path.exists()},
        geolocation="rpc",
        encoding="complex",
        footprint_lonlat=meta.corners_lonlat,
        properties={
            "sar:instrument_mode": meta.mode,
            "sar:frequency_band": "C",
            "sar:center_frequency": meta.frequency_ghz,
            "sar:polarizations": list(meta.polarisations),
            "sar:product_type": "SLC",
            "sar:pixel_spacing_range": meta.range_spacing_m,
            "sar:pixel_spacing_azimuth": meta.azimuth_spacing_m,
            "sar:observation_direction": meta.look,
        },
    )
    return (product,)


def calibration(scene: Scene, bands: Sequence[str]) -> AmplitudeFactor | None:
    """QualifyValue and CalibrationConst per polarisation of the meta.xml; None without it."""
    if "meta" not in scene.metadata:
        return None
    found = gaofen3.read_meta(metadata_file(scene, "meta"))
    qualify = {b: found.qualify[b] for b in bands}
    constant = {b: found.constant_db[b] for b in bands}
    return AmplitudeFactor(
        factor=amplitude_factor(qualify, constant),
        source=f"QualifyValue and CalibrationConst of {Path(scene.metadata['meta']).name}",
        record={"qualify": qualify, "constant_db": constant, "full_scale": 32767.0},
    )


def geometry(scene: Scene) -> RPC:
    """Rational polynomials of the first channel's file."""
    role = next((r for r in sorted(scene.metadata) if r.startswith("rpc")), None)
    if role is None:
        raise GeolocationError(
            "a product in radar geometry has no rational polynomials",
            item=scene.id,
            enough="an .rpc or .rpb file beside each channel",
            todo="fetch the product whole",
        )
    return rpb.read_rpb(metadata_file(scene, role))
