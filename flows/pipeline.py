"""The whole house on one page: ingest, pretrain, adapt, prune, infer, publish."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import BaseModel, ConfigDict

from flows.adapt import adapt
from flows.infer import infer
from flows.ingest import ingest
from flows.pretrain import pretrain
from flows.prune import prune
from flows.publish import publish
from flows.refs import ItemRef, RunRequest


class Run(BaseModel):
    """What a run found and made, as addresses."""

    model_config = ConfigDict(frozen=True)

    scenes: dict[str, int]
    """Scenes found per sensor."""
    cubes: list[ItemRef]
    """One per sensor and tile."""
    models: list[ItemRef]
    """Pre-trained, adapted, pruned; only the first where there are no labels."""
    maps: list[ItemRef]
    """One per grid of the area mapped."""
    catalog: Path
    """catalog.json of everything published."""
    unreadable: list[tuple[str, str]] = []
    """Items that are no scene, as collection/id, and why."""

    @property
    def fresh(self) -> list[ItemRef]:
        """What this run made; the rest was found finished."""
        return [ref for ref in (*self.cubes, *self.models, *self.maps) if ref.fresh]


@flow(name="ringmoe-on-earth")
def ringmoe_on_earth(request: RunRequest) -> Run:
    """From STAC search to published maps; whatever an earlier run finished is found, not repeated."""
    where = request.where
    found = ingest(request.ingest, where)
    teacher = pretrain(found.cubes, request.pretrain, where)
    models, maps = [teacher], []
    if request.adapt:
        adapted = adapt(teacher, found.cubes, request.adapt, where)
        small = prune(adapted, found.cubes, request.prune, request.adapt, where)
        models += [adapted, small]
        if request.infer:
            maps = infer(small, found.cubes, request.infer, where, request.adapt)
    catalog, unreadable = publish(where), found.unreadable
    return Run(scenes=found.scenes, cubes=found.cubes, models=models, maps=maps, catalog=catalog, unreadable=unreadable)
