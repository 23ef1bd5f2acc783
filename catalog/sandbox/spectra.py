"""What the ground is made of: land cover classes, surfaces, their spectra by season and their radar echo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LAND_COVER: Mapping[int, str] = {
    1: "water",
    2: "broadleaf forest",
    3: "conifer forest",
    4: "grassland",
    5: "winter crop",
    6: "summer crop",
    7: "built-up",
    8: "bare and rock",
    9: "wetland",
}
"""Code to name; 0 is no data."""

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""The bands of every spectrum below, by their Sentinel-2 names."""

ENDMEMBERS: Mapping[str, tuple[float, ...]] = {
    "leaf": (0.024, 0.056, 0.029, 0.095, 0.315, 0.415, 0.44, 0.455, 0.205, 0.092),
    "needle": (0.017, 0.032, 0.021, 0.052, 0.155, 0.195, 0.215, 0.225, 0.105, 0.048),
    "straw": (0.080, 0.120, 0.165, 0.205, 0.245, 0.27, 0.295, 0.315, 0.345, 0.245),
    "soil": (0.072, 0.102, 0.142, 0.165, 0.185, 0.205, 0.225, 0.245, 0.315, 0.275),
    "peat": (0.038, 0.052, 0.066, 0.080, 0.098, 0.112, 0.125, 0.135, 0.140, 0.105),
    "water": (0.024, 0.027, 0.015, 0.012, 0.010, 0.009, 0.008, 0.007, 0.004, 0.003),
    "turbid": (0.048, 0.074, 0.068, 0.060, 0.040, 0.036, 0.030, 0.026, 0.010, 0.007),
    "tile": (0.060, 0.082, 0.165, 0.205, 0.230, 0.250, 0.270, 0.285, 0.335, 0.300),
    "grey": (0.105, 0.116, 0.128, 0.134, 0.140, 0.147, 0.153, 0.158, 0.178, 0.170),
    "rock": (0.118, 0.140, 0.162, 0.172, 0.180, 0.188, 0.198, 0.206, 0.245, 0.222),
    "dark": (0.006, 0.008, 0.006, 0.008, 0.012, 0.014, 0.015, 0.016, 0.008, 0.005),
}
"""Reflectance of pure matter in BANDS; drawn by hand after published spectra, no copy of any library."""

NAMES = tuple(ENDMEMBERS)
SPECTRA: NDArray[np.float32] = np.array([ENDMEMBERS[n] for n in NAMES], np.float32)
"""(endmember, band)."""

Mixture = Mapping[str, float]


@dataclass(frozen=True)
class Surface:
    """One kind of ground."""

    name: str
    """What it is."""
    cover: int
    """Its land cover code."""
    spring: Mixture
    """Shares of endmembers in May; they add up to 1."""
    summer: Mixture
    """The same in August."""
    axis: tuple[str, str]
    """Which endmember grows at the cost of which, where the ground does better than its like."""
    spread: float
    """Standard deviation of that share."""
    grain: float
    """Relative standard deviation of brightness from one 2 m pixel to the next."""
    vv_db: float
    """Sigma nought in VV, dB, at 39 degrees incidence in August."""
    vh_db: float
    """Sigma nought in VH, dB."""
    double: float
    """Share of the co-polar echo beyond the volume's that bounces twice."""
    height_m: float = 0.0
    """Typical height of what stands on it."""


def _s(
    name: str, cover: int, spring: Mixture, summer: Mixture, axis: tuple[str, str], spread: float, grain: float,
    radar: tuple[float, float, float], height_m: float = 0.0,
) -> Surface:  # fmt: skip
    return Surface(name, cover, spring, summer, axis, spread, grain, *radar, height_m)


_GREEN = ("leaf", "straw")
_FRESH = ("leaf", "soil")
_STAND = ("leaf", "dark")

SURFACES: tuple[Surface, ...] = (
    _s("nothing", 0, {"dark": 1.0}, {"dark": 1.0}, ("dark", "water"), 0.0, 0.0, (-30.0, -36.0, 0.0)),
    _s("lake", 1, {"water": 1.0}, {"water": 0.93, "turbid": 0.07}, ("turbid", "water"), 0.06, 0.02,
       (-18.5, -27.5, 0.0)),
    _s("river", 1, {"turbid": 0.75, "water": 0.25}, {"turbid": 0.5, "water": 0.5}, ("turbid", "water"), 0.12, 0.03,
       (-17.0, -26.0, 0.0)),
    _s("broadleaf", 2, {"leaf": 0.80, "dark": 0.20}, {"leaf": 0.74, "dark": 0.22, "needle": 0.04}, _STAND, 0.07, 0.16,
       (-8.9, -13.8, 0.0), 19.0),
    _s("mixed stand", 2, {"leaf": 0.58, "dark": 0.22, "needle": 0.20},
       {"leaf": 0.57, "dark": 0.24, "needle": 0.19}, ("leaf", "needle"), 0.10, 0.18, (-9.3, -14.4, 0.0), 21.0),
    _s("conifer", 3, {"needle": 0.72, "dark": 0.22, "leaf": 0.06}, {"needle": 0.70, "dark": 0.22, "leaf": 0.08},
       ("leaf", "needle"), 0.07, 0.18, (-10.4, -16.0, 0.0), 25.0),
    _s("larch and gaps", 3, {"needle": 0.58, "dark": 0.20, "leaf": 0.22}, {"needle": 0.58, "dark": 0.20, "leaf": 0.22},
       ("leaf", "needle"), 0.09, 0.18, (-10.0, -15.5, 0.0), 22.0),
    _s("meadow", 4, {"leaf": 0.78, "straw": 0.12, "soil": 0.10}, {"leaf": 0.58, "straw": 0.32, "soil": 0.10}, _GREEN,
       0.10, 0.05, (-13.2, -20.2, 0.0), 0.3),
    _s("pasture", 4, {"leaf": 0.60, "straw": 0.25, "soil": 0.15}, {"leaf": 0.42, "straw": 0.45, "soil": 0.13}, _GREEN,
       0.10, 0.07, (-13.8, -21.0, 0.0), 0.1),
    _s("stubble", 5, {"leaf": 0.82, "straw": 0.06, "soil": 0.12}, {"straw": 0.64, "soil": 0.31, "leaf": 0.05}, _GREEN,
       0.08, 0.04, (-12.4, -19.8, 0.0), 0.2),
    _s("ploughed", 5, {"leaf": 0.76, "straw": 0.06, "soil": 0.18}, {"soil": 0.83, "straw": 0.13, "leaf": 0.04}, _FRESH,
       0.07, 0.05, (-11.6, -20.4, 0.0)),
    _s("catch crop", 5, {"leaf": 0.80, "straw": 0.06, "soil": 0.14}, {"leaf": 0.36, "straw": 0.24, "soil": 0.40},
       _FRESH, 0.15, 0.04, (-12.7, -19.6, 0.0), 0.3),
    _s("maize", 6, {"soil": 0.80, "leaf": 0.14, "straw": 0.06}, {"leaf": 0.86, "soil": 0.04, "dark": 0.10}, _FRESH,
       0.08, 0.05, (-9.9, -15.8, 0.05), 2.4),
    _s("root crop", 6, {"soil": 0.72, "leaf": 0.22, "straw": 0.06}, {"leaf": 0.80, "soil": 0.17, "straw": 0.03}, _FRESH,
       0.09, 0.05, (-11.2, -17.6, 0.05), 0.5),
    _s("sunflower", 6, {"soil": 0.78, "leaf": 0.16, "straw": 0.06}, {"leaf": 0.52, "soil": 0.20, "straw": 0.28}, _GREEN,
       0.12, 0.05, (-10.8, -16.8, 0.05), 1.6),
    _s("tile roof", 7, {"tile": 1.0}, {"tile": 1.0}, ("grey", "tile"), 0.25, 0.06, (1.5, -9.5, 0.92), 7.0),
    _s("grey roof", 7, {"grey": 0.9, "rock": 0.1}, {"grey": 0.9, "rock": 0.1}, ("rock", "grey"), 0.3, 0.06,
       (2.5, -9.0, 0.92), 8.0),
    _s("sealed", 7, {"grey": 0.75, "dark": 0.25}, {"grey": 0.75, "dark": 0.25}, ("grey", "dark"), 0.12, 0.04,
       (-14.0, -24.0, 0.2)),
    _s("garden", 7, {"leaf": 0.62, "straw": 0.2, "grey": 0.18}, {"leaf": 0.5, "straw": 0.28, "grey": 0.22}, _GREEN,
       0.14, 0.10, (-9.0, -16.0, 0.45), 0.4),
    _s("garden tree", 7, {"leaf": 0.72, "dark": 0.28}, {"leaf": 0.70, "dark": 0.30}, _STAND, 0.08, 0.16,
       (-8.8, -14.2, 0.25), 8.0),
    _s("rock", 8, {"rock": 0.88, "leaf": 0.05, "dark": 0.07}, {"rock": 0.84, "leaf": 0.09, "dark": 0.07},
       ("leaf", "rock"), 0.09, 0.12, (-11.0, -20.0, 0.0)),
    _s("quarry", 8, {"rock": 0.60, "soil": 0.40}, {"rock": 0.60, "soil": 0.40}, ("soil", "rock"), 0.2, 0.06,
       (-12.0, -21.5, 0.05)),
    _s("clear-cut", 8, {"soil": 0.50, "peat": 0.2, "straw": 0.25, "leaf": 0.05},
       {"soil": 0.46, "peat": 0.18, "straw": 0.24, "leaf": 0.12}, ("leaf", "soil"), 0.09, 0.12,
       (-11.8, -19.4, 0.0), 0.4),
    _s("reed", 9, {"straw": 0.42, "leaf": 0.30, "peat": 0.16, "water": 0.12},
       {"leaf": 0.46, "straw": 0.10, "peat": 0.20, "water": 0.24}, ("leaf", "water"), 0.09, 0.08,
       (-10.6, -17.4, 0.3), 2.2),
    _s("wet meadow", 9, {"leaf": 0.50, "straw": 0.22, "peat": 0.28}, {"leaf": 0.44, "straw": 0.16, "peat": 0.40},
       ("leaf", "peat"), 0.12, 0.08, (-12.2, -19.0, 0.1), 0.5),
    _s("ship", 1, {"grey": 0.7, "rock": 0.3}, {"grey": 0.7, "rock": 0.3}, ("rock", "grey"), 0.2, 0.05,
       (6.0, -6.0, 0.85), 8.0),
)  # fmt: skip
"""Every surface; a landscape's pixels are indices into this table."""

CODE: Mapping[str, int] = {s.name: i for i, s in enumerate(SURFACES)}
"""Name of a surface to its index."""

COVER_OF: NDArray[np.uint8] = np.array([s.cover for s in SURFACES], np.uint8)
"""Surface to land cover code."""


def mixtures(season: str) -> NDArray[np.float32]:
    """Mean shares of the endmembers, (surface, endmember), in "spring" or "summer"."""
    rows = [getattr(s, season) for s in SURFACES]
    return np.array([[row.get(n, 0.0) for n in NAMES] for row in rows], np.float32)


def exchange() -> NDArray[np.float32]:
    """What a share moved along a surface's axis adds to each endmember: +1, -1 or 0, (surface, endmember)."""
    return np.array([[float(n == s.axis[0]) - float(n == s.axis[1]) for n in NAMES] for s in SURFACES], np.float32)
