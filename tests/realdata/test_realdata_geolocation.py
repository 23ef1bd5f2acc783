"""Real orbits, polynomials, heights and items: annotated points reproduced, sarsen and GDAL agree, lies are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.warp
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.transformer import TransformerGroup
from rasterio.enums import Resampling

from catalog.errors import GeolocationError
from catalog.geocode import (
    Dem,
    RadarGrid,
    ellipsoidal_heights,
    gamma_area,
    geocode_by_rpc,
    image_of,
    incidence_angle,
    look_on_terrain,
    place_by_rpc,
    sight,
    vertical_reference,
)
from catalog.geocode.affine import refuse_item
from catalog.geocode.range_doppler import SPEED_OF_LIGHT_M_S
from catalog.geocode.terrain import radar_axes, surface
from catalog.metadata import sentinel1
from catalog.register import register_dem

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[3] / "shared" / "realdata"))
SAFE, TRIPLET = REALDATA / "s1_safe_metadata", REALDATA / "height_s2p_triplet"
ITEMS = REALDATA / "stac_items"
pytestmark = pytest.mark.skipif(not SAFE.exists(), reason=f"no real products at {REALDATA}: set RINGMOE_REALDATA")
ROME_UNDULATION_M = 48.5


def slant_grid(note: sentinel1.Annotation) -> RadarGrid:
    """The grid of a swath as if its lines were one sequence of times; samples are those of the image."""
    lines = round((note.stop - note.start).total_seconds() / note.azimuth_time_interval_s) + 1
    spacing_m = SPEED_OF_LIGHT_M_S / 2 / note.range_sampling_rate_hz
    return RadarGrid.in_slant_range(
        (note.orbit_time_s, note.orbit_position_m, note.orbit_velocity_m_s),
        (0.0, note.azimuth_time_interval_s, lines),
        (SPEED_OF_LIGHT_M_S / 2 * note.slant_range_time_s, spacing_m, note.samples),
    )


@pytest.mark.parametrize("swath", ["iw1-slc-vv", "iw1-slc-vh", "iw2-slc-vh"])
def test_annotated_points_of_a_real_slc_are_reproduced(swath: str) -> None:
    """Zero-Doppler time to 0.1 line (0.02) and sample to 0.1 pixel (0.001), at 15 to 2,955 m; angles to 0.05 degrees.

    A burst's line is its time since the burst's start; the swath's bursts overlap, so time is what can be compared.
    """
    note = sentinel1.read_annotation(next(SAFE.glob(f"*SLC*/annotation/*{swath}*.xml")))
    points, grid = note.geolocation, slant_grid(note)
    place = points.longitude_deg, points.latitude_deg, points.height_m
    seen = sight(grid, *place)
    late = (seen.time_s - points.azimuth_time_s) / note.azimuth_time_interval_s
    sample = (seen.slant_m - grid.conversion_origin_m[0]) / grid.range_pixel_spacing_m
    assert np.abs(late).max() < 0.1
    assert np.abs(sample - points.pixel).max() < 0.1
    assert points.height_m.max() > 2000
    np.testing.assert_allclose(incidence_angle(grid, *place), points.incidence_deg, atol=0.05)


def rome(tmp_path: Path) -> tuple[GeoBox, xr.DataArray]:
    """The real DEM of Rome above the ellipsoid, by a raster of its undulation, on UTM at 30 m."""
    geoid = tmp_path / "undulation.tif"
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "float32", "crs": "EPSG:4326"}
    with rasterio.open(geoid, "w", transform=Affine(0.1, 0, 12.3, 0, -0.1, 42.2), **profile) as out:
        out.write(np.full((4, 4), ROME_UNDULATION_M, "float32"), 1)
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True).transform(12.4999, 42.0001)
    box = GeoBox((300, 230), Affine(30, 0, round(x) - 115 * 30, 0, -30, round(y) + 150 * 30), "EPSG:32633")
    return box, ellipsoidal_heights([Dem(str(SAFE / "Rome-30m-DEM.tif"), "EGM96", str(geoid))], box)


def test_a_real_dem_says_its_geoid_and_is_refused_without_the_grid(tmp_path: Path) -> None:
    """Rome's DEM is EGM96 by its CRS, its item says so; PROJ has no grid here, so that using it is refused."""
    path = SAFE / "Rome-30m-DEM.tif"
    with rasterio.open(path) as source:
        assert vertical_reference(source.crs.to_wkt()) == "EGM96"
    (item,) = register_dem(path, tmp_path / "scenes")
    assert item.properties["ringmoe:height_reference"] == "EGM96"
    box, height = rome(tmp_path)
    below = ellipsoidal_heights([Dem(str(path), "ellipsoid")], box)
    np.testing.assert_allclose(height - below, ROME_UNDULATION_M, atol=1e-4)
    if not TransformerGroup("EPSG:9707", "EPSG:4979", allow_ballpark=False).transformers:
        with pytest.raises(GeolocationError, match="us_nga_egm96_15"):
            ellipsoidal_heights([Dem(str(path), "EGM96")], box)


def test_sarsen_sees_rome_where_and_as_large_as_we_do(tmp_path: Path) -> None:
    """Time to 0.02 line, range to 0.01 sample, facets' area across the look to 0.3 and its sums in cells to 2 per cent.

    Real orbit and DEM; the sums in the median, because sarsen shares facets out to cells bilinearly, we by a spline.
    """
    apps, orbit = pytest.importorskip("sarsen.apps"), pytest.importorskip("sarsen.orbit")
    scene, radiometry = pytest.importorskip("sarsen.scene"), pytest.importorskip("sarsen.radiometry")
    note = sentinel1.read_annotation(next(SAFE.glob("*SLC*/annotation/*iw1-slc-vv*.xml")))
    grid, (box, height) = slant_grid(note), rome(tmp_path)
    assert not bool(height.isnull().any())
    dem = height.drop_vars("spatial_ref", errors="ignore").isel(y=slice(None, None, -1))
    ecef = scene.convert_to_dem_ecef(dem, source_crs="EPSG:32633")
    times = note.reference_time + (note.orbit_time_s * 1e9).astype("timedelta64[ns]")
    position = xr.DataArray(
        note.orbit_position_m, dims=("azimuth_time", "axis"), coords={"azimuth_time": times, "axis": [0, 1, 2]}
    )
    fitted = orbit.OrbitPolyfitInterpolator.from_position(position)
    wanted = ["azimuth_time", "slant_range_time", "gamma_area"]
    theirs = apps.simulate_acquisition(ecef, fitted, wanted, zero_doppler_distance=1e-3)
    theirs = theirs.isel(y=slice(None, None, -1))
    seen, area, _ = surface(grid, box, height.values.astype(float), slice(0, 300))
    late_s = (theirs.azimuth_time.values - note.reference_time) / np.timedelta64(1, "s") - seen.time_s
    assert np.abs(late_s).max() < 0.02 * note.azimuth_time_interval_s
    further_m = theirs.slant_range_time.values * SPEED_OF_LIGHT_M_S / 2 - seen.slant_m
    assert np.abs(further_m).max() < 0.01 * grid.range_pixel_spacing_m
    inner = slice(2, -2)
    ours = np.maximum(np.sum(seen.towards * area, axis=-1), 0)[inner, inner]
    error = ours / theirs.gamma_area.values[inner, inner] - 1
    assert np.median(np.abs(error)) < 3e-3  # they take two triangles to a facet, we central differences
    assert ours.sum() == pytest.approx(float(theirs.gamma_area.values[inner, inner].sum()), rel=1e-3)
    found = look_on_terrain(grid, box, height)
    ratio = gamma_area(grid, box, height, found["shadow"])
    interval_s, spacing_m = 18 * note.azimuth_time_interval_s, 90 / 3.0
    speed_m_s = 90 / _seconds_of(grid, box, 90.0)
    weights = radiometry.gamma_weights_bilinear(
        theirs, float(theirs.slant_range_time.min()), theirs.azimuth_time.values.min(),
        2 * spacing_m / SPEED_OF_LIGHT_M_S, interval_s, spacing_m, interval_s * speed_m_s,
    )  # fmt: skip
    sine = np.sin(np.radians(found.incidence_angle.values))
    away = (weights.values * sine / ratio.values)[20:-20, 20:-20]
    assert np.median(away) == pytest.approx(1.0, abs=0.02)


def _seconds_of(grid: RadarGrid, box: GeoBox, metres: float) -> float:
    return metres * float(np.linalg.norm(radar_axes(grid, box, 50.0)[2]))


def triplet_image() -> tuple[np.ndarray, Any]:
    with rasterio.open(TRIPLET / "input" / "img_01.tif") as source:
        return source.read(1).astype("float32"), source.rpcs


def test_real_polynomials_there_and_back() -> None:
    """Forward after inverse on every pixel of a real image: below 0.05 px (1e-6 px)."""
    image, rpcs = triplet_image()
    longitude, latitude, height = place_by_rpc(rpcs, image.shape, float(rpcs.height_off))
    line, sample = image_of(rpcs, longitude.values, latitude.values, height.values.astype(float))
    rows, columns = np.indices(image.shape)
    assert np.abs(line - rows).max() < 0.05
    assert np.abs(sample - columns).max() < 0.05


@pytest.mark.parametrize("with_dem", [True, False])
def test_gdals_rpc_warp_of_a_real_image_agrees(tmp_path: Path, with_dem: bool) -> None:
    """Onto the real surface model's grid, on its heights or at the height offset: GDAL is less than 0.05 px away."""
    image, rpcs = triplet_image()
    with rasterio.open(TRIPLET / "expected" / "dsm.tif") as source:
        box = GeoBox(source.shape, source.transform, "EPSG:32631")
        heights = source.read(1)
    filled = np.where(np.isfinite(heights), heights, np.nanmedian(heights)).astype("float32")
    profile = {"driver": "GTiff", "width": 865, "height": 855, "count": 1, "dtype": "float32", "crs": "EPSG:32631"}
    path = str(tmp_path / "filled.tif")
    with rasterio.open(path, "w", transform=box.affine, **profile) as out:
        out.write(filled, 1)
    height = ellipsoidal_heights([Dem(path, "ellipsoid")], box) if with_dem else None
    ours = geocode_by_rpc(xr.DataArray(image[None], dims=("band", "y", "x"), coords={"band": ["P"]}), rpcs, box, height)
    options = {"RPC_DEM": path} if with_dem else {"RPC_HEIGHT": rpcs.height_off}
    theirs = np.full(box.shape, np.nan, "float32")
    rasterio.warp.reproject(
        image, theirs, rpcs=rpcs, src_crs="EPSG:4326", dst_crs="EPSG:32631", dst_transform=box.affine,
        dst_nodata=np.nan, resampling=Resampling.bilinear, tolerance=0.0, **options,
    )  # fmt: skip
    down, right = np.gradient(theirs)
    seen = np.isfinite(ours.values[0]) & np.isfinite(down) & np.isfinite(right)
    assert seen.mean() > 0.5
    matrix = np.stack([right[seen], down[seen]], 1)
    shift = np.linalg.lstsq(matrix, (ours.values[0] - theirs)[seen], rcond=None)[0]
    assert np.abs(shift).max() < 0.05


def test_the_item_of_a_real_provider_that_invents_an_affine_is_refused() -> None:
    """Earth Search's Sentinel-1 GRD: its proj:transform is its bounding box over its shape, that transposed."""
    items = json.loads((ITEMS / "extracted" / "sentinel-1-grd.json").read_text())
    beside = next((ITEMS / "stactools_sentinel1" / "grd").glob("*IW_GRDH*/*.json"))
    for found in (*(items if isinstance(items, list) else items["features"]), json.loads(beside.read_text())):
        with pytest.raises(GeolocationError, match="bounding box divided by its shape") as caught:
            refuse_item(pystac.Item.from_dict(found))
        assert all((caught.value.item, caught.value.enough, caught.value.todo))
    rtc = next((ITEMS / "stactools_sentinel1" / "rtc").glob("*/*/*/*.json"))
    refuse_item(pystac.Item.from_dict(json.loads(rtc.read_text())))
    optical = json.loads((ITEMS / "extracted" / "sentinel-2-l2a.json").read_text())
    refuse_item(pystac.Item.from_dict((optical if isinstance(optical, list) else optical["features"])[0]))
