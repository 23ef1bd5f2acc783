"""NISAR RSLC HDF5: channels by frequency, timing, orbit, footprint and the tables that calibrate them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from catalog.metadata.xml import finite, refuse, utc

POLARISATIONS = ("HH", "HV", "VH", "VV")
_BANDS = {"LSAR": "L", "SSAR": "S"}
_PRODUCTS = ("RSLC", "SLC")
"""Group of the product; SLC in files of the years before launch."""
_TABLES = {"sigma_nought": "sigma0", "beta_nought": "beta0", "gamma_nought": "gamma0"}


@dataclass(frozen=True)
class NisarFrequency:
    """One of the two sub-bands, a grid of its own."""

    name: str
    """A or B."""
    group: str
    """Where its channels lie in the file."""
    polarisations: tuple[str, ...]
    """Channels that are there."""
    shape: tuple[int, int]
    """Rows, columns of each channel."""
    centre_hz: float
    """Processed centre frequency."""
    first_range_m: float
    """Slant range of the first sample."""
    range_spacing_m: float
    """Slant range from sample to sample."""
    ground_spacing_m: float
    """The coarser of the spacings along the track and across it on the ground, mid-scene."""


@dataclass(frozen=True)
class NisarMetadata:
    """What an RSLC file says of its image."""

    path: Path
    """The file."""
    root: str
    """The product's group, as in science/LSAR/RSLC."""
    band: str
    """L or S."""
    platform: str
    """Mission in lower case, as in nisar or uavsar."""
    look: str
    """left or right."""
    orbit_state: str | None
    """ascending or descending; None where the file says neither."""
    absolute_orbit: int | None
    """Since launch; None where the file does not say."""
    start: datetime
    """UTC."""
    stop: datetime
    """UTC."""
    footprint_lonlat: tuple[tuple[float, float], ...]
    """Open ring in degrees."""
    frequencies: tuple[NisarFrequency, ...]
    """Those that hold a channel."""
    first_line_s: float
    """Zero-Doppler time of the first line, since the orbit's epoch."""
    line_interval_s: float
    """From line to line."""
    orbit_time_s: np.ndarray
    """(n,) since the orbit's epoch."""
    orbit_position_m: np.ndarray
    """(n, xyz) Earth-fixed."""
    orbit_velocity_m_s: np.ndarray
    """(n, xyz) Earth-fixed."""


@dataclass(frozen=True)
class NisarTable:
    """A table of one quantity; |DN|^2 / values^2 is the quantity, bilinear in line and sample."""

    source: str
    """File and dataset."""
    lines: np.ndarray
    """(l,) of the image, fractional; may begin before it and end after."""
    samples: np.ndarray
    """(s,) of the frequency's image, fractional."""
    values: np.ndarray
    """(l, s) amplitude divisor."""


def is_rslc(path: Path) -> bool:
    """Whether an HDF5 file holds an RSLC; MetadataError where it cannot be opened."""
    with _opened(path) as file:
        return _root(file) is not None


def read_rslc(path: Path) -> NisarMetadata:
    """Parse an RSLC file; no pixel is read.

    Raises
    ------
    MetadataError
        Naming the file and the dataset: cut off, missing, not finite, or kept in another file.
    """
    with _opened(path) as file:
        root = _root(file)
        if root is None:
            raise refuse(path, "science/LSAR/RSLC/swaths", "is missing", "a NISAR RSLC")
        radar = root.rsplit("/", 1)[0]
        identity = f"{radar}/identification"
        orbit = f"{root}/metadata/orbit"
        lines = _vector(file, f"{root}/swaths/zeroDopplerTime")
        epoch = _epoch(file, f"{orbit}/time")
        late_s = (_epoch(file, f"{root}/swaths/zeroDopplerTime") - epoch).total_seconds()
        pass_direction = _text(file, f"{identity}/orbitPassDirection").lower()
        return NisarMetadata(
            path=path,
            root=root,
            band=_BANDS[radar.rsplit("/", 1)[1]],
            platform=_text(file, f"{identity}/missionId").lower(),
            look=_text(file, f"{identity}/lookDirection").lower(),
            orbit_state=pass_direction if pass_direction in ("ascending", "descending") else None,
            absolute_orbit=int(_number(file, f"{identity}/absoluteOrbitNumber")),
            start=_time(file, f"{identity}/zeroDopplerStartTime"),
            stop=_time(file, f"{identity}/zeroDopplerEndTime"),
            footprint_lonlat=_ring(file, f"{identity}/boundingPolygon"),
            frequencies=_frequencies(file, root),
            first_line_s=float(lines[0]) + late_s,
            line_interval_s=_above_zero(file, f"{root}/swaths/zeroDopplerTimeSpacing"),
            orbit_time_s=_vector(file, f"{orbit}/time"),
            orbit_position_m=_array(file, f"{orbit}/position"),
            orbit_velocity_m_s=_array(file, f"{orbit}/velocity"),
        )


def read_table(meta: NisarMetadata, frequency: NisarFrequency, quantity: str) -> NisarTable:
    """The table of sigma_nought, beta_nought or gamma_nought, on the lines and samples of a frequency.

    Source: NISAR RSLC product specification, calibrationInformation/geometry; the convention |DN|^2 / table^2 is that
    of the mission's user guide (sigma nought = beta nought / table^2, the beta nought table being 1;
    https://forum.earthdata.nasa.gov/viewtopic.php?f=7&p=25489#p25489).

    Raises
    ------
    MetadataError
        Where the file has no such table, or one that holds NaN or numbers not above 0.
    """
    if quantity not in _TABLES:
        raise refuse(
            meta.path, "calibrationInformation/geometry", f"holds no {quantity}", f"one of {', '.join(_TABLES)}"
        )
    with _opened(meta.path) as file:
        group = f"{meta.root}/metadata/calibrationInformation"
        name = f"{group}/geometry/{_TABLES[quantity]}"
        values = _array(file, name)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise refuse(meta.path, name, "holds NaN or a gain that is not above 0", "finite gains above 0")
        axes = f"{group}/geometry" if f"{group}/geometry/slantRange" in file else group
        late_s = (
            _epoch(file, f"{axes}/zeroDopplerTime") - _epoch(file, f"{meta.root}/metadata/orbit/time")
        ).total_seconds()
        times, ranges = _vector(file, f"{axes}/zeroDopplerTime") + late_s, _vector(file, f"{axes}/slantRange")
    if values.shape != (times.size, ranges.size):
        raise refuse(meta.path, name, f"is {values.shape}, its axes are {(times.size, ranges.size)}")
    return NisarTable(
        source=f"{name} of {meta.path.name}",
        lines=(times - meta.first_line_s) / meta.line_interval_s,
        samples=(ranges - frequency.first_range_m) / frequency.range_spacing_m,
        values=values,
    )


def read_noise(meta: NisarMetadata, frequency: NisarFrequency, polarisation: str) -> np.ndarray | None:
    """Noise equivalent backscatter of a channel, linear power, any shape; None where the file has none above 0."""
    with _opened(meta.path) as file:
        group = f"{meta.root}/metadata/calibrationInformation/frequency{frequency.name}"
        for name in (f"noiseEquivalentBackscatter/{polarisation}", f"{polarisation}/nes0"):
            if f"{group}/{name}" in file:
                power = _array(file, f"{group}/{name}")
                known = power[np.isfinite(power) & (power > 0)]
                return known if known.size else None
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise refuse(path, "the file", f"is missing, damaged or cut off ({error})", "a whole HDF5 file") from None
    with file:
        yield file


def _root(file: Any) -> str | None:
    for radar in _BANDS:
        for product in _PRODUCTS:
            if f"science/{radar}/{product}/swaths" in file:
                return f"science/{radar}/{product}"
    return None


def _frequencies(file: Any, root: str) -> tuple[NisarFrequency, ...]:
    found = tuple(_frequency(file, root, name) for name in ("A", "B"))
    held = tuple(f for f in found if f is not None)
    if not held:
        raise refuse(Path(file.filename), f"{root}/swaths", "holds no channel", "HH, HV, VH or VV in frequency A or B")
    return held


def _frequency(file: Any, root: str, name: str) -> NisarFrequency | None:
    path, group = Path(file.filename), f"{root}/swaths/frequency{name}"
    held = tuple(p for p in POLARISATIONS if f"{group}/{p}" in file)
    if not held:
        return None
    shapes = {p: _dataset(file, f"{group}/{p}").shape for p in held}
    lines, ranges = _vector(file, f"{root}/swaths/zeroDopplerTime"), _vector(file, f"{group}/slantRange")
    for polarisation, shape in shapes.items():
        if shape != (lines.size, ranges.size):
            raise refuse(path, f"{group}/{polarisation}", f"is {shape}, its axes are {(lines.size, ranges.size)}")
        if not _is_complex(_dataset(file, f"{group}/{polarisation}").dtype):
            kind = _dataset(file, f"{group}/{polarisation}").dtype
            raise refuse(path, f"{group}/{polarisation}", f"is {kind}, which has no phase", "complex pixels")
    spacings = (f"{group}/sceneCenterAlongTrackSpacing", f"{group}/sceneCenterGroundRangeSpacing")
    return NisarFrequency(
        name=name,
        group=group,
        polarisations=held,
        shape=(lines.size, ranges.size),
        centre_hz=_above_zero(file, f"{group}/processedCenterFrequency"),
        first_range_m=float(ranges[0]),
        range_spacing_m=_above_zero(file, f"{group}/slantRangeSpacing"),
        ground_spacing_m=max(_above_zero(file, s) for s in spacings),
    )


def _is_complex(kind: np.dtype) -> bool:
    """Complex numbers, or pairs of half floats, which numpy has no type of its own for."""
    return kind.kind == "c" or (kind.names == ("r", "i") and all(kind[n].kind == "f" for n in ("r", "i")))


def _dataset(file: Any, name: str) -> Any:
    path = Path(file.filename)
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise refuse(path, name, "is missing")
    if found.file.filename != file.filename or found.external or found.is_virtual:
        raise refuse(path, name, "is kept in another file, which no product does", "a dataset of the file itself")
    return found


def _array(file: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(_dataset(file, name)[()], dtype=np.float64)
    except (OSError, TypeError, ValueError) as error:
        raise refuse(Path(file.filename), name, f"cannot be read ({error})") from None


def _vector(file: Any, name: str) -> np.ndarray:
    values = _array(file, name)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise refuse(Path(file.filename), name, "is no increasing list of numbers", "two or more, increasing")
    return values


def _number(file: Any, name: str) -> float:
    return finite(Path(file.filename), name, str(np.asarray(_dataset(file, name)[()]).item()))


def _above_zero(file: Any, name: str) -> float:
    number = _number(file, name)
    if number <= 0:
        raise refuse(Path(file.filename), name, f"{number} is not above 0", "a number above 0")
    return number


def _text(file: Any, name: str) -> str:
    value = _dataset(file, name)[()]
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip("\x00 ")


def _time(file: Any, name: str) -> datetime:
    return utc(Path(file.filename), name, _text(file, name)[:26])


def _epoch(file: Any, name: str) -> datetime:
    """What the times of a dataset count from, by its units: seconds since a date."""
    units = _dataset(file, name).attrs.get("units", b"")
    text = units.decode("utf-8", errors="replace") if isinstance(units, bytes) else str(units)
    match = re.search(r"since\s+(\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)", text)
    if match is None:
        raise refuse(Path(file.filename), f"{name} units", f"{text!r} names no date", "seconds since a date")
    return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)


def _ring(file: Any, name: str) -> tuple[tuple[float, float], ...]:
    text = _text(file, name)
    points = [p.split() for p in text.upper().removeprefix("POLYGON").strip(" ()").split(",")]
    try:
        ring = [(float(p[0]), float(p[1])) for p in points]
    except (ValueError, IndexError):
        raise refuse(Path(file.filename), name, f"{text[:60]!r} is no polygon", "POLYGON ((lon lat, ...))") from None
    corners = ring[:-1] if len(ring) > 1 and ring[0] == ring[-1] else ring
    if len(corners) < 3:
        raise refuse(Path(file.filename), name, f"has {len(corners)} corners", "three or more")
    return tuple(corners)
