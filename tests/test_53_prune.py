"""Checkpoints made smaller: what is asked for is what comes out, reported and published; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
import training_cubes
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

import flows.prune
from catalog.errors import NothingFound, StorageFull
from catalog.ledger import Ledger, file_digest, tree_digest
from flows import adapt, shelf, sizes
from flows.asking import day_and_size
from flows.cutting import Goal, cut, parameters, result_parameters
from flows.models import TAUGHT, Draft, described, once, open_checkpoint, properties_of
from flows.prune import MARGIN_BYTES, Pixels, Series, draft, prune
from flows.prune_report import costs, images_per_second
from flows.recovery import Ground, ground_of
from flows.refs import AdaptRequest, ItemRef, Period, PruneRequest, Where
from flows.select import within
from flows.stac import label_rasters
from ringmoe import checkpoint, presets, quantise, rebuild
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.errors import ContractError, ModelError, PruneError
from ringmoe.live import most_bytes
from ringmoe.measure import measure_contract
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.prune import slice_modalities, survivors_of_blocks
from ringmoe.usage import profile
from ringmoe.usage_file import read_usage

TINY = RingMoEConfig(16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), embedding="spectral")
DAYS = Period.model_validate({"start": "2025-06-01", "end": "2025-07-31"})


class Home(NamedTuple):
    """A home with a pre-trained and an adapted model."""

    where: Where
    cubes: list[ItemRef]
    pretrained: ItemRef
    adapted: ItemRef

    def asked(self, **more: Any) -> AdaptRequest:
        return AdaptRequest(**{"area": training_cubes.AREA, "period": DAYS, "steps": 2, "chips": 4} | more)

    def ground(self, parent: ItemRef) -> Ground:
        """What `pruned` works on."""
        labels = label_rasters(self.where, training_cubes.AREA, DAYS) if parent is self.adapted else ()
        cubes = [c for c in self.cubes if c.id.startswith("sentinel-2")]
        return ground_of(open_checkpoint(parent), cubes, labels, self.asked())

    def series(self, parent: ItemRef, to: str) -> ItemRef:
        """Models of several numbers of experts, from file to file, without Prefect."""
        made = parent
        for count in to.split(","):
            how, task = PruneRequest(to=count, streamed=True), self.asked()
            labels = label_rasters(self.where, task.area, DAYS) if parent is self.adapted else ()
            drawn = draft(made, Pixels(self.cubes, labels), how, task, self.where, Series(parent))
            made = once(drawn, Ledger(self.where.published))
        return made

    def pruned(self, parent: ItemRef, sensor: str = "sentinel-2", **request: Any) -> ItemRef:
        """A unit of pruning, without Prefect."""
        task, how = self.asked(sensor=sensor), PruneRequest(**{"steps": 2} | request)
        labels = label_rasters(self.where, task.area, DAYS) if parent is self.adapted else ()
        return once(draft(parent, Pixels(self.cubes, labels), how, task, self.where), Ledger(self.where.published))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    where, cubes = training_cubes.home(tmp_path_factory.mktemp("prune"))
    ledger = Ledger(where.published)
    contract = measure_contract(within(cubes, training_cubes.AREA), described=True).contract

    def untaught(folder: Path) -> dict[str, Any]:
        torch.manual_seed(0)
        model = RingMoE(TINY, contract)
        checkpoint.save(folder, model)
        return described(model, "RingMoE untaught")

    learned = once(Draft("pretrain", 1, {}, cubes, untaught, 1), ledger)
    labels = label_rasters(where, training_cubes.AREA, DAYS)
    task = AdaptRequest(area=training_cubes.AREA, period=DAYS, steps=2, chips=4)
    return Home(where, cubes, learned, once(adapt.draft(learned, cubes, labels, task, where), ledger))


def report_of(made: ItemRef) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(made.asset).parent / "report.json").read_text())
    return found


@pytest.mark.usefixtures("prefect_harness")
def test_an_adapted_model_becomes_dense_and_tells_all_of_it(
    home: Home, validate_offline: Callable[[Any], None]
) -> None:
    """The old line as a flow: the item derives from parent and cubes and names every file by its checksum; the report's
    numbers are those of the models; pictures and page are there and on Prefect's pages; the parent is as it was."""
    before = tree_digest(Path(home.adapted.href).parent)
    made = prune(home.adapted, home.cubes, PruneRequest(steps=2), home.asked(), home.where)
    assert tree_digest(Path(home.adapted.href).parent) == before
    item = json.loads(Path(made.href).read_text())
    validate_offline(item)
    files = {name: (Path(made.href).parent / asset["href"]).resolve() for name, asset in item["assets"].items()}
    pictures = {f"{name}_picture" for name in ("experts", "similarity", "recovery", "scores")}
    assert set(files) == {"model", "config", "report", "report_page", "speed", "profile", *pictures}
    assert all(file_digest(path) == item["assets"][name]["file:checksum"] for name, path in files.items())
    sources = {link["title"] for link in item["links"] if link["rel"] == "derived_from"}
    assert sources == {home.adapted.id, *(c.id for c in home.cubes)}
    told, found = report_of(made), open_checkpoint(made)
    assert [s["name"] for s in told["stages"]] == ["teacher", "ms slice", "1 collaborative", "dense (neurons)"]
    assert [s["slots"][0] for s in told["stages"]] == [13, 9, 6, 1]
    assert told["stages"][-1]["parameters"] == parameters(found.model)
    assert found.head_config is not None
    assert set(told["recovery"]) == {"distilled", "tuned"}
    assert all(len(v) == 2 for terms in told["recovery"].values() for v in terms.values())
    assert told["scores"]["teacher"]["agreement"] == 1.0
    assert told["scores"]["teacher"]["stage4"] == 0.0
    assert "held out" in told["scored_on"]
    spread = told["deviations"]["tuned"]
    assert set(spread) == {"stage3", "stage4", "agreement", "accuracy", "mean_iou"}
    assert min(spread.values()) > 0
    page = files["report_page"].read_text()
    assert f"{told['scores']['tuned']['accuracy']:.4f} ± {spread['accuracy']:.4f}" in page
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.split("<style>")[0]
    run = made.id.removeprefix("prune_")
    keys = [f"{kind}-{run}" for kind in ("report", "stages", "experts", "similarity", "recovery", "scores")]
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=keys)))
    assert sorted(a.type for a in shown) == ["image"] * 4 + ["markdown", "table"]


def test_the_experts_shown_are_those_that_were_profiled(home: Home) -> None:
    """Shares of every router sum to 1, in both modalities' panels; as many are marked kept as the result has."""
    made = home.pruned(home.pretrained, to="6")
    told, found = report_of(made)["experts"], open_checkpoint(made)
    assert set(told["shares"]) == {"ms", "sar_l2"}
    for blocks in told["shares"].values():
        rows = np.array(blocks)
        np.testing.assert_allclose(rows[:, :4].sum(1), 1.0, atol=1e-5)
        np.testing.assert_allclose(rows[:, 4:].sum(1), 1.0, atol=1e-5)
    left = survivors_of_blocks(found.model)
    assert [sum(row) for row in told["kept"]] == [s.slots for s in left] == [5] * 4
    alike = np.array(report_of(made)["similarity"]["values"])
    np.testing.assert_allclose(np.diag(alike), 1.0, atol=1e-6)
    np.testing.assert_allclose(alike, alike.T, atol=1e-6)


@pytest.mark.usefixtures("prefect_harness")
def test_a_list_gives_a_model_of_each_and_no_head_grows(home: Home) -> None:
    """3,1 of a pre-trained model: two items, each derived from the one before and taught by the first, by features
    alone; both are encoders again."""
    last = prune(home.pretrained, home.cubes, PruneRequest(to="3,1", steps=2), home.asked(), home.where)
    folder, chain, name = Path(home.where.published) / "models", [], last.id
    while name.startswith("prune_"):
        chain.append(json.loads((folder / name / f"{name}.json").read_text()))
        links = [x["title"] for x in chain[-1]["links"] if x["rel"] == "derived_from"]
        parents = [title for title in links if not title.endswith("_cube")]
        assert parents[-1] == home.pretrained.id
        name = parents[0]
    assert [c["properties"]["ringmoe:slots"] for c in chain] == [[1] * 4, [3] * 4]
    assert [c["properties"]["mlm:tasks"] for c in chain] == [["similarity-search"]] * 2
    assert set(report_of(last)["recovery"]) == {"distilled"}
    found = open_checkpoint(last)
    assert found.head_config is None
    assert found.config.specialized == 0
    assert set(found.contract.inputs) == {Modality.MS}


@pytest.mark.usefixtures("prefect_harness")
def test_a_list_with_one_that_cannot_be_gives_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 of a block with both kinds and a shared expert, and room for two of three models: both before any is made."""
    published = Path(home.where.published)
    before = sorted(p.name for p in published.glob("models/*/*.json"))
    monkeypatch.setattr("flows.cutting.profile", lambda *_: pytest.fail("profiled"))
    with pytest.raises(PruneError, match="2 experts a block are below what is possible"):
        prune(home.pretrained, home.cubes, PruneRequest(to="8,7,2", steps=1), home.asked(), home.where)
    base = open_checkpoint(home.pretrained).model
    goals = [Goal(PruneRequest(to=to), Modality.MS, 0, torch.float32) for to in ("8", "7")]
    room = sum(result_parameters(base, goal) * 4 for goal in goals) + 3 * MARGIN_BYTES
    left = shutil.disk_usage(published)._replace(free=room)
    monkeypatch.setattr("flows.prune_checks.shutil.disk_usage", lambda path: left)
    with pytest.raises(StorageFull, match="no room for the pruned model"):
        prune(home.pretrained, home.cubes, PruneRequest(to="8,7,1", steps=1), home.asked(), home.where)
    assert sorted(p.name for p in published.glob("models/*/*.json")) == before


def test_an_int8_checkpoint_is_refused_before_work(home: Home) -> None:
    """What was published in int8: the error says what to prune instead."""

    def smaller(folder: Path) -> dict[str, Any]:
        model = quantise.int8(open_checkpoint(home.pretrained).model)
        checkpoint.save(folder, model)
        return described(model, "RingMoE in int8")

    made = once(Draft("pretrain", 1, {"dtype": "int8"}, home.cubes, smaller, 1), Ledger(home.where.published))
    with pytest.raises(PruneError, match="Quantised weights cannot be pruned") as caught:
        home.pruned(made)
    assert "quantise what comes of it" in caught.value.todo


def test_a_slice_needs_no_recovery(home: Home) -> None:
    """It gives its parent's features bit for bit, so nothing is trained."""
    told = report_of(home.pruned(home.pretrained, to="9"))
    assert told["recovery"] == {}
    assert told["scores"]["pruned"] == {"stage3": 0.0, "stage4": 0.0}


def test_from_file_to_file_comes_what_comes_in_memory(home: Home, validate_offline: Callable[[Any], None]) -> None:
    """6 slots without a head and one dense network with one: tensor for tensor, and whole items again; no model comes
    into memory, nothing is left beside the checkpoint, and the report says that nothing was scored."""
    for parent, to in ((home.pretrained, "6"), (home.adapted, None)):
        base = open_checkpoint(parent)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flows.prune.open_checkpoint", lambda ref: pytest.fail(f"{ref.id} in memory"))
            made = home.pruned(parent, to=to, streamed=True)
        validate_offline(json.loads(Path(made.href).read_text()))
        found, told = open_checkpoint(made), report_of(made)
        ground = home.ground(parent)
        head = sum(t.numel() for t in base.head_state.values())
        goal = Goal(PruneRequest(to=to, refit=False), Modality.MS, head, torch.float32)
        same = cut(base.model, goal, ground.batches()).stages
        assert found.config == same[-1][1].config
        theirs = same[-1][1].state_dict()
        for name, tensor in found.model.state_dict().items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6, msg=f"{to}: {name}")
        assert [(s["name"], s["parameters"]) for s in told["stages"]] == [(n, parameters(m)) for n, m in same]
        assert all(torch.equal(t, found.head_state[name]) for name, t in base.head_state.items())
        assert found.meta["parent"] == parent.id
        assert told["scores"] == told["recovery"] == {}
        assert told["experts"]["kept"]
        folder = Path(made.asset).parent
        assert "from file to file" in (folder / "report.html").read_text()
        assert not [p for p in folder.iterdir() if p.is_dir() and p.name != "checkpoint"]


def test_a_budget_is_kept_whatever_it_is_said_in(home: Home) -> None:
    """Parameters, share and bytes of one size give one model; it is within, and less than one expert a router below."""
    base = open_checkpoint(home.pretrained).model
    usage = read_usage(Path(home.pruned(home.pretrained, to="9").asset).parent / "profile.safetensors")
    whole, room = parameters(base), 0.7 * parameters(slice_modalities(base, [Modality.MS]))
    found = []
    for text in (f"{room:.0f}", f"{100 * room / whole:.8f}%", f"{room * 4 / 1000:.4f}KB"):
        goal = Goal(PruneRequest(to=text), Modality.MS, 0, torch.float32)
        found.append(cut(base, goal, (), usage).stages[-1][1])
    assert len({model.config for model in found}) == 1
    largest = max(p[0].numel() for name, p in base.named_parameters() if name.endswith("w1_ECH")) * 2.1
    assert room - largest < parameters(found[0]) <= room
    slots = [1 + left.slots for left in survivors_of_blocks(found[0])]
    assert min(slots) < max(slots) <= 9


def test_chips_come_to_the_device_that_models_are_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cutting profiles and refits on, without labels and with; the meta device stands in for a GPU."""
    monkeypatch.setattr("flows.recovery.device", lambda: torch.device("meta"))
    (cube,) = [c for c in home.cubes if c.id.startswith("sentinel-2")]
    labels = label_rasters(home.where, training_cubes.AREA, DAYS)
    for parent in (home.pretrained, home.adapted):
        ground = ground_of(open_checkpoint(parent), [cube], labels, home.asked())
        for _, batch in zip(range(2), ground.batches(), strict=False):
            (chips,) = batch.values()
            assert {t.device.type for t in (chips.pixels_BCHW, chips.valid_BHW)} == {"meta"}


def test_what_is_scored_on_was_never_learned_from(home: Home) -> None:
    """The last third of the rows of a cube of three chips' height: learned from and scored on share no pixel, with a
    head and without; where there is too little ground, that is said."""
    (ref,) = [c for c in home.cubes if c.id.startswith("sentinel-2")]
    labels = label_rasters(home.where, training_cubes.AREA, DAYS)
    for parent in (home.pretrained, home.adapted):
        base = open_checkpoint(parent)
        ground = ground_of(base, [ref], labels, home.asked())
        assert len(ground.asked) == len(list(ground.questions())) == 8
        assert "held out" in ground.scored_on
        seen = [{value for batch in batches for value in _values(batch)} for batches in _some_of(ground)]
        assert all(len(values) > 5e3 for values in seen)
        assert not seen[0] & seen[1]
    narrow = ground_of(open_checkpoint(home.pretrained), [ref], (), home.asked(chip_px=96))
    assert narrow.asked == ()
    assert "too little" in narrow.scored_on
    assert len(list(narrow.questions())) == 8


def _values(batch: Batch) -> list[tuple[float, ...]]:
    """Bands of every pixel that counts: no two of the cube are alike."""
    (chips,) = batch.values()
    return [tuple(row) for row in chips.pixels_BCHW.movedim(1, -1)[chips.valid_BHW].tolist()]


def _some_of(ground: Ground) -> list[list[Batch]]:
    """What is learned from in ten steps, and what is scored on."""
    return [[ground.batch(step)[0] for step in range(10)], [batch for batch, _ in ground.questions()]]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1B", (1e9, "parameters", 1.5e9)),
        ("1.06B", (1.06e9, "parameters", 1.065e9)),
        ("250m", (2.5e8, "parameters", 2.505e8)),
        ("12000", (12000, "parameters", 12000)),
        ("25%", (0.25, "share", 0.25)),
        ("200MB", (2e8, "bytes", 2e8)),
        ("1.5 GiB", (1.5 * 2**30, "bytes", 1.5 * 2**30)),
    ],
)
def test_sizes_are_read(text: str, wanted: tuple[float, str, float]) -> None:
    """Decimal and binary bytes, parameters with what their digits could also mean, shares."""
    found = sizes.parse(text)
    assert isinstance(found, sizes.Size)
    assert (found.amount, found.unit) == (pytest.approx(wanted[0]), wanted[1])
    assert found.reading == pytest.approx(wanted[2])


def test_numbers_of_experts_are_read() -> None:
    """One, or several that fall."""
    assert sizes.parse("6") == sizes.Slots((6,))
    assert sizes.parse("9, 6,3,1") == sizes.Slots((9, 6, 3, 1))


@pytest.mark.parametrize("text", ["", "big", "0%", "101%", "1,3", "3,3", "0", "-1B", "5XB", "1.2.3M", "9,1B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """The four parts name what was written and what would have done."""
    with pytest.raises(PruneError, match="no size of a model") as caught:
        sizes.parse(text)
    assert caught.value.item == f"--to {text}"
    assert "9,6,3,1" in caught.value.enough


def test_one_billion_is_what_is_left_of_the_papers_model() -> None:
    """14.74 B to 1B: 1.06 B is the least there is and reads 1 B; a size that can be met is never passed."""
    asked = sizes.parse("1B")
    assert isinstance(asked, sizes.Size)
    assert sizes.fitting(asked, 14_740_000_000, 2, 1_060_000_000) == 1_060_000_000
    assert sizes.fitting(asked, 14_740_000_000, 2, 900_000_000) == 1e9
    with pytest.raises(PruneError, match="1B is below what is possible"):
        sizes.fitting(asked, 14_740_000_000, 2, 1_600_000_000)


@pytest.mark.parametrize("to", ["10K", "1%", "9KB", "2"])
def test_a_budget_below_what_is_possible_is_refused_before_work(
    home: Home, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is profiled, the error says what is the least, and what can never be made leaves nothing behind."""
    monkeypatch.setattr("flows.cutting.profile", lambda *_: pytest.fail("profiled"))
    ledger, models = Ledger(home.where.published), Path(home.where.published) / "models"
    before = ledger.failures(), sorted(models.iterdir())
    with pytest.raises(PruneError, match="below what is possible") as caught:
        home.pruned(home.pretrained, to=to)
    assert "dense" in caught.value.enough
    assert (ledger.failures(), sorted(models.iterdir())) == before


def test_a_modality_that_the_model_has_not_is_refused(home: Home) -> None:
    """No cube of it; a slice that has lost it; a head of another."""
    with pytest.raises(NothingFound, match="no cube of worldview"):
        home.pruned(home.pretrained, "worldview")
    made = home.pruned(home.pretrained, to="9")
    with pytest.raises(PruneError, match="whose modality sar_l2 it has not") as caught:
        home.pruned(made, "sentinel-1")
    assert "a sensor of ms" in caught.value.enough
    with pytest.raises(PruneError, match="cannot be pruned for sentinel-1"):
        home.pruned(home.adapted, "sentinel-1")


def test_cubes_of_another_contract_are_refused(home: Home, tmp_path: Path) -> None:
    """The model takes reflectance above the atmosphere; a cube that says it holds that of the ground is refused."""
    strange = tmp_path / "sentinel-2_strange.zarr"
    (mine,) = [c for c in home.cubes if c.id.startswith("sentinel-2")]
    shutil.copytree(mine.asset, strange)
    about = strange / "zarr.json"
    about.write_text(about.read_text().replace('"toa_reflectance"', '"surface_reflectance"'))
    other = mine.model_copy(update={"asset": str(strange), "checksum": "other"})
    with pytest.raises(ContractError, match="quantity surface_reflectance"):
        home._replace(cubes=[other]).pruned(home.pretrained)


def test_a_profile_of_another_checkpoint_is_refused_and_its_own_taken(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that was published serves again, for the same weights; it is not one of the adapted model."""
    first = home.pruned(home.pretrained, to="6")
    kept = Path(first.asset).parent / "profile.safetensors"
    with pytest.raises(PruneError, match="profile is of another"):
        home.pruned(home.adapted, profile=kept)
    monkeypatch.setattr(
        "flows.cutting.profile",
        lambda model, batches: profile(model, batches) if len(model.modalities) > 1 else pytest.fail("profiled anew"),
    )
    again = home.pruned(home.pretrained, to="6", profile=kept)
    assert again.id != first.id
    assert again.checksum.split("+")[-1] == first.checksum.split("+")[-1]


def test_a_disk_too_small_is_refused_before_work(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room for weights and report is asked for first."""
    left = shutil.disk_usage(home.where.published)._replace(free=2**20)
    monkeypatch.setattr("flows.prune_checks.shutil.disk_usage", lambda path: left)
    monkeypatch.setattr("flows.cutting.profile", lambda *_: pytest.fail("profiled"))
    with pytest.raises(StorageFull, match="no room for the pruned model") as caught:
        home.pruned(home.pretrained, to="5")
    assert "1 MB free" in caught.value.item


def test_what_was_not_taught_serves_last(home: Home) -> None:
    """Cut from file to file it maps no area while there is one that learned; its list derives from no teacher; a slice
    gives what its parent was taught."""
    taught = home.pruned(home.adapted, to="8")
    last = home.series(home.adapted, "9,3")
    links = [x["title"] for x in json.loads(Path(last.href).read_text())["links"] if x["rel"] == "derived_from"]
    assert home.adapted.id not in links
    assert not properties_of(last)[TAUGHT]
    assert properties_of(home.pruned(home.adapted, to="9", streamed=True))[TAUGHT]
    best = shelf.mapper(home.where, None).id
    assert best != last.id
    assert properties_of(taught)[TAUGHT]


def test_the_room_asked_for_is_that_of_all_that_lies_there_at_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """From file to file to dense: slice, what is left of it and the result; with exactly what is asked for it runs."""
    monkeypatch.setattr("flows.prune.MARGIN_BYTES", 2**20)
    asked: list[int] = []
    check = flows.prune.check_room
    monkeypatch.setattr("flows.prune.check_room", lambda folder, needed: asked.append(needed) or check(folder, needed))
    most, there = [0], Path(home.where.published)

    def written(*given: Any, **named: Any) -> Any:
        digest = conclude(*given, **named)
        most[0] = max(most[0], sum(p.stat().st_size for p in there.rglob(".*/**/*.safetensors")))
        return digest

    conclude = rebuild.conclude
    monkeypatch.setattr("ringmoe.rebuild.conclude", written)
    home.pruned(home.pretrained, streamed=True, criterion="usage")
    assert 0 < most[0] <= asked[0]


def test_means_need_a_shared_expert(home: Home) -> None:
    """Without one they cannot be left anywhere: said before anything is cut, and what to ask for instead."""

    def lonely(folder: Path) -> dict[str, Any]:
        model = RingMoE(replace(TINY, shared=0), open_checkpoint(home.pretrained).contract)
        checkpoint.save(folder, model)
        return described(model, "RingMoE without a shared expert")

    made = once(Draft("pretrain", 1, {"shared": 0}, home.cubes, lonely, 1), Ledger(home.where.published))
    with pytest.raises(PruneError, match="no shared expert") as caught:
        home.pruned(made, to="4")
    assert "--dropped survivor" in caught.value.todo


def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_read(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less memory than its weights take in float32: the way from file to file is named, and takes no notice of it."""
    size = 4 * parameters(open_checkpoint(home.pretrained).model)
    left = psutil.virtual_memory()._replace(available=size - 1)
    monkeypatch.setattr("flows.prune_checks.psutil.virtual_memory", lambda: left)
    monkeypatch.setattr("flows.prune.open_checkpoint", lambda ref: pytest.fail("read"))
    with pytest.raises(PruneError, match="does not fit into memory") as caught:
        home.pruned(home.pretrained, to="7")
    assert "--streamed" in caught.value.todo
    assert report_of(home.pruned(home.pretrained, to="7", streamed=True))["stages"][-1]["slots"] == [7] * 4


def test_every_refusal_leaves_the_parent_alone(home: Home) -> None:
    """Bytes of both parents' folders, before and after each."""
    folders = [Path(ref.href).parent for ref in (home.pretrained, home.adapted)]
    before = [tree_digest(folder) for folder in folders]
    for parent, sensor, to in ((home.pretrained, "sentinel-2", "1K"), (home.adapted, "sentinel-1", "6")):
        with pytest.raises(ModelError):
            home.pruned(parent, sensor, to=to)
    assert [tree_digest(folder) for folder in folders] == before


def test_memory_counts_what_is_alive_at_once() -> None:
    """4 kB, then 4 more, then the first are gone, and again: never more than 8; views are free."""

    def run() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second.view(10, 100) * 2
        del second
        return third.sum()

    assert most_bytes(run) == 8000


def test_costs_are_those_of_the_model(home: Home) -> None:
    """Slots and parameters by count, FLOPs by the preset's formula, memory above the weights alone."""
    model = open_checkpoint(home.pretrained).model
    alone = DataContract({Modality.MS: model.contract.inputs[Modality.MS]}, described=True)
    one = RingMoE(TINY, alone)
    chips = Chips(torch.rand(2, 4, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool), alone.inputs[Modality.MS].bands)
    found = costs("one", one, {Modality.MS: chips})
    assert found["slots"] == [9] * 4
    assert found["parameters"] == parameters(one)
    assert found["flops"] == presets.describe(TINY, alone, 64).flops
    assert found["memory_mb"] > found["weights_mb"] == round(4 * parameters(one) / 1e6, 3)
    assert images_per_second(one, {Modality.MS: chips}) > 0


@pytest.mark.parametrize(("to", "billions"), [("9", 6.53), ("6", 4.48), ("1", 1.06), ("1B", 1.06), ("30%", 4.42)])
def test_the_room_asked_for_is_that_of_the_papers_models(to: str, billions: float) -> None:
    """14.74 B for one modality on the meta device: known before anything is computed."""
    with torch.device("meta"):
        giant = RingMoE(presets.giant(), presets.paper_contract())
    goal = Goal(PruneRequest(to=to), Modality.OPT, 0, torch.bfloat16)
    assert result_parameters(giant, goal) == pytest.approx(billions * 1e9, abs=5e6)


def test_one_option_says_how_small_and_until_when() -> None:
    """A date ends the period as it does in other verbs; whatever else is a size; each at most once."""
    assert day_and_size(["2025-08-31", "1B"]) == ("2025-08-31", "1B")
    assert day_and_size(["9,6,3,1"]) == (None, "9,6,3,1")
    assert day_and_size(["20250831", "20.25M"]) == ("20250831", "20.25M")
    assert day_and_size([]) == (None, None)
    with pytest.raises(PruneError, match="given twice") as refused:
        day_and_size(["2025-08-31", "2025-09-30"])
    assert "2025-09-30" in refused.value.item
