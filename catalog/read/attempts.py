"""Files of scenes asked for until they answer, within bounds; those that do not are listed, all of them at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import rasterio

from catalog.errors import AssetError, FailedAsset
from catalog.metadata.web import remote, remote_options
from catalog.patience import Again, Patience, persist
from catalog.read.files import checked, failures
from catalog.scene import BandSource, Scene
from catalog.signing import signed

T = TypeVar("T")

PATIENCE = Patience(retries=3, first_wait_s=0.5, longest_wait_s=20.0)
"""With files on the web; each attempt is made on top of GDAL's own retries of single requests."""
AT_ONCE = Patience(retries=0)
FINAL = re.compile(r"(?:HTTP )?(?:response code|response_code|error code)\s*[:=]\s*(?:400|401|403|404|410)\b")
"""Answers that are the same a moment later."""
SIGNATURE = re.compile(r"(https?://[^\s?'\",]+)\?[^\s'\",)]+")


def asked(scene: Scene, source: BandSource, ask: Callable[[BandSource], T], patience: Patience | None = None) -> T:
    """What `ask` makes of a file of a scene: once of a local one, with patience of one on the web.

    Parameters
    ----------
    ask
        Takes the source with its address as it opens now: signatures expire between search and read, and attempts.
    patience
        PATIENCE where None.

    Raises
    ------
    AssetError
        The last refusal, its `failed` with the count of attempts; addresses in it have lost their signature.
    CatalogError
        Any other of `ask`, at once.
    """
    web = remote(source.href)
    refused: list[str] = []

    def once() -> T:
        env = rasterio.Env(**remote_options(again=bool(refused))) if web else nullcontext()
        try:
            with env, failures(scene):
                return ask(replace(source, href=signed(source.href, scene.properties)))
        except AssetError as error:
            told = _without_signature(error)
            if not web or FINAL.search(told.what):
                refused.append(told.what)
                raise told from None
            raise Again(told.what) from told

    try:
        return persist(once, patience or PATIENCE, refused)
    except Again as error:
        told = error.__cause__
        assert isinstance(told, AssetError)
    except AssetError as error:
        told = error
    found = FailedAsset(scene.id, source.band, source.href.split("?")[0], told.what, len(refused))
    often = "" if len(refused) == 1 else f", {len(refused)} times"
    raise AssetError(f"{told.what}{often}", item=told.item, enough=told.enough, todo=told.todo, failed=(found,))


def each(scene: Scene, sources: Sequence[BandSource], ask: Callable[[BandSource], T]) -> list[T]:
    """What `ask` makes of every file, in order.

    Raises
    ------
    AssetError
        Of all files that failed, after all were asked for.
    """
    found, refused = [], []
    for source in sources:
        try:
            found.append(asked(scene, source, ask))
        except AssetError as error:
            refused.append(error)
    if refused:
        raise joined(refused)
    return found


def absent(scenes: Iterable[Scene]) -> tuple[AssetError, ...]:
    """The refusals of all files of scenes, bands and quality layers, that do not open now; each is asked once."""
    refused = []
    for scene in scenes:
        for source in (*scene.bands.values(), *scene.quality.values()):
            try:
                asked(scene, source, partial(checked, scene), AT_ONCE)
            except AssetError as error:
                refused.append(error)
    return tuple(refused)


def joined(refused: Sequence[AssetError]) -> AssetError:
    """One error for several; it carries no trace of GDAL's errors, which do not travel between processes."""
    by_file = {(f.scene, f.name, f.href): f for error in refused[::-1] for f in error.failed}
    failed = tuple(by_file.values())[::-1]
    first = refused[0]
    if len(failed) < 2:
        return AssetError(first.what, item=first.item, enough=first.enough, todo=first.todo, failed=failed)
    return AssetError(
        f"{len(failed)} files cannot be read",
        item="; ".join(str(f) for f in failed),
        enough=first.enough,
        todo="; ".join(dict.fromkeys(error.todo for error in refused)),
        failed=failed,
    )


def _without_signature(error: AssetError) -> AssetError:
    parts: dict[str, Any] = {k: SIGNATURE.sub(r"\1", getattr(error, k)) for k in ("what", "item", "enough", "todo")}
    return AssetError(parts.pop("what"), **parts)
