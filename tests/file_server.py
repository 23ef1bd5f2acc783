"""A small file server on 127.0.0.1 that answers ranges and fails on demand: refuses, cuts, or holds half a file."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fate = str
"""ok, half (the file ends in its middle), cut (a body shorter than promised), or the number of an HTTP refusal."""


@dataclass
class Files:
    """What the server holds, and how it fails."""

    folder: Path
    """Its files."""
    fate: Callable[[str, int], Fate] = lambda name, number: "ok"
    """File name and number of the request for it, from 0 -> what happens."""
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by file name."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    """Serve in a thread of this process."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            name = self.path.split("?")[0].lstrip("/")
            with files.lock:
                number = files.asked[name]
                files.asked[name] += 1
            path, fate = files.folder / name, files.fate(name, number)
            if not path.is_file() or fate.isdigit():
                self.send_response(int(fate) if fate.isdigit() else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = path.read_bytes()
            data = data[: len(data) // 2] if fate == "half" else data
            self._send(data, fate, body)

        def _send(self, data: bytes, fate: Fate, body: bool) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            part, status = data, 200
            if wanted:
                first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
                part, status = data[first : last + 1], 206 if first < len(data) else 416
            self.send_response(status)
            self.send_header("Accept-Ranges", "bytes")
            if wanted and status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if body:
                with suppress(ConnectionError):
                    self.wfile.write(part[: len(part) // 2] if fate == "cut" else part)
            self.close_connection = self.close_connection or fate == "cut"

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
