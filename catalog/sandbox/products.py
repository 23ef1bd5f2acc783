"""One product per law and kind of geolocation, in its real format, with what its counts are worth; asked for apart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from catalog.errors import CatalogError
from catalog.sandbox import (
    capella,
    cbers4a,
    gaofen2,
    known,
    landsat,
    nisar,
    optics,
    palsar2,
    planetscope,
    radar,
    sentinel1_slc,
    specimen,
)
from catalog.sandbox.landscape import draw
from catalog.sandbox.regions import REGIONS, STEP_M
from catalog.sandbox.specimen import Day, Specimen

__all__ = ["Specimen", "make_radiometry"]

WHEN = datetime(2025, 8, 12, 10, 3, 17, 250_000, tzinfo=UTC)
SEASON = "summer"


def make_radiometry(folder: Path, seed: int = 7, size_px: int = 256) -> tuple[Specimen, ...]:
    """Write products whose every count is known, for judging calibration.

    The land is that of the sandbox's first region. Nothing here adds noise that the truth does not hold: the truth of a
    product is what its counts are worth by the formula of the vendor's document, written down here once more.

    Parameters
    ----------
    folder
        Folder to write: products/ and truth/.
    seed
        What the land is drawn from.
    size_px
        Side of the region in pixels of 10 m, a multiple of 32 and at least 64; also the largest side of a product.

    Returns
    -------
    tuple of Specimen
        One for each product, in the order written.

    Raises
    ------
    CatalogError
        For a size that makes no region.
    """
    if size_px < 64 or size_px % 32:
        raise CatalogError(
            f"a region of {size_px} pixels cannot be drawn",
            item="size_px",
            enough="a multiple of 32, at least 64",
            todo=f"take {max(64, round(size_px / 32) * 32)}",
        )
    root, day = Path(folder).resolve(), day_of(seed, size_px)
    return (
        known.write_worldview(root, day),
        known.write_sentinel2(root, day),
        known.write_sentinel1(root, day),
        known.write_gaofen3(root, day),
        landsat.write(root, day, "L1TP"),
        landsat.write(root, day, "L2SP"),
        gaofen2.write(root, day),
        planetscope.write(root, day, "SR"),
        planetscope.write(root, day, "TOA"),
        cbers4a.write(root, day),
        palsar2.write(root, day),
        sentinel1_slc.write(root, day),
        capella.write(root, day),
        nisar.write(root, day),
    )


def day_of(seed: int, size_px: int) -> Day:
    """The region on the day that the products show, the same for the same seed and size."""
    land = draw(REGIONS[0], size_px * STEP_M, seed)
    relief = radar.ground(land)
    middle = tuple(n // 2 for n in relief.height_m.shape)
    at = optics.sun(WHEN, float(relief.longitude_deg[middle]), float(relief.latitude_deg[middle]))
    lit = specimen.lit_surface(land, SEASON, at)
    return Day(land, relief, radar.covariance(land, SEASON), WHEN, at, lit, size_px)
