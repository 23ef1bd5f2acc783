"""Checkpoints as units of work: made once, published with the mlm extension, found again by their inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import shapely
import torch
from odc.geo.geom import Geometry
from shapely.geometry import shape

from catalog import publish
from catalog.ledger import Ledger, file_digest, unit_id
from flows import progress
from flows.refs import AdaptRequest, ItemRef, PretrainRequest, PruneRequest, Where
from ringmoe.backbone import RingMoE
from ringmoe.checkpoint import Checkpoint, load
from ringmoe.contract import DataContract
from ringmoe.errors import CheckpointError, ConfigError, PruneError
from ringmoe.train import Step, TrainConfig

SHIPPED = "ringmoe:shipped"
"""Property of a checkpoint that came with the package: its name there. It shows no place of this catalogue."""

TAUGHT = "ringmoe:taught"
"""Property of a pruned checkpoint: whether it gives what it was taught to; not where it was cut and then left alone."""

FEATURES = ["similarity-search"]
"""`mlm:tasks` of an encoder without a head; mlm 1.4 has no word nearer to features."""

Make = Callable[[Path], Mapping[str, Any]]
"""Writes a checkpoint into the folder given and returns properties for its item."""


@dataclass(frozen=True)
class Draft:
    """A checkpoint to make: everything that determines it, and how to make it."""

    step: str
    """pretrain, adapt or prune."""
    results_version: int
    """Raised when the same inputs would give another checkpoint."""
    inputs: Mapping[str, Any]
    """Checksums of what it is made of, and every parameter."""
    sources: Sequence[ItemRef]
    """What its item derives from."""
    make: Make
    """The work."""
    threads: int
    """Of torch."""

    @property
    def item_id(self) -> str:
        """Id of the checkpoint's item."""
        return f"{self.step}_{unit_id(self.step, self.results_version, self.inputs)}"


def once(draft: Draft, ledger: Ledger) -> ItemRef:
    """Make a checkpoint and publish its item, or find it done."""
    found = ledger.done("models", draft.item_id)
    if found is not None:
        progress.tell(draft.step, 1, 1, "done before")
        return reference_of(found, ledger, fresh=False)
    with ledger.attempting("models", draft.item_id, draft.step, (PruneError, ConfigError)) as folder:
        torch.set_num_threads(draft.threads)  # sums depend on it, outside training too
        properties = draft.make(folder / "checkpoint")
        span, footprint = _extent(draft.sources)
        sources = publish.Sources(tuple((r.id, _relative(r)) for r in draft.sources), *span)
        publish.model_item(ledger, draft.item_id, folder, properties, footprint, sources)
    item = ledger.done("models", draft.item_id)
    assert item is not None
    return reference_of(item, ledger, fresh=True)


def reference_of(item: Mapping[str, Any], ledger: Ledger, *, fresh: bool) -> ItemRef:
    """The address of a checkpoint's item."""
    path = ledger.item_path("models", item["id"])
    assets = item["assets"]
    return ItemRef(
        collection="models",
        id=item["id"],
        href=str(path),
        asset=str((path.parent / assets["config"]["href"]).resolve().parent),
        checksum="+".join(assets[name]["file:checksum"] for name in sorted(assets) if _weighs(assets[name])),
        fresh=fresh,
    )


def _weighs(asset: Mapping[str, Any]) -> bool:
    """Whether an asset is part of the checkpoint, not told of its training."""
    return Path(asset["href"]).parent.name == "checkpoint"


def check_published(ref: ItemRef) -> None:
    """Hold the files of a checkpoint against the checksums of its item.

    Raises
    ------
    CheckpointError
        When they are not what was published.
    """
    files = {p.stem: p for p in Path(ref.asset).glob("*") if p.is_file()}
    if "+".join(file_digest(files[name]) for name in sorted(files)) != ref.checksum:
        raise CheckpointError(
            "the checkpoint is not what its item says",
            item=str(ref.asset),
            enough="the weights and the configuration as they were published",
            todo=f"remove {Path(ref.href).parent} and make it again as it was made: `ringmoe {ref.id.split('_')[0]}`, "
            "then the same command again",
        )


def open_checkpoint(ref: ItemRef) -> Checkpoint:
    """Load a published checkpoint into memory, in float32.

    Raises
    ------
    CheckpointError
        When its files are not what was published.
    """
    check_published(ref)
    found = load(Path(ref.asset))
    found.model.float()  # what ships is kept in bfloat16 for its size, and steps of training would be lost in that
    return found


def properties_of(ref: ItemRef) -> dict[str, Any]:
    """Properties of a published item."""
    return dict(_record(ref)["properties"])


def is_taught(properties: Mapping[str, Any]) -> bool:
    """Whether a model, by its item's properties, has learned what it gives; all have but pruned ones that say no."""
    return bool(properties.get(TAUGHT, True))


def has_head(ref: ItemRef) -> bool:
    """Whether a model was made for a task, and not an encoder alone."""
    return properties_of(ref)["mlm:tasks"] != FEATURES


def table_of(ref: ItemRef, name: str) -> dict[str, Any] | None:
    """A JSON table that was published beside a map or a model, as score; None where it has none of that name."""
    asset = _record(ref)["assets"].get(name)
    if asset is None:
        return None
    found: dict[str, Any] = json.loads((Path(ref.href).parent / asset["href"]).read_text())
    return found


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(where: Where) -> list[Any]:
    """What of the machine determines bits: threads, kind of device, version of torch."""
    return [where.threads, device().type, torch.__version__]


def told(step: str, total: int, offset: int = 0) -> Callable[[Step], None]:
    """A step's watcher for `ringmoe.train` that tells the terminal."""
    return lambda s: progress.tell(step, offset + s.index + 1, total, f"loss {s.loss:.3f}")


def recipe_of(request: PretrainRequest | AdaptRequest | PruneRequest, where: Where) -> TrainConfig:
    """How a request trains: a tenth of the steps warm up."""
    return TrainConfig(
        steps=request.steps,
        rate=request.rate,
        warmup=max(1, request.steps // 10),
        seed=request.seed,
        threads=where.threads,
    )


def bands_of(contract: DataContract) -> list[dict[str, Any]]:
    """`mlm:input` of a data contract, one entry per modality and sensor."""
    entries = []
    for wanted in (*contract.inputs.values(), *contract.also):
        channels = [b.name + (f"_{b.part}" if b.part else "") for b in wanted.bands]
        entries.append(
            {
                "name": f"{wanted.modality.value} chips of {wanted.sensor}: {wanted.quantity}",
                "bands": channels,
                "input": {
                    "shape": [-1, len(channels), -1, -1],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "description": f"{wanted.quantity} in units {wanted.units}, "
                f"{wanted.gsd_m[0]:g} to {wanted.gsd_m[1]:g} m; normalised inside the model",
            }
        )
    return entries


def described(model: RingMoE, name: str) -> dict[str, Any]:
    """`mlm:*` properties of an encoder without a head."""
    return {
        "mlm:name": name,
        "mlm:architecture": "RingMoE: Swin V2 with modal-specialized, collaborative and shared experts",
        "mlm:tasks": FEATURES,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__.split("+")[0],
        "mlm:total_parameters": sum(p.numel() for p in model.parameters()),
        "mlm:pretrained": True,
        "mlm:input": bands_of(model.contract),
        "mlm:output": [
            {
                "name": "feature pyramid",
                "tasks": ["similarity-search"],
                "result": {
                    "shape": [-1, model.config.dim * 8, -1, -1],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
            }
        ],
        "ringmoe:contract": model.contract.digest(),
    }


def _relative(ref: ItemRef) -> str:
    path = Path(ref.href)
    return f"../../{ref.collection}/{path.parent.name}/{path.name}"


def _extent(refs: Sequence[ItemRef]) -> tuple[tuple[datetime, datetime], dict[str, Any]]:
    """Time and footprint of everything that items show; what came with the package shows nothing of it."""
    every = [_record(r) for r in refs]
    items = [i for i in every if SHIPPED not in i["properties"]] or every
    starts = [datetime.fromisoformat(i["properties"]["start_datetime"]) for i in items]
    ends = [datetime.fromisoformat(i["properties"]["end_datetime"]) for i in items]
    hull = shapely.unary_union([shape(i["geometry"]) for i in items]).convex_hull
    return (min(starts), max(ends)), publish.lonlat(Geometry(hull, "EPSG:4326"))


def _record(ref: ItemRef) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(ref.href).read_text())
    return found
