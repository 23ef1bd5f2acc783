"""Arrays to chips: the data contract measured on them, batches of a step, and the pixels that are asked about."""

# Shape suffixes: B images, C channels, H rows, W columns, N images or pixels.

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from pretrain_sensors import Sensor
from pretrain_sets import Scenes, Task
from torch import Tensor

from ringmoe.contract import LOG_FLOOR, DataContract, InputContract
from ringmoe.evaluate import Labelled, LabelledPixels
from ringmoe.modality import Batch, Chips, Modality, ordered

QUANTITIES = {
    Modality.OPT: "display_value",
    Modality.MS: "reflectance",
    Modality.SAR_L1: "amplitude",
    Modality.SAR_L2: "backscatter",
}
"""Top-of-atmosphere and surface reflectance pass for one: each sensor has a normalisation of its own."""

MIX: Mapping[Modality, float] = {
    Modality.OPT: 0.625,
    Modality.MS: 0.125,
    Modality.SAR_L1: 0.125,
    Modality.SAR_L2: 0.125,
}
"""Share of each modality among the chips."""

SPAN = 4
"""Optical images are cut to between so many parts of their side and the whole."""

PIXELS_OF_A_CLASS = 8
"""Pixels asked about in an image, of each class that it has."""


def contract_of(scenes: Sequence[Scenes]) -> DataContract:
    """What these images hold, by sensor; the first sensor of a modality leads it."""
    entries: dict[Modality, list[InputContract]] = {}
    for each in scenes:
        entries.setdefault(each.sensor.modality, []).append(_entry(each))
    first = {m: entries[m][0] for m in ordered(dict.fromkeys(entries))}
    return DataContract(first, tuple(more for m in first for more in entries[m][1:]), described=True)


def _entry(scenes: Scenes) -> InputContract:
    sensor = scenes.sensor
    pixels_CN = np.concatenate([image.reshape(len(image), -1) for image in scenes.images], 1).astype(np.float64)
    pixels_CN = pixels_CN[:, np.isfinite(pixels_CN).all(0)]
    if sensor.modality is Modality.SAR_L2:
        pixels_CN = np.log(pixels_CN + LOG_FLOOR)
    mean, std = pixels_CN.mean(1), pixels_CN.std(1)
    if sensor.modality is Modality.SAR_L1:
        rms = np.sqrt((pixels_CN**2).reshape(-1, 2 * pixels_CN.shape[1]).mean(1))
        mean, std = np.zeros(len(mean)), rms.repeat(2)
    return InputContract(
        modality=sensor.modality,
        sensor=sensor.name,
        bands=sensor.bands,
        quantity=QUANTITIES[sensor.modality],
        units="1",
        transform="log" if sensor.modality is Modality.SAR_L2 else "identity",
        mean=tuple(float(v) for v in mean),
        std=tuple(float(max(v, 1e-6)) for v in std),
        gsd_m=(sensor.gsd_m, sensor.gsd_m),
        looks=sensor.looks,
    )


@dataclass(frozen=True)
class Draws:
    """Batches of chips; that of a step is a function of seed and step alone."""

    scenes: Sequence[Scenes]
    """Drawn from by their pixels."""
    batch: int = 32
    """Chips in a batch."""
    chip_px: int = 64
    """Side of a chip."""
    seed: int = 0
    """Another seed, other chips."""
    mix: Mapping[Modality, float] | None = None
    """Share of each modality; MIX where it is None. Modalities without a scene are left out."""
    twins: bool = False
    """Two chips of each place, one after the other."""

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end."""
        while True:
            yield self.at(start)
            start += 1

    def at(self, step: int) -> Batch:
        """The batch of a step; every modality in it is of one sensor, sensors take turns by their pixels."""
        rng = np.random.default_rng([self.seed, step])
        found = {}
        for modality, count in self._counts(step).items():
            mine = [s for s in self.scenes if s.sensor.modality is modality]
            sizes = np.array([sum(image[0].size for image in s.images) for s in mine], float) ** 0.5
            which = mine[rng.choice(len(mine), p=sizes / sizes.sum())]
            found[modality] = self._chips(which, count, rng)
        return found

    def _counts(self, step: int) -> dict[Modality, int]:
        mix = self.mix or MIX
        present = ordered({s.sensor.modality: None for s in self.scenes if mix.get(s.sensor.modality, 0) > 0})
        share, each = np.array([mix[m] for m in present]), 2 if self.twins else 1
        images = self.batch // each * np.array([step, step + 1])
        upto = np.floor((np.cumsum(share / share.sum()))[:, None] * images + 1e-6)
        counts = np.diff(np.diff(upto, axis=1)[:, 0], prepend=0).astype(int)
        return {m: each * int(n) for m, n in zip(present, counts, strict=True) if n > 0}

    def _chips(self, scenes: Scenes, count: int, rng: np.random.Generator) -> Chips:
        jitter = scenes.sensor.modality is Modality.OPT
        turns = scenes.sensor.modality is not Modality.SAR_L1
        drawn = []
        for _ in range(count // 2 if self.twins else count):
            image = scenes.images[rng.integers(len(scenes.images))]
            place = self._place(image.shape[1:], rng, jitter)
            drawn.append(self._chip(image, place, rng, turns))
            if self.twins:
                near = self._place(image.shape[1:], rng, jitter) if jitter else _beside(place, image.shape[1:], rng)
                drawn.append(self._chip(image, near, rng, turns))
        pixels_BCHW = torch.stack([pixels for pixels, _ in drawn])
        gsd_B = torch.tensor([scale * scenes.sensor.gsd_m for _, scale in drawn], dtype=torch.float32)
        return Chips(pixels_BCHW, torch.isfinite(pixels_BCHW).all(1), scenes.sensor.bands, gsd_B)

    def _place(self, shape: Sequence[int], rng: np.random.Generator, jitter: bool) -> tuple[int, int, int]:
        """Side of a window, its first row and column."""
        cut = min(self.chip_px, *shape)
        if jitter:
            cut = round(min(shape) * math.exp(rng.uniform(-math.log(SPAN), 0.0)))
        y, x = (int(rng.integers(n - cut + 1)) for n in shape)
        return cut, y, x

    def _chip(
        self, image_CHW: np.ndarray, place: tuple[int, int, int], rng: np.random.Generator, turns: bool
    ) -> tuple[Tensor, float]:
        """A mirrored or turned window, resized where it is no chip yet; and by how much its pixels have grown."""
        cut, y, x = place
        chip_CHW = torch.from_numpy(np.ascontiguousarray(image_CHW[:, y : y + cut, x : x + cut]))
        size = min(self.chip_px, *image_CHW.shape[1:])
        if cut != size:
            chip_CHW = F.interpolate(
                chip_CHW[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False
            )[0]
        chip_CHW = chip_CHW.flip([axis for axis in (1, 2) if rng.random() < 0.5])
        if turns and rng.random() < 0.5:
            chip_CHW = chip_CHW.transpose(1, 2)
        return chip_CHW, cut / size


def _beside(place: tuple[int, int, int], shape: Sequence[int], rng: np.random.Generator) -> tuple[int, int, int]:
    """A window of the same side that shares at least half of each side with another."""
    cut, *corner = place
    y, x = (
        int(np.clip(start + rng.integers(-cut // 2, cut // 2 + 1), 0, n - cut))
        for start, n in zip(corner, shape, strict=True)
    )
    return cut, y, x


def labelled_images(sensor: Sensor, images: Sequence[np.ndarray], labels: Sequence[np.ndarray], side: int) -> Labelled:
    """Whole images averaged down to a side, in batches of as many pixels as 50 images of 64 px."""
    chips, few = [], max(50 * 64**2 // side**2, 1)
    for start in range(0, len(images), few):
        pixels_BCHW = torch.from_numpy(np.stack(images[start : start + few]))
        scale = pixels_BCHW.shape[-1] // side
        pixels_BCHW = F.avg_pool2d(pixels_BCHW, scale) if scale > 1 else pixels_BCHW
        chips.append(_whole(pixels_BCHW, sensor, max(scale, 1)))
    return Labelled(chips, torch.tensor([int(label) for label in labels]))


def labelled_pixels(
    sensor: Sensor, images: Sequence[np.ndarray], labels: Sequence[np.ndarray], side: int, seed: int
) -> LabelledPixels:
    """Equally many pixels of each class of an image, as far as it has them; images are cut to their middle."""
    rng = np.random.default_rng(seed)
    chips, rows, cols, codes = [], [], [], []
    for image_CHW, label_HW in zip(images, labels, strict=True):
        y, x = ((n - side) // 2 if n > side else 0 for n in label_HW.shape)
        cut = (slice(y, y + side), slice(x, x + side))
        seen_HW = np.isfinite(image_CHW[:, *cut]).all(0)
        found = [_some(rng, (label_HW[cut] == code) & seen_HW) for code in np.unique(label_HW[cut]) if code >= 0]
        at_N2 = np.concatenate(found) if found else np.zeros((0, 2), int)
        if len(at_N2):
            chips.append(_whole(torch.from_numpy(np.ascontiguousarray(image_CHW[:, *cut]))[None], sensor, 1))
            rows.append(torch.from_numpy(at_N2[:, 0]))
            cols.append(torch.from_numpy(at_N2[:, 1]))
            codes.append(torch.from_numpy(label_HW[cut][at_N2[:, 0], at_N2[:, 1]]))
    return LabelledPixels(chips, rows, cols, torch.cat(codes))


def _some(rng: np.random.Generator, here_HW: np.ndarray) -> np.ndarray:
    places_N2 = np.argwhere(here_HW)
    return places_N2[rng.permutation(len(places_N2))[:PIXELS_OF_A_CLASS]]


def _whole(pixels_BCHW: Tensor, sensor: Sensor, scale: int) -> Chips:
    valid_BHW = torch.isfinite(pixels_BCHW).all(1)
    gsd_B = torch.full((len(pixels_BCHW),), sensor.gsd_m * scale)
    return Chips(pixels_BCHW, valid_BHW, sensor.bands, gsd_B)


def is_of_images(task: Task) -> bool:
    """Whether a task asks about whole images."""
    return task.train_labels[0].ndim == 0
