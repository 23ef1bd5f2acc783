"""Sandbox landscapes as labelled chips of every modality: what a teacher learns from, and places it has never seen."""

# Shape suffixes: N chips, C channels, H rows, W columns.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from pretrain_sensors import SANDBOX_L1, SANDBOX_L2, SANDBOX_MS, SANDBOX_OPT, TEN, Sensor
from pretrain_sets import NOISE, Scenes
from torch import Tensor

from catalog.sandbox import optics, radar, sentinel2, worldview
from catalog.sandbox.landscape import Landscape, draw
from catalog.sandbox.plan import PASSES
from catalog.sandbox.regions import REGIONS, STEP_M, grid_over
from catalog.sandbox.scattering import TERMS, complex_speckle, gamma_speckle
from catalog.sandbox.sentinel1 import LOOKS
from catalog.sandbox.spectra import COVER_OF, LAND_COVER, SPECTRA
from catalog.sandbox.truth import majority
from ringmoe.modality import Chips

CHIP_PX = 32
"""Side of a chip, 128 m of land at 4 m a pixel; the last stage has one token of it."""
SIZE_M = 5120.0
"""Side of a landscape."""
BLOCK = 4
"""Chips along the side of a block; whole blocks of 512 m are drawn by the bootstrap, for neighbours are alike."""
SENSORS = {"opt": SANDBOX_OPT, "ms": SANDBOX_MS, "sar_l1": SANDBOX_L1, "sar_l2": SANDBOX_L2}
"""By modality."""
CLASSES = tuple(LAND_COVER.values())
SEASON = "summer"


@dataclass(frozen=True)
class Chipped:
    """Chips of one sensor with the land cover of every pixel."""

    sensor: Sensor
    """Whose they are."""
    pixels_NCHW: Tensor
    """float32, physical units, nothing missing."""
    cover_NHW: Tensor
    """uint8, code of LAND_COVER less one."""
    block_N: Tensor
    """int64, which block of land a chip lies in."""

    def __len__(self) -> int:
        return len(self.pixels_NCHW)

    def chips(self, index_N: Tensor) -> Chips:
        """Some of them as the model takes them."""
        pixels_NCHW = self.pixels_NCHW[index_N]
        count, _, rows, cols = pixels_NCHW.shape
        valid_NHW = torch.ones(count, rows, cols, dtype=torch.bool)
        return Chips(pixels_NCHW, valid_NHW, self.sensor.bands, torch.full((count,), self.sensor.gsd_m))

    def batches(self, size: int = 250) -> Iterator[Chips]:
        """All of them, in order."""
        for index_N in torch.arange(len(self)).split(size):
            yield self.chips(index_N)

    @cached_property
    def main_N(self) -> Tensor:
        """The cover of most of each chip, int64."""
        return torch.stack([(self.cover_NHW == k).sum((1, 2)) for k in range(len(CLASSES))], 1).argmax(1)

    def part(self, index_N: Tensor) -> Chipped:
        """Some of them."""
        return Chipped(self.sensor, self.pixels_NCHW[index_N], self.cover_NHW[index_N], self.block_N[index_N])


def lands(seeds: Sequence[int], *, east: bool, size_m: float = SIZE_M) -> Iterator[Landscape]:
    """Landscapes one after another; the east is never learned from."""
    for seed in seeds:
        yield draw(REGIONS[int(east)], size_m, seed)


def scene(land: Landscape, key: str) -> np.ndarray:
    """What one of SENSORS sees of a landscape, (C, H, W) float32, with its noise."""
    rng = np.random.default_rng([land.seed, land.region.epsg, list(SENSORS).index(key)])
    if key == "sar_l1":
        drawn = complex_speckle(rng, radar.covariance(land, SEASON), NOISE)
        return np.stack([part for z in drawn for part in (z.real, z.imag)]).astype(np.float32)
    if key == "sar_l2":
        echo = radar.covariance(land, SEASON)[[TERMS.index("VV"), TERMS.index("HV")]]
        return gamma_speckle(rng, echo, LOOKS).astype(np.float32)
    return _optical_scene(land, key, rng)


def _optical_scene(land: Landscape, key: str, rng: np.random.Generator) -> np.ndarray:
    when = next(p.when for p in PASSES if p.season == SEASON)
    shade = optics.light(land, SEASON, optics.sun(when, 12.0, 47.0))
    step_m, rows = (STEP_M, np.arange(len(TEN))) if key == "ms" else (SANDBOX_OPT.gsd_m, np.array([2, 1, 0]))
    eye = optics.footprint(land.grid, grid_over(land.region, land.size_m, step_m), (0.0, 0.0), sentinel2.BLUR * step_m)
    seen = np.zeros((len(rows), eye[0].shape[0], eye[1].shape[0]), np.float32)
    for k, plane in enumerate(optics.abundances(optics.growth(land, SEASON), SEASON, shade)):
        seen += SPECTRA[k, rows][:, None, None] * optics.see(plane, eye)
    if key == "ms":
        noise = sentinel2.NOISE[0] + sentinel2.NOISE[1] * np.abs(seen)
    else:
        path, through = (
            np.array(v, np.float32)[rows][:, None, None] for v in (worldview.PATH, worldview.TRANSMITTANCE)
        )
        seen, noise = path + through * seen, np.float32(worldview.NOISE)
    return (seen + noise * rng.standard_normal(seen.shape, np.float32)).astype(np.float32)


def chipped(found: Sequence[Landscape] | Iterator[Landscape], key: str) -> Chipped:
    """Landscapes cut into chips of one of SENSORS, side by side, none twice."""
    parts = []
    for number, land in enumerate(found):
        grid = grid_over(land.region, land.size_m, SENSORS[key].gsd_m)
        cover_HW = majority(COVER_OF[land.surfaces[SEASON]], grid, land.grid) - 1
        pixels, cover = _cut(scene(land, key)), _cut(cover_HW[None])[:, 0]
        side = cover_HW.shape[0] // CHIP_PX
        row, col = np.divmod(np.arange(side**2), side)
        blocks = -(-side // BLOCK)
        parts.append((pixels, cover, (number * blocks + row // BLOCK) * blocks + col // BLOCK))
    joined = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return Chipped(SENSORS[key], *joined)


def _cut(image_CHW: np.ndarray) -> np.ndarray:
    channels, height, width = image_CHW.shape
    rows, cols = height // CHIP_PX, width // CHIP_PX
    cut = image_CHW[:, : rows * CHIP_PX, : cols * CHIP_PX].reshape(channels, rows, CHIP_PX, cols, CHIP_PX)
    return np.ascontiguousarray(cut.transpose(1, 3, 0, 2, 4).reshape(rows * cols, channels, CHIP_PX, CHIP_PX))


def scenes(found: Sequence[Landscape]) -> tuple[Scenes, ...]:
    """Landscapes as all four sensors see them, to pre-train on."""
    return tuple(Scenes(sensor, tuple(scene(land, key) for land in found)) for key, sensor in SENSORS.items())
