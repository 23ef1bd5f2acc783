"""The STAC API a run asks: the one given, or the registered scenes served on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from catalog.errors import NothingFound
from catalog.search import Raster
from catalog.search import labels as search_labels
from catalog.serve import served
from flows.refs import Area, Period, Where


@contextmanager
def stac_api(where: Where) -> Iterator[str]:
    """The address of the API, up for as long as the block runs."""
    with nullcontext(where.stac_url) if where.stac_url else served(where.scenes) as url:
        yield str(url)


def label_rasters(where: Where, area: Area, period: Period) -> tuple[Raster, ...]:
    """Label rasters that touch an area, dated within a period; () where there is none."""
    with stac_api(where) as url:
        return search_labels(url, geometry=area.geometry, start=period.start, end=period.end)


def labels_to_learn(where: Where, area: Area, period: Period) -> tuple[Raster, ...]:
    """The same, where there must be one.

    Raises
    ------
    NothingFound
        When there is none.
    """
    found = label_rasters(where, area, period)
    if not found:
        raise NothingFound(
            f"no label raster lies in {area.name} within {period}",
            item=str(where.scenes),
            enough="one registered label raster",
            todo="register one (`ringmoe register --labels FILE`), or choose another area or period",
        )
    return found
