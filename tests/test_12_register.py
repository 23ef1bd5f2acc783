"""Product folders become valid items; what is damaged, misplaced or unknown is refused with its reason."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import tiny_products as tiny

from catalog.errors import MetadataError
from catalog.register import Registration, load, register, register_dem, register_labels
from catalog.scene import Scene

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sentinel-2": tiny.sentinel2,
    "sentinel-1": tiny.sentinel1,
    "landsat": tiny.landsat,
    "worldview": tiny.worldview,
    "gaofen-3": tiny.gaofen3,
}


def _one(folder: Path, out: Path) -> pystac.Item:
    found = register(folder, out)
    assert found.failed == ()
    (item,) = found.items
    return item


def _reason(folder: Path, out: Path) -> str:
    found = register(folder, out)
    assert found.items == ()
    ((_, reason),) = found.failed
    return reason


def _make(kind: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return MAKERS[kind](folder)


@pytest.mark.parametrize("kind", MAKERS)
def test_each_layout_becomes_a_valid_item(kind: str, tmp_path: Path, validate_offline: Callable[[Any], None]) -> None:
    """An item of each layout passes the core and every extension it declares, and parses as a scene."""
    item = _one(_make(kind, tmp_path / "product"), tmp_path / "out")
    validate_offline(item)
    for path in (tmp_path / "out").rglob("*.json"):
        validate_offline(path)
    scene = Scene.from_item(item)
    assert scene.sensor == kind
    assert not scene.decimated
    assert all(Path(s.href).is_absolute() and Path(s.href).exists() for s in scene.bands.values())
    assert all(Path(p).exists() for p in scene.metadata.values())


def test_sentinel2_item_says_what_the_pixels_mean(tmp_path: Path) -> None:
    """Level, quantity, offset and its source, grid per band, sun, quality layer."""
    scene = Scene.from_item(_one(tiny.sentinel2(tmp_path / "p"), tmp_path / "out"))
    assert (scene.level, scene.quantity, scene.collection) == ("L2A", "surface_reflectance", "sentinel-2-l2a")
    assert list(scene.bands) == ["B02", "B03", "B04", "B08", "B11"]
    assert (scene.bands["B11"].scale, scene.bands["B11"].offset) == (1e-4, -0.1)
    assert scene.bands["B11"].transform == (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_000_000.0)
    assert scene.quality["SCL"].nodata == 0
    assert scene.properties["ringmoe:offset_source"] == "BOA_ADD_OFFSET of MTD_MSIL2A.xml"
    assert scene.properties["view:sun_elevation"] == 64.5
    assert scene.datetime == datetime(2024, 6, 15, 10, 15, 59, 24000, tzinfo=UTC)
    assert set(scene.metadata) == {"product", "tile"}


def test_radar_items_have_no_affine(tmp_path: Path) -> None:
    """A GRD and a complex product name shape and files, never a transform or CRS; pairs of bands are one band."""
    grd = Scene.from_item(_one(_make("sentinel-1", tmp_path / "s1"), tmp_path / "out"))
    assert (grd.geolocation, grd.encoding) == ("radar-grid", "dn")
    assert (grd.bands["VV"].shape, grd.bands["VV"].transform, grd.bands["VV"].crs) == ((30, 40), None, None)
    assert {"annotation-VV", "calibration-VH", "noise-VV", "manifest"} <= set(grd.metadata)
    quad = Scene.from_item(_one(_make("gaofen-3", tmp_path / "gf3"), tmp_path / "out"))
    assert (quad.geolocation, quad.encoding, list(quad.bands)) == ("rpc", "complex", ["HH", "HV", "VH", "VV"])
    assert quad.bands["HV"].complex_pair
    assert quad.bands["HV"].nodata == 0


def test_worldview_bands_share_one_file(tmp_path: Path) -> None:
    """Bands come in the sensor's order and remember their place in the file."""
    scene = Scene.from_item(_one(_make("worldview", tmp_path / "wv"), tmp_path / "out"))
    assert {name: source.index for name, source in scene.bands.items()} == {"B": 3, "G": 2, "R": 1}
    assert len({source.href for source in scene.bands.values()}) == 1


def test_a_decimated_copy_is_registered_as_such(tmp_path: Path) -> None:
    """Files with a quarter of the pixels over the same outline keep their true shape and GSD."""
    scene = Scene.from_item(_one(tiny.landsat(tmp_path / "p", thin=4), tmp_path / "out"))
    assert scene.decimated
    assert scene.bands["B4"].shape == (10, 11)
    assert scene.properties["gsd"] == 120.0
    assert scene.quality["QA_PIXEL"].nodata == 1


def test_checksums_are_of_the_files(tmp_path: Path) -> None:
    """file:checksum is the SHA-256 of each file as a multihash."""
    item = _one(_make("worldview", tmp_path / "p"), tmp_path / "out")
    image = next((tmp_path / "p").glob("*.TIF"))
    assert item.assets["image"].extra_fields["file:checksum"] == "1220" + hashlib.sha256(image.read_bytes()).hexdigest()
    assert item.assets["image"].extra_fields["file:size"] == image.stat().st_size


def test_a_parent_folder_registers_what_it_can_and_lists_what_failed(tmp_path: Path) -> None:
    """Good products are kept, bad ones listed with their folder; progress counts them all."""
    for kind in ("landsat", "worldview", "gaofen-3"):
        _make(kind, tmp_path / "products" / kind)
    (tmp_path / "products" / "empty").mkdir()
    seen: list[tuple[int, int, str]] = []
    found = register(tmp_path / "products", tmp_path / "out", lambda *step: seen.append(step))
    assert [i.collection_id for i in found.items] == ["gaofen-3-l1a", "landsat-c2-l2", "worldview"]
    ((folder, reason),) = found.failed
    assert folder.endswith("empty")
    assert "neither a metadata file we know nor tags" in reason
    assert seen[0] == (0, 4, "empty")
    assert seen[-1] == (4, 4, "")


def test_the_catalogue_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    """Registering again, in one go or one by one, gives the same files; hrefs are relative, none is left over."""

    def digest(out: Path) -> dict[str, str]:
        return {str(p.relative_to(out)): p.read_text() for p in sorted(out.rglob("*")) if p.is_file()}

    folders = [_make(kind, tmp_path / "products" / kind) for kind in ("landsat", "worldview", "gaofen-3")]
    register(folders, tmp_path / "one")
    for folder in reversed(folders):
        register(folder, tmp_path / "two")
    register(folders, tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    text = json.loads(next((tmp_path / "one" / "landsat-c2-l2").glob("*/*.json")).read_text())
    assert text["assets"]["B4"]["href"].startswith("../../../products/landsat/")
    catalogue = pystac.Catalog.from_file(str(tmp_path / "one" / "catalog.json"))
    assert len(list(catalogue.get_items(recursive=True))) == 3
    assert len(load(tmp_path / "one")) == 3


def test_labels_and_heights_are_registered_beside_the_scenes(
    tmp_path: Path, validate_offline: Callable[[Any], None]
) -> None:
    """Classes come from the file's tag, the date from its name; heights say what they count from."""
    names = {"CLASSES": json.dumps({"1": "water", "2": "bare soil"})}
    cover = tiny.write_tif(tmp_path / "landcover_20240615.tif", np.ones((8, 8), "uint8"), tags=names, nodata=0)
    height = tiny.write_tif(tmp_path / "north.tif", np.full((8, 8), 12.5, "float32"), nodata=float("nan"))
    (label,) = register_labels(cover, tmp_path / "out")
    (dem,) = register_dem(height, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.json"):
        validate_offline(path)
    assert label.datetime == datetime(2024, 6, 15, tzinfo=UTC)
    classes = label.assets["labels"].extra_fields["classification:classes"]
    assert [(c["value"], c["name"], c["description"]) for c in classes] == [
        (1, "water", "water"),
        (2, "bare_soil", "bare soil"),
    ]
    assert dem.properties["ringmoe:height_reference"] == "ellipsoid"
    assert dem.assets["height"].extra_fields["nodata"] == "nan"
    assert len(load(tmp_path / "out")) == 2


def test_rasters_of_one_name_in_two_regions_stay_apart(tmp_path: Path) -> None:
    """east/cover_20240615.tif and west/cover_20240615.tif are two items."""
    ones = np.ones((4, 4), "uint8")
    paths = [tiny.write_tif(tmp_path / side / "cover_20240615.tif", ones) for side in ("east", "west")]
    found = register_labels(paths, tmp_path / "out", classes={1: "water"})
    assert [i.id for i in found] == ["east_cover_20240615", "west_cover_20240615"]


def test_two_products_of_one_id_are_not_mixed(tmp_path: Path) -> None:
    """The same product twice is one item; another product of the same id is refused."""
    folders = [_make("landsat", tmp_path / name) for name in ("one", "two")]
    assert len(register(folders, tmp_path / "out").items) == 1
    tiny.write_tif(next(folders[1].glob("*_SR_B4.TIF")), tiny.ramp(40, 44) + 1, 30.0, nodata=0)
    found = register(folders, tmp_path / "out")
    assert len(found.items) == 1
    assert "a different product of the id LC08" in found.failed[0][1]


def test_labels_without_classes_or_date_are_refused(tmp_path: Path) -> None:
    """A class raster without a legend, or without a date in its name, says which it lacks."""
    plain = tiny.write_tif(tmp_path / "landcover_20240615.tif", np.ones((8, 8), "uint8"))
    with pytest.raises(MetadataError, match="its classes are not known"):
        register_labels(plain, tmp_path / "out")
    with pytest.raises(MetadataError, match="its date is not known"):
        register_labels(plain.rename(tmp_path / "cover.tif"), tmp_path / "out", classes={1: "water"})


def test_a_missing_band_is_refused(tmp_path: Path) -> None:
    """A file that the metadata lists and the folder lacks is named."""
    for kind, pattern in (("sentinel-2", "*_B04_10m.tif"), ("landsat", "*_SR_B4.TIF"), ("gaofen-3", "*_HV_*.tiff")):
        folder = _make(kind, tmp_path / kind)
        next(folder.rglob(pattern)).unlink()
        reason = _reason(folder, tmp_path / "out")
        assert reason.startswith("a file is missing")
        assert "B04" in reason or "SR_B4" in reason or "HV" in reason


def test_a_truncated_band_is_refused(tmp_path: Path) -> None:
    """A file cut off in transfer is named; nothing of the product is registered."""
    folder = tiny.landsat(tmp_path / "p", rows=200, cols=200)
    path = next(folder.glob("*_SR_B3.TIF"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reason = _reason(folder, tmp_path / "out")
    assert "cut off" in reason or "cannot be read" in reason
    assert "SR_B3" in reason
    assert not (tmp_path / "out").exists()


def test_another_crs_or_outline_is_refused(tmp_path: Path) -> None:
    """A file in another zone, moved by two pixels, or cropped is not what its metadata says."""
    for change in ({"crs": "EPSG:32633"}, {"transform": tiny.from_origin(600_060.0, 5_000_000.0, 30.0, 30.0)}):
        folder = tiny.landsat(tmp_path / str(len(str(change))))
        tiny.write_tif(next(folder.glob("*_SR_B4.TIF")), tiny.ramp(40, 44), 30.0, nodata=0, **change)
        assert "does not lie where its product says" in _reason(folder, tmp_path / "out")
    folder = tiny.landsat(tmp_path / "cropped")
    tiny.write_tif(next(folder.glob("*_SR_B4.TIF")), tiny.ramp(20, 44), 30.0, nodata=0)
    assert "its outline" in _reason(folder, tmp_path / "out")


def test_a_worldview_image_away_from_its_corners_is_refused(tmp_path: Path) -> None:
    """The IMD's corners place the image to two pixels."""
    folder = tiny.worldview(tmp_path / "wv")
    moved = tiny.from_origin(600_020.0, 5_000_000.0, 2.0, 2.0)
    tiny.write_tif(next(folder.glob("*.TIF")), np.stack([tiny.ramp(24, 30)] * 3), transform=moved)
    assert "corners lie" in _reason(folder, tmp_path / "out")


def test_an_invented_affine_on_a_radar_image_is_refused(tmp_path: Path) -> None:
    """A bounding box divided by the shape is no geolocation."""
    safe = tiny.sentinel1(tmp_path / "s1")
    path = next((safe / "measurement").glob("*-vv-*.tiff"))
    tiny.write_tif(path, tiny.ramp(30, 40), 10.0)
    assert "an image in radar geometry cannot have" in _reason(safe, tmp_path / "out")


def test_a_transposed_radar_image_is_recognised(tmp_path: Path) -> None:
    """Lines and samples swapped are called so."""
    safe = tiny.sentinel1(tmp_path / "s1")
    tiny.write_tif(next((safe / "measurement").glob("*-vv-*.tiff")), tiny.ramp(40, 30), None)
    assert "the same transposed" in _reason(safe, tmp_path / "out")


def test_missing_calibration_is_refused(tmp_path: Path) -> None:
    """A GRD without its calibration file cannot become backscatter."""
    safe = tiny.sentinel1(tmp_path / "s1")
    next((safe / "annotation" / "calibration").glob("calibration-*-vh-*.xml")).unlink()
    assert "calibration-s1a-iw-grd-vh" in _reason(safe, tmp_path / "out")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """No such folder: a reason, not a traceback."""
    found: Registration = register(tmp_path / "nowhere", tmp_path / "out")
    assert found.items == ()
    assert found.failed[0][1].startswith("no such folder")


def test_an_item_moves_with_its_products(tmp_path: Path) -> None:
    """Products and catalogue moved together still find each other: hrefs on disk are relative."""
    _make("worldview", tmp_path / "here" / "products" / "wv")
    register(tmp_path / "here" / "products", tmp_path / "here" / "catalog")
    shutil.move(tmp_path / "here", tmp_path / "there")
    (item,) = load(tmp_path / "there" / "catalog")
    assert Path(item.assets["image"].href).exists()


def test_a_folder_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    """The catalogue lies in the folder that was named, and nothing is lost."""
    found = register(tiny.landsat(tmp_path / "product"), tmp_path / "scenes.v2")
    assert len(found.items) == 1
    assert (tmp_path / "scenes.v2" / "catalog.json").exists()
    assert not (tmp_path / "catalog.json").exists()
