"""The sandbox: one seed, one set of bytes; its optical products say of the ground what its truth says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from scipy.ndimage import shift as move

from catalog import sandbox
from catalog.errors import CatalogError, StorageFull
from catalog.sandbox import REGIONS, Product, Region, manifest, optics
from catalog.sandbox.chance import field, hashed_normal, stream
from catalog.sandbox.regions import Grid, mgrs_square
from catalog.sandbox.spectra import LAND_COVER, SURFACES

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
TINY = (REGIONS[0],)


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> sandbox.Summary:
    """Both regions at 128 pixels."""
    return sandbox.write(tmp_path_factory.mktemp("sandbox") / "earth", size_px=128)


@pytest.fixture
def speck(tmp_path: Path) -> Path:
    """One region of the smallest size, written."""
    root = tmp_path / "speck"
    sandbox.write(root, size_px=64, regions=TINY)
    return root


def product(earth: sandbox.Summary, region: str, sensor: str, date: str) -> tuple[Product, Path]:
    found = next(p for p in earth.products if (p.region, p.sensor, p.date) == (region, sensor, date))
    return found, Path(earth.root) / "products" / found.folder


def image(folder: Path, band: str) -> np.ndarray:
    with rasterio.open(next(folder.glob(f"GRANULE/*/IMG_DATA/R*m/*_{band}_*m.jp2"))) as source:
        return source.read(1)


def truth(earth: sandbox.Summary, region: str, kind: str) -> np.ndarray:
    with rasterio.open(Path(earth.root) / earth.truth[region][kind]) as source:
        return source.read().squeeze()


def bytes_of(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(speck: Path, tmp_path: Path) -> None:
    """Two writes agree in every byte of every file; the seed is what they agree on."""
    sandbox.write(tmp_path / "again", size_px=64, regions=TINY)
    first = bytes_of(speck)
    assert first == bytes_of(tmp_path / "again")
    sandbox.write(tmp_path / "other", size_px=64, regions=TINY, seed=8)
    cover = "truth/west/landcover_20250510.tif"
    assert first[cover] != bytes_of(tmp_path / "other")[cover]


def test_an_intact_sandbox_is_kept_a_damaged_or_half_written_one_is_written_again(speck: Path) -> None:
    """The manifest stands for the whole: with it nothing is written, without it or against it everything is."""
    before = bytes_of(speck)
    again = sandbox.write(speck, size_px=64, regions=TINY)
    assert not again.recomputed
    assert len(again.products) == 6
    (speck / "truth/west/change.tif").write_bytes(b"")
    assert sandbox.write(speck, size_px=64, regions=TINY).recomputed
    assert bytes_of(speck) == before
    (speck / "sandbox.json").rename(speck / manifest.BEGUN)
    (speck / "products" / "leftover").write_text("of a killed run")
    assert sandbox.write(speck, size_px=64, regions=TINY).recomputed
    assert bytes_of(speck) == before


def test_refusals_say_what_would_have_been_enough(speck: Path, tmp_path: Path) -> None:
    """Other parameters, a foreign folder, an impossible size, twin names and a foreign zone are refused, untouched."""
    before = bytes_of(speck)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    calls: list[tuple[Path, dict[str, Any]]] = [
        (speck, {"size_px": 96, "regions": TINY}),
        (tmp_path / "foreign", {"size_px": 64, "regions": TINY}),
        (tmp_path / "odd", {"size_px": 100}),
        (tmp_path / "twins", {"size_px": 64, "regions": (REGIONS[0], REGIONS[0])}),
        (tmp_path / "polar", {"size_px": 64, "regions": (Region("polar", 3031, 0.0, 0.0),)}),
    ]
    for root, options in calls:
        with pytest.raises(CatalogError) as refused:
            sandbox.write(root, **options)
        assert refused.value.enough
        assert refused.value.todo
    assert bytes_of(speck) == before
    assert (tmp_path / "foreign" / "thesis.txt").read_text() == "mine"


def test_a_full_disk_is_a_refusal_and_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk interrupts does not pass for a sandbox."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sandbox.truth, "write_land", full)
    with pytest.raises(StorageFull):
        sandbox.write(tmp_path / "full", size_px=64, regions=TINY)
    assert not (tmp_path / "full" / "sandbox.json").exists()


def test_progress_runs_from_nothing_to_all(tmp_path: Path) -> None:
    """Progress never falls and ends at 1."""
    seen: list[float] = []
    sandbox.write(tmp_path / "p", size_px=64, regions=TINY, progress=lambda _label, share: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 5


def test_a_field_is_the_same_function_on_every_grid() -> None:
    """Values at shared places agree whatever grid they are asked on; mean 0 and variance 1 hold."""
    waves = field(stream(1, "f"), 0.0, 0.0, 4000.0, 60.0)
    x = np.arange(0.0, 4000.0, 5.0)
    assert np.allclose(waves.on(x, x)[::4, ::4], waves.on(x[::4], x[::4]), atol=1e-5)
    assert abs(waves.on(x, x).std() - 1.0) < 0.03
    assert abs(waves.on(x, x).mean()) < 0.05
    drawn = hashed_normal(np.arange(200_000, dtype=np.uint32), "salt")
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1.0) < 0.01


def test_tiles_are_named_as_the_military_grid_names_them() -> None:
    """Real Sentinel-2 tiles: 32TQT and 33TTN in the Tyrol, 31UDQ over Paris, 33UVP over Vienna's west."""
    assert mgrs_square(32632, 716_800, 5_204_480) == "32TQT"
    assert mgrs_square(32633, 273_920, 5_204_480) == "33TTN"
    assert mgrs_square(32631, 450_000, 5_410_000) == "31UDQ"
    assert mgrs_square(32633, 450_000, 5_350_000) == "33UVP"


def test_every_mixture_is_whole_and_every_class_has_a_surface() -> None:
    """Shares add up to 1 in both seasons; no class is left without ground."""
    for surface in SURFACES:
        assert sum(surface.spring.values()) == pytest.approx(1.0)
        assert sum(surface.summer.values()) == pytest.approx(1.0)
    assert {s.cover for s in SURFACES} - {0} == set(LAND_COVER)


@pytest.mark.parametrize("region", ["west", "east"])
def test_each_region_holds_every_class_changes_and_objects(earth: sandbox.Summary, region: str) -> None:
    """At least 8 classes in each region; three kinds of change, where the land cover differs; ships on water."""
    before, after = (truth(earth, region, f"landcover_{d}") for d in ("20250510", "20250808"))
    change = truth(earth, region, "change")
    assert len(set(np.unique(after)) - {0}) >= 8
    assert not (before == 0).any()
    assert set(np.unique(change)) == {0, 1, 2, 3}
    assert (before != after)[change > 0].mean() > 0.9
    assert (change > 0)[before != after].mean() > 0.6
    boxes = json.loads((Path(earth.root) / earth.truth[region]["objects"]).read_text())["features"]
    kinds = [b["properties"]["kind"] for b in boxes]
    assert kinds.count("building") > 10
    assert kinds.count("ship") >= 1
    with rasterio.open(Path(earth.root) / earth.truth[region]["landcover_20250808"]) as cover:
        for box in (b for b in boxes if b["properties"]["kind"] == "ship"):
            ring = np.array(box["geometry"]["coordinates"][0])
            assert next(cover.sample([tuple(ring[:-1].mean(0))]))[0] == 1


def test_the_regions_differ_and_lie_where_the_grid_of_tiles_has_its_nodes(earth: sandbox.Summary) -> None:
    """Two lands by one law; corners on multiples of 2560 m; heights cover the region and 2 km around it."""
    assert (truth(earth, "west", "landcover_20250510") != truth(earth, "east", "landcover_20250510")).mean() > 0.3
    for region in REGIONS:
        assert region.west_m % 2560 == region.south_m % 2560 == 0
        with rasterio.open(Path(earth.root) / "dem" / f"{region.name}.tif") as dem:
            assert dem.crs.to_epsg() == region.epsg
            assert tuple(dem.bounds)[:2] == (region.west_m - 2000, region.south_m - 2000)
            inner = dem.read(1)[200:-200, 200:-200]
        assert np.array_equal(inner, truth(earth, region.name, "height")[0])


def test_sentinel2_numbers_are_the_truth_and_its_noise(earth: sandbox.Summary) -> None:
    """(DN - 1000) / 10000 of the undisplaced, cloudless day: no bias, noise as stated, in every band."""
    _, folder = product(earth, "west", "sentinel-2", "20250510")
    rho = truth(earth, "west", "reflectance_20250510")
    for i, band in enumerate(BANDS):
        dn = image(folder, band)
        assert dn.dtype == np.uint16
        assert dn.min() > 0
        want = rho[i] if len(dn) == 128 else rho[i].reshape(64, 2, 64, 2).mean((1, 3))
        off = (dn.astype(float) - 1000) / 10_000 - want
        assert abs(off.mean()) < 3e-4
        if len(dn) == 128:
            assert np.std(off / (0.0020 + 0.008 * want)) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("date", ["20250808", "20250813"])
def test_sentinel2_content_is_displaced_as_told(earth: sandbox.Summary, date: str) -> None:
    """Least squares of the displacement over clear ground finds the told one to a tenth of a pixel."""
    found, folder = product(earth, "west", "sentinel-2", date)
    want = truth(earth, "west", f"reflectance_{date}")[6].astype(float)
    clear = np.isin(np.kron(image(folder, "SCL"), np.ones((2, 2), np.uint8)), (4, 5, 6, 7))
    clear[:4], clear[-4:], clear[:, :4], clear[:, -4:] = False, False, False, False
    seen = (image(folder, "B08").astype(float) - 1000) / 10_000
    d = np.zeros(2)
    for _ in range(6):
        moved = move(want, (-d[1] / 10, d[0] / 10), order=3, mode="nearest")
        down, right = np.gradient(moved)
        slopes = np.stack([-right[clear], down[clear]], 1) / 10
        d += np.linalg.lstsq(slopes, (seen - moved)[clear], rcond=None)[0]
    assert d == pytest.approx(found.shift_m, abs=1.0)


def test_clouds_shadows_and_the_swath_edge_are_labelled(earth: sandbox.Summary) -> None:
    """Cloud shares as planned, bright where cloud, no data exactly where the scene classification says so."""
    cloudy, folder = product(earth, "east", "sentinel-2", "20250808")
    scl, blue = image(folder, "SCL"), image(folder, "B02")
    assert 0.1 < cloudy.cloud_share < 0.4
    empty = (blue == 0).reshape(64, 2, 64, 2)
    assert 0.04 < (scl == 0).mean() < 0.13
    assert np.abs(empty.mean((1, 3)) - (scl == 0)).mean() < 0.02
    wide = np.kron(scl, np.ones((2, 2), np.uint8))
    assert np.median(blue[wide == 9]) > 4000 > 2500 > np.median(blue[np.isin(wide, (4, 5))])
    assert (scl == 3).any()
    clean, folder = product(earth, "east", "sentinel-2", "20250510")
    assert clean.cloud_share == 0
    assert not np.isin(image(folder, "SCL"), (0, 3, 8, 9)).any()


def test_sentinel2_metadata_says_offset_size_place_and_sun(earth: sandbox.Summary) -> None:
    """Offsets for 13 bands, the true shape of the small tile, listed images that exist, a plausible sun."""
    _, folder = product(earth, "east", "sentinel-2", "20250813")
    top = ElementTree.parse(folder / "MTD_MSIL2A.xml").getroot()
    offsets = [int(e.text or 0) for e in top.iter("BOA_ADD_OFFSET")]
    assert offsets == [-1000] * 13
    assert top.findtext(".//BOA_QUANTIFICATION_VALUE") == "10000"
    assert top.findtext(".//PRODUCT_URI") == folder.name
    listed = [e.text for e in top.iter("IMAGE_FILE")]
    assert all((folder / f"{name}.jp2").exists() for name in listed)
    assert len(listed) == 11
    tile = ElementTree.parse(next(folder.glob("GRANULE/*/MTD_TL.xml"))).getroot()
    size = tile.find(".//Size[@resolution='10']")
    assert size is not None
    assert size.findtext("NROWS") == "128"
    assert tile.findtext(".//HORIZONTAL_CS_CODE") == "EPSG:32633"
    assert tile.findtext(".//ULX") == "273920"
    assert float(tile.findtext(".//Mean_Sun_Angle/ZENITH_ANGLE") or 0) == pytest.approx(34.2, abs=2.0)
    with rasterio.open(folder / f"{listed[0]}.jp2") as source:
        assert source.crs.to_epsg() == 32633
        assert source.transform.c == 273_920


def test_worldview_counts_are_the_truth_through_the_vendors_law(earth: sandbox.Summary) -> None:
    """L = DN absCalFactor / effectiveBandwidth, rho = pi L d^2 / (E cos zenith): no bias, noise as stated."""
    _, folder = product(earth, "west", "worldview", "20250811")
    text = next(folder.glob("*.IMD")).read_text()
    groups = [g.split("END_GROUP")[0] for g in text.split("BEGIN_GROUP = BAND_")[1:]]
    number = {g[0]: {k: float(g.split(f"{k} = ")[1].split(";")[0]) for k in ("absCalFactor", "effectiveBandwidth")}
              for g in groups}  # fmt: skip
    elevation = float(text.split("meanSunEl = ")[1].split(";")[0])
    with rasterio.open(next(folder.glob("*.TIF"))) as source:
        dn = source.read().astype(float)
        assert source.res == (2.0, 2.0)
    want = truth(earth, "west", "toa_worldview_20250811")
    distance = 1.0 - 0.01672 * np.cos(2 * np.pi * (223 - 4) / 365.256)
    for i, (band, sun) in enumerate(zip("BGR", (2004.61, 1830.18, 1535.33), strict=True)):
        radiance = dn[i] * number[band]["absCalFactor"] / number[band]["effectiveBandwidth"]
        rho = np.pi * radiance * distance**2 / (sun * np.sin(np.radians(elevation)))
        coarse = rho.reshape(128, 5, 128, 5).mean((1, 3))
        assert abs((coarse - want[i]).mean()) < 5e-4
        assert np.corrcoef(coarse.ravel(), want[i].ravel())[0, 1] > 0.9


def test_land_cover_is_neither_trivial_nor_hopeless_for_a_pixel(earth: sandbox.Summary) -> None:
    """A nearest centroid on ten bands, fitted in the west and scored in the east, is right on half to four fifths."""
    sets = []
    for region in ("west", "east"):
        _, folder = product(earth, region, "sentinel-2", "20250813")
        layers = [image(folder, b).astype(float) for b in BANDS]
        wide = [a if len(a) == 128 else np.kron(a, np.ones((2, 2))) for a in layers]
        clear = np.isin(np.kron(image(folder, "SCL"), np.ones((2, 2), np.uint8)), (4, 5, 6, 7))
        sets.append((np.stack(wide, -1)[clear], truth(earth, region, "landcover_20250808")[clear]))
    (x, y), (xe, ye) = sets
    centroids = np.stack([x[y == k].mean(0) for k in range(1, 10)])
    guess = ((xe[:, None] - centroids) ** 2).sum(-1).argmin(1) + 1
    assert 0.5 < (guess == ye).mean() < 0.82


def test_a_pixels_response_is_a_blend_of_ones() -> None:
    """Footprint weights add up to 1, and a plane seen through them moves by exactly the displacement."""
    fine, coarse = Grid(32632, 0.0, 400.0, 2.0, 200, 200), Grid(32632, 100.0, 300.0, 10.0, 20, 20)
    ramp = np.broadcast_to(fine.x_m, (200, 200)).astype(np.float32)
    eye = optics.footprint(fine, coarse, (3.1, -4.4), 3.5)
    assert np.allclose(optics.see(np.ones((200, 200), np.float32), eye), 1.0, atol=1e-5)
    assert np.allclose(optics.see(ramp, eye), coarse.x_m - 3.1, atol=0.02)
    rise = np.broadcast_to(fine.y_m[:, None], (200, 200)).astype(np.float32)
    assert np.allclose(optics.see(rise, eye), coarse.y_m[:, None] + 4.4, atol=0.02)
