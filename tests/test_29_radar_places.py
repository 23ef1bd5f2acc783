"""Radar images placed pixel by pixel and tile by tile: range-Doppler there and back, what a cube keeps of relief."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import box as rectangle
from test_29_geolocation import EAST, NORTH, circular

from catalog import cube
from catalog.calibrate.constants import AmplitudeFactor, BackscatterConstant
from catalog.errors import GeolocationError
from catalog.geocode import Dem, RadarGrid, image_coordinates, incidence_angle, place_by_orbit
from catalog.grid import Tile
from catalog.ingest import build, ingest
from catalog.ledger import Ledger
from catalog.quantify import Reading, look
from catalog.scene import BandSource, Scene
from catalog.search import Raster
from catalog.units import Unit

WHEN = datetime(2024, 1, 1, tzinfo=UTC)


def ground_grid() -> RadarGrid:
    """The circular orbit with a polynomial to ground range that changes in time."""
    return circular(
        conversion_time_s=np.array([15.0, 25.0]),
        conversion_origin_m=np.array([830_000.0, 830_000.0]),
        conversion_coefficients=np.array([[0.0, 1.6, 1e-7], [100.0, 1.6, 1e-7]]),
    )


@pytest.mark.parametrize(
    "grid", [circular(), circular(bistatic_reference_s=5.9e-3), circular(looks_right=False), ground_grid()]
)
def test_every_pixel_has_a_place_that_leads_back_to_it(grid: RadarGrid) -> None:
    """Slant and ground range, left and right, with and without the bulk bistatic correction: to 0.001 pixel."""
    for height_m in (-300.0, 4000.0):
        longitude, latitude, height = place_by_orbit(grid, (70, 120), height_m, origin=(1000, 1200))
        line, pixel = image_coordinates(grid, longitude.values, latitude.values, height.values.astype(float))
        np.testing.assert_allclose(line, np.broadcast_to(longitude.y.values[:, None], line.shape), atol=1e-3)
        np.testing.assert_allclose(pixel, np.broadcast_to(longitude.x.values, line.shape), atol=1e-3)
        assert longitude.attrs["interpolation_error_m"] < 1e-3


def slope(path: Path, metres_per_metre: float = 0.1) -> str:
    """Heights that rise eastwards from 500 m at the tile's edge, 30 m pixels, 60 km wide."""
    data = np.broadcast_to(500 + metres_per_metre * 30 * (np.arange(2000) - 1000), (2000, 2000)).astype("float32")
    profile = {"driver": "GTiff", "width": 2000, "height": 2000, "count": 1, "dtype": "float32", "crs": "EPSG:32631"}
    place = Affine(30, 0, EAST - 30_015, 0, -30, NORTH + 30_000)
    with rasterio.open(path, "w", transform=place, **profile) as out:
        out.write(data, 1)
    return str(path)


def test_on_a_dem_place_and_height_agree(tmp_path: Path) -> None:
    """On a plane every pixel's height is the plane's at its place to 0.1 m, and it leads back to its pixel to 0.02."""
    grid = circular()
    longitude, latitude, height = place_by_orbit(
        grid, (60, 80), [Dem(slope(tmp_path / "dem.tif"), "ellipsoid")], origin=line_of_tile(grid)
    )
    x, _ = Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True).transform(longitude.values, latitude.values)
    np.testing.assert_allclose(height.values, 500 + 0.1 * (x - EAST), atol=0.1)
    line, pixel = image_coordinates(grid, longitude.values, latitude.values, height.values.astype(float))
    assert np.abs(line - longitude.y.values[:, None]).max() < 0.02
    assert np.abs(pixel - longitude.x.values).max() < 0.02


def line_of_tile(grid: RadarGrid) -> tuple[int, int]:
    lon, lat = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(EAST + 500, NORTH - 500)
    line, pixel = image_coordinates(grid, np.array([lon]), np.array([lat]), 500.0)
    return int(line[0]), int(pixel[0])


def test_ranges_that_do_not_reach_the_ground_are_refused() -> None:
    """An image whose first samples are nearer than the ground."""
    near = RadarGrid.in_slant_range(
        (circular().orbit_time_s, circular().orbit_position_m, circular().orbit_velocity_m_s),
        (15.0, 1.5e-3, 100), (400_000.0, 10.0, 100),
    )  # fmt: skip
    with pytest.raises(GeolocationError, match="have no place") as caught:
        place_by_orbit(near, (40, 40), 0.0)
    assert all((caught.value.item, caught.value.enough, caught.value.todo))


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detected and complex images of the circular orbit, calibrated by one constant."""
    detected = SimpleNamespace(
        calibration=lambda scene, bands: BackscatterConstant(dict.fromkeys(bands, -20.0), "test"),
        geometry=lambda scene: circular(),
    )
    complex_ = SimpleNamespace(
        calibration=lambda scene, bands: AmplitudeFactor(dict.fromkeys(bands, 2.0), "test"),
        geometry=lambda scene: circular(),
    )
    monkeypatch.setitem(sys.modules, "catalog.formats.detected_of_test", detected)
    monkeypatch.setitem(sys.modules, "catalog.formats.complex_of_test", complex_)


def scene(href: str, **more: Any) -> Scene:
    around = rectangle(4.2, 1.1, 4.6, 1.5)
    known: dict[str, Any] = {
        "id": "pass", "href": "pass", "sensor": "sentinel-1", "collection": "c", "datetime": WHEN, "platform": "p",
        "level": "GRD", "format": "detected_of_test", "quantity": "sigma_nought", "geolocation": "radar-grid",
        "encoding": "dn", "geometry": around.__geo_interface__, "bbox": around.bounds,
        "bands": {"VV": BandSource("VV", href, nodata=0.0)}, "quality": {}, "metadata": {}, "checksums": {},
        "decimated": False, "properties": {},
    }  # fmt: skip
    return Scene(**{**known, **more})


def image(path: Path) -> str:
    """All of the circular orbit's image at DN 10: sigma nought 1."""
    profile = {"driver": "GTiff", "width": 9000, "height": 9000, "count": 1, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(path, "w", tiled=True, **profile) as out:
        out.write(np.full((9000, 9000), 10, "uint8"), 1)
    return str(path)


def unit(tmp_path: Path, dems: tuple[Raster, ...] = (), flattened: bool = False) -> Unit:
    tile = Tile("t", GeoBox((80, 90), Affine(10, 0, EAST, 0, -10, NORTH), "EPSG:32631"))
    found = scene(image(tmp_path / "image.tif"))
    return Unit("sentinel-1", tile, (found,), "2024", None, Reading(dems=dems, flattened=flattened))


def heights(path: Path) -> Raster:
    around = rectangle(4.2, 1.1, 4.6, 1.5).__geo_interface__
    return Raster("heights", slope(path), "sum", around, WHEN, WHEN, None, (), "ellipsoid")


def test_a_cube_without_a_dem_says_how_far_the_ground_lies_off(tmp_path: Path, formats: None) -> None:
    """The note is in the cube's notes and provenance, and in its item."""
    ledger = Ledger(tmp_path / "catalog")
    item = ingest(unit(tmp_path), ledger)
    path = ledger.item_path("cubes", item["id"]).parent / item["assets"]["cube"]["href"]
    dataset = cube.open(path.resolve())
    note = dataset.attrs["notes"][0]
    assert note.startswith("placed on the ellipsoid: ground 100 m above it lies ")
    assert dataset.attrs["provenance"]["pass"]["heights"] == note
    assert note in str(item)
    assert "layover" not in dataset


def test_a_cube_with_a_dem_keeps_angles_and_masks(tmp_path: Path, formats: None) -> None:
    """Layers (time, y, x) survive the store; the flattened cube is gamma nought by the plane's closed form."""
    dem = heights(tmp_path / "dem.tif")
    ledger = Ledger(tmp_path / "catalog")
    item = ingest(unit(tmp_path, (dem,)), ledger)
    again = cube.open(ledger.item_path("cubes", item["id"]).parent / item["assets"]["cube"]["href"])
    direct = look(unit(tmp_path, (dem,)).scenes[0], unit(tmp_path, (dem,)).tile, Reading(dems=(dem,)))
    for name in ("incidence_angle", "local_incidence_angle", "layover", "shadow"):
        assert again[name].dims == ("time", "y", "x")
        np.testing.assert_array_equal(again[name].values[0], direct.layers[name].values)
        assert item["properties"]["cube:variables"][name]["dimensions"] == ["time", "y", "x"]
    assert again["incidence_angle"].attrs["units"] == "degree"
    np.testing.assert_allclose(again["data"].values, 1.0, rtol=1e-5)
    record = again.attrs["provenance"]["pass"]
    assert (record["dem"], record["layover_share"], record["shadow_share"]) == (["heights"], 0.0, 0.0)
    flat = build(unit(tmp_path, (dem,), flattened=True), tmp_path / "c.zarr")
    assert flat.attrs["quantity"] == "gamma_nought"
    assert "Small 2011" in flat.attrs["provenance"]["pass"]["terrain_flattened"]
    theta = np.radians(again["incidence_angle"].values[0])
    tilted = np.tan(np.radians(again["local_incidence_angle"].values[0])) / np.tan(theta) / np.cos(theta)
    assert np.median(np.abs(flat["data"].values[0, 0] / tilted - 1)) < 0.01
    assert unit(tmp_path, (dem,), flattened=True).id != unit(tmp_path, (dem,)).id


def test_flattening_without_a_dem_is_refused(tmp_path: Path, formats: None) -> None:
    """Four parts, naming the scene."""
    with pytest.raises(GeolocationError, match="without terrain") as caught:
        build(unit(tmp_path, flattened=True), tmp_path / "c.zarr")
    assert caught.value.item == "pass"
    assert all((caught.value.enough, caught.value.todo))


def test_a_complex_image_in_slant_range_keeps_its_geometry(tmp_path: Path, formats: None) -> None:
    """Every pixel has its place by orbit and height; without a DEM the displacement is told."""
    profile = {"driver": "GTiff", "width": 60, "height": 50, "count": 1, "dtype": "complex64"}
    with rasterio.open(tmp_path / "slc.tif", "w", **profile) as out:
        out.write(np.full((50, 60), 3 + 4j, "complex64"), 1)
    found = look(
        scene(
            str(tmp_path / "slc.tif"), format="complex_of_test", encoding="complex", quantity="sigma_nought_amplitude"
        ),
        None,
    )
    assert np.allclose(found.data.values, 6 + 8j)
    assert found.geolocation is not None
    place = found.geolocation["longitude"].values, found.geolocation["latitude"].values
    line, pixel = image_coordinates(circular(), *place, 0.0)
    np.testing.assert_allclose(line[:, 0], np.arange(50), atol=1e-3)
    np.testing.assert_allclose(pixel[0], np.arange(60), atol=1e-3)
    angle = incidence_angle(circular(), place[0][25:26, :1], place[1][25:26, :1], 0.0)[0, 0]
    assert f"lies {100 / np.tan(np.radians(angle)):.0f} m off" in found.notes[0]
    assert found.provenance["geolocation"] == "range-Doppler from orbit"
