"""What pre-training is measured on: blocks kept apart, physical ranges, chips of images, terms that learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent / "benchmarks"))

import pretrain_sensors as sensors
import pretrain_sets as sets
from bench_ablations import difference, variants
from pretrain_draws import contract_of, labelled_images, labelled_pixels
from pretrain_run import Recipe, ask, ask_one, learn, sampler_of, summary

from ringmoe.evaluate import Probed
from ringmoe.modality import Modality

needs_data = pytest.mark.skipif(not sets.REALDATA.is_dir(), reason=f"no real data at {sets.REALDATA}")


@pytest.fixture(scope="module")
def land() -> sets.Found:
    return sets.sandbox(128)


@needs_data
def test_scenes_are_split_by_blocks_and_neighbours_of_the_border_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each hundred 1 to 50 are learned from, 56 to 75 asked about; pre-training holds none of the latter."""
    seen: list[Path] = []

    def picture(path: Path, side: int | None = None) -> np.ndarray:
        seen.append(path)
        return np.full((3, 2, 2), int(path.stem[1:]), np.float32)

    monkeypatch.setattr(sets, "_picture", picture)
    found = sets.rsscn7(sets.REALDATA / "rsscn7_256")
    (task,) = found.tasks
    learned, asked = ({int(x[0, 0, 0]) for x in images} for images in (task.train, task.test))
    assert {(n - 1) % 100 + 1 for n in learned} == set(range(1, 51))
    assert {(n - 1) % 100 + 1 for n in asked} == set(range(56, 76))
    assert min(abs(a - b) for a in learned for b in asked) > 5
    assert (len(task.train), len(task.test)) == (1400, 560)
    assert {int(x[0, 0, 0]) for x in found.scenes[0].images} == learned
    assert sorted(np.bincount([int(y) for y in task.test_labels])) == [80] * 7


def rows_of(image_CHW: np.ndarray) -> list[np.ndarray]:
    """Every pixel of an image by its row, cut into pieces of 64."""
    rows, cols = image_CHW.shape[1:]
    return [image_CHW[:, y : y + 1, x : x + 64] for y in range(rows) for x in range(0, cols - 63, 64)]


@needs_data
@pytest.mark.parametrize("name", [n for n in sets.READERS if n not in ("rsscn7_256", "ombria")])
def test_pixels_are_physical_and_what_is_asked_is_no_part_of_pretraining(name: str) -> None:
    """Reflectance near 0 to 1, power above 0, complex parts of mean 0; no asked tile is in a pre-training image."""
    found = sets.READERS[name](sets.REALDATA / name)
    for scenes in found.scenes:
        for image in scenes.images:
            assert image.dtype == np.float32
            assert len(image) == len(scenes.sensor.bands)
            values = image[np.isfinite(image)]
            if scenes.sensor.modality is Modality.MS:
                assert -0.3 < values.min() < np.median(values) < 1.2
            if scenes.sensor.modality is Modality.SAR_L2:
                assert values.min() > 0
            if scenes.sensor.modality is Modality.SAR_L1:
                assert abs(values.mean()) < 0.05 * values.std()
    for task in found.tasks:
        (scenes,) = (s for s in found.scenes if s.sensor == task.sensor)
        assert {y.shape for y in (*task.train_labels, *task.test_labels)} == {(64, 64)}
        learned = {image[:, :, col].tobytes() for cut in scenes.images for image in rows_of(cut) for col in range(64)}
        asked = [tile[:, :1, 0].tobytes() for tile in task.test if np.isfinite(tile[:, 0, 0]).all()]
        assert asked
        assert not learned & set(asked)


@needs_data
def test_floods_keep_the_split_of_their_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """125 places to learn from, before and after, 35 to be asked about, none of them in pre-training."""

    def picture(path: Path, side: int | None = None) -> np.ndarray:
        return np.full((3, 2, 2), int(path.stem[-4:]) / 1e3 if "mask" not in path.name else 1.0, np.float32)

    monkeypatch.setattr(sets, "_picture", picture)
    found = sets.ombria(sets.REALDATA / "ombria")
    assert [(len(t.train), len(t.test)) for t in found.tasks] == [(125, 35)] * 2
    assert [len(s.images) for s in found.scenes] == [250, 250]
    radar, optical = found.tasks
    assert (radar.test[0].shape[0], optical.test[0].shape[0]) == (1, 3)
    assert optical.test_labels[0].tolist() == [[1, 1], [1, 1]]
    learned = {float(x[0, 0, 0]) for x in found.scenes[1].images}
    assert not learned & {float(x[0, 0, 0]) for x in optical.test}
    assert learned == {float(x[0, 0, 0]) for x in optical.train}


def test_the_sandbox_asks_about_another_region_than_it_is_learned_from(land: sets.Found) -> None:
    """Two western landscapes, one eastern; nine classes at most; HV and VH differ by noise alone."""
    (scenes,), (task,) = land.scenes, land.tasks
    assert len(scenes.images) == 2
    assert (len(task.train), len(task.test)) == (8, 4)
    assert max(int(y.max()) for y in task.test_labels) <= 8
    hv, vh = scenes.images[0][2:4], scenes.images[0][4:6]
    assert np.mean((hv - vh) ** 2) == pytest.approx(sets.NOISE, rel=0.05)


def test_absent_folders_are_said_and_skipped(tmp_path: Path) -> None:
    """Without real data the sandbox alone is left."""
    corpus = sets.read_all(sandbox_px=128, root=tmp_path)
    assert len(corpus.skipped) == len(sets.READERS)
    assert [t.name for t in corpus.tasks] == ["sandbox_sar_l1"]


def fake(modality: Modality, sensor: sensors.Sensor, sides: tuple[int, ...]) -> sets.Scenes:
    rng = np.random.default_rng(len(sides))
    images = tuple(rng.gamma(2.0, 0.1, (len(sensor.bands), n, n)).astype(np.float32) for n in sides)
    assert sensor.modality is modality
    return sets.Scenes(sensor, images)


def test_images_in_memory_are_sources_of_chips() -> None:
    """Over 40 batches five eighths are optical; complex pixels are cut, values kept; optical ones are of any size from
    their own to four times that, and two of one place come one after the other."""
    optical = sets.Scenes(sensors.RSSCN7, tuple(np.full((3, 256, 256), i, np.float32) for i in range(9)))
    radar = fake(Modality.SAR_L1, sensors.SANDBOX_L1, (96,))
    others = [fake(Modality.SAR_L2, sensors.FLOODS_S1, (96,)), fake(Modality.MS, sensors.DSEN2, (96,))]
    scenes = [optical, radar, *others]
    sampler = sampler_of(Recipe(batch=16), scenes, contract_of(scenes), 3)
    batches = [sampler.batch(step) for step in range(40)]
    assert sum(len(b[Modality.OPT]) for b in batches) == pytest.approx(0.625 * 640, abs=4)
    drawn = torch.cat([b[Modality.SAR_L1].pixels_BCHW for b in batches if Modality.SAR_L1 in b])
    assert drawn.shape[1:] == (8, 64, 64)
    assert np.isin(drawn.numpy(), radar.images[0]).all()
    first, second = torch.cat([b[Modality.OPT].pixels_BCHW.mean((1, 2, 3)) for b in batches]).view(-1, 2).unbind(1)
    assert len(first.unique()) == 9
    torch.testing.assert_close(first, second)
    sizes = torch.cat([b[Modality.OPT].gsd_B for b in batches])
    assert sizes.min() < 1.2 < 3.5 < sizes.max() <= 4.0


def test_what_was_not_measured_is_no_pixel_of_a_source() -> None:
    """NaN in every channel: not valid; in one alone: valid, and missing there; the image itself is not touched."""
    image = np.ones((10, 4, 4), np.float32)
    image[:, 0, 0] = image[3, 1, 1] = np.nan
    pixels, valid = sets.Scenes(sensors.DSEN2, (image,)).read(0, slice(0, 2), slice(0, 2))
    np.testing.assert_array_equal(valid, [[False, True], [True, True]])
    assert np.isnan(pixels[3, 1, 1])
    pixels[:] = 7
    assert image[0, 1, 1] == 1


def test_the_contract_measures_each_sensor_by_itself() -> None:
    """Detected radar by the logarithm of its power, complex by its root mean square; two sensors stand side by side."""
    scenes = [fake(Modality.SAR_L2, sensors.FLOODS_S1, (64,)), fake(Modality.SAR_L2, sensors.GAMMA_S1, (64, 64)),
              fake(Modality.SAR_L1, sensors.CAPELLA, (64,))]  # fmt: skip
    contract = contract_of(scenes)
    assert [c.sensor for c in contract.sensors(Modality.SAR_L2)] == ["sen1floods11-s1", "s1-gamma0"]
    image = scenes[0].images[0].astype(np.float64)
    assert contract.inputs[Modality.SAR_L2].mean[1] == pytest.approx(np.log(image[1] + 1e-5).mean(), rel=1e-6)
    complex_ = contract.inputs[Modality.SAR_L1]
    assert complex_.mean == (0.0,) * 8
    assert complex_.std[0] == complex_.std[1] == pytest.approx(np.sqrt((scenes[2].images[0][:2] ** 2).mean()), rel=1e-6)
    assert contract.input_of(Modality.SAR_L2, sensors.GAMMA_S1.bands).sensor == "s1-gamma0"


def test_pixels_asked_about_are_balanced_and_known() -> None:
    """Eight of each class of an image that has them; unknown ones never; labels are those of the places."""
    image = np.random.default_rng(0).random((2, 96, 96), np.float32)
    labels = np.full((96, 96), -1)
    labels[20:80, 20:50], labels[30:33, 60] = 0, 1
    found = labelled_pixels(sensors.FLOODS_S1, [image], [labels], 64, seed=0)
    assert torch.bincount(found.labels_N).tolist() == [8, 3]
    rows, cols = found.rows[0] + 16, found.cols[0] + 16
    assert labels[rows, cols].tolist() == found.labels_N.tolist()
    whole = labelled_images(sensors.RSSCN7, [np.ones((3, 128, 128), np.float32)] * 60, [np.array(1)] * 60, 64)
    assert [c.pixels_BCHW.shape[0] for c in whole.chips] == [50, 10]
    assert float(whole.chips[0].gsd_B[0]) == 2.0


def test_a_short_run_learns_and_its_table_has_every_row(land: sets.Found) -> None:
    """Twelve steps on the sandbox: the terms asked for fall, and the table of pixels holds models and baselines."""
    shape = {"dim": 16, "depths": (1, 1, 1, 1), "specialized": 2, "collaborative": 2}
    recipe = Recipe(changes=shape, batch=16, rate=2e-3, precision="float32")
    contract = contract_of(land.scenes)
    run = learn(recipe, land.scenes, contract, seed=0, steps=12)
    assert run.history.images == 192
    power = run.history.terms["power/sar_l1"]
    assert sum(power[-3:]) < sum(power[:3])
    assert "views/sar_l1" in run.history.terms
    (task,) = land.tasks
    table = ask({"pretrained": run.model, "untrained": run.untrained}, task, seed=0)
    assert {"pretrained", "untrained", "pretrained/stage1", "untrained/stage4", "image_statistics"} <= set(table)
    assert ask_one(run.model, task, seed=0) == table["pretrained"]
    assert summary([table, table], "knn")["random_features_std"] == 0.0


def test_every_ablation_changes_one_thing() -> None:
    """Experts off leave as many parameters, or as much work, in one network; a term off is off; Landsat is gone."""
    scenes = [
        sets.Scenes(s, ())
        for s in (sensors.RSSCN7, sensors.DSEN2, sensors.LANDSAT8, sensors.SANDBOX_L1, sensors.OMBRIA_S1)
    ]
    found = variants(Recipe(), scenes)
    plain = found["plain"].recipe
    assert found["without_power"].recipe.objective.terms.power == 0
    assert found["without_power"].recipe.objective.terms.determinant == plain.objective.terms.determinant
    assert found["constant_gate"].recipe.constant_gate
    flops, size = (found[f"dense_of_equal_{what}"].recipe.config() for what in ("flops", "parameters"))
    assert (flops.specialized, flops.collaborative, flops.mlp_ratio, size.mlp_ratio) == (0, 0, 12, 84)
    assert [s.sensor.name for s in found["without_landsat"].scenes if s.sensor.modality is Modality.MS] == ["s2-l1c"]
    assert {s.sensor.modality for s in found["ms_alone"].scenes} == {Modality.MS}


def test_differences_are_paired() -> None:
    """Pairs that differ by 0.1 each have no deviation, whatever the seeds' own; the interval is Student's."""
    same = difference([(0.5, 0.4), (0.7, 0.6), (0.3, 0.2)])
    assert same["difference"] == 0.1
    assert same["std"] < 1e-9
    wide = difference([(0.5, 0.5), (0.5, 0.4), (0.5, 0.3)])
    assert wide["high"] - wide["difference"] == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-4)
    probed = Probed(0.5, 0.6, 0.1, 0.2)
    assert summary([{"m": probed}], "linear") == {"m": 0.6, "m_std": 0.0}
