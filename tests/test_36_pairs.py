"""Paired chips of two modalities cover the same ground, pixel on pixel, at near dates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from noise_cubes import batches_equal, cube_of, placed

from catalog.sensors import GAOFEN_3, LANDSAT, SENTINEL_1, SENTINEL_2, Quality, Sensor
from ringmoe.data import Crop
from ringmoe.errors import ContractError, DataError
from ringmoe.measure import measure_contract
from ringmoe.modality import Modality
from ringmoe.overlap import Part, nearest, overlap
from ringmoe.pairs import Pairing, PairSampler
from ringmoe.pictures import Picture, Place

LEFT, TOP = 500_000.0, 5_000_000.0


def located(
    sensor: Sensor, day: str, size: int = 96, gsd_m: float = 10.0, east: float = 0, south: float = 0
) -> xr.Dataset:
    """A cube whose first two bands are eastings and southings in metres from a corner of the tile."""
    cube = placed(cube_of(sensor, size=size, n_times=1, n_bands=2, gsd_m=gsd_m), day, LEFT + east, TOP - south)
    x = (np.arange(size) + 0.5) * gsd_m
    cube["data"][0, 0], cube["data"][0, 1] = (x + east)[None, :], (x + south)[:, None]
    return cube


def sampler_of(cubes: list[xr.Dataset], **more: object) -> PairSampler:
    contract = measure_contract(cubes, described=True).contract
    return PairSampler(cubes, contract, batch=8, crop=Crop(32, turns=True), **more)  # type: ignore[arg-type]


def ground(chips) -> np.ndarray:
    """Mean easting and southing of each corner's quarter of every chip: where it lies and which way it is laid."""
    pixels_BCHW = chips.pixels_BCHW.double()
    half = pixels_BCHW.shape[-1] // 2
    quarters = [pixels_BCHW[:, :, rows, columns] for rows in (slice(0, half), slice(half, None))
                for columns in (slice(0, half), slice(half, None))]  # fmt: skip
    return torch.stack([quarter.mean(dim=(2, 3)) for quarter in quarters], dim=1).numpy()


def test_chips_of_a_pair_show_the_same_ground() -> None:
    """Two cubes whose values are places, one beginning 170 m east and 90 m south: equal to a centimetre."""
    cubes = [located(SENTINEL_2, "2024-05-01"), located(SENTINEL_1, "2024-05-03", east=170, south=90)]
    sampler = sampler_of(cubes)
    seen = set()
    for step in range(4):
        batch = sampler.batch(step)
        np.testing.assert_allclose(ground(batch[Modality.MS]), ground(batch[Modality.SAR_L2]), atol=0.01)
        seen |= {tuple(row) for row in ground(batch[Modality.MS])[:, 0].round()}
    assert len(seen) > 20


@pytest.mark.parametrize(("fine", "coarse"), [(10.0, 20.0), (10.0, 30.0), (10.0, 15.0)])
def test_finer_pixels_give_longer_chips_of_the_same_ground(fine: float, coarse: float) -> None:
    """32 px of the coarser and as many metres of the finer, in whole pixels of both."""
    size = int(96 * coarse / fine)
    cubes = [located(SENTINEL_2, "2024-05-01", gsd_m=coarse), located(SENTINEL_1, "2024-05-02", size=size, gsd_m=fine)]
    wanted = round(32 * coarse / fine)
    if wanted % 32:
        with pytest.raises(DataError, match="make a pair"):
            sampler_of(cubes)
        return
    batch = sampler_of(cubes).batch(0)
    assert batch[Modality.MS].pixels_BCHW.shape[-2:] == (32, 32)
    assert batch[Modality.SAR_L2].pixels_BCHW.shape[-2:] == (wanted, wanted)
    np.testing.assert_allclose(ground(batch[Modality.MS]), ground(batch[Modality.SAR_L2]), atol=0.01)
    assert batch[Modality.SAR_L2].gsd_B is not None
    assert set(batch[Modality.SAR_L2].gsd_B.tolist()) == {fine}


def test_grids_are_fitted_in_whole_pixels() -> None:
    """Pixels of 10 and 15 m meet every 30 m; none for half a pixel off, another zone, no overlap."""
    at = lambda step, east=0.0, crs="EPSG:32632", size=600: Picture(  # noqa: E731
        "p", size, size, Place(crs, LEFT + east, TOP, step)
    )
    found = overlap([at(10.0), at(15.0, east=45.0)], 64, 512)
    assert found is not None
    assert found.parts == (Part(0, 6, 3, 96), Part(0, 1, 2, 64))
    assert found.parts[0].window(2, 1) == (slice(6, 102), slice(9, 105))
    assert (found.down, found.right) == ((600 * 10 - 960) // 30, (600 * 10 - 60 - 960) // 30)
    assert overlap([at(10.0), at(10.0, east=5.0)], 64, 512) is None
    assert overlap([at(10.0), at(10.0, crs="EPSG:32633")], 64, 512) is None
    assert overlap([at(10.0), at(10.0, east=5_400.0)], 64, 512) is None
    assert overlap([at(1.0), at(10.0)], 64, 512) is None


def test_the_nearest_date_is_taken() -> None:
    """Of looks 9, 2 and 5 days apart, the second; none within one day; what has no date is near to all."""
    place = Place("EPSG:32632", LEFT, TOP, 10.0)
    others = [Picture("o", 64, 64, place, 100.0 + gap) for gap in (9, -2, 5)]
    assert nearest(Picture("a", 64, 64, place, 100.0), others, 6.0) == 1
    assert nearest(Picture("a", 64, 64, place, 100.0), others, 1.0) is None
    assert nearest(Picture("a", 64, 64, place), others, 1.0) == 0


def test_pairs_depend_on_seed_and_step_alone() -> None:
    """The same for any number of workers and from any step on; another seed, other places."""
    cubes = [located(SENTINEL_2, "2024-05-01"), located(SENTINEL_1, "2024-05-03")]
    alone = sampler_of(cubes)
    stream = sampler_of(cubes).stream(3, workers=2)
    assert all(batches_equal(alone.batch(step), next(stream)) for step in range(3, 7))
    stream.close()
    assert not batches_equal(alone.batch(3), sampler_of(cubes, seed=1).batch(3))


def test_a_missing_band_is_no_hole_in_a_pair() -> None:
    """Radar that lacks a polarisation still makes pairs where bands are described, and none where they are fixed."""
    cubes = [located(SENTINEL_2, "2024-05-01"), located(SENTINEL_1, "2024-05-03")]
    fixed = measure_contract(cubes).contract
    cubes[1]["data"][0, 1] = np.nan
    chips = sampler_of(cubes).batch(0)[Modality.SAR_L2]
    assert chips.valid_BHW.all()
    assert torch.isfinite(chips.pixels_BCHW).flatten(2).any(2).tolist() == [[True, False]] * 8
    with pytest.raises(DataError, match="paired chips that are all no-data"):
        PairSampler(cubes, fixed, batch=2, crop=Crop(32)).batch(0)


def test_what_makes_no_pair_is_an_error() -> None:
    """Dates too far apart, radar geometry, clouds everywhere, and a cube of another contract."""
    near, far = located(SENTINEL_2, "2024-05-01"), located(SENTINEL_1, "2024-06-01")
    with pytest.raises(DataError, match="no pictures of ms and sar_l2 make a pair") as caught:
        sampler_of([near, far])
    assert "within 6 days" in caught.value.enough
    assert sampler_of([near, far], pairing=Pairing(days=40)).pairs == 1
    slant = cube_of(GAOFEN_3, n_times=1)
    slant.attrs["geobox"] = None
    with pytest.raises(DataError, match="0 of sar_l1 on a grid"):
        sampler_of([near, slant], pairing=Pairing((Modality.MS, Modality.SAR_L1)))
    contract = measure_contract([near, far]).contract
    near["quality"][:] = Quality.CLOUD
    with pytest.raises(DataError, match="paired chips that are all no-data"):
        PairSampler([near, far], contract, Pairing(days=40)).batch(0)
    with pytest.raises(ContractError):
        PairSampler([cube_of(LANDSAT), far], contract)
