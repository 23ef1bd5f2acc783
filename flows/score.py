"""A map against labels that it never saw, beside a nearest-centroid baseline fitted on what it did see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr

from catalog.errors import MetadataError
from catalog.search import Raster
from flows import segment
from flows.refs import AdaptRequest, Area, InferRequest, ItemRef, Where
from flows.select import classes_of, identities, inside, label_grid, of_sensor
from flows.stac import label_rasters
from ringmoe.data import chips_from
from ringmoe.evaluate import NearestCentroid, confusion_matrix, scores


@dataclass(frozen=True)
class Truth:
    """What a map is scored against, and what its baseline may learn from."""

    area: Area
    """Only pixels within, and outside the area trained on, are scored."""
    labels: tuple[Raster, ...]
    """Label rasters over the scored area."""
    train_labels: tuple[Raster, ...]
    """Label rasters the model was adapted on."""
    train_cubes: tuple[ItemRef, ...]
    """Cubes the model was adapted on."""
    train: AdaptRequest
    """How they were composited and where."""

    def inputs(self) -> dict[str, Any]:
        """All that determines a score, JSON-able."""
        return {
            "area": self.area.model_dump(mode="json"),
            "labels": identities((*self.labels, *self.train_labels)),
            "train": self.train.model_dump(mode="json"),
        }


def truth_of(cubes: Sequence[ItemRef], request: InferRequest, trained: AdaptRequest, where: Where) -> Truth | None:
    """Labels over the mapped area that were not learned from; None where there are none."""
    held_out = label_rasters(where, request.area, request.period)
    if not held_out:
        return None
    learned = label_rasters(where, trained.area, trained.period)
    return Truth(request.area, held_out, learned, tuple(cubes), trained)


def against_truth(classes: Path, whole: xr.Dataset, truth: Truth, legend: Sequence[str]) -> dict[str, Any] | None:
    """Accuracy, IoU and confusion of a map and of the baseline, on the same pixels; None where no label lies.

    Parameters
    ----------
    classes
        The map's COG.
    whole
        The mosaic that was mapped, `data` (band, y, x).
    legend
        Names of the map's classes 1, 2, ...

    Raises
    ------
    MetadataError
        When labels are of another legend than the map.
    """
    scored = inside(whole, truth.area) & ~inside(whole, truth.train.area)
    labels = np.where(scored, label_grid(truth.labels, whole), 0)
    if not labels.any():
        return None
    with rasterio.open(classes) as source:
        predicted = source.read(1)
    names = [c.name for c in classes_of(truth.labels)]
    if list(legend) != names:
        raise MetadataError(
            "the labels over the mapped area are of another legend than the model's",
            item=", ".join(r.id for r in truth.labels),
            enough=f"the classes {', '.join(legend)}",
            todo="register labels of the same legend there, or none",
        )
    pixels, valid = chips_from(whole, described=True)
    baseline = _baseline(truth, pixels.reshape(len(pixels), -1), len(names)).reshape(valid.shape)
    seen = valid & (predicted > 0) & (baseline > 0)
    labels = np.where(seen, labels, 0)
    return _report(labels, predicted, names) | {"baseline": _report(labels, baseline, names)}


def _report(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    found = scores(confusion_matrix(labels, predicted, len(names)))
    return {
        "accuracy": round(found.accuracy, 6),
        "mean_iou": round(found.mean_iou, 6),
        "iou": {n: None if np.isnan(v) else round(v, 6) for n, v in zip(names, found.iou, strict=True)},
        "confusion": found.confusion.tolist(),
        "pixels": int(found.confusion.sum()),
    }


def _baseline(truth: Truth, pixels_CN: np.ndarray, n_classes: int) -> np.ndarray:
    """Class codes of pixels by the nearest class mean, over the bands that they and the labelled cubes have at all."""
    sources = segment.labelled(of_sensor(truth.train_cubes, truth.train.sensor), truth.train_labels, truth.train)
    pixels, codes = [], []
    for source in sources:
        values, valid = chips_from(source.cube, described=True)
        pixels.append(values[:, valid])
        codes.append(source.labels[valid])
    known_CN = np.concatenate(pixels, axis=1)
    bands = np.isfinite(known_CN).any(axis=1) & np.isfinite(pixels_CN).any(axis=1)
    return NearestCentroid.fit(known_CN[bands], np.concatenate(codes), n_classes).predict(pixels_CN[bands])
