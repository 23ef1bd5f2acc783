"""A procedural Earth as the satellites would see it: products in their real formats, and truth, without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.sandbox import gaofen3, manifest, optics, radar, sentinel1, sentinel2, truth, worldview
from catalog.sandbox.landscape import SEASONS, Landscape, draw
from catalog.sandbox.manifest import Summary
from catalog.sandbox.optics import Growth
from catalog.sandbox.orbit import Ground
from catalog.sandbox.plan import PASSES, Pass, Product
from catalog.sandbox.radar import Look
from catalog.sandbox.regions import REGIONS, STEP_M, Region, grid_over

__all__ = ["REGIONS", "Product", "Region", "Summary", "write"]

Progress = Callable[[str, float], None]


def write(
    root: Path,
    *,
    seed: int = 7,
    size_px: int = 512,
    regions: Sequence[Region] = REGIONS,
    progress: Progress | None = None,
) -> Summary:
    """Write a sandbox: a landscape per region, six products over each, truth and heights.

    Parameters
    ----------
    root
        Folder to write: products/, truth/, dem/ and, last of all, sandbox.json.
    seed
        What everything is drawn from; the same seed gives the same bytes.
    size_px
        Side of a region in pixels of 10 m; a multiple of 32, at least 64.
    regions
        Squares in UTM zones; their land is drawn by the same laws from seed and name.
    progress
        Called with a label and the share done, 0 to 1.

    Returns
    -------
    Summary
        Products and truth; an intact sandbox of the same parameters is summed up without writing.

    Raises
    ------
    CatalogError
        For a size or regions that make no sandbox, or a folder that holds something else.
    StorageFull
        When the disk has no room.
    """
    root = Path(root).resolve()
    _check(size_px, regions)
    parameters: dict[str, Any] = {
        "format": manifest.FORMAT,
        "seed": seed,
        "size_px": size_px,
        "regions": [asdict(r) for r in regions],
    }
    tell = progress or (lambda _label, _share: None)
    try:
        kept = manifest.standing(root, parameters)
        if kept is not None:
            tell("sandbox is there", 1.0)
            return kept
        manifest.begin(root, parameters)
        products: list[Product] = []
        paths: dict[str, dict[str, str]] = {}
        for i, region in enumerate(regions):
            made, names = _write_region(root, region, seed, size_px * STEP_M, _part(tell, i, len(regions)))
            products += made
            paths[region.name] = {k: f"truth/{region.name}/{v}" for k, v in names.items()}
        truth.write_readmes(root)
        summary = Summary(str(root), seed, size_px, tuple(products), paths, recomputed=True)
        manifest.finish(root, parameters, summary)
    except OSError as error:
        full = manifest.full_disk(error, root)
        if full is None:
            raise
        raise full from error
    tell("sandbox is written", 1.0)
    return summary


def _write_region(
    root: Path, region: Region, seed: int, size_m: float, tell: Progress
) -> tuple[list[Product], dict[str, str]]:
    tell(f"{region.name}: land", 0.0)
    land = draw(region, size_m, seed)
    relief = radar.ground(land)
    truth.write_dem(root, relief, region.name)
    folder = root / "truth" / region.name
    names = truth.write_land(folder, land)
    growths = {season: optics.growth(land, season) for season in SEASONS}
    products: list[Product] = []
    looks: dict[str, Look] = {}
    for n, acquisition in enumerate(PASSES):
        tell(f"{region.name}: {acquisition.sensor} {acquisition.date}", 0.3 + 0.7 * n / len(PASSES))
        if acquisition.sensor in ("sentinel-1", "gaofen-3"):
            writer = sentinel1 if acquisition.sensor == "sentinel-1" else gaofen3
            echo = radar.covariance(land, acquisition.season)
            product, looks[acquisition.sensor] = writer.write(root / "products", land, relief, echo, acquisition)
        else:
            product, more = _write_optical(root, land, relief, acquisition, growths[acquisition.season])
            names |= more
        products.append(product)
    names |= truth.write_backscatter(folder, land, looks)
    names |= truth.write_shifts(folder, products)
    return products, names


def _write_optical(
    root: Path, land: Landscape, relief: Ground, acquisition: Pass, ground: Growth
) -> tuple[Product, dict[str, str]]:
    middle = tuple(n // 2 for n in relief.height_m.shape)
    at = optics.sun(acquisition.when, float(relief.longitude_deg[middle]), float(relief.latitude_deg[middle]))
    shade = optics.light(land, acquisition.season, at)
    grid = grid_over(land.region, land.size_m, STEP_M)
    folder, products = root / "truth" / land.region.name, root / "products"
    if acquisition.sensor == "worldview":
        toa, fine = worldview.views(land, acquisition, ground, shade)
        names = truth.write_toa(folder, grid, toa, acquisition.date)
        return worldview.write(products, land, acquisition, fine, at), names
    seen = sentinel2.views(land, acquisition, ground, shade)
    names = truth.write_reflectance(folder, grid, seen.truth, acquisition.date)
    return sentinel2.write(products, land, acquisition, seen, at), names


def _part(tell: Progress, index: int, count: int) -> Progress:
    return lambda label, share: tell(label, (index + share) / count)


def _check(size_px: int, regions: Sequence[Region]) -> None:
    if size_px < 64 or size_px % 32:
        raise CatalogError(
            f"a region of {size_px} pixels cannot be drawn",
            item="size_px",
            enough="a multiple of 32, at least 64",
            todo=f"take {max(64, round(size_px / 32) * 32)}",
        )
    names = [r.name for r in regions]
    if not names or len(set(names)) < len(names) or not all(n.isidentifier() for n in names):
        raise CatalogError(
            "regions need names of letters, digits and underscores, each its own",
            item=", ".join(names) or "regions",
            enough="at least one region, no name twice",
            todo="rename the regions",
        )
