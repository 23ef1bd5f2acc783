"""The data contract: canonical, and refusing by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringmoe.contract import BandSpec, DataContract, InputContract, band_specs
from ringmoe.errors import ContractError, ModelError
from ringmoe.modality import Modality

S2 = InputContract(
    modality=Modality.MS,
    sensor="sentinel-2",
    bands=(
        BandSpec("B04", "red", 664.6, 31.0),
        BandSpec("B08", "nir", 832.8, 106.0),
    ),
    quantity="surface_reflectance",
    units="1",
    transform="identity",
    mean=(0.1, 0.3),
    std=(0.05, 0.1),
    gsd_m=(10.0, 20.0),
)
SLC = InputContract(
    modality=Modality.SAR_L1,
    sensor="gaofen-3",
    bands=tuple(
        BandSpec(p, frequency_ghz=5.4, polarisation=p, part=part) for p in ("HH", "HV") for part in ("re", "im")
    ),
    quantity="sigma_nought_amplitude",
    units="1",
    transform="identity",
    mean=(0.0,) * 4,
    std=(0.2,) * 4,
    gsd_m=(8.0, 8.0),
)
CONTRACT = DataContract({Modality.SAR_L1: SLC, Modality.MS: S2})


def cube(**changes):
    """Attributes of a Sentinel-2 cube that honours the contract, but for the changes."""
    attrs = {
        "modality": "ms",
        "sensor": "sentinel-2",
        "tile": "T32",
        "quantity": "surface_reflectance",
        "units": "1",
        "gsd_m": 10.0,
        "bands": [
            {"name": "B04", "common_name": "red", "centre_nm": 665.0, "width_nm": 30.0, "gsd_m": 10.0},
            {"name": "B08", "common_name": "nir", "centre_nm": 833.0, "width_nm": 106.0, "gsd_m": 10.0},
        ],
    }
    return attrs | changes


def test_json_round_trip_is_exact_and_the_order_of_inputs_does_not_change_the_digest():
    """Equal contracts, equal text, equal digest."""
    again = DataContract.from_json(CONTRACT.to_json())
    assert again == CONTRACT
    swapped = DataContract({Modality.MS: S2, Modality.SAR_L1: SLC})
    assert swapped.to_json() == CONTRACT.to_json()
    assert swapped.digest() == again.digest()
    changed = DataContract({Modality.MS: replace(S2, mean=(0.1, 0.3000001)), Modality.SAR_L1: SLC})
    assert changed.digest() != CONTRACT.digest()


def test_a_cube_that_honours_the_contract_passes():
    """Also with a wavelength that differs by what two satellites of a mission differ."""
    CONTRACT.check(cube())
    CONTRACT.check(cube(gsd_m=20.0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quantity": "toa_reflectance"}, "quantity toa_reflectance instead of surface_reflectance"),
        ({"units": "dB"}, "units dB instead of 1"),
        ({"gsd_m": 60.0}, "ground sampling distance 60 m"),
        ({"bands": list(reversed(cube()["bands"]))}, "bands B08, B04"),
        ({"bands": cube()["bands"][:1]}, "bands B04"),
        (
            {"bands": [cube()["bands"][0] | {"centre_nm": 560.0}, cube()["bands"][1]]},
            "band B04 at 560.0 nm instead of 664.6",
        ),
        ({"modality": "opt"}, "has not learned the modality opt"),
        ({"bands": []}, r"bands \(none\)"),
    ],
)
def test_what_differs_is_named(change, named):
    """Bands, their order and wavelength, quantity, units, resolution, modality; the error has all four parts."""
    with pytest.raises(ContractError, match=named) as caught:
        CONTRACT.check(cube(**change))
    assert isinstance(caught.value, ModelError)
    assert caught.value.item
    assert caught.value.enough
    assert caught.value.todo


def test_complex_bands_become_two_channels_in_band_order():
    """Real then imaginary part of every polarisation."""
    attrs = {
        "modality": "sar_l1",
        "bands": [{"name": p, "frequency_ghz": 5.4, "polarisation": p, "centre_nm": None} for p in ("HH", "HV")],
    }
    assert band_specs(attrs) == SLC.bands


def test_a_contract_that_normalises_nothing_is_refused():
    """A constant band, a missing mean, an unknown transform."""
    for change in ({"std": (0.1, 0.0)}, {"mean": (0.1,)}, {"transform": "sqrt"}):
        with pytest.raises(ContractError):
            replace(S2, **change)
    with pytest.raises(ContractError, match="cannot be read"):
        DataContract.from_json("{}")
