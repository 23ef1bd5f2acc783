"""What the frozen features of a fresh checkpoint are worth on the labels there are, beside what takes no training."""

# Shape suffixes: N pixels, D features, C channels, H rows, W columns.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from catalog import cube
from catalog.search import Raster
from flows.models import device
from flows.refs import Period, PretrainRequest, Where
from flows.select import classes_of, label_grid
from flows.stac import label_rasters
from ringmoe.backbone import RingMoE
from ringmoe.bands import band_specs
from ringmoe.data import chips_from, look, times
from ringmoe.determinism import deterministic
from ringmoe.evaluate import probed
from ringmoe.frozen import pixel_features, pixel_statistics, random_pixel_features
from ringmoe.modality import Chips, Modality
from ringmoe.pictures import READ_ERRORS

CHIPS = 24
"""Chips of each half, at most, for every sensor."""
ASKED = 6
"""Pixels asked of a chip, along each side."""


class Half(NamedTuple):
    """Chips of one sensor and what their pixels are."""

    chips: Chips
    """Of one list of bands."""
    labels_BN: Tensor
    """int64; 0 where nobody knows or nothing was measured."""


def table(model: RingMoE, cubes: Sequence[xr.Dataset], request: PretrainRequest, where: Where) -> dict[str, Any]:
    """Single pixels told apart by frozen features of the model, of an untrained one, and by plain ones.

    The area is a checkerboard of chips: those of one colour are learned from, those of the other asked. Their pixels
    were seen by pre-training, their labels were not. Labels decide nothing about the checkpoint.

    Parameters
    ----------
    model
        As pre-trained.
    cubes
        It was trained on, within the area.

    Returns
    -------
    dict
        `rows`, a mapping each with `sensor`, `features`, and shares of pixels told right by `knn`, `linear` and
        `few_shot`, and `retrieval`; how many `pixels`; `note`, why there is no row where there is none.
    """
    registered = where.stac_url is not None or (where.scenes / "catalog.json").exists()
    labels = label_rasters(where, request.area, _period(cubes)) if registered else ()
    rows: list[dict[str, Any]] = []
    pixels: dict[str, list[int]] = {}
    with deterministic(request.seed, threads=where.threads, device=device()):
        untrained = RingMoE(model.config, model.contract).to(device()).eval()
        for sensor, own in sorted(_by_sensor(cubes).items()) if labels else ():
            halves = _halves(own, labels, request, described=model.contract.described)
            if halves is not None:
                modality = Modality(own[0].attrs["modality"])
                models = {"pretrained": model, "untrained": untrained}
                kinds, classes = _features(models, modality, halves)
                pixels[sensor] = [len(part) for part in classes]
                for name, (train_ND, test_ND) in kinds.items():
                    parts = [model.config.dim * 2**stage for stage in range(4)] if name in models else ()
                    scores = asdict(probed(train_ND, classes[0], test_ND, classes[1], parts=parts))
                    rows.append({"sensor": sensor, "features": name} | {k: round(v, 4) for k, v in scores.items()})
    note = "" if rows else "no label lies on enough pixels of a geocoded cube" if labels else "there are no labels"
    return {
        "rows": rows,
        "pixels": pixels,
        "classes": [c.name for c in classes_of(labels)] if labels else [],
        "split": f"checkerboard of {request.chip_px} px; pixels of both colours were seen by pre-training, unlabelled",
        "note": note,
    }


def _period(cubes: Sequence[xr.Dataset]) -> Period:
    moments = np.concatenate([np.atleast_1d(c["time"].values) for c in cubes])
    return Period(start=pd.Timestamp(moments.min()).date(), end=pd.Timestamp(moments.max()).date())


def _by_sensor(cubes: Sequence[xr.Dataset]) -> dict[str, list[xr.Dataset]]:
    """Geocoded cubes; a sensor whose cubes are of two lists of bands is told by the first."""
    found: dict[str, list[xr.Dataset]] = {}
    for each in cubes:
        if cube.geobox(each) is not None:
            own = found.setdefault(str(each.attrs["sensor"]), [])
            if not own or list(own[0]["band"].values) == list(each["band"].values):
                own.append(each)
    return found


def _halves(
    cubes: Sequence[xr.Dataset], labels: Sequence[Raster], request: PretrainRequest, *, described: bool
) -> list[Half] | None:
    """Labelled chips of both colours; None where a colour has none, or all are of one class."""
    rng = np.random.default_rng(request.seed)
    drawn = [list(_chips(cubes, labels, request.chip_px, colour, rng, described)) for colour in (0, 1)]
    halves = []
    for found in drawn:
        if not found:
            return None
        pixels, valid, codes = (np.stack(part) for part in zip(*found, strict=True))
        bands = band_specs(cubes[0].attrs)
        gsd_B = torch.full((len(found),), float(cubes[0].attrs["gsd_m"]))
        chips = Chips(torch.from_numpy(pixels), torch.from_numpy(valid), bands, gsd_B)
        rows_N, columns_N = _places(request.chip_px)
        at_BN = torch.from_numpy(np.where(valid, codes, 0))[:, rows_N, columns_N]
        halves.append(Half(chips, at_BN))
    classes = [set(half.labels_BN[half.labels_BN > 0].tolist()) for half in halves]
    return halves if len(classes[0]) > 1 and classes[0] & classes[1] else None


def _chips(
    cubes: Sequence[xr.Dataset],
    labels: Sequence[Raster],
    side: int,
    colour: int,
    rng: np.random.Generator,
    described: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pixels, validity and class codes of at most CHIPS chips of a colour, drawn over cubes and looks."""
    codes = [label_grid(labels, each) for each in cubes]
    places = [
        (number, row, column, time)
        for number, each in enumerate(cubes)
        for row in range(each.sizes["y"] // side)
        for column in range(each.sizes["x"] // side)
        if (row + column) % 2 == colour and codes[number][_window(row, column, side)].any()
        for time in range(times(each))
    ]
    count = 0
    for index in rng.permutation(len(places)):
        number, row, column, time = places[index]
        window = _window(row, column, side)
        try:
            piece = look(cubes[number], time).isel(y=window[0], x=window[1])
            pixels, valid = chips_from(piece, described=described)
        except READ_ERRORS:  # the run has counted and listed it
            continue
        own = codes[number][window]
        if (valid & (own > 0)).mean() >= 0.25:
            yield pixels, valid, own
            count += 1
        if count == CHIPS:
            return


def _window(row: int, column: int, side: int) -> tuple[slice, slice]:
    return slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)


def _places(side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels asked of a chip, evenly spread."""
    at = torch.linspace(0, side - 1, ASKED + 2).round().long()[1:-1]
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    return rows.flatten(), columns.flatten()


def _features(
    models: dict[str, RingMoE], modality: Modality, halves: Sequence[Half]
) -> tuple[dict[str, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Each kind of feature of the labelled pixels of both halves, and their classes."""
    contract = next(iter(models.values())).contract.input_of(modality, halves[0].chips.bands)
    found: dict[str, list[Tensor]] = {}
    for half in halves:
        rows_N, columns_N = _places(half.chips.pixels_BCHW.shape[-1])
        known = half.labels_BN.flatten() > 0
        parts = {
            name: pixel_features(model, half.chips.to(device()), modality, rows_N.to(device()), columns_N.to(device()))
            for name, model in models.items()
        }
        parts["image_statistics"] = pixel_statistics(contract, half.chips, rows_N, columns_N)
        parts["random_features"] = random_pixel_features(contract, half.chips, rows_N, columns_N)
        for name, part_ND in parts.items():
            found.setdefault(name, []).append(part_ND.cpu()[known])
    classes = [half.labels_BN.flatten()[half.labels_BN.flatten() > 0] for half in halves]
    return {name: (a, b) for name, (a, b) in found.items()}, (classes[0], classes[1])
