"""The real Landsat product against the scale that USGS publishes, exactly, and its own words in three encodings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio

from catalog import laws
from catalog.calibrate.constants import calibrate, provenance
from catalog.calibrate.reflectance import earth_sun_distance_au
from catalog.metadata import landsat
from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene

REAL = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata"))
PRODUCT = REAL / "landsat8_l2sp_stac"
pytestmark = pytest.mark.skipif(not PRODUCT.is_dir(), reason=f"the real product is not at {PRODUCT}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    (item,) = register(PRODUCT, tmp_path_factory.mktemp("landsat") / "catalog").items
    return Scene.from_item(item)


def test_every_pixel_is_the_published_scale_of_its_count(scene: Scene) -> None:
    """DN 0.0000275 - 0.2 (USGS, Collection 2 level 2) in all seven bands to one step of float32; 0 is no data."""
    bands = list(scene.bands)
    assert bands == [f"B{n}" for n in range(1, 8)]
    found = calibrate(read_native(scene, bands), laws.constants_of(scene, bands), scene.quantity)
    assert found.attrs["quantity"] == "surface_reflectance"
    measured = 0
    for band in bands:
        with rasterio.open(scene.bands[band].href) as src:
            counts = src.read(1)
        rho = found.sel(band=band).values
        assert (np.isnan(rho) == (counts == 0)).all()
        exact = (counts[counts != 0].astype(np.float64) * 0.0000275 - 0.2).astype(np.float32)
        np.testing.assert_allclose(rho[counts != 0], exact, rtol=0, atol=np.spacing(np.float32(1)))
        measured += exact.size
    assert measured > 500_000


def test_negatives_are_kept(scene: Scene) -> None:
    """DN below 7273 is below zero, and stays so."""
    found = calibrate(read_native(scene, ["B7"]), laws.constants_of(scene, ["B7"]), scene.quantity)
    with rasterio.open(scene.bands["B7"].href) as src:
        dark = ((src.read(1) < 7273) & (src.read(1) > 0)).sum()
    assert int((found < 0).sum()) == dark


def test_the_record_names_the_file_and_its_numbers(scene: Scene) -> None:
    """Source, scale and offset as the MTL has them, whichever encoding is read."""
    record = provenance(laws.constants_of(scene, ["B4"]))
    assert record["source"].endswith("_MTL.json")
    assert (record["scale"], record["offset"]) == ({"B4": 2.75e-5}, {"B4": -0.2})
    found = [landsat.read_mtl(p) for p in sorted(PRODUCT.glob("*_MTL.*"))]
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_the_suns_distance_is_the_one_usgs_computed() -> None:
    """EARTH_SUN_DISTANCE of the MTL to 2e-6 astronomical units, by time alone."""
    found = landsat.read_mtl(next(PRODUCT.glob("*_MTL.txt")))
    assert earth_sun_distance_au(found.acquired) == pytest.approx(found.earth_sun_distance_au, abs=2e-6)
