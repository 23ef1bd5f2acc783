"""Sentinel-1 GRD SAFE folders; backscatter by look-up tables, placed by orbit and timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from catalog.calibrate.constants import BackscatterTables, GainVectors, LinearPower, NoiseVectors
from catalog.calibrate.lut import AzimuthBlock
from catalog.errors import MetadataError, UnknownProduct
from catalog.formats.product import ExpectedGrid, Product, ProductFile
from catalog.geocode import RadarGrid, bistatic_reference_s
from catalog.metadata import sentinel1, sentinel1_luts
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import SENTINEL_1

_TIFF = (".tif", ".tiff")


def products(folder: Path) -> tuple[Product, ...]:
    """A GRD SAFE with manifest.safe and annotation; () where the folder is none, an SLC among them.

    A polarisation without its noise file is registered; its calibration then says that the noise is left in.
    """
    if not (folder / "manifest.safe").exists() or not (folder / "annotation").is_dir():
        return ()
    manifest = sentinel1.read_manifest(folder / "manifest.safe")
    if manifest.product_type == "SLC":
        return ()
    if manifest.product_type != "GRD":
        raise UnknownProduct(
            f"a Sentinel-1 {manifest.product_type} cannot be registered",
            item=str(folder),
            enough="the GRD or SLC of the same acquisition",
            todo="fetch one of the two",
        )
    metadata = {"manifest": manifest.path}
    files, notes = [], []
    for path in sorted((folder / "annotation").glob("*.xml")):
        note = sentinel1.read_annotation(path)
        notes.append(note)
        metadata |= tables_beside(path, note.polarisation)
        files.append(_measurement(folder, path.stem, note))
    if not notes:
        raise refuse(folder / "annotation", "annotation/*.xml", "is missing", "one annotation per polarisation")
    return (_product(folder, manifest, notes[0], tuple(files), metadata),)


def tables_beside(annotation: Path, polarisation: str) -> dict[str, Path]:
    """Role to file of one polarisation's annotation and tables; the noise file may be missing.

    Raises
    ------
    MetadataError
        When the calibration file is missing.
    """
    tables = annotation.parent / "calibration"
    table, noise = (tables / f"{kind}-{annotation.name}" for kind in ("calibration", "noise"))
    if not table.exists():
        raise refuse(table, "the file", "is missing", "the product's calibration file beside its annotation")
    found = {f"annotation-{polarisation}": annotation, f"calibration-{polarisation}": table}
    return found | ({f"noise-{polarisation}": noise} if noise.exists() else {})


def calibration(scene: Scene, bands: Sequence[str]) -> BackscatterTables | LinearPower | None:
    """The tables of the scene's quantity, and of the noise where all polarisations have one; None without tables.

    A terrain-corrected archive (level RTC) ships linear power.
    """
    if scene.level == "RTC":
        return LinearPower("processing:level RTC: linear power, terrain corrected by the provider")
    tables = calibration_tables(scene, bands)
    if not tables:
        return None
    silent = [b for b in bands if f"noise-{b}" not in scene.metadata]
    return BackscatterTables(
        gain={b: GainVectors(t.lines, t.pixels, t.gain(scene.quantity)) for b, t in tables.items()},
        noise={} if silent else {b: noise_vectors(read_noise(scene, b)) for b in bands},
        source=", ".join(t.path.name for t in tables.values()),
        record={
            "table": scene.quantity,
            **({"noise": f"left in: no noise file of {', '.join(silent)}"} if silent else {}),
        },
    )


def calibration_tables(scene: Scene, bands: Sequence[str]) -> dict[str, sentinel1_luts.CalibrationTable]:
    """Polarisation to its calibration file; empty where the scene came without any.

    Raises
    ------
    MetadataError
        When a polarisation asked for has none, or its file is of another polarisation.
    """
    if not any(role.startswith("calibration-") for role in scene.metadata):
        return {}
    missing = [b for b in bands if f"calibration-{b}" not in scene.metadata]
    if missing:
        raise MetadataError(
            f"{', '.join(missing)} has no calibration file",
            item=f"{scene.id}: {', '.join(r for r in sorted(scene.metadata) if r.startswith('calibration-'))}",
            enough="a calibration file per polarisation asked for",
            todo="register the product whole, or ask for the polarisations it has",
        )
    tables = {b: sentinel1_luts.read_calibration(metadata_file(scene, f"calibration-{b}")) for b in bands}
    for band, table in tables.items():
        _check_polarisation(table.path, table.polarisation, band)
    return tables


def read_noise(scene: Scene, band: str) -> sentinel1_luts.NoiseTable:
    """The noise file of a polarisation, refused where it is of another."""
    table = sentinel1_luts.read_noise(metadata_file(scene, f"noise-{band}"))
    _check_polarisation(table.path, table.polarisation, band)
    return table


def _check_polarisation(path: Path, said: str, band: str) -> None:
    if said != band:
        raise refuse(path, "adsHeader/polarisation", f"is {said}, the image is {band}", f"the file of {band}")


def noise_vectors(table: sentinel1_luts.NoiseTable) -> NoiseVectors:
    """A noise file as the law takes it."""
    blocks = tuple(
        AzimuthBlock(v.first_line, v.last_line, v.first_pixel, v.last_pixel, v.lines, v.lut)
        for v in table.azimuth_vectors
    )
    rows = table.range_vectors
    return NoiseVectors([v.line for v in rows], [v.pixels for v in rows], [v.lut for v in rows], blocks)


def geometry(scene: Scene) -> RadarGrid:
    """Orbit, timing and range law of the first polarisation's annotation, which all of them share."""
    role = next(r for r in sorted(scene.metadata) if r.startswith("annotation-"))
    note = sentinel1.read_annotation(metadata_file(scene, role))
    first = (np.datetime64(note.start.replace(tzinfo=None), "ns") - note.reference_time) / np.timedelta64(1, "s")
    grid = RadarGrid(
        orbit_time_s=note.orbit_time_s,
        orbit_position_m=note.orbit_position_m,
        orbit_velocity_m_s=note.orbit_velocity_m_s,
        first_line_s=float(first),
        line_interval_s=note.azimuth_time_interval_s,
        conversion_time_s=np.array([c.azimuth_time_s for c in note.conversions]),
        conversion_origin_m=np.array([c.sr0_m for c in note.conversions]),
        conversion_coefficients=np.array([c.srgr for c in note.conversions]),
        range_pixel_spacing_m=note.range_pixel_spacing_m,
        lines=note.lines,
        samples=note.samples,
    )
    points = note.geolocation
    bulk_s = bistatic_reference_s(
        grid, points.line.ravel(), points.azimuth_time_s.ravel(), points.slant_range_time_s.ravel()
    )
    return replace(grid, bistatic_reference_s=bulk_s)


def _measurement(folder: Path, stem: str, note: sentinel1.Annotation) -> ProductFile:
    found = [p for ending in _TIFF if (p := folder / "measurement" / (stem + ending)).exists()]
    if not found:
        raise unreadable(str(folder / "measurement" / f"{stem}.tiff"), "missing")
    spacing = max(note.range_pixel_spacing_m, note.azimuth_pixel_spacing_m)
    expected = ExpectedGrid((note.lines, note.samples))
    return ProductFile(note.polarisation, found[0], (note.polarisation,), expected, gsd_m=spacing)


def _product(
    folder: Path,
    manifest: sentinel1.Manifest,
    note: sentinel1.Annotation,
    files: tuple[ProductFile, ...],
    metadata: Mapping[str, Path],
) -> Product:
    return Product(
        id=folder.name.removesuffix(".SAFE"),
        sensor=SENTINEL_1.id,
        level="GRD",
        platform=manifest.platform,
        instruments=("c-sar",),
        start=manifest.start,
        stop=manifest.stop,
        files=files,
        metadata=metadata,
        geolocation="radar-grid",
        encoding="dn",
        footprint_lonlat=manifest.footprint_lonlat,
        properties={
            "sar:instrument_mode": manifest.mode,
            "sar:frequency_band": "C",
            "sar:center_frequency": round(note.radar_frequency_hz / 1e9, 9),
            "sar:polarizations": [f.key for f in files],
            "sar:product_type": "GRD",
            "sar:pixel_spacing_range": note.range_pixel_spacing_m,
            "sar:pixel_spacing_azimuth": note.azimuth_pixel_spacing_m,
            "sar:observation_direction": "right",
            "sat:orbit_state": manifest.pass_direction,
            "sat:relative_orbit": manifest.relative_orbit,
            "sat:absolute_orbit": manifest.absolute_orbit,
            "view:incidence_angle": note.incidence_mid_deg,
        },
    )
