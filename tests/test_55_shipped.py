"""A home without a model of its own: adapting begins with what comes with the package, and lineage says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import training_cubes

from catalog import cube
from catalog.errors import NothingFound
from catalog.ledger import Ledger
from flows import adapt, progress, shelf
from flows.infer import maps
from flows.models import has_head, once, open_checkpoint, properties_of
from flows.refs import AdaptRequest, InferRequest, ItemRef, Period, Where
from flows.stac import labels_to_learn
from ringmoe import checkpoint, shipped
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.errors import CheckpointError, ConfigError
from ringmoe.measure import measure_contract

TINY = RingMoEConfig(
    16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=1, collaborative=1, embedding="spectral"
)
JUNE = Period(start="2025-06-01", end="2025-07-31")  # type: ignore[arg-type]
EXTENT = {
    "geometry": {"type": "MultiPolygon", "coordinates": [[[[100, 0], [101, 0], [101, 1], [100, 1], [100, 0]]]]},
    "start": "1992-03-23T00:00:00+00:00",
    "end": "2025-08-31T23:59:59+00:00",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Where, list[ItemRef]]:
    """Two cubes and labels, and a package whose `nano` is tiny, in bfloat16, of the same contract."""
    where, cubes = training_cubes.home(tmp_path / "home")
    contract = measure_contract([cube.open(c.asset) for c in cubes], described=True).contract
    torch.manual_seed(0)
    model = RingMoE(TINY, contract).to(torch.bfloat16)
    checkpoint.save(tmp_path / "package" / "nano", model, provenance={"step": "ship", "extent": EXTENT})
    (tmp_path / "package" / "nano" / shipped.CARD).write_text("# RingMoE `nano`\n")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "package")
    return where, cubes


def test_adapting_begins_with_it_and_says_so(
    home: tuple[Where, list[ItemRef]], validate_offline: Callable[[Any], None]
) -> None:
    """It becomes an item of the home, once, with its card; the adapted model derives from it, names its checksum, shows
    the labelled ground and not where the package learned, and computes in float32."""
    where, cubes = home
    told: list[str] = []
    progress.watch(listen := lambda step, done, total, note: told.append(note))
    parent = shelf.model(where, "pretrain", None)
    progress.unwatch(listen)
    assert told == ["nano, which comes with the package"]
    assert shelf.model(where, "pretrain", "nano") == parent
    assert shelf.model(where, "pretrain", parent.id) == parent
    assert {p.dtype for p in open_checkpoint(parent).model.parameters()} == {torch.float32}
    ledger = Ledger(where.published)
    item = ledger.done("models", parent.id)
    assert item is not None
    validate_offline(item)
    assert set(item["assets"]) == {"model", "config", "CARD"}
    assert item["properties"]["ringmoe:provenance"]["step"] == "ship"

    request = AdaptRequest(area=training_cubes.AREA, period=JUNE, steps=2, chips=2)
    labels = labels_to_learn(where, request.area, request.period)
    made = once(adapt.draft(parent, cubes, labels, request, where), ledger)
    adapted = ledger.done("models", made.id)
    assert adapted is not None
    validate_offline(adapted)
    assert parent.id in [link["title"] for link in adapted["links"] if link["rel"] == "derived_from"]
    assert adapted["properties"]["ringmoe:parent"] == {"id": parent.id, "checksum": parent.checksum}
    assert adapted["bbox"][2] < 12
    assert adapted["properties"]["start_datetime"].startswith("2025-06-01")
    assert has_head(made)
    assert shelf.mapper(where, None) == made.model_copy(update={"fresh": False})
    assert shelf.mapper(where, None, features=True) == parent
    asked = InferRequest(area=training_cubes.AREA, period=JUNE, tile_px=192, overlap_px=0, components=2)
    (classes,), (seen,) = (
        maps(made, cubes, None, asked.model_copy(update={"features": wanted}), where) for wanted in (False, True)
    )
    assert (classes.id.split("_")[0], seen.id.split("_")[0]) == ("landcover", "features")


def test_a_model_of_ones_own_goes_first(home: tuple[Where, list[ItemRef]]) -> None:
    """Once something was pre-trained here, that is what there is to adapt, also where the package's came later."""
    where, _ = home
    shelf.model(where, "pretrain", None)
    ledger = Ledger(where.published)
    (item,) = (item for _, item in ledger.items("models"))
    own = {**item, "id": "pretrain_own"}
    ledger.item_path("models", "pretrain_own").parent.mkdir()
    ledger.item_path("models", "pretrain_own").write_text(json.dumps(own))
    assert shelf.model(where, "pretrain", None).id == "pretrain_own"
    assert shelf.mapper(where, None).id == "pretrain_own"
    assert shelf.model(where, "pretrain", "nano").id == item["id"]


def test_a_package_without_weights_refuses_as_ever(
    home: tuple[Where, list[ItemRef]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing pre-trained and nothing shipped: what to make first. Damaged weights are not taken."""
    where, _ = home
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(NothingFound, match="no model has been made by `pretrain`"):
        shelf.mapper(where, None)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "package")
    weights = tmp_path / "package" / "nano" / checkpoint.WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(CheckpointError, match="sha256"):
        shelf.model(where, "pretrain", None)
    assert not list(where.published.glob("models/shipped*/*.json"))


def test_without_a_head_the_map_is_one_of_features(
    home: tuple[Where, list[ItemRef]], validate_offline: Callable[[Any], None]
) -> None:
    """A COG of components at a quarter of the resolution, on the cube's ground, derived from cubes and encoder; the
    same question finds it, another number of bands is another map; parcels need classes and are refused."""
    where, cubes = home
    request = InferRequest(area=training_cubes.AREA, period=JUNE, tile_px=128, overlap_px=32, components=4)
    encoder = shelf.mapper(where, None)
    (made,) = maps(encoder, cubes, None, request, where)
    ledger = Ledger(where.published)
    item = ledger.done("maps", made.id)
    assert item is not None
    validate_offline(item)
    assert made.id.startswith("features_")
    derived = {link["title"] for link in item["links"] if link["rel"] == "derived_from"}
    assert derived == {encoder.id, "sentinel-2_cube"}
    with rasterio.open(made.asset) as source:
        assert (source.count, source.shape, source.res) == (4, (48, 48), (40.0, 40.0))
        assert tuple(source.bounds) == tuple(training_cubes.BOX.boundingbox)
        assert source.descriptions[0].startswith("component 1, ")
        values = source.read()
    shares = properties_of(made)["ringmoe:variance_shares"]
    assert np.isfinite(values).all()
    assert shares == sorted(shares, reverse=True)
    assert np.argmax(values.var((1, 2))) == 0
    kept = json.loads(Path(made.asset).with_name("components.json").read_text())
    assert np.shape(kept["weights"]) == (4, 15 * TINY.dim)
    (again,) = maps(encoder, cubes, None, request, where)
    assert (again.id, again.fresh) == (made.id, False)
    (more,) = maps(encoder, cubes, None, request.model_copy(update={"components": 5}), where)
    assert more.id != made.id
    parcels = Path(where.scenes.parent / "parcels.gpkg")
    parcels.write_bytes(b"")
    with pytest.raises(ConfigError, match="the model has no head"):
        maps(encoder, cubes, None, request.model_copy(update={"parcels": parcels}), where)
