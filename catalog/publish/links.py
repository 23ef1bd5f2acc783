"""The items that exist -> catalog.json and a collection.json each: a static catalogue that any STAC reader walks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pystac

from catalog.ledger import Ledger, write_whole

COLLECTIONS = {
    "cubes": "Calibrated and co-registered scenes of one instrument over one tile",
    "composites": "One picture of a period, made of the looks of cubes that show the ground",
    "models": "Checkpoints of RingMoE with their data contract",
    "maps": "What a model says of an area",
    "versions": "Which cubes of one instrument count, and which did before",
}


def relink(root: str | Path, title: str = "RingMoE on Earth") -> Path:
    """Rebuild catalog.json and every collection.json of a static catalogue from the items that exist.

    Returns
    -------
    Path
        The root catalog.json.
    """
    ledger = Ledger(root)
    top = pystac.Catalog("ringmoe", f"{title}: cubes, models and maps with their lineage", title=title)
    for name, text in COLLECTIONS.items():
        items = [pystac.Item.from_dict(d, preserve_dict=False) for _, d in ledger.items(name)]
        if not items:
            continue
        extent = pystac.Extent.from_items(items)
        collection = pystac.Collection(name, text, extent, title=name, license="other")
        for item in items:
            item.clear_links("self")
            collection.add_link(
                pystac.Link("item", f"./{item.id}/{item.id}.json", media_type="application/geo+json", title=item.id)
            )
        for item in latest(items):
            place = f"./{item.id}/{item.id}.json"
            collection.add_link(pystac.Link("latest-version", place, media_type="application/geo+json", title=item.id))
        collection.add_link(pystac.Link("root", "../catalog.json", media_type="application/json"))
        collection.add_link(pystac.Link("parent", "../catalog.json", media_type="application/json"))
        write_whole(ledger.root / name / "collection.json", collection.to_dict(transform_hrefs=False))
        top.add_link(pystac.Link("child", f"./{name}/collection.json", media_type="application/json", title=name))
    described = top.to_dict(transform_hrefs=False)
    described["links"] = [link for link in described["links"] if link["rel"] != "root"]
    described["links"].insert(0, {"rel": "root", "href": "./catalog.json", "type": "application/json"})
    write_whole(ledger.root / "catalog.json", described)
    return ledger.root / "catalog.json"


def latest(items: Sequence[pystac.Item]) -> list[pystac.Item]:
    """Of items that are versions of something those that no other names as the one before."""
    before = {link.title for item in items for link in item.get_links("predecessor-version")}
    return [i for i in items if "version" in i.properties and i.id not in before]
