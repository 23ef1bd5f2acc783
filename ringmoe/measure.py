"""What the cubes and images at hand hold, measured: pixels to a data contract."""

# Shape suffixes: C channels, N pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from catalog.sensors import SENSORS
from ringmoe.bands import Statistics, band_specs, expected
from ringmoe.contract import LOG_FLOOR, DataContract, InputContract
from ringmoe.errors import DataError
from ringmoe.looks import sources_of
from ringmoe.modality import Modality
from ringmoe.pictures import READ_ERRORS, Source, whole

if TYPE_CHECKING:
    from ringmoe.looks import Cubes

Transform = Literal["identity", "log"]

GSD_FACTOR = 2.0
"""Cubes whose pixels differ more than this in size do not share a contract: texture at 10 m is not texture at 250 m."""


@dataclass(frozen=True)
class LeftOut:
    """A cube that is not part of the contract."""

    index: int
    """Its place in the list given."""
    reason: str
    """Where it differs from the cube that leads its modality."""


@dataclass(frozen=True)
class Measured:
    """A contract and the cubes that it was measured on."""

    contract: DataContract
    """Bands, quantity, units, statistics and pixel sizes per modality."""
    used: tuple[int, ...]
    """Places, in the list given, of the cubes that honour it."""
    left_out: tuple[LeftOut, ...]
    """The others, with the reason."""


def measure_contract(
    cubes: Cubes, *, described: bool = False, seed: int = 0, windows: int = 64, window_px: int = 128
) -> Measured:
    """The contract of cubes or folders of images: per modality, what its leader holds and the statistics of all alike.

    The cube with the most pixels leads its modality. Reflectance is taken as it is; SAR-L2 power as its natural
    logarithm (speckle is multiplicative, so its logarithm has one spread everywhere); complex channels have mean zero
    by their uniform phase and are scaled by their root mean square, one number for both parts of a band.

    Parameters
    ----------
    cubes
        In the schema of `catalog.cube`, or other sources of pictures; what cannot be read is left out.
    described
        Take further sensors of a modality too, each with its own statistics, where quantity and units are the
        leader's and every band says what it is: for the spectral embedding. A band missing at a pixel is then absent
        there; else the pixel does not count.
    seed
        Of the windows drawn from cubes too large to read whole.
    windows, window_px
        How many windows of which side are read per look at most, and of how many looks or images, times four;
        statistics are over their usable pixels.

    Raises
    ------
    DataError
        When there is no cube, or a modality has no usable pixel.
    """
    if not cubes:
        raise DataError(
            "a contract cannot be measured on nothing",
            item="no cube",
            enough="one cube",
            todo="ingest some scenes first",
        )
    sources = sources_of(cubes)
    inputs: dict[Modality, InputContract] = {}
    also: list[InputContract] = []
    used: list[int] = []
    left_out: list[LeftOut] = []
    for modality in Modality:
        mine = [i for i, source in enumerate(sources) if source.attrs["modality"] == modality.value]
        mine.sort(key=lambda i: (-_values(sources[i]), i))
        groups, reasons = _groups(sources, mine, described)
        left_out += [LeftOut(i, reasons[i]) for i in sorted(reasons)]
        used += [i for group in groups for i in group]
        shared = ([sources[i] for i in group] for group in groups)
        entries = [_input_contract(modality, each, seed, windows, window_px, described) for each in shared]
        if entries:
            inputs[modality] = entries[0]
            also += entries[1:]
    return Measured(DataContract(inputs, tuple(also), described), tuple(sorted(used)), tuple(left_out))


def _values(source: Source) -> int:
    return sum(picture.pixels for picture in source.pictures) * len(source.attrs["bands"])


def _groups(cubes: Sequence[Source], mine: list[int], described: bool) -> tuple[list[list[int]], dict[int, str]]:
    """Cubes of one modality, largest first, by the entry of the contract they share; and why others share none."""
    groups: list[list[int]] = []
    reasons: dict[int, str] = {}
    for i in mine:
        attrs = cubes[i].attrs
        differences = [_difference(cubes[group[0]].attrs, attrs) for group in groups]
        if "" in differences:
            groups[differences.index("")].append(i)
        elif not groups or (described and not _quantity_difference(cubes[mine[0]].attrs, attrs) and _described(attrs)):
            groups.append([i])
        else:
            reasons[i] = differences[0]
    return [sorted(group) for group in groups], reasons


def _described(attrs: Mapping[str, Any]) -> bool:
    return all(band.described for band in band_specs(attrs))


def _difference(leader: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Where a cube's attributes differ from the leader's, in words; empty where they agree."""
    names = [[b["name"] for b in a["bands"]] for a in (leader, other)]
    if names[0] != names[1]:
        return f"bands are {' '.join(names[1])}, the others' {' '.join(names[0])}"
    if leader["sensor"] != other["sensor"]:
        return f"sensor is {other['sensor']}, the others' {leader['sensor']}"
    if text := _quantity_difference(leader, other):
        return text
    ratio = float(other["gsd_m"]) / float(leader["gsd_m"])
    if not 1 / GSD_FACTOR <= ratio <= GSD_FACTOR:
        return f"pixels are {other['gsd_m']:g} m, the others' {leader['gsd_m']:g} m"
    return ""


def _quantity_difference(leader: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    rows = [(key, other[key], leader[key]) for key in ("quantity", "units") if leader[key] != other[key]]
    return f"{rows[0][0]} is {rows[0][1]}, the others' {rows[0][2]}" if rows else ""


def _input_contract(
    modality: Modality, cubes: Sequence[Source], seed: int, windows: int, window_px: int, described: bool
) -> InputContract:
    attrs = cubes[0].attrs
    transform: Transform = "log" if modality is Modality.SAR_L2 else "identity"
    rng = np.random.default_rng([seed, list(Modality).index(modality)])
    found = (_usable(c, rng, windows, window_px, described) for c in cubes)
    pieces_CN = [_transformed(p, transform) for pieces in found for p in pieces if p.size]
    if not pieces_CN:
        raise DataError(
            f"no pixel of modality {modality.value} is usable",
            item=", ".join(str(c.attrs.get("tile", "?")) for c in cubes),
            enough="one look that is not all cloud or no-data"
            + ("" if described else ", and has every band where an embedding is fixed to its list of bands"),
            todo="choose clearer scenes or a longer period",
        )
    mean_C, std_C = _moments(pieces_CN, is_complex=modality is Modality.SAR_L1)
    statistics = _completed([Statistics(*row) for row in zip(band_specs(attrs), mean_C, std_C, strict=True)])
    gsd = [float(c.attrs["gsd_m"]) for c in cubes]
    return InputContract(
        modality=modality,
        sensor=attrs["sensor"],
        bands=band_specs(attrs),
        quantity=attrs["quantity"],
        units=attrs["units"],
        transform=transform,
        mean=tuple(float(each.mean) for each in statistics),
        std=tuple(float(each.std) for each in statistics),
        gsd_m=(min(gsd), max(gsd)),
        looks=_looks(attrs),
    )


def _completed(found: Sequence[Statistics]) -> list[Statistics]:
    """Statistics of a sensor's channels; of one that was nowhere measured, what its neighbours let expect."""
    known = [each for each in found if np.isfinite(each.mean)]
    whole = [each if each in known else expected(each.band, known) for each in found]
    missing = [each.band.name for each, one in zip(found, whole, strict=True) if one is None]
    if missing:
        raise DataError(
            "nothing says what values a band has",
            item=", ".join(dict.fromkeys(missing)),
            enough="one usable pixel of it, or another band of its kind, both described",
            todo="leave the band out of the cubes, or choose scenes that have it",
        )
    return [each for each in whole if each is not None]


def _looks(attrs: Mapping[str, Any]) -> float:
    """Equivalent number of looks: what the product says of itself, else its sensor's, else one."""
    said = attrs.get("looks")
    return float(said or (SENSORS[attrs["sensor"]].looks if attrs["sensor"] in SENSORS else 1.0))


def _usable(
    source: Source, rng: np.random.Generator, windows: int, window_px: int, described: bool
) -> list[np.ndarray]:
    """Usable pixels, (C, N) each, of every look: the whole of it where it is small, windows drawn at random else.

    Where bands are described a pixel may lack some, which are NaN there.

    Of very many looks or images, four times `windows` are drawn. What cannot be read says nothing of the rest and is
    left out here; who draws chips from it counts and lists it, and stops where it is too much.
    """
    out = []
    chosen: Sequence[int] = range(len(source.pictures))
    if len(chosen) > 4 * windows:
        chosen = np.sort(rng.choice(len(chosen), 4 * windows, replace=False)).tolist()
    for number in chosen:
        height, width = source.pictures[number].height, source.pictures[number].width
        if height * width <= windows * window_px**2:
            pieces = [(slice(0, height), slice(0, width))]
        else:
            corners = rng.integers([max(height - window_px, 0) + 1, max(width - window_px, 0) + 1], size=(windows, 2))
            pieces = [(slice(y, y + window_px), slice(x, x + window_px)) for y, x in corners]
        for rows, columns in pieces:
            try:
                pixels, valid = source.read(number, rows, columns)
            except READ_ERRORS:
                continue
            out.append(pixels[:, valid if described else whole(pixels, valid)])
            out[-1][~np.isfinite(out[-1])] = np.nan
    return out


def _transformed(pixels: np.ndarray, transform: Transform) -> np.ndarray:
    """As the embedding does it: the pixels, or the natural logarithm of their power."""
    return pixels if transform == "identity" else np.log(np.maximum(pixels, 0) + LOG_FLOOR)


def _moments(pieces_CN: Sequence[np.ndarray], *, is_complex: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel where it was measured, float64; NaN where it never was."""
    count_C = np.sum([np.isfinite(p).sum(axis=1) for p in pieces_CN], axis=0)
    with np.errstate(invalid="ignore"):
        if is_complex:
            power_C = np.sum([np.nansum(p.astype(np.float64) ** 2, axis=1) for p in pieces_CN], axis=0) / count_C
            rms_C = np.repeat(np.sqrt(power_C.reshape(-1, 2).mean(axis=1)), 2)
            return 0 * rms_C, np.maximum(rms_C, 1e-9)
        mean_C = np.sum([np.nansum(p, axis=1, dtype=np.float64) for p in pieces_CN], axis=0) / count_C
        square_C = np.sum([np.nansum((p - mean_C[:, None]) ** 2, axis=1) for p in pieces_CN], axis=0) / count_C
    return mean_C, np.maximum(np.sqrt(square_C), 1e-6)
