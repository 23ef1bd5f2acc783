"""The loader's figures: images a second from cubes beside what nano consumes, and from memory-mapped chips."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

from noise_source import SIDE_PX, noise_sources  # noqa: E402
from turns import machine  # noqa: E402

from ringmoe import presets  # noqa: E402
from ringmoe.backbone import RingMoE  # noqa: E402
from ringmoe.contract import DataContract  # noqa: E402
from ringmoe.data import ChipSampler, Crop  # noqa: E402
from ringmoe.mapped import Cut, open_chips, write_chips  # noqa: E402
from ringmoe.measure import measure_contract  # noqa: E402
from ringmoe.modality import Batch  # noqa: E402
from ringmoe.objectives import MaskedModelling, Objective  # noqa: E402
from ringmoe.train import TrainConfig, pretrain  # noqa: E402

SCALE = (0.7, 1.4)
GIANT_APPETITE = 334.0
"""Images of 192 px a second that the giant would learn from on one GPU at the share of its peak aimed at."""


class Batches(Dataset[Batch]):
    """Batches of a sampler by number, for the peer: worker processes that send them through a pipe."""

    def __init__(self, sampler: ChipSampler, count: int) -> None:
        self.sampler, self.count = sampler, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> Batch:
        return self.sampler.batch(step)


def images_of(batch: Batch) -> int:
    """How many images a batch holds."""
    return sum(len(chips) for chips in batch.values())


def rate(batches: Iterable[Batch]) -> float:
    """Images a second."""
    began = time.perf_counter()
    images = sum(images_of(batch) for batch in batches)
    return images / (time.perf_counter() - began)


def some(sampler: ChipSampler, count: int, workers: int, start: int = 0) -> Iterator[Batch]:
    """So many batches, made ahead."""
    stream = sampler.stream(start, workers=workers, ahead=2 * workers)
    for _ in range(count):
        yield next(stream)
    stream.close()


def from_cubes(folder: Path, quick: bool, workers: int) -> dict[str, Any]:
    """Chips of 64 px from Zarr stores, read from the first byte on, beside nano's steps on the same machine."""
    from noise_cubes import cube_of, placed, stored

    from catalog.sensors import GAOFEN_3, SENTINEL_1, SENTINEL_2, WORLDVIEW

    size = 512 if quick else 1024
    kinds = ((WORLDVIEW, 3), (SENTINEL_2, 10), (GAOFEN_3, 4), (SENTINEL_1, 2))
    cubes = [
        stored(placed(cube_of(sensor, size, 2, bands, seed=i), "2024-05-01"), folder / f"{sensor.id}.zarr")
        for i, (sensor, bands) in enumerate(kinds)
    ]
    contract = measure_contract(cubes, described=True).contract
    count, rounds = (30, 1) if quick else (200, 3)
    rates = []
    for turn in range(rounds):
        sampler = ChipSampler(cubes, contract, crop=Crop(64, turns=True, scale=SCALE), seed=turn)
        rates.append(rate(some(sampler, count, workers)))
    loader = statistics.median(rates)
    return {"cube_images_per_second": loader, **beside_nano(sampler, contract, loader, 4 if quick else 20)}


def beside_nano(sampler: ChipSampler, contract: DataContract, loader: float, steps: int) -> dict[str, Any]:
    """What nano consumes with batches at hand, and how long its steps wait where one thread loads beside them."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = RingMoE(presets.nano(64), contract).to(device)
    objective = MaskedModelling(Objective(model), sparse=True).to(device)  # the fastest steps there are
    config = TrainConfig(steps=steps, warmup=1, precision="bfloat16")
    at_hand = [sampler.batch(step) for step in range(steps)]
    pretrain(model, objective, at_hand[:2], replace(config, steps=2))
    nano = pretrain(model, objective, at_hand, config).images_per_second
    stream = sampler.stream(steps, workers=1)
    history = pretrain(model, objective, stream, config)
    stream.close()
    return {
        "loader_over_nano": loader / nano,
        "nano_images_per_second": nano,
        "nano_images_per_second_while_loading": history.images_per_second,
        "waiting_s_per_step": stream.waited_s / stream.given,
        "waiting_share": stream.waited_s / history.seconds,
    }


def from_maps(folder: Path, quick: bool, workers: int) -> dict[str, Any]:
    """Chips of 192 px from memory maps of 256 px: varied, only cropped, and read again after the cache was dropped."""
    sources = noise_sources(8 if quick else 60)
    contract = measure_contract(sources).contract
    written = write_chips(folder, sources, contract, Cut(side_px=SIDE_PX))
    count, rounds = (4, 1) if quick else (20, 5)
    varied = Crop(192, turns=True, scale=SCALE)
    found: dict[str, list[float]] = {"": [], "_cold": [], "_cropped": [], "_dataloader": []}
    for turn in range(rounds):
        drop_from_cache(folder)
        found["_cold"].append(rate(some(sampler_of(folder, varied, turn), count, workers)))
        found[""].append(rate(some(sampler_of(folder, varied, turn), count, workers)))
        found["_cropped"].append(rate(some(sampler_of(folder, Crop(192), turn), count, workers)))
        peer = Batches(sampler_of(folder, varied, turn), count)
        found["_dataloader"].append(rate(DataLoader(peer, batch_size=None, num_workers=workers)))
    figures = {f"images_per_second{name}": statistics.median(values) for name, values in found.items()}
    pairs = zip(found[""], found["_dataloader"], strict=True)
    return {
        **figures,
        "vs_dataloader": statistics.median(ours / theirs for ours, theirs in pairs),
        "giant_appetite": GIANT_APPETITE,
        "mapped_pictures": written.pictures,
        "mapped_mb": written.size_bytes / 1e6,
    }


def sampler_of(folder: Path, crop: Crop, seed: int) -> ChipSampler:
    """A sampler of memory-mapped chips, opened anew."""
    return ChipSampler(*open_chips(folder), batch=64, crop=crop, seed=seed)


def drop_from_cache(folder: Path) -> None:
    """Have the files of a folder read from the disk again, where the system follows the advice."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little data: figures to look at, not to quote")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 12), help="threads that load")
    given = parser.parse_args()
    has_cubes = all(importlib.util.find_spec(name) is not None for name in ("xarray", "zarr", "rasterio"))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if has_cubes:
            figures |= from_cubes(Path(folder), given.quick, given.workers)
        figures |= from_maps(Path(folder) / "chips", given.quick, given.workers)
    rounded = {key: round(float(value), 4) for key, value in figures.items()}
    head = {"name": "loader", "ratio": rounded.get("loader_over_nano"), "quick": given.quick, "workers": given.workers}
    print(json.dumps({**head, **rounded, **machine()}))


if __name__ == "__main__":
    main()
