"""The data contract: canonical, and refusing by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ringmoe.bands import Statistics, expected
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


OPEN = replace(CONTRACT, described=True)
LANDSAT = [
    {"name": "B4", "common_name": "red", "centre_nm": 654.5, "width_nm": 37.0},
    {"name": "B5", "common_name": "nir08", "centre_nm": 865.0, "width_nm": 28.0},
    {"name": "B6", "common_name": "swir16", "centre_nm": 1608.5, "width_nm": 85.0},
]


def test_a_contract_of_described_bands_takes_another_sensor():
    """Landsat at 30 m under a contract of Sentinel-2; fewer bands, or in another order; a strict one does not."""
    landsat = cube(sensor="landsat", gsd_m=30.0, bands=LANDSAT)
    for attrs in (landsat, cube(bands=cube()["bands"][:1]), cube(bands=list(reversed(cube()["bands"])))):
        OPEN.check(attrs)
        with pytest.raises(ContractError):
            CONTRACT.check(attrs)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quantity": "toa_reflectance"}, "quantity toa_reflectance instead of surface_reflectance"),
        ({"units": "dB"}, "units dB instead of 1"),
        ({"gsd_m": 250.0}, "ground sampling distance 250 m"),
        ({"gsd_m": None}, "ground sampling distance 0 m"),
        ({"bands": [LANDSAT[0] | {"centre_nm": None}]}, "band B4 without a description"),
        ({"bands": [{"name": "VV", "frequency_ghz": 5.4, "polarisation": "VV"}]}, "band VV without a description"),
        ({"bands": [LANDSAT[0], LANDSAT[0]]}, "band B4 twice"),
        ({"bands": []}, r"bands \(none\)"),
        ({"modality": "opt"}, "has not learned the modality opt"),
    ],
)
def test_described_bands_change_nothing_in_what_else_is_refused(change, named):
    """Quantity, units, a far ground sampling distance, and bands that say too little or come twice."""
    with pytest.raises(ContractError, match=named) as caught:
        OPEN.check(cube(sensor="landsat", gsd_m=30.0, bands=LANDSAT) | change)
    assert caught.value.todo


def test_each_sensor_keeps_its_own_statistics_and_a_new_one_gets_its_neighbours():
    """By name and wavelength; between two wavelengths a line over their logarithm, constant beyond the last."""
    first = S2.bands
    own = replace(
        S2, sensor="landsat", bands=band_specs(cube(bands=LANDSAT)), mean=(0.11, 0.31, 0.2), std=(0.1, 0.2, 0.3)
    )
    contract = replace(OPEN, also=(own,))
    assert contract.input_of(Modality.MS) is contract.input_of(Modality.MS, first) is S2
    assert contract.input_of(Modality.MS, own.bands).mean == own.mean
    assert contract.input_of(Modality.MS, (first[1], first[0])).std == (0.1, 0.05)
    between = BandSpec("x", centre_nm=math.sqrt(664.6 * 832.8), width_nm=20.0)
    beyond = BandSpec("y", centre_nm=12_000.0, width_nm=500.0)
    new = OPEN.input_of(Modality.MS, (between, beyond))
    assert new.mean == pytest.approx((0.2, 0.3))
    assert new.std == pytest.approx((0.075, 0.1))
    with pytest.raises(ContractError, match="does not know these bands"):
        CONTRACT.input_of(Modality.MS, (between,))


def test_a_new_radar_band_goes_by_part_polarisation_and_frequency():
    """Cross-polarised by cross-polarised, then the nearest frequency; never the other part of a complex number."""
    rows = [("HH", 5.4, 1.0), ("HV", 5.4, 0.1), ("VV", 9.6, 2.0)]
    known = [
        Statistics(BandSpec(p, frequency_ghz=f, polarisation=p, part=part), 0.0, std)
        for p, f, std in rows
        for part in ("re", "im")
    ]
    for band, std in ((("VH", 9.6), 0.1), (("VV", 1.26), 1.0), (("HH", 9.0), 2.0)):
        found = expected(BandSpec("?", frequency_ghz=band[1], polarisation=band[0], part="im"), known)
        assert found is not None
        assert found.std == std
    assert expected(BandSpec("?", frequency_ghz=5.4, polarisation="VV"), known) is None
    assert expected(BandSpec("?", centre_nm=600.0), known) is None


def test_a_contract_of_several_sensors_survives_json_and_mixes_no_quantities():
    """Round trip, digest, a part of its modalities; another quantity, or several sensors of a strict contract, not."""
    contract = replace(OPEN, also=(replace(S2, sensor="landsat"),))
    again = DataContract.from_json(contract.to_json())
    assert again == contract
    assert len({c.digest() for c in (contract, OPEN, CONTRACT)}) == 3
    assert contract.only([Modality.MS]).also == contract.also
    assert contract.only([Modality.SAR_L1]).also == ()
    for wrong in (replace(S2, quantity="toa_reflectance"), replace(S2, modality=Modality.OPT)):
        with pytest.raises(ContractError, match="cannot share a contract"):
            replace(OPEN, also=(wrong,))
    with pytest.raises(ContractError, match="cannot share a contract"):
        replace(CONTRACT, also=(S2,))
