"""What is already published, found again: cubes of an area, the latest model of a step, what is out of date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odc.geo.geom import Geometry

from catalog import cube, versions
from catalog.errors import NothingFound
from catalog.ledger import Ledger
from catalog.register.catalogue import load
from catalog.scene import Scene
from catalog.sensors import SENSORS
from catalog.stale import Stale, stale
from flows import shipped
from flows.ingest import reference_of
from flows.models import is_taught
from flows.models import reference_of as model_reference
from flows.refs import Area, IngestRequest, ItemRef, Where


def cubes(where: Where, area: Area) -> list[ItemRef]:
    """Cubes that count now, by the latest version of each sensor, and touch an area.

    Raises
    ------
    NothingFound
        When there is none.
    CubeError
        When a latest version lists a cube that is gone.
    """
    ledger, place = Ledger(where.published), Geometry(area.geometry, "EPSG:4326")
    found = [
        reference_of(dict(unit.item), ledger.item_path("cubes", unit.id), fresh=False)
        for sensor in versions.sensors(ledger)
        for unit in versions.current(ledger, sensor)
        if not Geometry(unit.item["geometry"], "EPSG:4326").intersection(place).is_empty
    ]
    if not found:
        raise NothingFound(
            f"no cube touches {area.name}",
            item=str(where.published),
            enough="one cube",
            todo="make some first: `ringmoe ingest`",
        )
    return found


def outdated(where: Where) -> dict[str, Stale]:
    """Published items made of superseded scenes, and what derives from them, by id; registered scenes count too."""
    return stale(Ledger(where.published), _registered(where))


def _registered(where: Where) -> list[Scene]:
    """Scenes in the static catalogue of registered products; none where a STAC API is searched instead."""
    if where.stac_url or not where.scenes.exists():
        return []
    known = {name for sensor in SENSORS.values() for name in sensor.collections.get("local", ())}
    return [Scene.from_item(item) for item in load(where.scenes) if item.collection_id in known]


def tile_m(where: Where, sensor: str) -> float:
    """Tile size of the cubes of a sensor that exist, so that new ones join them; else the default."""
    for path, item in Ledger(where.published).items("cubes"):
        if item["properties"]["ringmoe:sensor"] == sensor and not item["properties"]["ringmoe:tile"].startswith("n"):
            grid = cube.geobox(cube.open(reference_of(item, path, fresh=False).asset))
            if grid is not None:
                return float(grid.width * grid.affine.a)
    return float(IngestRequest.model_fields["tile_m"].default)


def model(where: Where, step: str, item_id: str | None) -> ItemRef:
    """A checkpoint by its id, else the latest of a step; one made of superseded scenes only where there is no other.

    A name of `ringmoe.shipped` is an id too; where nothing was pre-trained yet, that is what there is to adapt.
    Of pruned ones those that do a task come first, for that is what a map is made with, and of these such as were
    taught after they were cut.

    Raises
    ------
    NothingFound
        When there is none.
    """
    if item_id in shipped.names():
        return shipped.adopted(where, str(item_id))
    ledger = Ledger(where.published)
    found = [
        item
        for _, item in ledger.items("models")
        if (item["id"] == item_id if item_id else item["id"].startswith(f"{step}_"))
    ]
    if not found and step == "pretrain" and item_id is None and shipped.names():
        return shipped.adopted(where)
    if not found:
        raise NothingFound(
            f"there is no model {item_id}" if item_id else f"no model has been made by `{step}`",
            item=str(where.published / "models"),
            enough=f"one model of `ringmoe {step}`",
            todo=f"make one first: `ringmoe {step}`",
        )
    old = outdated(where) if len(found) > 1 else {}
    best = max(found, key=lambda i: (_maps(i), is_taught(i["properties"]), i["id"] not in old, _made_at(i), i["id"]))
    return model_reference(best, ledger, fresh=False)


def mapper(where: Where, item_id: str | None, *, features: bool = False) -> ItemRef:
    """What maps an area: the model named, else the latest pruned, else adapted, else an encoder for feature maps.

    The encoder is the latest pre-trained, or the one that comes with the package; `features` goes to it straight.

    Raises
    ------
    NothingFound
        When there is none, not even with the package.
    """
    if item_id is None:
        every = Ledger(where.published).items("models")
        made = [item["id"] for _, item in every if _maps(item) and is_taught(item["properties"])]
        for step in () if features else ("prune", "adapt"):
            if any(name.startswith(f"{step}_") for name in made):
                return model(where, step, None)
        return model(where, "pretrain", None)
    return model(where, "prune", item_id)


def _made_at(item: Mapping[str, Any]) -> str:
    return str(item["properties"]["created"])


def _maps(item: Mapping[str, Any]) -> bool:
    return "semantic-segmentation" in item["properties"].get("mlm:tasks", ())
