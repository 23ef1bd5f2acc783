"""Arrays to chips: the data contract measured on them, the mix they are learned in, and what is asked about."""

# Shape suffixes: B images, C channels, H rows, W columns, N images or pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pretrain_sensors import Sensor
from pretrain_sets import Scenes, Task
from torch import Tensor

from ringmoe.contract import DataContract
from ringmoe.evaluate import Labelled, LabelledPixels
from ringmoe.measure import measure_contract
from ringmoe.modality import Chips, Modality

MIX: Mapping[Modality, float] = {
    Modality.OPT: 0.625,
    Modality.MS: 0.125,
    Modality.SAR_L1: 0.125,
    Modality.SAR_L2: 0.125,
}
"""Share of each modality among the chips."""

PIXELS_OF_A_CLASS = 8
"""Pixels asked about in an image, of each class that it has."""


def contract_of(scenes: Sequence[Scenes]) -> DataContract:
    """What these images hold, by sensor, measured on them; the sensor with the most pixels leads its modality."""
    found = measure_contract(scenes, described=True)
    assert not found.left_out, found.left_out
    return found.contract


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
