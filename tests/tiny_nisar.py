"""A NISAR RSLC in miniature: frequency A in half floats, B in single ones, tables linear in line and range."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

ROWS, COLS_A, COLS_B = 14, 18, 6
RANGE_M, SPACING_A_M, SPACING_B_M = 900_000.0, 6.0, 18.0
LINE_S = 0.01
EPOCH = "seconds since 2026-05-01 10:00:00"
ROOT = "science/LSAR/RSLC"
HALF = np.dtype([("r", "<f2"), ("i", "<f2")])


def table(name: str, line: np.ndarray, range_m: np.ndarray) -> np.ndarray:
    """(line, range) what the file's tables hold: linear in both."""
    start = {"sigma0": 0.7, "beta0": 1.0, "gamma0": 0.8}[name]
    slope = {"sigma0": 2e-4, "beta0": 0.0, "gamma0": 1e-4}[name]
    return start + 0.002 * slope / 2e-4 * line[:, None] + slope * (range_m - RANGE_M)[None, :]


def pixels(cols: int, seed: int) -> np.ndarray:
    """Numbers that half floats hold exactly; the first line is without data."""
    rng = np.random.default_rng(seed)
    values = (rng.integers(1, 200, (ROWS, cols)) + 1j * rng.integers(-200, -1, (ROWS, cols))) / 64
    values[0] = 0
    return values.astype("complex64")


def nisar(folder: Path, name: str = "NISAR_L1_PR_RSLC_001_005_A_219.h5") -> Path:
    """An RSLC with HH and HV in frequency A and HH in frequency B; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / name, "w") as file:
        _identification(file.create_group("science/LSAR/identification"))
        swaths = file.create_group(f"{ROOT}/swaths")
        _axis(swaths, "zeroDopplerTime", 5.0 + LINE_S * np.arange(ROWS))
        swaths["zeroDopplerTimeSpacing"] = LINE_S
        for letter, cols, spacing, names in (
            ("A", COLS_A, SPACING_A_M, ("HH", "HV")),
            ("B", COLS_B, SPACING_B_M, ("HH",)),
        ):
            group = swaths.create_group(f"frequency{letter}")
            group["slantRange"] = RANGE_M + spacing * np.arange(cols)
            group["slantRangeSpacing"] = spacing
            group["processedCenterFrequency"] = 1.2435e9 if letter == "A" else 1.2935e9
            group["sceneCenterAlongTrackSpacing"] = 4.9
            group["sceneCenterGroundRangeSpacing"] = spacing * 1.6
            for k, polarisation in enumerate(names):
                values = pixels(cols, k)
                if letter == "B":
                    group[polarisation] = values
                    continue
                pair = np.empty(values.shape, HALF)
                pair["r"], pair["i"] = values.real, values.imag
                group[polarisation] = pair
        _metadata(file.create_group(f"{ROOT}/metadata"))
    return folder / name


def _identification(group: h5py.Group) -> None:
    said = {
        "missionId": "NISAR",
        "lookDirection": "Left",
        "orbitPassDirection": "Ascending",
        "productType": "RSLC",
        "zeroDopplerStartTime": "2026-05-01T10:00:05.000000000",
        "zeroDopplerEndTime": "2026-05-01T10:00:05.130000000",
        "boundingPolygon": "POLYGON ((10.0 45.0 0, 10.1 45.0 0, 10.1 45.1 0, 10.0 45.1 0, 10.0 45.0 0))",
    }
    for name, text in said.items():
        group[name] = np.bytes_(text)
    group["absoluteOrbitNumber"] = np.uint32(4321)


def _metadata(group: h5py.Group) -> None:
    orbit = group.create_group("orbit")
    _axis(orbit, "time", 2.0 * np.arange(6))
    angle = 1e-3 * np.arange(6) * 2.0
    orbit["position"] = 7.1e6 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    orbit["velocity"] = 7.1e3 * np.stack([-np.sin(angle), np.cos(angle), 0 * angle], axis=1)
    known = group.create_group("calibrationInformation/geometry")
    line, range_m = np.array([-5.0, 5.0, 20.0]), RANGE_M + np.array([-30.0, 30.0, 200.0])
    _axis(known, "zeroDopplerTime", 5.0 + LINE_S * line)
    known["slantRange"] = range_m
    for name in ("sigma0", "beta0", "gamma0"):
        known[name] = table(name, line, range_m).astype("float32")
    noise = group.create_group("calibrationInformation/frequencyA/noiseEquivalentBackscatter")
    noise["HH"] = np.array([[1e-3, 1e-2], [1e-2, 1e-1]])


def _axis(group: h5py.Group, name: str, values: np.ndarray) -> None:
    group[name] = values
    group[name].attrs["units"] = np.bytes_(EPOCH)
