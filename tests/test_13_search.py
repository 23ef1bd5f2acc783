"""A served catalogue is searched through a real STAC API; an empty answer says why it is empty."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny_products as tiny
from own_scenes import search

from catalog.errors import NothingFound, ServiceError
from catalog.register import register, register_dem, register_labels
from catalog.search import LabelClass, dems, labels
from catalog.serve import listens, served

HERE = (10.2, 45.1, 10.3, 45.2)
"""A box that every tiny optical product touches."""
WORLD = (-180.0, -90.0, 180.0, 90.0)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two WorldView scenes a month apart, fourteen Landsat scenes, one GRD, labels and heights."""
    root = tmp_path_factory.mktemp("catalogue")
    tiny.worldview(_folder(root / "products" / "wv1"))
    later = tiny.worldview(_folder(root / "products" / "wv2"), earlier="2010-06-01T10:30:45.000000Z")
    for path in list(later.iterdir()):
        path.rename(path.with_name(path.name.replace("10MAY01", "10JUN01")))
    for day in range(1, 15):
        tiny.landsat(_folder(root / "products" / f"landsat{day:02d}"), date=f"2021-07-{day:02d}")
    tiny.sentinel1(_folder(root / "products"))
    register(root / "products", root / "catalog")
    cover = np.ones((8, 8), "uint8")
    tags = {"CLASSES": json.dumps({"1": "water", "2": "forest"})}
    register_labels(tiny.write_tif(root / "landcover_20240615.tif", cover, tags=tags), root / "catalog")
    register_dem(tiny.write_tif(root / "north.tif", cover.astype("float32")), root / "catalog")
    return root / "catalog"


@pytest.fixture(scope="module")
def url(catalogue: Path) -> Iterator[str]:
    with served(catalogue) as address:
        yield address


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _box() -> tuple[float, float, float, float]:
    from pyproj import Transformer

    x, y = tiny.ORIGIN
    lon, lat = Transformer.from_crs(tiny.UTM, "EPSG:4326", always_xy=True).transform(x + 20, y - 20)
    return (lon - 1e-4, lat - 1e-4, lon + 1e-4, lat + 1e-4)


def test_scenes_come_in_order_of_time_and_id(url: str) -> None:
    """More scenes than a page holds, two sensors, sorted, hrefs as absolute paths."""
    found = search(url, bbox=_box(), sensors=["landsat", "worldview"])
    assert len(found) == 16
    assert [s.datetime for s in found] == sorted(s.datetime for s in found)
    assert found[0].sensor == "worldview"
    assert Path(found[0].bands["R"].href).exists()
    assert Path(found[0].metadata["imd"]).exists()


def test_the_scene_knows_its_item_and_not_the_server(url: str, catalogue: Path) -> None:
    """The address of the item is the file in the catalogue, the same in every run."""
    found = search(url, bbox=WORLD, sensors=["sentinel-1"])
    assert Path(found[0].href).is_relative_to(catalogue)
    assert Path(found[0].href).exists()


def test_a_period_includes_its_last_day(url: str) -> None:
    """Dates, times and text mean the same; a mere date closes its day."""
    for end in (date(2021, 7, 3), "2021-07-03", datetime(2021, 7, 3, 23, 59, tzinfo=UTC)):
        found = search(url, bbox=_box(), start="2021-07-02", end=end, sensors=["landsat"])
        assert [s.datetime.day for s in found] == [2, 3]
    assert len(search(url, bbox=_box(), end="2021-07-05", sensors=["landsat"])) == 5


def test_a_geometry_is_as_good_as_a_box(url: str) -> None:
    """A polygon finds what its box finds."""
    west, south, east, north = _box()
    ring = [[west, south], [east, south], [east, north], [west, south]]
    found = search(url, geometry={"type": "Polygon", "coordinates": [ring]}, sensors=["worldview"])
    assert len(found) == 2


def test_an_area_outside_every_scene_says_what_is_covered(url: str) -> None:
    """Not one scene there: the answer names who said so, and the area that has some."""
    with pytest.raises(NothingFound, match="no provider has a scene of landsat") as caught:
        search(url, bbox=(100, 10, 101, 11), sensors=["landsat"])
    assert "area 100,10,101,11" in caught.value.item
    assert "local 0 items" in caught.value.item
    assert caught.value.enough.startswith("an area within west 10.")
    assert "--bbox" in caught.value.todo


def test_a_period_with_none_says_what_there_is(url: str) -> None:
    """Scenes there at another time: the answer names the nearest days before and after."""
    for start, end, days in (
        ("2023-01-01", "2023-02-01", "2021-07-14"),
        ("2020-01-01", "2020-02-01", "2021-07-01"),
    ):
        with pytest.raises(NothingFound, match=f"of landsat from {start} to {end}") as caught:
            search(url, bbox=_box(), start=start, end=end, sensors=["landsat"])
        assert caught.value.enough.startswith(f"a period that touches {days}, the nearest days")
        assert "--from" in caught.value.todo


def test_no_such_sensor_lists_the_sensors(url: str) -> None:
    """A sensor without a row, and one without a scene, are told apart."""
    with pytest.raises(NothingFound, match="there is no sensor 'sentinel-9'") as caught:
        search(url, bbox=WORLD, sensors=["sentinel-9"])
    assert "sentinel-2" in caught.value.enough
    with pytest.raises(NothingFound, match="no provider has a scene of gaofen-3") as caught:
        search(url, bbox=WORLD, sensors=["gaofen-3"])
    assert "one of the collections gaofen-3-l1a, gaofen-3-l2" in caught.value.enough
    assert "ask for what there is: dem, labels, landsat-c2-l2" in caught.value.todo


def test_labels_and_heights_come_with_what_they_mean(url: str) -> None:
    """Classes in the order of their values, heights with their reference, nothing elsewhere."""
    (label,) = labels(url, bbox=_box())
    assert label.classes == (LabelClass(1, "water"), LabelClass(2, "forest"))
    assert label.start == label.end == datetime(2024, 6, 15, tzinfo=UTC)
    assert labels(url, bbox=_box(), start="2024-06-16") == ()
    (dem,) = dems(url, bbox=_box())
    assert dem.height_reference == "ellipsoid"
    assert Path(dem.href).exists()
    assert dems(url, bbox=(100, 10, 101, 11)) == ()


def test_a_server_that_is_gone_is_a_service_error() -> None:
    """Nobody listens: an error in four parts, after bounded retries."""
    with pytest.raises(ServiceError, match="a STAC API does not answer") as caught:
        search("http://127.0.0.1:9", bbox=WORLD, sensors=["landsat"])
    assert "http://127.0.0.1:9" in caught.value.what
    assert caught.value.enough == "an answer of one of local"


class _Flaky(BaseHTTPRequestHandler):
    """Refuses every request twice, with 429 and by dropping the connection, then passes it on."""

    behind = ""
    seen: dict[str, int]

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes | None) -> None:
        import urllib.request

        count = self.seen[self.path] = self.seen.get(self.path, 0) + 1
        if count == 1:
            self.send_response(429)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif count == 2:
            self.connection.close()
        else:
            headers = {"Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(self.behind + self.path, body, headers)) as answer:
                content = answer.read().replace(self.behind.encode(), f"http://{self.headers['Host']}".encode())
            self.send_response(200)
            self.send_header("Content-Type", "application/geo+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def test_throttling_and_dropped_connections_are_retried(url: str) -> None:
    """429 and a cut connection on every address cost time, not scenes."""
    handler = type("Handler", (_Flaky,), {"behind": url, "seen": {}})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        found = search(f"http://127.0.0.1:{server.server_port}", bbox=_box(), sensors=["landsat"])
        assert len(found) == 14
    finally:
        server.shutdown()
        server.server_close()


def test_an_empty_folder_cannot_be_served(tmp_path: Path) -> None:
    """No catalogue, no API: it says what to do first."""
    with pytest.raises(ServiceError, match=r"holds no catalog\.json") as caught, served(tmp_path):
        pass
    assert "ringmoe register" in caught.value.todo


def test_an_answer_is_ours_only_where_our_process_listens() -> None:
    """A port that another program took meanwhile answers, and is not taken for the server that was started."""
    listening = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
        "sys.stdin.read()"
    )
    with (
        HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other,
        subprocess.Popen([sys.executable, "-c", listening], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ours,
    ):
        assert ours.stdin is not None
        assert ours.stdout is not None
        port = int(ours.stdout.readline())
        assert listens(ours, port)
        assert not listens(ours, other.server_port)
        ours.stdin.close()
        ours.wait()
        assert not listens(ours, port)
