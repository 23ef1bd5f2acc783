"""NISAR RSLC products: complex samples of four polarisations in one HDF5 file, with orbit, grid and tables of gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from catalog.sandbox import orbit as geometry
from catalog.sandbox import radar, sentinel1
from catalog.sandbox.chance import stream
from catalog.sandbox.orbit import LIGHT_M_S
from catalog.sandbox.radar import Look
from catalog.sandbox.scattering import POLARISATIONS, complex_speckle
from catalog.sandbox.specimen import Day, Specimen, keep

Leaf = str | np.generic | NDArray[Any] | tuple[np.generic | NDArray[Any], str]
Tree = Mapping[str, Leaf]
"""Name of a dataset to its value, or to value and units."""

INCIDENCE_DEG = 37.0
BANDWIDTH_HZ = 20.0e6
SAMPLE_RATE_HZ = 24.0e6
FREQUENCY_HZ = 1.2575e9
SPACING_M = LIGHT_M_S / 2 / SAMPLE_RATE_HZ
"""From sample to sample, in slant range."""
LINE_M = 8.0
BORDER = 3
"""Samples without data at the near edge."""
NESZ_DB = -25.0
TABLE_STEP = 24
"""Lines and samples between two entries of the tables."""


def look_at(day: Day) -> tuple[Look, float]:
    """Lay an image over the region: its view and near range."""
    relief = day.relief
    path = geometry.orbit_over(
        float(relief.longitude_deg[day.middle]), float(relief.latitude_deg[day.middle]),
        float(np.median(relief.height_m)), altitude_m=747_000.0, inclination_deg=98.4, incidence_deg=INCIDENCE_DEG,
        descending=True,
    )  # fmt: skip
    frame, near = radar.slant_frame(path, relief, SPACING_M, LINE_M, BORDER)
    seen = radar.tilted(day.echo, relief, path, INCIDENCE_DEG)
    return Look(path, frame, geometry.stand(frame, relief), seen), near


def write(root: Path, day: Day) -> Specimen:
    """Write one product.

    The samples are floats whose squared magnitude is beta nought; the table of sigma nought is the amplitude A for
    which sigma nought = |DN|^2 / A^2, that is 1 / sqrt(sin(incidence)).
    Source: NISAR L1 RSLC Product Specification, JPL D-102268, calibrationInformation/geometry. That the table divides
    is the convention of Sentinel-1, and no document at hand says otherwise.
    """
    seen = _seen(day)
    frame = seen.look.frame
    rng = stream(day.land.seed, "nisar")
    mean = seen.look.image(seen.look.echo, (0.0, 0.0))
    echo = complex_speckle(rng, mean, 10.0 ** (NESZ_DB / 10.0)).astype(np.complex128)
    span = (frame.first_s, frame.first_s + (frame.lines - 1) * frame.line_s)
    stamp = "_".join(seen.when(t)[:19].replace("-", "").replace(":", "") for t in span)
    name = f"NISAR_L1_PR_RSLC_001_030_A_019_2000_QPDH_A_{stamp}_P01101_F_N_J_001"
    folder = root / "products" / name
    folder.mkdir(parents=True)
    samples, worth = {}, {}
    for polarisation, layer in zip(POLARISATIONS, echo, strict=True):
        dn = (layer * seen.gain).astype(np.complex64)
        dn[:, :BORDER] = 0
        samples[polarisation] = dn
        worth[polarisation] = np.where(dn == 0, np.nan, dn.astype(np.complex128) / seen.gain)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        _put(file, "science/LSAR/identification", _identification(seen, span))
        _put(file, "science/LSAR/RSLC/swaths", _swaths(seen, samples))
        _put(file, "science/LSAR/RSLC/metadata", _metadata(seen))
    truth = keep(root, folder, worth, {})
    return Specimen("nisar", "RSLC", "sigma_nought_amplitude", folder, truth)


@dataclass(frozen=True)
class _Seen:
    """An image's geometry and gain."""

    look: Look
    near_m: float
    where: list[dict[str, float]]
    """Geolocation points, POINTS of sentinel1 to a line."""
    at: NDArray[np.int64]
    """Samples of the table's entries."""
    table: NDArray[np.float64]
    """Gain of sigma nought at them."""
    zero: datetime
    """UTC of time 0."""

    @property
    def gain(self) -> NDArray[np.float64]:
        """Gain of sigma nought of every sample, linear between the table's entries."""
        return np.interp(np.arange(self.look.frame.samples), self.at, self.table)

    def when(self, t_s: float) -> str:
        return f"{self.zero + timedelta(microseconds=round(t_s * 1e6)):%Y-%m-%dT%H:%M:%S.%f}000"


def _seen(day: Day) -> _Seen:
    look, near = look_at(day)
    where = sentinel1.points(look, lambda s: near + s * SPACING_M)
    at = np.arange(-TABLE_STEP, look.frame.samples + 2 * TABLE_STEP, TABLE_STEP)
    line = where[: sentinel1.POINTS]
    known = ([p["sample"] for p in line], [p["incidence_flat"] for p in line])
    incidence = np.polynomial.Polynomial.fit(*known, 1)(at)
    table = 1.0 / np.sqrt(np.sin(np.radians(incidence)))
    return _Seen(look, near, where, at, table.astype(np.float32).astype(np.float64), day.when)


def _put(file: h5py.File, group: str, tree: Tree) -> None:
    """Datasets below a group; a pair is a dataset and its units."""
    for name, value in tree.items():
        values, units = value if isinstance(value, tuple) else (value, None)
        kept = file.create_dataset(f"{group}/{name}", data=np.bytes_(values) if isinstance(values, str) else values)
        if units:
            kept.attrs["units"] = np.bytes_(units)


def _identification(seen: _Seen, span: tuple[float, float]) -> Tree:
    corners = (seen.where[0], seen.where[20], seen.where[-1], seen.where[-21], seen.where[0])
    ring = ", ".join(f"{p['longitude']:.8f} {p['latitude']:.8f}" for p in corners)
    return {
        "absoluteOrbitNumber": np.uint32(1101),
        "boundingPolygon": f"POLYGON (({ring}))",
        "frameNumber": np.uint16(19),
        "trackNumber": np.uint8(30),
        "listOfFrequencies": np.array([b"A"]),
        "lookDirection": "Right",
        "missionId": "NISAR",
        "orbitPassDirection": "Descending",
        "productType": "RSLC",
        "productVersion": "1.2.0",
        "radarBand": "L",
        "zeroDopplerStartTime": seen.when(span[0]),
        "zeroDopplerEndTime": seen.when(span[1]),
    }


def _swaths(seen: _Seen, samples: Mapping[str, NDArray[np.complex64]]) -> Tree:
    frame = seen.look.frame
    ground = SPACING_M / float(np.sin(np.radians(INCIDENCE_DEG)))
    held: dict[str, Leaf] = {f"frequencyA/{name}": layer for name, layer in samples.items()}
    return held | {
        "zeroDopplerTime": (frame.first_s + frame.line_s * np.arange(frame.lines), _epoch(seen)),
        "zeroDopplerTimeSpacing": (np.float64(frame.line_s), "seconds"),
        "frequencyA/listOfPolarizations": np.array([p.encode() for p in samples]),
        "frequencyA/slantRange": (seen.near_m + SPACING_M * np.arange(frame.samples), "meters"),
        "frequencyA/slantRangeSpacing": (np.float64(SPACING_M), "meters"),
        "frequencyA/processedCenterFrequency": (np.float64(FREQUENCY_HZ), "hertz"),
        "frequencyA/processedRangeBandwidth": (np.float64(BANDWIDTH_HZ), "hertz"),
        "frequencyA/sceneCenterAlongTrackSpacing": (np.float64(LINE_M), "meters"),
        "frequencyA/sceneCenterGroundRangeSpacing": (np.float64(ground), "meters"),
        "frequencyA/numberOfSubSwaths": np.uint8(1),
        "frequencyA/validSamplesSubSwath1": np.tile(np.array([BORDER, frame.samples], np.uint32), (frame.lines, 1)),
    }


def _metadata(seen: _Seen) -> Tree:
    frame, t = seen.look.frame, np.arange(-80.0, 80.1, 10.0)
    position, velocity = seen.look.orbit.state(t)
    lines = np.arange(-TABLE_STEP, frame.lines + 2 * TABLE_STEP, TABLE_STEP)
    table = np.tile(seen.table.astype(np.float32), (len(lines), 1))
    axes: dict[str, Leaf] = {
        "zeroDopplerTime": (frame.first_s + frame.line_s * lines, _epoch(seen)),
        "slantRange": (seen.near_m + SPACING_M * seen.at, "meters"),
    }
    incidence = np.arcsin(np.minimum(seen.table**-2.0, 1.0))
    tables = {
        "geometry/beta0": np.ones_like(table),
        "geometry/sigma0": table,
        "geometry/gamma0": table * np.sqrt(np.cos(incidence)).astype(np.float32),
    }
    noise = np.full(table.shape, 10.0 ** (NESZ_DB / 10.0), np.float32)
    tree: dict[str, Leaf] = {f"calibrationInformation/{k}": v for k, v in tables.items()}
    tree |= {f"calibrationInformation/geometry/{k}": v for k, v in axes.items()}
    tree |= {f"calibrationInformation/frequencyA/noiseEquivalentBackscatter/{k}": v for k, v in axes.items()}
    tree |= {f"calibrationInformation/frequencyA/noiseEquivalentBackscatter/{p}": noise for p in POLARISATIONS}
    return tree | {
        "orbit/time": (t, _epoch(seen)),
        "orbit/position": (position, "meters"),
        "orbit/velocity": (velocity, "meters per second"),
        "orbit/orbitType": "POE",
    }


def _epoch(seen: _Seen) -> str:
    return f"seconds since {seen.when(0.0)[:26]}"
