"""Cubes, folders of images and memory-mapped chips to samples to batches."""

# xarray is imported where it is used only: this file must import where only torch and numpy are installed.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ringmoe.ahead import Ahead
from ringmoe.blocks import Reading
from ringmoe.contract import DataContract
from ringmoe.draw import Crop, Drawer, bands_of, losses_of
from ringmoe.errors import DataError
from ringmoe.labelled import Labelled, LabelledSampler
from ringmoe.looks import chips_from, look, open_cubes, sources_of, times
from ringmoe.modality import BandSpec, Batch, Chips, Modality, run_of
from ringmoe.pictures import Lost, Source

if TYPE_CHECKING:
    from ringmoe.looks import Cubes

__all__ = [
    "ChipSampler",
    "Crop",
    "Labelled",
    "LabelledSampler",
    "Reading",
    "chips_from",
    "look",
    "measured_mix",
    "open_cubes",
    "times",
]

PAPER_MIX: Mapping[Modality, float] = MappingProxyType(
    {Modality.OPT: 0.70, Modality.MS: 0.20, Modality.SAR_L1: 0.05, Modality.SAR_L2: 0.05}
)
"""Share of each modality among the chips, as in the paper."""

EQUAL_MIX: Mapping[Modality, float] = MappingProxyType(dict.fromkeys(Modality, 0.25))
"""The same share for every modality."""

_GOLDEN = (5**0.5 - 1) / 2


class ChipSampler:
    """Unpaired chips of every modality; the batch of a step is a function of seed and step alone.

    All chips of a modality in one batch are of one list of bands; lists take turns by their pixels.

    Parameters
    ----------
    cubes
        Cubes, folders of images (`ringmoe.images`) and memory-mapped chips (`ringmoe.mapped`) that honour the
        contract; where they lie decides nothing, their order only which chips are drawn.
    contract
        What each modality's pixels are.
    batch
        Chips in a batch, over all modalities.
    mix
        Share of each modality; modalities without a source are left out and the rest scaled up.
    least
        Chips of a modality in a batch that has any, where the batch is as large: one for each rank that it is split
        over, which has them in equal parts then. Twins count as one.
    seed
        Another seed, other chips.

    Raises
    ------
    ContractError
        When a source does not honour the contract.
    DataError
        When no modality of the mix has a source, a source has no picture, or too much cannot be read.
    """

    def __init__(
        self,
        cubes: Cubes,
        contract: DataContract,
        *,
        batch: int = 32,
        mix: Mapping[Modality, float] = PAPER_MIX,
        crop: Crop | None = None,
        least: int = 1,
        seed: int = 0,
    ) -> None:
        self.crop, self.size, self.least, self.seed = crop or Crop(), batch, least, seed
        if self.crop.twins and batch % (2 * least):
            raise DataError(
                "twins need an even batch" + (", and of each rank an even part" if least > 1 else ""),
                item=f"batches of {batch} chips, {least} ranks",
                enough=f"a multiple of {2 * least}",
                todo="choose another number of chips, or cut every place once: no views",
            )
        sources = sources_of(cubes)
        self._losses = losses_of(sources, self.crop.reading)
        groups = _groups(sources, contract)
        present = [m for m in Modality if m in groups and mix.get(m, 0.0) > 0]
        if not present:
            raise DataError(
                "there is nothing to draw chips from",
                item=f"{len(cubes)} cubes",
                enough=f"a cube of one of {', '.join(m.value for m in mix)}",
                todo="ingest scenes of such a sensor, or change the mix",
            )
        total = sum(mix[m] for m in present)
        self.shares = {m: mix[m] / total for m in present}
        self._drawers = {
            m: [Drawer(s, b, None, self.crop, self._losses) for b, s in groups[m].items()] for m in present
        }

    @property
    def lost(self) -> tuple[Lost, ...]:
        """What could not be read so far."""
        return self._losses.list

    def counts(self, step: int) -> dict[Modality, int]:
        """Chips of each modality in the batch of one step; they add up to the batch, and over steps to the mix.

        The i-th chip ever drawn, or the i-th `least` of them, is of the modality in whose share frac(i x golden ratio)
        falls: a low-discrepancy sequence, so that even a 5 % modality turns up at a steady pace. What is left of the
        batch is of the modality that it has most of.
        """
        together = min(self.least * (2 if self.crop.twins else 1), self.size)
        groups = self.size // together
        index = np.arange(step * groups, (step + 1) * groups, dtype=np.float64)
        edges = np.cumsum(list(self.shares.values()))[:-1]
        which = np.searchsorted(edges, np.modf((index + 0.5) * _GOLDEN)[0], side="right")
        counts = np.bincount(which, minlength=len(self.shares)) * together
        counts[counts.argmax()] += self.size - groups * together
        return {m: int(count) for m, count in zip(self.shares, counts, strict=True)}

    def batch(self, step: int, rank: int | None = None) -> Batch:
        """The batch of one step; modalities without a chip in it are absent.

        Parameters
        ----------
        rank
            Of `least` ranks, the one whose part alone is drawn, as `ringmoe.parallel.part_of` cuts it from the whole;
            None draws the whole.

        Raises
        ------
        DataError
            When chips of a modality are all no-data, too much cannot be read, or a rank would be without chips.
        """
        out: dict[Modality, Chips] = {}
        for index, (modality, count) in enumerate(self.counts(step).items()):
            key, wanted = (self.seed, step, index), range(count)
            if count:
                drawer = _turn(self._drawers[modality], np.random.default_rng(key))
                mine = wanted if rank is None else wanted[run_of(count, rank, self.least)]
                if not mine:
                    raise DataError(
                        "a rank would be without images",
                        item=f"{count} chips of {modality} for {self.least} ranks",
                        enough=f"batches of {self.least} chips, one a rank",
                        todo="draw larger batches, or start fewer ranks",
                    )
                out[modality], _ = drawer.chips(key, step, mine)
        return out

    def stream(self, start: int = 0, *, workers: int = 0, ahead: int = 4, rank: int | None = None) -> Ahead[Batch]:
        """Batches from a step on, or a rank's part of them, without end, the same for any number of workers.

        Parameters
        ----------
        start
            The first step.
        workers
            Threads that make batches, and read the blocks of the next round, ahead of the steps that need them.
        ahead
            How many batches may be ready or under way.
        """
        return Ahead(partial(self._warmed if workers else self.batch, rank=rank), start, workers=workers, ahead=ahead)

    def _warmed(self, step: int, rank: int | None) -> Batch:
        batch = self.batch(step, rank)
        for drawers in self._drawers.values():
            for drawer in drawers:
                drawer.warm(self.seed, step)
        return batch


def measured_mix(batch: Batch) -> dict[Modality, float]:
    """Share of each modality among the images of a batch."""
    total = sum(len(chips) for chips in batch.values())
    return {m: len(chips) / total for m, chips in batch.items()}


def _groups(
    sources: Sequence[Source], contract: DataContract
) -> dict[Modality, dict[tuple[BandSpec, ...], list[Source]]]:
    """Sources by modality and what their chips say of their bands."""
    groups: dict[Modality, dict[tuple[BandSpec, ...], list[Source]]] = {}
    for source in sources:
        contract.check(source.attrs)
        modality = Modality(source.attrs["modality"])
        groups.setdefault(modality, {}).setdefault(bands_of(contract, source.attrs), []).append(source)
    for modality, lists in groups.items():
        empty = [source for group in lists.values() for source in group if not source.pictures]
        if empty:
            raise DataError(
                f"a source of modality {modality.value} has no sample",
                item=", ".join(str(source.attrs.get("tile", "?")) for source in empty),
                enough="one picture that can be opened",
                todo="look at what was lost, or leave the source out",
            )
    return groups


def _turn(drawers: Sequence[Drawer], rng: np.random.Generator) -> Drawer:
    if len(drawers) == 1:
        return drawers[0]
    pixels = np.array([drawer.pixels for drawer in drawers])
    return drawers[int(rng.choice(len(drawers), p=pixels / pixels.sum()))]
