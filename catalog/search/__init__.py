"""Area, period and sensors become scenes, from providers that stand in for one another."""

from catalog.search.area import Instant, instant
from catalog.search.gaps import Gaps, filled, gaps
from catalog.search.overpass import Duplicate, best_of_each, recalled, remembered, same_overpass, superseded
from catalog.search.pages import Shortfall
from catalog.search.rasters import DEM, DEMS, LABELS, LabelClass, Raster, dems, labels
from catalog.search.several import Asking, Found, Query, discover

__all__ = [
    "DEM",
    "DEMS",
    "LABELS",
    "Asking",
    "Duplicate",
    "Found",
    "Gaps",
    "Instant",
    "LabelClass",
    "Query",
    "Raster",
    "Shortfall",
    "best_of_each",
    "dems",
    "discover",
    "filled",
    "gaps",
    "instant",
    "labels",
    "recalled",
    "remembered",
    "same_overpass",
    "superseded",
]
