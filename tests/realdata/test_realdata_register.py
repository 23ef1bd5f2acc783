"""Real products are registered from their folders, served, found again and read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from own_scenes import search

from catalog.read import read, read_native, read_quality
from catalog.register import Registration, register
from catalog.scene import Scene
from catalog.search import labels
from catalog.serve import served

REAL = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata"))
FOLDERS = ("landsat8_l2sp_stac", "s2_l1c_t55jgf_250m", "sen1floods11_spain", "slc_capella_quadpol")
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real products are not at {REAL}")


@pytest.fixture(scope="module")
def registration(tmp_path_factory: pytest.TempPathFactory) -> Registration:
    return register([REAL / name for name in FOLDERS], tmp_path_factory.mktemp("real") / "catalog")


@pytest.fixture(scope="module")
def scenes(registration: Registration) -> dict[str, Scene]:
    return {i.id: Scene.from_item(i) for i in registration.items if i.collection_id != "labels"}


def _own_grid(scene: Scene, band: str) -> GeoBox:
    source = scene.bands[band]
    assert source.shape is not None
    assert source.transform is not None
    return GeoBox(source.shape, Affine(*source.transform), source.crs)


def _of(scenes: dict[str, Scene], sensor: str, start: str) -> Scene:
    return next(s for s in scenes.values() if s.sensor == sensor and s.id.startswith(start))


def test_all_four_folders_become_valid_items(
    registration: Registration, validate_offline: Callable[[Any], None]
) -> None:
    """Five scenes and a label, each valid; nothing fails."""
    assert registration.failed == ()
    assert len(registration.items) == 6
    for item in registration.items:
        validate_offline(item)


def test_decimated_copies_are_registered_as_such(scenes: dict[str, Scene]) -> None:
    """Landsat at 515 m and Sentinel-2 at 250 m keep their true shape and say that they are decimated."""
    landsat, sentinel2 = _of(scenes, "landsat", "LC08"), _of(scenes, "sentinel-2", "S2B")
    assert landsat.decimated
    assert landsat.bands["B4"].shape == (512, 512)
    assert landsat.properties["gsd"] == pytest.approx(516.855469)
    assert sentinel2.decimated
    assert list(sentinel2.bands)[8] == "B8A"
    assert sentinel2.properties["gsd"] == pytest.approx(250.113895)
    assert sentinel2.properties["ringmoe:offset_source"] == "baseline 02.06"


def test_the_chip_keeps_its_two_days_and_its_label(registration: Registration, scenes: dict[str, Scene]) -> None:
    """Sentinel-1 of 17 September in decibels, Sentinel-2 of the 18th, a label with two classes."""
    radar, optical = _of(scenes, "sentinel-1", "Spain"), _of(scenes, "sentinel-2", "Spain")
    assert (radar.encoding, radar.quantity, f"{radar.datetime:%Y-%m-%d}") == ("db", "sigma_nought", "2019-09-17")
    assert (optical.level, f"{optical.datetime:%Y-%m-%d}") == ("L1C", "2019-09-18")
    assert (optical.bands["B12"].index, optical.bands["B12"].scale, optical.bands["B12"].offset) == (13, 1e-4, 0.0)
    values = read_native(radar).values
    assert -35 < np.nanmean(values) < 0
    with served(Path(registration.items[0].self_href).parents[2]) as url:
        (label,) = labels(url, bbox=radar.bbox)
        found = search(url, bbox=radar.bbox, start="2019-09-17", end="2019-09-17", sensors=["sentinel-1", "sentinel-2"])
    assert [(c.value, c.name) for c in label.classes] == [(0, "not water"), (1, "water")]
    assert [s.id for s in found] == [radar.id]


def test_capella_channels_and_their_assumed_period(scenes: dict[str, Scene]) -> None:
    """A scale factor per channel, HV-VH coherence 0.478, and a period that says it is assumed."""
    scene = _of(scenes, "capella", "slc")
    assert scene.bands["HV"].scale == 5.9878522918909676e-05
    assert scene.properties["ringmoe:datetime_source"].startswith("assumed")
    assert (scene.properties["start_datetime"], scene.properties["end_datetime"]) == (
        "2019-08-04T00:00:00Z",
        "2019-08-31T23:59:59Z",
    )
    pixels = read_native(scene, ["HV", "VH"]).values
    power = np.sqrt((np.abs(pixels) ** 2).mean(axis=(1, 2)).prod())
    assert abs((pixels[0] * pixels[1].conj()).mean()) / power == pytest.approx(0.478, abs=5e-4)


def test_both_engines_read_real_products_alike(scenes: dict[str, Scene]) -> None:
    """Landsat GeoTIFF and Sentinel-2 JPEG 2000 by nearest neighbour: the same numbers, the same holes."""
    for sensor, start, band in (("landsat", "LC08", "B4"), ("sentinel-2", "S2B", "B02")):
        scene = _of(scenes, sensor, start)
        grid = _own_grid(scene, band)
        one = read(scene, grid, [band], resampling="nearest").values
        other = read(scene, grid, [band], resampling="nearest", engine="stackstac").values
        np.testing.assert_array_equal(one, other)
        assert 0.1 < np.isfinite(one).mean() < 0.9


def test_fill_of_the_quality_layer_is_where_the_bands_have_none(scenes: dict[str, Scene]) -> None:
    """Landsat's QA_PIXEL seldom says fill where a band has data (the copy was decimated band by band)."""
    scene = _of(scenes, "landsat", "LC08")
    grid = _own_grid(scene, "B4")
    fill = read_quality(scene, grid, "QA_PIXEL").values & 1
    hole = np.isnan(read(scene, grid, ["B4"], resampling="nearest").values[0])
    assert (fill[~hole] == 0).mean() > 0.99
