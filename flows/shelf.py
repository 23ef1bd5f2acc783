"""What is already published, found again: cubes of an area, the latest model of a step."""

from __future__ import annotations

from odc.geo.geom import Geometry

from catalog import cube
from catalog.errors import NothingFound
from catalog.ledger import Ledger
from flows.ingest import reference_of
from flows.models import reference_of as model_reference
from flows.refs import Area, IngestRequest, ItemRef, Where


def cubes(where: Where, area: Area) -> list[ItemRef]:
    """Published cubes that touch an area; of several of one sensor and tile the one of most scenes, then the newest.

    Raises
    ------
    NothingFound
        When there is none.
    """
    ledger, place = Ledger(where.published), Geometry(area.geometry, "EPSG:4326")
    best: dict[tuple[str, ...], tuple[tuple[int, str, str], ItemRef]] = {}
    for path, item in ledger.items("cubes"):
        if Geometry(item["geometry"], "EPSG:4326").intersection(place).is_empty:
            continue
        properties = item["properties"]
        same = (properties["ringmoe:sensor"], properties["ringmoe:tile"], properties["ringmoe:quantity"])
        scenes = sum(link["rel"] == "derived_from" for link in item["links"])
        rank = (scenes, properties["created"], item["id"])
        if same not in best or rank > best[same][0]:
            best[same] = rank, reference_of(item, path, fresh=False)
    found = [ref for _, ref in best.values()]
    if not found:
        raise NothingFound(
            f"no cube touches {area.name}",
            item=str(where.published),
            enough="one cube",
            todo="make some first: `ringmoe ingest`",
        )
    return found


def tile_m(where: Where, sensor: str) -> float:
    """Tile size of the cubes of a sensor that exist, so that new ones join them; else the default."""
    for path, item in Ledger(where.published).items("cubes"):
        if item["properties"]["ringmoe:sensor"] == sensor and not item["properties"]["ringmoe:tile"].startswith("n"):
            grid = cube.geobox(cube.open(reference_of(item, path, fresh=False).asset))
            if grid is not None:
                return float(grid.width * grid.affine.a)
    return float(IngestRequest.model_fields["tile_m"].default)


def model(where: Where, step: str, item_id: str | None) -> ItemRef:
    """A checkpoint by its id, else the latest of a step.

    Raises
    ------
    NothingFound
        When there is none.
    """
    ledger = Ledger(where.published)
    found = [
        item
        for _, item in ledger.items("models")
        if (item["id"] == item_id if item_id else item["id"].startswith(f"{step}_"))
    ]
    if not found:
        raise NothingFound(
            f"there is no model {item_id}" if item_id else f"no model has been made by `{step}`",
            item=str(where.published / "models"),
            enough=f"one model of `ringmoe {step}`",
            todo=f"make one first: `ringmoe {step}`",
        )
    return model_reference(max(found, key=lambda i: (i["properties"]["created"], i["id"])), ledger, fresh=False)
