"""No-data never enters a resampled value: random rasters through every resampling; power is resampled as power."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio.warp
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from catalog.errors import GeolocationError
from catalog.geocode import resample_map
from catalog.geocode.sampling import sample

EAST, NORTH = 652_000.0, 142_000.0


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A raster within 0.1 to 0.9 with holes, and a mask of them."""
    shape = tuple(rng.integers(4, 14, 2))
    values = rng.uniform(0.1, 0.9, shape).astype("float32")
    hole = rng.random(shape) < rng.uniform(0, 0.8)
    return values, hole


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_no_data_never_enters_a_sampled_value(resampling: Any) -> None:
    """1,000 random rasters: every value lies within those measured, and a hole says nothing."""
    rng = np.random.default_rng(7)
    for _ in range(1000):
        values, hole = random_case(rng)
        row, column = (rng.uniform(-1.5, n + 0.5, 60) for n in values.shape)
        found = sample(
            xr.DataArray(np.where(hole, np.nan, values)[None], dims=("band", "y", "x")), row, column, resampling
        )
        seen = found[np.isfinite(found)]
        known = values[~hole]
        assert seen.size == 0 or (known.min() - 1e-6 <= seen.min() and seen.max() <= known.max() + 1e-6)


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average", "mode"])
def test_no_data_never_enters_a_warped_value(resampling: str) -> None:
    """1,000 random rasters through the warp of the read engines: a no-data number of 30,000 or of -7 shows nowhere.

    The same raster with another number in its holes gives the same result, whatever the kernel's weights are. Cubic
    may overshoot what was measured, the others not.
    """
    rng = np.random.default_rng(11)
    for _ in range(1000):
        values, hole = random_case(rng)
        if resampling == "mode":
            values = np.ceil(values * 5).astype("float32")
        results = []
        for number in (30_000.0, -7.0):
            out = np.full((12, 12), np.nan, "float32")
            angle = Affine.translation(500_000 + 3, 4_000_000 + 2) @ Affine.scale(0.83, -0.83)
            rasterio.warp.reproject(
                np.where(hole, np.float32(number), values),
                out,
                src_transform=Affine(1, 0, 500_000, 0, -1, 4_000_006),
                src_crs="EPSG:32631",
                src_nodata=number,
                dst_transform=angle,
                dst_crs="EPSG:32631",
                dst_nodata=np.nan,
                resampling=Resampling[resampling],
            )
            results.append(out)
        np.testing.assert_array_equal(*results)
        seen, known = results[0][np.isfinite(results[0])], values[~hole]
        if resampling == "mode" or resampling == "nearest":
            assert np.isin(seen, known).all()
        elif resampling != "cubic" and seen.size:
            assert known.min() - 1e-5 <= seen.min()
            assert seen.max() <= known.max() + 1e-5


def test_geocoded_power_is_resampled_as_power() -> None:
    """On its own grid unchanged; half a pixel aside the mean of powers, rotated or not; a shift is folded in."""
    rng = np.random.default_rng(3)
    power = xr.DataArray(
        rng.exponential(0.1, (2, 40, 50)).astype("float32"), dims=("band", "y", "x"), coords={"band": ["HH", "HV"]},
        attrs={"transform": (10.0, 0, EAST, 0, -10.0, NORTH), "crs": "EPSG:32631", "units": "1"},
    )  # fmt: skip
    power[0, 5, 6] = np.nan
    own = GeoBox((40, 50), Affine(10, 0, EAST, 0, -10, NORTH), "EPSG:32631")
    np.testing.assert_array_equal(resample_map(power, own), power)
    half = resample_map(power, GeoBox((40, 49), Affine(10, 0, EAST + 5, 0, -10, NORTH), "EPSG:32631")).values
    expected = (power.values[1, :, :-1] + power.values[1, :, 1:]) / 2
    np.testing.assert_allclose(half[1], expected, rtol=1e-5)
    moved = resample_map(power, own, shift_m=(20.0, -10.0)).values
    np.testing.assert_array_equal(moved[1, 1:, 2:], power.values[1, :-1, :-2])
    with pytest.raises(GeolocationError, match="no affine"):
        resample_map(power.assign_attrs(transform=None), own)
