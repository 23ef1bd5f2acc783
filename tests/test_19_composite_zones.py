"""Composites hold only what showed the ground; areas per parcel close, and carry the published uncertainty."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Geod

from catalog.composite import composite
from catalog.errors import AssetError, CubeError, GridError, NothingFound
from catalog.sensors import Quality
from catalog.zones import areas, stratified

CLEAR, CLOUD, SNOW, NONE, SHADOW = (
    Quality.CLEAR,
    Quality.CLOUD,
    Quality.SNOW,
    Quality.NO_DATA,
    Quality.SHADOW,
)
DATES = ["2024-05-01T10:00", "2024-05-11T10:00", "2024-05-21T10:00", "2024-06-01T10:00"]


def cube(values: object, quality: object, dtype: str = "float32") -> xr.Dataset:
    """values (time, band, x) and quality (time, x) of a cube one line high."""
    data = np.asarray(values, dtype=dtype)[:, :, None, :]
    layer = np.asarray(quality, dtype="uint8")[:, None, :]
    return xr.Dataset(
        {"data": (("time", "band", "y", "x"), data), "quality": (("time", "y", "x"), layer)},
        coords={
            "time": np.array(DATES[: len(data)], dtype="datetime64[ns]"),
            "band": ["red", "nir"][: data.shape[1]],
            "y": [5.0],
            "x": np.arange(data.shape[3]) * 10.0,
        },
        attrs={"tile": "t", "units": "1"},
    )


def odd_cube() -> xr.Dataset:
    """Five pixels: three looks, two, one, none (last a shadow), and never measured."""
    nan = np.nan
    red = [[0.1, 9.0, 0.3, 9.0, nan], [0.3, 0.2, 9.0, 9.0, nan], [0.2, 0.4, 9.0, 9.0, nan]]
    nir = [[0.5, 9.0, 0.6, 9.0, nan], [0.9, 0.5, 9.0, 9.0, nan], [0.7, nan, 9.0, 9.0, nan]]
    quality = [
        [CLEAR, CLOUD, SNOW, CLOUD, NONE],
        [CLEAR, CLEAR, CLOUD, SHADOW, NONE],
        [CLEAR, CLEAR, CLOUD, NONE, NONE],
    ]
    return cube(np.stack([red, nir], axis=1), quality)


def test_median_counts_only_clear_looks() -> None:
    """Clouds of reflectance 9 never enter; counts, dates and quality say what was used and why nothing was."""
    out = composite(odd_cube())
    np.testing.assert_allclose(out.data.sel(band="red").values[0], [0.2, 0.3, 0.3, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(out.data.sel(band="nir").values[0], [0.7, 0.5, 0.6, np.nan, np.nan], rtol=1e-6)
    assert out.looks.values[0].tolist() == [3, 2, 1, 0, 0]
    assert out.quality.values[0].tolist() == [CLEAR, CLEAR, SNOW, SHADOW, NONE]
    assert [str(t)[:10] for t in out["first"].values[0]] == ["2024-05-01", "2024-05-11", "2024-05-01", "NaT", "NaT"]
    assert [str(t)[:10] for t in out["last"].values[0]] == ["2024-05-21", "2024-05-21", "2024-05-01", "NaT", "NaT"]
    assert out.data.dims == ("band", "y", "x")
    assert out.data.dtype == np.float32
    assert out.attrs["composite"] == "median"


def test_medoid_is_one_date_of_all_bands() -> None:
    """Of (0.1, 0.5), (0.3, 0.9), (0.2, 0.7) the last is nearest to the others, and it is taken whole."""
    out = composite(odd_cube(), "medoid")
    np.testing.assert_allclose(out.data.values[:, 0, 0], [0.2, 0.7], rtol=1e-6)
    assert str(out["first"].values[0, 0])[:10] == str(out["last"].values[0, 0])[:10] == "2024-05-21"
    assert np.isnan(out.data.values[:, 0, 3:]).all()


def test_clearest_prefers_clear_to_snow_and_the_clearer_date() -> None:
    """The second date is the clearest of the cube; where it has snow, a clear look of another date is taken."""
    red = [[[1.0, 1.0, 1.0]], [[2.0, 2.0, 2.0]], [[3.0, 3.0, 3.0]]]
    quality = [[CLEAR, CLEAR, CLOUD], [CLEAR, SNOW, CLEAR], [CLOUD, CLOUD, CLOUD]]
    out = composite(cube(red, quality), "clearest")
    assert out.data.values.ravel().tolist() == [2.0, 1.0, 2.0]
    assert out.quality.values.ravel().tolist() == [CLEAR, CLEAR, CLEAR]


def test_a_period_takes_its_last_day_whole() -> None:
    """From 11 to 21 May two dates count, whether days come as text or as dates; an empty period says what there is."""
    for start, end in (("2024-05-11", "2024-05-21"), (date(2024, 5, 11), date(2024, 5, 21))):
        out = composite(odd_cube(), start=start, end=end)
        assert out.looks.values[0, 0] == 2
        assert out.attrs["period"] == "2024-05-11/2024-05-21"
    with pytest.raises(NothingFound, match="2024-05-21"):
        composite(odd_cube(), start="2025-01-01")


@pytest.mark.parametrize("method", ["median", "medoid", "clearest"])
def test_lazy_cubes_give_lazy_and_equal_composites(method: str) -> None:
    """Chunked in time and space, nothing is computed before it is asked for, and the numbers are the same."""
    rng = np.random.default_rng(0)
    big = cube(rng.uniform(size=(4, 2, 30)), rng.choice([CLEAR, CLOUD, SNOW, NONE], size=(4, 30)))
    lazy = composite(big.chunk({"time": 1, "x": 7}), method)  # type: ignore[arg-type]
    assert lazy.data.chunks is not None
    xr.testing.assert_equal(lazy.compute(), composite(big, method))  # type: ignore[arg-type]


def test_complex_pixels_keep_one_dates_phase() -> None:
    """A median of complex pixels is refused with the reason; clearest gives one date's pixel exactly."""
    looks = cube([[[1 + 1j]], [[2 - 1j]]], [[CLEAR], [CLEAR]], dtype="complex64")
    assert composite(looks, "clearest").data.values.ravel().tolist() == [2 - 1j]
    for method in ("median", "medoid"):
        with pytest.raises(CubeError, match="phases are independent"):
            composite(looks, method)  # type: ignore[arg-type]


def test_composite_refuses_unknown_methods_and_half_cubes() -> None:
    """A method it does not have, and a Dataset without quality."""
    with pytest.raises(CubeError, match="no composite is called mean"):
        composite(odd_cube(), "mean")  # type: ignore[arg-type]
    with pytest.raises(CubeError, match="no composite of a Dataset"):
        composite(odd_cube().drop_vars("quality"))


CLASSES = {1: "water", 2: "forest", 3: "field"}
LEFT, TOP = 500_000.0, 4_600_000.0


def class_map() -> xr.DataArray:
    """Water in the west, forest in the east, a strip of no-data in the south; 100 x 100 pixels of 10 m, UTM 32N."""
    values = np.ones((100, 100), dtype="uint8")
    values[:, 50:] = 2
    values[90:] = 0
    geobox = GeoBox((100, 100), Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32632")
    return xr.DataArray(values, dims=("y", "x"), coords=xr_coords(geobox), attrs={"nodata": 0})


def parcel(west: float, south: float, east: float, north: float) -> shapely.Polygon:
    return shapely.box(LEFT + west, TOP - 1000 + south, LEFT + east, TOP - 1000 + north)


PARCELS = gpd.GeoDataFrame(
    {"field": ["a", "b", "c"]},
    geometry=[parcel(404, 503, 533, 700), parcel(0, 0, 100, 200), parcel(-100, 500, 100, 600)],
    crs="EPSG:32632",
)


def test_areas_count_fractions_of_pixels_on_the_ground() -> None:
    """Areas equal the polygons' overlap with each class over the areal scale, 0.9996^2 on the central meridian."""
    table = areas(class_map(), PARCELS, CLASSES, name="field").set_index(["parcel", "class_name"])
    scale = 0.9996**2
    assert table.loc[("a", "water"), "area_m2"] == pytest.approx(96 * 197 / scale, rel=1e-5)
    assert table.loc[("a", "forest"), "area_m2"] == pytest.approx(33 * 197 / scale, rel=1e-5)
    assert table.loc[("a", "field"), "area_m2"] == 0
    assert table.loc[("a", "water"), "area_ha"] == pytest.approx(table.loc[("a", "water"), "area_m2"] / 1e4)
    assert table.loc[("a", "water"), "areal_scale"] == pytest.approx(scale, rel=1e-6)
    assert table.loc[("b", "water"), "coverage"] == pytest.approx(0.5)
    assert table.loc[("c", "water"), "coverage"] == pytest.approx(0.5)
    assert table["share"].groupby("parcel").sum().to_numpy() == pytest.approx([1, 1, 1])
    assert table["se_m2"].isna().all()
    assert "no confusion matrix" in table["uncertainty"].iloc[0]


def test_areas_agree_with_the_geodesic_and_with_a_file(tmp_path: Path) -> None:
    """Parcels in degrees give geodesic areas to 1e-4, and a GeoTIFF the same table as an array."""
    degrees = PARCELS.iloc[:1].to_crs("EPSG:4326")
    table = areas(class_map(), degrees, CLASSES)
    geodesic_m2 = abs(Geod(ellps="WGS84").geometry_area_perimeter(degrees.geometry.iloc[0])[0])
    assert table["area_m2"].sum() == pytest.approx(geodesic_m2, rel=1e-4)
    path = tmp_path / "classes.tif"
    profile = {"driver": "GTiff", "width": 100, "height": 100, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", crs="EPSG:32632", transform=Affine(10, 0, LEFT, 0, -10, TOP), **profile) as target:
        target.write(class_map().values, 1)
    pd.testing.assert_frame_equal(areas(path, degrees, CLASSES), table)


def test_standard_error_of_the_published_example() -> None:
    """Olofsson et al. 2014, tables 8 and 9: deforestation 235,086 of 10 million pixels, 95 % within 68,418."""
    counts = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]], dtype=float)
    share = np.array([200_000, 150_000, 3_200_000, 6_450_000]) / 1e7
    adjusted, error, how = stratified(share, counts)
    assert adjusted[0] * 1e7 == pytest.approx(235_086, abs=1)
    assert 1.96 * error[0] * 1e7 == pytest.approx(68_418, abs=1)
    assert adjusted.sum() == pytest.approx(1)
    assert "stratified" in how


def test_a_perfect_validation_changes_nothing_and_a_thin_one_says_so() -> None:
    """A diagonal matrix adjusts nothing at no error; one sample of a mapped class gives NaN and the reason."""
    table = areas(class_map(), PARCELS, CLASSES, np.diag([50, 50, 50]))
    np.testing.assert_allclose(table["adjusted_m2"], table["area_m2"])
    assert (table["se_m2"] == 0).all()
    thin = areas(class_map(), PARCELS, CLASSES, np.diag([50, 1, 50])).set_index(["parcel", "class_name"])
    assert np.isnan(thin.loc[(0, "water"), "se_m2"])
    assert "fewer than two" in thin.loc[(0, "water"), "uncertainty"]
    assert thin.loc[(1, "water"), "se_m2"] == 0


def test_parcels_that_cannot_be_measured_are_named(tmp_path: Path) -> None:
    """No CRS, none at all, an empty or crossed polygon, a parcel elsewhere, unnamed classes: each refused by name."""
    outside = gpd.GeoDataFrame({"field": ["near", "far"]}, geometry=[parcel(0, 500, 50, 550), parcel(5e4, 0, 6e4, 9)])
    bow = shapely.Polygon([(LEFT, TOP), (LEFT + 90, TOP - 90), (LEFT + 90, TOP), (LEFT, TOP - 90)])
    crossed = gpd.GeoDataFrame({"field": ["void", "bow"]}, geometry=[shapely.Polygon(), bow], crs="EPSG:32632")
    with pytest.raises(GridError, match="no CRS"):
        areas(class_map(), outside, CLASSES)
    with pytest.raises(GridError, match="parcels far") as refusal:
        areas(class_map(), outside.set_crs("EPSG:32632"), CLASSES, name="field")
    assert "near" not in str(refusal.value)
    with pytest.raises(GridError, match="void, bow"):
        areas(class_map(), crossed, CLASSES, name="field")
    with pytest.raises(GridError, match="no parcels"):
        areas(class_map(), PARCELS.iloc[:0], CLASSES)
    with pytest.raises(GridError, match="no column id"):
        areas(class_map(), PARCELS, CLASSES, name="id")
    with pytest.raises(GridError, match="without a name"):
        areas(class_map(), PARCELS, {1: "water"})
    with pytest.raises(GridError, match="does not fit"):
        areas(class_map(), PARCELS, CLASSES, np.eye(2))
    with pytest.raises(GridError, match="projected"):
        areas(class_map().odc.assign_crs("EPSG:4326"), PARCELS, CLASSES)
    with pytest.raises(AssetError):
        areas(tmp_path / "none.tif", PARCELS, CLASSES)
