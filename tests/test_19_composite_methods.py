"""Median, medoid and clearest against slow loops over pixels, for any masks, ties and number of looks."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from catalog.composite import composite
from catalog.sensors import Quality

CLEAR, SNOW = int(Quality.CLEAR), int(Quality.SNOW)
METHODS = ("median", "medoid", "clearest")


def random_cube(times: int, rows: int = 5, columns: int = 6, bands: int = 3, seed: int = 0) -> xr.Dataset:
    """Values on a coarse grid, so that equals occur; every quality; single bands missing here and there."""
    chance = np.random.default_rng(seed)
    data = (chance.integers(0, 6, (times, bands, rows, columns)) / 8).astype("float32")
    data[chance.uniform(size=data.shape) < 0.1] = np.nan
    quality = chance.choice([int(q) for q in Quality], (times, rows, columns)).astype("uint8")
    quality[:, 0, 0] = int(Quality.CLOUD)
    quality[:, 0, 1] = int(Quality.NO_DATA)
    days = np.datetime64("2024-05-01T10:00", "ns") + np.arange(times) * np.timedelta64(1, "D")
    return xr.Dataset(
        {"data": (("time", "band", "y", "x"), data), "quality": (("time", "y", "x"), quality)},
        coords={"time": days, "band": [f"b{k}" for k in range(bands)]},
        attrs={"units": "1"},
    )


def slowly(cube: xr.Dataset, method: str) -> dict[str, np.ndarray]:
    """The same in plain Python, pixel by pixel, by the definitions alone."""
    data, quality, time = (cube[name].values for name in ("data", "quality", "time"))
    clarity = [float(np.isin(q, (CLEAR, SNOW)).mean()) for q in quality]
    shape = quality.shape[1:]
    out = {
        "data": np.full((data.shape[1], *shape), np.nan),
        "spread": np.full(shape, np.nan),
        "looks": np.zeros(shape, int),
        "first": np.full(shape, np.datetime64("NaT", "ns")),
        "last": np.full(shape, np.datetime64("NaT", "ns")),
        "quality": np.zeros(shape, int),
    }
    for place in np.ndindex(shape):
        pixel = [[float(v) for v in data[(t, slice(None), *place)]] for t in range(len(time))]
        kinds = [int(quality[(t, *place)]) for t in range(len(time))]
        used = [t for t, k in enumerate(kinds) if k in (CLEAR, SNOW) and any(v == v for v in pixel[t])]
        out["looks"][place] = len(used)
        if not used:
            seen = [k for k in kinds if k != int(Quality.NO_DATA)]
            out["quality"][place] = seen[-1] if seen and seen[-1] not in (CLEAR, SNOW) else int(Quality.NO_DATA)
            continue
        value, dates, kind = CHOICES[method](pixel, kinds, used, clarity)
        out["data"][(slice(None), *place)] = value
        out["first"][place], out["last"][place] = time[dates[0]], time[dates[-1]]
        out["quality"][place] = kind
        out["spread"][place] = np.mean([s for b, v in enumerate(value) if v == v for s in [mad(pixel, used, b, v)]])
    return out


def middle(values: list[float]) -> float:
    found = sorted(v for v in values if v == v)
    half = len(found) // 2
    return math.nan if not found else found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2


def mad(pixel: list[list[float]], used: list[int], band: int, value: float) -> float:
    return middle([abs(pixel[t][band] - value) for t in used])


def by_median(pixel: list[list[float]], kinds: list[int], used: list[int], _: list[float]) -> tuple:
    snow = sum(kinds[t] == SNOW for t in used) > len(used) / 2
    return [middle([pixel[t][b] for t in used]) for b in range(len(pixel[0]))], used, SNOW if snow else CLEAR


def by_medoid(pixel: list[list[float]], kinds: list[int], used: list[int], _: list[float]) -> tuple:
    def cost(one: int) -> float:
        apart = []
        for other in used:
            squares = [(a - b) ** 2 for a, b in zip(pixel[one], pixel[other], strict=True) if a == a and b == b]
            if other != one and squares:
                apart.append(math.sqrt(math.fsum(squares) / len(squares)))
        return math.fsum(apart) / len(apart) if apart else math.inf

    costs = {t: cost(t) for t in used}
    best = next(t for t in used if costs[t] <= min(costs.values()) * (1 + 1e-9))
    return pixel[best], [best], kinds[best]


def by_clearest(pixel: list[list[float]], kinds: list[int], used: list[int], clarity: list[float]) -> tuple:
    best = max(used, key=lambda t: (kinds[t] == CLEAR, clarity[t], t))
    return pixel[best], [best], kinds[best]


CHOICES = {"median": by_median, "medoid": by_medoid, "clearest": by_clearest}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("times", [1, 2, 7, 24])
def test_every_method_equals_its_definition(method: str, times: int) -> None:
    """Values, spread, counts, dates and quality of every pixel, ties and missing bands among them."""
    for seed in range(3):
        cube = random_cube(times, seed=seed)
        made, wanted = composite(cube, method), slowly(cube, method)  # type: ignore[arg-type]
        for name in ("looks", "quality", "first", "last"):
            np.testing.assert_array_equal(made[name].values, wanted[name], err_msg=name)
        for name in ("data", "spread"):
            np.testing.assert_allclose(made[name].values, wanted[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_never_clear_stays_empty(method: str) -> None:
    """All cloud: no value, no date, no spread, no look, and the quality says cloud."""
    cube = random_cube(6)
    cube["quality"][:] = int(Quality.CLOUD)
    made = composite(cube, method)  # type: ignore[arg-type]
    assert np.isnan(made["data"].values).all()
    assert np.isnan(made["spread"].values).all()
    assert np.isnat(made["first"].values).all()
    assert not made["looks"].values.any()
    assert (made["quality"].values == int(Quality.CLOUD)).all()


def test_ties_are_settled_by_rule() -> None:
    """The corners of a square cost the same: the medoid is the earliest; of equally clear dates the latest counts."""
    corners = np.array([[0.1, 0.3], [0.3, 0.3], [0.3, 0.1], [0.1, 0.1]], "float32")[:, :, None, None]
    cube = random_cube(4, 1, 2, 2).isel(x=slice(1)).assign(data=(("time", "band", "y", "x"), corners))
    cube["quality"][:] = CLEAR
    assert str(composite(cube, "medoid")["first"].values[0, 0])[:10] == "2024-05-01"
    assert str(composite(cube, "clearest")["first"].values[0, 0])[:10] == "2024-05-04"


@pytest.mark.parametrize("method", METHODS)
def test_a_thousand_looks_stay_within_memory(method: str) -> None:
    """1,000 looks at 32 pixels, as by definition, in 16 MB; a matrix of all pairs would take 256 MB."""
    cube = random_cube(1000, 1, 32, 2, seed=9)
    tracemalloc.start()
    made = composite(cube, method)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    few = slice(0, 3) if method == "medoid" else slice(None)  # the definition takes a million distances a pixel
    wanted = slowly(cube.isel(x=few), method)
    np.testing.assert_allclose(made["data"].isel(x=few).values, wanted["data"], rtol=1e-6)
    np.testing.assert_allclose(made["spread"].isel(x=few).values, wanted["spread"], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(made["looks"].isel(x=few).values, wanted["looks"])


@pytest.mark.parametrize("method", METHODS)
def test_temporaries_do_not_grow_with_the_chunk(method: str) -> None:
    """A chunk of 24 MB and one of four times that: what a kernel takes beside its input and output grows little."""
    taken = []
    for rows in (64, 256):
        cube = random_cube(12, rows, 2048, 2)
        tracemalloc.start()
        made = composite(cube, method)  # type: ignore[arg-type]
        size = sum(v.nbytes for v in made.data_vars.values())
        taken.append(tracemalloc.get_traced_memory()[1] - 2 * size - 2 * cube["quality"].nbytes)
        tracemalloc.stop()
    assert taken[1] < 2 * taken[0]


def test_a_part_is_composited_as_its_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the clarity of the whole cube's dates each part of it gives the pixels of the whole; blocks change none."""
    cube = random_cube(9, 8, 8)
    clarity = [float(np.isin(q, (CLEAR, SNOW)).mean()) for q in cube["quality"].values]
    for method in METHODS:
        whole = composite(cube, method)  # type: ignore[arg-type]
        parts = [composite(cube.isel(x=slice(k, k + 2)), method, clarity=clarity) for k in range(0, 8, 2)]  # type: ignore[arg-type]
        xr.testing.assert_equal(xr.concat(parts, "x"), whole)
        monkeypatch.setattr("catalog.composite.BLOCK_BYTES", 2000)
        xr.testing.assert_equal(composite(cube, method), whole)  # type: ignore[arg-type]
        monkeypatch.undo()
