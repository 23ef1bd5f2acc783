"""Pictures of noise of every modality that need numpy alone, as a bare GPU machine has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catalog.sensors import GAOFEN_3, SENTINEL_1, SENTINEL_2, WORLDVIEW, Sensor
from ringmoe.pictures import Lost, Picture

SIDE_PX = 256

KINDS = ((WORLDVIEW, 3, 6), (SENTINEL_2, 10, 3), (GAOFEN_3, 4, 1), (SENTINEL_1, 2, 1))
"""Sensor, bands, and share of the pictures."""


class NoiseSource:
    """Pictures drawn from their numbers, in the units of a sensor; optical ones in counts of 8 bit."""

    mapped = True
    lost: Sequence[Lost] = ()

    def __init__(self, sensor: Sensor, bands: int, count: int) -> None:
        self._channels = 2 * bands if sensor.modality == "sar_l1" else bands
        self._power = sensor.modality == "sar_l2"
        self._counts = sensor.modality == "opt"
        keys = ("name", "common_name", "centre_nm", "width_nm", "frequency_ghz", "polarisation")
        self.attrs: Mapping[str, Any] = {
            "sensor": sensor.id,
            "modality": sensor.modality,
            "quantity": next(iter(sensor.quantities.values())),
            "units": sensor.units,
            "gsd_m": 2.0 if self._counts else 10.0,
            "bands": [{key: getattr(band, key) for key in keys} for band in sensor.bands[:bands]],
            "tile": "noise",
            **({"counts": {"dtype": "uint8", "scale": 1 / 255}} if self._counts else {}),
        }
        self.pictures = tuple(Picture(f"{sensor.id} {i}", SIDE_PX, SIDE_PX) for i in range(count))

    def read(self, picture: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, h, w) and validity (h, w), a corner of a third of the pictures without data."""
        rng = np.random.default_rng(picture)
        shape = (self._channels, SIDE_PX, SIDE_PX)
        if self._counts:
            pixels = rng.integers(0, 256, shape, dtype=np.uint8).astype(np.float32) * np.float32(1 / 255)
        else:
            pixels = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
            pixels = np.square(pixels) if self._power else pixels
        valid = np.ones(shape[1:], dtype=bool)
        valid[:40, : 60 if picture % 3 == 0 else 0] = False
        return pixels[:, rows, columns], valid[rows, columns]


def noise_sources(count: int) -> list[NoiseSource]:
    """All four modalities."""
    return [NoiseSource(sensor, bands, count * share) for sensor, bands, share in KINDS]
