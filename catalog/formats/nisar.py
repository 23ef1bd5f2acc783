"""NISAR RSLC files: one product per frequency, complex amplitude by the file's own tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from catalog.calibrate.constants import AmplitudeTables, GainVectors
from catalog.formats.product import ExpectedGrid, Product, ProductFile, checked_header
from catalog.geocode import RadarGrid
from catalog.metadata import nisar
from catalog.scene import Scene, metadata_file
from catalog.sensors import NISAR


def products(folder: Path) -> tuple[Product, ...]:
    """Every frequency of every RSLC file of a folder, its polarisations on one grid; () where the folder has none.

    Raises
    ------
    MetadataError, AssetError
        Naming the file and the dataset: cut off, missing, detected pixels.
    """
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".h5")
    files = [nisar.read_rslc(p) for p in found if nisar.is_rslc(p)]
    return tuple(_product(meta, frequency) for meta in files for frequency in meta.frequencies)


def calibration(scene: Scene, bands: Sequence[str]) -> AmplitudeTables | None:
    """The table of the scene's quantity, which all polarisations share; None without the file.

    The noise is a power: it cannot be taken off a complex number, so its level goes into the record.
    """
    if "rslc" not in scene.metadata:
        return None
    meta, frequency = _frequency(scene)
    gain = scene.quantity.removesuffix("_amplitude")
    table = nisar.read_table(meta, frequency, gain)
    vectors = GainVectors(table.lines, table.samples, table.values)
    noise = {b: nisar.read_noise(meta, frequency, b) for b in bands}
    return AmplitudeTables(
        gain=dict.fromkeys(bands, vectors),
        source=table.source,
        record={
            "table": gain,
            "noise": "left in: a power cannot be taken off a complex number",
            "noise_level_db": {b: _levels_db(power) for b, power in noise.items() if power is not None},
            "noise_level_unknown": [b for b, power in noise.items() if power is None],
        },
    )


def geometry(scene: Scene) -> RadarGrid:
    """Orbit, timing and slant range of the frequency that the scene is of."""
    meta, frequency = _frequency(scene)
    return RadarGrid(
        orbit_time_s=meta.orbit_time_s,
        orbit_position_m=meta.orbit_position_m,
        orbit_velocity_m_s=meta.orbit_velocity_m_s,
        first_line_s=meta.first_line_s,
        line_interval_s=meta.line_interval_s,
        conversion_time_s=np.array([meta.first_line_s]),
        conversion_origin_m=np.array([frequency.first_range_m]),
        conversion_coefficients=np.array([[0.0, 1.0]]),
        range_pixel_spacing_m=frequency.range_spacing_m,
        lines=frequency.shape[0],
        samples=frequency.shape[1],
        looks_right=meta.look == "right",
    )


def _frequency(scene: Scene) -> tuple[nisar.NisarMetadata, nisar.NisarFrequency]:
    meta = nisar.read_rslc(metadata_file(scene, "rslc"))
    return meta, next(f for f in meta.frequencies if f.name == scene.properties["ringmoe:frequency"])


def _levels_db(power: np.ndarray) -> dict[str, float]:
    low, middle, high = 10 * np.log10(np.percentile(power, [0, 50, 100]))
    return {"min": round(float(low), 4), "median": round(float(middle), 4), "max": round(float(high), 4)}


def _product(meta: nisar.NisarMetadata, frequency: nisar.NisarFrequency) -> Product:
    orbit = {"sat:orbit_state": meta.orbit_state, "sat:absolute_orbit": meta.absolute_orbit}
    return Product(
        id=f"{meta.path.stem}_{frequency.name}",
        sensor=NISAR.id,
        level="RSLC",
        platform=meta.platform,
        instruments=(f"{meta.band.lower()}-sar",),
        start=meta.start,
        stop=meta.stop,
        files=tuple(_channel(meta.path, frequency, p) for p in frequency.polarisations),
        metadata={"rslc": meta.path},
        geolocation="radar-grid",
        encoding="complex",
        footprint_lonlat=meta.footprint_lonlat,
        properties={
            "sar:instrument_mode": "stripmap",
            "sar:frequency_band": meta.band,
            "sar:center_frequency": round(frequency.centre_hz / 1e9, 9),
            "sar:polarizations": list(frequency.polarisations),
            "sar:product_type": "RSLC",
            "sar:pixel_spacing_range": frequency.range_spacing_m,
            "sar:observation_direction": meta.look,
            "ringmoe:frequency": frequency.name,
            **{key: value for key, value in orbit.items() if value is not None},
        },
    )


def _channel(path: Path, frequency: nisar.NisarFrequency, polarisation: str) -> ProductFile:
    inside = f'HDF5:"{{path}}"://{frequency.group}/{polarisation}'
    file = ProductFile(polarisation, path, inside=inside)
    return ProductFile(
        polarisation,
        path,
        (polarisation,),
        ExpectedGrid(frequency.shape),
        nodata=0,
        gsd_m=frequency.ground_spacing_m,
        inside=inside,
        header=checked_header(file.raster, "complex"),
    )
