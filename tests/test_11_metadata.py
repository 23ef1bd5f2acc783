"""Metadata files become numbers, and a field that is missing, damaged or hostile is refused by name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tiny_products as tiny

from catalog.errors import AssetError, MetadataError
from catalog.metadata import gaofen3, landsat, raster, sentinel1, sentinel1_luts, sentinel2, worldview, xml

REAL = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[2] / "shared" / "realdata"))
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real products are not at {REAL}")


def _mtl_as_text(path: Path) -> Path:
    tree = json.loads(path.read_text())
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for name, group in tree["LANDSAT_METADATA_FILE"].items():
        lines += [f"  GROUP = {name}", *(f'    {k} = "{v}"' for k, v in group.items()), f"  END_GROUP = {name}"]
    out = path.with_suffix(".txt")
    out.write_text("\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END"]))
    return out


def _mtl_as_xml(path: Path) -> Path:
    tree = json.loads(path.read_text())["LANDSAT_METADATA_FILE"]
    groups = (f"<{n}>{''.join(f'<{k}>{v}</{k}>' for k, v in g.items())}</{n}>" for n, g in tree.items())
    out = path.with_suffix(".xml")
    out.write_text(f"<LANDSAT_METADATA_FILE>{''.join(groups)}</LANDSAT_METADATA_FILE>")
    return out


def test_sentinel2_product_and_tile_give_offset_sun_and_grid(tmp_path: Path) -> None:
    """Offsets come per band with the field they came from; the tile knows the grid of each resolution."""
    safe = tiny.sentinel2(tmp_path)
    product = sentinel2.read_product(safe / "MTD_MSIL2A.xml")
    tile = sentinel2.read_tile(next(safe.glob("GRANULE/*/MTD_TL.xml")))
    found = sentinel2.radiometry(product, tile)
    assert (product.level, product.baseline, product.platform) == ("L2A", "05.10", "sentinel-2a")
    assert found.offsets["B8A"] == -1000.0
    assert found.quantification == 10000.0
    assert found.source == "BOA_ADD_OFFSET of MTD_MSIL2A.xml"
    assert (tile.mgrs, tile.sun_zenith_deg, tile.sun_azimuth_deg) == ("32TQM", 25.5, 145.25)
    assert tile.grids[20].transform == (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_000_000.0)


def test_baseline_decides_where_no_offset_is_listed_never_the_date(tmp_path: Path) -> None:
    """Without a list, baseline 02.06 means no offset whatever the date, and 05.10 is refused."""
    safe = tiny.sentinel2(tmp_path, offset=None)
    product = sentinel2.read_product(safe / "MTD_MSIL2A.xml")
    with pytest.raises(MetadataError, match=r"BOA_ADD_OFFSET.*baseline 05\.10"):
        sentinel2.radiometry(product, None)
    old = replace(product, baseline="02.06")
    found = sentinel2.radiometry(old, None)
    assert set(found.offsets.values()) == {0.0}
    assert found.source == "baseline 02.06"


@real
def test_real_sentinel2_product_has_minus_thousand_in_every_band() -> None:
    """Baseline 05.09 of a real L2A product: -1000 in all thirteen bands, sun as in its tile metadata."""
    folder = REAL / "stac_items" / "stactools_sentinel2"
    product = sentinel2.read_product(next(folder.rglob("MTD_MSIL2A.xml")))
    tile = sentinel2.read_tile(next(folder.rglob("MTD_TL.xml")))
    found = sentinel2.radiometry(product, tile)
    assert dict(found.offsets) == dict.fromkeys(sentinel2.BAND_NAMES, -1000.0)
    assert (product.baseline, product.relative_orbit, tile.crs) == ("05.09", 29, "EPSG:32701")
    assert tile.sun_zenith_deg == pytest.approx(38.4174390)
    assert tile.grids[10].rows == 10980


@real
def test_real_tile_of_baseline_0206_needs_no_offset() -> None:
    """A tile XML alone that names N02.06 gives offset 0, and says by which rule."""
    tile = sentinel2.read_tile(REAL / "s2_l1c_t55jgf_250m" / "metadata.xml")
    found = sentinel2.radiometry(None, tile)
    assert found.source == "baseline 02.06"
    assert set(found.offsets.values()) == {0.0}
    assert (tile.platform, tile.level, tile.mgrs) == ("sentinel-2b", "L1C", "55JGF")


def test_landsat_says_the_same_in_three_encodings(tmp_path: Path) -> None:
    """JSON, text and XML of one product give equal values; corners are pixel centres, the affine an outer corner."""
    path = next(tiny.landsat(tmp_path).glob("*_MTL.json"))
    found = landsat.read_mtl(path)
    assert found == landsat.read_mtl(_mtl_as_text(path)) == landsat.read_mtl(_mtl_as_xml(path))
    assert found.transform == (30.0, 0.0, 600_000.0, 0.0, -30.0, 5_000_000.0)
    assert (found.mult["B4"], found.add["B4"], found.level1_mult["B4"]) == (2.75e-5, -0.2, 2e-5)
    assert found.acquired == datetime(2021, 7, 10, 10, 5, 11, 123456, tzinfo=UTC)


@real
def test_real_landsat_agrees_in_three_encodings() -> None:
    """The real L2SP product: published scale and offset, 8821 x 8791 pixels, the sun at 40.0015903 degrees."""
    found = [landsat.read_mtl(p) for p in sorted((REAL / "landsat8_l2sp_stac").glob("*_MTL.*"))]
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
    assert (found[0].lines, found[0].samples, found[0].sun_elevation_deg) == (8821, 8791, 40.0015903)
    assert (found[0].mult["B1"], found[0].add["B1"]) == (2.75e-5, -0.2)


def test_sentinel1_annotation_times_count_from_the_first_line(tmp_path: Path) -> None:
    """Orbit and conversion times are seconds from the first line, arrays are (n, xyz)."""
    safe = tiny.sentinel1(tmp_path)
    note = sentinel1.read_annotation(next((safe / "annotation").glob("*-vv-*.xml")))
    assert note.orbit_position_m.shape == note.orbit_velocity_m_s.shape == (6, 3)
    assert note.orbit_time_s[0] == pytest.approx(-23.794457)
    assert note.conversions[0].azimuth_time_s == pytest.approx(0.08995)
    assert (note.polarisation, note.lines, note.samples) == ("VV", 30, 40)
    manifest = sentinel1.read_manifest(safe / "manifest.safe")
    assert manifest.footprint_lonlat[0] == (10.2, 45.0)
    assert (manifest.platform, manifest.polarisations) == ("sentinel-1a", ("VV", "VH"))


@real
def test_real_sentinel1_metadata() -> None:
    """The real GRD annotation and SLC tables: sizes, first values, constant."""
    safe = REAL / "s1_safe_metadata"
    note = sentinel1.read_annotation(next(safe.glob("*GRDH*/annotation/*vv*.xml")))
    assert (note.lines, note.samples, len(note.conversions)) == (16685, 25788, 28)
    assert note.geolocation.line.shape == (210,)
    assert note.radar_frequency_hz == pytest.approx(5.405000454334350e9)
    tables = safe / "S1B_IW_SLC__1SDV_20210401T052622_20210401T052650_026269_032297_EFA4.SAFE/annotation/calibration"
    gain = sentinel1_luts.read_calibration(next(tables.glob("calibration-*iw1*vv*.xml")))
    assert gain.sigma_nought.shape == (30, 542)
    assert gain.lines[0] == -1042
    assert gain.sigma_nought[0, :3] == pytest.approx([331.923, 331.86, 331.7972])
    assert gain.absolute_constant == pytest.approx(1.393)
    noise = sentinel1_luts.read_noise(next(tables.glob("noise-*iw1*vv*.xml")))
    assert (len(noise.range_vectors), noise.azimuth_vectors[0].lut.size) == (10, 1359)


def test_noise_of_the_old_format_has_range_vectors_only(tmp_path: Path) -> None:
    """noiseVectorList, used before March 2018, is read as range vectors without azimuth factors."""
    safe = tiny.sentinel1(tmp_path)
    noise = sentinel1_luts.read_noise(next((safe / "annotation" / "calibration").glob("noise-*vv*.xml")))
    assert [v.line for v in noise.range_vectors] == [0, 30]
    assert noise.range_vectors[0].lut.tolist() == [20.0, 30.0]
    assert noise.azimuth_vectors == ()


def test_calibration_vectors_on_different_pixels_lose_nothing(tmp_path: Path) -> None:
    """Vectors listed at other pixels are read on the union, where a piecewise linear table keeps every value."""
    safe = tiny.sentinel1(tmp_path)
    path = next((safe / "annotation" / "calibration").glob("calibration-*vv*.xml"))
    text = path.read_text()
    cut = text.rindex('<pixel count="2">0 40</pixel><sigmaNought count="2">400.0 500.0')
    path.write_text(text[:cut] + text[cut:].replace("0 40</pixel>", "0 20</pixel>", 1))
    gain = sentinel1_luts.read_calibration(path)
    assert gain.pixels.tolist() == [0, 20, 40]
    assert gain.sigma_nought.tolist() == [[400, 450, 500], [400, 500, 500]]


def test_gaofen3_constants_differ_per_polarisation(tmp_path: Path) -> None:
    """QualifyValue and CalibrationConst come per polarisation; one that says NULL was not taken."""
    path = next(tiny.gaofen3(tmp_path).glob("*.meta.xml"))
    found = gaofen3.read_meta(path)
    assert found.qualify == {"HH": 3214.5, "HV": 912.25, "VH": 905.0, "VV": 2988.75}
    assert found.constant_db["HV"] == 10.25
    assert (found.level, found.lines, found.samples) == ("L1A", 16, 20)
    path.write_text(path.read_text().replace("<HV>10.25</HV>", "<HV>NULL</HV>"))
    assert gaofen3.read_meta(path).polarisations == ("HH", "VH", "VV")


def test_worldview_bands_keep_the_order_of_the_image(tmp_path: Path) -> None:
    """Groups give the raster bands' order; cloud cover becomes per cent, the zone a CRS."""
    found = worldview.read_imd(next(tiny.worldview(tmp_path).glob("*.IMD")))
    assert [b.name for b in found.bands] == ["R", "G", "B"]
    assert found.bands[0].abs_cal_factor / found.bands[0].effective_bandwidth_um == pytest.approx(1.1e-2 / 5.74e-2)
    assert (found.crs, found.cloud_cover, found.sun_elevation_deg) == ("EPSG:32632", 5.0, 55.25)
    assert found.acquired == datetime(2010, 5, 1, 10, 30, 45, 123450, tzinfo=UTC)


BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><product>&b;</product>'


@pytest.mark.parametrize(
    ("content", "says"),
    [(BOMB, "declares entities"), ("<product><a>", "cut off"), ("<other/>", "root element"), (None, "cannot be read")],
    ids=["entity bomb", "cut off", "another document", "missing"],
)
def test_xml_that_cannot_be_trusted_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    """Bombs, halves, strangers and absences end in a MetadataError that names the file."""
    path = tmp_path / "meta.xml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MetadataError, match=says) as caught:
        xml.read_xml(path, "product")
    assert str(path) in caught.value.item
    assert caught.value.enough
    assert caught.value.todo


@pytest.mark.parametrize(
    ("find", "put", "field"),
    [
        ("<heightspace>5.12</heightspace>", "", "heightspace"),
        ("<heightspace>5.12<", "<heightspace>nan<", "heightspace"),
        ("<heightspace>5.12<", "<heightspace>wide<", "heightspace"),
        ("<HH>3214.5</HH>", "<HH>0</HH>", "QualifyValue"),
        ("<productLevel>1A<", "<productLevel>9<", "productLevel"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, find: str, put: str, field: str) -> None:
    """A field that is missing, not finite, no number, zero or unknown is named with its file."""
    path = next(tiny.gaofen3(tmp_path).glob("*.meta.xml"))
    path.write_text(path.read_text().replace(find, put))
    with pytest.raises(MetadataError, match=field) as caught:
        gaofen3.read_meta(path)
    assert path.name in caught.value.item


@pytest.mark.parametrize(("find", "put"), [("400.0 500.0", "400.0"), ("400.0 500.0", "0 500.0")])
def test_a_gain_table_that_is_short_or_zero_is_refused(tmp_path: Path, find: str, put: str) -> None:
    """A list shorter than it says, or a gain of zero, would divide pixels by nothing."""
    safe = tiny.sentinel1(tmp_path)
    path = next((safe / "annotation" / "calibration").glob("calibration-*vv*.xml"))
    path.write_text(path.read_text().replace(find, put))
    with pytest.raises(MetadataError, match="sigmaNought"):
        sentinel1_luts.read_calibration(path)


@pytest.mark.parametrize("ending", ["json", "txt", "imd"])
def test_a_text_file_cut_in_half_is_refused(tmp_path: Path, ending: str) -> None:
    """Half an MTL or IMD is refused, whichever half is missing."""
    path = next(tiny.landsat(tmp_path).glob("*_MTL.json"))
    if ending == "txt":
        path = _mtl_as_text(path)
    if ending == "imd":
        path = next(tiny.worldview(tmp_path).glob("*.IMD"))
    path.write_text(path.read_text()[: path.stat().st_size // 2])
    with pytest.raises(MetadataError, match=r"cut off|missing"):
        worldview.read_imd(path) if ending == "imd" else landsat.read_mtl(path)


@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_tiff_is_refused(tmp_path: Path, compress: str, share: float) -> None:
    """A TIFF that ends before its last block is found from its directory, compressed or not."""
    data = np.random.default_rng(1).integers(1, 9999, (3, 64, 64)).astype("uint16")
    path = tiny.write_tif(tmp_path / "whole.tif", data, compress=compress, tiled=True, blockxsize=16, blockysize=16)
    raster.check_complete(str(path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(AssetError, match="cannot be read") as caught:
        raster.check_complete(str(path))
    assert str(path) in caught.value.item


def test_a_missing_raster_is_refused(tmp_path: Path) -> None:
    """A file that is not there is called missing."""
    with pytest.raises(AssetError, match="missing"):
        raster.read_header(str(tmp_path / "none.tif"))


@real
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_jpeg2000_is_refused(tmp_path: Path, share: float) -> None:
    """OpenJPEG decodes half a code stream without a word; the missing end marker gives it away."""
    whole = (REAL / "s2_l1c_t55jgf_250m" / "B03.jp2").read_bytes()
    path = tmp_path / "B03.jp2"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AssetError, match="code stream has no end"):
        raster.check_complete(str(path))
