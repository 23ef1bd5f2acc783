"""A static catalogue is crawled once, kept as one table, and searched as an API is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stac_faults import Doc, Faulty, serving, year_of_scenes

from catalog.errors import ServiceError
from catalog.patience import Patience
from catalog.providers import Provider
from catalog.search import Asking, Query, discover
from catalog.search.crawl import index

QUICK = Patience(retries=4, first_wait_s=0.001, longest_wait_s=0.01)
YEAR = Query(("sentinel-2",), bbox=(11.2, 46.2, 11.8, 46.8), start="2024-01-01", end="2024-12-31")


class Static(Faulty):
    """A catalogue of files: a root, a collection, a catalogue per month, items; one item linked twice."""

    def answer(self, path: str, body: Any) -> Doc:
        name = path.strip("/")
        months = sorted({item["properties"]["datetime"][:7] for item in self.items})
        if name == "catalog.json":
            return self._links("Catalog", [("child", "c1/collection.json")])
        if name == "c1/collection.json":
            return self._links("Collection", [("child", f"./{month}/catalog.json") for month in months])
        if name.endswith("catalog.json"):
            here = [i for i in self.items if i["properties"]["datetime"].startswith(name.split("/")[1])]
            return self._links("Catalog", [("item", f"../items/{i['id']}.json") for i in [*here, here[0]]])
        item = next(i for i in self.items if path.endswith(f"/{i['id']}.json"))
        assets = {key: {**asset, "href": f"./{key}.tif"} for key, asset in item["assets"].items()}
        return {**item, "assets": assets, "links": [{"rel": "parent", "href": "../x/catalog.json"}]}

    def _links(self, kind: str, links: list[tuple[str, str]]) -> Doc:
        own = {"type": kind, "id": "x", "stac_version": "1.0.0", "description": "x"}
        return {**own, "links": [{"rel": rel, "href": href} for rel, href in links]}


def asking(server: Static, keep: Path | None, **more: Any) -> Asking:
    provider = Provider("earth-search", f"{server.url}/catalog.json", kind="static")
    return Asking((provider,), keep, patience=QUICK, **more)


def test_a_static_catalogue_is_crawled_once_and_searched_by_area_and_time(tmp_path: Path) -> None:
    """Every document is asked for once, though an item is linked twice; the counts are known and hold."""
    items = year_of_scenes(40)
    with serving(Static(items)) as server:
        found = discover(YEAR, asking(server, tmp_path))
        paths = [path for path, _, _ in server.seen]
        assert sorted(set(paths)) == sorted(paths)
        assert len(paths) == 1 + 1 + 4 + 40
        crawled = len(paths)
        june = discover(Query(("sentinel-2",), start="2024-03-01", end="2024-03-31"), asking(server, tmp_path / "x"))
        assert len(server.seen) == 2 * crawled
        discover(YEAR, asking(server, tmp_path))
        assert len(server.seen) == 2 * crawled
    assert [s.id for s in found.scenes] == [item["id"] for item in items]
    assert found.verified
    assert [s.datetime.month for s in june.scenes] == [3] * len(june.scenes)
    assert found.scenes[0].bands["B04"].href == f"{server.url}/c1/items/red.tif"


def test_a_crawl_survives_faults_and_refuses_to_miss_a_document(tmp_path: Path) -> None:
    """Every fifth document fails once: nothing is lost; a document that never comes ends the crawl by name."""
    items = year_of_scenes(40)
    tried: Counter[str] = Counter()

    def fate(n: int, path: str) -> str:
        tried[path] += 1
        return ("drop", "503", "cut")[len(tried) % 3] if tried[path] == 1 and len(tried) % 5 == 4 else "ok"

    with serving(Static(items, fate)) as server:
        part = index(f"{server.url}/catalog.json", tmp_path / "a", QUICK)
    assert part is not None
    assert [i["id"] for i in part.items] == [i["id"] for i in items]
    assert len(part.refused) == server.faulty_requests() > 8
    broken = Static(items, lambda n, path: "500" if "_017_" in path else "ok")
    with serving(broken) as server, pytest.raises(ServiceError, match="HTTP 500"):
        index(f"{server.url}/catalog.json", tmp_path / "b", QUICK)
    assert not list((tmp_path / "b").glob("*.json"))


def test_the_index_is_used_without_a_network(tmp_path: Path) -> None:
    """Crawled, then the server is gone: other periods are answered from the table, new ones included."""
    items = year_of_scenes(40)
    with serving(Static(items)) as server:
        kept_parts = discover(YEAR, asking(server, tmp_path)).parts
    url = f"{server.url}/catalog.json"
    kept = index(url, tmp_path, QUICK, offline=True)
    assert kept is not None
    assert len(kept.items) == 40
    assert index("http://127.0.0.1:9/catalog.json", tmp_path, QUICK, offline=True) is None
    part = Query(("sentinel-2",), start="2024-02-10", end="2024-02-20")
    (tmp_path / f"{kept_parts[1].name}.json").unlink()
    found = discover(part, asking(server, tmp_path))
    assert [s.datetime.day for s in found.scenes] == [12, 15, 18]


def test_a_registered_folder_is_a_static_provider(tmp_path: Path) -> None:
    """A catalogue on disk, with relative links, needs no server."""
    items = year_of_scenes(3)
    for item in items:
        item["assets"] = {k: {**a, "href": f"./{k}.tif"} for k, a in item["assets"].items()}
        (tmp_path / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in items]
    root = tmp_path / "catalog.json"
    root.write_text(json.dumps({"type": "Catalog", "id": "x", "stac_version": "1.0.0", "links": links}))
    provider = Provider("earth-search", str(root), kind="static")
    found = discover(YEAR, Asking((provider,), tmp_path / "kept", patience=QUICK))
    assert len(found.scenes) == 3
    assert found.scenes[0].bands["B04"].href == str(tmp_path / "red.tif")
