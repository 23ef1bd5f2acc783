"""Sensors of the sets that pre-training is measured on: bands, wavelengths, pixel sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ringmoe.modality import BandSpec, Modality

COLOURS = {"red": (660.0, 70.0), "green": (560.0, 70.0), "blue": (480.0, 70.0)}
"""Centre and width in nm of what a display shows; the data sets name no sensor."""
SENTINEL_2 = {
    "B01": (443, 21), "B02": (492, 66), "B03": (560, 36), "B04": (665, 31), "B05": (704, 15), "B06": (740, 15),
    "B07": (783, 20), "B08": (833, 106), "B8A": (865, 21), "B09": (945, 20), "B10": (1374, 31), "B11": (1614, 91),
    "B12": (2202, 175),
}  # fmt: skip
LANDSAT_8 = {"B1": (443, 16), "B2": (482, 60), "B3": (561, 57), "B4": (655, 37), "B5": (865, 28), "B6": (1609, 85),
             "B7": (2201, 187)}  # fmt: skip
LANDSAT_5 = {"B10": (485, 70), "B20": (560, 80), "B30": (660, 60), "B40": (830, 140), "B50": (1650, 200),
             "B70": (2215, 270)}  # fmt: skip

QUANTITIES = {
    Modality.OPT: "display_value",
    Modality.MS: "reflectance",
    Modality.SAR_L1: "amplitude",
    Modality.SAR_L2: "backscatter",
}
"""Top-of-atmosphere and surface reflectance pass for one: each sensor has a normalisation of its own."""


@dataclass(frozen=True)
class Sensor:
    """One list of bands of one modality."""

    name: str
    """Its row of the contract."""
    modality: Modality
    """What it is a case of."""
    bands: tuple[BandSpec, ...]
    """One a channel."""
    gsd_m: float
    """Ground sampling distance; nominal where a data set names none."""
    looks: float = 1.0
    """Equivalent number of looks, detected radar alone."""

    @property
    def attrs(self) -> dict[str, Any]:
        """As of a cube of such pixels; a complex band once."""
        return {
            "sensor": self.name,
            "modality": self.modality.value,
            "quantity": QUANTITIES[self.modality],
            "units": "1",
            "gsd_m": self.gsd_m,
            "bands": [{k: v for k, v in asdict(b).items() if k != "part"} for b in self.bands if b.part != "im"],
            "looks": self.looks,
            "tile": self.name,
        }


def _optical(name: str, gsd_m: float) -> Sensor:
    return Sensor(name, Modality.OPT, tuple(BandSpec(f"{k}-{name}", k, *v) for k, v in COLOURS.items()), gsd_m)


def _spectral(name: str, table: dict[str, tuple[int, int]], gsd_m: float) -> Sensor:
    return Sensor(
        name, Modality.MS, tuple(BandSpec(f"{k}-{name}", "", *map(float, v)) for k, v in table.items()), gsd_m
    )


def _radar(name: str, ghz: float, pairs: Sequence[str], gsd_m: float, *, looks: float = 0.0) -> Sensor:
    """Detected where it has looks, else complex."""
    parts = ("",) if looks else ("re", "im")
    modality = Modality.SAR_L2 if looks else Modality.SAR_L1
    bands = tuple(
        BandSpec(f"{p}-{name}", frequency_ghz=ghz, polarisation=p, part=part) for p in pairs for part in parts
    )
    return Sensor(name, modality, bands, gsd_m, looks or 1.0)


RSSCN7 = _optical("rsscn7", 1.0)
OMBRIA_S2 = _optical("ombria-s2", 10.0)
OMBRIA_S1 = _radar("ombria-s1", 5.405, ["VV"], 10.0, looks=4.4)
FLOODS_S1 = _radar("sen1floods11-s1", 5.405, ["VV", "VH"], 10.0, looks=4.4)
FLOODS_S2 = _spectral("sen1floods11-s2", SENTINEL_2, 10.0)
GAMMA_S1 = _radar("s1-gamma0", 5.405, ["VV"], 20.0, looks=4.4)
TEN = tuple(b for b in SENTINEL_2 if b not in ("B01", "B09", "B10"))
DSEN2 = _spectral("s2-l1c", {b: SENTINEL_2[b] for b in TEN}, 10.0)
FIELDS = _spectral("s2-l2a", {b: SENTINEL_2[b] for b in ("B04", "B03", "B02", "B08")}, 10.0)
LANDSAT8 = _spectral("landsat-8", LANDSAT_8, 450.0)
LANDSAT5 = _spectral("landsat-5", LANDSAT_5, 25.0)
CAPELLA = _radar("capella", 9.65, ["HH", "HV", "VH", "VV"], 0.5)
UAVSAR = _radar("uavsar", 1.26, ["HH"], 7.0)
SANDBOX_L1 = _radar("sandbox-quad", 5.4, ["HH", "HV", "VH", "VV"], 10.0)
SANDBOX_OPT = _optical("sandbox-worldview", 4.0)
"""WorldView's pixels of 2 m averaged two by two."""
SANDBOX_MS = _spectral("sandbox-s2", {b: SENTINEL_2[b] for b in TEN}, 10.0)
SANDBOX_L2 = _radar("sandbox-s1", 5.405, ["VV", "VH"], 10.0, looks=4.4)
