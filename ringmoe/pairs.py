"""Paired chips: several modalities over the same ground at near dates, pixel on pixel."""

# Shape suffixes: B chips, C channels, H rows, W columns.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ringmoe.ahead import Ahead
from ringmoe.blocks import Blocks, Pixels
from ringmoe.contract import DataContract
from ringmoe.draw import Crop, bands_of, losses_of
from ringmoe.errors import DataError
from ringmoe.looks import sources_of
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.overlap import Overlap, nearest, overlap
from ringmoe.pictures import Lost, Picture
from ringmoe.vary import Orientation

if TYPE_CHECKING:
    from ringmoe.looks import Cubes


@dataclass(frozen=True)
class Pairing:
    """Which pictures belong together."""

    modalities: tuple[Modality, ...] = (Modality.MS, Modality.SAR_L2)
    """Two or more; each picture of the first is paired with the nearest in time of each other one."""
    days: float = 6.0
    """How far apart in time at most."""
    most_px: int = 512
    """Longest side of a chip: pictures whose pixel sizes differ so much that one would be longer make no pair."""


class _Pair(NamedTuple):
    """Pictures over the same ground, one for each modality of the pairing."""

    sources: tuple[int, ...]
    """Places of their sources."""
    pictures: tuple[int, ...]
    """Their places in their sources."""
    shared: Overlap
    """The windows they share."""

    @property
    def weight(self) -> float:
        """How many windows."""
        return float((self.shared.down + 1) * (self.shared.right + 1))


class PairSampler:
    """Chips of several modalities over the same ground; the batch of a step is a function of seed and step alone.

    The i-th chips of all modalities of a batch cover the same square of the Earth, mirrored and turned alike. No pixel
    is interpolated: the coarsest picture gives chips of `crop.chip_px`, a picture of pixels half as large chips twice
    as long. Pictures that lie on no grid, or on grids whose pixels do not fit into each other, make no pair.

    Parameters
    ----------
    cubes
        As `ringmoe.data.ChipSampler` takes them.
    contract
        What each modality's pixels are.
    pairing
        Which modalities, and how near in time.
    batch
        Chips of each modality in a batch.
    seed
        Another seed, other chips.

    Raises
    ------
    ContractError
        When a source does not honour the contract.
    DataError
        When no two pictures make a pair, or too much cannot be read.
    """

    def __init__(
        self,
        cubes: Cubes,
        contract: DataContract,
        pairing: Pairing | None = None,
        *,
        batch: int = 16,
        crop: Crop | None = None,
        seed: int = 0,
    ) -> None:
        self.crop, self.pairing, self.size, self.seed = crop or Crop(), pairing or Pairing(), batch, seed
        self._sources = sources_of(cubes)
        for source in self._sources:
            contract.check(source.attrs)
        self._losses = losses_of(self._sources, self.crop.reading)
        room_bytes = self.crop.reading.room_bytes
        self._blocks = Blocks(self._sources, room_bytes, self._losses, described=contract.described)
        self._bands = [bands_of(contract, source.attrs) for source in self._sources]
        self._kinds = self._paired()

    @property
    def lost(self) -> tuple[Lost, ...]:
        """What could not be read so far."""
        return self._losses.list

    @property
    def pairs(self) -> int:
        """Pairs of pictures there are to draw from."""
        return sum(len(kind) for kind in self._kinds)

    def batch(self, step: int) -> Batch:
        """The batch of one step: as many chips of each modality of the pairing, in the same order of places.

        Raises
        ------
        DataError
            When no draw finds chips with enough usable pixels in every modality.
        """
        weights = [sum(pair.weight for pair in kind) for kind in self._kinds]
        kind = self._kinds[_chosen(np.random.default_rng([self.seed, step]), weights)]
        drawn = [self._draw(np.random.default_rng([self.seed, step, i]), kind) for i in range(self.size)]
        found: dict[Modality, Chips] = {}
        for place, modality in enumerate(self.pairing.modalities):
            source = kind[0].sources[place]
            pixels_BCHW = torch.from_numpy(np.stack([chips[place][0] for chips in drawn]))
            valid_BHW = torch.from_numpy(np.stack([chips[place][1] for chips in drawn]))
            gsd_B = torch.full((self.size,), float(self._sources[source].attrs["gsd_m"]))
            bands = self._bands[source]
            found[modality] = Chips(pixels_BCHW, valid_BHW, bands, gsd_B if bands else None)
        return found

    def stream(self, start: int = 0, *, workers: int = 0, ahead: int = 4) -> Ahead[Batch]:
        """Batches from a step on, without end, the same for any number of workers."""
        return Ahead(self.batch, start, workers=workers, ahead=ahead)

    def _draw(self, rng: np.random.Generator, kind: Sequence[_Pair]) -> list[Pixels]:
        """Pixels and validity of one window in every picture of a pair."""
        weights = [pair.weight for pair in kind]
        for _ in range(self.crop.attempts):
            pair = kind[_chosen(rng, weights)]
            down, right = int(rng.integers(pair.shared.down + 1)), int(rng.integers(pair.shared.right + 1))
            found = [
                self._blocks.window(source, picture, *part.window(down, right))
                for source, picture, part in zip(pair.sources, pair.pictures, pair.shared.parts, strict=True)
            ]
            chips = [chip for chip in found if chip is not None and chip[1].mean() >= self.crop.least_usable]
            if len(chips) == len(found):
                way = Orientation(rng, self.crop.turns and Modality.SAR_L1 not in self.pairing.modalities)
                return [(way(pixels), way(valid)) for pixels, valid in chips]
        raise DataError(
            "paired chips that are all no-data in one of their modalities",
            item=f"{len(kind)} pairs of {_named(self.pairing)}, {self.crop.attempts} places tried",
            enough=f"a place where each has {self.crop.least_usable:.0%} of its pixels usable",
            todo="choose clearer scenes or more days between them, or accept chips with fewer usable pixels",
        )

    def _paired(self) -> list[list[_Pair]]:
        """All pairs, those of equal bands, sides and pixel sizes together: they can share a batch."""
        kinds: dict[object, list[_Pair]] = {}
        where = [self._on_grid(modality) for modality in self.pairing.modalities]
        for anchor in where[0]:
            pair = self._pair_of(anchor, where[1:])
            if pair is not None:
                sides = tuple(part.side_px for part in pair.shared.parts)
                key = sides, *((self._bands[s], float(self._sources[s].attrs["gsd_m"])) for s in pair.sources)
                kinds.setdefault(key, []).append(pair)
        if not kinds:
            counts = zip(where, self.pairing.modalities, strict=True)
            raise DataError(
                f"no pictures of {_named(self.pairing)} make a pair",
                item=", ".join(f"{len(found)} of {m.value} on a grid" for found, m in counts),
                enough=f"one of each over {self.crop.chip_px} px of common ground, within {self.pairing.days:g} days",
                todo="ingest the modalities over one tile, or allow more days between them",
            )
        return list(kinds.values())

    def _pair_of(self, anchor: tuple[int, int], others: Sequence[Sequence[tuple[int, int]]]) -> _Pair | None:
        members = [anchor]
        for candidates in others:
            found = nearest(self._at(anchor), [self._at(c) for c in candidates], self.pairing.days)
            if found is None:
                return None
            members.append(candidates[found])
        shared = overlap([self._at(member) for member in members], self.crop.chip_px, self.pairing.most_px)
        if shared is None:
            return None
        return _Pair(tuple(source for source, _ in members), tuple(picture for _, picture in members), shared)

    def _on_grid(self, modality: Modality) -> list[tuple[int, int]]:
        mine = [i for i, source in enumerate(self._sources) if source.attrs["modality"] == modality.value]
        return [(i, k) for i in mine for k, p in enumerate(self._sources[i].pictures) if p.place is not None]

    def _at(self, where: tuple[int, int]) -> Picture:
        return self._sources[where[0]].pictures[where[1]]


def _chosen(rng: np.random.Generator, weights: Sequence[float]) -> int:
    reach = np.cumsum(weights)
    return min(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")), len(weights) - 1)


def _named(pairing: Pairing) -> str:
    return " and ".join(modality.value for modality in pairing.modalities)
