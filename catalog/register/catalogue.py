"""The static catalogue on disk: items kept, links rebuilt from them; the same items give the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pystac

from catalog.errors import LedgerError, StorageFull
from catalog.sensors import SENSORS

_OTHERS = {"labels": "Class rasters to learn from and to score against", "dem": "Heights in metres"}


class _WholeFiles(pystac.StacIO):
    """Writes each file beside its place and then renames it, so that no reader meets half a file."""

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        return Path(str(source)).read_text("utf-8")

    def write_text(self, dest: Any, txt: str, *args: Any, **kwargs: Any) -> None:
        path = Path(str(dest))
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(txt + "\n", "utf-8")
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StorageFull(
                f"the catalogue cannot be written ({error.strerror})",
                item=str(path),
                enough=f"{len(txt)} bytes of room and the right to write",
                todo="make room or choose another folder; items written before are kept",
            ) from None

    def json_dumps(self, json_dict: dict[str, Any], *args: Any, **kwargs: Any) -> str:
        return json.dumps(json_dict, indent=1, ensure_ascii=False, allow_nan=False)


def save(out: Path, items: Iterable[pystac.Item]) -> None:
    """Add items to the catalogue in a folder; an item of the same collection and id takes the place of the older one.

    Asset hrefs are written relative to the item where they are files.

    Raises
    ------
    StorageFull
        When a file cannot be written.
    LedgerError
        When an item that is already there cannot be read.
    """
    held = {(i.collection_id or "", i.id): i for i in load(out)}
    held |= {(i.collection_id or "", i.id): i.clone() for i in items}
    catalog = pystac.Catalog("ringmoe", "Scenes, labels and heights found in folders", title="Registered products")
    for name in sorted({name for name, _ in held}):
        members = [item for (of, _), item in sorted(held.items()) if of == name]
        catalog.add_child(_collection(name, members))
    catalog.normalize_hrefs(f"{out.resolve()}/")  # without the slash pystac takes a name with a dot for a file
    catalog.make_all_asset_hrefs_relative()
    catalog.save(pystac.CatalogType.SELF_CONTAINED, stac_io=_WholeFiles())


def load(out: Path) -> tuple[pystac.Item, ...]:
    """Every item in the catalogue's folder, hrefs absolute, in the order of collection and id.

    Raises
    ------
    LedgerError
        Naming the item file that cannot be read.
    """
    found = []
    for path in sorted(out.glob("*/*/*.json")):
        try:
            item = pystac.Item.from_dict(json.loads(path.read_text("utf-8")))
        except (ValueError, KeyError, pystac.STACError) as error:
            raise LedgerError(
                f"an item cannot be read ({error})",
                item=str(path),
                enough="a whole STAC item",
                todo="delete the file and register its product again",
            ) from None
        item.set_self_href(str(path.resolve()))
        item.make_asset_hrefs_absolute()
        found.append(item)
    return tuple(found)


def _collection(name: str, members: list[pystac.Item]) -> pystac.Collection:
    sensor = next((s for s in SENSORS.values() if name in s.collections.get("local", ())), None)
    text = f"{sensor.id}; licence: {sensor.licence}" if sensor else _OTHERS.get(name, name)
    extent = pystac.Extent.from_items(members)
    boxes = [i.bbox for i in members if i.bbox]
    west, south, east, north = zip(*boxes, strict=True)
    extent.spatial = pystac.SpatialExtent([[min(west), min(south), max(east), max(north)]])
    collection = pystac.Collection(name, text, extent, license="other", title=name)
    for item in members:
        item.clear_links()
        collection.add_item(item)
    return collection
