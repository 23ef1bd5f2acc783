"""A static catalogue served as a real STAC API on this machine, for as long as a block runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pystac

from catalog.errors import ServiceError

START_SECONDS = 30.0
"""How long the server may take to answer; it takes about 0.05 s for a few hundred items."""

ATTEMPTS = 5
"""How often another port is tried where one was taken between finding it free and using it."""


@contextmanager
def served(catalog_dir: Path | str) -> Iterator[str]:
    """The address of a STAC API over a static catalogue, on a free port of 127.0.0.1; ended with the block.

    rustac's in-memory server answers area, time, collections, ids and paging. It answers property filters with
    nothing and no error: filter on the caller's side.

    Raises
    ------
    ServiceError
        The catalogue is missing or empty, or the server does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="ringmoe-stac-") as folder:
        files = _one_file_per_collection(Path(catalog_dir), Path(folder))
        process, url = _started(files, Path(folder) / "log.txt")
        try:
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _one_file_per_collection(catalog_dir: Path, folder: Path) -> list[str]:
    """Collections and their items as the server loads them: a file each, asset hrefs absolute."""
    root = catalog_dir / "catalog.json"
    if not root.exists():
        raise _refuse(f"{catalog_dir} holds no catalog.json", "a folder that `ringmoe register` wrote")
    try:
        collections = sorted(pystac.Catalog.from_file(str(root)).get_children(), key=lambda c: c.id)
        files = [file for child in collections for file in _write(child, folder)]
    except (OSError, ValueError, KeyError, pystac.STACError) as error:
        raise _refuse(f"{catalog_dir} cannot be read ({error})", "a whole static STAC catalogue") from None
    if not files:
        raise _refuse(f"{catalog_dir} has no collection", "one registered product")
    return files


def _write(collection: pystac.Catalog, folder: Path) -> Iterator[str]:
    features = []
    for item in sorted(collection.get_items(), key=lambda i: i.id):
        item.make_asset_hrefs_absolute()
        for asset in item.assets.values():
            # rustac takes numbers alone where STAC also knows "nan"; a float raster's NaN means no data unsaid.
            if asset.extra_fields.get("nodata") == "nan":
                del asset.extra_fields["nodata"]
            if asset.href.startswith("/"):
                asset.href = Path(asset.href).as_uri()  # else a client takes it for a path on the server
        canonical = {"rel": "canonical", "href": Path(item.self_href).as_uri(), "type": "application/geo+json"}
        features.append(item.to_dict(include_self_link=False, transform_hrefs=False) | {"links": [canonical]})
    described = collection.to_dict(include_self_link=False, transform_hrefs=False) | {"links": []}
    for name, content in (
        (f"{collection.id}.collection.json", described),
        (f"{collection.id}.items.json", {"type": "FeatureCollection", "features": features}),
    ):
        path = folder / name
        path.write_text(json.dumps(content), "utf-8")
        yield str(path)


def _started(files: list[str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    for _ in range(ATTEMPTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        # rustac reads the process's own arguments and skips two: `python FILE serve ...` is the form it understands.
        command = [sys.executable, str(_program(log.parent)), "serve", "--addr", address]
        with log.open("wb") as sink:
            process = subprocess.Popen([*command, *files], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        if _answers(process, f"http://{address}/"):
            return process, f"http://{address}"
        if process.poll() is None:
            process.kill()
            process.wait()
    tail = log.read_text("utf-8", errors="replace").strip()[-500:]
    raise _refuse(f"the server does not answer ({tail or 'it says nothing'})", "a free port on 127.0.0.1")


def _program(folder: Path) -> Path:
    """The wheel's program as a file, whatever is on the PATH."""
    program = folder / "rustac_serve.py"
    program.write_text("import sys\nimport rustac\nsys.exit(rustac.main())\n", "utf-8")
    return program


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the server answers before it ends or the time is up."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == 200) and listens(process, urlsplit(url).port)
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    return False


def listens(process: subprocess.Popen[bytes], port: int | None) -> bool:
    """Whether a process or one that it started listens at a TCP port: else who answers there is somebody else.

    Where the system does not tell, it is taken to.
    """
    try:
        known = psutil.Process(process.pid)
        at_work = [known, *known.children(recursive=True)]
        found = [held for each in at_work for held in each.net_connections("tcp")]
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    return any(held.status == psutil.CONN_LISTEN and held.laddr.port == port for held in found)


def _refuse(problem: str, enough: str) -> ServiceError:
    return ServiceError(
        f"no STAC API could be started: {problem}",
        item="rustac serve",
        enough=enough,
        todo="register products first (`ringmoe register`), or name a running API (--stac URL)",
    )
