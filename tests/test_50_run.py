"""The main job once from its start to its end: what it says, what it publishes, and that its numbers are true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from command_line import SMALL, Run, copy_of, ringmoe
from pyproj import Transformer
from scipy.ndimage import binary_erosion

from catalog import cube
from catalog.ledger import file_digest, tree_digest
from catalog.sandbox.sentinel1 import LOOKS
from catalog.sandbox.sentinel2 import NOISE

REGIONS = {"32632": "west", "32633": "east"}
TEN_M = ("B02", "B03", "B04", "B08")
NESZ = 10**-3.1
"""Noise of the sandbox's Gaofen-3 in each channel, as a sigma nought."""

Item = tuple[Path, dict[str, Any]]


def published(home: Path, collection: str = "*") -> list[Item]:
    paths = sorted(home.glob(f"catalog/{collection}/*/*.json"))
    return [(p, json.loads(p.read_text())) for p in paths if p.stem == p.parent.name]


def cubes(home: Path, sensor: str) -> Iterator[tuple[str, xr.Dataset]]:
    """Region and Dataset of each cube of a sensor."""
    for path, item in published(home, "cubes"):
        if item["properties"]["ringmoe:sensor"] == sensor:
            found = cube.open(path.parent / item["assets"]["cube"]["href"])
            yield REGIONS.get(str(found.attrs["tile"]).split("_")[0], _radar_region(home, item)), found


def _radar_region(home: Path, item: dict[str, Any]) -> str:
    return next((r for r in REGIONS.values() for name in _shifts(home, r) if name in item["id"]), "")


@cache
def _shifts(home: Path, region: str) -> dict[str, tuple[float, float]]:
    """Product to the displacement of its content in metres east and north."""
    products = json.loads((home / "sandbox" / "truth" / region / "shifts.json").read_text())["products"]
    return {name.removesuffix("_MUL").removesuffix(".SAFE"): (p["dx_m"], p["dy_m"]) for name, p in products.items()}


@cache
def truth(home: Path, region: str, kind: str) -> tuple[np.ndarray, rasterio.Affine, str]:
    with rasterio.open(home / "sandbox" / "truth" / region / f"{kind}.tif") as source:
        return source.read(), source.transform, str(source.crs)


def at(home: Path, region: str, kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(band, ...) of the truth at map positions, NaN outside."""
    values, affine, _ = truth(home, region, kind)
    column = np.floor((x - affine.c) / affine.a).astype(int)
    row = np.floor((y - affine.f) / affine.e).astype(int)
    inside = (row >= 0) & (column >= 0) & (row < values.shape[1]) & (column < values.shape[2])
    found = values[:, np.where(inside, row, 0), np.where(inside, column, 0)].astype(float)
    return np.where(inside, found, np.nan)


def ground(home: Path, region: str, kind: str, dataset: xr.Dataset) -> np.ndarray:
    """(band, y, x) of the truth at the pixels of a cube."""
    return at(home, region, kind, *np.meshgrid(dataset["x"].values, dataset["y"].values))


def test_the_summary_says_what_it_must(small_run: Run) -> None:
    """Every figure of the summary is there, of the kind and size that it must be."""
    found: Any = small_run.summary
    assert found["scenes"] == {"sentinel-2": 6, "sentinel-1": 2, "gaofen-3": 2, "worldview": 2}
    assert len(found["cubes"]) == 8
    for one in found["cubes"]:
        assert re.fullmatch(r"\d+ x \d+ x \d+ x \d+", one["size"])
        assert 0.5 < one["valid_share"] <= 1.0
    assert found["coreg_accepted"] == found["coreg_measured"] == 8
    assert 0 < found["coreg_px_after"] < 0.6 * found["coreg_px_before"] < 1.0
    assert found["loss_last"] < found["loss_first"]
    assert found["params"] == sorted(found["params"], reverse=True)
    assert len(set(found["params"])) == len(found["params"]) == 4
    assert 25e6 < found["params"][0] < 35e6
    assert 0.3 < found["map_accuracy"] < 1
    assert 0.3 < found["baseline_accuracy"] < 1
    assert 0.8 * 655.36 < sum(found["area_ha"].values()) <= 655.36  # what no look saw clearly is no class
    assert len(found["items"]) == found["recomputed"] == 12
    made = {p.name for p, i in published(small_run.home) if i["collection"] != "versions"}
    assert {Path(i).name for i in found["items"]} == made
    assert found["seconds"] > 0


def test_it_tells_a_person_the_same(small_run: Run) -> None:
    """The table holds scenes, cubes, residuals, losses, parameters, accuracies, areas and where the items lie."""
    said, summary = small_run.finished.out, dict[str, Any](small_run.summary)
    accuracy, baseline = (f"{summary[k]:.1%}" for k in ("map_accuracy", "baseline_accuracy"))
    wanted = ["gaofen-3", "3 x 10 x 256 x 256", accuracy, baseline, "winter crop", "12 units made", summary["catalog"]]
    wanted += [f"{count:,}" for count in summary["params"]]
    wanted += [f"{summary['coreg_px_before']:.2f} -> {summary['coreg_px_after']:.2f} px"]
    for words in wanted:
        assert words in said, words
    assert "Traceback" not in small_run.finished.said
    assert "INFO" not in small_run.finished.said


def test_every_item_is_valid(small_run: Run, validate_offline: Callable[[Any], None]) -> None:
    """Scenes, labels, heights, cubes, models, maps, versions pass core STAC and all their extensions."""
    scenes = list(small_run.home.glob("scenes/*/*/*.json"))
    made = [p for p, _ in published(small_run.home)]
    assert (len(scenes), len(made)) == (12 + 4 + 2, 12 + 4)
    for path in (*scenes, *made, *small_run.home.glob("*/catalog.json"), *small_run.home.glob("*/*/collection.json")):
        validate_offline(path)
    extensions = {e.split("/")[3] for p in made for e in json.loads(p.read_text())["stac_extensions"]}
    assert {"file", "projection", "raster", "classification", "processing", "mlm"} <= extensions


def test_checksums_are_true(small_run: Run) -> None:
    """Every asset of every item, scenes included, has the SHA-256 that its item says."""
    held = 0
    for path in [p for p, _ in published(small_run.home)] + sorted(small_run.home.glob("scenes/*/*/*.json")):
        for asset in json.loads(path.read_text())["assets"].values():
            target = path.parent / asset["href"]
            found = tree_digest(target)[0] if target.is_dir() else file_digest(target)
            assert asset["file:checksum"] == found, target
            held += 1
    assert held > 100


@pytest.mark.parametrize("name", ["catalog", "scenes"])
def test_pystac_walks_the_catalogue(small_run: Run, name: str) -> None:
    """From catalog.json every item is reached, each once, and every link leads to a file that is there."""
    top = pystac.Catalog.from_file(str(small_run.home / name / "catalog.json"))
    items = list(top.get_items(recursive=True))
    on_disk = {p.stem for p in small_run.home.glob(f"{name}/*/*/*.json") if p.stem == p.parent.name}
    assert sorted(i.id for i in items) == sorted(on_disk)
    for item in items:
        for link in item.links:
            target = link.get_absolute_href()
            assert target is not None
            assert Path(target).exists(), (item.id, link.rel, target)
        for asset in item.assets.values():
            assert Path(asset.get_absolute_href() or "").exists()


def test_a_map_leads_back_to_every_scene_it_is_made_of(small_run: Run) -> None:
    """derived_from goes from the map over cubes and models to registered scenes, and to all twelve of them."""
    ((path, _),) = published(small_run.home, "maps")
    seen: dict[str, str] = {}
    pending = [str(path)]
    while pending:
        item = pystac.Item.from_file(pending.pop())
        if item.id not in seen:
            seen[item.id] = str(item.collection_id)
            pending += [str(link.get_absolute_href()) for link in item.get_links("derived_from")]
    kinds = sorted(seen.values())
    assert [kinds.count(k) for k in ("maps", "models", "cubes")] == [1, 3, 8]
    scenes = {p.stem for p in small_run.home.glob("scenes/*/*/*.json") if p.parts[-3] not in ("labels", "dem")}
    assert {i for i, c in seen.items() if c not in ("maps", "models", "cubes")} == scenes
    assert len(scenes) == 12


def test_a_second_run_makes_nothing_and_is_quick(small_run: Run, tmp_path: Path) -> None:
    """The same command again, even after the home was moved: nothing recomputed, no file published is another."""
    home = copy_of(small_run.home, tmp_path / "moved")
    before = {p: p.stat().st_ino for p in home.glob("catalog/*/*/attempt-*/**/*") if p.is_file()}
    again = ringmoe(home, *SMALL, "--json", "-")
    assert again.code == 0, again.said
    assert "nothing recomputed: all 12 units found finished" in again.out
    summary = json.loads(again.out[again.out.index("\n{\n") :])
    assert summary["recomputed"] == 0
    changing = ("seconds", "recomputed", "items", "catalog", "dask")
    assert {k: v for k, v in summary.items() if k not in changing} == {
        k: v for k, v in small_run.summary.items() if k not in changing
    }
    assert {p: p.stat().st_ino for p in home.glob("catalog/*/*/attempt-*/**/*") if p.is_file()} == before
    assert again.processor_s < 0.3 * small_run.finished.processor_s


def test_sentinel2_is_the_reflectance_of_the_ground(small_run: Run) -> None:
    """Median error of clear pixels: the instrument's own noise in 10 m bands, under 0.01 in those seen at 20 m.

    The median of |e| is 0.6745 sigma for noise alone, and the sandbox's sigma is 0.002 + 0.008 rho. A scene that was
    brought onto the reference is a bilinear mean of 4 noisy pixels (less noise), 0.1 px off (a little more at edges).
    """
    for region, found in cubes(small_run.home, "sentinel-2"):
        assert found["data"].attrs["units"] == "1"
        for k, day in enumerate(found["time"].dt.strftime("%Y%m%d").values):
            rho = ground(small_run.home, region, f"reflectance_{day}", found)
            clear = found["quality"].values[k] == 1
            for name, seen, real in zip(found["band"].values, found["data"].values[k], rho, strict=True):
                error = (seen - real)[clear]
                noise = NOISE[0] + NOISE[1] * np.median(real[clear])
                bound = 1.6 * 0.6745 * noise if name in TEN_M else 0.01
                assert np.median(np.abs(error)) < bound, (region, day, name)
                assert abs(np.median(error)) < 0.001, (region, day, name)


def test_worldview_is_the_reflectance_above_the_atmosphere(small_run: Run) -> None:
    """Means of 5 by 5 pixels of 2 m against the 10 m truth: half of them within 0.001, and no bias over 1e-4.

    25 pixels leave 0.0025 / 5 of the noise, whose median modulus is 0.0003; the rest is 0.06 px left at edges.
    """
    for region, found in cubes(small_run.home, "worldview"):
        fine = found["data"].isel(time=0).sel(band=["B", "G", "R"])
        coarse = fine.coarsen(y=5, x=5).mean()
        x, y = np.meshgrid(coarse["x"].values, coarse["y"].values)
        error = coarse.values - at(small_run.home, region, "toa_worldview_20250811", x, y)
        error = error[:, np.isfinite(error).all(axis=0)]
        assert error.shape[1] > 60_000
        assert np.median(np.abs(error), axis=1).max() < 1e-3, region
        assert np.abs(error.mean(axis=1)).max() < 1e-4, region


def test_sentinel1_is_the_backscatter_of_its_land_cover(small_run: Run) -> None:
    """Mean sigma nought of all land within 1 %, of each class away from its edges within 4 standard errors and 0.2 dB.

    Speckle of L looks has a relative deviation of L^-1/2; bilinear resampling correlates neighbours, so one
    pixel in four counts as independent.
    """
    for region, found in cubes(small_run.home, "sentinel-1"):
        data = found["data"].isel(time=0).sel(band=["VV", "VH"]).values
        sigma = ground(small_run.home, region, "sigma0", found)
        cover = ground(small_run.home, region, "landcover_20250808", found)[0]
        both = np.isfinite(data).all(axis=0) & np.isfinite(sigma).all(axis=0)
        np.testing.assert_allclose(data[:, both].mean(axis=1) / sigma[:, both].mean(axis=1), 1.0, atol=0.01)
        tried = 0
        for code in range(2, 10):
            inner = binary_erosion((cover == code) & both, iterations=3)
            if (count := int(inner.sum())) < 400:
                continue
            ratio = data[:, inner].mean(axis=1) / sigma[:, inner].mean(axis=1)
            assert np.abs(ratio - 1).max() < 0.047 + 4 / np.sqrt(LOOKS * count / 4), (region, code, ratio)
            tried += 1
        assert tried >= 3


def test_gaofen3_keeps_power_and_phase_between_channels(small_run: Run) -> None:
    """Span less noise, and the mean of HH VV*, are the ground's within 4 standard errors of single-look speckle."""
    for region, found in cubes(small_run.home, "gaofen-3"):
        _, _, crs = truth(small_run.home, region, "covariance")
        place = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        x, y = place.transform(found["longitude"].values, found["latitude"].values)
        hh, hv, vv, real, imaginary = at(small_run.home, region, "covariance", x, y)
        z = found["data"].isel(time=0).sel(band=["HH", "HV", "VH", "VV"]).values
        seen = np.isfinite(z).all(axis=0) & np.isfinite(hh)
        assert seen.sum() > 80_000
        span = (np.abs(z[:, seen]) ** 2).sum(axis=0) - 4 * NESZ
        expected = (hh + 2 * hv + vv)[seen]
        assert abs(span.mean() - expected.mean()) < 4 * (span - expected).std() / np.sqrt(seen.sum() / 4), region
        product = z[0, seen] * z[3, seen].conj()
        cross = (real + 1j * imaginary)[seen]
        assert abs(product.mean() - cross.mean()) < 4 * (product - cross).std() / np.sqrt(seen.sum() / 4), region
        assert np.abs(product.mean()) > 0.3 * np.sqrt(hh[seen].mean() * vv[seen].mean())


def test_shifts_that_were_put_in_are_found(small_run: Run) -> None:
    """Of eight displaced scenes the correction is minus the displacement, half of them within 0.15 px, all 0.4 px."""
    wrong = []
    for sensor in ("sentinel-2", "sentinel-1", "worldview"):
        for region, found in cubes(small_run.home, sensor):
            known = _shifts(small_run.home, region)
            for one in found.attrs["coregistration"]:
                if "reference" in one:
                    dx, dy = known[one["scene"]]
                    wrong.append(np.hypot(one["dx_m"] + dx, one["dy_m"] + dy) / one["pixel_m"])
    assert len(wrong) == 8
    assert np.median(wrong) < 0.15
    assert max(wrong) < 0.4
