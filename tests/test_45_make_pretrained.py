"""How the shipped checkpoint is made: of open scenes alone, stage by stage, with a card that tells it truly."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

sys.path.append(str(Path(__file__).resolve().parent / "benchmarks"))

import make_pretrained
import shipped_card
import shipped_data
from training_cubes import home

from catalog import cube
from ringmoe import checkpoint, presets, shipped
from ringmoe.backbone import RingMoEConfig
from ringmoe.mapped import Cut, write_chips
from ringmoe.measure import measure_contract

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[2] / "shared" / "realdata"))
OPEN = {"ftw_s2_bitemporal", "landsat8_l2sp_stac", "landsat5_nbar_ga"}
TINY = RingMoEConfig(
    16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=2, collaborative=2, embedding="spectral"
)
RECIPE = replace(make_pretrained.Recipe(), batch=6, mix="ms=1,sar_l2=1")


@pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real data at {REALDATA}")
def test_open_scenes_are_reflectance_of_open_folders_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read lies in a folder whose licence allows it; values are reflectance; the eastern half of the scene
    that is asked about is no part of it."""
    opened: list[Path] = []
    plain = rasterio.open

    def watched(path, *args, **more):  # type: ignore[no-untyped-def]
        opened.append(Path(path))
        return plain(path, *args, **more)

    monkeypatch.setattr(rasterio, "open", watched)
    scenes = shipped_data.open_scenes(REALDATA)
    assert {path.relative_to(REALDATA).parts[0] for path in opened} == OPEN
    assert [s.dataset.attrs["sensor"] for s in scenes] == ["sentinel-2", "sentinel-2", "landsat", "landsat-5"]
    for scene in scenes:
        values = scene.dataset["data"].values
        assert scene.dataset.attrs["quantity"] == "surface_reflectance"
        assert np.nanmin(values) >= -0.2
        assert 0.02 < np.nanmedian(values) < 1.0
        assert np.isfinite(values).mean() > 0.2
        assert scene.licence
        west, south, east, north = scene.bbox
        assert -180 <= west < east <= 180
        assert -90 <= south < north <= 90
    assert scenes[2].dataset.sizes["x"] == 256


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chips of two small cubes, as if the first stage were done."""
    folder = tmp_path_factory.mktemp("made")
    _, refs = home(folder / "home", labelled=False)
    cubes = [cube.open(ref.asset) for ref in refs]
    contract = measure_contract(cubes, described=True).contract
    write_chips(folder / "work" / "chips", cubes, contract, Cut(side_px=96))
    told = {
        "rows": [{"what": "two cubes", "licence": "ours", "sensors": ["sentinel-2", "sentinel-1"]}],
        "extent": {"geometry": {}, "start": "2025-06-01T00:00:00+00:00", "end": "2025-07-31T00:00:00+00:00"},
    }
    (folder / "work" / "chips" / shipped_data.SOURCES).write_text(json.dumps(told))
    return folder / "work"


def test_stages_end_in_a_folder_that_its_card_tells_truly(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, cut to an expert of each kind, rounded and written; what is done is found; another recipe is refused;
    the card has the figures of the files, and the command no folder of this machine."""
    monkeypatch.setattr(presets, "nano", lambda pixels: TINY)
    monkeypatch.setattr(shipped_card, "scores", lambda model, realdata: {})
    (work / "plan.json").write_text(json.dumps({"recipe": asdict(RECIPE), "steps": 4}))
    model = make_pretrained.train(work, RECIPE, 60.0, 1)
    made = checkpoint.load(work / "trained")
    assert made.meta["steps"] == made.meta["steps_planned"] == 4
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), made.model.parameters(), strict=True))
    small = make_pretrained.prune(work, RECIPE, model, 0.01, 1)
    left = small.config.survivors_of(0, 2)
    assert ([len(ids) for ids in left.specialized], len(left.collaborative)) == ([1, 1], 1)
    again = make_pretrained.prune(work, RECIPE, make_pretrained.train(work, RECIPE, 60.0, 1), 0.01, 1)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))
    with pytest.raises(SystemExit, match="another recipe"):
        make_pretrained._planned(
            work, replace(RECIPE, rate=1e-3), make_pretrained.sampler_of(work / "chips", RECIPE), 1
        )

    facts = shipped_card.ship(work, work / "out" / "nano", "python make_pretrained.py WORK", Path("nowhere"))
    found = checkpoint.load(work / "out" / "nano")
    assert {p.dtype for p in found.model.parameters()} == {torch.bfloat16}
    assert facts["parameters"] == sum(p.numel() for p in small.parameters())
    card = (work / "out" / "nano" / shipped.CARD).read_text()
    assert f"| parameters | {facts['parameters']} |" in card
    assert facts["sha256"] in card
    assert "| two cubes | sentinel-2, sentinel-1 | ours |" in card
    assert "4 of 4 steps" in card
    assert str(work) not in card + json.dumps(found.meta)
    for rounded, exact in zip(found.model.parameters(), small.parameters(), strict=True):
        assert torch.equal(rounded, exact.to(torch.bfloat16))
