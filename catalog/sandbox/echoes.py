"""Echoes of the sandbox's land at any place on the map: mean covariance, and complex channels drawn from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from catalog.sandbox.regions import STEP_M
from catalog.sandbox.scattering import POLARISATIONS, complex_speckle
from catalog.sandbox.specimen import Day, Doubles

Places = tuple[Doubles, Doubles]
"""Eastings and northings in the region's zone, any one shape."""


def covariance_at(day: Day, places: Places) -> NDArray[np.float32]:
    """Mean covariance at places, (term, ...), linear between the region's 10 m pixels; mirrored beyond its border."""
    region = day.land.region
    row = (region.south_m + day.land.size_m - places[1]) / STEP_M - 0.5
    col = (places[0] - region.west_m) / STEP_M - 0.5
    return np.stack([map_coordinates(term, [row, col], order=1, mode="mirror") for term in day.echo])


def channels(rng: np.random.Generator, day: Day, places: Places, noise_db: float) -> dict[str, NDArray[np.complex128]]:
    """Complex amplitude of four polarisations at places (row, col), single look, with receiver noise.

    The squared magnitude is sigma nought with noise.
    """
    drawn = complex_speckle(rng, covariance_at(day, places), 10.0 ** (noise_db / 10.0))
    return {name: layer.astype(np.complex128) for name, layer in zip(POLARISATIONS, drawn, strict=True)}
