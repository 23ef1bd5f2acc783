"""Versions: items that list which cubes of an instrument count, and which version was before; stores are shared.

An ingest publishes one per instrument. Its name is the content hash of what it lists, so the same content is the same
version. Items are never reopened: a version says which came before it, never which came after; the latest are those
that no other names (collection.json of a published catalogue links to them).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pystac
import shapely
from odc.geo.geom import Geometry
from shapely.geometry import shape

from catalog import publish
from catalog.errors import CubeError
from catalog.ledger import Ledger, unit_id
from catalog.search import recalled, superseded

COLLECTION = "versions"
RESULTS_VERSION = 1
EXTENSION = "https://stac-extensions.github.io/version/v1.2.0/schema.json"


@dataclass(frozen=True)
class Listed:
    """A cube as a version lists it."""

    id: str
    """Id of the cube's item."""
    checksum: str
    """Multihash of its store."""
    store: Path
    """Its Zarr store."""
    item: Mapping[str, Any]
    """Its item as recorded."""

    @property
    def place(self) -> tuple[str, ...]:
        """What cubes that may stand for one another share: instrument, tile, quantity and bands."""
        said = self.item["properties"]
        tile = str(said["ringmoe:tile"])
        bands = said["cube:dimensions"]["band"]["values"]
        kept = "radar" if tile.startswith("radar_") else tile  # which is named after the scene itself
        return said["ringmoe:sensor"], kept, said["ringmoe:quantity"], *bands

    @property
    def scenes(self) -> tuple[str, ...]:
        """Ids of its scenes."""
        return tuple(link["title"] for link in self.item["links"] if link["rel"] == "derived_from")


def listed(path: Path, item: Mapping[str, Any]) -> Listed:
    """A published cube as versions list it."""
    asset = item["assets"]["cube"]
    return Listed(item["id"], asset["file:checksum"], path.parent / asset["href"], item)


def merged(before: Iterable[Listed], new: Iterable[Listed]) -> tuple[Listed, ...]:
    """What counts after new cubes: a cube all of whose scenes, or their reprocessed selves, new ones show, does not.

    The order is that in which cubes came; of a scene that several hold the last is read.
    """
    old, coming = tuple(before), tuple(new)
    known, names = {u.id for u in old}, {u.id for u in coming}
    shown: dict[tuple[str, ...], set[str]] = {}
    for unit in coming:
        shown.setdefault(unit.place, set()).update(unit.scenes)
    renewed = renewals((*old, *coming))

    def replaced(unit: Listed) -> bool:
        here = shown.get(unit.place, set())
        return unit.id not in names and all(s in here or renewed.get(s, ("", ""))[0] in here for s in unit.scenes)

    return (*(u for u in old if not replaced(u)), *(u for u in coming if u.id not in known))


def renewals(units: Iterable[Listed]) -> dict[str, tuple[str, str]]:
    """Scenes of cubes of which other cubes hold the reprocessed self, as `catalog.search.superseded` gives them."""
    kept = {a["id"]: a for u in units for a in u.item["properties"]["ringmoe:acquisitions"]}
    return superseded([recalled(a) for a in kept.values()])


def heads(ledger: Ledger, sensor: str) -> tuple[dict[str, Any], ...]:
    """The latest versions of an instrument: several where ingests ran beside each other, until the next joins them."""
    found = [item for _, item in ledger.items(COLLECTION) if item["properties"]["ringmoe:sensor"] == sensor]
    before = {link["title"] for item in found for link in item["links"] if link["rel"] == "predecessor-version"}
    return tuple(
        sorted((i for i in found if i["id"] not in before), key=lambda i: (i["properties"]["created"], i["id"]))
    )


def contents(ledger: Ledger, version: Mapping[str, Any]) -> tuple[Listed, ...]:
    """The cubes that a version lists.

    Raises
    ------
    CubeError
        Naming the first that is gone or is another one now.
    """
    found = []
    for entry in version["properties"]["ringmoe:units"]:
        unit = _unit(ledger, entry)
        if unit is None:
            raise CubeError(
                f"version {version['id']} lists a store that is gone or is another one now",
                item=str(ledger.item_path("cubes", entry["id"])),
                enough=f"the cube with the checksum {entry['checksum']}",
                todo="open the latest version, or ingest the area and period again",
            )
        found.append(unit)
    return tuple(found)


def _unit(ledger: Ledger, entry: Mapping[str, str]) -> Listed | None:
    item = ledger.done("cubes", entry["id"])
    if item is None:
        return None
    unit = listed(ledger.item_path("cubes", entry["id"]), item)
    return unit if unit.checksum == entry["checksum"] and unit.store.exists() else None


def current(ledger: Ledger, sensor: str) -> tuple[Listed, ...]:
    """The cubes of an instrument that count now: its latest versions, or all its cubes where it has no version yet.

    Raises
    ------
    CubeError
        When a latest version lists a cube that is gone.
    """
    latest = heads(ledger, sensor)
    units: tuple[Listed, ...] = ()
    for version in latest:
        units = merged(units, contents(ledger, version))
    if latest:
        return units
    found = [(p, i) for p, i in ledger.items("cubes") if i["properties"]["ringmoe:sensor"] == sensor]
    for path, item in sorted(found, key=lambda pair: (pair[1]["properties"]["created"], pair[1]["id"])):
        units = merged(units, (listed(path, item),))
    return units


def sensors(ledger: Ledger) -> tuple[str, ...]:
    """The instruments that a catalogue has cubes of."""
    return tuple(sorted({str(item["properties"]["ringmoe:sensor"]) for _, item in ledger.items("cubes")}))


def publish_version(ledger: Ledger, sensor: str, cubes: Sequence[str]) -> dict[str, Any]:
    """Publish what counts of an instrument after an ingest, or find that it is said already.

    Parameters
    ----------
    cubes
        Ids of the cubes that the ingest made or found done.

    Returns
    -------
    dict
        The version's item as recorded.

    Raises
    ------
    StorageFull
        When the disk has no room for it; the version before stays the latest.
    """
    latest = heads(ledger, sensor)
    units: tuple[Listed, ...] = ()
    for version in latest:  # a cube that somebody removed is in no new version
        there = (_unit(ledger, entry) for entry in version["properties"]["ringmoe:units"])
        units = merged(units, [u for u in there if u is not None])
    made = {i: ledger.done("cubes", i) for i in cubes}
    units = merged(units, [listed(ledger.item_path("cubes", i), item) for i, item in made.items() if item is not None])
    entries = [_entry(u) for u in units]
    for version in latest:
        if len(latest) == 1 and version["properties"]["ringmoe:units"] == entries:
            return version
    said = [[e["id"], e["checksum"]] for e in entries]
    item_id = f"{sensor}_{unit_id('version', RESULTS_VERSION, {'units': said})}"
    if ledger.done(COLLECTION, item_id) is not None:  # what counted once counts again: another version, later
        back = {"units": said, "after": [v["id"] for v in latest]}
        item_id = f"{sensor}_{unit_id('version', RESULTS_VERSION, back)}"
    return publish.commit(ledger, COLLECTION, _item(item_id, sensor, units, latest))


def _entry(unit: Listed) -> dict[str, str]:
    said = unit.item["properties"]
    return {
        "id": unit.id,
        "checksum": unit.checksum,
        "tile": said["ringmoe:tile"],
        "period": said["ringmoe:period"],
    }


def _item(item_id: str, sensor: str, units: Sequence[Listed], before: Sequence[Mapping[str, Any]]) -> pystac.Item:
    footprint = shapely.unary_union([shape(u.item["geometry"]) for u in units]).convex_hull
    said = [u.item["properties"] for u in units]
    sources = publish.Sources(
        [(u.id, f"../../cubes/{u.id}/{u.id}.json") for u in units],
        min(datetime.fromisoformat(p["start_datetime"]) for p in said),
        max(datetime.fromisoformat(p["end_datetime"]) for p in said),
    )
    item = publish.new_item(COLLECTION, item_id, publish.lonlat(Geometry(footprint, "EPSG:4326")), sources, [EXTENSION])
    item.properties |= {
        "version": str(1 + max((int(v["properties"]["version"]) for v in before), default=0)),
        "ringmoe:sensor": sensor,
        "ringmoe:units": [_entry(u) for u in units],
    }
    for version in before:
        link = f"../{version['id']}/{version['id']}.json"
        item.add_link(pystac.Link("predecessor-version", link, media_type="application/geo+json", title=version["id"]))
    return item


def read(path: str | Path) -> tuple[Ledger, dict[str, Any]]:
    """A version by the path of its item, with the catalogue it lies in.

    Raises
    ------
    CubeError
        When there is none.
    """
    try:
        item: dict[str, Any] = json.loads(Path(path).read_text())
        item["properties"]["ringmoe:units"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CubeError(
            f"there is no item of a version ({type(error).__name__}: {error})",
            item=str(path),
            enough="an item of the collection versions",
            todo="list them with `ringmoe status`, or open an area by itself with catalog.mosaic.open_area",
        ) from error
    return Ledger(Path(path).absolute().parents[2]), item
