"""A server that throttles, breaks, cuts, dawdles and truncates, between a search and the pixels of what it finds."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stac_faults import FAULTS, Faulty, serving

from catalog.errors import CatalogError
from catalog.patience import Patience
from catalog.providers import at
from catalog.read import read
from catalog.register import load
from catalog.scene import Scene
from catalog.search import Asking, Query, discover

SENSORS = ("sentinel-2", "worldview")
BANDS = 2
"""Bands read of each scene."""
PAGE = 2
"""Items asked for at a time."""
TRIES = 20
"""Times that a band is asked for at most."""
ON_PAGES, ON_FILES = 0.4, 0.1
"""Share of the requests that go wrong: searches, and those for files, of which a band takes several."""
KINDS = (*FAULTS, "429 bare")
FILE_KINDS = (*KINDS, "short")
QUICK = Patience(retries=12, first_wait_s=0.001, longest_wait_s=0.01)
FRESH = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http://127.0.0.1", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
"""What GDAL is told: a truncated answer must not be remembered as the file."""

Pixels = dict[tuple[str, str], np.ndarray]


def documents(scenes: Path, products: Path) -> list[dict[str, Any]]:
    """Registered items whose images lie on the server instead of on the disk."""
    found = []
    for item in load(scenes):
        if item.properties["ringmoe:sensor"] not in SENSORS:
            continue
        item.make_asset_hrefs_absolute()
        document = item.to_dict(include_self_link=False, transform_hrefs=False) | {"links": []}
        for asset in document["assets"].values():
            if "metadata" not in asset.get("roles", ()):
                asset["href"] = "{url}/files/" + Path(asset["href"]).relative_to(products).as_posix()
        found.append(document)
    return found


def pixels(scenes: Sequence[Scene], reasons: list[str]) -> Pixels:
    """Bands of scenes on a grid of their own files, each asked for up to TRIES times; why it had to be is added."""
    found: Pixels = {}
    for scene in scenes:
        for name in list(scene.bands)[:BANDS]:
            for _ in range(TRIES):
                try:
                    found[scene.id, name] = read(scene, _grid(scene, name), [name], resampling="nearest").values
                    break
                except CatalogError as error:
                    reasons.append(str(error))
    return found


def _grid(scene: Scene, band: str) -> Any:
    from odc.geo.geobox import GeoBox

    source = scene.bands[band]
    assert source.shape is not None
    assert source.transform is not None
    return GeoBox(source.shape, rasterio.Affine(*source.transform), source.crs)


def a_round(items: Sequence[dict[str, Any]], products: Path, chance: random.Random) -> dict[str, Any]:
    """One search of all items and the reading of what it found, against a server of its own."""

    def fate(number: int, path: str) -> str:
        files = path.startswith("/files/")
        kinds, share = (FILE_KINDS, ON_FILES) if files else (KINDS, ON_PAGES)
        return chance.choice(kinds) if chance.random() < share else "ok"

    reasons: list[str] = []
    with serving(Faulty((), fate, files=products)) as api, rasterio.Env(**FRESH):
        api.items = [_placed(item, api.url) for item in items]
        found = discover(Query(SENSORS), Asking((replace(at("local", api.url), page=PAGE),), patience=QUICK))
        seen = pixels(found.scenes, reasons)
    fates = Counter((path.startswith("/files/"), fate) for path, _, fate in api.seen if fate != "ok")
    refused = sum(len(part.refused) for part in found.parts)
    return {
        "scenes": [s.id for s in found.scenes],
        "pixels": seen,
        "faults": sum(n for (_, kind), n in fates.items() if kind != "slow"),
        "slow": sum(n for (_, kind), n in fates.items() if kind == "slow"),
        "page_faults": sum(n for (files, kind), n in fates.items() if not files and kind != "slow"),
        "pages_repeated": refused,
        "reasons": reasons,
    }


def _placed(item: dict[str, Any], url: str) -> dict[str, Any]:
    assets = {k: {**a, "href": a["href"].replace("{url}", url)} for k, a in item["assets"].items()}
    return {**item, "assets": assets}


def measure(scenes: Path, products: Path, faults: int) -> dict[str, Any]:
    """Rounds until so many faults were met; an item is lost that is not found, or whose pixels are not the disk's."""
    chance = random.Random(3)
    items = documents(scenes, products)
    disk = [s for s in map(Scene.from_item, load(scenes)) if s.sensor in SENSORS]
    wanted = pixels(disk, [])
    logging.getLogger("odc.loader").setLevel(logging.CRITICAL)  # who tells of each refusal too
    begin, rounds = time.perf_counter(), []
    while sum(r["faults"] for r in rounds) < faults:
        rounds.append(a_round(items, products, chance))
    lost = sum(_lost(r["pixels"], wanted) for r in rounds)
    reasons = [reason for r in rounds for reason in r["reasons"]]
    return {
        "server_faults": sum(r["faults"] for r in rounds),
        "server_slow_answers": sum(r["slow"] for r in rounds),
        "server_rounds": len(rounds),
        "items": len(rounds) * len(disk),
        "items_lost": lost,
        "pages_repeated": sum(r["pages_repeated"] for r in rounds),
        "page_faults": sum(r["page_faults"] for r in rounds),
        "reads_repeated": len(reasons),
        "server_seconds": round(time.perf_counter() - begin, 1),
    }


def _lost(seen: Pixels, wanted: Pixels) -> int:
    """Scenes of which a band is missing or another than on the disk."""
    wrong = {
        k[0] for k, values in wanted.items() if k not in seen or not np.array_equal(seen[k], values, equal_nan=True)
    }
    return len(wrong)
