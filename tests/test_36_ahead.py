"""Batches are the same for any number of workers and after a stop; shards are read in rounds; damaged ones listed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from noise_cubes import batches_equal, cube_of, four_cubes, placed, stored

from catalog import cube
from catalog.sensors import SENTINEL_2
from ringmoe import pictures
from ringmoe.ahead import Ahead
from ringmoe.data import PAPER_MIX, ChipSampler, Crop, Reading, measured_mix
from ringmoe.errors import DataError
from ringmoe.looks import CubeSource
from ringmoe.measure import measure_contract
from ringmoe.modality import Batch, Modality
from ringmoe.pictures import Lost, Picture


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 px, so that small pictures have several."""
    monkeypatch.setattr(pictures, "BLOCK_PX", 64)
    monkeypatch.setattr("ringmoe.blocks.BLOCK_PX", 64)


def taken(stream: Ahead[Batch], count: int) -> list[Batch]:
    found = [next(stream) for _ in range(count)]
    stream.close()
    return found


def sampler_of(crop: Crop) -> ChipSampler:
    cubes = four_cubes()
    return ChipSampler(cubes, measure_contract(cubes).contract, batch=12, crop=crop, seed=5)


VARIED = Crop(32, turns=True, scale=(0.6, 1.6), reading=Reading(round_bytes=150_000, round_steps=3))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_bit(workers: int, small_blocks: None) -> None:
    """Ten batches over several rounds of blocks, scaled and turned: equal bit by bit for 0, 1 and 3 workers."""
    alone = taken(sampler_of(VARIED).stream(), 10)
    others = taken(sampler_of(VARIED).stream(workers=workers, ahead=5), 10)
    assert all(batches_equal(a, b) for a, b in zip(alone, others, strict=True))


def test_a_stream_resumed_goes_on_with_the_batch_it_would_have_had(small_blocks: None) -> None:
    """From batch 7 on, with another number of workers and nothing kept from before."""
    whole = taken(sampler_of(VARIED).stream(workers=2), 11)
    resumed = taken(sampler_of(VARIED).stream(7, workers=3), 4)
    assert all(batches_equal(a, b) for a, b in zip(whole[7:], resumed, strict=True))


def test_no_more_is_made_ahead_than_asked_for() -> None:
    """With five ahead and one taken, seven numbers are never begun; they come in order, and waiting is measured."""
    begun: list[int] = []
    lock = threading.Lock()

    def make(number: int) -> int:
        with lock:
            begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number

    stream = Ahead(make, 4, workers=3, ahead=5)
    assert next(stream) == 4
    until = time.monotonic() + 60
    while len(begun) < 6 and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(0.05)
    assert sorted(begun) == [4, 5, 6, 7, 8, 9]
    assert [next(stream) for _ in range(20)] == list(range(5, 25))
    assert stream.given == 21
    assert stream.waited_s > 0
    stream.close()


def test_what_goes_wrong_in_a_worker_is_told_to_who_asks() -> None:
    """The error of batch 2 comes when batch 2 is asked for, as itself."""
    stream = Ahead(lambda number: 1 // (2 - number), workers=2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)
    stream.close()


def test_the_mix_measured_is_the_mix_asked_for() -> None:
    """Chi-square of 1,920 chips against 70/20/5/5 below what chance exceeds in 1 of 20 runs (3 degrees: 7.81)."""
    sampler = sampler_of(Crop(32))
    drawn = dict.fromkeys(Modality, 0.0)
    for step in range(160):
        batch = sampler.batch(step)
        for modality, share in measured_mix(batch).items():
            drawn[modality] += share * 12
    assert sum(drawn.values()) == pytest.approx(1920)
    chi_square = sum((drawn[m] - 1920 * PAPER_MIX[m]) ** 2 / (1920 * PAPER_MIX[m]) for m in Modality)
    assert chi_square < 7.81


class Watched(CubeSource):
    """A cube that writes down which blocks were read."""

    def __init__(self, watched: xr.Dataset) -> None:
        super().__init__(watched)
        self.reads: list[tuple[int, int, int]] = []

    def read(self, picture: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        self.reads.append((picture, rows.start, columns.start))
        return super().read(picture, rows, columns)


def test_a_round_reads_few_blocks_each_once(small_blocks: None) -> None:
    """Of 32 blocks, rounds of four steps read the four that fit; whole, aligned, never twice; all turn up in time."""
    watched = Watched(cube_of(SENTINEL_2, size=256, n_times=2))
    contract = measure_contract([watched]).contract
    reading = Reading(round_bytes=4 * 64 * 64 * 13, round_steps=4)
    sampler = ChipSampler([watched], contract, batch=64, crop=Crop(32, reading=reading))
    watched.reads.clear()
    seen: set[tuple[int, int, int]] = set()
    for number in range(40):
        for step in range(4):
            sampler.batch(4 * number + step)
        assert len(watched.reads) == len(set(watched.reads)) <= 4
        seen |= set(watched.reads)
        watched.reads.clear()
        sampler = ChipSampler([watched], contract, batch=64, crop=Crop(32, reading=reading))
    assert all(row % 64 == 0 and column % 64 == 0 for _, row, column in seen)
    assert len(seen) == 32


def test_the_next_round_is_read_before_its_first_step(small_blocks: None) -> None:
    """What makes batches ahead has read the blocks of steps 4 to 7 when it has made step 3."""
    watched = Watched(cube_of(SENTINEL_2, size=256, n_times=2))
    contract = measure_contract([watched]).contract
    crop = Crop(32, reading=Reading(round_bytes=4 * 64 * 64 * 13, round_steps=4))
    sampler = ChipSampler([watched], contract, batch=64, crop=crop)
    make = sampler.stream(workers=1)._make
    for step in range(4):
        make(step)
    watched.reads.clear()
    sampler.batch(4)
    assert watched.reads == []


def damage(path: Path) -> None:
    """Overwrite the middle of a shard, its index of chunks left whole."""
    content = bytearray(path.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    path.write_bytes(bytes(content))


def two_looks(folder: Path) -> ChipSampler:
    """Two looks of one shard each, of which the first is damaged."""
    looks = stored(placed(cube_of(SENTINEL_2, size=128), "2024-05-01"), folder / "cube.zarr")
    contract = measure_contract([looks]).contract
    damage(folder / "cube.zarr/data/c/0/0/0/0")
    return ChipSampler([looks], contract, batch=16, crop=Crop(32, reading=Reading(most_lost=0.5)))


def test_a_damaged_shard_is_skipped_and_listed(tmp_path: Path) -> None:
    """Chips come from the look that is whole; the other is listed once, with what the reader said."""
    sampler = two_looks(tmp_path)
    batches = taken(sampler.stream(workers=3), 6)
    assert all(bool(torch.isfinite(b[Modality.MS].pixels_BCHW).all()) for b in batches)
    (lost,) = sampler.lost
    assert lost.name == "sentinel-2 sentinel-2-0 2024-05-01"
    assert lost.reason
    (tmp_path / "other").mkdir()
    again = taken(two_looks(tmp_path / "other").stream(), 6)
    assert all(batches_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_a_run_stops_where_too_much_is_damaged(tmp_path: Path) -> None:
    """One shard of two is more than the default of 5 %: an error that names it."""
    two_looks(tmp_path)
    contract = measure_contract([cube_of(SENTINEL_2, size=128)]).contract
    sampler = ChipSampler([cube.open(tmp_path / "cube.zarr")], contract, batch=16, crop=Crop(32))
    with pytest.raises(DataError, match="1 of 2 blocks of pixels cannot be read") as caught:
        taken(sampler.stream(workers=2), 6)
    assert "2024-05-01" in caught.value.item
    assert "5%" in caught.value.enough


class Empty(CubeSource):
    """A source of which nothing could be opened."""

    pictures: tuple[Picture, ...] = ()
    lost = (Lost("a.tif", "cut short"),)


def test_a_modality_without_a_sample_is_an_error() -> None:
    """A source without a picture is named; and where that is more than may be lost, what was lost is."""
    whole = cube_of(SENTINEL_2)
    contract = measure_contract([whole]).contract
    accepting = Crop(32, reading=Reading(most_lost=1.0))
    with pytest.raises(DataError, match="modality ms has no sample"):
        ChipSampler([whole, Empty(whole)], contract, crop=accepting)
    with pytest.raises(DataError, match="cannot be read") as caught:
        ChipSampler([whole, Empty(whole)], contract)
    assert "a.tif (cut short)" in caught.value.item
