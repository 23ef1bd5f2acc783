"""NISAR: half floats are read, tables divide the amplitude, a damaged file is refused by its dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pystac
import pytest
import tiny_nisar as tiny

from catalog import laws
from catalog.calibrate.constants import calibrate, provenance
from catalog.errors import MetadataError
from catalog.formats import geometry_of
from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene


def reason(folder: Path, out: Path) -> str:
    found = register(folder, out)
    assert found.items == ()
    return found.failed[0][1]


def test_each_frequency_is_a_valid_item(tmp_path: Path, validate_offline: Callable[[Any], None]) -> None:
    """Two frequencies of one file are two items, each with its spacing, its channels and the same footprint."""
    found = register(tiny.nisar(tmp_path / "p").parent, tmp_path / "out")
    assert found.failed == ()
    for path in (tmp_path / "out").rglob("*.json"):
        validate_offline(path)
    first, second = (Scene.from_item(i) for i in found.items)
    assert [s.id[-2:] for s in (first, second)] == ["_A", "_B"]
    assert (list(first.bands), list(second.bands)) == (["HH", "HV"], ["HH"])
    assert (first.sensor, first.platform, first.collection) == ("nisar", "nisar", "nisar-rslc")
    assert (first.properties["gsd"], second.properties["gsd"]) == (9.6, 28.8)
    assert first.bbox == (10.0, 45.0, 10.1, 45.1)
    assert first.properties["sat:orbit_state"] == "ascending"
    assert found.items[0].assets["HH"].media_type == "application/x-hdf5"


def test_catalogue_and_file_move_together(tmp_path: Path) -> None:
    """The item keeps a relative path of the file; the channel inside it is named apart."""
    register(tiny.nisar(tmp_path / "here" / "p").parent, tmp_path / "here" / "catalog")
    (tmp_path / "here").rename(tmp_path / "there")
    path = next((tmp_path / "there" / "catalog").glob("nisar-rslc/*_A/*.json"))
    scene = Scene.from_item(pystac.Item.from_file(str(path)))
    assert read_native(scene).shape == (2, tiny.ROWS, tiny.COLS_A)


@pytest.mark.parametrize(("quantity", "name"), [("sigma", "sigma0"), ("beta", "beta0"), ("gamma", "gamma0")])
def test_amplitude_is_divided_by_the_table(quantity: str, name: str, tmp_path: Path) -> None:
    """S = DN / A, A linear in line and slant range, in half floats and in single ones, lazily too; 0 is no-data."""
    found = register(tiny.nisar(tmp_path / "p").parent, tmp_path / "out")
    for item, cols, spacing in zip(
        found.items, (tiny.COLS_A, tiny.COLS_B), (tiny.SPACING_A_M, tiny.SPACING_B_M), strict=True
    ):
        item.properties["ringmoe:quantity"] = f"{quantity}_nought_amplitude"
        scene = Scene.from_item(item)
        constants = laws.constants_of(scene, list(scene.bands))
        gain = tiny.table(name, np.arange(tiny.ROWS, dtype=float), tiny.RANGE_M + spacing * np.arange(cols))
        for chunks in (None, {"y": 5, "x": 4}):
            dn = read_native(scene, chunks=chunks)
            values = calibrate(dn, constants, scene.quantity).compute()
            for k, band in enumerate(scene.bands):
                np.testing.assert_array_equal(dn.sel(band=band)[1:], tiny.pixels(cols, k)[1:])
                np.testing.assert_allclose(values.sel(band=band)[1:], tiny.pixels(cols, k)[1:] / gain[1:], rtol=2e-6)
            assert np.isnan(values[:, 0]).all()
        assert values.attrs["quantity"] == f"{quantity}_nought_amplitude"


def test_noise_is_recorded_and_left_in(tmp_path: Path) -> None:
    """The channel with a noise table says its level in dB, the one without is named."""
    (item, _) = register(tiny.nisar(tmp_path / "p").parent, tmp_path / "out").items
    record = provenance(laws.constants_of(Scene.from_item(item), ["HH", "HV"]))
    assert record["noise_level_db"] == {"HH": {"min": -30.0, "median": -20.0, "max": -10.0}}
    assert record["noise_level_unknown"] == ["HV"]
    assert record["noise"].startswith("left in")
    assert record["source"].startswith("science/LSAR/RSLC/metadata/calibrationInformation/geometry/sigma0 of NISAR_L1")


def test_geometry_is_the_file_s_orbit_and_timing(tmp_path: Path) -> None:
    """Line times since the orbit's epoch, slant range as the range law, the side the antenna looks to."""
    first, second = (Scene.from_item(i) for i in register(tiny.nisar(tmp_path / "p").parent, tmp_path / "out").items)
    grid = geometry_of(first)
    assert (grid.first_line_s, grid.line_interval_s, grid.looks_right) == (5.0, tiny.LINE_S, False)
    assert (grid.lines, grid.samples, grid.range_pixel_spacing_m) == (tiny.ROWS, tiny.COLS_A, tiny.SPACING_A_M)
    assert geometry_of(second).range_pixel_spacing_m == tiny.SPACING_B_M


A = f"{tiny.ROOT}/swaths/frequencyA"
LUTS = f"{tiny.ROOT}/metadata/calibrationInformation/geometry"


def _replace(name: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        attrs = dict(file[name].attrs)
        del file[name]
        if value is not None:
            file[name] = value
            file[name].attrs.update(attrs)

    return change


REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "no timing": (_replace(f"{tiny.ROOT}/swaths/zeroDopplerTime", None), "swaths/zeroDopplerTime"),
    "no spacing": (_replace(f"{A}/slantRangeSpacing", 0.0), "slantRangeSpacing"),
    "a spacing that is no number": (_replace(f"{A}/slantRangeSpacing", np.nan), "slantRangeSpacing"),
    "detected pixels": (_replace(f"{A}/HV", np.ones((tiny.ROWS, tiny.COLS_A), "f4")), "frequencyA/HV"),
    "another size": (_replace(f"{A}/HV", np.ones((3, 4), "c8")), "frequencyA/HV"),
    "pixels of another file": (_replace(f"{A}/HV", h5py.ExternalLink("other.h5", "/x")), "frequencyA/HV"),
    "no polygon": (
        _replace("science/LSAR/identification/boundingPolygon", np.bytes_("POINT (1 2)")),
        "boundingPolygon",
    ),
    "no time": (
        _replace("science/LSAR/identification/zeroDopplerStartTime", np.bytes_("soon")),
        "zeroDopplerStartTime",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_file_is_refused_by_dataset(name: str, tmp_path: Path) -> None:
    """Missing, not finite, detected, another size, a link out of the file: the reason names file and dataset."""
    path = tiny.nisar(tmp_path / "p")
    change, word = REFUSED[name]
    with h5py.File(tmp_path / "p" / "other.h5", "w") as other:
        other["x"] = np.ones((tiny.ROWS, tiny.COLS_A), "c8")
    with h5py.File(path, "a") as file:
        change(file)
    said = reason(path.parent, tmp_path / "out")
    assert word in said
    assert path.name in said


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """A file that was cut off in transfer is named, before and after it was registered."""
    path = tiny.nisar(tmp_path / "p")
    scene = Scene.from_item(register(path.parent, tmp_path / "out").items[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = reason(path.parent, tmp_path / "out2")
    assert "cut off" in said
    assert path.name in said
    with pytest.raises(MetadataError, match="cut off"):
        laws.constants_of(scene, ["HH"])


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, None])
def test_a_table_that_divides_by_nothing_is_refused(value: float | None, tmp_path: Path) -> None:
    """NaN, zero, negative or missing gains are refused with file and dataset."""
    path = tiny.nisar(tmp_path / "p")
    with h5py.File(path, "a") as file:
        _replace(f"{LUTS}/sigma0", None if value is None else np.full((3, 3), value))(file)
    scene = Scene.from_item(register(path.parent, tmp_path / "out").items[0])
    with pytest.raises(MetadataError, match="geometry/sigma0") as refusal:
        laws.constants_of(scene, ["HH"])
    assert path.name in refusal.value.item
