"""Where and when to look: boxes across the antimeridian, dates, months."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from catalog.errors import GridError, NothingFound

Instant = date | datetime | str | None

WORLD: Mapping[str, Any] = {
    "type": "Polygon",
    "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]],
}


def boxes(bbox: Sequence[float]) -> tuple[tuple[float, float, float, float], ...]:
    """A box as one box, or as two where it crosses the antimeridian.

    Parameters
    ----------
    bbox
        West, south, east, north in degrees. West greater than east, or a longitude beyond 180, crosses the
        antimeridian. A box may reach a pole, and the whole circle is one box.

    Raises
    ------
    GridError
        No four numbers, south beyond north, a latitude beyond a pole.
    """
    west, south, east, north = _four(bbox)
    if east - west >= 360:
        return ((-180.0, south, 180.0, north),)
    if not -180 <= west <= 180:
        west = _wrapped(west)
    if not -180 <= east <= 180:
        east = _wrapped(east)
    if west <= east:
        return ((west, south, east, north),)
    parts = ((west, south, 180.0, north), (-180.0, south, east, north))
    return tuple(part for part in parts if part[0] < part[2])


def _four(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    numbers = tuple(float(v) for v in bbox)
    if len(numbers) != 4 or not -90 <= numbers[1] <= numbers[3] <= 90:
        raise GridError(
            "the area is no box on the Earth",
            item=",".join(f"{v:g}" for v in numbers),
            enough="west, south, east, north in degrees, with -90 <= south <= north <= 90",
            todo="put the four numbers in that order; west may exceed east across the antimeridian",
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _wrapped(longitude: float) -> float:
    return (longitude + 180.0) % 360.0 - 180.0


def places(bbox: Sequence[float] | None, geometry: Mapping[str, Any] | None) -> tuple[dict[str, Any], ...]:
    """What a STAC search is asked for an area, one or two questions."""
    if bbox is not None:
        return tuple({"bbox": list(box)} for box in boxes(bbox))
    return ({"intersects": dict(geometry or WORLD)},)


def instant(value: Instant, closing: bool = False) -> datetime | None:
    """A UTC time of a date, a time or ISO 8601 text; a mere date opens its day, or closes it."""
    if value is None or value == "":
        return None
    whole_day = isinstance(value, date) and not isinstance(value, datetime)
    if isinstance(value, str):
        whole_day = len(value) == 10
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise NothingFound(
                f"{value!r} is no date",
                item="the period asked for",
                enough="a date as in 2024-06-15",
                todo="write dates as year-month-day",
            ) from None
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    stamp = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return stamp + timedelta(days=1, microseconds=-1) if whole_day and closing else stamp


def months(
    first: datetime | None, last: datetime | None, size: int = 1
) -> tuple[tuple[datetime | None, datetime | None], ...]:
    """A period in parts that begin with calendar months; one part where a side is open.

    Neighbours share their border: what was taken at that instant is found in both and kept once.
    """
    if first is None or last is None:
        return ((first, last),)
    borders = [first]
    step = datetime(first.year, first.month, 1, tzinfo=UTC)
    while (step := _later(step, size)) < last:
        borders.append(step)
    return tuple(zip(borders, [*borders[1:], last], strict=True))


def _later(month: datetime, size: int) -> datetime:
    years, zero_based = divmod(month.month - 1 + size, 12)
    return month.replace(year=month.year + years, month=zero_based + 1)


def interval(first: datetime | None, last: datetime | None) -> str | None:
    """A period as STAC writes it; None where both sides are open."""
    if first is None and last is None:
        return None
    return "/".join(".." if t is None else t.isoformat().replace("+00:00", "Z") for t in (first, last))


def day(stamp: datetime | None) -> str:
    """A date for a message."""
    return "any time" if stamp is None else f"{stamp:%Y-%m-%d}"
