"""Memory-mapped chips: how pixels travel to a GPU machine that has torch and numpy alone."""

# Shape suffixes: N pictures, C channels, H rows, W columns.

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ringmoe.blocks import Blocks, Reading
from ringmoe.contract import DataContract
from ringmoe.draw import losses_of, pad
from ringmoe.errors import DataError
from ringmoe.looks import sources_of
from ringmoe.pictures import Lost, Picture, Place

if TYPE_CHECKING:
    from ringmoe.looks import Cubes

FORMAT = 1
"""Version of the layout."""

INDEX, CONTRACT = "chips.json", "contract.json"

FILE_BYTES = 1 << 28
"""Of one memory map, at most."""


@dataclass(frozen=True)
class Cut:
    """How pictures are cut into those of a memory map."""

    side_px: int = 256
    """Side of what is stored; at least a chip's, so that crops and scale may vary."""
    least_usable: float = 0.3
    """Squares with a smaller share of usable pixels are left out."""
    most: int | None = None
    """Squares of one source at most, drawn at random; None takes all."""
    seed: int = 0
    """Of that draw."""


class MappedSource:
    """Equal squares of one sensor in files of NumPy's format, mapped into memory when first read.

    Parameters
    ----------
    folder
        Where the files are.
    row
        Its entry in the index, as `write_chips` makes it.
    """

    mapped = True
    lost: Sequence[Lost] = ()

    def __init__(self, folder: Path, row: Mapping[str, Any]) -> None:
        self._folder, self._row = folder, row
        self.attrs: Mapping[str, Any] = row["attrs"]
        self._scale = np.float32(row["scale"])
        self._maps: dict[str, np.ndarray] = {}
        self._file_of = [(i, k) for i, file in enumerate(row["files"]) for k in range(file["count"])]

    @cached_property
    def pictures(self) -> Sequence[Picture]:
        """One per square."""
        side = int(self._row["side_px"])
        return tuple(
            Picture(name, side, side, None if place is None else Place(*place), day)
            for name, place, day in self._row["pictures"]
        )

    def read(self, picture: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, h, w) in physical units, and validity (h, w)."""
        number, k = self._file_of[picture]
        file = self._row["files"][number]
        stored = self._map(file["pixels"])[k, :, rows, columns]
        pixels, counts = stored.astype(np.float32), stored.dtype.kind in "iu"
        if counts:
            pixels *= self._scale
        if file["valid"] is None:
            return pixels, np.ones(pixels.shape[1:], dtype=bool)
        valid = np.array(self._map(file["valid"])[k, rows, columns])
        return np.where(valid, pixels, np.float32(np.nan)) if counts else pixels, valid

    def _map(self, name: str) -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = np.load(self._folder / name, mmap_mode="r", allow_pickle=False)
        return self._maps[name]


def open_chips(folder: str | Path) -> tuple[list[MappedSource], DataContract]:
    """Sources of a folder that `write_chips` made, and the contract they honour.

    Files that are missing or cut short are found when they are read, and then skipped, counted and listed.

    Raises
    ------
    DataError
        When there is no such folder, or its writer was stopped.
    ContractError
        When the contract cannot be read.
    """
    folder = Path(folder)
    try:
        index = json.loads((folder / INDEX).read_text())
        if index["format"] != FORMAT:
            raise ValueError(f"format {index['format']}")
        sources = [MappedSource(folder, row) for row in index["sources"]]
        text = (folder / CONTRACT).read_text()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"there are no memory-mapped chips ({type(error).__name__}: {error})",
            item=str(folder),
            enough=f"a folder with {INDEX} of format {FORMAT} and {CONTRACT}; they are written last",
            todo="write the chips again",
        ) from error
    return sources, DataContract.from_json(text)


@dataclass(frozen=True)
class Written:
    """What was written."""

    pictures: int
    """Squares."""
    size_bytes: int
    """Of the files."""
    lost: tuple[Lost, ...]
    """What could not be read."""


def write_chips(
    folder: str | Path, cubes: Cubes, contract: DataContract, cut: Cut | None = None, reading: Reading | None = None
) -> Written:
    """Write all squares of some cubes or folders of images as memory maps, with the contract beside them.

    Counts of images are kept as they are, with what one is worth; all else is float32, and so are squares of images
    with pixels that lack a band.

    Parameters
    ----------
    folder
        Where nothing lies yet.
    cubes
        As a sampler takes them.
    contract
        Which they honour.

    Raises
    ------
    ContractError
        When a source does not honour the contract.
    DataError
        When something lies in the folder, no square is usable, or too much cannot be read.
    """
    folder, cut, sources = Path(folder), cut or Cut(), sources_of(cubes)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(
            "something lies where chips are to be written",
            item=str(folder),
            enough="a folder where nothing lies yet",
            todo="choose another folder, or remove what lies there",
        )
    for source in sources:
        contract.check(source.attrs)
    folder.mkdir(parents=True, exist_ok=True)
    losses = losses_of(sources, reading or Reading())
    rows = []
    for number, source in enumerate(sources):
        blocks = Blocks([source], Reading().room_bytes, losses, described=contract.described)
        rng = np.random.default_rng([cut.seed, number])
        row = _write_source(folder, f"{source.attrs['modality']}_{number:03d}", blocks, cut, rng)
        rows += [row] if row["pictures"] else []
    if not rows:
        raise DataError(
            "no square of the pictures is usable",
            item=f"{len(sources)} sources, {cut.side_px} px",
            enough=f"one square with {cut.least_usable:.0%} of its pixels usable",
            todo="choose clearer scenes, or a smaller share",
        )
    (folder / CONTRACT).write_text(contract.to_json())
    (folder / INDEX).write_text(json.dumps({"format": FORMAT, "sources": rows}))
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Written(sum(len(row["pictures"]) for row in rows), size, losses.list)


@dataclass
class _Files:
    """Squares becoming files of bounded size."""

    folder: Path
    """Where."""
    name: str
    """Of the source; a prefix."""
    dtype: np.dtype[Any]
    """Of what is stored."""
    scale: np.float32
    """What one count is worth."""

    def __post_init__(self) -> None:
        self.files: list[dict[str, Any]] = []
        self._pixels: list[np.ndarray] = []
        self._valid: list[np.ndarray] = []

    def add(self, pixels_CHW: np.ndarray, valid_HW: np.ndarray) -> None:
        """One square more; counts cannot say that a band is missing at a pixel, so such squares are of float32."""
        dtype = self.dtype
        if dtype.kind in "iu":
            if np.isfinite(pixels_CHW[:, valid_HW]).all():
                pixels_CHW = np.rint(np.where(valid_HW, pixels_CHW, 0) / self.scale)
            else:
                dtype = np.dtype(np.float32)
        if self._pixels and self._pixels[0].dtype != dtype:
            self.close()
        self._pixels.append(pixels_CHW.astype(dtype))
        self._valid.append(valid_HW)
        if (len(self._pixels) + 1) * self._pixels[0].nbytes > FILE_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is at hand; a mask only where a pixel is not valid."""
        if not self._pixels:
            return
        stem = f"{self.name}_{len(self.files):04d}"
        valid_NHW = np.stack(self._valid)
        mask = None if valid_NHW.all() else f"{stem}_valid.npy"
        np.save(self.folder / f"{stem}.npy", np.stack(self._pixels), allow_pickle=False)
        if mask is not None:
            np.save(self.folder / mask, valid_NHW, allow_pickle=False)
        self.files.append({"pixels": f"{stem}.npy", "valid": mask, "count": len(self._pixels)})
        self._pixels, self._valid = [], []


_ATTRS = ("sensor", "modality", "quantity", "units", "gsd_m", "bands", "tile", "period")


def _write_source(folder: Path, name: str, blocks: Blocks, cut: Cut, rng: np.random.Generator) -> dict[str, Any]:
    """The squares of one source as files, and its entry in the index."""
    (source,) = blocks.sources
    counts = source.attrs.get("counts") or {}
    whole = np.dtype(counts.get("dtype", "float32")).kind in "iu"
    scale = np.float32(counts["scale"] if whole else 1)
    files = _Files(folder, name, np.dtype(counts["dtype"] if whole else "float32"), scale)
    pictures = []
    for picture, pixels, valid in _squares(blocks, cut, rng):
        files.add(pixels, valid)
        pictures.append([picture.name, picture.place, picture.day])
    files.close()
    attrs = {key: source.attrs[key] for key in _ATTRS if key in source.attrs}
    return {"attrs": attrs, "side_px": cut.side_px, "scale": float(scale), "files": files.files, "pictures": pictures}


def _squares(blocks: Blocks, cut: Cut, rng: np.random.Generator) -> Iterator[tuple[Picture, np.ndarray, np.ndarray]]:
    """Usable squares of the one source of some blocks: what each is, pixels (C, s, s), validity (s, s)."""
    places = [
        (number, y, x)
        for number, block in enumerate(blocks.all)
        for y in _starts(block.rows, cut.side_px)
        for x in _starts(block.columns, cut.side_px)
    ]
    if cut.most is not None and cut.most < len(places):
        places = [places[i] for i in np.sort(rng.choice(len(places), cut.most, replace=False))]
    for number, y, x in places:
        picture = blocks.sources[0].pictures[blocks.all[number].picture]
        rows, columns = slice(y, min(y + cut.side_px, picture.height)), slice(x, min(x + cut.side_px, picture.width))
        got = blocks.crop(number, rows, columns)
        if got is None or got[1].sum() < cut.least_usable * cut.side_px**2:
            continue
        place = picture.place
        if place is not None:
            place = place._replace(left_m=place.left_m + x * place.pixel_m, top_m=place.top_m - y * place.pixel_m)
        piece = Picture(f"{picture.name} row {y} column {x}", cut.side_px, cut.side_px, place, picture.day)
        yield piece, pad(got[0], cut.side_px, np.nan), pad(got[1], cut.side_px, False)


def _starts(span: slice, side: int) -> list[int]:
    """Where squares of a side begin that cover a block: side by side, the last one flush with its end."""
    count = math.ceil((span.stop - span.start) / side)
    return [max(0, min(span.start + i * side, span.stop - side)) for i in range(count)]
