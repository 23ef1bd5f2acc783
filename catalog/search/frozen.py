"""Answered parts of a search kept as stac-geoparquet: written whole or not at all, replayed without a network."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import rustac
from shapely.errors import ShapelyError
from shapely.geometry import shape

from catalog.errors import CatalogError
from catalog.ledger import no_space_left
from catalog.search.pages import Document

VERBATIM = "ringmoe:item"
"""Column that holds an item exactly as it was answered: the standard's own columns keep times to a millisecond."""
RECORD = 2
"""Version of the record beside a part."""


@dataclass(frozen=True)
class Part:
    """The answer to one sensor and one stretch of time."""

    name: str
    """Sensor and first instant, also the name of its files."""
    query: Mapping[str, Any]
    """What was asked: sensor, area, period and the providers' collections."""
    provider: str
    """Who answered."""
    items: tuple[Document, ...]
    """As answered, in order."""
    stated: int | None
    """How many items the provider said match."""
    verified: bool
    """Whether every count was stated and kept."""
    asked: str
    """When, ISO 8601 UTC."""
    refused: tuple[str, ...] = ()
    """Refusals that passed: one per repeated page."""
    failures: Mapping[str, str] | None = None
    """Providers that were asked first and failed, with the reason."""
    notes: tuple[str, ...] = ()
    """What was odd."""


def freeze(part: Part, folder: Path) -> None:
    """Keep a part; its record is written last and counts as the proof that it is whole.

    Items that stac-geoparquet cannot hold, as one without a time, are kept in the record, by their position.

    Raises
    ------
    StorageFull
        The disk has no room; parts kept before stay.
    """
    record = {k: v for k, v in asdict(part).items() if k != "items"}
    loose = {str(n): item for n, item in enumerate(part.items) if not _fits(item)}
    rows = [item for item in part.items if _fits(item)]
    record |= {"version": RECORD, "count": len(part.items), "sha256": "", "loose": loose}
    with no_space_left(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if rows:
            with _in_place_of(_table(folder, part.name)) as spare:
                _write(spare, rows)
                record["sha256"] = _digest(spare)
        with _in_place_of(_record(folder, part.name)) as spare:
            spare.write_text(json.dumps(record, indent=1, sort_keys=True), "utf-8")


def thaw(folder: Path, name: str, query: Mapping[str, Any]) -> Part | None:
    """A kept part: the same items, in the same order, of the same content; None where it was not finished.

    Raises
    ------
    CatalogError
        Its file is not the one that was written.
    """
    if not _record(folder, name).exists():
        return None
    try:
        record = json.loads(_record(folder, name).read_text("utf-8"))
        said, count, digest, loose = record["query"], int(record["count"]), record["sha256"], record["loose"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, name, f"its record cannot be read ({type(error).__name__})") from None
    if said != _plain(query):
        raise _damaged(folder, name, "it answers another query")
    items: list[Document] = []
    if digest:
        table = _table(folder, name)
        if not table.exists() or _digest(table) != digest:
            raise _damaged(folder, name, "its table is missing or not the one that was written")
        items = [json.loads(f["properties"][VERBATIM]) for f in rustac.read_sync(str(table))["features"]]
    for position, item in sorted(loose.items(), key=lambda pair: int(pair[0])):
        items.insert(int(position), item)
    if len(items) != count:
        raise _damaged(folder, name, f"it holds {len(items)} items of {count}")
    kept = {k: record[k] for k in ("name", "provider", "stated", "verified", "asked", "failures")}
    return Part(query=said, items=tuple(items), refused=tuple(record["refused"]), notes=tuple(record["notes"]), **kept)


def _write(path: Path, items: Sequence[Document]) -> None:
    """The standard's columns of every item beside the item itself; the bare ones where theirs are of mixed types."""
    try:
        rustac.write_sync(str(path), [_row(item, item["properties"], item["assets"]) for item in items])
    except rustac.RustacError:
        bare = [_row(i, {}, {k: {"href": a["href"]} for k, a in i["assets"].items()}) for i in items]
        rustac.write_sync(str(path), [{**row, "links": [], "stac_extensions": []} for row in bare])


def _fits(item: Document) -> bool:
    """Whether a table can hold an item: it has an id, a time, assets with addresses, and a geometry that is one."""
    said, assets = item.get("properties"), item.get("assets")
    if not isinstance(said, dict) or not isinstance(assets, dict) or not isinstance(item.get("id"), str):
        return False
    stamp = said.get("datetime") or said.get("start_datetime")
    try:
        datetime.fromisoformat(str(stamp))
        shape(item["geometry"]) if item.get("geometry") is not None else None
        [float(v) for v in item.get("bbox") or ()]
    except (ValueError, TypeError, KeyError, AttributeError, ShapelyError):
        return False
    return all(isinstance(a, dict) and isinstance(a.get("href"), str) for a in assets.values())


def _row(item: Document, properties: Mapping[str, Any], assets: Mapping[str, Any]) -> Document:
    """What the table's columns say of an item; an item without a geometry has an empty one there."""
    said = item["properties"]
    own = {k: v for k, v in item.items() if k in STANDARD}
    own["geometry"] = item.get("geometry") or {"type": "GeometryCollection", "geometries": []}
    columns = {**properties, "datetime": said.get("datetime") or said["start_datetime"], VERBATIM: _text(item)}
    return {"links": [], **own, "assets": dict(assets), "properties": columns}


STANDARD = ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "collection")
"""Members of an item that stac-geoparquet has columns for, beside properties and assets."""


def _text(item: Document) -> str:
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _table(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def _record(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A hidden file beside a path that takes its place once written, or leaves no trace."""
    spare = path.with_name(f".{uuid4().hex}.{path.name}")
    try:
        yield spare
        with spare.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(spare, path)
    finally:
        spare.unlink(missing_ok=True)


def _damaged(folder: Path, name: str, problem: str) -> CatalogError:
    return CatalogError(
        f"a kept part of a search is damaged: {problem}",
        item=str(_table(folder, name)),
        enough="the files as the search wrote them",
        todo="delete this part's two files and run the same search again: only it is asked anew",
    )
