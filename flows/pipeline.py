"""The whole house on one page: ingest, pretrain, adapt, prune, infer, publish."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import BaseModel, ConfigDict

from catalog.errors import NothingFound
from flows.adapt import adapt
from flows.infer import infer
from flows.ingest import find, find_labels, ingest, plan, stac_api
from flows.pretrain import pretrain
from flows.prune import prune
from flows.publish import publish
from flows.refs import ItemRef, RunRequest
from flows.score import Truth


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

    @property
    def fresh(self) -> list[ItemRef]:
        """What this run made; the rest was found finished."""
        return [ref for ref in (*self.cubes, *self.models, *self.maps) if ref.fresh]


@flow(name="ringmoe-on-earth", validate_parameters=False)
def ringmoe_on_earth(request: RunRequest) -> Run:
    """From STAC search to published maps; whatever an earlier run finished is found, not repeated."""
    where = request.where
    with stac_api(where) as url:
        scenes = find(request.ingest, where, url)
        planned = plan(request.ingest, scenes, url)
        labels = list(find_labels(request.adapt.area, request.adapt.period, url)) if request.adapt else []
        held_out = find_labels(request.infer.area, request.infer.period, url) if request.infer else ()

    cubes = ingest(request.ingest, where, planned)
    teacher = pretrain(cubes, request.pretrain, where)
    models, maps = [teacher], []
    if request.adapt:
        if not labels:
            raise NothingFound(
                "no label raster lies in the area and period to learn from",
                item=f"{request.adapt.area.name}, {request.adapt.period}",
                enough="one registered label raster",
                todo="register one (`ringmoe register --labels FILE`), or leave labels out to stop at pre-training",
            )
        adapted = adapt(teacher, cubes, labels, request.adapt, where)
        small = prune(adapted, cubes, labels, request.prune, request.adapt, where)
        models += [adapted, small]
        if request.infer:
            truth = None
            if held_out:
                truth = Truth(
                    area=request.infer.area,
                    labels=held_out,
                    train_labels=tuple(labels),
                    train_cubes=tuple(cubes),
                    train=request.adapt,
                )
            maps = infer(small, cubes, request.infer, where, truth)
    counts = {sensor: sum(s.sensor == sensor for s in scenes) for sensor in request.ingest.sensors}
    return Run(scenes=counts, cubes=cubes, models=models, maps=maps, catalog=publish(where))
