"""Pairs with known shifts for the co-registration benchmark: real or drawn ground under clouds, rims and noise."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from scipy.ndimage import fourier_shift, gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from catalog.coregister import Shift
from catalog.displacement import Model

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[3] / "shared" / "realdata"))
SIZE, MARGIN, REACH_PX = 256, 32, 5.0
HARDEST = 0.6
BENT = 512


@dataclass(frozen=True)
class Trial:
    """Two looks at one ground, of which the second is displaced by a known offset."""

    reference: np.ndarray
    """(y, x) reflectance with clouds and noise."""
    moving: np.ndarray
    """The same ground moved, with its own clouds, noise, gain and offset."""
    usable: tuple[np.ndarray, np.ndarray]
    """(y, x) masks, which miss the thin rims of the clouds."""
    offset: np.ndarray
    """Rows and columns by which the content of `moving` is displaced."""
    masked: float
    """Share of pixels masked in at least one of the two."""


def grounds(rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """(y, x) images at least SIZE + 2 MARGIN wide: real Sentinel-2 bands, else drawn fields."""
    found: dict[str, list[np.ndarray]] = {}
    clip = REALDATA / "s2_l1c_dsen2" / "S2A_MSIL1C_20170527_T33UUB.mat"
    if clip.exists() and importlib.util.find_spec("h5py"):
        import h5py

        with h5py.File(clip) as file:
            found["s2_l1c"] = [band.astype(float) for band in file["im10"][()]]
    for name, path, bands in (
        ("s2_l2a", "ftw_s2_bitemporal/inference-img.tif", (1, 2, 3, 4, 5, 6, 7, 8)),
        ("s2_chip", "sen1floods11_spain/S2/Spain_7370579_S2Hand.tif", (2, 3, 4, 8)),
    ):
        if (REALDATA / path).exists():
            with rasterio.open(REALDATA / path) as source:
                found[name] = [np.nan_to_num(source.read(b).astype(float)) for b in bands]
    return found or {"drawn": [fields(rng) for _ in range(8)]}


def fields(rng: np.random.Generator, inner: int = SIZE + 2 * MARGIN) -> np.ndarray:
    """Polygons of constant reflectance, about 18 pixels wide, drawn at half a pixel and averaged."""
    side = inner + 2 * MARGIN
    seeds = rng.uniform(0, side, ((side // 18) ** 2, 2))
    places = np.stack(np.mgrid[: 2 * side, : 2 * side], axis=-1) / 2
    owner = cKDTree(seeds).query(places.reshape(-1, 2))[1]
    return gaussian_filter(rng.uniform(0.03, 0.4, len(seeds))[owner].reshape(side, 2, side, 2).mean((1, 3)), 0.6)


def moved(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The inner part of an image whose content is moved by (rows, columns), by the Fourier shift theorem."""
    ramp = np.clip(np.minimum(np.arange(image.shape[0]), np.arange(image.shape[0])[::-1]) / (MARGIN / 2), 0, 1)
    taper = np.outer(ramp, ramp)
    level = image.mean()
    return (
        np.fft.ifft2(fourier_shift(np.fft.fft2((image - level) * taper), offset)).real[MARGIN:-MARGIN, MARGIN:-MARGIN]
        + level
    )


def clouded(rng: np.random.Generator, image: np.ndarray, share: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The image under clouds of a masked share, whose thin rims no mask has, with noise; and the mask's usable part."""
    low, high = np.quantile(image, [0.02, 0.98])
    out = image + noise * image.std() * rng.standard_normal(image.shape)
    if not share:
        return out, np.ones(image.shape, bool)
    blobs = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(8, 24))
    blobs = (blobs - np.quantile(blobs, 1 - share)) / blobs.std()
    opacity = np.clip(0.15 + 2.0 * blobs, 0, 1)
    top = high + rng.uniform(0.5, 3.0) * (high - low) * (1 + 0.2 * gaussian_filter(rng.standard_normal(image.shape), 6))
    return out * (1 - opacity) + top * opacity, blobs <= 0


def trial(rng: np.random.Generator, ground: np.ndarray) -> Trial:
    """A pair with a shift of 0 to 5 px, up to 60 % masked in each, noise up to half of the contrast.

    In half of the trials on ground that is large enough the pixels are means of 2 x 2 of the moved ground: sampled
    anew, as two overpasses are, instead of interpolated. In a third both images share a frame without data.
    """
    coarse = 2 if min(ground.shape) >= 2 * (SIZE + MARGIN) and rng.uniform() < 0.5 else 1
    side = min(coarse * SIZE + 2 * MARGIN, min(ground.shape))
    row, column = (int(rng.integers(0, n - side + 1)) for n in ground.shape)
    patch = ground[row : row + side, column : column + side]
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, REACH_PX)
    offset = length * np.array([np.sin(angle), np.cos(angle)])
    frame = np.zeros((SIZE, SIZE), bool)
    if rng.uniform() < 1 / 3:
        tilt, across = rng.uniform(0, 2 * np.pi), np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
        frame = across[0] * np.sin(tilt) + across[1] * np.cos(tilt) > rng.uniform(0.2, 0.5)
    looks, usable = [], []
    for content in (coarsened(moved(patch, np.zeros(2)), coarse), coarsened(moved(patch, coarse * offset), coarse)):
        share = float(rng.uniform(0, HARDEST - frame.mean())) if rng.uniform() < 0.8 else 0.0
        image, clear = clouded(rng, rng.uniform(0.7, 1.3) * content, share, float(rng.uniform(0, 0.5)))
        looks.append(np.where(frame, 0.0, image))
        usable.append(clear & ~frame)
    return Trial(looks[0], looks[1], (usable[0], usable[1]), offset, float(1 - (usable[0] & usable[1]).mean()))


def coarsened(image: np.ndarray, factor: int) -> np.ndarray:
    """The middle SIZE x SIZE pixels of the means of factor x factor."""
    rows, columns = (n // factor for n in image.shape)
    means = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean((1, 3))
    top, left = (rows - SIZE) // 2, (columns - SIZE) // 2
    return means[top : top + SIZE, left : left + SIZE]


def bent_trial(rng: np.random.Generator, model: Model) -> tuple[Trial, np.ndarray]:
    """Drawn fields displaced by place, lightly clouded, and the (2, y, x) rows and columns by which they are.

    A shift of up to 3 px, to which an affine adds up to 2 px of rotation and scale at the border, a field a wave of up
    to 2 px whose half length is about the image.
    """
    ground = fields(rng, BENT)
    v, u = (np.mgrid[:BENT, :BENT] - (BENT - 1) / 2) / (BENT / 2)
    offset = np.zeros((2, BENT, BENT)) + rng.uniform(-2, 2, (2, 1, 1))
    if model == "affine":
        turn, scale = rng.uniform(0.5, 1.5, 2) * rng.choice([-1, 1], 2)
        offset += np.stack([scale * v + turn * u, scale * u - turn * v])
    if model == "field":
        phase = rng.uniform(0, 2 * np.pi, 2)
        offset += rng.uniform(1, 2) * np.stack([np.cos(3 * u + phase[0]), np.cos(3 * v + phase[1])])
    at = np.mgrid[:BENT, :BENT] + (len(ground) - BENT) / 2
    looks = [map_coordinates(ground, where, order=3) for where in (at, at - offset)]
    seen = [clouded(rng, look, float(rng.uniform(0, 0.3)), 0.2) for look in looks]
    masked = float(1 - (seen[0][1] & seen[1][1]).mean())
    return Trial(seen[0][0], seen[1][0], (seen[0][1], seen[1][1]), offset.mean((1, 2)), masked), offset


def stranger(rng: np.random.Generator, sources: dict[str, list[np.ndarray]]) -> Trial:
    """Two places that have nothing in common, clouded as in `trial`, in a third under one and the same mask."""
    one, other = rng.choice(len(sources), 2, replace=len(sources) < 2)
    named = sorted(sources)
    first, second = (trial(rng, sources[named[k]][int(rng.integers(len(sources[named[k]])))]) for k in (one, other))
    moving = second.moving if one != other else np.rot90(second.moving, int(rng.integers(1, 4)))
    usable = first.usable if rng.uniform() < 1 / 3 else (first.usable[0], second.usable[1])
    return Trial(first.reference, moving, usable, np.zeros(2), float(1 - (usable[0] & usable[1]).mean()))


def error_px(shift: Shift, offset: np.ndarray) -> float:
    """Root mean square distance in pixels (pixel_m 1) over the image of an answer from the one that undoes the offset.

    Parameters
    ----------
    offset
        (2,) rows and columns everywhere, or (2, y, x) by place.
    """
    if shift.displacement is None:
        dx, dy = np.array(shift.dx_m), np.array(shift.dy_m)
        rows, columns = offset.reshape(2, -1)
    else:
        count = offset.shape[-1] if offset.ndim == 3 else SIZE
        v, u = np.mgrid[:count, :count][:, ::8, ::8] - (count - 1) / 2
        dx, dy = shift.displacement.at(u, -v)
        rows, columns = offset[:, ::8, ::8] if offset.ndim == 3 else offset
    return float(np.sqrt(np.mean((dx + columns) ** 2 + (dy - rows) ** 2)))
