"""The sandbox's radiometric products: registered, calibrated by the laws, held to what their counts are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from radiometry_truth import errors_of, scene_of
from scipy.ndimage import gaussian_filter, map_coordinates

from catalog import quantify
from catalog.errors import CatalogError
from catalog.formats import geometry_of
from catalog.geocode import place_by_rpc
from catalog.geocode.heights import ELLIPSOID, Dem
from catalog.geocode.range_doppler import image_coordinates
from catalog.grid import Tile
from catalog.sandbox import nisar, optics, orbit, products, sentinel1_slc, specimen, truth
from catalog.sandbox.products import Specimen, make_radiometry
from catalog.sandbox.specimen import Day
from catalog.sensors import SENSORS, Quality

SIZE_PX = 64
L1TP_STEP = 2.5e-5
"""REFLECTANCE_MULT over the sine of the sun's elevation, which differs from pixel to pixel."""
SPECIMENS = (
    ("worldview", "LV2A"),
    ("sentinel-2", "L2A"),
    ("landsat", "L1TP"),
    ("landsat", "L2SP"),
    ("gaofen-2", "L1A"),
    ("planetscope", "SR"),
    ("planetscope", "L3B"),
    ("cbers-4a", "L4-DN"),
    ("sentinel-1", "GRD"),
    ("sentinel-1-slc", "SLC"),
    ("alos-2", "MOSAIC"),
    ("gaofen-3", "L1A"),
    ("capella", "SLC"),
    ("nisar", "RSLC"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the products lie."""
    return tmp_path_factory.mktemp("radiometry")


@pytest.fixture(scope="module")
def made(root: Path) -> Mapping[tuple[str, str], Specimen]:
    """Every product of the smallest region, by sensor and level."""
    return {(s.sensor, s.level): s for s in make_radiometry(root, size_px=SIZE_PX)}


@pytest.fixture(scope="module")
def day() -> Day:
    """The region that the products show."""
    return products.day_of(7, SIZE_PX)


@pytest.fixture(scope="module")
def errors(made: Mapping[tuple[str, str], Specimen], root: Path) -> Callable[[tuple[str, str]], Mapping[str, float]]:
    """Worst errors of a product, reckoned once."""
    return cache(lambda kind: errors_of(made[kind], root / "catalogue"))


def test_there_is_a_product_for_every_row_of_the_table(
    made: Mapping[tuple[str, str], Specimen], errors: Callable[[tuple[str, str]], Mapping[str, float]]
) -> None:
    """No satellite is without a product whose truth is known, and of every product enough is compared."""
    assert set(made) == set(SPECIMENS)
    assert {sensor for sensor, _ in SPECIMENS} == set(SENSORS)
    assert all(errors(kind)["pixels"] > 500 for kind in SPECIMENS)


@pytest.mark.parametrize("kind", SPECIMENS, ids=" ".join)
def test_calibration_finds_what_the_counts_are_worth(
    errors: Callable[[tuple[str, str]], Mapping[str, float]], kind: tuple[str, str]
) -> None:
    """Asked for are 1e-4 of reflectance and 0.05 dB; what is left is single precision and two formulae of the sun."""
    worst = errors(kind)
    assert {"reflectance", "db"} & set(worst)
    assert worst.get("reflectance", 0.0) < 3e-5
    assert worst.get("db", 0.0) < 1e-4
    assert worst.get("relative", 0.0) < 1e-4
    assert worst.get("radians", 0.0) < 1e-6


@pytest.mark.parametrize("kind", SPECIMENS, ids=" ".join)
def test_counts_are_worth_what_was_drawn_within_half_a_count(
    made: Mapping[tuple[str, str], Specimen], kind: tuple[str, str]
) -> None:
    """The truth is no echo of the counts: it lies within rounding of what the land reflects."""
    found = made[kind]
    for band in found.bands:
        worth, drawn, counts = (found.layer(band + part) for part in ("", ".drawn", ".counts"))
        if drawn is None:
            continue
        assert worth is not None
        seen = ~np.isnan(worth)
        worth, drawn = worth[seen], drawn[seen]
        if counts is None:
            step = L1TP_STEP if kind == ("landsat", "L1TP") else np.diff(np.unique(worth.round(9))).min() * 1.01
            assert np.abs(worth - drawn).max() <= step / 2
        elif np.iscomplexobj(worth):
            small = np.abs(drawn - worth) / np.abs(worth) * counts[seen]
            assert np.quantile(small, 0.995) <= np.sqrt(0.5)
        else:
            assert np.abs(np.sqrt(drawn / worth) - 1).max() <= 0.5001 / counts[seen].min()


@pytest.mark.parametrize(
    "kind",
    [("landsat", "L1TP"), ("landsat", "L2SP"), ("planetscope", "SR"), ("cbers-4a", "L4-DN"), ("alos-2", "MOSAIC")],
    ids=" ".join,
)
def test_a_scene_on_its_own_grid_is_the_truth(
    made: Mapping[tuple[str, str], Specimen], root: Path, kind: tuple[str, str]
) -> None:
    """Through the whole of quantify: nothing is moved where the tile is the product's grid, and fill stays no data."""
    found = made[kind]
    scene = scene_of(found, root / "catalogue")
    source = next(iter(scene.bands.values()))
    with rasterio.open(source.href) as src:
        tile = Tile("own", GeoBox(src.shape, src.transform, src.crs))
    look = quantify.look(scene, tile)
    assert look.quantity == found.quantity
    for band in found.bands:
        np.testing.assert_allclose(look.data.sel(band=band).values, found.layer(band), rtol=2e-6, atol=3e-5)
    empty = np.isnan(np.stack([np.asarray(found.layer(b)) for b in found.bands])).any(0)
    assert (look.quality.values[empty] == Quality.NO_DATA).all()
    assert (look.quality.values[~empty] != Quality.NO_DATA).all()


def test_clouds_are_where_the_quality_layer_has_them(made: Mapping[tuple[str, str], Specimen], root: Path) -> None:
    """The square of cloud in the lower right corner of the Landsat products."""
    scene = scene_of(made["landsat", "L2SP"], root / "catalogue")
    with rasterio.open(next(iter(scene.bands.values())).href) as src:
        tile = Tile("own", GeoBox(src.shape, src.transform, src.crs))
    seen = quantify.look(scene, tile).quality.values
    assert seen[-1, -1] == Quality.CLOUD
    assert seen[seen.shape[0] // 2, 0] == Quality.CLEAR


def test_gaofen2_shows_the_ground_where_its_polynomials_place_it(
    made: Mapping[tuple[str, str], Specimen], root: Path, day: Day
) -> None:
    """Pixels placed on the true heights see the land's own reflectance there; at one height they do not."""
    scene = scene_of(made["gaofen-2", "L1A"], root / "catalogue")
    worth = made["gaofen-2", "L1A"].layer("R")
    assert worth is not None
    truth.write_dem(root, day.relief, "heights")
    fine = day.land.grid
    plane = gaussian_filter(day.lit[2].astype(float), 0.35 * 3.24 / fine.step_m)
    to_map = Transformer.from_crs(4326, day.land.region.epsg, always_xy=True)
    alike = []
    heights = [Dem(str(root / "dem" / "heights.tif"), ELLIPSOID)]
    for height in (heights, float(day.relief.height_m.max()) + 200.0):
        longitude, latitude, _ = place_by_rpc(geometry_of(scene), worth.shape, height)
        x, y = to_map.transform(longitude.values, latitude.values)
        where = [(fine.north_m - y) / fine.step_m - 0.5, (x - fine.west_m) / fine.step_m - 0.5]
        red = map_coordinates(plane, where, order=1, mode="nearest")
        want = specimen.through_air(red[None], ["B04"])[0]
        alike.append((np.corrcoef(want.ravel(), worth.ravel())[0, 1], np.abs(want - worth).max()))
    assert alike[0][0] > 0.9999
    assert alike[0][1] < 1e-3
    assert alike[1][0] < 0.9


@pytest.mark.parametrize(
    ("kind", "writer"), [(("sentinel-1-slc", "SLC"), sentinel1_slc), (("nisar", "RSLC"), nisar)], ids=("s1", "nisar")
)
def test_slant_range_images_are_where_their_metadata_place_them(
    made: Mapping[tuple[str, str], Specimen], root: Path, day: Day, kind: tuple[str, str], writer: ModuleType
) -> None:
    """Line and sample of ground points by the registered product are those of the sandbox's own geometry, to 0.02."""
    grid = geometry_of(scene_of(made[kind], root / "catalogue"))
    frame = writer.look_at(day)[0].frame
    places = [a[150:-150:40, 150:-150:40] for a in (day.relief.longitude_deg, day.relief.latitude_deg)]
    height = day.relief.height_m[150:-150:40, 150:-150:40].astype(float)
    line, sample = image_coordinates(grid, *places, height)
    want = frame.project(orbit.ecef(*places, height))
    assert np.abs(line - want[0]).max() < 0.02
    assert np.abs(sample - want[1]).max() < 0.02


def test_the_sun_stands_where_the_almanac_has_it() -> None:
    """Distance at perihelion and aphelion of 2025, 0.98333 and 1.01664 by the almanac, which reckons with the Moon."""
    near, far = (datetime(2025, m, d, h, k, tzinfo=UTC) for m, d, h, k in ((1, 4, 13, 28), (7, 3, 19, 54)))
    assert optics.distance_au(near) == pytest.approx(0.98333, abs=7e-5)
    assert optics.distance_au(far) == pytest.approx(1.01664, abs=7e-5)


def test_the_same_seed_gives_the_same_products(made: Mapping[tuple[str, str], Specimen], tmp_path: Path) -> None:
    """Every raster and metadata file, and every truth, byte by byte."""
    again = make_radiometry(tmp_path, size_px=SIZE_PX)
    assert _digest(tmp_path) == _digest(next(iter(made.values())).truth.parent.parent)
    assert len(again) == len(made)


def test_a_region_that_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    """A size that is no multiple of 32 writes nothing and says which would do."""
    with pytest.raises(CatalogError, match="cannot be drawn") as refused:
        make_radiometry(tmp_path, size_px=100)
    assert "96" in refused.value.todo
    assert not list(tmp_path.iterdir())


def _digest(root: Path) -> dict[str, str]:
    files = [p for part in ("products", "truth") for p in sorted((root / part).rglob("*")) if p.is_file()]
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
