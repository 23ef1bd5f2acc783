"""What was written, with what parameters, file by file; the last thing on disk, so that it stands for the whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError, StorageFull
from catalog.sandbox.plan import Product

FORMAT = 1
"""Raised whenever the same parameters give other bytes."""
MANIFEST = "sandbox.json"
BEGUN = "sandbox.begun.json"
"""Stands for a sandbox that is being written, or was killed meanwhile."""
FOLDERS = ("products", "truth", "dem")


@dataclass(frozen=True)
class Summary:
    """What a sandbox holds."""

    root: str
    """Its folder, absolute."""
    seed: int
    """Seed it was drawn from."""
    size_px: int
    """Side of each region in 10 m pixels."""
    products: tuple[Product, ...]
    """Every product, in order of region and pass."""
    truth: Mapping[str, Mapping[str, str]]
    """Region to kind of truth to path below the root."""
    recomputed: bool
    """Whether this call wrote anything."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


def standing(root: Path, parameters: Mapping[str, Any]) -> Summary | None:
    """The summary of an intact sandbox of these parameters; None where there is none to keep.

    Raises
    ------
    CatalogError
        Where another sandbox stands, or the folder holds anything else.
    """
    path = root / MANIFEST
    if not root.exists() or not any(root.iterdir()):
        return None
    if not path.exists():
        if (root / BEGUN).exists():
            return None
        raise CatalogError(
            "the folder is not empty and holds no sandbox",
            item=str(root),
            enough="an empty or a missing folder",
            todo="choose another folder, or empty this one",
        )
    try:
        found = json.loads(path.read_text())
        known, files, summary = found["parameters"], found["files"], found["summary"]
    except (ValueError, KeyError, TypeError):
        raise CatalogError(
            "the sandbox's manifest cannot be read",
            item=str(path),
            enough="the file as it was written",
            todo="delete the folder and write the sandbox again",
        ) from None
    if known != json.loads(json.dumps(parameters)):
        raise CatalogError(
            f"a sandbox with other parameters stands here: {_short(known)}",
            item=str(root),
            enough=f"one with {_short(parameters)}",
            todo="choose another folder, or delete this one",
        )
    if not all((root / f).is_file() and digest(root / f) == want for f, want in files.items()):
        return None
    products = tuple(Product(**{**p, "shift_m": tuple(p["shift_m"])}) for p in summary["products"])
    return Summary(str(root), summary["seed"], summary["size_px"], products, summary["truth"], recomputed=False)


def begin(root: Path, parameters: Mapping[str, Any]) -> None:
    """Remove what an interrupted or damaged sandbox left, and mark the folder as being written."""
    root.mkdir(parents=True, exist_ok=True)
    _settle(root / BEGUN, {"parameters": parameters})
    (root / MANIFEST).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)


def finish(root: Path, parameters: Mapping[str, Any], summary: Summary) -> None:
    """Write the manifest over every file, then take the mark away."""
    files = sorted(p for name in FOLDERS for p in (root / name).rglob("*") if p.is_file())
    told = {k: v for k, v in summary.to_json().items() if k not in ("root", "recomputed")}
    content = {
        "parameters": parameters,
        "summary": told,
        "files": {p.relative_to(root).as_posix(): digest(p) for p in files},
    }
    _settle(root / MANIFEST, content)
    (root / BEGUN).unlink(missing_ok=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def full_disk(error: OSError, root: Path) -> StorageFull | None:
    """The refusal that a full disk deserves; None for any other error."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "no space left" not in str(error).lower():
        return None
    return StorageFull(
        "the disk has no room for the sandbox",
        item=str(root),
        enough="about 60 MB for each region of 512 pixels",
        todo="make room and call again, or choose another folder",
    )


def _settle(path: Path, content: object) -> None:
    draft = path.with_name(path.name + ".part")
    with draft.open("w", encoding="utf-8", newline="\n") as target:
        json.dump(content, target, indent=1, sort_keys=True)
        target.write("\n")
        target.flush()
        os.fsync(target.fileno())
    draft.replace(path)


def _short(parameters: Mapping[str, Any]) -> str:
    names = [r.get("name", "?") for r in parameters.get("regions", [])]
    return f"seed {parameters.get('seed')}, {parameters.get('size_px')} px, regions {', '.join(names)}"
