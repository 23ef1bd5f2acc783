"""The ledger: a unit is named by its inputs, done when its item lies there whole, and nothing that died shows."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import LedgerError, StorageFull
from catalog.ledger import Ledger, file_digest, no_space_left, tree_digest, unit_id, write_whole

INPUTS: dict[str, Any] = {
    "scenes": [["a", {"B02": "1220aa", "B03": "1220bb"}], ["b", {"B02": "1220cc"}]],
    "tile_m": 2560.0,
    "reference": None,
}


def test_a_units_name_does_not_hang_on_the_order_of_keys() -> None:
    """Equal inputs give equal names, whatever order their keys were written in; the name is known by heart."""
    turned = dict(reversed(INPUTS.items()))
    turned["scenes"] = [["a", {"B03": "1220bb", "B02": "1220aa"}], ["b", {"B02": "1220cc"}]]
    assert unit_id("ingest", 1, turned) == unit_id("ingest", 1, INPUTS) == "faab8110ba668a49"


OTHERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "step": ("map", 1, INPUTS),
    "results version": ("ingest", 2, INPUTS),
    "parameter": ("ingest", 1, INPUTS | {"tile_m": 2560.5}),
    "new parameter": ("ingest", 1, INPUTS | {"engine": "odc"}),
    "order of scenes": ("ingest", 1, INPUTS | {"scenes": INPUTS["scenes"][::-1]}),
    "checksum": ("ingest", 1, INPUTS | {"scenes": [["a", {"B02": "1220ab", "B03": "1220bb"}], INPUTS["scenes"][1]]}),
    "none for zero": ("ingest", 1, INPUTS | {"reference": 0}),
}


def test_every_input_changes_the_name() -> None:
    """Step, results version, a parameter, a checksum, the order of a list: each gives another name."""
    names = {unit_id("ingest", 1, INPUTS), *(unit_id(*o) for o in OTHERS.values())}
    assert len(names) == 1 + len(OTHERS)
    assert all(len(n) == 16 and int(n, 16) >= 0 for n in names)


def test_what_json_cannot_say_names_no_unit() -> None:
    """NaN equals nothing, itself included, so it determines nothing."""
    with pytest.raises(ValueError):
        unit_id("ingest", 1, {"x": float("nan")})


def test_digests_are_multihashes_of_sha256(tmp_path: Path) -> None:
    """A file's: 1220 and SHA-256 (of "abc", FIPS 180-4); a folder's changes with a name, a byte and a place."""
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == "1220ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    kept = {}
    for kind, (name, content) in {
        "as it is": ("sub/one", "1"),
        "other byte": ("sub/one", "2"),
        "other name": ("sub/two", "1"),
        "other place": ("one", "1"),
    }.items():
        path = tmp_path / kind / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
        kept[kind] = tree_digest(tmp_path / kind)
    assert len({d for d, _ in kept.values()}) == 4
    assert {size for _, size in kept.values()} == {1}
    shutil.copytree(tmp_path / "as it is", tmp_path / "copy")
    assert tree_digest(tmp_path / "copy") == kept["as it is"]


def test_a_unit_is_done_when_its_item_exists(tmp_path: Path) -> None:
    """Not after an attempt, only after the commit; the record is the item."""
    ledger = Ledger(tmp_path)
    assert ledger.done("cubes", "u") is None
    folder = ledger.attempt("cubes", "u")
    (folder / "data").write_text("half")
    assert ledger.done("cubes", "u") is None
    ledger.commit("cubes", "u", {"id": "u", "assets": {"data": {"href": "./attempt-1/data"}}})
    path = ledger.item_path("cubes", "u")
    assert path == tmp_path / "cubes" / "u" / "u.json"
    found = ledger.done("cubes", "u")
    assert found is not None
    assert found["id"] == "u"
    assert [(p, i["id"]) for p, i in ledger.items("cubes")] == [(path, "u")]
    assert list(ledger.items("maps")) == []


def test_a_damaged_item_is_named(tmp_path: Path) -> None:
    """An item cut off in the middle is refused with its path, by itself and in a listing."""
    ledger = Ledger(tmp_path)
    ledger.commit("cubes", "u", {"id": "u"})
    path = ledger.item_path("cubes", "u")
    path.write_text('{"id": ')
    with pytest.raises(LedgerError) as refused:
        ledger.done("cubes", "u")
    assert refused.value.item == str(path)
    assert "made again" in refused.value.todo
    with pytest.raises(LedgerError):
        list(ledger.items("cubes"))


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


KILLED_AT_WORK = """
import os, signal, sys
from catalog.ledger import Ledger
folder = Ledger(sys.argv[1]).attempt("cubes", "u")
(folder / "half").write_text("half a cube")
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_AT_THE_ITEM = """
import os, signal, sys
from catalog.ledger import Ledger
ledger = Ledger(sys.argv[1])
ledger.attempt("cubes", "u")
os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
ledger.commit("cubes", "u", {"id": "u", "assets": {"data": {"href": "./attempt-1/data"}}})
"""


@pytest.mark.parametrize("code", [KILLED_AT_WORK, KILLED_AT_THE_ITEM], ids=["at work", "while the item is written"])
def test_a_killed_attempt_leaves_nothing_that_shows(code: str, tmp_path: Path) -> None:
    """After SIGKILL the unit is not done, the next attempt starts afresh, and a sweep removes the dead one alone."""
    ledger = Ledger(tmp_path)
    assert run(code, str(tmp_path)).returncode == -signal.SIGKILL
    assert ledger.done("cubes", "u") is None
    assert list(ledger.items("cubes")) == []
    second = ledger.attempt("cubes", "u")
    assert second.name == "attempt-2"
    assert list(second.iterdir()) == []
    (second / "data").write_text("whole")
    ledger.commit("cubes", "u", {"id": "u", "assets": {"data": {"href": "./attempt-2/data"}}})
    dead = tmp_path / "cubes" / "u" / "attempt-1"
    assert ledger.dead_attempts() == (dead,)
    assert ledger.sweep() == (dead,)
    assert not dead.exists()
    assert (second / "data").read_text() == "whole"
    assert ledger.done("cubes", "u") is not None
    assert ledger.sweep() == ()


def test_attempt_ten_is_not_attempt_one(tmp_path: Path) -> None:
    """An item that names attempt-10 does not keep attempt-1 alive."""
    ledger = Ledger(tmp_path)
    folders = [ledger.attempt("cubes", "u") for _ in range(10)]
    ledger.commit("cubes", "u", {"assets": {"data": {"href": f"./{folders[9].name}/data"}}})
    assert set(ledger.dead_attempts()) == set(folders[:9])


ATTEMPTS = """
import sys
from catalog.ledger import Ledger
ledger = Ledger(sys.argv[1])
sys.stdin.readline()
for k in range(40):
    print(ledger.attempt("cubes", "u").name)
    ledger.commit("cubes", "u", {"id": "u", "k": k, "filling": "x" * 5000})
"""


def test_two_processes_at_one_unit_do_not_meet(tmp_path: Path) -> None:
    """Forty attempts each, begun together: eighty folders, and an item that is whole at every moment."""
    start: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", ATTEMPTS, str(tmp_path)], **start) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ledger = Ledger(tmp_path)
    while any(process.poll() is None for process in both):
        item = ledger.done("cubes", "u")
        assert item is None or len(item["filling"]) == 5000
    names = [name for process in both for name in process.communicate()[0].split()]
    assert [process.returncode for process in both] == [0, 0]
    assert len(names) == len(set(names)) == 80
    assert ledger.done("cubes", "u") is not None
    assert not list(tmp_path.rglob(".u.json*"))


def test_threads_at_one_item_do_not_meet(tmp_path: Path) -> None:
    """Eight threads that commit one item at once agree on whose counts, and leave it whole."""
    ledger = Ledger(tmp_path)
    items: Sequence[dict[str, Any]] = [{"id": "u", "k": k, "filling": "x" * 5000} for k in range(64)]
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda item: ledger.commit("cubes", "u", item), items))
    assert ledger.done("cubes", "u") in items
    assert all(item == ledger.done("cubes", "u") for item in counted)


def test_a_failure_is_struck_by_success(tmp_path: Path) -> None:
    """Failures are listed with step and reason, the last of a unit only, until the unit succeeds."""
    ledger = Ledger(tmp_path)
    assert ledger.failures() == ()
    ledger.fail("u", "ingest", "first reason")
    ledger.fail("u", "ingest", "second reason")
    ledger.fail("v", "map", "no model")
    assert [f["reason"] for f in ledger.failures()] == ["second reason", "no model"]
    assert ledger.failures()[1] == {"unit": "v", "step": "map", "reason": "no model"}
    ledger.commit("cubes", "u", {"id": "u"})
    assert [f["unit"] for f in ledger.failures()] == ["v"]


def test_an_attempt_that_fails_leaves_its_reason_and_nothing_else(tmp_path: Path) -> None:
    """Its folder is gone; its record has our own text as it is, and that of others with its kind."""
    ledger = Ledger(tmp_path)
    refusal = LedgerError("no pixel", item="u", enough="one", todo="look")

    def failing(error: Exception) -> None:
        with ledger.attempting("cubes", "u", "ingest") as folder:
            (folder / "data").write_text("half")
            raise error

    for error, reason in ((refusal, str(refusal)), (KeyError("band"), "KeyError: 'band'")):
        with pytest.raises(type(error)):
            failing(error)
        assert ledger.failures() == ({"unit": "u", "step": "ingest", "reason": reason},)
        assert not list((tmp_path / "cubes" / "u").iterdir())
    with pytest.raises(ZeroDivisionError), ledger.attempting("cubes", "v", "ingest", (ArithmeticError,)):
        _ = 1 / 0
    assert not (tmp_path / "cubes" / "v").exists()
    assert [failure["unit"] for failure in ledger.failures()] == ["u"]
    with ledger.attempting("cubes", "u", "ingest") as folder:
        (folder / "data").write_text("whole")
    assert (folder / "data").read_text() == "whole"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_an_item_is_written(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space, or no quota: StorageFull; what stood there stands, no draft is left, and room mends it."""
    ledger = Ledger(tmp_path)
    ledger.commit("cubes", "t", {"id": "t"})

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull) as refused:
            ledger.commit("cubes", "u", {"id": "u", "k": 2})
        ledger.fail("u", "ingest", "the disk is full")
    assert "kept" in refused.value.enough
    assert "--home" in refused.value.todo
    assert ledger.done("cubes", "u") is None
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["t.json"]
    ledger.commit("cubes", "u", {"id": "u", "k": 2})
    assert ledger.done("cubes", "u") == {"id": "u", "k": 2}


def test_only_a_full_disk_is_called_one() -> None:
    """A full disk is known behind another library's error; any other error passes unchanged."""
    behind = RuntimeError("zarr could not write a chunk")
    behind.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageFull), no_space_left("u"):
        raise behind
    with pytest.raises(PermissionError), no_space_left("u"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(KeyboardInterrupt), no_space_left("u"):
        raise KeyboardInterrupt


def test_what_is_written_whole_is_equal_to_the_byte(tmp_path: Path) -> None:
    """Equal values give equal files, whatever the order of their keys."""
    write_whole(tmp_path / "a.json", {"x": 1, "y": [1, 2]})
    write_whole(tmp_path / "b.json", {"y": [1, 2], "x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1, "y": [1, 2]}


TINY_DISK = """
import sys
from pathlib import Path
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from catalog import cube, publish
from catalog.errors import LedgerError, StorageFull
from catalog.ledger import Ledger, no_space_left
from test_21_cube import made
from test_23_publish import noise
disk = Path(sys.argv[1])
ledger = Ledger(disk)
ledger.commit("cubes", "before", {"id": "before"})
(disk / "filling").write_bytes(b"x" * 250_000)
for name, work in {
    "cube": lambda folder: [cube.write(folder / str(k), made()) for k in range(200)],
    "map": lambda folder: publish.write_map(folder, *noise(500)),
    "item": lambda folder: [ledger.commit("maps", str(k), {"filling": "x" * 5000}) for k in range(200)],
}.items():
    folder = ledger.attempt("cubes", name)
    try:
        with no_space_left(name):
            work(folder)
    except StorageFull as error:
        print(name, "full")
    ledger.sweep()
print(ledger.done("cubes", "before"))
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a disk of half a megabyte a cube, a map and items end in StorageFull, and what was finished is kept."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=500k", "tiny", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", *mounted], check=False).returncode:
        pytest.skip("this machine lets us mount no small disk (unshare -Urm mount -t tmpfs)")
    script = f'{" ".join(mounted)} && exec "$0" "$@"'
    command = ["unshare", "-Urm", "sh", "-c", script, sys.executable, "-c", TINY_DISK, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    assert found.stdout.splitlines() == ["cube full", "map full", "item full", "{'id': 'before'}"], found.stderr
