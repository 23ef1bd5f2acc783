"""The main job on real products: cubes in physical units, valid items, and a water map held against a hand label."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from catalog import cube

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import Finished, ringmoe

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[3] / "shared" / "realdata"))
FOLDERS = ("landsat8_l2sp_stac", "s2_l1c_t55jgf_250m", "sen1floods11_spain", "slc_capella_quadpol")
pytestmark = pytest.mark.skipif(not REALDATA.exists(), reason=f"no real products at {REALDATA}: set RINGMOE_REALDATA")

WEST, MIDDLE, EAST, SOUTH, NORTH = -0.7819, -0.7589, -0.7358, 38.0828, 38.1289
HALVES = (f"{WEST},{SOUTH},{MIDDLE},{NORTH}", f"{MIDDLE},{SOUTH},{EAST},{NORTH}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """All four folders in one run, without labels being learned: Sen1Floods11's are, on its western half."""
    home = tmp_path_factory.mktemp("real") / "home"
    words = [w for name in FOLDERS for w in ("--products", str(REALDATA / name))]
    done = ringmoe(home, "run", *words, f"--train-bbox={HALVES[0]}", f"--map-bbox={HALVES[1]}", "--steps", "2")
    assert done.code == 0, done.said
    return home, done


def dataset(home: Path, start: str) -> Any:
    """The cube whose item id begins so."""
    (item,) = home.glob(f"catalog/cubes/{start}*/*.json")
    return cube.open(item)


def band(path: str) -> np.ndarray:
    with rasterio.open(REALDATA / path) as source:
        return source.read(1).astype(np.float64)


@pytest.mark.xdist_group("real-products")
def test_landsat_is_the_published_scale(run: tuple[Path, Finished]) -> None:
    """Surface reflectance is DN x 2.75e-5 - 0.2 to float32, NaN where DN is 0, on the decimated copy's own grid."""
    found = dataset(run[0], "landsat_")
    dn = band("landsat8_l2sp_stac/LC08_L2SP_005009_20150710_20200908_02_T2_SR_B4.TIF")
    wanted = np.where(dn == 0, np.nan, dn * 2.75e-5 - 0.2)
    np.testing.assert_allclose(found["data"].sel(band="B4").values[0], wanted, rtol=0, atol=2e-7)
    assert found.attrs["quantity"] == "surface_reflectance"
    assert found.attrs["gsd_m"] == pytest.approx(516, abs=1)


@pytest.mark.xdist_group("real-products")
def test_sentinel2_of_an_old_baseline_has_no_offset(run: tuple[Path, Finished]) -> None:
    """Baseline 02.06: top-of-atmosphere reflectance is DN / 10000, and the cube says why."""
    found = dataset(run[0], "sentinel-2_native_32755")
    dn = band("s2_l1c_t55jgf_250m/B03.jp2")
    np.testing.assert_allclose(
        found["data"].sel(band="B03").values[0], np.where(dn == 0, np.nan, dn / 1e4), rtol=0, atol=1e-6
    )
    (provenance,) = found.attrs["provenance"].values()
    assert provenance["source"] == "baseline 02.06 (TILE_ID of metadata.xml)"
    assert provenance["offset_confidence"] == "certain"
    assert set(provenance["offset_dn"].values()) == {0.0}


@pytest.mark.xdist_group("real-products")
def test_decibels_become_power(run: tuple[Path, Finished]) -> None:
    """Sigma nought is 10 ^ (dB / 10), not interpolated."""
    found = dataset(run[0], "sentinel-1_native_4326")
    db = band("sen1floods11_spain/S1/Spain_7370579_S1Hand.tif")
    np.testing.assert_allclose(found["data"].sel(band="VV").values[0], 10 ** (db / 10), rtol=1e-5)


@pytest.mark.xdist_group("real-products")
def test_capella_keeps_its_phase(run: tuple[Path, Finished]) -> None:
    """Each channel is the stored number times its own scale factor, phase and rotated grid kept."""
    found = dataset(run[0], "capella_")
    with rasterio.open(REALDATA / "slc_capella_quadpol/sar_hv.tif") as source:
        stored, affine = source.read(1), source.transform
        scale = json.loads(source.tags()["TIFFTAG_IMAGEDESCRIPTION"])["collect"]["image"]["scale_factor"]
    np.testing.assert_allclose(found["data"].sel(band="HV").values[0], stored * scale, rtol=1e-5)
    assert found.rio.transform() == affine


@pytest.mark.xdist_group("real-products")
def test_every_item_of_the_run_is_valid(run: tuple[Path, Finished], validate_offline: Callable[[Any], None]) -> None:
    """Cubes, models, the map and the registered scenes pass their extensions' schemas."""
    items = [p for p in run[0].glob("catalog/*/*/*.json") if p.stem == p.parent.name]
    items += [p for p in run[0].glob("scenes/*/*/*.json") if p.stem == p.parent.name]
    assert len(items) >= 5 + 3 + 1 + 6
    for path in items:
        validate_offline(json.loads(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [pytest.param(0, id="fitted-west"), pytest.param(1, id="fitted-east")])
def test_water_is_mapped_on_the_half_not_learned_from(fitted: int, tmp_path: Path) -> None:
    """Against the hand label the map finds water (IoU above 0.5) and beats calling everything dry."""
    words = ("--products", str(REALDATA / "sen1floods11_spain"), "--steps", "30", "--json", str(tmp_path / "s.json"))
    done = ringmoe(
        tmp_path / "home", "run", *words, f"--train-bbox={HALVES[fitted]}", f"--map-bbox={HALVES[1 - fitted]}"
    )
    assert done.code == 0, done.said
    (path,) = (tmp_path / "home").glob("catalog/maps/*/attempt-*/score.json")
    score = json.loads(path.read_text())
    figures = {k: score[k] for k in ("accuracy", "iou", "pixels")} | {"baseline": score["baseline"]["accuracy"]}
    print(f"water, {fitted=}: {figures}")
    assert score["pixels"] > 100_000
    dry = sum(score["confusion"][0]) / score["pixels"]
    assert score["accuracy"] > dry
    assert score["iou"]["water"] > 0.5
