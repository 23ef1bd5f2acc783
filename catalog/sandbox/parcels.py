"""Land divided by people: blocks of fields cut into parcels, stands of trees, villages of plots, roads and ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.sandbox.chance import hashed

FloatArray = NDArray[np.floating]
Ids = NDArray[np.uint32]

PLOT_M = (30.0, 36.0)
"""Length and depth of a building plot."""


@dataclass(frozen=True)
class Village:
    """A settlement; its outline is a wavy circle, its plots lie on a turned lattice."""

    x_m: float
    """Centre, metres east of the region's corner."""
    y_m: float
    """Centre, metres north of the region's corner."""
    radius_m: float
    """Mean radius."""
    angle: float
    """Turn of its streets in radians."""
    dense: float
    """Share of plots that hold a building."""


@dataclass(frozen=True)
class Box:
    """Something built, as an upright box on the ground."""

    kind: str
    """"building" or "ship"."""
    x_m: float
    """Centre, metres east of the region's corner."""
    y_m: float
    """Centre, metres north of the region's corner."""
    length_m: float
    """Side along the angle."""
    width_m: float
    """Side across the angle."""
    angle: float
    """Direction of the length, radians from east to north."""
    height_m: float
    """Height above the ground or the water."""
    dates: tuple[str, ...]
    """Months in which it stands there: "spring", "summer"."""

    def corners(self) -> NDArray[np.float64]:
        """The four corners (4, 2) as x, y."""
        along = np.array([np.cos(self.angle), np.sin(self.angle)]) * self.length_m / 2
        across = np.array([-np.sin(self.angle), np.cos(self.angle)]) * self.width_m / 2
        centre = np.array([self.x_m, self.y_m])
        return np.array([centre + a * along + b * across for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))])


def cells(x: FloatArray, y: FloatArray, pitch_m: float, salt: str) -> Ids:
    """Number of the nearest seed of a jittered lattice: Voronoi cells of about the pitch.

    Parameters
    ----------
    x, y
        Metres, (1, cols) rising and (rows, 1) falling, evenly spaced.
    pitch_m
        Lattice pitch.
    salt
        Makes each tessellation its own.
    """
    step, up = float(x[0, 1] - x[0, 0]), y.ravel()[::-1]
    best = np.full((y.size, x.size), np.inf, np.float32)
    owner = np.zeros(best.shape, np.uint32)
    c0, c1 = (int(np.floor(e / pitch_m)) + s for e, s in ((x[0, 0], -1), (x[0, -1], 2)))
    r0, r1 = (int(np.floor(e / pitch_m)) + s for e, s in ((up[0], -1), (up[-1], 2)))
    column, row = (a.ravel() for a in np.meshgrid(np.arange(c0, c1), np.arange(r0, r1)))
    ids = _pair(column, row)
    sx = (column + 0.15 + 0.7 * hashed(ids, salt + "x")) * pitch_m
    sy = (row + 0.15 + 0.7 * hashed(ids, salt + "y")) * pitch_m
    for number, px, py in zip(ids, sx.astype(np.float32), sy.astype(np.float32), strict=True):
        left, right = (int(np.clip((px + d - x[0, 0]) / step, 0, x.size)) for d in (-2 * pitch_m, 2 * pitch_m))
        top, bottom = (int(np.clip((y[0, 0] - py + d) / step, 0, y.size)) for d in (-2 * pitch_m, 2 * pitch_m))
        window = (slice(top, bottom), slice(left, right))
        distance = (x[:, left:right] - px) ** 2 + (y[top:bottom] - py) ** 2
        nearer = distance < best[window]
        np.copyto(best[window], distance, where=nearer)
        owner[window][nearer] = number
    return owner


def fields(x: FloatArray, y: FloatArray, salt: str) -> Ids:
    """Numbers of parcels: each block of some 700 m is cut into strips by a direction and a width of its own."""
    block = cells(x, y, 700.0, salt)
    angle = hashed(block, salt + "angle") * np.float32(np.pi)
    width = 60.0 + 130.0 * hashed(block, salt + "width") ** 2
    length = 170.0 + 260.0 * hashed(block, salt + "length")
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    strip = np.floor(v / width).astype(np.int32)
    offset = hashed(_pair(strip, block.astype(np.int32)), salt + "offset")
    piece = np.floor(u / length + offset).astype(np.int32)
    return _pair(piece, _pair(strip, block.astype(np.int32)).astype(np.int32))


def plots(
    village: Village, x: FloatArray, y: FloatArray, salt: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32], Ids]:
    """What each place of a village is, were the village endless.

    Returns
    -------
    tuple
        (rows, cols) each: 0 garden, 1 street, 2 tile roof, 3 grey roof; height of the building in metres; plot number.
    """
    u, v = _turned(village, x, y)
    plot = _plot_ids(u, v, salt)
    length, width, height = _house(plot, salt)
    iu, iv = np.floor(u / PLOT_M[0]), np.floor(v / PLOT_M[1])
    inside = (np.abs(u - (iu + 0.5) * PLOT_M[0]) < length / 2) & (np.abs(v - (iv + 0.5) * PLOT_M[1]) < width / 2)
    inside &= hashed(plot, salt + "built") < village.dense
    street = (np.mod(v, 2 * PLOT_M[1]) < 7.0) | (np.mod(u, 6 * PLOT_M[0]) < 7.0)
    roof = np.where(hashed(plot, salt + "roof") < 0.62, 2, 3)
    kind = np.where(inside, roof, np.where(street, 1, 0)).astype(np.uint8)
    return kind, np.where(inside, height, 0.0).astype(np.float32), plot


def houses(village: Village, salt: str, dates: tuple[str, ...]) -> list[Box]:
    """Every building of a village's lattice within 1.5 radii; the caller keeps those on built-up ground."""
    reach = int(1.5 * village.radius_m / min(PLOT_M)) + 1
    iu, iv = (a.ravel() for a in np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1)))
    u, v = (iu + 0.5) * PLOT_M[0], (iv + 0.5) * PLOT_M[1]
    plot = _plot_ids(u, v, salt)
    length, width, height = _house(plot, salt)
    built = hashed(plot, salt + "built") < village.dense
    c, s = np.cos(village.angle), np.sin(village.angle)
    cx, cy = village.x_m + u * c - v * s, village.y_m + u * s + v * c
    return [
        Box(
            "building",
            float(cx[i]),
            float(cy[i]),
            float(length[i]),
            float(width[i]),
            village.angle,
            float(height[i]),
            dates,
        )
        for i in np.flatnonzero(built)
    ]


def paint(boxes: Sequence[Box], x_m: FloatArray, y_m: FloatArray, target: NDArray[np.uint8], value: int) -> None:
    """Write a value into every pixel (rows, cols) whose centre lies in one of the boxes; y descends."""
    step = float(x_m[1] - x_m[0])
    for box in boxes:
        reach = np.hypot(box.length_m, box.width_m) / 2
        c0, c1 = (int((box.x_m + s * reach - x_m[0]) / step) + (s > 0) for s in (-1, 1))
        r0, r1 = (int((y_m[0] - box.y_m + s * reach) / step) + (s > 0) for s in (-1, 1))
        rows, columns = slice(max(r0, 0), max(r1 + 1, 0)), slice(max(c0, 0), max(c1 + 1, 0))
        dx, dy = x_m[None, columns] - box.x_m, y_m[rows, None] - box.y_m
        along, across = dx * np.cos(box.angle) + dy * np.sin(box.angle), dy * np.cos(box.angle) - dx * np.sin(box.angle)
        target[rows, columns][(np.abs(along) <= box.length_m / 2) & (np.abs(across) <= box.width_m / 2)] = value


def _pair(a: NDArray[np.integer], b: NDArray[np.integer]) -> Ids:
    with np.errstate(over="ignore"):
        mixed = a.astype(np.uint32) * np.uint32(0x9E3779B1) ^ (b.astype(np.uint32) * np.uint32(0x85EBCA6B))
        return mixed ^ (mixed >> np.uint32(13))


def _turned(village: Village, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    c, s = np.float32(np.cos(village.angle)), np.float32(np.sin(village.angle))
    dx, dy = x - np.float32(village.x_m), y - np.float32(village.y_m)
    return dx * c + dy * s, dy * c - dx * s


def _plot_ids(u: FloatArray, v: FloatArray, salt: str) -> Ids:
    return _pair(np.floor(u / PLOT_M[0]).astype(np.int32), np.floor(v / PLOT_M[1]).astype(np.int32))


def _house(plot: Ids, salt: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    length = 10.0 + 10.0 * hashed(plot, salt + "length")
    width = 8.0 + 8.0 * hashed(plot, salt + "width")
    return length, width, 4.0 + 11.0 * hashed(plot, salt + "height") ** 1.5
