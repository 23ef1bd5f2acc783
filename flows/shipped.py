"""A checkpoint that comes with the package, as an item of the home, so that lineage can name it."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog import publish
from catalog.ledger import Ledger, file_digest, unit_id
from flows import progress
from flows.models import SHIPPED, described, reference_of
from flows.refs import ItemRef, Where
from ringmoe import checkpoint, shipped

RESULTS_VERSION = 1


def names() -> tuple[str, ...]:
    """Of the checkpoints that come with the package."""
    return shipped.names()


def adopted(where: Where, name: str = shipped.DEFAULT) -> ItemRef:
    """A checkpoint of the package, copied into the published catalogue once, held against its own checksums.

    Raises
    ------
    CheckpointError
        When there is none of that name, or it is damaged.
    """
    source, ledger = shipped.folder_of(name), Ledger(where.published)
    item_id = f"shipped_{name}_{unit_id('shipped', RESULTS_VERSION, {'files': _digests(source)})}"
    found = ledger.done("models", item_id)
    if found is None:
        with ledger.attempting("models", item_id, "shipped") as folder:
            found = _publish(source, name, item_id, ledger, folder)
    progress.tell("model", 1, 1, f"{name}, which comes with the package")
    return reference_of(found, ledger, fresh=False)


def _digests(source: Path) -> list[list[str]]:
    return [[path.name, file_digest(path)] for path in sorted(source.iterdir()) if path.suffix != ".md"]


def _publish(source: Path, name: str, item_id: str, ledger: Ledger, folder: Path) -> dict[str, Any]:
    found = checkpoint.load(source)
    (folder / "checkpoint").mkdir()
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, (folder if path.suffix == ".md" else folder / "checkpoint") / path.name)
    shown = found.meta["extent"]
    start, end = (datetime.fromisoformat(shown[key]) for key in ("start", "end"))
    properties = described(found.model, f"RingMoE {name} pre-trained - comes with the package") | {
        SHIPPED: name,
        "ringmoe:provenance": json.loads(json.dumps({k: v for k, v in found.meta.items() if k != "extent"})),
    }
    return publish.model_item(ledger, item_id, folder, properties, shown["geometry"], publish.Sources((), start, end))
