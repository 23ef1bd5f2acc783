"""Predictions, checkpoints -> a static STAC catalogue whose links, checksums and lineage hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from catalog.errors import LedgerError
from catalog.ledger import Ledger, file_digest, tree_digest
from catalog.publish import COLLECTIONS, relink
from flows import progress
from flows.refs import Where


def items(where: Where) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every published item with the path of its record."""
    ledger = Ledger(where.published)
    for collection in COLLECTIONS:
        yield from ledger.items(collection)


def verify(where: Where) -> int:
    """Hold every asset against its checksum; returns how many were held.

    Raises
    ------
    LedgerError
        Naming the first asset that is missing or changed.
    """
    found = list(items(where))
    held = 0
    for number, (path, item) in enumerate(found, start=1):
        for asset in item["assets"].values():
            target = path.parent / asset["href"]
            if not target.exists() or _digest(target) != asset["file:checksum"]:
                raise LedgerError(
                    "a published asset is missing or not what its item says",
                    item=str(target),
                    enough=f"a file of checksum {asset['file:checksum']}",
                    todo=f"remove {path.parent} and run the same command again; it will be made again",
                )
            held += 1
        progress.tell("publish", number, len(found), item["id"])
    return held


def _digest(target: Path) -> str:
    return tree_digest(target)[0] if target.is_dir() else file_digest(target)


@task(name="publish", cache_policy=NO_CACHE)
def publish_task(where: Where) -> Path:
    """Verify what lies there, then rebuild the links."""
    verify(where)
    return relink(where.published)


@flow(name="publish", validate_parameters=False)
def publish(where: Where) -> Path:
    """The path of catalog.json, rebuilt from the items that exist."""
    return publish_task(where)
