"""The data contract: what pixels a checkpoint was trained on, and the refusal of any other."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ringmoe.bands import TOLERANCE, Statistics, band_difference, band_specs, expected, places
from ringmoe.errors import ContractError
from ringmoe.modality import BandSpec, Modality, ordered

__all__ = ["BandSpec", "DataContract", "InputContract", "band_specs"]

REACH = 4.0
"""How far beyond the ground sampling distances trained on, as a factor, a sensor the model has never seen may lie."""

LOG_FLOOR = 1e-5
"""Linear power added before the logarithm of transform log, 50 dB below one; negative power counts as none."""


@dataclass(frozen=True)
class InputContract:
    """What the chips of one modality and sensor are, and how the model normalises them."""

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
    looks: float = 1.0
    """Equivalent number of looks of detected radar, above 0; of no meaning elsewhere."""

    def __post_init__(self) -> None:
        counts = {len(self.bands), len(self.mean), len(self.std)}
        if len(counts) != 1 or not self.bands:
            raise ContractError(
                "Bands, means and deviations of a contract are not equally many",
                item=f"{self.modality}: {len(self.bands)} bands, {len(self.mean)} means, {len(self.std)} deviations",
                enough="one mean and one deviation per channel, and at least one channel",
                todo="recompute the statistics over the cube's channels",
            )
        if min(*self.std, self.looks) <= 0 or self.transform not in ("identity", "log"):
            raise ContractError(
                "A contract's normalisation cannot be applied",
                item=f"{self.modality}: transform {self.transform!r}, least deviation {min(self.std):g}, "
                f"{self.looks:g} looks",
                enough="transform identity or log, and deviations and looks above 0",
                todo="look for a constant band in the cubes the statistics were taken from",
            )

    @property
    def middle_m(self) -> float:
        """The ground sampling distance, in metres, of chips that name none: the geometric middle of the range."""
        return math.sqrt(self.gsd_m[0] * self.gsd_m[1])

    def at(self, rows: Sequence[int]) -> InputContract:
        """The same for some of its channels, in the order given."""
        mean, std = (tuple(column[i] for i in rows) for column in (self.mean, self.std))
        return replace(self, bands=tuple(self.bands[i] for i in rows), mean=mean, std=std)


@dataclass(frozen=True)
class DataContract:
    """All that a model takes: a sensor for each modality, and further ones where it knows bands by what they are."""

    inputs: Mapping[Modality, InputContract]
    """The first sensor of each modality."""
    also: tuple[InputContract, ...] = ()
    """Further sensors of these modalities, of the same quantity and units, each with a normalisation of its own."""
    described: bool = False
    """Whether sensors never seen are taken too, if each of their bands says what it is (spectral embedding)."""

    def __post_init__(self) -> None:
        for more in self.also:
            first = self.inputs.get(more.modality)
            if first is None or not self.described or (first.quantity, first.units) != (more.quantity, more.units):
                raise ContractError(
                    f"{more.sensor} cannot share a contract",
                    item=f"{more.modality}: {more.quantity} in units {more.units}",
                    enough=f"{first.quantity} in units {first.units}" if first else ", ".join(self.inputs),
                    todo="keep one quantity a modality, and several sensors to a contract of described bands",
                )

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, shortest exact decimals; equal contracts give equal text."""
        row: dict[str, Any] = {"inputs": {m.value: asdict(self.inputs[m]) for m in ordered(self.inputs)}}
        if self.described:
            row |= {"described": True, "also": [asdict(more) for more in self.also]}
        return json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> DataContract:
        """The contract that `to_json` wrote; ContractError when the text holds none."""
        try:
            row = json.loads(text)
            inputs = {Modality(name): _input_contract(one) for name, one in row["inputs"].items()}
            also = tuple(_input_contract(one) for one in row.get("also", ()))
            return cls(inputs, also, bool(row.get("described", False)))
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
        inputs = {m: self.inputs[m] for m in ordered(self.inputs) if m in keep}
        return replace(self, inputs=inputs, also=tuple(more for more in self.also if more.modality in keep))

    def sensors(self, modality: Modality) -> tuple[InputContract, ...]:
        """All sensors of a modality, the first one first."""
        return (self.inputs[modality], *(more for more in self.also if more.modality is modality))

    def input_of(self, modality: Modality, bands: tuple[BandSpec, ...] = ()) -> InputContract:
        """How chips of these bands are normalised.

        By the statistics of the sensor that has all these bands; where none has and bands are known by what they are,
        each band by what its neighbours in wavelength or frequency let expect (`ringmoe.bands.expected`).

        Raises
        ------
        ContractError
            The contract has no such list of bands, or one of them says too little.
        """
        first = self.inputs[modality]
        if not bands or bands == first.bands:
            return first
        for entry in self.sensors(modality):
            rows = places(bands, entry.bands)
            if rows is not None and (self.described or rows == tuple(range(len(entry.bands)))):
                return replace(entry.at(rows), bands=bands)
        found = [expected(band, self._known(modality)) for band in bands] if self.described else [None]
        new = [each for each in found if each is not None]
        if len(new) < len(found):
            raise ContractError(
                f"The model does not know these bands of {modality}",
                item=", ".join(band.name + band.part for band in bands),
                enough=_asked(first),
                todo="give the contract's bands"
                + (", or say of each its wavelength, or radar frequency and polarisation" if self.described else ""),
            )
        mean, std = tuple(each.mean for each in new), tuple(each.std for each in new)
        return replace(first, sensor="any", bands=bands, mean=mean, std=std)

    def _known(self, modality: Modality) -> list[Statistics]:
        entries = self.sensors(modality)
        return [Statistics(*row) for e in entries for row in zip(e.bands, e.mean, e.std, strict=True)]

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
        differences = self._differences(known[name], cube_attrs)
        if differences:
            raise ContractError(
                "The cube is not what the model was trained on: " + "; ".join(differences),
                item=_cube_name(cube_attrs),
                enough=_asked(known[name]),
                todo="build the cube with the contract's bands, level and resolution, or adapt a model to this one",
            )

    def _differences(self, first: InputContract, attrs: Mapping[str, Any]) -> list[str]:
        """What keeps a cube from being one of a sensor of the contract, or, bands described, of any other."""
        entries = self.sensors(first.modality)
        found = [_differences(entry, attrs) for entry in entries]
        if not self.described or not all(found):
            return min(found, key=len)
        bands = band_specs({**attrs, "bands": attrs.get("bands") or []})
        names = [band.name + band.part for band in bands]
        strange = [band.name for band in bands if expected(band, self._known(first.modality)) is None]
        texts = [] if bands else ["bands (none)"]
        texts += [f"band {name} twice" for name in sorted({n for n in names if names.count(n) > 1})]
        texts += [f"band {name} without a description of the model's kind" for name in dict.fromkeys(strange)]
        low, high = (pick(e.gsd_m[i] for e in entries) for i, pick in enumerate((min, max)))
        return texts + _other_quantity(first, attrs) + _other_distance((low / REACH, high * REACH), attrs)


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
        looks=float(row.get("looks", 1.0)),
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
        found += [text for a, b in zip(wanted.bands, got, strict=True) if (text := band_difference(a, b))]
    return found + _other_quantity(wanted, attrs) + _other_distance(wanted.gsd_m, attrs)


def _other_quantity(wanted: InputContract, attrs: Mapping[str, Any]) -> list[str]:
    rows = (("quantity", wanted.quantity), ("units", wanted.units))
    return [f"{k} {attrs.get(k) or '(none)'} instead of {v}" for k, v in rows if str(attrs.get(k, "")) != v]


def _other_distance(between_m: tuple[float, float], attrs: Mapping[str, Any]) -> list[str]:
    gsd_m = float(attrs.get("gsd_m") or 0.0)
    fits = between_m[0] * (1 - TOLERANCE) <= gsd_m <= between_m[1] * (1 + TOLERANCE)
    return [] if fits else [f"ground sampling distance {gsd_m:g} m"]
