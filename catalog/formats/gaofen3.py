"""Gaofen-3 folders: a meta.xml with a two-band complex image per polarisation at L1A, a detected one at L2."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from rasterio.rpc import RPC

from catalog.calibrate.complex_amplitude import amplitude_factor
from catalog.calibrate.constants import AmplitudeFactor, BackscatterConstant
from catalog.errors import GeolocationError
from catalog.formats.product import ExpectedGrid, Product, ProductFile, by_polarisation, checked_header
from catalog.metadata import gaofen3, rpb
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import GAOFEN_3


def products(folder: Path) -> tuple[Product, ...]:
    """A Gaofen-3 folder with its .meta.xml and an image per polarisation; () where the folder is none.

    At L1A an image is two bands in radar geometry, at L2 one band of detected amplitude on a map.
    """
    found = sorted(p for p in folder.iterdir() if p.name.lower().endswith("meta.xml") and "GF3" in p.name.upper())
    if not found:
        return ()
    meta = gaofen3.read_meta(found[0])
    images = by_polarisation(folder)
    absent = [p for p in meta.polarisations if p not in images]
    if absent:
        stem = found[0].name.removesuffix(".meta.xml")
        raise unreadable(str(folder / f"{stem}_{absent[0]}.tiff"), "missing")
    detected = meta.level == "L2"
    files = tuple(_image(images[p], p, meta) for p in gaofen3.POLARISATIONS if p in meta.polarisations)
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
        geolocation="affine" if detected else "rpc",
        encoding="dn" if detected else "complex",
        footprint_lonlat=() if detected else meta.corners_lonlat,
        properties={
            "sar:instrument_mode": meta.mode,
            "sar:frequency_band": "C",
            "sar:center_frequency": meta.frequency_ghz,
            "sar:polarizations": list(meta.polarisations),
            "sar:product_type": "GRD" if detected else "SLC",
            "sar:pixel_spacing_range": meta.range_spacing_m,
            "sar:pixel_spacing_azimuth": meta.azimuth_spacing_m,
            "sar:observation_direction": meta.look,
        },
    )
    return (product,)


def _image(path: Path, polarisation: str, meta: gaofen3.Gaofen3Metadata) -> ProductFile:
    detected = meta.level == "L2"
    return ProductFile(
        polarisation,
        path,
        (polarisation,),
        None if detected else ExpectedGrid((meta.lines, meta.samples)),
        nodata=0,
        complex_pair=not detected,
        gsd_m=max(meta.range_spacing_m, meta.azimuth_spacing_m),
        header=checked_header(path, "real"),
    )


def calibration(scene: Scene, bands: Sequence[str]) -> AmplitudeFactor | BackscatterConstant | None:
    """QualifyValue and CalibrationConst per polarisation of the meta.xml, by the full scale of its level.

    L1A keeps its phase: S = (I + iQ) Q / 32767 10^(-K / 20). L2 is detected: sigma nought = DN^2 10^(K' / 10) with
    K' = 20 log10(Q / 65535) - K. None without the meta.xml.
    """
    if "meta" not in scene.metadata:
        return None
    found = gaofen3.read_meta(metadata_file(scene, "meta"))
    absent = [b for b in bands if b not in found.qualify]
    if absent:
        raise refuse(
            found.path, "QualifyValue and CalibrationConst", f"have no {', '.join(absent)}", "both per channel"
        )
    qualify = {b: found.qualify[b] for b in bands}
    constant = {b: found.constant_db[b] for b in bands}
    factor = amplitude_factor(qualify, constant, found.full_scale)
    source = f"QualifyValue and CalibrationConst of {Path(scene.metadata['meta']).name}"
    record = {"qualify": qualify, "calibration_const_db": constant, "full_scale": found.full_scale}
    if scene.encoding == "complex":
        return AmplitudeFactor(factor, source, record)
    return BackscatterConstant({b: 20 * math.log10(f) for b, f in factor.items()}, source, record)


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
