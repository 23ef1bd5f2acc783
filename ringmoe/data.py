"""Cubes to samples to batches."""

# Shape suffixes: B chips, C channels, H rows, W columns.
# xarray is imported where it is used only: this file must import where only torch and numpy are installed.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ringmoe.bands import band_specs, places
from ringmoe.contract import DataContract
from ringmoe.errors import DataError
from ringmoe.looks import Looks, chips_from, look, open_cubes, times
from ringmoe.modality import BandSpec, Batch, Chips, Modality

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ChipSampler", "Crop", "Labelled", "LabelledSampler", "chips_from", "look", "open_cubes", "times"]

PAPER_MIX: Mapping[Modality, float] = MappingProxyType(
    {Modality.OPT: 0.70, Modality.MS: 0.20, Modality.SAR_L1: 0.05, Modality.SAR_L2: 0.05}
)
"""Share of each modality among the chips, as in the paper."""

EQUAL_MIX: Mapping[Modality, float] = MappingProxyType(dict.fromkeys(Modality, 0.25))
"""The same share for every modality."""

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Crop:
    """How chips are cut."""

    chip_px: int = 64
    """Side of a chip in pixels."""
    least_usable: float = 0.3
    """Least share of usable pixels; a chip with less is drawn again."""
    attempts: int = 100
    """Draws for one chip before giving up."""
    room_bytes: int = 1 << 30
    """Memory for looks kept as arrays, per modality."""


class _Drawn(NamedTuple):
    """One chip of side s."""

    pixels: np.ndarray
    """(C, s, s)."""
    valid: np.ndarray
    """(s, s)."""
    labels: np.ndarray | None
    """(s, s)."""
    gsd_m: float
    """Of its cube."""


class _Drawer:
    """Draws chips of cubes of one list of bands, labels beside them where there are any."""

    def __init__(
        self,
        cubes: Sequence[xr.Dataset],
        bands: tuple[BandSpec, ...],
        labels: Sequence[np.ndarray] | None,
        crop: Crop,
    ) -> None:
        self.name, self.crop, self.labels, self.bands = str(cubes[0].attrs["modality"]), crop, labels, bands
        self._looks = Looks(cubes, crop.room_bytes)
        self._gsd_m = [float(c.attrs["gsd_m"]) for c in cubes]
        self._sizes = [(times(c), int(c.sizes["y"]), int(c.sizes["x"])) for c in cubes]
        pixels = np.array([t * h * w for t, h, w in self._sizes], dtype=np.float64)
        self.pixels = float(pixels.sum())
        self._share = pixels / pixels.sum()

    def chips(self, rng: np.random.Generator, count: int) -> tuple[Chips, np.ndarray | None]:
        """So many chips as a batch, and their labels, (B, s, s), where there are any."""
        drawn = [self._draw(rng) for _ in range(count)]
        pixels_BCHW = torch.from_numpy(np.stack([d.pixels for d in drawn]))
        valid_BHW = torch.from_numpy(np.stack([d.valid for d in drawn]))
        gsd_B = torch.tensor([d.gsd_m for d in drawn]) if self.bands else None
        labels = None if self.labels is None else np.stack([d.labels for d in drawn if d.labels is not None])
        return Chips(pixels_BCHW, valid_BHW, self.bands, gsd_B), labels

    def _draw(self, rng: np.random.Generator) -> _Drawn:
        """One chip.

        Raises
        ------
        DataError
            When no draw finds a chip with enough usable pixels.
        """
        side = self.crop.chip_px
        for _ in range(self.crop.attempts):
            cube = int(rng.choice(len(self._sizes), p=self._share))
            n_times, height, width = self._sizes[cube]
            time = int(rng.integers(n_times))
            y0 = int(rng.integers(max(height - side, 0) + 1))
            x0 = int(rng.integers(max(width - side, 0) + 1))
            rows, columns = slice(y0, y0 + side), slice(x0, x0 + side)
            pixels, valid = self._looks.crop(cube, time, rows, columns)
            labels = None if self.labels is None else self.labels[cube][rows, columns]
            useful = valid if labels is None else valid & (labels > 0)
            if useful.sum() >= self.crop.least_usable * side * side:
                chip = _pad(pixels, side, np.nan), _pad(valid, side, False), labels
                return _Drawn(*_augment(rng, *chip, side), self._gsd_m[cube])
        raise DataError(
            "chips that are all no-data",
            item=f"{len(self._sizes)} cubes of {self.name}, {self.crop.attempts} chips of {side} px tried",
            enough=f"a chip with {self.crop.least_usable:.0%} of its pixels usable"
            + ("" if self.labels is None else " and labelled"),
            todo="choose clearer scenes or a longer period, or accept chips with fewer usable pixels",
        )


def _pad(a: np.ndarray, side: int, value: float | bool) -> np.ndarray:
    missing = [(0, 0)] * (a.ndim - 2) + [(0, side - a.shape[-2]), (0, side - a.shape[-1])]
    return np.pad(a, missing, constant_values=value)


def _augment(
    rng: np.random.Generator, pixels: np.ndarray, valid: np.ndarray, labels: np.ndarray | None, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The same random mirrors for pixels, mask and labels; values, phase included, are never touched."""
    flips = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
    mirrored = None if labels is None else np.flip(_pad(labels, side, 0), flips)
    return np.flip(pixels, flips), np.flip(valid, flips), mirrored


def _bands(contract: DataContract, attrs: Mapping[str, Any]) -> tuple[BandSpec, ...]:
    """What a cube's chips say of their bands: nothing where the contract knows one list only; else as a sensor of it.

    Two satellites of a mission differ by a few nm: their bands go by the contract's names and wavelengths.
    """
    if not contract.described:
        return ()
    own = band_specs(attrs)
    for entry in contract.sensors(Modality(attrs["modality"])):
        rows = places(own, entry.bands)
        if rows is not None:
            return entry.at(rows).bands
    return own


class ChipSampler:
    """Unpaired chips of every modality; the batch of a step is a function of seed and step alone.

    All chips of a modality in one batch are of one list of bands; lists take turns by their cubes' pixels.

    Parameters
    ----------
    cubes
        Cubes that honour the contract; where they lie and in which order decides nothing but which chips are drawn.
    contract
        What each modality's cubes hold.
    batch
        Chips in a batch, over all modalities.
    mix
        Share of each modality; modalities without a cube are left out and the rest scaled up.
    seed
        Another seed, other chips.

    Raises
    ------
    ContractError
        When a cube does not honour the contract.
    DataError
        When no modality of the mix has a cube.
    """

    def __init__(
        self,
        cubes: Sequence[xr.Dataset],
        contract: DataContract,
        *,
        batch: int = 32,
        mix: Mapping[Modality, float] = PAPER_MIX,
        crop: Crop | None = None,
        seed: int = 0,
    ) -> None:
        self.crop, self.size, self.seed = crop or Crop(), batch, seed
        groups: dict[Modality, dict[tuple[BandSpec, ...], list[xr.Dataset]]] = {}
        for cube in cubes:
            contract.check(cube.attrs)
            group = groups.setdefault(Modality(cube.attrs["modality"]), {})
            group.setdefault(_bands(contract, cube.attrs), []).append(cube)
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
        self._drawers = {m: [_Drawer(c, b, None, self.crop) for b, c in groups[m].items()] for m in present}

    def counts(self, step: int) -> dict[Modality, int]:
        """Chips of each modality in the batch of one step; they add up to the batch, and over steps to the mix.

        The i-th chip ever drawn is of the modality in whose share frac(i x golden ratio) falls: a low-discrepancy
        sequence, so that even a 5 % modality turns up at a steady pace.
        """
        index = np.arange(step * self.size, (step + 1) * self.size, dtype=np.float64)
        edges = np.cumsum(list(self.shares.values()))[:-1]
        which = np.searchsorted(edges, np.modf((index + 0.5) * _GOLDEN)[0], side="right")
        return {m: int((which == i).sum()) for i, m in enumerate(self.shares)}

    def batch(self, step: int) -> Batch:
        """The batch of one step; modalities without a chip in it are absent."""
        out: dict[Modality, Chips] = {}
        for index, (modality, count) in enumerate(self.counts(step).items()):
            rng = np.random.default_rng([self.seed, step, index])
            if count:
                out[modality], _ = _turn(self._drawers[modality], rng).chips(rng, count)
        return out

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end."""
        while True:
            yield self.batch(start)
            start += 1


def _turn(drawers: Sequence[_Drawer], rng: np.random.Generator) -> _Drawer:
    if len(drawers) == 1:
        return drawers[0]
    pixels = np.array([drawer.pixels for drawer in drawers])
    return drawers[int(rng.choice(len(drawers), p=pixels / pixels.sum()))]


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
        bands = {_bands(contract, s.cube.attrs) for s in sources}
        if len(bands) != 1:
            raise DataError(
                "labels are learned from one list of bands at a time",
                item="; ".join(sorted(" ".join(band.name for band in each) for each in bands)),
                enough="labelled cubes of one sensor",
                todo="call once per sensor, each with its own head",
            )
        labels = [np.asarray(s.labels).astype(np.int64) for s in sources]
        self._drawer = _Drawer([s.cube for s in sources], bands.pop(), labels, crop or Crop())
        self.counts = np.sum([np.bincount(a.ravel(), minlength=256) for a in labels], axis=0)
        """Labelled pixels by class code."""

    def batch(self, step: int) -> tuple[Chips, torch.Tensor]:
        """Chips and labels_BHW, int64, 0 where nobody knows, of one step."""
        rng = np.random.default_rng([self.seed, step])
        chips, labels = self._drawer.chips(rng, self.size)
        assert labels is not None
        return chips, torch.from_numpy(np.ascontiguousarray(labels))

    def stream(self, start: int = 0) -> Iterator[tuple[Chips, torch.Tensor]]:
        """Batches from a step on, without end."""
        while True:
            yield self.batch(start)
            start += 1


def _same_grid(source: Labelled) -> None:
    size = (int(source.cube.sizes["y"]), int(source.cube.sizes["x"]))
    if source.labels.shape != size:
        raise DataError(
            "labels do not lie on their cube's grid",
            item=f"labels {source.labels.shape}, cube {size}",
            enough="one label for each pixel of the cube",
            todo="warp the labels onto the cube's grid, nearest neighbour",
        )
