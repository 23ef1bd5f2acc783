"""Folders of images and memory-mapped chips are sources of chips like cubes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from noise_cubes import batches_equal, cube_of, placed
from rasterio.transform import from_origin

from catalog.sensors import SENTINEL_1, SENTINEL_2, Quality
from ringmoe.data import ChipSampler, Crop, Reading
from ringmoe.errors import ContractError, DataError
from ringmoe.images import ImageKind, ImageSource, open_images
from ringmoe.mapped import Cut, open_chips, write_chips
from ringmoe.measure import measure_contract
from ringmoe.modality import BandSpec, Modality

RGB = tuple(
    BandSpec(n, n, *at) for n, at in (("red", (660.0, 60.0)), ("green", (560.0, 60.0)), ("blue", (480.0, 60.0)))
)
PLAIN = ImageKind("google-earth", Modality.OPT, RGB, "digital_number", gsd_m=0.6, scale=1 / 255)


def picture(number: int, size: int = 48, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (bands, size, size), dtype=np.uint8)


def save(path: Path, counts: np.ndarray, **more: object) -> Path:
    shape = {"count": counts.shape[0], "height": counts.shape[1], "width": counts.shape[2], "dtype": counts.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **shape, **more) as image:
            image.write(counts)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve PNG of 48 px in two folders."""
    for number in range(12):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        save(tmp_path / "ab"[number % 2] / f"{number:02d}.png", picture(number))
    return tmp_path


def test_images_are_pictures_of_their_kind(folder: Path) -> None:
    """Values are counts times what one is worth; bands, quantity and pixel size are those stated."""
    (source,) = open_images(folder, PLAIN)
    assert [Path(p.name).name for p in source.pictures] == [
        f"{n:02d}.png" for n in [*range(0, 12, 2), *range(1, 12, 2)]
    ]
    pixels, valid = source.read(1, slice(4, 20), slice(8, 40))
    np.testing.assert_allclose(pixels, picture(2)[:, 4:20, 8:40] / 255, rtol=1e-6)
    assert valid.all()
    contract = measure_contract([source]).contract.inputs[Modality.OPT]
    every = np.stack([picture(n) for n in range(12)]) / 255
    np.testing.assert_allclose(contract.mean, every.mean(axis=(0, 2, 3)), rtol=1e-5)
    assert (contract.sensor, contract.quantity, contract.gsd_m) == ("google-earth", "digital_number", (0.6, 0.6))


def test_chips_of_images_and_of_cubes_share_a_batch(folder: Path) -> None:
    """The mix holds over sources of both kinds; any number of workers gives the same bits."""
    sources = [*open_images(folder, PLAIN), cube_of(SENTINEL_2)]
    contract = measure_contract(sources).contract
    sampler = ChipSampler(sources, contract, batch=18, crop=Crop(32))
    assert sampler.shares == pytest.approx({Modality.OPT: 7 / 9, Modality.MS: 2 / 9})
    assert {m: len(c) for m, c in sampler.batch(0).items()} == sampler.counts(0)
    stream = sampler.stream(workers=3)
    assert all(batches_equal(next(stream), sampler.batch(step)) for step in range(4))
    stream.close()


def test_a_georeferenced_image_states_its_own_pixels(tmp_path: Path) -> None:
    """GeoTIFF in UTM of 3 m and 5 m are two sources with places; no-data is not valid."""
    kind = ImageKind(
        "planetscope", Modality.MS, (BandSpec("B1", "blue", 490.0, 50.0),), "surface_reflectance", scale=1e-4
    )
    for step in (3.0, 5.0):
        counts = np.full((1, 40, 40), 1200, np.uint16)
        counts[0, 0, 0] = 0
        grid = from_origin(400_000, 5_100_000, step, step)
        save(tmp_path / f"{step:g}.tif", counts, driver="GTiff", crs="EPSG:32633", transform=grid, nodata=0)
    fine, coarse = open_images(tmp_path, kind)
    assert [fine.attrs["gsd_m"], coarse.attrs["gsd_m"]] == [3.0, 5.0]
    assert coarse.pictures[0].place == ("EPSG:32633", 400_000.0, 5_100_000.0, 5.0)
    pixels, valid = fine.read(0, slice(0, 4), slice(0, 4))
    assert valid.sum() == 15
    assert np.isnan(pixels[0, 0, 0])
    np.testing.assert_allclose(pixels[0, 1:], 0.12, rtol=1e-6)


def test_images_without_a_pixel_size_are_refused(folder: Path) -> None:
    """A PNG does not say how large its pixels are: the kind must; an empty folder is an error too."""
    unsaid = ImageKind("google-earth", Modality.OPT, RGB, "digital_number")
    with pytest.raises(DataError, match="how large the pixels") as caught:
        open_images(folder, unsaid)
    assert "ImageKind(gsd_m=...)" in caught.value.todo
    (folder / "none").mkdir()
    with pytest.raises(DataError, match="no image of modality opt"):
        open_images(folder / "none", PLAIN)


def test_damaged_images_are_skipped_and_listed(folder: Path) -> None:
    """One that cannot be opened, one of another number of bands and one cut short; more than allowed stops the run."""
    (folder / "a" / "00.png").write_bytes(b"no image")
    save(folder / "a" / "02.png", picture(2, bands=1))
    cut = folder / "a" / "04.png"
    cut.write_bytes(cut.read_bytes()[:3000])
    sources = open_images(folder, PLAIN)
    contract = measure_contract(sources).contract
    sampler = ChipSampler(sources, contract, batch=32, crop=Crop(32, reading=Reading(most_lost=0.3)))
    for step in range(4):
        assert bool(sampler.batch(step)[Modality.OPT].valid_BHW.all())
    assert [Path(lost.name).name for lost in sampler.lost] == ["00.png", "02.png", "04.png"]
    assert "1 raster bands instead of 3" in sampler.lost[1].reason
    with pytest.raises(DataError, match="2 of 12 blocks"):
        ChipSampler(sources, contract)


def test_a_whole_round_of_chips_comes_back_from_memory_maps(folder: Path, tmp_path: Path) -> None:
    """Squares of images and cubes written and mapped: counts stay counts, values and masks keep their bits."""
    cube = placed(cube_of(SENTINEL_2, size=80, n_times=2), "2024-05-01")
    cube["quality"][0, :9] = Quality.CLOUD
    sources = [*open_images(folder, PLAIN), cube]
    contract = measure_contract(sources).contract
    written = write_chips(tmp_path / "chips", sources, contract, Cut(side_px=48))
    mapped, read_back = open_chips(tmp_path / "chips")
    assert read_back.digest() == contract.digest()
    assert written.pictures == 12 + 2 * 4
    images, squares = mapped
    stored = np.load(next((tmp_path / "chips").glob("opt_*.npy")))
    assert stored.dtype == np.uint8
    for number, (got, asked) in enumerate(zip(images.pictures, sources[0].pictures, strict=True)):
        assert got.name.startswith(asked.name)
        whole = slice(0, 48)
        np.testing.assert_array_equal(images.read(number, whole, whole)[0], sources[0].read(number, whole, whole)[0])
    last = squares.pictures[3]
    assert last.place == ("EPSG:32632", 500_320.0, 4_999_680.0, 10.0)
    pixels, valid = squares.read(3, slice(0, 48), slice(0, 48))
    np.testing.assert_array_equal(pixels, cube["data"].values[0, :, 32:, 32:])
    assert valid.all()
    assert not squares.read(0, slice(0, 48), slice(0, 48))[1][:9].any()


def test_a_count_that_means_no_data_is_a_band_missing(tmp_path: Path) -> None:
    """One band of one image has it: absent there alone where bands are described, also once mapped into memory, while
    images that have every band stay counts; all bands are asked for where they are fixed."""
    kind = replace(PLAIN, nodata=0)
    (tmp_path / "images").mkdir()
    for number in range(3):
        counts = picture(number).clip(1)
        if number == 1:
            counts[1, :, :24] = 0
        save(tmp_path / "images" / f"{number}.tif", counts, driver="GTiff")
    (source,) = open_images(tmp_path / "images", kind)
    whole = slice(0, 48)
    pixels, valid = source.read(1, whole, whole)
    assert valid.all()
    assert np.isnan(pixels).sum(axis=(1, 2)).tolist() == [0, 48 * 24, 0]
    contract = measure_contract([source], described=True).contract
    write_chips(tmp_path / "chips", [source], contract, Cut(side_px=48))
    ((mapped,), _) = open_chips(tmp_path / "chips")
    for number in range(3):
        for got, asked in zip(mapped.read(number, whole, whole), source.read(number, whole, whole), strict=True):
            np.testing.assert_array_equal(got, asked)
    stored = [np.load(path).dtype for path in sorted((tmp_path / "chips").glob("opt_*.npy"))]
    assert stored == [np.uint8, np.float32, np.uint8]
    fixed = measure_contract([source]).contract
    write_chips(tmp_path / "fixed", [source], fixed, Cut(side_px=48))
    assert open_chips(tmp_path / "fixed")[0][0].read(1, whole, whole)[1].sum() == 48 * 24


def test_mapped_chips_give_the_same_batches_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    """A sampler takes memory maps as it takes cubes, with crops, scale and turns."""
    sources = [*open_images(folder, PLAIN), cube_of(SENTINEL_2), cube_of(SENTINEL_1)]
    write_chips(tmp_path / "chips", sources, measure_contract(sources).contract, Cut(side_px=48))
    crop = Crop(32, turns=True, scale=(0.7, 1.4))
    alone = ChipSampler(*open_chips(tmp_path / "chips"), batch=16, crop=crop)
    stream = ChipSampler(*open_chips(tmp_path / "chips"), batch=16, crop=crop).stream(2, workers=3)
    assert all(batches_equal(alone.batch(step), next(stream)) for step in range(2, 6))
    stream.close()


def test_maps_that_are_cut_short_are_listed(folder: Path, tmp_path: Path) -> None:
    """A file cut short loses its chips; a folder whose writer was stopped, or that is in use, is refused."""
    sources = [*open_images(folder, PLAIN), cube_of(SENTINEL_2)]
    contract = measure_contract(sources).contract
    write_chips(tmp_path / "chips", sources, contract, Cut(side_px=48))
    (damaged,) = (tmp_path / "chips").glob("ms_*.npy")
    damaged.write_bytes(damaged.read_bytes()[:50_000])
    mapped, _ = open_chips(tmp_path / "chips")
    with pytest.raises(DataError, match="blocks of pixels cannot be read") as caught:
        ChipSampler(mapped, contract, batch=64).batch(0)
    assert "sentinel-2" in caught.value.item
    with pytest.raises(DataError, match="something lies"):
        write_chips(tmp_path / "chips", sources, contract)
    (tmp_path / "chips" / "chips.json").unlink()
    with pytest.raises(DataError, match="no memory-mapped chips"):
        open_chips(tmp_path / "chips")


def test_only_what_honours_the_contract_is_written(folder: Path, tmp_path: Path) -> None:
    """A cube of another contract is refused before a file is written."""
    contract = measure_contract([cube_of(SENTINEL_2)]).contract
    with pytest.raises(ContractError):
        write_chips(tmp_path / "chips", [cube_of(SENTINEL_2, n_bands=2)], contract)
    assert not (tmp_path / "chips").exists()


def test_so_many_squares_as_asked_for_are_written(tmp_path: Path) -> None:
    """Five of eighteen, the same five by the same seed; squares of clouds are left out."""
    cube = cube_of(SENTINEL_2, size=96)
    contract = measure_contract([cube]).contract
    names = []
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_chips(tmp_path / run, [cube], contract, Cut(side_px=32, most=5, seed=seed))
        names.append([p.name for p in open_chips(tmp_path / run)[0][0].pictures])
    assert len(names[0]) == 5
    assert names[0] == names[1] != names[2]
    cube["quality"][0] = Quality.CLOUD
    assert write_chips(tmp_path / "d", [cube], contract, Cut(side_px=32)).pictures == 9
    cube["quality"][:] = Quality.CLOUD
    with pytest.raises(DataError, match="no square of the pictures is usable"):
        write_chips(tmp_path / "e", [cube], contract, Cut(side_px=32))


BARE = """
import sys
class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"xarray", "zarr", "rasterio", "dask", "odc", "pandas"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hiding())
from ringmoe.data import ChipSampler, Crop
from ringmoe.mapped import open_chips
stream = ChipSampler(*open_chips(sys.argv[1]), batch=8, crop=Crop(32)).stream(workers=2)
print(sum(float(chips.pixels_BCHW.double().sum()) for chips in next(stream).values()))
stream.close()
"""


def test_mapped_chips_need_torch_and_numpy_alone(folder: Path, tmp_path: Path, root: Path) -> None:
    """In a fresh interpreter without xarray, zarr and rasterio the same batch is drawn."""
    sources = [*open_images(folder, PLAIN), cube_of(SENTINEL_1)]
    write_chips(tmp_path / "chips", sources, measure_contract(sources).contract, Cut(side_px=48))
    here = ChipSampler(*open_chips(tmp_path / "chips"), batch=8, crop=Crop(32)).batch(0)
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path / "chips")],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) == sum(float(chips.pixels_BCHW.double().sum()) for chips in here.values())


def test_rsscn7_is_a_folder_like_any_other(tmp_path: Path) -> None:
    """One class of the real set: 300 JPEG of 256 px become chips; a copy with one damaged file loses that one."""
    real = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).parents[2] / "shared/realdata")) / "rsscn7_256/aGrass"
    if not real.exists():
        pytest.skip("real data are not at hand")
    sources = open_images(sorted(real.glob("*.jpg"))[:60], PLAIN)
    assert isinstance(sources[0], ImageSource)
    assert len(sources[0].pictures) == 60
    chips = ChipSampler(sources, measure_contract(sources).contract, batch=8).batch(0)[Modality.OPT]
    assert chips.pixels_BCHW.shape == (8, 3, 64, 64)
    assert 0 <= float(chips.pixels_BCHW.min()) < float(chips.pixels_BCHW.max()) <= 1
    assert torch.isfinite(chips.pixels_BCHW).all()
    for path in sorted(real.glob("*.jpg"))[:20]:
        shutil.copy(path, tmp_path)
    (tmp_path / "a003.jpg").write_bytes(b"")
    copied = open_images(tmp_path, PLAIN)
    assert [Path(lost.name).name for lost in ChipSampler(copied, measure_contract(copied).contract).lost] == [
        "a003.jpg"
    ]
