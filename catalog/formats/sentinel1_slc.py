"""Sentinel-1 SLC SAFE folders: one product per burst of a swath, complex amplitude by look-up tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
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
    """An SLC SAFE as one product per burst, its polarisations on one grid; () where the folder is none.

    The bursts of a swath overlap in time, so that no one grid places them all; each is a raster inside the swath's
    file. A strip map image is one product.

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
    return tuple(p for swath, notes in sorted(swaths.items()) for p in _bursts(folder, manifest, swath, notes))


def calibration(scene: Scene, bands: Sequence[str]) -> AmplitudeTables | None:
    """The tables of the scene's quantity with the noise level beside them; None without tables.

    The noise is a power: it cannot be taken off a complex number, so its level goes into the record.
    """
    tables = calibration_tables(scene, bands)
    if not tables:
        return None
    gain = scene.quantity.removesuffix("_amplitude")
    first_line = int(scene.properties.get("ringmoe:burst", {}).get("first_line", 0))
    silent = [b for b in bands if f"noise-{b}" not in scene.metadata]
    level = {b: noise_level_db(read_noise(scene, b), tables[b], gain) for b in bands if b not in silent}
    return AmplitudeTables(
        gain={b: GainVectors(t.lines - first_line, t.pixels, t.gain(gain)) for b, t in tables.items()},
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
    """Orbit, timing and slant range of a burst, or of a strip map image.

    Raises
    ------
    GeolocationError
        For an item of a whole swath, whose lines are no one sequence of times.
    """
    grids = burst_geometry(scene)
    burst = scene.properties.get("ringmoe:burst")
    if burst is None and len(grids) > 1:
        raise GeolocationError(
            f"the item is a swath of {len(grids)} bursts that overlap in time: no one grid places its lines",
            item=scene.id,
            enough="an item per burst, as `ringmoe register` writes them",
            todo="register the SAFE's folder",
        )
    return grids[0 if burst is None else int(burst["number"]) - 1]


def burst_geometry(scene: Scene) -> tuple[RadarGrid, ...]:
    """One RadarGrid per burst of the swath, lines counted from the burst's first; a strip map image is one burst.

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


def _bursts(
    folder: Path, manifest: sentinel1.Manifest, swath: str, notes: Sequence[sentinel1.Annotation]
) -> tuple[Product, ...]:
    """The products of a swath: one per burst, or the image itself where it is not in bursts."""
    by_name = {n.polarisation: n for n in notes}
    order = [b.name for b in SENTINEL_1_SLC.bands if b.name in by_name]
    timing = sentinel1_bursts.read_bursts(by_name[order[0]].path)
    if len(timing.bursts) < 2:
        return (_product(folder, manifest, [by_name[name] for name in order], timing, swath, None),)
    numbers = range(1, len(timing.bursts) + 1)
    ordered = [by_name[name] for name in order]
    return tuple(_product(folder, manifest, ordered, timing, f"{swath}_B{number}", number) for number in numbers)


def _product(
    folder: Path,
    manifest: sentinel1.Manifest,
    notes: Sequence[sentinel1.Annotation],
    timing: sentinel1_bursts.BurstTiming,
    part: str,
    number: int | None,
) -> Product:
    metadata = {"manifest": manifest.path}
    for known in notes:
        metadata |= tables_beside(known.path, known.polarisation)
    note = notes[0]
    first_line = 0 if number is None else (number - 1) * timing.lines
    lines = note.lines if number is None else timing.lines
    start, stop, burst = note.start, note.stop, {}
    if number is not None:
        seconds = timing.bursts[number - 1].azimuth_time_s
        start = _utc(note, seconds)
        stop = _utc(note, seconds + (lines - 1) * note.azimuth_time_interval_s)
        burst = {"ringmoe:burst": {"number": number, "first_line": first_line, "lines": lines}}
    return Product(
        id=f"{folder.name.removesuffix('.SAFE')}_{part}",
        sensor=SENTINEL_1_SLC.id,
        level="SLC",
        platform=manifest.platform,
        instruments=("c-sar",),
        start=start,
        stop=stop,
        files=tuple(_measurement(folder, known, first_line, lines) for known in notes),
        metadata=metadata,
        geolocation="radar-grid",
        encoding="complex",
        footprint_lonlat=_outline(note.geolocation, first_line, first_line + lines),
        properties={**_properties(manifest, note, timing, [n.polarisation for n in notes]), **burst},
    )


def _utc(note: sentinel1.Annotation, seconds: float) -> datetime:
    """An instant of the annotation's time axis."""
    stamp = note.reference_time + np.timedelta64(round(seconds * 1e6), "us")
    return datetime.fromisoformat(str(stamp.astype("datetime64[us]"))).replace(tzinfo=UTC)


def _measurement(folder: Path, note: sentinel1.Annotation, first_line: int, lines: int) -> ProductFile:
    path = folder / "measurement" / f"{note.path.stem}.tiff"
    if not path.exists():
        raise unreadable(str(path), "missing")
    whole = checked_header(path, "complex")
    if whole.shape != (note.lines, note.samples):
        raise refuse(note.path, "numberOfLines", f"says {note.lines} x {note.samples}, {path.name} is {whole.shape}")
    spacing = max(note.range_pixel_spacing_m, note.azimuth_pixel_spacing_m)
    window = f"vrt://{{path}}?srcwin=0,{first_line},{note.samples},{lines}" if lines != note.lines else ""
    return ProductFile(
        note.polarisation,
        path,
        (note.polarisation,),
        ExpectedGrid((lines, note.samples)),
        0,
        gsd_m=spacing,
        header=None if window else whole,
        inside=window,
    )


def _outline(points: sentinel1.GeolocationGrid, first: int, last: int) -> tuple[tuple[float, float], ...]:
    """The annotated points nearest to the corners of some lines, as an open ring of longitudes and latitudes."""
    lines, pixels = (first, last), (points.pixel.min(), points.pixel.max())
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    at = [int((np.abs(points.line - lines[i]) + np.abs(points.pixel - pixels[j])).argmin()) for i, j in corners]
    return tuple((float(points.longitude_deg[k]), float(points.latitude_deg[k])) for k in at)


def _properties(
    manifest: sentinel1.Manifest,
    note: sentinel1.Annotation,
    timing: sentinel1_bursts.BurstTiming,
    polarisations: Sequence[str],
) -> Mapping[str, Any]:
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
