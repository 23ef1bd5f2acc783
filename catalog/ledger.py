"""The catalogue as ledger: a unit of work is done when its item exists, and nothing else says so."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError, LedgerError, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def unit_id(step: str, results_version: int, inputs: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name a unit of work by all that determines its result.

    Parameters
    ----------
    step
        As in ingest, pretrain, map.
    results_version
        Raised only when the step's results change.
    inputs
        JSON-able: ids with checksums of what goes in, and every parameter that matters.
    """
    text = json.dumps([step, results_version, inputs], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file as the multihash that `file:checksum` wants (1220 and 64 hexadecimal digits)."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return "1220" + digest.hexdigest()


def tree_digest(path: str | Path) -> tuple[str, int]:
    """Multihash and size in bytes of a folder: names and contents of all its files, in the order of their names."""
    root, digest, size = Path(path), hashlib.sha256(), 0
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(root).as_posix()}\0{file_digest(file)}\n".encode())
        size += file.stat().st_size
    return "1220" + digest.hexdigest(), size


@contextmanager
def no_space_left(item: str) -> Iterator[None]:
    """Turn the operating system's word for a full disk into ours, whatever library met it."""
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise StorageFull(
                "the disk is full",
                item=item,
                enough="room for this unit; everything finished before it is kept",
                todo="free space or choose another home (--home), then run the same command again",
            ) from error
        raise


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Ledger:
    """Items, attempts and failures of one catalogue on disk.

    Layout: ROOT/COLLECTION/ITEM/ITEM.json is the record; ROOT/COLLECTION/ITEM/attempt-N/ holds an attempt's files;
    ROOT/failures/ITEM.json says why the last attempt failed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def item_path(self, collection: str, item_id: str) -> Path:
        """Where the record of a unit lies, or will."""
        return self.root / collection / item_id / f"{item_id}.json"

    def done(self, collection: str, item_id: str) -> dict[str, Any] | None:
        """The item of a finished unit, or None.

        Raises
        ------
        LedgerError
            When the record is no JSON.
        """
        path = self.item_path(collection, item_id)
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise LedgerError(
                "the item of a finished unit is damaged",
                item=str(path),
                enough="an item as it was written",
                todo="remove the file; the unit will be made again",
            ) from error
        return found

    def attempt(self, collection: str, item_id: str) -> Path:
        """A fresh folder for one attempt; what earlier attempts left is never touched by it."""
        home = self.root / collection / item_id
        with no_space_left(str(home)):
            home.mkdir(parents=True, exist_ok=True)
            number = 1
            while True:
                folder = home / f"attempt-{number}"
                try:
                    folder.mkdir()
                    return folder
                except FileExistsError:
                    number += 1

    @contextmanager
    def attempting(
        self, collection: str, item_id: str, step: str, impossible: tuple[type[Exception], ...] = ()
    ) -> Iterator[Path]:
        """A fresh folder for one attempt, removed again where it fails, which leaves a record of why.

        Parameters
        ----------
        impossible
            Errors that say that this can never be made: they leave nothing at all, for no retry would help.

        Raises
        ------
        StorageFull
            In place of whatever error a full disk caused.
        """
        folder = self.attempt(collection, item_id)
        try:
            with no_space_left(item_id):
                yield folder
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, impossible):
                with suppress(OSError):  # another attempt is in it
                    folder.parent.rmdir()
            else:
                self.fail(
                    item_id, step, str(error) if isinstance(error, CatalogError) else f"{type(error).__name__}: {error}"
                )
            raise

    def commit(self, collection: str, item_id: str, item: Mapping[str, Any]) -> dict[str, Any]:
        """Record a unit as finished: the item is written last, whole or not at all. An earlier failure is struck.

        Returns the item that counts: of two runs at one unit the first to finish wins, and the other's attempt is dead.
        """
        write_whole(self.item_path(collection, item_id), item, keep=True)
        (self.root / "failures" / f"{item_id}.json").unlink(missing_ok=True)
        return self.done(collection, item_id) or dict(item)

    def fail(self, item_id: str, step: str, reason: str) -> None:
        """Leave a record of why a unit failed, for `ringmoe status` and for retries."""
        try:
            write_whole(self.root / "failures" / f"{item_id}.json", {"unit": item_id, "step": step, "reason": reason})
        except StorageFull:
            return  # the reason still reaches the caller, who raises it

    def failures(self) -> tuple[dict[str, Any], ...]:
        """Every failed unit that has not succeeded since."""
        folder = self.root / "failures"
        return tuple(json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))) if folder.exists() else ()

    def items(self, collection: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every finished unit of a collection, by id."""
        for folder in sorted((self.root / collection).glob("*/")):
            item = self.done(collection, folder.name)
            if item is not None:
                yield folder / f"{folder.name}.json", item

    def remove(self, collection: str, item_id: str) -> None:
        """Remove a finished unit: its record first, so that nothing half removed is ever found done."""
        path = self.item_path(collection, item_id)
        path.unlink(missing_ok=True)
        shutil.rmtree(path.parent, ignore_errors=True)

    def dead_attempts(self) -> tuple[Path, ...]:
        """Attempt folders that no item names: what killed and repeated runs left behind."""
        dead = []
        for folder in sorted(self.root.glob("*/*/attempt-*")):
            record = folder.parent / f"{folder.parent.name}.json"
            if not record.exists() or f"./{folder.name}/" not in record.read_text():
                dead.append(folder)
        return tuple(dead)

    def sweep(self, older_than_s: float = 0.0) -> tuple[Path, ...]:
        """Remove dead attempts in which nothing was written for a while; returns what was removed.

        Parameters
        ----------
        older_than_s
            Attempts written to within this many seconds stay: another run may be at work on them.
        """
        dead = tuple(f for f in self.dead_attempts() if time.time() - _last_written(f) >= older_than_s)
        for folder in dead:
            shutil.rmtree(folder)
        return dead


def _last_written(folder: Path) -> float:
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a run at work there may remove it meanwhile
            times.append(path.stat().st_mtime)
    return max(times)


def write_whole(path: Path, value: Mapping[str, Any], *, keep: bool = False) -> None:
    """Write JSON so that a reader, or a kill, sees all of it or nothing; with `keep` a file already there stays."""
    with no_space_left(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with open(draft, "w") as stream:
                json.dump(value, stream, indent=1, sort_keys=True, allow_nan=False)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            _place(draft, path, keep)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _place(draft: Path, path: Path, keep: bool) -> None:
    """Give a finished draft its name; to keep what is there, by a hard link, which never replaces."""
    if keep:
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not path.exists():
                os.replace(draft, path)
        draft.unlink(missing_ok=True)
    else:
        os.replace(draft, path)
