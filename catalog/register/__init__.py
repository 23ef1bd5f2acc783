"""Product folders on disk become STAC items in a static catalogue; what cannot be registered is listed with why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pystac

from catalog.errors import CatalogError, MetadataError, UnknownProduct
from catalog.formats import formats
from catalog.formats.product import Product
from catalog.formats.sen1floods11 import LABEL_CLASSES, LABEL_NODATA, labels_of
from catalog.register.catalogue import load, save
from catalog.register.items import item_of
from catalog.register.rasters import dem_item, label_item
from catalog.sensors import SENSORS

__all__ = ["Registration", "load", "register", "register_dem", "register_labels"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Registration:
    """What came of registering folders."""

    items: tuple[pystac.Item, ...]
    """Written to the catalogue, in the order of collection and id; asset hrefs are absolute."""
    failed: tuple[tuple[str, str], ...]
    """(Folder, reason) of each product that could not be registered."""


def register(
    folders: Path | str | Sequence[Path | str], out: Path | str, progress: Progress | None = None
) -> Registration:
    """Register product folders, or folders full of them, in the static catalogue at `out`.

    Parameters
    ----------
    folders
        Each is a product folder, or holds product folders.
    out
        Folder of the catalogue: catalog.json, <collection>/collection.json, <collection>/<item>/<item>.json. Items
        already there stay.
    progress
        Called before each product with how many are done, how many there are, and its name.

    Raises
    ------
    StorageFull
        The catalogue cannot be written. Damaged products are not raised but listed in `failed`.
    """
    listed = [folders] if isinstance(folders, str | Path) else list(folders)
    todo = [product for folder in listed for product in _product_folders(Path(folder))]
    items: dict[tuple[str, str], pystac.Item] = {}
    failed: list[tuple[str, str]] = []
    for done, folder in enumerate(todo):
        if progress is not None:
            progress(done, len(todo), folder.name)
        try:
            found = {(i.collection_id or "", i.id): i for i in _items(folder)}
            _refuse_twins(folder, found, items)
            items |= found
        except CatalogError as error:
            failed.append((str(folder), str(error)))
    if progress is not None:
        progress(len(todo), len(todo), "")
    ordered = [items[key] for key in sorted(items)]
    return Registration(_saved(out, ordered), tuple(failed))


def register_labels(
    paths: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    classes: Mapping[int, str] | None = None,
    start: datetime | None = None,
    stop: datetime | None = None,
) -> tuple[pystac.Item, ...]:
    """Register class rasters in the collection `labels` of the catalogue at `out`.

    Classes come from the CLASSES tag and the date from the file's name where they are not given.

    Raises
    ------
    MetadataError, AssetError, FootprintError
        Naming the file and what it lacks.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    return _saved(out, [label_item(Path(path), classes, start, stop) for path in listed])


def register_dem(
    paths: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    height_reference: str | None = None,
    geoid: Path | str | None = None,
) -> tuple[pystac.Item, ...]:
    """Register height rasters in the collection `dem` of the catalogue at `out`; parameters as in rasters.dem_item.

    Raises
    ------
    MetadataError, AssetError, FootprintError
        Naming the file and what it lacks.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    return _saved(out, [dem_item(Path(path), height_reference, Path(geoid) if geoid else None) for path in listed])


def recognise(folder: Path) -> tuple[Product, ...]:
    """What a product folder holds.

    Raises
    ------
    UnknownProduct
        No format knows the folder.
    MetadataError, AssetError
        One does, and the folder is damaged.
    """
    for name, module in formats():
        if found := module.products(folder):
            return tuple(replace(p, properties={**p.properties, "ringmoe:format": name}) for p in found)
    raise UnknownProduct(
        "a folder holds neither a metadata file we know nor tags that stand for one",
        item=str(folder),
        enough=f"a product of {', '.join(SENSORS)}, with the metadata files it was delivered with",
        todo="name the product's own folder, with the metadata files it was delivered with",
    )


def _items(folder: Path) -> Iterator[pystac.Item]:
    if not folder.is_dir():
        raise UnknownProduct("no such folder", item=str(folder), enough="an existing folder", todo="check the path")
    products = recognise(folder)
    yield from (item_of(product) for product in products)
    for path, start, stop in labels_of(folder):
        yield label_item(path, LABEL_CLASSES, start, stop, LABEL_NODATA)


def _refuse_twins(
    folder: Path, found: Mapping[tuple[str, str], pystac.Item], known: Mapping[tuple[str, str], pystac.Item]
) -> None:
    """Two folders may hold one product, but not two products of one id."""
    for key in found.keys() & known.keys():
        one, other = (
            {k: a.extra_fields.get("file:checksum") for k, a in i.assets.items()} for i in (found[key], known[key])
        )
        if one != other:
            raise MetadataError(
                f"another folder holds a different product of the id {key[1]}",
                item=str(folder),
                enough="one folder per product",
                todo="register one of the two only",
            )


def _saved(out: Path | str, items: Sequence[pystac.Item]) -> tuple[pystac.Item, ...]:
    """The items as they lie in the catalogue, with their links."""
    if not items:
        return ()
    save(Path(out), items)
    new = {(i.collection_id, i.id) for i in items}
    return tuple(i for i in load(Path(out)) if (i.collection_id, i.id) in new)


def _product_folders(folder: Path) -> list[Path]:
    """The folder itself where a format knows it or its damage, else its subfolders."""
    if not folder.is_dir():
        return [folder]
    try:
        recognise(folder)
        return [folder]
    except UnknownProduct:
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        return inside or [folder]
    except CatalogError:
        return [folder]
