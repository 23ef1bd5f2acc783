"""Bands compared: a cube's channels, which two are the same, and what to expect of one that was never measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ringmoe.modality import BandSpec, Modality

TOLERANCE = 0.02
"""Relative difference of a centre wavelength or frequency within which two bands are the same band."""


class Statistics(NamedTuple):
    """What is known of the pixels of one channel."""

    band: BandSpec
    """The channel."""
    mean: float
    """Mean, after the transform."""
    std: float
    """Standard deviation, after the transform."""


def band_specs(cube_attrs: Mapping[str, Any]) -> tuple[BandSpec, ...]:
    """One BandSpec per channel that a cube's bands become; complex bands (modality sar_l1) become two, re then im."""
    parts = ("re", "im") if cube_attrs.get("modality") == Modality.SAR_L1.value else ("",)
    return tuple(
        BandSpec(
            name=str(band["name"]),
            common_name=str(band.get("common_name") or ""),
            centre_nm=_optional(band.get("centre_nm")),
            width_nm=_optional(band.get("width_nm")),
            frequency_ghz=_optional(band.get("frequency_ghz")),
            polarisation=band.get("polarisation") or None,
            part=part,
        )
        for band in cube_attrs["bands"]
        for part in parts
    )


def _optional(number: float | None) -> float | None:
    return None if number is None else float(number)


def band_difference(want: BandSpec, got: BandSpec) -> str:
    """Where two bands of one name differ in what they measure, in words; empty where they do not."""
    for key, unit in (("centre_nm", "nm"), ("frequency_ghz", "GHz")):
        a, b = getattr(want, key), getattr(got, key)
        if (a is None) != (b is None) or (a is not None and abs(a - b) > TOLERANCE * a):
            return f"band {want.name} at {b} {unit} instead of {a}"
    if want.polarisation != got.polarisation:
        return f"band {want.name} of polarisation {got.polarisation} instead of {want.polarisation}"
    return ""


def places(wanted: Sequence[BandSpec], among: Sequence[BandSpec]) -> tuple[int, ...] | None:
    """Where each band stands in another list, by name and what it measures; None where one is not there."""
    index = {band.name + band.part: i for i, band in enumerate(among)}
    found = tuple(index.get(band.name + band.part, -1) for band in wanted)
    alike = all(i >= 0 and not band_difference(among[i], band) for i, band in zip(found, wanted, strict=True))
    return found if alike else None


def expected(band: BandSpec, known: Sequence[Statistics]) -> Statistics | None:
    """Statistics of a band from those of its neighbours; None where no band of its kind is known.

    An optical band takes mean and deviation from a line through the known ones over the logarithm of the wavelength,
    constant beyond their ends: the mean spectrum is smooth. A radar band takes those of the nearest frequency, among
    bands of its part (real, imaginary, or neither) and of the same kind of polarisation, like or cross, where there
    are such.
    """
    alike = [k for k in known if k.band.described and k.band.part == band.part]
    alike = [k for k in alike if (k.band.centre_nm is None) == (band.centre_nm is None)]
    if not band.described or not alike:
        return None
    if band.centre_nm is not None:
        at = np.array([math.log(k.band.centre_nm or 1.0) for k in alike])
        x, inverse = np.unique(at, return_inverse=True)
        count = np.bincount(inverse)
        mean, std = (np.bincount(inverse, [getattr(k, key) for k in alike]) / count for key in ("mean", "std"))
        here = math.log(band.centre_nm)
        return Statistics(band, float(np.interp(here, x, mean)), float(np.interp(here, x, std)))
    distance = [_apart(band, k.band) for k in alike]
    near = [k for k, d in zip(alike, distance, strict=True) if d <= min(distance) + 1e-9]
    return Statistics(band, *(sum(getattr(k, key) for k in near) / len(near) for key in ("mean", "std")))


def _apart(a: BandSpec, b: BandSpec) -> float:
    """Distance of two radar bands: octaves, after the kind of polarisation (no two radars are 100 octaves apart)."""
    assert a.frequency_ghz is not None
    assert b.frequency_ghz is not None
    assert a.polarisation is not None
    assert b.polarisation is not None
    crossed = (a.polarisation[0] == a.polarisation[1]) != (b.polarisation[0] == b.polarisation[1])
    return 100.0 * crossed + abs(math.log2(a.frequency_ghz / b.frequency_ghz))
