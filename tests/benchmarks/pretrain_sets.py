"""Real labelled sets and the sandbox as arrays: what to learn from, and what frozen features are asked about."""

# Shape suffixes: C channels, H rows, W columns, N images or pixels.

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
from PIL import Image
from pretrain_sensors import (
    CAPELLA,
    DSEN2,
    FIELDS,
    FLOODS_S1,
    FLOODS_S2,
    GAMMA_S1,
    LANDSAT5,
    LANDSAT8,
    LANDSAT_5,
    LANDSAT_8,
    OMBRIA_S1,
    OMBRIA_S2,
    RSSCN7,
    SANDBOX_L1,
    TEN,
    UAVSAR,
    Sensor,
)

from catalog.sandbox import REGIONS
from catalog.sandbox.landscape import draw
from catalog.sandbox.radar import covariance
from catalog.sandbox.regions import STEP_M, Region, grid_over
from catalog.sandbox.scattering import complex_speckle
from catalog.sandbox.spectra import COVER_OF
from catalog.sandbox.truth import majority
from ringmoe.modality import Modality
from ringmoe.pictures import Lost, Picture

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata"))
SCENE_PX = 256
"""Side of an RSSCN7 image."""
LEARN, APART = range(1, 51), range(56, 76)
"""Numbers, within each hundred, of the RSSCN7 images learned from and asked about; neighbours look alike, so that those
between are left out. Each hundred is one scale."""
NOISE = 10 ** (-22 / 10)
"""Noise power of the sandbox's complex radar."""


@dataclass(frozen=True)
class Scenes:
    """Images of one sensor, in memory, as a source of chips: see `ringmoe.pictures.Source`."""

    sensor: Sensor
    """Whose they are."""
    images: tuple[np.ndarray, ...]
    """(C, H, W) float32, physical units; NaN where nothing was measured."""
    lost: tuple[Lost, ...] = ()
    """What could not be opened: nothing."""
    mapped: bool = True
    """Reading is copying."""

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """As of a cube of such pixels."""
        return self.sensor.attrs

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:
        """One an image."""
        return tuple(Picture(f"{self.sensor.name} {i}", *x.shape[1:]) for i, x in enumerate(self.images))

    def read(self, picture: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """A copy of some pixels, and where any channel is known."""
        pixels_CHW = self.images[picture][:, rows, columns].copy()
        return pixels_CHW, np.isfinite(pixels_CHW).any(0)


@dataclass(frozen=True)
class Task:
    """What frozen features are asked: a class of every image, or of every pixel."""

    name: str
    """Of the data set."""
    sensor: Sensor
    """Of its images."""
    train: tuple[np.ndarray, ...]
    """Images to learn the classes from, (C, H, W)."""
    train_labels: tuple[np.ndarray, ...]
    """Their classes from 0: (), or (H, W) with -1 where nobody knows."""
    test: tuple[np.ndarray, ...]
    """Images asked about; no pixel of them is in pre-training."""
    test_labels: tuple[np.ndarray, ...]
    """Their classes."""


@dataclass(frozen=True)
class Found:
    """What one reader makes of its folder."""

    scenes: tuple[Scenes, ...] = ()
    """To pre-train on."""
    tasks: tuple[Task, ...] = ()
    """To be asked."""


@dataclass(frozen=True)
class Corpus:
    """All of it."""

    scenes: tuple[Scenes, ...]
    """To pre-train on."""
    tasks: tuple[Task, ...]
    """To be asked."""
    skipped: tuple[str, ...]
    """Folders that are not there."""


def read_all(*, sandbox_px: int = 512, root: Path = REALDATA) -> Corpus:
    """Every set that is there; names of those that are not."""
    scenes: list[Scenes] = []
    tasks: list[Task] = []
    skipped = []
    for name, reader in READERS.items():
        if not (root / name).is_dir():
            skipped.append(f"{name}: not below {root}")
            continue
        found = reader(root / name)
        scenes += found.scenes
        tasks += found.tasks
    land = sandbox(sandbox_px)
    return Corpus((*scenes, *land.scenes), (*tasks, *land.tasks), tuple(skipped))


def thinned(corpus: Corpus, every: int) -> Corpus:
    """Every so many images of each task, to go through the motions."""
    tasks = (
        Task(t.name, t.sensor, t.train[::every], t.train_labels[::every], t.test[::every], t.test_labels[::every])
        for t in corpus.tasks
    )
    return replace(corpus, tasks=tuple(tasks))


def rsscn7(folder: Path) -> Found:
    """Seven classes of scenes, split by blocks of the number in the name."""
    parts: dict[bool, tuple[list[np.ndarray], list[np.ndarray]]] = {True: ([], []), False: ([], [])}
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for code, place in enumerate(classes):
        for path in sorted(place.glob("*.jpg")):
            number = (int(re.sub(r"\D", "", path.stem)) - 1) % 100 + 1
            if number in LEARN or number in APART:
                images, labels = parts[number in LEARN]
                images.append(_picture(path, SCENE_PX))
                labels.append(np.array(code))
    (train, train_labels), (test, test_labels) = parts[True], parts[False]
    task = Task("rsscn7", RSSCN7, tuple(train), tuple(train_labels), tuple(test), tuple(test_labels))
    return Found((Scenes(RSSCN7, tuple(train)),), (task,))


def ombria(folder: Path) -> Found:
    """Floods in what a radar and an optical sensor see after them; places as the data set splits them."""
    scenes, tasks = [], []
    for short, sensor in (("S1", OMBRIA_S1), ("S2", OMBRIA_S2)):
        parts = []
        for part in ("train", "test"):
            place = folder / f"Ombria{short}" / part
            masks = sorted((place / "MASK").glob("*.png"))
            after = [_picture(place / "AFTER" / m.name.replace("mask", "after")) for m in masks]
            labels = [(_picture(m)[0] > 0.5).astype(np.int64) for m in masks]
            parts.append(tuple(_one_band(a, sensor) for a in after))
            parts.append(tuple(labels))
        before = [_picture(p) for p in sorted((folder / f"Ombria{short}" / "train" / "BEFORE").glob("*.png"))]
        scenes.append(Scenes(sensor, (*parts[0], *(_one_band(b, sensor) for b in before))))
        tasks.append(Task(f"ombria_{short.lower()}", sensor, parts[0], parts[1], parts[2], parts[3]))
    return Found(tuple(scenes), tuple(tasks))


def _one_band(picture_CHW: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Radar pictures are amplitudes of 8 bit: their square, relative power, as one band."""
    return picture_CHW if sensor.modality is Modality.OPT else picture_CHW[:1] ** 2


def sen1floods11(folder: Path) -> Found:
    """Water in one chip of Spain: the western part to learn from, the eastern to be asked, 64 px between left out."""
    (label_path,) = folder.glob("Labels/*.tif")
    label_HW = _raster(label_path)[0].astype(np.int64)
    radar = 10 ** (_raster(next(folder.glob("S1/*.tif"))) / 10)
    optical = _raster(next(folder.glob("S2/*.tif"))) / 1e4
    west, east = slice(0, 256), slice(320, 512)
    scenes, tasks = [], []
    for name, sensor, pixels in (("s1", FLOODS_S1, radar), ("s2", FLOODS_S2, optical)):
        learn, asked = (_tiles(pixels[:, :, part]) for part in (west, east))
        labels, wanted = (_tiles(label_HW[None, :, part]) for part in (west, east))
        scenes.append(Scenes(sensor, (pixels[:, :, west],)))
        flat, flat_wanted = (tuple(x[0] for x in part) for part in (labels, wanted))
        tasks.append(Task(f"sen1floods11_{name}", sensor, learn, flat, asked, flat_wanted))
    return Found(tuple(scenes), tuple(tasks))


def sentinel2_l1c(folder: Path) -> Found:
    """Ten bands of a Sentinel-2 scene, those of 20 m repeated onto 10 m."""
    with h5py.File(next(folder.glob("*.mat"))) as file:
        fine, coarse = (np.asarray(file[k], np.float32) / 1e4 for k in ("im10", "im20"))
    coarse = coarse.repeat(2, 1).repeat(2, 2)
    by_name = dict(zip(("B02", "B03", "B04", "B08"), fine, strict=True))
    by_name |= dict(zip(("B05", "B06", "B07", "B8A", "B11", "B12"), coarse, strict=True))
    return Found((Scenes(DSEN2, (np.stack([by_name[b] for b in TEN]),)),))


def fields(folder: Path) -> Found:
    """Two dates of four bands of surface reflectance."""
    both = _raster(next(folder.glob("*.tif"))) / 1e4
    return Found((Scenes(FIELDS, (both[:4], both[4:])),))


def landsat8(folder: Path) -> Found:
    """Cloud, snow, water or land under surface reflectance of Greenland: learned in the west, asked in the east."""
    paths = [next(folder.glob(f"*_SR_{band}.TIF")) for band in LANDSAT_8]
    digital = np.concatenate([_raster(path) for path in paths])
    pixels = np.where(digital > 0, digital * 2.75e-5 - 0.2, np.nan).astype(np.float32)
    flags = _raster(next(folder.glob("*_QA_PIXEL.TIF"))).astype(np.int64)
    cover = np.select([(flags >> bit) & 1 == 1 for bit in (0, 3, 5, 7)], [-1, 0, 1, 2], 3)
    west, east = slice(0, 256), slice(320, 512)
    parts = [_tiles(layer[:, :, part]) for part in (west, east) for layer in (pixels, cover)]
    kept = [[i for i, x in enumerate(images) if np.isfinite(x).all(0).mean() > 0.5] for images in parts[::2]]
    learn, asked = (tuple(parts[2 * k][i] for i in kept[k]) for k in (0, 1))
    labels, wanted = (tuple(parts[2 * k + 1][i][0] for i in kept[k]) for k in (0, 1))
    task = Task("landsat8_cover", LANDSAT8, learn, labels, asked, wanted)
    return Found((Scenes(LANDSAT8, (pixels[:, :, west],)),), (task,))


def landsat5(folder: Path) -> Found:
    """Six bands of surface reflectance of 1992."""
    paths = [next(folder.glob(f"LS5_TM_NBAR*/scene01/*_{band}.tif")) for band in LANDSAT_5]
    digital = np.concatenate([_raster(path) for path in paths])
    return Found((Scenes(LANDSAT5, (np.where(digital > 0, digital / 1e4, np.nan).astype(np.float32),)),))


def gamma0(folder: Path) -> Found:
    """Backscatter of Sentinel-1 in decibels, as power."""
    db = _raster(next(folder.glob("*.tif")))
    return Found((Scenes(GAMMA_S1, (np.where(db > -90, 10 ** (db / 10), np.nan).astype(np.float32),)),))


def capella(folder: Path) -> Found:
    """Quad-pol single-look amplitudes of Rotterdam."""
    return Found((Scenes(CAPELLA, (_parts([_raster(folder / f"sar_{p}.tif")[0] for p in ("hh", "hv", "vh", "vv")]),)),))


def uavsar(folder: Path) -> Found:
    """HH of frequency A of three NISAR-format files."""
    images = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            images.append(_parts([np.asarray(file["science/LSAR/SLC/swaths/frequencyA/HH"])]))
    scaled = tuple((x / np.sqrt(np.mean(x**2) * 2)).astype(np.float32) for x in images)
    return Found((Scenes(UAVSAR, scaled),))


def sandbox(side_px: int = 512) -> Found:
    """Land cover under quad-pol single-look echoes on the map: western landscapes to learn from, an eastern one asked.

    Echoes are drawn from the same covariances as those of the sandbox's products, without their geolocation.
    """
    west, east = REGIONS
    learn = [_land(west, side_px, seed) for seed in (7, 8)]
    asked = _land(east, side_px, 7)
    images, labels = zip(*[(x, y) for pixels, cover in learn for x, y in _pairs(pixels, cover)], strict=True)
    test, test_labels = zip(*_pairs(*asked), strict=True)
    task = Task("sandbox_sar_l1", SANDBOX_L1, images, labels, test, test_labels)
    return Found((Scenes(SANDBOX_L1, tuple(pixels for pixels, _ in learn)),), (task,))


def _land(region: Region, side_px: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    land = draw(region, side_px * STEP_M, seed)
    echo = covariance(land, "summer")
    drawn = complex_speckle(np.random.default_rng([seed, region.epsg]), echo, NOISE)
    cover = majority(COVER_OF[land.surfaces["summer"]], grid_over(region, land.size_m, STEP_M), land.grid)
    return _parts(list(drawn)), cover.astype(np.int64) - 1


def _pairs(pixels: np.ndarray, cover_HW: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x, y[0]) for x, y in zip(_tiles(pixels), _tiles(cover_HW[None]), strict=True)]


def _parts(amplitudes: Sequence[np.ndarray]) -> np.ndarray:
    """Complex (H, W) each to real and imaginary parts, (2 n, H, W)."""
    return np.stack([part for a in amplitudes for part in (a.real, a.imag)]).astype(np.float32)


def _tiles(pixels_CHW: np.ndarray, side: int = 64) -> tuple[np.ndarray, ...]:
    """Cut into squares, row by row; what is left over at the border is dropped."""
    rows, cols = (n // side for n in pixels_CHW.shape[1:])
    return tuple(
        pixels_CHW[:, i * side : (i + 1) * side, j * side : (j + 1) * side] for i in range(rows) for j in range(cols)
    )


def _picture(path: Path, side: int | None = None) -> np.ndarray:
    """Red, green, blue from 0 to 1, (3, H, W) float32, averaged down to a side."""
    image = Image.open(path).convert("RGB")
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 255


def _raster(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            pixels = source.read()
    return pixels if np.iscomplexobj(pixels) else pixels.astype(np.float32)


READERS: dict[str, Callable[[Path], Found]] = {
    "rsscn7_256": rsscn7,
    "ombria": ombria,
    "sen1floods11_spain": sen1floods11,
    "s2_l1c_dsen2": sentinel2_l1c,
    "ftw_s2_bitemporal": fields,
    "landsat8_l2sp_stac": landsat8,
    "landsat5_nbar_ga": landsat5,
    "s1_gamma0_clip": gamma0,
    "slc_capella_quadpol": capella,
    "slc_uavsar_nisar": uavsar,
}
