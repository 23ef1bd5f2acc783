"""Radar products that are damaged or contradict themselves are refused by file and field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_products
import tiny_radar as tiny

from catalog import laws
from catalog.calibrate.constants import calibrate
from catalog.errors import CalibrationError, MetadataError
from catalog.metadata import palsar2
from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene


def reason(folder: Path, out: Path) -> str:
    found = register(folder, out)
    assert found.items == ()
    return found.failed[0][1]


def scene_of(folder: Path, out: Path) -> Scene:
    found = register(folder, out)
    assert found.failed == ()
    return Scene.from_item(found.items[0])


REFUSED: dict[str, tuple[Callable[[Path], Path], str, Callable[[str], str] | None, tuple[str, ...]]] = {
    "a truncated annotation": (tiny.sentinel1_slc, "annotation/s1a-iw1-slc-vv-*.xml", lambda t: t[: len(t) // 2],
                               ("s1a-iw1-slc-vv", "damaged or cut off")),
    "an entity bomb": (tiny.sentinel1_slc, "annotation/s1a-iw2-slc-vh-*.xml",
                       lambda t: '<!DOCTYPE c [<!ENTITY a "a"><!ENTITY b "&a;&a;">]>' + t, ("iw2", "entities")),
    "a missing table": (tiny.sentinel1_slc, "annotation/calibration/calibration-*-iw2-*-vh-*.xml", None,
                        ("calibration-s1a-iw2", "missing")),
    "a missing image": (tiny.sentinel1_slc, "measurement/*-iw1-slc-vh-*.tiff", None, ("iw1-slc-vh", "missing")),
    "a short burst": (tiny.sentinel1_slc, "annotation/s1a-iw1-slc-vv-*.xml",
                      lambda t: t.replace("<linesPerBurst>12<", "<linesPerBurst>11<"), ("iw1", "firstValidSample")),
    "bursts that overfill": (tiny.sentinel1_slc, "annotation/s1a-iw1-slc-vv-*.xml",
                             lambda t: t.replace("<numberOfLines>24<", "<numberOfLines>25<"), ("swathTiming", "25")),
    "no level": (tiny.palsar2_scene, "summary.txt", lambda t: t.replace("Lbi_ProcessLevel", "x"),
                 ("summary.txt", "Lbi_ProcessLevel")),
    "levels that contradict": (tiny.palsar2_scene, "summary.txt",
                               lambda t: t.replace('Lbi_ProcessLevel="1.5"', 'Lbi_ProcessLevel="1.1"'),
                               ("summary.txt", "Pds_ProductID")),
    "another satellite": (tiny.palsar2_scene, "summary.txt", lambda t: t.replace('"ALOS2"', '"ALOS"'),
                          ("summary.txt", "Lbi_Satellite")),
    "a gain of zero": (tiny.gaofen3_l2, "*.meta.xml", lambda t: t.replace("<HV>912.25<", "<HV>0<"),
                       ("meta.xml", "QualifyValue")),
    "a gain that is no number": (tiny.gaofen3_l2, "*.meta.xml", lambda t: t.replace("<HV>912.25<", "<HV>nan<"),
                                 ("meta.xml", "not finite")),
    "JSON that is cut off": (tiny.capella_json, "*_VV_*_extended.json", lambda t: t[:60],
                             ("extended.json", "scale_factor")),
    "a factor of zero": (tiny.capella_json, "*_VV_*_extended.json", lambda t: t.replace("0.0002", "0"),
                         ("extended.json", "not above 0")),
    "a factor that is no number": (tiny.capella_json, "*_VV_*_extended.json", lambda t: t.replace("0.0002", "NaN"),
                                   ("extended.json", "not finite")),
    "another polarisation": (tiny.capella_json, "*_VV_*_extended.json",
                             lambda t: t.replace('"receive_polarization": "V"', '"receive_polarization": "H"'),
                             ("extended.json", "is VH, the file is named VV")),
    "two radiometries": (tiny.capella_json, "*_VV_*_extended.json", lambda t: t.replace("beta", "gamma"),
                         ("radiometry", "differs between channels")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_product_is_refused_by_file_and_field(name: str, tmp_path: Path) -> None:
    """Missing, truncated, malicious or contradictory metadata: the reason names file and field."""
    make, pattern, change, words = REFUSED[name]
    (tmp_path / "p").mkdir()
    folder = make(tmp_path / "p")
    path = next(folder.glob(pattern))
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    said = reason(folder, tmp_path / "out")
    for word in words:
        assert word in said


def test_detected_pixels_have_no_phase(tmp_path: Path) -> None:
    """A real image where the level is complex, or a complex one where it is detected, is refused by its file."""
    safe = tiny.sentinel1_slc(tmp_path / "s1")
    image = next((safe / "measurement").glob("*-iw1-slc-vv-*.tiff"))
    tiny_products.write_tif(image, tiny_products.ramp(24, 20), None)
    assert f"{image.name}" in reason(safe, tmp_path / "out")
    assert "uint16, its product says complex ones" in reason(safe, tmp_path / "out")
    (tmp_path / "palsar").mkdir()
    folder = tiny.palsar2_scene(tmp_path / "palsar")
    image = next(folder.glob("IMG-HV-*"))
    tiny_products.write_tif(image, tiny.complex_ramp(16, 18), 6.25)
    assert "complex64, its product says real ones" in reason(folder, tmp_path / "out")
    (tmp_path / "capella").mkdir()
    folder = tiny.capella_json(tmp_path / "capella")
    tiny_products.write_tif(next(folder.glob("*_VV_*.tif")), tiny_products.ramp(12, 14), 1.0)
    assert "uint16, its product says complex ones" in reason(folder, tmp_path / "out")


def test_a_file_per_scan_is_refused(tmp_path: Path) -> None:
    """ScanSAR of level 1.1 has several images of one polarisation: none of them is picked in silence."""
    folder = tiny.palsar2_scene(tmp_path, "1.1")
    image = next(folder.glob("IMG-HH-*.tif"))
    image.with_name(f"{image.stem}-F2.tif").write_bytes(image.read_bytes())
    assert "IMG-HH: are 2 files" in reason(folder, tmp_path / "out")


def test_a_leader_file_is_read_or_refused(tmp_path: Path) -> None:
    """Cut off, blank, NaN or far from any factor that was published: each is refused with its file and field."""
    path = tmp_path / "LED-x"
    path.write_bytes(tiny.palsar2_leader("-83.0000000"))
    assert palsar2.calibration_factor_db(path) == -83.0
    for data in (path.read_bytes()[:4800], b"", b"\x00" * 5000, tiny.palsar2_leader(""), tiny.palsar2_leader("NaN")):
        path.write_bytes(data)
        with pytest.raises(MetadataError, match="radiometric data record") as refusal:
            palsar2.calibration_factor_db(path)
        assert "LED-x" in refusal.value.item
    scene = scene_of(tiny.palsar2_scene(tmp_path, factor="12.0"), tmp_path / "out")
    with pytest.raises(MetadataError, match=r"12\.0 dB is none"):
        laws.constants_of(scene, ["HH"])


def test_tables_of_another_polarisation_are_refused(tmp_path: Path) -> None:
    """A calibration file whose header names another channel than its image, or none for a channel asked for."""
    safe = tiny.sentinel1_slc(tmp_path / "p", swaths=("IW1",))
    table = next((safe / "annotation" / "calibration").glob("calibration-*-vv-*.xml"))
    table.write_text(tiny.calibration_xml("HH", 24, 20))
    scene = scene_of(safe, tmp_path / "out")
    with pytest.raises(MetadataError, match="is HH, the image is VV"):
        laws.constants_of(scene, ["VV"])
    with pytest.raises(MetadataError, match="HH has no calibration file"):
        laws.constants_of(scene, ["HH"])
    for damaged, word in (("<calibration>", "damaged or cut off"),
                          ('<!DOCTYPE c [<!ENTITY a "a">]><c>&a;</c>', "entities"),
                          (tiny.calibration_xml("VV", 24, 20).replace("400.0", "nan"), "not finite"),
                          (tiny.calibration_xml("VV", 24, 20).replace("400.0", "0.0"), "not above 0")):  # fmt: skip
        table.write_text(damaged)
        with pytest.raises(MetadataError, match=word) as refusal:
            laws.constants_of(scene, ["VV"])
        assert table.name in refusal.value.item


def test_tables_that_end_before_the_image_are_refused(tmp_path: Path) -> None:
    """A table that ends more than one vector spacing before the image is an error, never an extrapolation."""
    safe = tiny.sentinel1_slc(tmp_path / "p", swaths=("IW1",))
    for table in (safe / "annotation" / "calibration").glob("calibration-*.xml"):
        table.write_text(tiny.calibration_xml(table.name.split("-")[4].upper(), 8, 20))
    scene = Scene.from_item(register(safe, tmp_path / "out").items[1])  # the second burst, lines 12 to 23
    with pytest.raises(CalibrationError, match="covers -12 to -4"):
        calibrate(read_native(scene), laws.constants_of(scene, ["VV", "VH"]), scene.quantity)


def test_complex_law_wants_an_amplitude(tmp_path: Path) -> None:
    """Complex pixels asked for as power are refused: the square is the caller's."""
    scene = scene_of(tiny.palsar2_scene(tmp_path, "1.1"), tmp_path / "out")
    with pytest.raises(CalibrationError, match="complex pixels become no sigma_nought"):
        calibrate(read_native(scene), laws.constants_of(scene, ["HH", "HV"]), "sigma_nought")
