"""What was typed at the terminal -> what the flows are asked."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import geopandas as gpd
import pystac
import shapely.geometry
from odc.geo.geom import Geometry
from pyogrio.errors import DataSourceError

from catalog.antimeridian import bbox_of
from catalog.errors import CatalogError, GridError, NothingFound
from catalog.sensors import SENSORS
from flows import recipes, sizes
from flows.refs import AdaptRequest, Area, CompositeRequest, IngestRequest, Period, PruneRequest, RunRequest, Where
from flows.settings import Settings
from flows.stac import label_rasters
from ringmoe.errors import PruneError

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}.*|(19|20)\d{2}(0[1-9]|1[0-2])([0-2]\d|3[01])")
"""A day as ISO 8601 writes it, with dashes or without: eight digits are no number of parameters."""

Failed = list[tuple[str, str]]
"""Folders that could not be registered, each with its reason."""


def where(settings: Settings) -> Where:
    """Where things live, for flows."""
    return Where.of(settings)


def box(text: str, name: str = "area") -> Area:
    """An area from west,south,east,north.

    Raises
    ------
    GridError
        When the text is no box.
    """
    return Area.box(_four(text), name)


def _four(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(v) for v in text.split(","))
    except ValueError:
        raise GridError(
            "the area is no box",
            item=text,
            enough="four numbers: west,south,east,north in degrees",
            todo="write, for example, --bbox 11.8,46.8,12.0,47.0",
        ) from None
    return west, south, east, north


def area_of(settings: Settings, bbox: str | None, path: Path | None) -> Area:
    """The box or the polygons given, else the extent of everything registered.

    Raises
    ------
    GridError
        When a file holds no polygon or no CRS.
    """
    if bbox:
        return box(bbox)
    if path is None:
        return Area.box(_extent(settings)[0], "everything registered")
    return polygons(path)


def polygons(path: Path) -> Area:
    """The union of a file's polygons.

    Raises
    ------
    GridError
        When there is no such file, or it holds no polygon or no CRS.
    """
    if not path.exists():
        raise GridError(
            "there is no such file", item=str(path), enough="a vector file of polygons", todo="check the path"
        )
    try:
        frame = gpd.read_file(path)
    except DataSourceError as error:
        raise GridError(
            f"the file cannot be read ({error})",
            item=str(path),
            enough="a vector file of polygons, as GeoJSON or GeoPackage",
            todo="convert it",
        ) from error
    if frame.crs is None:
        raise GridError(
            "the file names no CRS",
            item=str(path),
            enough="polygons in a stated CRS",
            todo="write the CRS into the file, as in GeoJSON or GeoPackage",
        )
    union = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"])].to_crs(4326).union_all()
    if union.is_empty:
        raise GridError(
            "the file holds no polygon", item=str(path), enough="one polygon", todo="draw the area as polygons"
        )
    geometry: dict[str, Any] = union.__geo_interface__
    return Area(geometry=json.loads(json.dumps(geometry)), name=path.name)


def around(path: Path, margin_m: float = 320.0) -> Area:
    """The box around all parcels of a file with a margin, so that a parcel's edge pixels are mapped with surroundings.

    Raises
    ------
    GridError
        As `area_of`.
    """
    geometry = shapely.geometry.shape(polygons(path).geometry)
    south_north = margin_m / 111_320.0
    west_east = south_north / max(0.1, math.cos(math.radians(geometry.centroid.y)))
    west, south, east, north = geometry.bounds
    return Area.box((west - west_east, south - south_north, east + west_east, north + south_north), path.name)


def bounds(area: Area) -> list[float]:
    """West, south, east, north of an area in degrees; west beyond east across the antimeridian."""
    return [float(v) for v in bbox_of(Geometry(area.geometry, "EPSG:4326"))]


def period_of(settings: Settings, start: str | None, end: str | None) -> Period:
    """The days given, else those of everything registered.

    Raises
    ------
    CatalogError
        When a day is no date or the period ends before it begins.
    """
    first, last = (None, None) if start and end else _extent(settings)[1]
    begin, stop = _day(start, "--from") if start else first, _day(end, "--to") if end else last
    if begin is None or stop is None:
        raise NothingFound("no period is known", item="--from, --to", enough="two days", todo="name both")
    if begin > stop:
        raise CatalogError(
            "the period ends before it begins",
            item=f"{begin} to {stop}",
            enough="a first day that is not after the last",
            todo="swap --from and --to",
        )
    return Period(start=begin, end=stop)


def sensors_of(names: Sequence[str] | None) -> tuple[str, ...]:
    """Known sensors.

    Raises
    ------
    NothingFound
        Naming the one that is unknown.
    """
    unknown = [n for n in names or () if n not in SENSORS]
    if unknown:
        raise NothingFound(
            f"there is no sensor {unknown[0]}",
            item="--sensor",
            enough=f"one of {', '.join(SENSORS)}",
            todo="choose one of these",
        )
    return tuple(names or SENSORS)


def ingest_request(
    settings: Settings,
    bbox: str | None,
    area: Path | None,
    start: str | None,
    end: str | None,
    sensors: Sequence[str] | None,
    **options: Any,
) -> IngestRequest:
    """What `search` and `ingest` are asked."""
    return IngestRequest(
        area=area_of(settings, bbox, area),
        period=period_of(settings, start, end),
        sensors=sensors_of(sensors),
        **options,
    )


def composite_request(
    settings: Settings,
    bbox: str | None,
    area: Path | None,
    start: str | None,
    end: str | None,
    sensors: Sequence[str] | None,
    **options: Any,
) -> CompositeRequest:
    """What `composite` is asked."""
    return CompositeRequest(
        area=area_of(settings, bbox, area),
        period=period_of(settings, start, end),
        sensors=sensors_of(sensors),
        **options,
    )


def adapt_request(
    settings: Settings,
    bbox: str | None,
    area: Path | None,
    start: str | None,
    end: str | None,
    sensor: str,
    steps: int,
) -> AdaptRequest:
    """What `adapt` and `prune` are asked."""
    sensors_of([sensor])
    return AdaptRequest(
        area=area_of(settings, bbox, area), period=period_of(settings, start, end), sensor=sensor, steps=steps
    )


def day_and_size(words: Sequence[str]) -> tuple[str | None, str | None]:
    """What `prune --to` was given: a date is the last day of the period, anything else a size.

    Raises
    ------
    PruneError
        Two dates or two sizes.
    """
    days = [word for word in words if _DATE.fullmatch(word)]
    named = [word for word in words if not _DATE.fullmatch(word)]
    if len(days) > 1 or len(named) > 1:
        raise PruneError(
            "--to was given twice for one thing",
            item=" and ".join(days if len(days) > 1 else named),
            enough="one last day and one size",
            todo="leave one out; several sizes are one word, as in 9,6,3,1",
        )
    return (days[0] if days else None), (named[0] if named else None)


def prune_request(
    *, to: str | None, profile: Path | None, steps: int, refit: bool = True, streamed: bool = False, **named: str
) -> PruneRequest:
    """What `prune` is asked beside its task.

    Parameters
    ----------
    named
        Words that PruneRequest has a list of, by field.

    Raises
    ------
    PruneError
        A word is none of its list, there is no such size, or no such profile.
    """
    for field, word in named.items():
        known = get_args(PruneRequest.model_fields[field].annotation)
        if word not in known:
            raise PruneError(
                f"there is no {field} {word}",
                item=f"--{field}",
                enough=f"one of {', '.join(known)}",
                todo="choose one of these",
            )
    if to is not None:
        sizes.parse(to)
    if profile is not None and not profile.is_file():
        raise PruneError(
            "there is no such profile",
            item=str(profile),
            enough="profile.safetensors of a model that was pruned from the same parent",
            todo="check the path, or leave --profile out",
        )
    plain = {"to": to, "profile": profile, "steps": steps, "refit": refit, "streamed": streamed}
    return PruneRequest.model_validate({**plain, **named})


def sandbox_run(settings: Settings, *, seed: int, size_px: int, quick: bool) -> tuple[RunRequest, Failed]:
    """Make and register the sandbox, then ask for all of it."""
    made = recipes.make_sandbox(settings, seed=seed, size_px=size_px)
    labels, heights = recipes.sandbox_rasters(settings)
    _, failed = recipes.register_once(settings, [settings.sandbox / "products"], labels, heights)
    return recipes.sandbox_run(settings, made, quick=quick), failed


def products_run(
    settings: Settings,
    products: Sequence[Path],
    label_files: Sequence[Path],
    dems: Sequence[Path],
    train: str | None,
    mapped: str | None,
    sensor: str,
    steps: int,
) -> tuple[RunRequest, Failed]:
    """Register product folders, then ask for what they allow."""
    _, failed = recipes.register_once(settings, products, label_files, dems)
    extent, days = _extent(settings)
    area, period = Area.box(extent, "everything registered"), Period(start=days[0], end=days[1])
    labelled = bool(label_rasters(where(settings), area, period))
    request = recipes.products_run(
        settings,
        area,
        period,
        train=box(train, "the area to learn from") if train else None,
        mapped=box(mapped, "the area to map") if mapped else None,
        sensor=sensors_of([sensor])[0],
        labelled=labelled,
        steps=steps,
    )
    return request, failed


def _extent(settings: Settings) -> tuple[tuple[float, float, float, float], tuple[dt.date, dt.date]]:
    """Box and days of all registered scenes; heights, which hold for any date, do not count."""
    boxes, days = [], []
    for path in sorted(settings.scenes.glob("*/collection.json")):
        collection = pystac.Collection.from_file(str(path))
        if collection.id == "dem":
            continue
        boxes += list(collection.extent.spatial.bboxes)
        days += [d.date() for interval in collection.extent.temporal.intervals for d in interval if d]
    if not boxes or not days:
        raise NothingFound(
            "nothing is registered",
            item=str(settings.scenes),
            enough="one registered product",
            todo="`ringmoe register FOLDER`, or name --bbox, --from and --to",
        )
    margin = 1e-6
    extent = (
        max(-180.0, float(min(b[0] for b in boxes)) - margin),
        max(-90.0, float(min(b[1] for b in boxes)) - margin),
        min(180.0, float(max(b[2] for b in boxes)) + margin),
        min(90.0, float(max(b[3] for b in boxes)) + margin),
    )
    return extent, (min(days), max(days))


def _day(text: str, option: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise CatalogError(
            "that is no date", item=f"{option} {text}", enough="year-month-day", todo=f"write {option} 2025-05-01"
        ) from None
