"""Capella SLC channels: complex 16-bit counts on a rotated grid, the scale factor of each in its own TIFF tags."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from catalog.sandbox.chance import stream
from catalog.sandbox.echoes import channels
from catalog.sandbox.files import write_complex
from catalog.sandbox.specimen import Day, Specimen, keep

POLARISATIONS = ("HH", "HV", "VH", "VV")
SCALE = {"HH": 3.9171e-4, "HV": 1.7325e-4, "VH": 1.7411e-4, "VV": 3.6208e-4}
"""scale_factor of every channel: amplitude of one count."""
PIXEL_M = 6.0
TURN_DEG = 11.5
"""How far the lines are turned against the map's."""


def write(root: Path, day: Day) -> Specimen:
    """Write one product of four channels.

    DN = S / scale_factor with |S|^2 = sigma nought. Source: Capella Space SAR Imagery Products Guide, radiometric
    calibration.
    """
    stem = f"CAPELLA_C02_SM_SLC_QUAD_{day.when:%Y%m%d%H%M%S}"
    folder, count = root / "products" / stem, min(day.size_px, 192)
    transform = _grid(day, count)
    amplitude = channels(stream(day.land.seed, "capella"), day, _places(transform, count), noise_db=-28.0)
    worth: dict[str, NDArray[np.complex128]] = {}
    counts: dict[str, NDArray[np.float64]] = {}
    for name in POLARISATIONS:
        dn = np.rint((amplitude[name] / SCALE[name]).view(np.float64)).clip(-32_768, 32_767).view(np.complex128)
        counts[name] = np.abs(dn)
        worth[name] = dn * SCALE[name]
        tags = {"TIFFTAG_IMAGEDESCRIPTION": json.dumps(_described(day, name))}
        write_complex(folder / f"{stem}_{name}.tif", dn, transform, f"EPSG:{day.land.region.epsg}", tags)
    truth = keep(root, folder, worth, amplitude, counts)
    return Specimen("capella", "SLC", "sigma_nought_amplitude", folder, truth)


def _grid(day: Day, count: int) -> Affine:
    half = day.land.size_m / 2
    middle = Affine.translation(day.land.region.west_m + half, day.land.region.south_m + half)
    corner = Affine.translation(-count * PIXEL_M / 2, count * PIXEL_M / 2)
    return middle * Affine.rotation(TURN_DEG) * corner * Affine.scale(PIXEL_M, -PIXEL_M)


def _places(transform: Affine, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    row, col = np.mgrid[:count, :count] + 0.5
    x, y = transform * (col, row)
    return np.asarray(x), np.asarray(y)


def _described(day: Day, polarisation: str) -> dict[str, object]:
    stamp = f"{day.when:%Y-%m-%dT%H:%M:%S.%f}Z"
    return {
        "software_version": "sandbox",
        "product_type": "SLC",
        "collect": {
            "platform": "capella-2",
            "mode": "stripmap",
            "start_timestamp": stamp,
            "stop_timestamp": stamp,
            "radar": {
                "center_frequency": 9.65e9,
                "transmit_polarization": polarisation[0],
                "receive_polarization": polarisation[1],
            },
            "image": {"data_type": "CInt16", "scale_factor": SCALE[polarisation], "radiometry": "sigma_nought"},
        },
    }
