"""Quality layers: each code's meaning, what overrules what, growth in metres, resampling that keeps classes, edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import tiny_products as tiny
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog import ingest, qualify, quantify, sandbox
from catalog.calibrate import lut, quality
from catalog.calibrate.border import ALONG, border_noise
from catalog.calibrate.quality import DECODERS, PRECEDENCE, combined, grown
from catalog.errors import AssetError, CalibrationError, GridError
from catalog.grid import Tile, utm_crs
from catalog.quantify import Reading
from catalog.read import read_quality
from catalog.register import register
from catalog.sandbox import REGIONS, sentinel1
from catalog.scene import BandSource, Scene
from catalog.sensors import SENSORS, Quality
from catalog.units import Unit

Q = Quality


def _scene(folder: Path, out: Path) -> Scene:
    found = register(folder, out)
    assert found.failed == ()
    return Scene.from_item(found.items[0])


def _grid(rows: int, cols: int, gsd: float, dx: float = 0.0, dy: float = 0.0) -> GeoBox:
    return GeoBox((rows, cols), Affine(gsd, 0, tiny.ORIGIN[0] + dx, 0, -gsd, tiny.ORIGIN[1] + dy), tiny.UTM)


def _layer(scene: Scene, name: str, path: Path, nodata: float | None = None) -> Scene:
    """The scene with one quality layer, a file."""
    source = BandSource(name, str(path), 1, False, "uint8", nodata, None, None, None, None, None)
    return replace(scene, quality={name: source})


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Sentinel-2 of 40 x 40 pixels of 10 m whose north-western quarter was not measured."""
    return _scene(tiny.sentinel2(tmp_path / "p"), tmp_path / "out")


def _udm2(**flags: int) -> np.ndarray:
    """The eight bands of one pixel."""
    names = ("clear", "snow", "shadow", "haze_light", "haze_heavy", "cloud", "confidence", "udm1")
    return np.array([flags.get(name, 0) for name in names], dtype="uint8")


def test_udm2_bands_of_planets_table() -> None:
    """Clear, snow, shadow, light haze, heavy haze and cloud in this order; confidence says nothing, black fill all."""
    cases = [
        (_udm2(clear=1, confidence=97), Q.CLEAR),
        (_udm2(snow=1), Q.SNOW),
        (_udm2(shadow=1), Q.SHADOW),
        (_udm2(haze_light=1), Q.CIRRUS),
        (_udm2(haze_heavy=1), Q.CLOUD),
        (_udm2(cloud=1), Q.CLOUD),
        (_udm2(udm1=1), Q.NO_DATA),
        (_udm2(clear=1, udm1=0b0000_0010), Q.CLEAR),
        (_udm2(clear=1, udm1=0b0000_0100), Q.NO_DATA),
        (_udm2(cloud=1, shadow=1, snow=1), Q.CLOUD),
        (_udm2(confidence=80), Q.NO_DATA),
    ]
    codes = np.stack([pixel for pixel, _ in cases], axis=-1)[:, None, :]
    assert DECODERS["UDM2"].bands == (1, 2, 3, 4, 5, 6, 7, 8)
    assert DECODERS["UDM2"].decode(codes)[0].tolist() == [int(q) for _, q in cases]


def test_cmask_codes() -> None:
    """127 is clear, 255 cloud, anything else no data."""
    assert DECODERS["CMASK"].decode(np.array([[[0, 127, 255, 9]]], "uint8"))[0].tolist() == [0, Q.CLEAR, Q.CLOUD, 0]


def test_qa_radsat_bits() -> None:
    """Bits 0 to 6 are bands 1 to 7; band 9 (bit 8) is not held; bit 11 is ground hidden by terrain."""
    codes = np.array([[[0, 1, 1 << 6, 1 << 8, 1 << 11, (1 << 11) | 1]]], dtype="uint16")
    expected = [Q.CLEAR, Q.SATURATED, Q.SATURATED, Q.CLEAR, Q.SHADOW, Q.SATURATED]
    assert DECODERS["QA_RADSAT"].decode(codes)[0].tolist() == expected


@pytest.mark.parametrize(("bits", "expected"), [
    ((3, 4), Q.CLOUD), ((4, 2), Q.SHADOW), ((2, 5), Q.CIRRUS), ((1, 4), Q.CLOUD), ((0, 3), Q.NO_DATA), ((7,), Q.CLEAR),
])  # fmt: skip
def test_several_bits_of_qa_pixel(bits: Sequence[int], expected: Quality) -> None:
    """Fill overrules cloud, cloud shadow, shadow cirrus, cirrus snow."""
    code = np.array([[[sum(1 << b for b in bits)]]], dtype="uint16")
    assert DECODERS["QA_PIXEL"].decode(code).item() == expected


def test_precedence_holds_for_every_pair() -> None:
    """Of any two layers, in either order, the earlier in PRECEDENCE is said; every quality has its place."""
    assert sorted(PRECEDENCE) == sorted(Quality)
    for one, other in pairwise(PRECEDENCE):
        layers = [np.full((1, 1), q, "uint8") for q in (other, one)]
        assert combined(layers).item() == combined(layers[::-1]).item() == one
    assert combined([np.array([[Q.CLEAR, Q.CLOUD]], "uint8")]).tolist() == [[Q.CLEAR, Q.CLOUD]]


def test_growth_is_euclidean_and_in_metres() -> None:
    """Within 60 m of one pixel of 20 m lie 29 pixel centres, of 10 m 113; the corners of the square stay clear."""
    for pixel_m, count in ((20.0, 29), (10.0, 113)):
        field = np.full((41, 41), Q.CLEAR, "uint8")
        field[20, 20] = Q.CLOUD
        assert int((grown(field, 60.0, pixel_m) == Q.CLOUD).sum()) == count
    assert (grown(field, 0.0, 10.0) == field).all()


def test_growth_spreads_over_what_it_overrules_only() -> None:
    """Cloud spreads over shadow, cirrus, snow and clear, shadow not over cloud, neither over border and no data."""
    field = np.array([[Q.CLOUD, Q.CLEAR, Q.NO_DATA, Q.BORDER, Q.SATURATED, Q.SNOW, Q.CIRRUS, Q.SHADOW]], "uint8")
    by = grown(field, 1000.0, 10.0)[0].tolist()
    assert by == [Q.CLOUD, Q.CLOUD, Q.NO_DATA, Q.BORDER, Q.SATURATED, Q.CLOUD, Q.CLOUD, Q.CLOUD]
    assert grown(field[:, ::-1], 10.0, 10.0)[0, :3].tolist() == [Q.SHADOW, Q.SHADOW, Q.SNOW]
    for wrong in (-1.0, float("nan")):
        with pytest.raises(CalibrationError, match="cannot grow"):
            grown(field, wrong, 10.0)


def _scl(scene: Scene, codes: np.ndarray) -> None:
    tiny.write_tif(Path(scene.quality["SCL"].href), codes.astype("uint8"), 20.0, nodata=0)


def _read(scene: Scene, grid: GeoBox, **options: str) -> np.ndarray:
    d = DECODERS["SCL"]
    values: np.ndarray = read_quality(scene, grid, "SCL", bands=d.bands, decode=d.decode, **options).values
    return values


def test_finer_pixels_take_the_class_they_lie_in(scene: Scene) -> None:
    """A 10 m grid from a 20 m classification: each class four times, none that was not there."""
    codes = np.random.default_rng(2).integers(1, 12, (20, 20))
    _scl(scene, codes)
    by_class = DECODERS["SCL"].decode(codes[None])
    np.testing.assert_array_equal(_read(scene, _grid(40, 40, 10.0)), by_class.repeat(2, 0).repeat(2, 1))
    raw = read_quality(scene, _grid(40, 40, 10.0), "SCL").values
    np.testing.assert_array_equal(raw, codes.repeat(2, 0).repeat(2, 1))


def test_coarser_pixels_take_the_commonest_class(scene: Scene) -> None:
    """60 m from 20 m: of nine pixels five and four, and pixels without data are not counted."""
    codes = np.full((20, 20), 5)
    codes[:3, :3] = [[9, 9, 9], [9, 9, 4], [4, 4, 4]]
    codes[:3, 3:6] = [[9, 9, 9], [9, 5, 5], [5, 5, 5]]
    codes[3:6, :3] = [[0, 0, 0], [0, 0, 0], [11, 11, 4]]
    codes[3:6, 3:6] = 0
    _scl(scene, codes)
    got = _read(scene, _grid(6, 6, 60.0))
    assert got[:2, :2].tolist() == [[Q.CLOUD, Q.CLEAR], [Q.SNOW, Q.NO_DATA]]
    assert got[2, 2] == Q.CLEAR


def test_codes_of_one_meaning_count_together(scene: Scene) -> None:
    """Three of medium and two of high cloud probability outweigh four of vegetation; as mere codes they do not."""
    codes = np.full((20, 20), 4)
    codes[:3, :3] = [[8, 8, 8], [9, 9, 4], [4, 4, 4]]
    _scl(scene, codes)
    assert _read(scene, _grid(6, 6, 60.0))[0, 0] == Q.CLOUD
    assert read_quality(scene, _grid(6, 6, 60.0), "SCL").values[0, 0] == 4
    assert _read(scene, _grid(6, 6, 60.0), resampling="nearest")[0, 0] == Q.CLOUD


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average", "max", "nonsense"])
def test_means_of_classes_are_refused(scene: Scene, resampling: str) -> None:
    """Any resampling but nearest and mode is a GridError that names the layer and both."""
    with pytest.raises(GridError, match="classes cannot be resampled") as refusal:
        read_quality(scene, _grid(4, 4, 10.0), "SCL", resampling=resampling)
    assert "SCL" in refusal.value.item
    assert refusal.value.enough == "one of nearest, mode"


def test_classes_survive_any_grid(scene: Scene) -> None:
    """On 60 grids at random, of all sizes and places, nothing comes out that did not go in."""
    rng = np.random.default_rng(5)
    codes = rng.choice([4, 9, 11], (20, 20))
    _scl(scene, codes)
    allowed = {int(Q.NO_DATA), int(Q.CLEAR), int(Q.CLOUD), int(Q.SNOW)}
    for _ in range(60):
        gsd = float(rng.uniform(3, 90))
        grid = _grid(9, 7, gsd, float(rng.uniform(-300, 300)), float(rng.uniform(-300, 300)))
        assert set(np.unique(_read(scene, grid)).tolist()) <= allowed
    far = _read(scene, _grid(4, 4, 10.0, 1e5))
    assert (far == Q.NO_DATA).all()


def test_clouds_reach_in_from_beyond_the_tile(scene: Scene) -> None:
    """A cloud whose first pixel lies 30 m east of a tile's last darkens two columns when grown by 40 m, as is noted."""
    codes = np.full((20, 20), 5)
    codes[:, 15] = 9
    _scl(scene, codes)
    tile = _grid(20, 8, 10.0, 200.0, -200.0)
    valid = xr.DataArray(np.ones((20, 8), bool), dims=("y", "x"))
    still = qualify.quality_of(scene, tile, valid, (0.0, 0.0))
    assert (still == Q.CLEAR).all()
    assert still.attrs["notes"] == ()
    got = qualify.quality_of(scene, tile, valid, (0.0, 0.0), dilate_m=40.0)
    assert (got.values[:, :6] == Q.CLEAR).all()
    assert (got.values[:, 6:] == Q.CLOUD).all()
    assert got.attrs["notes"] == ("cloud and shadow are grown by 40 m",)
    assert got.attrs["source"] == "the product's own SCL"


def test_landsat_layers_are_combined(tmp_path: Path) -> None:
    """QA_PIXEL says cloud, QA_RADSAT saturated or hidden: each pixel says what overrules; fill stays no data."""
    (tmp_path / "p").mkdir()
    scene = _scene(tiny.landsat(tmp_path / "p"), tmp_path / "out")
    radsat = np.zeros((40, 44), "uint16")
    radsat[:, 5], radsat[:, 6] = 0b10, 1 << 11
    path = tiny.write_tif(tmp_path / "QA_RADSAT.TIF", radsat, 30.0)
    with rasterio.open(scene.quality["QA_PIXEL"].href, "r+") as target:
        codes = target.read(1)
        codes[2:, 4:8] = 22280
        target.write(codes, 1)
    both = replace(scene, quality=scene.quality | _layer(scene, "qa_radsat", path).quality)
    got = quantify.look(both, Tile("t", _grid(40, 44, 30.0)))
    assert (got.quality.values[:2] == Q.NO_DATA).all()
    assert got.quality.values[5, 3:9].tolist() == [Q.CLEAR, Q.CLOUD, Q.SATURATED, Q.CLOUD, Q.CLOUD, Q.CLEAR]
    assert got.notes == ()


def test_udm2_of_eight_bands_is_read_whole(scene: Scene, tmp_path: Path) -> None:
    """A layer named ortho_udm2 is decoded by its eight bands; with fewer it is refused."""
    bands = np.zeros((8, 40, 40), "uint8")
    bands[0], bands[7, :, 39] = 1, 1
    bands[0, :, :10], bands[5, :, :10] = 0, 1
    planet = _layer(scene, "ortho_udm2", tiny.write_tif(tmp_path / "udm2.tif", bands, 10.0))
    valid = xr.DataArray(np.ones((40, 40), bool), dims=("y", "x"))
    got = qualify.quality_of(planet, _grid(40, 40, 10.0), valid, (0.0, 0.0)).values
    assert got[7, [0, 9, 10, 38, 39]].tolist() == [Q.CLOUD, Q.CLOUD, Q.CLEAR, Q.CLEAR, Q.NO_DATA]
    short = _layer(scene, "udm2", tiny.write_tif(tmp_path / "short.tif", bands[:7], 10.0))
    with pytest.raises(AssetError, match="7 raster bands"):
        qualify.quality_of(short, _grid(40, 40, 10.0), valid, (0.0, 0.0))


def test_what_is_not_shipped_is_said_in_the_cube(scene: Scene, tmp_path: Path) -> None:
    """No layer, or only one of an unknown kind: clouds count as clear, and the cube's notes say so."""
    tile = Tile("t", _grid(40, 40, 10.0))
    bare = replace(scene, quality={})
    built = ingest.build(Unit(scene.sensor, tile, (bare,), "2024", None), tmp_path / "c.zarr")
    assert built.attrs["notes"] == [f"{scene.id} ships no quality layer: clouds count as clear"]
    odd = _layer(scene, "haze_probability", tiny.write_tif(tmp_path / "h.tif", np.ones((4, 4), "uint8")))
    assert [n.split(": ")[1] for n in quantify.look(odd, tile).notes] == [
        "clouds count as clear",
        "quality layer haze_probability is of no known kind and not used",
    ]


def test_growing_is_part_of_what_a_cube_is(scene: Scene, tmp_path: Path) -> None:
    """Units that differ in it are two, and one that does not grow is what it was before there was an option."""
    unit = Unit(scene.sensor, Tile("t", _grid(40, 40, 10.0)), (scene,), "2024", None)
    wide = replace(unit, how=Reading(dilate_m=120.0))
    assert wide.id != unit.id == replace(unit, how=Reading(dilate_m=0.0)).id
    built = ingest.build(wide, tmp_path / "c.zarr")
    assert "grown by 120 m" in str(built.attrs["notes"])


@pytest.mark.parametrize("shift_m", [(0.0, 0.0), (3.0, -4.0)])
def test_the_largest_number_of_a_type_is_saturated(scene: Scene, shift_m: tuple[float, float]) -> None:
    """One pixel of 65535 in one band is saturated at its nearest pixel, whatever bilinear makes of its neighbours."""
    path = scene.bands["B08"].href
    with rasterio.open(path, "r+") as target:
        dn = target.read(1)
        dn[30, 31] = 65_535
        target.write(dn, 1)
    seen = quantify.look(scene, Tile("t", _grid(40, 40, 10.0)), shift_m=shift_m).quality.values
    assert np.argwhere(seen == Q.SATURATED).tolist() == [[30, 31]]


NOISE_DN2 = 900.0


def _radar(rows: int, cols: int, border: np.ndarray, echo: np.ndarray) -> tuple[xr.DataArray, lut.Table]:
    """Speckled amplitudes over thermal noise, residue of 0 to 7 in the border; and the noise's table."""
    rng = np.random.default_rng(1)
    dn = np.sqrt((NOISE_DN2 + echo) * rng.standard_gamma(4.4, (rows, cols)) / 4.4)
    dn = np.where(border, rng.integers(0, 8, (rows, cols)), dn)
    table = lut.noise_table(
        [0, rows], [0, cols], np.full((2, 2), NOISE_DN2), (), np.arange(rows), np.arange(cols)
    )  # fmt: skip
    return xr.DataArray(dn.astype("float32"), dims=("y", "x")), table


def _strips(rows: int, cols: int) -> np.ndarray:
    """Border as products have it: near range with a step, far range, and the first lines."""
    border = np.zeros((rows, cols), bool)
    border[: rows // 2, :60] = border[rows // 2 :, :95] = border[:, -40:] = border[:30] = True
    return border


def test_border_is_found_to_the_pixel_and_black_water_kept() -> None:
    """Strips beside water that returns nothing at all, and beside land: missed are a few dozen, where a strip steps."""
    border = _strips(900, 1200)
    echo = np.where(np.arange(1200) < 700, 0.0, 20_000.0)[None, :]
    dn, noise = _radar(900, 1200, border, echo)
    found = border_noise(dn, noise, depth=300).values
    assert (border & ~found).sum() <= 1e-3 * border.sum()
    assert (found & ~border).sum() <= 1e-5 * border.size
    nothing = np.zeros_like(border)
    dn, noise = _radar(900, 1200, nothing, np.zeros((1, 1200)))
    assert border_noise(dn, noise, depth=300).values.sum() <= 1e-5 * nothing.size


def test_border_needs_to_touch_an_edge() -> None:
    """A calm, dark patch in the image's middle is no border, were it as dark as border noise."""
    hole = np.zeros((600, 600), bool)
    hole[200:400, 200:400] = True
    dn, noise = _radar(600, 600, hole, np.full((1, 1), 5_000.0))
    assert not border_noise(dn, noise, depth=600).values.any()
    none = lut.noise_table([0, 600], [0, 600], np.zeros((2, 2)), (), np.arange(600), np.arange(600))
    assert not border_noise(dn * 0, none).values.any()


def test_border_is_lazy_and_reads_edges_only() -> None:
    """The blocks do not matter, and of an interior window no pixel is read."""
    border = _strips(600, 800)
    dn, noise = _radar(600, 800, border, np.full((1, 800), 5_000.0))
    reads: list[object] = []

    def load(block: np.ndarray) -> np.ndarray:
        reads.append(block.shape)
        return block

    eager = border_noise(dn, noise, depth=200).values
    lazy = dn.chunk({"y": 128, "x": 160})
    lazy = lazy.copy(data=da.map_blocks(load, lazy.data, dtype="float32", meta=np.empty((0, 0), "float32")))
    mask = border_noise(lazy, noise, depth=200)
    np.testing.assert_array_equal(mask.values, eager)
    reads.clear()
    assert not mask.isel(y=slice(256, 384), x=slice(320, 480)).values.any()
    assert reads == []
    assert ALONG > 1


@pytest.fixture(scope="module")
def grd(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A sandbox GRD of 1280 m whose 25 first samples hold border noise, with one saturated patch."""
    root = tmp_path_factory.mktemp("earth")
    sandbox.write(root / "in", size_px=128, regions=REGIONS[:1])
    folder = next(root.rglob("S1A_IW_GRDH*.SAFE"))
    for path in (folder / "measurement").glob("*.tiff"):
        with rasterio.open(path, "r+") as target:
            dn = target.read(1)
            dn[:, :25] = np.random.default_rng(4).integers(1, 6, (len(dn), 25))
            dn[70:76, 80:86] = 65_535
            target.write(dn, 1)
    found = register(folder, root / "out")
    assert found.failed == ()
    return Scene.from_item(found.items[0])


def test_border_and_saturation_arrive_on_the_map(grd: Scene) -> None:
    """Border noise holds no number and says border, saturated pixels keep theirs and say so, in one connected place."""
    west, south, east, north = grd.bbox
    crs = utm_crs((west + east) / 2, (south + north) / 2)
    # Without a DEM the image lies on the ellipsoid, a kilometre or so off its footprint.
    grid = GeoBox.from_bbox(grd.bbox, "EPSG:4326", shape=(8, 8)).to_crs(crs, resolution=10.0).pad(150)
    seen = quantify.look(grd, Tile("t", grid))
    quality_, data = seen.quality.values, seen.data.values
    border = quality_ == Q.BORDER
    assert border.sum() == pytest.approx((25 + sentinel1.BORDER) * (grd.bands["VV"].shape or (0,))[0], rel=0.05)
    assert np.isnan(data[:, border]).all()
    full = quality_ == Q.SATURATED
    assert 20 <= full.sum() <= 60
    assert np.isfinite(data[:, full]).all()
    assert np.median(data[:, full]) > 100 * np.nanmedian(data[0][quality_ == Q.CLEAR])
    assert any("thermal noise" in note for note in seen.notes)


def test_every_layer_that_a_sensor_names_can_be_decoded() -> None:
    """The table of sensors names no quality layer that DECODERS lacks."""
    named = {s.quality_layer for s in SENSORS.values() if s.quality_layer}
    named |= {layer.name for s in SENSORS.values() for layer in s.quality_layers}
    assert {qualify.kind_of(name) for name in named} == set(quality.DECODERS)
