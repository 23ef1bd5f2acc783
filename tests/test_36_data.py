"""Cubes become a contract, samples and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from noise_cubes import batches_equal, cube_of, four_cubes

from catalog.sensors import CBERS_4A, GAOFEN_3, LANDSAT, SENTINEL_1, SENTINEL_2, Quality
from ringmoe.contract import LOG_FLOOR
from ringmoe.data import EQUAL_MIX, PAPER_MIX, ChipSampler, Crop, Labelled, LabelledSampler, Reading, chips_from
from ringmoe.draw import Drawer
from ringmoe.errors import ContractError, DataError
from ringmoe.measure import measure_contract
from ringmoe.modality import Modality
from ringmoe.parallel import part_of


def test_a_complex_band_becomes_its_real_and_imaginary_channel():
    """Complex bands turn into (re, im) pairs in band order, NaN in both where either part is; invalid is where one is,
    or quality unusable."""
    cube = cube_of(GAOFEN_3, size=8)
    cube["data"][0, 1, 2, 3] = np.nan
    cube["quality"][0, 5, 5] = Quality.CLOUD
    cube["quality"][0, 6, 6] = Quality.SNOW
    pixels, valid = chips_from(cube.isel(time=0))
    z = cube["data"].values[0].copy()
    z[1, 2, 3] = complex(np.nan, np.nan)
    np.testing.assert_array_equal(pixels[0::2], z.real)
    np.testing.assert_array_equal(pixels[1::2], z.imag)
    assert pixels.dtype == np.float32
    assert not valid[2, 3]
    assert not valid[5, 5]
    assert valid.sum() == 62
    assert chips_from(cube.isel(time=0), described=True)[1].sum() == 63


def without_a_band(size: int = 64) -> xr.Dataset:
    """Sentinel-2 without B02, and without B01 in the upper half; nothing at all in the first column."""
    cube = cube_of(SENTINEL_2, size=size)
    cube["data"][:, 1] = np.nan
    cube["data"][:, 0, : size // 2] = np.nan
    cube["data"][:, :, :, 0] = np.nan
    return cube


def test_a_missing_band_is_simply_absent_where_bands_are_described():
    """Pixels count where any band was measured. Statistics are over the pixels that have a band; those of one that was
    never measured come from its neighbours. Batches, also scaled and labelled ones, keep NaN where a band is missing,
    and only there; the fixed embedding takes none of them."""
    cube, whole = without_a_band(), cube_of(SENTINEL_2, size=64)
    contract = measure_contract([cube], described=True).contract
    entry, values = contract.inputs[Modality.MS], whole["data"].values[..., 1:]
    np.testing.assert_allclose(entry.mean[2], values[:, 2].mean(), rtol=1e-5)
    np.testing.assert_allclose(entry.mean[0], values[:, 0, 32:].mean(), rtol=1e-5)
    np.testing.assert_allclose(entry.std[0], values[:, 0, 32:].std(), rtol=1e-4)
    low, high = sorted((entry.mean[0], entry.mean[2]))
    assert low < entry.mean[1] < high
    labels = Labelled(cube, np.ones((64, 64), np.uint8))
    samplers = [ChipSampler([cube], contract, batch=8, crop=Crop(32, scale=s)) for s in ((1.0, 1.0), (0.7, 1.4))]
    batches = [sampler.batch(0)[Modality.MS] for sampler in samplers]
    batches.append(LabelledSampler([labels], contract, batch=8, crop=Crop(32)).batch(0)[0])
    for chips in batches:
        known_BCHW = torch.isfinite(chips.pixels_BCHW)
        assert chips.valid_BHW.float().mean() > 0.9
        assert not known_BCHW[:, 1].any()
        assert torch.equal(known_BCHW[:, 2] & chips.valid_BHW, chips.valid_BHW)
        assert 0 < known_BCHW[:, 0][chips.valid_BHW].float().mean() < 1
    with pytest.raises(DataError, match="no pixel of modality ms is usable") as caught:
        measure_contract([cube])
    assert "has every band" in caught.value.enough
    fixed = measure_contract([whole]).contract
    with pytest.raises(DataError, match="all no-data"):
        ChipSampler([cube], fixed, batch=2, crop=Crop(32)).batch(0)


def test_a_band_that_nothing_is_known_of_is_refused():
    """Never measured, and no other band of its kind: named, with what would be enough."""
    cube = cube_of(SENTINEL_2, n_bands=1, size=32)
    odd = cube_of(SENTINEL_1, n_bands=1, size=32)
    merged = xr.concat([cube["data"], odd["data"] * np.nan], "band")
    mixed = xr.Dataset({"data": merged}, attrs={**cube.attrs, "bands": [*cube.attrs["bands"], *odd.attrs["bands"]]})
    with pytest.raises(DataError, match="nothing says what values a band has") as caught:
        measure_contract([mixed], described=True)
    assert caught.value.item == odd.attrs["bands"][0]["name"]


def test_the_contract_holds_the_statistics_of_usable_pixels_only():
    """Mean and deviation are those of usable pixels; a cloud of reflectance 5 changes nothing."""
    cube = cube_of(SENTINEL_2)
    usable = cube["data"].values.transpose(1, 0, 2, 3)[:, :, 10:].reshape(3, -1)
    cube["data"][:, :, :10] = 5.0
    cube["quality"][:, :10] = Quality.CLOUD
    contract = measure_contract([cube]).contract.inputs[Modality.MS]
    np.testing.assert_allclose(contract.mean, usable.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(contract.std, usable.std(axis=1), rtol=1e-4)
    assert contract.transform == "identity"
    assert [b.name for b in contract.bands] == ["B01", "B02", "B03"]


def test_radar_power_is_measured_in_logarithms_and_complex_amplitude_by_its_rms():
    """SAR-L2: moments of ln(power + floor). SAR-L1: mean 0, one rms for both parts of a band."""
    power, z = cube_of(SENTINEL_1), cube_of(GAOFEN_3)
    inputs = measure_contract([power, z]).contract.inputs
    logs = np.log(power["data"].values.transpose(1, 0, 2, 3).reshape(2, -1) + LOG_FLOOR)
    np.testing.assert_allclose(inputs[Modality.SAR_L2].mean, logs.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(inputs[Modality.SAR_L2].std, logs.std(axis=1), rtol=1e-4)
    rms = np.sqrt((np.abs(z["data"].values) ** 2).mean(axis=(0, 2, 3)) / 2)
    assert inputs[Modality.SAR_L1].mean == (0.0,) * 6
    np.testing.assert_allclose(inputs[Modality.SAR_L1].std, np.repeat(rms, 2), rtol=1e-5)
    assert [b.part for b in inputs[Modality.SAR_L1].bands] == ["re", "im"] * 3


def test_cubes_that_differ_are_left_out_with_the_reason():
    """The cube with the most pixels leads; other bands, quantities or resolutions are named, never mixed."""
    small, large, odd = cube_of(SENTINEL_2, 32), cube_of(SENTINEL_2, 64, gsd_m=12.0), cube_of(SENTINEL_2, 48, n_bands=2)
    toa, coarse = cube_of(SENTINEL_2, 32), cube_of(SENTINEL_2, 32, gsd_m=250.0)
    toa.attrs["quantity"] = "toa_reflectance_of_another_kind"
    measured = measure_contract([small, odd, large, toa, coarse])
    assert measured.used == (0, 2)
    assert measured.contract.inputs[Modality.MS].gsd_m == (10.0, 12.0)
    reasons = {left.index: left.reason for left in measured.left_out}
    assert "bands are B01 B02" in reasons[1]
    assert "toa_reflectance_of_another_kind" in reasons[3]
    assert "250 m" in reasons[4]


def test_large_cubes_are_measured_on_windows_close_to_the_whole():
    """Statistics over drawn windows agree with those of the whole cube, and depend on the seed alone."""
    cube = cube_of(SENTINEL_2, size=200)
    whole = measure_contract([cube]).contract.inputs[Modality.MS]
    drawn = [measure_contract([cube], seed=7, windows=8, window_px=32).contract for _ in range(2)]
    np.testing.assert_allclose(drawn[0].inputs[Modality.MS].mean, whole.mean, rtol=0.02)
    assert drawn[0].digest() == drawn[1].digest() != measure_contract([cube]).contract.digest()


def test_a_contract_without_cubes_or_usable_pixels_is_refused():
    """Nothing to measure is an error that says what would have been enough."""
    with pytest.raises(DataError, match="one cube"):
        measure_contract([])
    cloudy = cube_of(SENTINEL_2)
    cloudy["quality"][:] = Quality.CLOUD
    with pytest.raises(DataError, match="no pixel of modality ms is usable"):
        measure_contract([cloudy])


def test_a_batch_depends_on_seed_and_step_alone():
    """Two samplers, one that skipped ahead and one that read everything before, give the same step; seeds differ."""
    cubes = four_cubes()
    contract = measure_contract(cubes).contract
    make = lambda seed: ChipSampler(cubes, contract, batch=8, crop=Crop(32), seed=seed)  # noqa: E731
    first, second = make(3), make(3)
    for step in range(5):
        first.batch(step)
    assert batches_equal(first.batch(7), second.batch(7))
    assert batches_equal(next(second.stream(4)), first.batch(4))
    assert not batches_equal(first.batch(7), make(4).batch(7))
    assert not batches_equal(first.batch(7), first.batch(8))


def test_the_mix_of_modalities_holds_at_every_horizon():
    """Counts add up to the batch at every step, and over steps come within a chip or two of the mix."""
    cubes = four_cubes()
    contract = measure_contract(cubes).contract
    for mix in (PAPER_MIX, EQUAL_MIX):
        sampler = ChipSampler(cubes, contract, batch=32, mix=mix, crop=Crop(32))
        counts = [sampler.counts(step) for step in range(50)]
        assert all(sum(c.values()) == 32 for c in counts)
        for m in Modality:
            assert sum(c[m] for c in counts) == pytest.approx(1600 * mix[m], abs=3)
    assert {m: len(c) for m, c in sampler.batch(0).items()} == sampler.counts(0)


def test_a_rare_modality_comes_in_as_many_chips_as_there_are_ranks():
    """Counts are multiples of `least`, but of what is left of the batch, and keep to the mix; a batch smaller than
    that is of one modality."""
    cubes = four_cubes()
    contract = measure_contract(cubes).contract
    for batch, least in ((32, 4), (30, 4), (8, 8), (3, 8)):
        sampler = ChipSampler(cubes, contract, batch=batch, crop=Crop(32), least=least)
        counts = [sampler.counts(step) for step in range(1600 // batch)]
        assert all(sum(c.values()) == batch for c in counts)
        spare = batch % min(least, batch)
        for found in counts:
            largest = max(found, key=lambda m: found[m])
            assert all((n - (spare if m is largest else 0)) % min(least, batch) == 0 for m, n in found.items())
        for m in Modality if not spare else ():
            assert sum(c[m] for c in counts) == pytest.approx(batch * len(counts) * PAPER_MIX[m], abs=3 * least)


def test_twins_are_two_chips_of_one_place():
    """One after the other, of scales of their own where a scale may vary, and with ground in common; no odd batch."""
    cubes = four_cubes()
    contract = measure_contract(cubes, described=True).contract
    crop = Crop(16, turns=True, scale=(0.5, 2.0), twins=True)
    sampler = ChipSampler(cubes, contract, batch=48, mix=EQUAL_MIX, crop=crop, least=2)
    for modality, chips in sampler.batch(1).items():
        assert len(chips) % 4 == 0
        pairs = chips.pixels_BCHW[:, 0].flatten(1).unflatten(0, (-1, 2))
        assert sum(not torch.equal(first, second) for first, second in pairs) > len(pairs) // 2
        assert chips.gsd_B is not None
        scales = chips.gsd_B.view(-1, 2)
        if modality in (Modality.OPT, Modality.MS):
            assert (scales[:, 0] != scales[:, 1]).any()
        else:
            shared = [len(np.intersect1d(first.numpy(), second.numpy())) for first, second in pairs]
            assert min(shared) >= 8 * 8
    with pytest.raises(DataError, match="twins need an even batch"):
        ChipSampler(cubes, contract, batch=7, crop=crop)
    with pytest.raises(DataError, match="of each rank an even part") as caught:
        ChipSampler(cubes, contract, batch=6, crop=crop, least=2)
    assert caught.value.enough == "a multiple of 4"


@pytest.mark.parametrize(("ranks", "batch", "twins"), [(2, 16, True), (3, 16, False)])
def test_a_rank_draws_its_own_part_of_the_batch_and_no_more(ranks: int, batch: int, twins: bool, monkeypatch):
    """Bit for bit what is cut from the whole batch, of every modality, also ahead of time; so many draws as chips."""
    cubes = four_cubes()
    contract = measure_contract(cubes, described=True).contract
    crop = Crop(16, turns=True, scale=(0.7, 1.4), twins=twins)
    sampler = ChipSampler(cubes, contract, batch=batch, mix=EQUAL_MIX, crop=crop, least=ranks)
    drawn, draw = [], Drawer._draw
    for step in range(2):
        whole = sampler.batch(step)
        monkeypatch.setattr(Drawer, "_draw", lambda *args: drawn.append(1) or draw(*args))
        for rank in range(ranks):
            drawn.clear()
            mine, wanted = sampler.batch(step, rank), part_of(whole, rank, ranks)
            assert batches_equal(mine, wanted)
            assert all(torch.equal(chips.gsd_B, wanted[m].gsd_B) for m, chips in mine.items())
            assert len(drawn) == sum(map(len, wanted.values())) < batch
        monkeypatch.undo()
    stream = sampler.stream(1, workers=1, rank=ranks - 1)
    assert batches_equal(next(stream), mine)
    stream.close()
    with pytest.raises(DataError, match="a rank would be without images"):
        ChipSampler(cubes, contract, batch=2, crop=Crop(16), least=3).batch(0, 0)


def test_modalities_without_a_cube_are_left_out_of_the_mix():
    """With two modalities at hand their shares grow to one; with none it is an error."""
    cubes = four_cubes()[:2]
    contract = measure_contract(cubes).contract
    sampler = ChipSampler(cubes, contract, batch=9, crop=Crop(32))
    assert sampler.shares == pytest.approx({Modality.OPT: 7 / 9, Modality.MS: 2 / 9})
    with pytest.raises(DataError, match="nothing to draw"):
        ChipSampler(cubes, contract, mix={Modality.SAR_L1: 1.0})


def test_mirrors_keep_pixels_and_mask_together():
    """Every chip, mirrored or not, is a rectangle of the cube with its own mask; values are never changed."""
    cube = cube_of(SENTINEL_2, size=40, n_times=1)
    cube["data"][0, 0] = np.arange(1600, dtype=np.float32).reshape(40, 40)
    cube["quality"][0] = np.where(np.arange(1600).reshape(40, 40) % 7 == 0, Quality.CLOUD, Quality.CLEAR)
    sampler = ChipSampler([cube], measure_contract([cube]).contract, batch=24, crop=Crop(16))
    chips = sampler.batch(0)[Modality.MS]
    steps = set()
    for pixels, valid in zip(chips.pixels_BCHW[:, 0].numpy(), chips.valid_BHW.numpy(), strict=True):
        np.testing.assert_array_equal(valid, pixels % 7 != 0)
        dy, dx = pixels[1, 0] - pixels[0, 0], pixels[0, 1] - pixels[0, 0]
        assert abs(dy) == 40
        assert abs(dx) == 1
        steps.add((dy, dx))
    assert len(steps) == 4


def test_chips_that_are_all_no_data_are_an_error_and_poor_ones_are_drawn_again():
    """Chips have at least the share of usable pixels asked for; where there is none, the error names the cubes."""
    cube = cube_of(SENTINEL_2, size=128, n_times=1)
    cube["data"][:, :, :, 48:] = np.nan
    contract = measure_contract([cube]).contract
    chips = ChipSampler([cube], contract, batch=16, crop=Crop(32)).batch(0)[Modality.MS]
    assert float(chips.valid_BHW.float().mean(dim=(1, 2)).min()) >= 0.3
    cube["quality"][:] = Quality.CLOUD
    with pytest.raises(DataError, match="chips that are all no-data"):
        ChipSampler([cube], contract, batch=2, crop=Crop(32)).batch(0)


def test_a_cube_smaller_than_a_chip_is_padded_with_pixels_marked_invalid():
    """A 20 px cube fills 400 pixels of a 32 px chip; the rest is not valid."""
    cube = cube_of(SENTINEL_2, size=20, n_times=1)
    chips = ChipSampler([cube], measure_contract([cube]).contract, batch=2, crop=Crop(32)).batch(0)[Modality.MS]
    assert chips.pixels_BCHW.shape == (2, 3, 32, 32)
    assert chips.valid_BHW.sum(dim=(1, 2)).tolist() == [400, 400]


def test_looks_too_large_for_memory_give_the_same_chips():
    """Reading chip by chip and keeping whole looks draw the same batch."""
    cubes = four_cubes()
    contract = measure_contract(cubes).contract
    kept, read = (
        ChipSampler(cubes, contract, batch=8, crop=Crop(32, reading=Reading(room_bytes=n))) for n in (1 << 28, 0)
    )
    assert batches_equal(kept.batch(2), read.batch(2))


def test_another_contract_is_refused():
    """A sampler never takes a cube that does not honour the contract."""
    contract = measure_contract([cube_of(SENTINEL_2)]).contract
    with pytest.raises(ContractError):
        ChipSampler([cube_of(SENTINEL_2, n_bands=2)], contract)


def test_labels_travel_with_their_pixels():
    """Labels are mirrored and cropped with the chips, as int64 codes with 0 for nobody knows."""
    cube = cube_of(SENTINEL_2, size=40, n_times=1)
    cube["data"][0, 0] = np.arange(1600, dtype=np.float32).reshape(40, 40)
    labels = (np.arange(1600).reshape(40, 40) % 5).astype(np.uint8)
    source = Labelled(cube, labels)
    sampler = LabelledSampler([source], measure_contract([cube]).contract, batch=8, crop=Crop(16))
    chips, labels_BHW = sampler.batch(3)
    assert labels_BHW.dtype == torch.int64
    torch.testing.assert_close(labels_BHW, chips.pixels_BCHW[:, 0].long() % 5)
    assert sampler.counts[:5].tolist() == [320] * 5
    assert torch.equal(sampler.batch(3)[1], labels_BHW)


def several() -> list[xr.Dataset]:
    """Two satellites of one modality and quantity, of unequal size, bands and pixels."""
    cubes = [cube_of(SENTINEL_2, size=96), cube_of(LANDSAT, size=64, n_bands=5, seed=1, gsd_m=30.0)]
    for cube in cubes:
        cube.attrs["quantity"] = "surface_reflectance"
    return cubes


def test_several_sensors_share_a_contract_where_bands_are_described():
    """Each with its own statistics; a second quantity and undescribed bands stay out with the reason."""
    cubes = several()
    toa, nameless = cube_of(LANDSAT, size=32, gsd_m=30.0), several()[1]
    toa.attrs["quantity"] = "toa_reflectance"
    nameless.attrs["bands"] = [b | {"centre_nm": None} for b in nameless.attrs["bands"]]
    nameless.attrs["sensor"] = "unknown"
    measured = measure_contract([*cubes, toa, nameless], described=True)
    assert measured.used == (0, 1)
    assert measured.contract.inputs[Modality.MS].sensor == "sentinel-2"
    (landsat,) = measured.contract.also
    usable = cubes[1]["data"].values.transpose(1, 0, 2, 3).reshape(5, -1)
    np.testing.assert_allclose(landsat.mean, usable.mean(axis=1), rtol=1e-5)
    assert landsat.gsd_m == (30.0, 30.0)
    assert [left.index for left in measured.left_out] == [2, 3]
    assert measure_contract(cubes).used == (0,)


def test_chips_say_what_their_bands_and_pixels_are():
    """A batch is of one sensor at a time, in turn by pixels, with its bands and each chip's pixel size."""
    cubes = several()
    contract = measure_contract(cubes, described=True).contract
    sampler = ChipSampler(cubes, contract, batch=4, crop=Crop(32))
    seen = {3: 0, 5: 0}
    for step in range(60):
        chips = sampler.batch(step)[Modality.MS]
        seen[len(chips.bands)] += 1
        assert chips.bands == contract.input_of(Modality.MS, chips.bands).bands
        assert chips.gsd_B.tolist() == [{3: 10.0, 5: 30.0}[len(chips.bands)]] * 4
    assert seen[3] / 60 == pytest.approx(96**2 / (96**2 + 64**2), abs=0.2)
    assert batches_equal(sampler.batch(9), ChipSampler(cubes, contract, batch=4, crop=Crop(32)).batch(9))
    unseen = cube_of(CBERS_4A, n_bands=4, gsd_m=8.0)
    unseen.attrs["quantity"] = "surface_reflectance"
    chips = ChipSampler([unseen], contract, batch=2, crop=Crop(32)).batch(0)[Modality.MS]
    assert [b.name for b in chips.bands] == ["B", "G", "R", "N"]
    labels = np.ones((96, 96), np.uint8)
    with pytest.raises(DataError, match="one list of bands"):
        LabelledSampler([Labelled(cubes[0], labels), Labelled(cubes[1], labels[:64, :64])], contract)


def test_labels_on_another_grid_are_refused():
    """Labels of another size than their cube are an error."""
    cube = cube_of(SENTINEL_2, size=40)
    contract = measure_contract([cube]).contract
    with pytest.raises(DataError, match="do not lie on"):
        LabelledSampler([Labelled(cube, np.ones((39, 40), np.uint8))], contract)
    with pytest.raises(DataError, match="one modality"):
        LabelledSampler([], contract)
