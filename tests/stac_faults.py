"""A small STAC API on 127.0.0.1 that fails on demand: throttles, breaks, cuts, dawdles, repeats and miscounts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pystac.utils import str_to_datetime
from shapely.geometry import box, mapping, shape

from catalog.grid import crs_of

Fault = str
"""429 (or 429 bare, without Retry-After), 500, 502, 503 or 504, drop (no answer), cut (half an answer), short (half a
file that says it is whole), slow, stall, or ok."""
FAULTS = ("429", "500", "502", "503", "504", "drop", "cut", "slow")
RETRY_AFTER_S = 0.01
SLOW_S = 0.05
STALL_S = 30.0

Doc = dict[str, Any]


@dataclass
class Faulty:
    """What the server holds, how it fails, and what it was asked."""

    items: Sequence[Doc]
    """All it holds."""
    faults: Callable[[int, str], Fault] = lambda number, path: "ok"
    """Number of the request, from 0, and its path -> what happens to it."""
    states: int | str | None = "true"
    """The count stated: "true" for the right one, None for none, else that number."""
    repeats: bool = False
    """Each page after the first begins with the last item of the one before."""
    files: Path | None = None
    """Folder whose files lie under /files."""
    url: str = ""
    seen: list[tuple[str, Any, Fault]] = field(default_factory=list)
    """Path, body and fate of every request."""
    lock: Any = field(default_factory=threading.Lock)

    def faulty_requests(self) -> int:
        return sum(fate not in ("ok", "slow") for _, _, fate in self.seen)

    def pages(self) -> list[Any]:
        """Bodies of the searches that were answered."""
        return [body for path, body, fate in self.seen if path == "/search" and fate in ("ok", "slow")]

    def answer(self, path: str, body: Any) -> Doc:
        if path in ("", "/"):
            rel = {"type": "application/geo+json", "href": f"{self.url}/search"}
            return {
                "type": "Catalog",
                "id": "faulty",
                "description": "a faulty API",
                "stac_version": "1.0.0",
                "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
                "links": [{"rel": "search", "method": m, **rel} for m in ("GET", "POST")],
            }
        return self.page(body)

    def page(self, body: Doc) -> Doc:
        found = [item for item in self.items if matches(item, body)]
        skip, limit = int(body.get("token", 0)), int(body.get("limit", 10))
        begin = max(0, skip - 1) if self.repeats else skip
        links = []
        if skip + limit < len(found):
            more = {**body, "token": skip + limit}
            links = [{"rel": "next", "method": "POST", "href": f"{self.url}/search", "body": more}]
        page: Doc = {"type": "FeatureCollection", "features": found[begin : skip + limit], "links": links}
        if self.states is not None:
            page["numberMatched"] = len(found) if self.states == "true" else self.states
        return page


def matches(item: Doc, body: Doc) -> bool:
    if body.get("collections") and item["collection"] not in body["collections"]:
        return False
    area = box(*body["bbox"]) if "bbox" in body else shape(body["intersects"]) if "intersects" in body else None
    if area is not None and not shape(item["geometry"]).intersects(area):
        return False
    if body.get("datetime"):
        first, last = body["datetime"].split("/")
        at = str_to_datetime(item["properties"]["datetime"])
        return (first == ".." or str_to_datetime(first) <= at) and (last == ".." or at <= str_to_datetime(last))
    return True


class _Handler(BaseHTTPRequestHandler):
    api: Faulty

    def do_GET(self) -> None:
        self._serve({})

    def do_HEAD(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body: Any) -> None:
        path = self.path.split("?")[0]
        with self.api.lock:
            fate = self.api.faults(len(self.api.seen), path)
            self.api.seen.append((path, body, fate))
        if fate == "drop":
            self.close_connection = True
            return
        if fate[:3].isdigit():
            self.send_response(int(fate[:3]))
            if fate == "429":
                self.send_header("Retry-After", str(RETRY_AFTER_S))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fate in ("slow", "stall"):
            time.sleep(SLOW_S if fate == "slow" else STALL_S)
        if path.startswith("/files/"):
            self._file(path, fate)
            return
        content = json.dumps(self.api.answer(path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/geo+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(ConnectionError):  # who asked may be gone
            self.wfile.write(content[: len(content) // 2] if fate == "cut" else content)
        self.close_connection = True

    def _file(self, path: str, fate: Fault) -> None:
        """A file, whole or the range asked for."""
        assert self.api.files is not None
        content = (self.api.files / unquote(path.removeprefix("/files/"))).read_bytes()
        content = content[: len(content) // 2] if fate == "short" else content
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            begin, end = asked.removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or last), last)
        if first > last:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
        else:
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        part = content[first : last + 1]
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(part[: len(part) // 2] if fate == "cut" else part)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(api: Any) -> Iterator[Any]:
    """An API up for as long as the block runs; its `url` is set."""
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


def sentinel2(
    name: str, time: str, *, tile: str = "32TPS", bbox: Sequence[float] = (11.0, 46.0, 12.0, 47.0), **more: Any
) -> Doc:
    """An L2A item as Earth Search writes one, with two bands."""

    def asset(band: str, common: str) -> Doc:
        return {
            "href": f"https://example.com/{name}/{band}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data", "reflectance"],
            "eo:bands": [{"name": band, "common_name": common}],
            "proj:shape": [10980, 10980],
            "proj:transform": [10, 0, 600000, 0, -10, 5300040],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}],
        }

    properties = {
        "datetime": time,
        "platform": "sentinel-2a",
        "proj:epsg": int(crs_of((bbox[0] + bbox[2]) / 2, (bbox[1] + bbox[3]) / 2).split(":")[1]),
        "grid:code": f"MGRS-{tile}",
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": "05.11",
        "eo:cloud_cover": 12.3456789,
        "created": "2025-07-31T15:02:20.427Z",
        **more,
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": "sentinel-2-c1-l2a",
        "bbox": list(bbox),
        "geometry": json.loads(json.dumps(mapping(box(*bbox)))),
        "properties": properties,
        "links": [],
        "assets": {"red": asset("B04", "red"), "nir": asset("B08", "nir")},
    }


def year_of_scenes(count: int = 120) -> list[Doc]:
    """Scenes three days apart from 2024-01-01, of microseconds that matter."""
    from datetime import UTC, datetime, timedelta

    start = datetime(2024, 1, 1, 10, 20, 31, 24001, tzinfo=UTC)
    times = [(start + timedelta(days=3 * n)).isoformat().replace("+00:00", "Z") for n in range(count)]
    return [sentinel2(f"S2A_32TPS_{n:03d}_L2A", time) for n, time in enumerate(times)]
