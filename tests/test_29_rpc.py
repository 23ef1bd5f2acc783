"""Images in their own geometry come onto a tile by rational polynomials and a DEM, calibrated, in one resampling."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.rpc import RPC
from shapely.geometry import box as rectangle

from catalog.calibrate.constants import BackscatterConstant, ReflectanceScale
from catalog.errors import GeolocationError
from catalog.geocode import geocode_by_rpc, image_of, place_by_rpc
from catalog.grid import Tile
from catalog.quantify import Reading, look, match_image
from catalog.sandbox import rpc as independent
from catalog.scene import BandSource, Scene
from catalog.search import Raster
from catalog.sensors import Quality
from catalog.units import plan

LON, LAT = 12.0, 42.0
ONE = [1.0, *[0.0] * 19]
SCALE, OFFSET = 1e-4, -0.1


def tilted(**changes: Any) -> RPC:
    """Line = (42 - latitude) 1e4 + 500, sample = (longitude - 12) 1e4 + 400 + 0.04 height; 11 m pixels."""
    terms = {
        "height_off": 500.0, "height_scale": 1000.0, "lat_off": LAT, "lat_scale": 0.1, "long_off": LON,
        "long_scale": 0.1, "line_off": 500.0, "line_scale": 1000.0, "samp_off": 420.0, "samp_scale": 1000.0,
        "line_den_coeff": ONE, "samp_den_coeff": ONE,
        "line_num_coeff": [0.0, 0.0, -1.0, 0.0, *[0.0] * 16], "samp_num_coeff": [0.0, 1.0, 0.0, 0.04, *[0.0] * 16],
    }  # fmt: skip
    return RPC(**{**terms, **changes})


def tile(n: int = 60, east_m: float = 0.0) -> Tile:
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True).transform(LON, LAT)
    return Tile("t", GeoBox((n, n), Affine(10, 0, round(x) + east_m, 0, -10, round(y)), "EPSG:32633"))


def lonlat(grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    a = grid.affine
    column, row = np.meshgrid(np.arange(grid.shape[1]) + 0.5, np.arange(grid.shape[0]) + 0.5)
    return Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(a.c + a.a * column, a.f + a.e * row)


def write(path: Path, data: np.ndarray, transform: Affine | None = None, crs: str | None = None, **more: Any) -> str:
    bands = data if data.ndim == 3 else data[None]
    size = {"width": bands.shape[2], "height": bands.shape[1], "count": len(bands), "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", transform=transform, crs=crs, **size, **more) as out:
        out.write(bands)
    return str(path)


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two formats: an image with an RPC and reflectance by scale and offset; a mosaic with one constant."""
    image = SimpleNamespace(
        calibration=lambda scene, bands: ReflectanceScale(
            dict.fromkeys(bands, SCALE), dict.fromkeys(bands, OFFSET), "test"
        ),
        geometry=lambda scene: tilted(),
    )
    mosaic = SimpleNamespace(
        calibration=lambda scene, bands: BackscatterConstant(dict.fromkeys(bands, -83.0), "test"),
        geometry=lambda s: None,
    )
    monkeypatch.setitem(sys.modules, "catalog.formats.image_of_test", image)
    monkeypatch.setitem(sys.modules, "catalog.formats.mosaic_of_test", mosaic)


def scene(href: str, sensor: str, bands: tuple[str, ...], **more: Any) -> Scene:
    sources = {b: BandSource(b, href, i, nodata=0.0) for i, b in enumerate(bands, 1)}
    west, south, east, north = LON - 0.2, LAT - 0.2, LON + 0.2, LAT + 0.2
    known: dict[str, Any] = {
        "id": "scene", "href": "scene", "sensor": sensor, "collection": "c",
        "datetime": datetime(2024, 1, 1, tzinfo=UTC),
        "platform": "p", "level": "L1", "format": "image_of_test", "quantity": "toa_reflectance", "geolocation": "rpc",
        "encoding": "dn", "geometry": rectangle(west, south, east, north).__geo_interface__,
        "bbox": (west, south, east, north), "bands": sources, "quality": {}, "metadata": {}, "checksums": {},
        "decimated": False, "properties": {},
    }  # fmt: skip
    return Scene(**{**known, **more})


def dem(path: Path, slope_m_per_degree: float = 20_000.0, reference: str = "ellipsoid") -> Raster:
    step = 0.001
    longitude = LON - 0.1 + (np.arange(200) + 0.5) * step
    data = np.broadcast_to(300 + slope_m_per_degree * (longitude - LON), (200, 200)).astype("float32")
    href = write(path, data, Affine(step, 0, LON - 0.1, 0, -step, LAT + 0.1), "EPSG:4326")
    geometry = rectangle(LON - 0.1, LAT - 0.1, LON + 0.1, LAT + 0.1).__geo_interface__
    when = datetime(2000, 1, 1, tzinfo=UTC)
    return Raster(path.stem, href, "sum", geometry, when, when, None, (), reference)


def ramp_image(path: Path, hole: tuple[slice, slice] | None = None) -> str:
    """DN = 2000 + line + 2 sample, of 1000 x 1000 pixels, without georeference."""
    line, sample = np.indices((1000, 1000))
    dn = (2000 + line + 2 * sample).astype("uint16")
    if hole:
        dn[hole] = 0
    return write(path, np.stack([dn, dn + (dn > 0), dn]), nodata=0)


def test_forward_projection_is_what_independent_code_says() -> None:
    """Random polynomials of all 20 terms: line and sample to 1e-9 of the sandbox's own evaluation."""
    rng = np.random.default_rng(5)
    top, bottom = rng.normal(size=(2, 20)), np.concatenate([np.ones((2, 1)), 0.01 * rng.normal(size=(2, 19))], axis=1)
    other = independent.Rpc(
        np.array([500.0, 420, LAT, LON, 500]), np.array([1000.0, 1000, 0.1, 0.1, 1000]),
        (top[0], bottom[0]), (top[1], bottom[1]),
    )  # fmt: skip
    ours = tilted(
        line_num_coeff=list(top[0]), samp_num_coeff=list(top[1]),
        line_den_coeff=list(bottom[0]), samp_den_coeff=list(bottom[1]),
    )  # fmt: skip
    place = rng.uniform(LON - 0.1, LON + 0.1, 99), rng.uniform(LAT - 0.1, LAT + 0.1, 99), rng.uniform(-400, 1400, 99)
    for one, two in zip(image_of(ours, *place), other.project(*place), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def test_places_far_outside_or_without_height_have_no_pixel() -> None:
    """More than one and a half scales away, and at NaN heights."""
    line, sample = image_of(tilted(), LON + np.array([0.16, 0, 0]), np.full(3, LAT), np.array([0, np.nan, 0]))
    assert np.isnan(line).tolist() == np.isnan(sample).tolist() == [True, True, False]


def test_an_image_comes_onto_a_tile_in_physical_units(tmp_path: Path, formats: None) -> None:
    """On sloping heights reflectance is the law of the ramp at (line, sample) of algebra, to 1e-6, shift folded in."""
    found_in = scene(ramp_image(tmp_path / "i.tif"), "worldview", ("B", "G"))
    heights = dem(tmp_path / "dem.tif")
    found = look(found_in, tile(), Reading(dems=(heights,)))
    lon, lat = lonlat(tile().geobox)
    height_m = 300 + 20_000 * (lon - LON)
    line, sample = (LAT - lat) * 1e4 + 500, (lon - LON) * 1e4 + 400 + 0.04 * height_m
    expected = (2000 + line + 2 * sample) * SCALE + OFFSET
    np.testing.assert_allclose(found.data.values[0], expected, atol=1e-5)
    np.testing.assert_allclose(found.data.values[1] - found.data.values[0], SCALE, atol=1e-6)
    assert found.quantity == "toa_reflectance"
    assert (found.quality == int(Quality.CLEAR)).all()
    assert found.provenance["geolocation"] == "RPC"
    assert found.provenance["dem"] == ["dem"]
    assert found.provenance["height_reference"] == {"dem": "ellipsoid"}
    moved = look(found_in, tile(), Reading(dems=(heights,)), shift_m=(20.0, -30.0)).data.values
    np.testing.assert_allclose(moved[0, 3:, 2:], found.data.values[0, :-3, :-2], atol=2e-3)
    again = look(found_in, tile(east_m=-20.0), Reading(dems=(heights,))).data.values
    assert np.abs(moved[0, 3:, :] - again[0, :-3, :]).max() < 1e-4


def test_without_a_dem_the_height_offset_is_taken_and_told(tmp_path: Path, formats: None) -> None:
    """At 500 m; 100 m more would be 0.04 x 100 samples of 1e-4 degrees: 33 m; note and record both say so."""
    found = look(scene(ramp_image(tmp_path / "i.tif"), "worldview", ("B", "G")), tile())
    lon, lat = lonlat(tile().geobox)
    expected = 2000 + (LAT - lat) * 1e4 + 500 + 2 * ((lon - LON) * 1e4 + 420)
    np.testing.assert_allclose(found.data.values[0], expected * SCALE + OFFSET, atol=1e-5)
    note = found.notes[0]
    assert note == found.provenance["heights"]
    assert "500 m above the ellipsoid" in note
    metres = 0.04 * 100 * 1e-4 * 111_320 * np.cos(np.radians(LAT))
    assert f"lies {metres:.0f} m off" in note
    assert found.provenance["dem"] is None


def test_no_data_of_an_image_stays_a_hole(tmp_path: Path, formats: None) -> None:
    """DN 0 mixes into nothing: what is left is the ramp, and the hole has its size."""
    whole = scene(ramp_image(tmp_path / "a.tif"), "worldview", ("B", "G"))
    holed = scene(ramp_image(tmp_path / "b.tif", (slice(515, 530), slice(425, 450))), "worldview", ("B", "G"))
    one, two = look(whole, tile()).data.values[0], look(holed, tile()).data.values[0]
    seen = np.isfinite(two)
    assert 250 < (~seen).sum() < 700
    np.testing.assert_allclose(two[seen], one[seen], atol=SCALE * 3)


def test_where_no_dem_reaches_there_is_no_data_and_a_note(tmp_path: Path, formats: None) -> None:
    """A tile half beyond the DEM's edge."""
    edge = Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True).transform(LON + 0.1, LAT)[0]
    over = tile(40, east_m=round(edge - tile().geobox.affine.c) - 200)
    found = look(
        scene(ramp_image(tmp_path / "i.tif"), "worldview", ("B", "G")), over, Reading(dems=(dem(tmp_path / "d.tif"),))
    )
    assert any("no DEM reaches" in n for n in found.notes)
    assert 0.3 < float(found.data.isnull().mean()) <= 1.0


def test_matching_and_planning_take_images_too(tmp_path: Path, formats: None) -> None:
    """A scene placed by RPC has an image to match, and its unit carries every DEM that touches the tile."""
    image = scene(ramp_image(tmp_path / "i.tif"), "worldview", ("B", "G", "R"))
    heights = dem(tmp_path / "dem.tif")
    assert match_image(image, tile().geobox, Reading(dems=(heights,))).usable.all()
    far = Raster(
        "far", "x", "y", rectangle(50, 0, 51, 1).__geo_interface__, heights.start, heights.end, None, (), "ellipsoid"
    )
    area = Geometry(rectangle(LON, LAT, LON + 0.01, LAT + 0.01).__geo_interface__, "EPSG:4326")
    units = plan([image], area, "x", tile_m=2560.0, how=Reading(dems=(far, heights)))
    assert all(unit.how.dems == (heights,) for unit in units)


def test_a_geocoded_mosaic_is_resampled_as_power(tmp_path: Path, formats: None) -> None:
    """gamma nought = DN^2 10^(-8.3) before the mean: half a pixel aside it is the mean of powers, not of amplitudes."""
    rng = np.random.default_rng(2)
    box = tile(40).geobox
    dn = rng.integers(1000, 9000, (2, 42, 42)).astype("uint16")
    href = write(tmp_path / "m.tif", dn, box.affine, str(box.crs), nodata=0)
    corners = box.extent.to_crs("EPSG:4326").boundingbox.bbox
    kind: dict[str, Any] = {"format": "mosaic_of_test", "quantity": "gamma_nought", "geolocation": "affine"}
    kind |= {"geometry": rectangle(*corners).__geo_interface__, "bbox": corners}
    found = look(scene(href, "sentinel-1", ("VV", "VH"), **kind), tile(40))
    power = dn.astype(float) ** 2 * 10**-8.3
    np.testing.assert_allclose(found.data.values, power[:, :40, :40], rtol=1e-6)
    half = look(scene(href, "sentinel-1", ("VV", "VH"), **kind), tile(40, east_m=5.0)).data.values
    np.testing.assert_allclose(half, (power[:, :40, :40] + power[:, :40, 1:41]) / 2, rtol=1e-5)
    assert found.provenance["law"] == "DN^2 10^(K / 10)"


@pytest.mark.parametrize(
    "changes",
    [{"lat_scale": 0.0}, {"samp_scale": float("nan")}, {"line_den_coeff": [0.0] * 20}, {"samp_num_coeff": [1.0] * 19}],
)
def test_polynomials_that_place_nothing_are_refused(changes: dict[str, Any]) -> None:
    """A scale of zero or no number, a zero denominator, nineteen coefficients; in four parts, both ways of placing."""
    power = xr.DataArray(np.ones((1, 9, 9), "float32"), dims=("band", "y", "x"), coords={"band": ["P"]})
    for attempt in (
        lambda: geocode_by_rpc(power, tilted(**changes), tile().geobox, None),
        lambda: place_by_rpc(tilted(**changes), (9, 9), 100.0),
    ):
        with pytest.raises(GeolocationError, match="polynomials cannot place") as caught:
            attempt()
        assert all((caught.value.item, caught.value.enough, caught.value.todo))


def test_gdals_own_warp_agrees(tmp_path: Path) -> None:
    """The same image, polynomials and height through GDAL's RPC transformer: shifted by less than 0.02 px."""
    rng = np.random.default_rng(8)
    rough = rasterio.warp
    image = np.zeros((400, 400), "float32")
    noise = rng.normal(size=(50, 50)).astype("float32")
    rough.reproject(noise, image, src_transform=Affine.scale(8), dst_transform=Affine.identity(), src_crs="EPSG:32633",
                    dst_crs="EPSG:32633", resampling=Resampling.cubic)  # fmt: skip
    model = tilted(line_off=200.0, samp_off=200.0)
    grid = tile(200, east_m=-1000).geobox
    values = xr.DataArray(image[None], dims=("band", "y", "x"), coords={"band": ["P"]})
    ours = geocode_by_rpc(values, model, grid, None).values[0]
    theirs = np.full((200, 200), np.nan, "float32")
    rough.reproject(image, theirs, rpcs=model, src_crs="EPSG:4326", dst_crs="EPSG:32633", dst_transform=grid.affine,
                    dst_nodata=np.nan, resampling=Resampling.bilinear, RPC_HEIGHT=500.0, tolerance=0.0)  # fmt: skip
    down, right = np.gradient(theirs)
    seen = np.isfinite(ours) & np.isfinite(down) & np.isfinite(right)
    assert seen.sum() > 5000
    shift = np.linalg.lstsq(np.stack([right[seen], down[seen]], 1), (ours - theirs)[seen], rcond=None)[0]
    assert np.abs(shift).max() < 0.02
