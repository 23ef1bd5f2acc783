"""What a pre-training request can ask, and what it is refused: mix, terms, readers, pixels that cannot be read."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import training_cubes
from test_53_pretrain import TINY, asked, files_of
from typer.testing import CliRunner

import flows.learn
from catalog.errors import CatalogError
from catalog.ledger import Ledger
from catalog.sensors import Quality
from flows import cli, interrupt, shelf
from flows.curriculum import mix_of, objective_config
from flows.learn import STATES, Plan, learn
from flows.models import once
from flows.pretrain import draft
from flows.refs import ItemRef, PretrainRequest, Where
from flows.verbs.lists import factors, shares
from ringmoe import checkpoint, presets
from ringmoe.backbone import RingMoE
from ringmoe.data import PAPER_MIX
from ringmoe.errors import CheckpointError, ConfigError, DataError, TrainingError
from ringmoe.modality import Modality
from ringmoe.objectives import ObjectiveConfig
from ringmoe.parallel import Layout
from ringmoe.train import TrainConfig
from ringmoe.train import pretrain as train

MS, SAR = Modality.MS, Modality.SAR_L2


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that learns in seconds, under the name of the smallest."""
    monkeypatch.setattr(presets, "nano", lambda pixels: TINY)


def make(where: Where, cubes: list[ItemRef], **request: Any) -> tuple[ItemRef, dict[str, Any], dict[str, Path]]:
    """The checkpoint of a request, its item and its files."""
    ledger = Ledger(where.published)
    made = once(draft(cubes, asked(**{"steps": 2, **request}), where), ledger)
    item = ledger.done("models", made.id)
    assert item is not None
    return made, item, files_of(item, ledger)


def test_the_mix_is_the_papers_or_what_is_asked() -> None:
    """None is 70, 20, 5 and 5; shares go by name; what is no modality and what no cube is of are refused by name."""
    assert mix_of(asked(), {MS}) == PAPER_MIX == {Modality.OPT: 0.7, MS: 0.2, Modality.SAR_L1: 0.05, SAR: 0.05}
    assert mix_of(asked(mix={"ms": 3, "sar_l2": 1, "opt": 0}), {MS, SAR}) == {MS: 3, SAR: 1, Modality.OPT: 0}
    with pytest.raises(ConfigError, match="there is no modality lidar"):
        mix_of(asked(mix={"lidar": 1}), {MS})
    with pytest.raises(ValueError, match="one above"):
        asked(mix={"ms": 0})
    with pytest.raises(ValueError, match="a least above 0"):
        asked(scale=(1.4, 0.7))


def test_terms_are_left_out_by_name() -> None:
    """Of what is guessed and of what stands beside it; an unknown one is refused with all there are, and so is a loss
    of nothing but the routers' terms."""
    plain = objective_config(asked())
    assert (plain.views, plain.balance, plain.terms) == (0.5, 0.001, ObjectiveConfig().terms)
    less = objective_config(asked(without=("power", "balance", "views")))
    assert (less.terms.power, less.balance, less.views, less.terms.determinant) == (0.0, 0.0, 0.0, 0.5)
    with pytest.raises(ConfigError, match="no term gravity") as caught:
        objective_config(asked(without=("gravity",)))
    assert "determinant" in caught.value.enough
    assert "light" not in caught.value.enough
    every = tuple(vars(plain.terms))
    with pytest.raises(ConfigError, match="no term is left"):
        objective_config(asked(without=every, views=0.0))
    assert objective_config(asked(without=every)).views == 0.5


SPARSE = {"sparse": True, "without": ("angle",), "mix": {"ms": 1.0, "sar_l2": 1.0}}


def test_a_sparse_run_without_a_term_and_a_cube_of_another_contract(tmp_path: Path) -> None:
    """Its losses have every term but the one left out, of both modalities and both views; gamma nought beside sigma
    nought is left out, and named with its reason."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    other = training_cubes.published(where, "sentinel-1", quantity="gamma_nought")
    _, item, files = make(where, [*cubes, other], **SPARSE)
    reason = "quantity is gamma_nought, the others' sigma_nought"
    assert item["properties"]["ringmoe:left_out"] == [["a tile", reason]]
    terms = json.loads(files["loss"].read_text())["terms"]
    assert {"pixels/ms", "ratio/ms", "views/ms", "speckle/sar_l2", "views/sar_l2"} <= set(terms)
    assert "angle/ms" not in terms
    assert item["properties"]["ringmoe:lost_blocks"] == 0
    assert "lost" not in files


@pytest.mark.slow
def test_who_reads_decides_nothing(tmp_path: Path) -> None:
    """Batches made ahead by three threads give the same bytes as batches made when they are asked for."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    others = ({"loaders": 3}, {"loaders": 0, "published": tmp_path / "other" / "catalog"})
    found = [make(where.model_copy(update=more), cubes, **SPARSE)[0] for more in others]
    assert found[0].checksum == found[1].checksum
    assert found[0].asset != found[1].asset


def test_what_large_models_need_reaches_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of compiling is asked with losses of the run's own batches; then training has moments of one byte and
    does expert branches again; the checkpoint is that of a plain model. On two ranks the layout spreads the experts;
    where these measured unlike pixels nothing is learned."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    more = {"recompute": "branches", "moments": "8bit", "compiled": True}
    plan = Plan(cubes=tuple(cubes), request=asked(steps=1, **more), where=where, run="r", out=tmp_path / "a" / "b",
                kept=tmp_path / "kept")  # fmt: skip
    plan.kept.mkdir()
    seen: dict[str, Any] = {}

    def gate(model: RingMoE, loss_of: Any) -> RingMoE:
        seen["losses"] = [float(loss_of(copy.deepcopy(model), step).detach()) for step in (0, 0, 1)]
        return model

    def told(model: RingMoE, objective: Any, batches: Any, config: TrainConfig, on_step: Any) -> Any:
        seen["moments"] = config.moments
        seen["again"] = ["forward" in vars(block.experts) for block in model.blocks()]
        return train(model, objective, batches, config, on_step=on_step)

    with monkeypatch.context() as patch:
        patch.setattr(flows.learn, "compile_checked", gate)
        patch.setattr(flows.learn, "train", told)
        learn(plan)
    one, _, other = seen["losses"]
    assert 0 < one != other > 0
    assert seen["moments"] == "8bit"
    assert seen["again"] == [True] * 4
    assert checkpoint.load(plan.out).config == TINY

    def spread(model: RingMoE, layout: Layout, *, beside: Any) -> None:
        seen["layout"] = layout
        raise InterruptedError

    two = SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: 2, get_rank=lambda: 0)
    monkeypatch.setattr(flows.learn, "dist", two)
    monkeypatch.setattr(flows.learn, "distribute", spread)
    for same, error in ((True, InterruptedError), (False, TrainingError)):
        monkeypatch.setattr(flows.learn, "same_on_all_ranks", lambda *_, same=same: same)
        with pytest.raises(error):
            learn(plan.model_copy(update={"request": asked(processes=2, experts=2)}))
    assert seen["layout"] == Layout(shards=2, experts=2)


def test_ranks_that_cannot_share_experts_and_many_that_would_compile_are_refused() -> None:
    """Each with the reason; what is no moment and nothing to recompute is refused by name."""
    with pytest.raises(ValueError, match="4 processes cannot spread experts over 3: a divisor of 4"):
        asked(processes=4, experts=3)
    with pytest.raises(ValueError, match="1 processes cannot spread experts over 2"):
        asked(experts=2)
    with pytest.raises(ValueError, match="no model is compiled in 2 processes: one"):
        asked(processes=2, compiled=True)
    with pytest.raises(ValueError, match="'activations' or 'branches'"):
        asked(recompute="attention")
    with pytest.raises(ValueError, match="'bfloat16' or '8bit'"):
        asked(moments="4bit")


def test_a_modality_with_no_sample(tmp_path: Path) -> None:
    """A mix that asks for optical chips where no cube is of that modality: refused, and nothing is published."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    with pytest.raises(DataError, match="a modality with no sample: opt") as caught:
        make(where, cubes, mix={"opt": 0.5, "ms": 0.5})
    assert "cubes of ms, sar_l2 within here" in caught.value.item
    (failure,) = Ledger(where.published).failures()
    assert "a modality with no sample" in failure["reason"]
    assert not list(where.published.glob("models/*/*.json"))


def damage(ref: ItemRef, keep: int) -> Path:
    """All but so many of the shards of a cube's pixels, cut to half."""
    files = sorted(p for p in Path(ref.asset).glob("data/c/**/*") if p.is_file())
    for path in files[keep:]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return files[-1]


def test_corrupt_shards_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    """One look of four is damaged: above the share that is allowed the run stops and names it; below, it learns from
    the rest, its item counts what was lost, lost.json names it with the reason, and the table leaves it out."""
    where, cubes = training_cubes.home(tmp_path)
    damage(cubes[0], keep=1)
    with pytest.raises(DataError, match="1 of 4 blocks of pixels cannot be read") as caught:
        make(where, cubes)
    assert "at most 5% of them unreadable" in caught.value.enough
    assert "2025-07-01" in caught.value.item
    _, item, files = make(where, cubes, most_lost=0.5)
    assert item["properties"]["ringmoe:lost_blocks"] == 1
    (lost,) = json.loads(files["lost"].read_text())["lost"]
    assert "sentinel-2 a tile 2025-07-01" in lost["what"]
    assert lost["reason"]
    rows = json.loads(files["evaluation"].read_text())["rows"]
    assert {row["sensor"] for row in rows} == {"sentinel-1", "sentinel-2"}


def test_chips_that_are_all_no_data(tmp_path: Path) -> None:
    """Cloud everywhere, and an area that no pixel lies in: both named, with what would be enough."""
    where, _ = training_cubes.home(tmp_path, labelled=False)
    cloudy = training_cubes.published(where, "sentinel-2", quality=Quality.CLOUD)
    with pytest.raises(DataError, match="no pixel of modality ms is usable") as caught:
        make(where, [cloudy])
    assert "clearer scenes" in caught.value.todo
    elsewhere = PretrainRequest(area=training_cubes.AREA, steps=2).area.box((20.0, 50.0, 20.1, 50.1))
    with pytest.raises(DataError, match="on nothing"):
        make(where, [cloudy], area=elsewhere)


def test_states_of_another_run_are_not_gone_on_with(tmp_path: Path) -> None:
    """A run's folder that holds another's states: refused, and what to do; those states are left alone."""
    where, cubes = training_cubes.home(tmp_path, labelled=False)
    kept = where.model_copy(update={"keep_every": 1})
    one, two = (draft(cubes, asked(steps=2, seed=seed), kept) for seed in (0, 1))
    folders = [where.training / unit.item_id.removeprefix("pretrain_") for unit in (one, two)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *a, **k: None)
        once(one, Ledger(where.published))
    shutil.copytree(folders[0] / STATES, folders[1] / STATES)
    with pytest.raises(CheckpointError, match=r"state of another run: .*seed 0 instead of 1") as caught:
        once(two, Ledger(where.published))
    assert "keep this run's states elsewhere" in caught.value.todo
    assert list((folders[1] / STATES).iterdir())


@pytest.mark.parametrize("text", ["", "opt", "opt=70,ms", "opt=-1", "opt=0", "opt=nan", "opt=a"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    """Each in four parts with an example."""
    with pytest.raises(CatalogError, match="no shares of modalities") as caught:
        shares(text)
    assert "--mix opt=70" in caught.value.todo


@pytest.mark.parametrize("text", ["", "1", "0,1", "2,1", "1,2,3", "a,b", "1,inf", "nan,1"])
def test_factors_that_are_none_are_refused(text: str) -> None:
    """The same."""
    with pytest.raises(CatalogError, match="no two factors"):
        factors(text)


def test_what_is_typed_reaches_the_flow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every option of `ringmoe pretrain` becomes its part of the request; none of them, the request's own defaults."""
    seen: list[tuple[PretrainRequest, Where]] = []
    monkeypatch.setattr(interrupt, "with_api", nullcontext)
    monkeypatch.setattr(shelf, "cubes", lambda where, area: [])
    made = ItemRef(collection="models", id="pretrain_x", href="x", asset="x", checksum="x")
    monkeypatch.setattr("flows.pretrain.pretrain", lambda cubes, request, where: seen.append((request, where)) or made)
    words = ["pretrain", "--home", str(tmp_path), "--bbox", "11,46,12,47"]
    more = "--rate 1e-4 --mix opt=7,ms=3 --scale 1,1 --no-turns --views 0 --sparse --without power --without z "
    more += "--most-lost 0.2 --loaders 3"
    large = "--processes 4 --experts 2 --recompute activations --moments bfloat16"
    for extra in ([], more.split(), large.split(), ["--compiled"]):
        done = CliRunner().invoke(cli.app, [*words, *extra])
        assert done.exit_code == 0, done.output
    (plain, _), (full, where), (spread, _), (compiled, _) = seen
    assert plain == PretrainRequest(area=plain.area, steps=200)
    told = SimpleNamespace(**full.model_dump())
    assert (told.rate, told.mix, told.scale, told.turns) == (1e-4, {"opt": 7.0, "ms": 3.0}, (1.0, 1.0), False)
    assert (told.views, told.sparse, told.without, told.most_lost) == (0.0, True, ("power", "z"), 0.2)
    assert where.loaders == 3
    told = SimpleNamespace(**spread.model_dump())
    assert (told.processes, told.experts, told.recompute, told.moments) == (4, 2, "activations", "bfloat16")
    assert compiled == PretrainRequest(area=plain.area, steps=200, compiled=True)
