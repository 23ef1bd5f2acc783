"""Sentinel-1 SLC SAFE folders: one product per swath, complex amplitude by look-up tables, bursts kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from catalog.calibrate.constants import AmplitudeTables, GainVectors
from catalog.errors import GeolocationError
from catalog.formats.product import ExpectedGrid, Product, ProductFile, checked_header
from catalog.formats.sentinel1 import calibration_tables, read_noise, tables_beside
from catalog.geocode import RadarGrid, bistatic_reference_s
from catalog.geocode.range_doppler import SPEED_OF_LIGHT_M_S
from catalog.metadata import sentinel1, sentinel1_bursts, sentinel1_luts
from catalog.metadata.raster import unreadable
from catalog.metadata.xml import refuse
from catalog.scene import Scene, metadata_file
from catalog.sensors import SENTINEL_1_SLC


def products(folder: Path) -> tuple[Product, ...]:
    """An SLC SAFE as one product per swath, its polarisations on one grid; () where the folder is none.

    Raises
    ------
    MetadataError, AssetError
        Naming the file and the field: a table or measurement that is missing, pixels that are not complex.
    """
    if not (folder / "manifest.safe").exists() or not (folder / "annotation").is_dir():
        return ()
    manifest = sentinel1.read_manifest(folder / "manifest.safe")
    if manifest.product_type != "SLC":
        return ()
    swaths: dict[str, list[sentinel1.Annotation]] = defaultdict(list)
    for path in sorted((folder / "annotation").glob("*.xml")):
        note = sentinel1.read_annotation(path)
        swaths[note.swath].append(note)
    if not swaths:
        raise refuse(folder / "annotation", "annotation/*.xml", "is missing", "one annotation per swath and channel")
    return tuple(_product(folder, manifest, swath, notes) for swath, notes in sorted(swaths.items()))


def calibration(scene: Scene, bands: Sequence[str]) -> AmplitudeTables | None:
    """The tables of the scene's quantity with the noise level beside them; None without tables.

    The noise is a power: it cannot be taken off a complex number, so its level goes into the record.
    """
    tables = calibration_tables(scene, bands)
    if not tables:
        return None
    gain = scene.quantity.removesuffix("_amplitude")
    silent = [b for b in bands if f"noise-{b}" not in scene.metadata]
    level = {b: noise_level_db(read_noise(scene, b), tables[b], gain) for b in bands if b not in silent}
    return AmplitudeTables(
        gain={b: GainVectors(t.lines, t.pixels, t.gain(gain)) for b, t in tables.items()},
        source=", ".join(t.path.name for t in tables.values()),
        record={
            "table": gain,
            "noise": "left in: a power cannot be taken off a complex number",
            "noise_level_db": level,
            **({"noise_level_unknown": silent} if silent else {}),
        },
    )


def noise_level_db(
    noise: sentinel1_luts.NoiseTable, table: sentinel1_luts.CalibrationTable, quantity: str
) -> dict[str, float]:
    """Thermal noise of a swath as backscatter: 10 log10(range noise times azimuth factor / A^2).

    Taken at the pixels of the noise vectors with the calibration vector of the nearest line; the azimuth factor is the
    mean over its blocks.

    Returns
    -------
    Least, median and greatest level in dB; NaN-free, and without the vectors' zeros.
    """
    factor = float(np.mean([v.lut.mean() for v in noise.azimuth_vectors])) if noise.azimuth_vectors else 1.0
    levels = []
    for vector in noise.range_vectors:
        nearest = int(np.abs(table.lines - vector.line).argmin())
        gain = np.interp(vector.pixels, table.pixels, table.gain(quantity)[nearest])
        levels.append(vector.lut[vector.lut > 0] * factor / gain[vector.lut > 0] ** 2)
    power = np.concatenate(levels)
    if power.size == 0:
        raise refuse(noise.path, "noiseRangeLut", "holds nothing above 0", "noise powers above 0")
    low, middle, high = 10 * np.log10(np.percentile(power, [0, 50, 100]))
    return {"min": round(float(low), 4), "median": round(float(middle), 4), "max": round(float(high), 4)}


def geometry(scene: Scene) -> RadarGrid:
    """Orbit, timing and slant range of a strip map image; of a swath in bursts there is one grid per burst.

    Raises
    ------
    GeolocationError
        For a swath in bursts, whose lines are no one sequence of times.
    """
    grids = burst_geometry(scene)
    if len(grids) > 1:
        raise GeolocationError(
            f"the swath has {len(grids)} bursts that overlap in time: no one grid places its lines",
            item=scene.id,
            enough="one burst, placed by its own grid",
            todo="take catalog.formats.sentinel1_slc.burst_geometry, burst by burst",
        )
    return grids[0]


def burst_geometry(scene: Scene) -> tuple[RadarGrid, ...]:
    """One RadarGrid per burst, lines counted from the burst's first; a strip map image is one burst.

    Samples lie in slant range, so the range law is the slant range itself, counted from the first sample.
    """
    role = next(r for r in sorted(scene.metadata) if r.startswith("annotation-"))
    note = sentinel1.read_annotation(metadata_file(scene, role))
    timing = sentinel1_bursts.read_bursts(note.path)
    near_m = note.slant_range_time_s * SPEED_OF_LIGHT_M_S / 2
    starts_s = [b.azimuth_time_s for b in timing.bursts] or [0.0]
    grids = [
        RadarGrid(
            orbit_time_s=note.orbit_time_s,
            orbit_position_m=note.orbit_position_m,
            orbit_velocity_m_s=note.orbit_velocity_m_s,
            first_line_s=start_s,
            line_interval_s=note.azimuth_time_interval_s,
            conversion_time_s=np.array([start_s]),
            conversion_origin_m=np.array([near_m]),
            conversion_coefficients=np.array([[0.0, 1.0]]),
            range_pixel_spacing_m=SPEED_OF_LIGHT_M_S / (2 * note.range_sampling_rate_hz),
            lines=timing.lines if timing.bursts else note.lines,
            samples=note.samples,
        )
        for start_s in starts_s
    ]
    points = note.geolocation
    first = points.line < grids[0].lines
    bulk_s = bistatic_reference_s(
        grids[0], points.line[first], points.azimuth_time_s[first], points.slant_range_time_s[first]
    )
    return tuple(replace(grid, bistatic_reference_s=bulk_s) for grid in grids)


def _product(folder: Path, manifest: sentinel1.Manifest, swath: str, notes: Sequence[sentinel1.Annotation]) -> Product:
    by_name = {n.polarisation: n for n in notes}
    order = [b.name for b in SENTINEL_1_SLC.bands if b.name in by_name]
    metadata = {"manifest": manifest.path}
    for name in order:
        metadata |= tables_beside(by_name[name].path, name)
    note = by_name[order[0]]
    return Product(
        id=f"{folder.name.removesuffix('.SAFE')}_{swath}",
        sensor=SENTINEL_1_SLC.id,
        level="SLC",
        platform=manifest.platform,
        instruments=("c-sar",),
        start=note.start,
        stop=note.stop,
        files=tuple(_measurement(folder, by_name[name]) for name in order),
        metadata=metadata,
        geolocation="radar-grid",
        encoding="complex",
        footprint_lonlat=_outline(note.geolocation),
        properties=_properties(manifest, note, order),
    )


def _measurement(folder: Path, note: sentinel1.Annotation) -> ProductFile:
    path = folder / "measurement" / f"{note.path.stem}.tiff"
    if not path.exists():
        raise unreadable(str(path), "missing")
    header = checked_header(path, "complex")
    spacing = max(note.range_pixel_spacing_m, note.azimuth_pixel_spacing_m)
    expected = ExpectedGrid((note.lines, note.samples))
    return ProductFile(note.polarisation, path, (note.polarisation,), expected, 0, gsd_m=spacing, header=header)


def _outline(points: sentinel1.GeolocationGrid) -> tuple[tuple[float, float], ...]:
    """The annotated points at the four corners of a swath, as an open ring of longitudes and latitudes."""
    lines, pixels = (points.line.min(), points.line.max()), (points.pixel.min(), points.pixel.max())
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    at = [int((np.abs(points.line - lines[i]) + np.abs(points.pixel - pixels[j])).argmin()) for i, j in corners]
    return tuple((float(points.longitude_deg[k]), float(points.latitude_deg[k])) for k in at)


def _properties(
    manifest: sentinel1.Manifest, note: sentinel1.Annotation, polarisations: Sequence[str]
) -> Mapping[str, Any]:
    timing = sentinel1_bursts.read_bursts(note.path)
    return {
        "sar:instrument_mode": manifest.mode,
        "sar:frequency_band": "C",
        "sar:center_frequency": round(note.radar_frequency_hz / 1e9, 9),
        "sar:polarizations": list(polarisations),
        "sar:product_type": "SLC",
        "sar:pixel_spacing_range": note.range_pixel_spacing_m,
        "sar:pixel_spacing_azimuth": note.azimuth_pixel_spacing_m,
        "sar:observation_direction": "right",
        "sat:orbit_state": manifest.pass_direction,
        "sat:relative_orbit": manifest.relative_orbit,
        "sat:absolute_orbit": manifest.absolute_orbit,
        "view:incidence_angle": note.incidence_mid_deg,
        "ringmoe:swath": note.swath,
        "ringmoe:bursts": {"count": len(timing.bursts), "lines": timing.lines, "samples": timing.samples},
    }
