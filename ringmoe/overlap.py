"""Pictures over the same ground: which squares of one are whole pixels of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringmoe.pictures import Picture, Place

UNIT_PX = 32
"""Sides of chips are multiples of it."""

ON_GRID = 0.01
"""Of a pixel: two grids that differ less are one."""

MOST_STEPS = 16
"""Pixels of the coarsest picture to one step of a window, at most."""


class Part(NamedTuple):
    """What one picture gives to a window over shared ground."""

    row: int
    """Row of the first window."""
    column: int
    """Column of the first window."""
    step_px: int
    """Pixels that the window moves at a time."""
    side_px: int
    """Side of the window."""

    def window(self, down: int, right: int) -> tuple[slice, slice]:
        """Rows and columns of the window so many steps down and to the right."""
        y, x = self.row + down * self.step_px, self.column + right * self.step_px
        return slice(y, y + self.side_px), slice(x, x + self.side_px)


class Overlap(NamedTuple):
    """The windows that some pictures share."""

    parts: tuple[Part, ...]
    """One per picture."""
    down: int
    """Most steps down."""
    right: int
    """Most steps to the right."""


def nearest(anchor: Picture, others: Sequence[Picture], days: float) -> int | None:
    """Which of the others shares ground with a picture and is nearest to it in time; None where none is near enough.

    Pictures without a date are near to all.
    """
    found = [
        (0.0 if other.day is None or anchor.day is None else abs(other.day - anchor.day), i)
        for i, other in enumerate(others)
        if _shared([anchor, other]) is not None
    ]
    best = min(found, default=(float("inf"), 0))
    return best[1] if best[0] <= days else None


def overlap(pictures: Sequence[Picture], chip_px: int, most_px: int) -> Overlap | None:
    """The windows of some pictures that cover the same squares of the ground, in whole pixels of each.

    Parameters
    ----------
    pictures
        With a place each.
    chip_px
        Side of the window in the coarsest picture; elsewhere it is longer by the ratio of the pixels' sizes.
    most_px
        Longest side.

    Returns
    -------
    Overlap or None
        None where they share too little ground, a side would be too long or no multiple of 32 px, or the grids do not
        fit into each other.
    """
    box = _shared(pictures)
    if box is None:
        return None
    places = [picture.place for picture in pictures if picture.place is not None]
    coarse = max(places, key=lambda place: place.pixel_m)
    ratios = [coarse.pixel_m / place.pixel_m for place in places]
    sides = [_whole(chip_px * ratio) for ratio in ratios]
    steps = next((n for n in range(1, MOST_STEPS + 1) if all(_whole(n * r) is not None for r in ratios)), None)
    if steps is None or any(side is None or side % UNIT_PX or side > most_px for side in sides):
        return None
    left_m = _first(coarse.left_m, box[0], [(p.left_m, p.pixel_m) for p in places], coarse.pixel_m)
    top_m = _first(-coarse.top_m, -box[1], [(-p.top_m, p.pixel_m) for p in places], coarse.pixel_m)
    if left_m is None or top_m is None:
        return None
    step_m, side_m = steps * coarse.pixel_m, chip_px * coarse.pixel_m
    slack = ON_GRID * coarse.pixel_m
    right, down = ((far - near - side_m + slack) // step_m for far, near in ((box[2], left_m), (-box[3], top_m)))
    if right < 0 or down < 0:
        return None
    parts = tuple(
        Part(round((p.top_m + top_m) / p.pixel_m), round((left_m - p.left_m) / p.pixel_m), round(steps * r), side or 0)
        for p, r, side in zip(places, ratios, sides, strict=True)
    )
    return Overlap(parts, int(down), int(right))


def _shared(pictures: Sequence[Picture]) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of the ground that all show."""
    boxes, systems = [], set()
    for picture in pictures:
        place = picture.place
        if place is None:
            return None
        systems.add(place.crs)
        boxes.append(_box(place, picture))
    left, top, right, bottom = (pick(b[i] for b in boxes) for i, pick in enumerate((max, min, min, max)))
    return (left, top, right, bottom) if len(systems) == 1 and left < right and bottom < top else None


def _box(place: Place, picture: Picture) -> tuple[float, float, float, float]:
    right = place.left_m + picture.width * place.pixel_m
    return place.left_m, place.top_m, right, place.top_m - picture.height * place.pixel_m


def _first(origin_m: float, least_m: float, grids: Sequence[tuple[float, float]], pixel_m: float) -> float | None:
    """The first edge of the coarsest grid, at or after `least_m`, that is an edge of every grid (origin, pixel)."""
    start = int((least_m - origin_m) / pixel_m - ON_GRID)
    for n in range(start, start + MOST_STEPS + 2):
        edge_m = origin_m + n * pixel_m
        if edge_m >= least_m - ON_GRID * pixel_m and all(_whole((edge_m - o) / p) is not None for o, p in grids):
            return edge_m
    return None


def _whole(number: float) -> int | None:
    return round(number) if abs(number - round(number)) <= ON_GRID else None
