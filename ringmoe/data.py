"""Cubes to samples to batches."""

# Shape suffixes: B chips, C channels, H rows, W columns.
# xarray is imported where it is used only: this file must import where only torch and numpy are installed.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch

from catalog.sensors import USABLE
from ringmoe.contract import DataContract
from ringmoe.errors import DataError
from ringmoe.modality import Batch, Chips, Modality

if TYPE_CHECKING:
    import xarray as xr

PAPER_MIX: Mapping[Modality, float] = MappingProxyType(
    {Modality.OPT: 0.70, Modality.MS: 0.20, Modality.SAR_L1: 0.05, Modality.SAR_L2: 0.05}
)
"""Share of each modality among the chips, as in the paper."""

EQUAL_MIX: Mapping[Modality, float] = MappingProxyType(dict.fromkeys(Modality, 0.25))
"""The same share for every modality."""

_GOLDEN = (5**0.5 - 1) / 2


def open_cubes(uris: Sequence[str]) -> list[xr.Dataset]:
    """Open cubes by address; the pixels stay where they are until a sampler asks for them.

    Raises
    ------
    CubeError
        When a cube is damaged or of another schema.
    """
    from catalog import cube

    return [cube.open(uri) for uri in uris]


def chips_from(piece: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and validity of a piece of one time of a cube, or of a composite.

    Parameters
    ----------
    piece
        `data` with dims (band, y, x), float32 or complex64, physical units, NaN where nothing was measured; `quality`
        with dims (y, x), `catalog.sensors.Quality`, where the piece has one.

    Returns
    -------
    pixels, valid
        (C, h, w) float32, a complex band as two channels (re, im) in band order; (h, w) bool, true where every
        channel was measured and the quality is usable.
    """
    values = np.asarray(piece["data"].transpose("band", "y", "x").values)
    if np.iscomplexobj(values):
        parts = np.stack([values.real, values.imag], axis=1)
        values = parts.reshape(-1, *values.shape[1:])
    pixels = np.ascontiguousarray(values, dtype=np.float32)
    valid = np.asarray(np.isfinite(pixels).all(axis=0))
    if "quality" in piece:
        quality = np.asarray(piece["quality"].transpose("y", "x").values)
        valid &= np.isin(quality, [int(q) for q in USABLE])
    return pixels, valid


def times(cube: xr.Dataset) -> int:
    """How many looks a cube holds; 1 for a composite, which has no dimension time."""
    return int(cube.sizes.get("time", 1))


def look(cube: xr.Dataset, time: int) -> xr.Dataset:
    """One look of a cube, dims (band, y, x); a composite is its own only look."""
    return cube.isel(time=time) if "time" in cube.sizes else cube


@dataclass
class _Looks:
    """Looks of a list of cubes as arrays, the most recently used ones kept in memory."""

    cubes: Sequence[xr.Dataset]
    """The cubes, of one modality."""
    room_bytes: int
    """Memory for whole looks; a look larger than that is read chip by chip."""
    kept: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=OrderedDict)
    """Whole looks by (cube, time)."""

    def crop(self, cube: int, time: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, h, w) and validity (h, w) of a rectangle of one look."""
        piece = look(self.cubes[cube], time)
        size = piece["data"].nbytes
        if size > self.room_bytes:
            return chips_from(piece.isel(y=rows, x=columns))
        key = (cube, time)
        if key not in self.kept:
            self.kept[key] = chips_from(piece)
            while sum(p.nbytes for p, _ in self.kept.values()) > self.room_bytes:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        pixels, valid = self.kept[key]
        return pixels[:, rows, columns], valid[rows, columns]


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


class _Drawer:
    """Draws chips of one modality's cubes, labels beside them where there are any."""

    def __init__(self, name: str, cubes: Sequence[xr.Dataset], labels: Sequence[np.ndarray] | None, crop: Crop) -> None:
        self.name, self.crop, self.labels = name, crop, labels
        self._looks = _Looks(cubes, crop.room_bytes)
        self._sizes = [(times(c), int(c.sizes["y"]), int(c.sizes["x"])) for c in cubes]
        pixels = np.array([t * h * w for t, h, w in self._sizes], dtype=np.float64)
        self._share = pixels / pixels.sum()

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """One chip: pixels (C, s, s), valid (s, s), labels (s, s) or None.

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
                return _augment(rng, _pad(pixels, side, np.nan), _pad(valid, side, False), labels, side)
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


def _stack(drawn: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> Chips:
    pixels_BCHW = torch.from_numpy(np.stack([d[0] for d in drawn]))
    return Chips(pixels_BCHW, torch.from_numpy(np.stack([d[1] for d in drawn])))


class ChipSampler:
    """Unpaired chips of every modality; the batch of a step is a function of seed and step alone.

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
        groups: dict[Modality, list[xr.Dataset]] = {}
        for cube in cubes:
            contract.check(cube.attrs)
            groups.setdefault(Modality(cube.attrs["modality"]), []).append(cube)
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
        self._drawers = {m: _Drawer(m.value, groups[m], None, self.crop) for m in present}

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
                out[modality] = _stack([self._drawers[modality].draw(rng) for _ in range(count)])
        return out

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end."""
        while True:
            yield self.batch(start)
            start += 1


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
        When there is no source, they are of several modalities, or labels and cube differ in size.
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
        labels = [np.asarray(s.labels).astype(np.int64) for s in sources]
        self._drawer = _Drawer(self.modality.value, [s.cube for s in sources], labels, crop or Crop())
        self.counts = np.sum([np.bincount(a.ravel(), minlength=256) for a in labels], axis=0)
        """Labelled pixels by class code."""

    def batch(self, step: int) -> tuple[Chips, torch.Tensor]:
        """Chips and labels_BHW, int64, 0 where nobody knows, of one step."""
        rng = np.random.default_rng([self.seed, step])
        drawn = [self._drawer.draw(rng) for _ in range(self.size)]
        labels = np.stack([d[2] for d in drawn if d[2] is not None])
        return _stack(drawn), torch.from_numpy(np.ascontiguousarray(labels))

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
