"""The data contract: what pixels a checkpoint was trained on, and the refusal of any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ringmoe.errors import ContractError
from ringmoe.modality import Modality, ordered

TOLERANCE = 0.02
"""Relative difference of a centre wavelength or frequency within which two bands are the same band."""


LOG_FLOOR = 1e-5
"""Linear power added before the logarithm of transform log, 50 dB below one; negative power counts as none."""


@dataclass(frozen=True)
class BandSpec:
    """What one channel measures."""

    name: str
    """Name in the cube, as in B04 or VV."""
    common_name: str = ""
    """STAC common name, as in red; empty for radar."""
    centre_nm: float | None = None
    """Centre wavelength in nm; None for radar."""
    width_nm: float | None = None
    """Full width at half maximum in nm; None for radar."""
    frequency_ghz: float | None = None
    """Radar centre frequency in GHz; None for optical."""
    polarisation: str | None = None
    """Transmit and receive polarisation, as in VH; None for optical."""
    part: str = ""
    """re or im of a complex band; empty for a real one."""


@dataclass(frozen=True)
class InputContract:
    """What one modality's chips are, and how the model normalises them."""

    modality: Modality
    """The family of instruments."""
    sensor: str
    """Row of catalog.sensors, as in sentinel-2."""
    bands: tuple[BandSpec, ...]
    """One per channel, in channel order."""
    quantity: str
    """Physical quantity, as in surface_reflectance or sigma_nought."""
    units: str
    """Units of the quantity; 1 for a fraction or linear power."""
    transform: str
    """identity, or log: the natural logarithm of the power (at least 0) plus LOG_FLOOR."""
    mean: tuple[float, ...]
    """Mean per channel, after the transform."""
    std: tuple[float, ...]
    """Standard deviation per channel after the transform (root mean square for complex parts)."""
    gsd_m: tuple[float, float]
    """Least and greatest ground sampling distance trained on, in metres."""

    def __post_init__(self) -> None:
        counts = {len(self.bands), len(self.mean), len(self.std)}
        if len(counts) != 1 or not self.bands:
            raise ContractError(
                "Bands, means and deviations of a contract are not equally many",
                item=f"{self.modality}: {len(self.bands)} bands, {len(self.mean)} means, {len(self.std)} deviations",
                enough="one mean and one deviation per channel, and at least one channel",
                todo="recompute the statistics over the cube's channels",
            )
        if min(self.std) <= 0 or self.transform not in ("identity", "log"):
            raise ContractError(
                "A contract's normalisation cannot be applied",
                item=f"{self.modality}: transform {self.transform!r}, least deviation {min(self.std):g}",
                enough="transform identity or log, and deviations above 0",
                todo="look for a constant band in the cubes the statistics were taken from",
            )


@dataclass(frozen=True)
class DataContract:
    """All modalities a model takes."""

    inputs: Mapping[Modality, InputContract]
    """Keyed by modality."""

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, shortest exact decimals; equal contracts give equal text."""
        inputs = {m.value: asdict(self.inputs[m]) for m in ordered(self.inputs)}
        return json.dumps({"inputs": inputs}, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> DataContract:
        """The contract that `to_json` wrote; ContractError when the text holds none."""
        try:
            rows = json.loads(text)["inputs"]
            return cls({Modality(name): _input_contract(row) for name, row in rows.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ContractError(
                "The data contract cannot be read",
                item=f"{type(error).__name__}: {error}",
                enough="the JSON that DataContract.to_json writes",
                todo="take the checkpoint again from where it was published",
            ) from error

    def digest(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def only(self, keep: Sequence[Modality]) -> DataContract:
        """The same contract for some of its modalities."""
        return DataContract({m: self.inputs[m] for m in ordered(self.inputs) if m in keep})

    def check(self, cube_attrs: Mapping[str, Any]) -> None:
        """Refuse a cube whose attributes do not honour the contract.

        Parameters
        ----------
        cube_attrs
            Attributes of a cube: modality, bands, quantity, units, gsd_m and, for the message, sensor and tile.

        Raises
        ------
        ContractError
            Naming everything that differs.
        """
        name = str(cube_attrs.get("modality", ""))
        known = {m.value: self.inputs[m] for m in self.inputs}
        if name not in known:
            raise ContractError(
                f"The model has not learned the modality {name or '(none named)'}",
                item=_cube_name(cube_attrs),
                enough=f"a cube of {', '.join(known)}",
                todo="choose another checkpoint or another cube",
            )
        differences = _differences(known[name], cube_attrs)
        if differences:
            raise ContractError(
                "The cube is not what the model was trained on: " + "; ".join(differences),
                item=_cube_name(cube_attrs),
                enough=_asked(known[name]),
                todo="build the cube with the contract's bands, level and resolution, or adapt a model to this one",
            )


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


def _input_contract(row: Mapping[str, Any]) -> InputContract:
    return InputContract(
        modality=Modality(row["modality"]),
        sensor=str(row["sensor"]),
        bands=tuple(BandSpec(**band) for band in row["bands"]),
        quantity=str(row["quantity"]),
        units=str(row["units"]),
        transform=str(row["transform"]),
        mean=tuple(float(v) for v in row["mean"]),
        std=tuple(float(v) for v in row["std"]),
        gsd_m=(float(row["gsd_m"][0]), float(row["gsd_m"][1])),
    )


def _cube_name(attrs: Mapping[str, Any]) -> str:
    parts = [str(attrs[key]) for key in ("sensor", "tile", "period") if attrs.get(key)]
    return "cube of " + (" ".join(parts) or "an unnamed sensor")


def _asked(wanted: InputContract) -> str:
    bands = ", ".join(dict.fromkeys(band.name for band in wanted.bands))
    low, high = wanted.gsd_m
    return f"bands {bands}; {wanted.quantity} in units {wanted.units}; {low:g} to {high:g} m"


def _differences(wanted: InputContract, attrs: Mapping[str, Any]) -> list[str]:
    found = []
    got = band_specs({**attrs, "bands": attrs.get("bands") or []})
    want_names = [band.name + band.part for band in wanted.bands]
    got_names = [band.name + band.part for band in got]
    if want_names != got_names:
        found.append(f"bands {', '.join(dict.fromkeys(b.name for b in got)) or '(none)'}")
    else:
        found += [text for a, b in zip(wanted.bands, got, strict=True) if (text := _band_difference(a, b))]
    for key, value in (("quantity", wanted.quantity), ("units", wanted.units)):
        if str(attrs.get(key, "")) != value:
            found.append(f"{key} {attrs.get(key) or '(none)'} instead of {value}")
    low, high = wanted.gsd_m
    gsd_m = float(attrs.get("gsd_m") or 0.0)
    if not low * (1 - TOLERANCE) <= gsd_m <= high * (1 + TOLERANCE):
        found.append(f"ground sampling distance {gsd_m:g} m")
    return found


def _band_difference(want: BandSpec, got: BandSpec) -> str:
    for key, unit in (("centre_nm", "nm"), ("frequency_ghz", "GHz")):
        a, b = getattr(want, key), getattr(got, key)
        if (a is None) != (b is None) or (a is not None and abs(a - b) > TOLERANCE * a):
            return f"band {want.name} at {b} {unit} instead of {a}"
    if want.polarisation != got.polarisation:
        return f"band {want.name} of polarisation {got.polarisation} instead of {want.polarisation}"
    return ""
