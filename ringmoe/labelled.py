"""Chips with a class for every pixel, drawn from labelled cubes."""

# Shape suffixes: B chips, H rows, W columns.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ringmoe.ahead import Ahead
from ringmoe.contract import DataContract
from ringmoe.draw import Crop, Drawer, bands_of, losses_of
from ringmoe.errors import DataError
from ringmoe.looks import CubeSource
from ringmoe.modality import Chips, Modality
from ringmoe.pictures import Lost

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Labelled:
    """A cube or composite with a class for every pixel of its grid."""

    cube: xr.Dataset
    """`data` (time, band, y, x) or (band, y, x); with several times, all share the labels."""
    labels: np.ndarray
    """(y, x), integer class codes from 1; 0 where nobody knows."""


class LabelledSampler:
    """Chips of one modality with their labels; the batch of a step is a function of seed and step alone.

    Parameters
    ----------
    sources
        Cubes that honour the contract, with labels on their grid.
    contract
        What the cubes must hold.
    batch
        Chips in a batch.
    seed
        Another seed, other chips.

    Raises
    ------
    ContractError
        When a cube does not honour the contract.
    DataError
        When there is no source, they are of several modalities or lists of bands, or labels and cube differ in size.
    """

    def __init__(
        self,
        sources: Sequence[Labelled],
        contract: DataContract,
        *,
        batch: int = 16,
        crop: Crop | None = None,
        seed: int = 0,
    ) -> None:
        self.size, self.seed = batch, seed
        for source in sources:
            contract.check(source.cube.attrs)
            _same_grid(source)
        modalities = {Modality(s.cube.attrs["modality"]) for s in sources}
        if len(modalities) != 1:
            raise DataError(
                "labels are learned from one modality at a time",
                item=", ".join(sorted(m.value for m in modalities)) or "no source",
                enough="labelled cubes of one modality",
                todo="call once per modality, each with its own head",
            )
        (self.modality,) = modalities
        bands = {bands_of(contract, s.cube.attrs) for s in sources}
        if len(bands) != 1:
            raise DataError(
                "labels are learned from one list of bands at a time",
                item="; ".join(sorted(" ".join(band.name for band in each) for each in bands)),
                enough="labelled cubes of one sensor",
                todo="call once per sensor, each with its own head",
            )
        labels = [np.asarray(s.labels).astype(np.int64) for s in sources]
        crop, cubes = crop or Crop(), [CubeSource(s.cube) for s in sources]
        self._losses = losses_of(cubes, crop.reading)
        self._drawer = Drawer(cubes, bands.pop(), labels, crop, self._losses)
        self.counts = np.sum([np.bincount(a.ravel(), minlength=256) for a in labels], axis=0)
        """Labelled pixels by class code."""

    def batch(self, step: int) -> tuple[Chips, torch.Tensor]:
        """Chips and labels_BHW, int64, 0 where nobody knows, of one step."""
        chips, labels = self._drawer.chips((self.seed, step), step, range(self.size))
        assert labels is not None
        return chips, torch.from_numpy(np.ascontiguousarray(labels))

    @property
    def lost(self) -> tuple[Lost, ...]:
        """What could not be read so far."""
        return self._losses.list

    def stream(self, start: int = 0, *, workers: int = 0, ahead: int = 4) -> Ahead[tuple[Chips, torch.Tensor]]:
        """Batches from a step on, without end, the same for any number of workers."""
        return Ahead(self.batch, start, workers=workers, ahead=ahead)


def _same_grid(source: Labelled) -> None:
    size = (int(source.cube.sizes["y"]), int(source.cube.sizes["x"]))
    if source.labels.shape != size:
        raise DataError(
            "labels do not lie on their cube's grid",
            item=f"labels {source.labels.shape}, cube {size}",
            enough="one label for each pixel of the cube",
            todo="warp the labels onto the cube's grid, nearest neighbour",
        )
