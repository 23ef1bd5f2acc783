"""Light on the landscape: the sun, shade, what a pixel sees of the ground, clouds and their shadows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array
from scipy.special import ndtr

from catalog.sandbox.chance import Field, field, hashed_normal, stream
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.regions import FINE_M, MARGIN_M, Grid, Region
from catalog.sandbox.spectra import NAMES, SURFACES, exchange, mixtures

FloatArray = NDArray[np.floating]

AMBIENT = 0.3
"""Share of the light that reaches a slope whatever its aspect."""
SHADOW_LIGHT = 0.4
"""Light in the shadow of a building or a forest's edge, relative to the same ground in the sun."""


@dataclass(frozen=True)
class Sun:
    """Where the sun stands."""

    zenith_deg: float
    """Angle from the vertical."""
    azimuth_deg: float
    """Clockwise from north."""
    distance_au: float
    """Distance from the Earth."""


def sun(when: datetime, longitude_deg: float, latitude_deg: float) -> Sun:
    """Position of the sun to about half a degree, after Cooper (1969) and Spencer (1971); its distance to 7e-5.

    Parameters
    ----------
    when
        UTC.
    """
    day = when.timetuple().tm_yday
    hours = when.hour + when.minute / 60 + when.second / 3600
    gamma = 2 * np.pi * (day - 1 + (hours - 12) / 24) / 365
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + day) / 365)
    equation_min = 229.18 * (
        0.000075 + 0.001868 * np.cos(gamma) - 0.032077 * np.sin(gamma)
        - 0.014615 * np.cos(2 * gamma) - 0.040849 * np.sin(2 * gamma)
    )  # fmt: skip
    hour_angle = np.radians(15.0 * (hours - 12.0 + equation_min / 60.0) + longitude_deg)
    lat = np.radians(latitude_deg)
    up = np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(hour_angle)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.cos(lat) * np.sin(declination) - np.sin(lat) * np.cos(declination) * np.cos(hour_angle)
    azimuth = float(np.degrees(np.arctan2(east, north)) % 360)
    return Sun(float(np.degrees(np.arccos(up))), azimuth, distance_au(when))


def distance_au(when: datetime) -> float:
    """Distance of the Earth from the sun on its ellipse, to 7e-5 (Meeus, Astronomical Algorithms, chapter 25)."""
    centuries = (when - datetime(2000, 1, 1, 12, tzinfo=UTC)).total_seconds() / 3_155_760_000.0
    anomaly = np.radians(357.52911 + 35_999.05029 * centuries)
    eccentricity = 0.016708634 - 0.000042037 * centuries
    centre = 1.914602 * np.sin(anomaly) + 0.019993 * np.sin(2 * anomaly) + 0.000289 * np.sin(3 * anomaly)
    true = anomaly + np.radians(centre)
    return float(1.000001018 * (1.0 - eccentricity**2) / (1.0 + eccentricity * np.cos(true)))


def light(land: Landscape, season: str, at: Sun) -> NDArray[np.float32]:
    """Light on every 2 m pixel relative to flat ground in the open, (rows, cols) float32.

    On a slope: AMBIENT + (1 - AMBIENT) max(cos i, 0) / cos(zenith), i the angle between the sun and the slope's normal;
    shadows of what stands above the ground fall up to 20 m.
    """
    gy, gx = np.gradient(land.height_m, np.float32(FINE_M))
    gy = -gy
    zenith, azimuth = np.radians(at.zenith_deg), np.radians(at.azimuth_deg)
    tilt = np.tan(zenith) * (gx * np.sin(azimuth) + gy * np.cos(azimuth))
    relative = np.maximum(1.0 - tilt, 0.0) / np.sqrt(1.0 + gx**2 + gy**2)
    shade = np.asarray(AMBIENT + (1.0 - AMBIENT) * relative, np.float32)
    tall = land.standing_m[season]
    shadow = np.zeros(tall.shape, bool)
    for reach_m in (3.0, 6.0, 10.0, 15.0, 20.0):
        down, right = round(-reach_m * np.cos(azimuth) / FINE_M), round(reach_m * np.sin(azimuth) / FINE_M)
        towards_sun = np.roll(tall, (-down, -right), (0, 1))
        shadow |= towards_sun > tall + np.float32(2.0 + reach_m / np.tan(zenith))
    return np.where(shadow, np.float32(SHADOW_LIGHT), np.float32(1.0)) * shade


@dataclass(frozen=True)
class Growth:
    """How the ground deviates from its like, at 2 m; drawn once per season."""

    surface: NDArray[np.uint8]
    """Surface numbers (rows, cols)."""
    amount: NDArray[np.float32]
    """Share moved along each surface's axis (rows, cols)."""
    brightness: NDArray[np.float32]
    """Factor on all bands (rows, cols)."""


def growth(land: Landscape, season: str) -> Growth:
    """Vigour by parcel and by patch, brightness by parcel and by pixel."""
    surface, side = land.surfaces[season], land.size_m + 2 * MARGIN_M
    corner = land.region.west_m - MARGIN_M, land.region.south_m - MARGIN_M

    def patches(name: str, scale_m: float) -> NDArray[np.float32]:
        rng = stream(land.seed, land.region.name, season, name)
        return field(rng, *corner, side, scale_m).on(land.grid.x_m, land.grid.y_m)

    vigour = (
        0.72 * hashed_normal(land.unit, f"{season} vigour")
        + 0.5 * patches("soil", 70.0)
        + 0.45 * patches("rain", 900.0)
    )
    spread = np.array([s.spread for s in SURFACES], np.float32)[surface]
    base, names = mixtures(season), list(NAMES)
    room_up = np.array([base[i, names.index(s.axis[1])] for i, s in enumerate(SURFACES)], np.float32)[surface]
    room_down = np.array([base[i, names.index(s.axis[0])] for i, s in enumerate(SURFACES)], np.float32)[surface]
    amount = np.clip(vigour * spread, -room_down, room_up)
    rng = stream(land.seed, land.region.name, season, "grain")
    speck = gaussian_filter(rng.standard_normal(surface.shape, np.float32), 0.8) * np.float32(2.85)
    grain = np.array([s.grain for s in SURFACES], np.float32)[surface]
    brightness = (1.0 + grain * speck) * (1.0 + 0.05 * hashed_normal(land.unit, f"{season} brightness"))
    return Growth(surface, amount, np.clip(brightness, 0.3, 2.0).astype(np.float32))


def abundances(ground: Growth, season: str, shade: FloatArray) -> Iterator[NDArray[np.float32]]:
    """Lit shares of every endmember at 2 m, one (rows, cols) plane after another, in the order of NAMES."""
    base, swap = mixtures(season), exchange()
    lit = ground.brightness * shade
    for k in range(len(NAMES)):
        plane = base[:, k][ground.surface]
        plane += swap[:, k][ground.surface] * ground.amount
        plane *= lit
        yield plane


def footprint(fine: Grid, coarse: Grid, shift_m: tuple[float, float], blur_m: float) -> tuple[csr_array, csr_array]:
    """How each coarse pixel weighs the fine ground, along rows and along columns.

    A pixel at the map position (x, y) shows the ground at (x - dx, y - dy): the content is displaced by (dx, dy).
    Its response is a box of its own size blurred by a Gaussian.

    Parameters
    ----------
    shift_m
        (dx, dy): east and north.
    blur_m
        Standard deviation of the Gaussian.

    Returns
    -------
    tuple
        (coarse rows, fine rows) and (coarse cols, fine cols); every row of weights adds up to 1.
    """
    half = coarse.step_m / 2

    def weights(centre: FloatArray, ground: FloatArray) -> csr_array:
        reach = half + 3.5 * blur_m
        first = np.ceil((centre - reach - ground[0]) / fine.step_m).astype(int)
        taps = first[:, None] + np.arange(int(2 * reach / fine.step_m) + 1)
        away = ground[0] + taps * fine.step_m - centre[:, None]
        w = ndtr((away + half) / blur_m) - ndtr((away - half) / blur_m)
        w = np.where((taps >= 0) & (taps < len(ground)), w, 0.0)
        w /= w.sum(1, keepdims=True)
        rows = np.repeat(np.arange(len(centre)), taps.shape[1])
        columns = np.clip(taps, 0, len(ground) - 1).ravel()
        return csr_array((w.astype(np.float32).ravel(), (rows, columns)), shape=(len(centre), len(ground)))

    return weights(-(coarse.y_m - shift_m[1]), -fine.y_m), weights(coarse.x_m - shift_m[0], fine.x_m)


def see(plane: FloatArray, eye: tuple[csr_array, csr_array]) -> NDArray[np.float32]:
    """A fine plane (rows, cols) through a footprint, as (coarse rows, coarse cols) float32."""
    down, across = eye
    return np.ascontiguousarray((across @ np.ascontiguousarray((down @ plane).T)).T)


@dataclass(frozen=True)
class Clouds:
    """Clouds and their shadows as functions of place; they stand still on the map, whatever the image's shift."""

    waves: tuple[tuple[Field, float], ...]
    """Fields and their weights."""
    level: float
    """Above it the sky is clouded."""
    fall_m: tuple[float, float]
    """From a cloud to its shadow, east and north."""

    def thickness(self, grid: Grid) -> NDArray[np.float32]:
        """Opacity of the cloud, 0 clear to 1 opaque."""
        return self._opacity(grid.x_m, grid.y_m)

    def shadow(self, grid: Grid) -> NDArray[np.float32]:
        """Opacity of the cloud that stands between a place and the sun."""
        return self._opacity(grid.x_m - self.fall_m[0], grid.y_m - self.fall_m[1])

    def _opacity(self, x_m: FloatArray, y_m: FloatArray) -> NDArray[np.float32]:
        return np.clip((_sum(self.waves, x_m, y_m) - self.level) / 0.35 + 0.15, 0.0, 1.0).astype(np.float32)


def clouds(seed: int, region: Region, name: str, grid: Grid, share: float, at: Sun) -> Clouds | None:
    """A sky of which a share is clouded; None where the share is 0."""
    if share <= 0:
        return None
    rng = stream(seed, region.name, "clouds", name)
    side, margin = grid.cols * grid.step_m, 1500.0
    scale = float(np.clip(side / 5120.0, 0.35, 1.0))
    waves = tuple(
        (field(rng, grid.west_m - margin, grid.north_m - side - margin, side + 2 * margin, s * scale), w)
        for s, w in ((1900.0, 1.0), (800.0, 0.5), (350.0, 0.28), (150.0, 0.14))
    )
    level = float(np.quantile(_sum(waves, grid.x_m, grid.y_m), 1.0 - share))
    reach = 620.0 * scale * np.tan(np.radians(at.zenith_deg))
    azimuth = np.radians(at.azimuth_deg)
    return Clouds(waves, level, (-reach * float(np.sin(azimuth)), -reach * float(np.cos(azimuth))))


def _sum(waves: tuple[tuple[Field, float], ...], x_m: FloatArray, y_m: FloatArray) -> FloatArray:
    return np.sum([w * f.on(x_m, y_m) for f, w in waves], axis=0)
