"""One overpass is one scene; what a second provider has beyond the first is listed; areas cross 180 and reach 90."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from stac_faults import Doc, Faulty, sentinel2, serving

from catalog.errors import GridError
from catalog.patience import Patience
from catalog.providers import Provider
from catalog.scene import Scene
from catalog.search import Asking, Query, best_of_each, discover, filled, gaps, same_overpass
from catalog.search.area import boxes
from catalog.search.dialect import scene_of
from catalog.search.overpass import place_of

QUICK = Patience(retries=2, first_wait_s=0.001, longest_wait_s=0.01)
NOON = "2024-06-01T10:20:31Z"


def scene(name: str, time: str = NOON, provider: str = "earth-search", **more: Any) -> Scene:
    return scene_of(sentinel2(name, time, **more), provider)


def best(*scenes: Scene) -> tuple[list[str], list[tuple[str, str]]]:
    """Ids kept, and id and reason of each duplicate."""
    kept, duplicates = best_of_each(scenes)
    return [s.id for s in kept], [(d.kept.id, d.why) for d in duplicates]


def test_the_latest_baseline_wins_even_against_a_later_update() -> None:
    """05.11 over 05.09 and over 04.00, as numbers and not as text."""
    old = scene("old", **{"s2:processing_baseline": "04.00", "updated": "2026-01-01T00:00:00Z"})
    mid = scene("mid", **{"s2:processing_baseline": "05.09"})
    new = scene("new", **{"s2:processing_baseline": "05.11"})
    assert best(mid, new, old) == (["new"], [("new", "baseline")])


def test_a_decimated_copy_gives_way_whatever_its_baseline() -> None:
    """Whole pixels first."""
    copy = replace(scene("copy", **{"s2:processing_baseline": "05.12"}), decimated=True)
    assert best(copy, scene("whole")) == (["whole"], [("whole", "whole")])


def test_then_the_later_processing_wins() -> None:
    """Of equal baselines the product that was generated last."""
    one = scene("one", **{"s2:generation_time": "2024-06-01T14:39:19.000000Z"})
    two = scene("two", **{"s2:generation_time": "2024-06-02T01:00:00.000000Z"})
    assert best(two, one) == (["two"], [("two", "processed")])


def test_then_the_preferred_provider_wins() -> None:
    """The sensor's row names Earth Search first."""
    one, two = scene("one", provider="planetary-computer"), scene("two", provider="earth-search")
    assert best(one, two) == (["two"], [("two", "preference")])
    assert best(one, scene("three", provider="nobody")) == (["one"], [("one", "preference")])


def test_then_the_latest_update_then_creation_then_id() -> None:
    """Within one provider the item that was written last, whatever the order they came in."""
    one = scene("one", updated="2024-07-01T00:00:00Z")
    two = scene("two", updated="2024-07-02T00:00:00Z")
    assert best(two, one) == best(one, two) == (["two"], [("two", "updated")])
    three, four = scene("three", created="2024-07-01T00:00:00Z"), scene("four", created="2024-07-02T00:00:00Z")
    assert best(three, four) == (["four"], [("four", "created")])
    assert best(scene("a"), scene("b")) == (["b"], [("b", "id")])


def test_the_times_of_two_providers_differ_within_one_pass_and_are_one_overpass() -> None:
    """A datatake's start and a tile's own time, 13 minutes apart; the next orbit, 98 minutes on, is another."""
    tile, datatake = scene("tile", "2024-06-01T10:33:31Z"), scene("datatake", "2024-06-01T10:20:31Z")
    assert same_overpass(tile, datatake)
    assert not same_overpass(tile, scene("orbit", "2024-06-01T11:58:31Z"))
    assert not same_overpass(tile, scene("twin", platform="sentinel-2b"))
    assert not same_overpass(tile, scene("neighbour", tile="32TQS"))
    assert same_overpass(scene("one", tile="01CCV"), scene("two", tile="1CCV"))


def test_two_datastrips_of_one_tile_are_two_scenes() -> None:
    """Footprints that share a tenth: both are needed to cover the tile, none is dropped."""
    north = scene("north", bbox=(11.0, 46.5, 12.0, 47.0))
    south = scene("south", bbox=(11.0, 46.0, 12.0, 46.55))
    assert best(north, south) == (["north", "south"], [])


def _landsat(name: str, row: str, tier: str) -> Scene:
    item = sentinel2(name, NOON, platform="LANDSAT_8")
    for key in ("grid:code", "s2:product_type", "s2:processing_baseline"):
        del item["properties"][key]
    item["properties"] |= {"landsat:wrs_path": "028", "landsat:wrs_row": row, "landsat:correction": "L2SP"}
    item["properties"]["landsat:collection_category"] = tier
    return scene_of(item, "planetary-computer")


def test_landsat_is_told_by_path_and_row_and_the_better_tier_wins() -> None:
    """A real-time product gives way to tier 1; the next row of the pass is another scene."""
    first, rough, other = _landsat("t1", "030", "T1"), _landsat("rt", "30", "RT"), _landsat("next", "031", "T1")
    assert best(rough, first, other) == (["next", "t1"], [("t1", "tier")])


def _radar(name: str, start: str, orbit: int = 60328) -> Scene:
    item = sentinel2(name, start)
    item["properties"] = {
        "datetime": start,
        "platform": "sentinel-1a",
        "sar:product_type": "GRD",
        "sar:instrument_mode": "IW",
        "sat:absolute_orbit": orbit,
    }
    item["assets"] = {"vv": {"href": "s3://b/vv.tiff", "roles": ["data"], "type": "image/tiff"}}
    return scene_of(item, "earth-search")


def test_radar_slices_of_one_orbit_are_scenes_of_their_own() -> None:
    """25 seconds apart are two slices; a second apart is one slice made twice."""
    one, remade, following = (_radar(n, f"2024-06-01T05:00:{s}Z") for n, s in (("a", "00"), ("b", "01"), ("c", "25")))
    assert best(one, remade, following) == (["b", "c"], [("b", "id")])
    assert place_of(one) is not None


def test_scenes_without_a_named_place_are_told_by_their_id_alone() -> None:
    """Nothing names the ground: two ids stay two scenes."""
    items = [sentinel2(name, NOON) for name in ("one", "two")]
    for item in items:
        del item["properties"]["grid:code"]
    assert best(*(scene_of(item, "earth-search") for item in items)) == (["one", "two"], [])


def _both_providers() -> tuple[list[Doc], list[Doc]]:
    """Ten overpasses; the first provider lacks the third and eighth, the second the fifth, under other names."""
    times = [f"2024-06-{day:02d}T10:20:31Z" for day in range(1, 30, 3)]
    first = [sentinel2(f"first-{n}", t) for n, t in enumerate(times) if n not in (2, 7)]
    second = [
        {**sentinel2(f"second-{n}", t.replace("20:31", "12:00")), "collection": "sentinel-2-l2a"}
        for n, t in enumerate(times)
        if n != 4
    ]
    return first, second


def test_a_second_provider_fills_what_the_first_lacks() -> None:
    """Two of ten overpasses are missing: listed by platform, time and tile, and filled in the order of time."""
    first, second = _both_providers()
    query = Query(("sentinel-2",), start="2024-06-01", end="2024-06-30")
    with serving(Faulty(first)) as one, serving(Faulty(second)) as other:
        asking = Asking((Provider("earth-search", one.url),), patience=QUICK)
        found = discover(query, asking)
        gap = gaps(query, found.scenes, Provider("planetary-computer", other.url), asking)
    assert [s.id for s in gap.missing] == ["second-2", "second-7"]
    assert gap.shared == 7
    assert gap.table() == [
        ("planetary-computer", "sentinel-2a", "2024-06-07T10:12:00+00:00", "32TPS", "second-2"),
        ("planetary-computer", "sentinel-2a", "2024-06-22T10:12:00+00:00", "32TPS", "second-7"),
    ]
    whole = filled(found, gap)
    assert [s.datetime.day for s in whole.scenes] == list(range(1, 30, 3))
    assert [s.properties["ringmoe:provider"] for s in whole.scenes].count("planetary-computer") == 2
    assert [row["provider"] for row in whole.record()] == ["earth-search", "planetary-computer"]


def test_a_provider_that_has_nothing_lacks_nothing() -> None:
    """No gap is found, and none is an error."""
    first, _ = _both_providers()
    query = Query(("sentinel-2",), start="2024-06-01", end="2024-06-30")
    with serving(Faulty([])) as other:
        gap = gaps(
            query,
            [scene_of(i, "earth-search") for i in first],
            Provider("planetary-computer", other.url),
            Asking(patience=QUICK),
        )
    assert (gap.missing, gap.shared) == ((), 0)


def test_a_box_across_the_antimeridian_is_two() -> None:
    """West greater than east, or a longitude beyond 180; the whole circle is one; neither loses a degree."""
    halves = ((170.0, -20.0, 180.0, -10.0), (-180.0, -20.0, -170.0, -10.0))
    assert boxes((170, -20, -170, -10)) == halves
    assert boxes((170, -20, 190, -10)) == halves
    assert boxes((-190, -20, -170, -10)) == halves
    assert boxes((180, -20, -170, -10)) == halves[1:]
    assert boxes((170, -20, 180, -10)) == halves[:1]
    assert boxes((-180, -90, 180, 90)) == ((-180.0, -90.0, 180.0, 90.0),)
    assert boxes((0, 80, 360, 90)) == ((-180.0, 80.0, 180.0, 90.0),)
    assert boxes((10, 45, 11, 46)) == ((10.0, 45.0, 11.0, 46.0),)


@pytest.mark.parametrize("bad", [(10, 50, 11, 45), (10, -91, 11, 45), (10, 45, 11), (10, float("nan"), 11, 46)])
def test_a_box_that_is_none_is_refused(bad: tuple[float, ...]) -> None:
    """South beyond north, a latitude beyond a pole, three numbers, no number."""
    with pytest.raises(GridError, match="is no box on the Earth") as caught:
        boxes(bad)
    assert caught.value.todo


ACROSS = {
    "type": "MultiPolygon",
    "coordinates": [
        [[[179.0, -17.0], [180.0, -17.0], [180.0, -16.0], [179.0, -16.0], [179.0, -17.0]]],
        [[[-180.0, -17.0], [-179.0, -17.0], [-179.0, -16.0], [-180.0, -16.0], [-180.0, -17.0]]],
    ],
}


def _fiji() -> list[Doc]:
    """A scene on each side of 180 degrees, one across, one far away."""
    west = sentinel2("west", "2024-06-01T22:00:00Z", tile="60KYF", bbox=(178.5, -17, 179.5, -16))
    east = sentinel2("east", "2024-06-02T22:00:00Z", tile="01KAB", bbox=(-179.5, -17, -178.5, -16))
    both = sentinel2("both", "2024-06-03T22:00:00Z", tile="01KAA", **{"proj:epsg": 32701})
    both |= {"geometry": ACROSS, "bbox": [179.0, -17.0, -179.0, -16.0]}
    return [west, east, both, sentinel2("far", "2024-06-04T22:00:00Z")]


def test_an_area_across_the_antimeridian_finds_both_sides_and_what_lies_across_once() -> None:
    """Two questions, three scenes; the one across came twice, is kept once and noted, and both counts hold."""
    query = Query(("sentinel-2",), bbox=(178.0, -18.0, -178.0, -15.0), start="2024-06-01", end="2024-06-30")
    with serving(Faulty(_fiji())) as api:
        found = discover(query, Asking((Provider("earth-search", api.url),), patience=QUICK))
        boxed = [body["bbox"] for body in api.pages()]
    assert boxed == [[178.0, -18.0, 180.0, -15.0], [-180.0, -18.0, -178.0, -15.0]]
    assert [s.id for s in found.scenes] == ["west", "east", "both"]
    assert found.verified
    assert found.parts[0].notes == ("1 items touch both sides of the antimeridian and are kept once",)


def test_a_polar_area_is_searched_as_it_is() -> None:
    """A cap up to the pole, round the whole circle, finds the scenes under it."""
    items = [
        sentinel2("cap", "2024-06-01T10:00:00Z", tile="33XWM", bbox=(10, 82, 20, 83)),
        sentinel2("pole", "2024-06-02T10:00:00Z", tile="Z", bbox=(-180, 89, 180, 90)),
        sentinel2("south", "2024-06-03T10:00:00Z"),
    ]
    query = Query(("sentinel-2",), bbox=(-180, 80, 180, 90), start="2024-06-01", end="2024-06-30")
    with serving(Faulty(items)) as api:
        asking = Asking((Provider("earth-search", api.url),), patience=QUICK)
        assert [s.id for s in discover(query, asking).scenes] == ["cap", "pole"]
        assert [s.id for s in discover(replace(query, bbox=(170, 85, -170, 90)), asking).scenes] == ["pole"]


def test_times_of_a_scene_are_utc_and_a_period_includes_its_last_day() -> None:
    """An item of another zone, at the last minute of the last day."""
    item = sentinel2("late", "2024-06-30T23:59:59Z")
    with serving(Faulty([item])) as api:
        query = Query(("sentinel-2",), start="2024-06-01", end="2024-06-30")
        (found,) = discover(query, Asking((Provider("earth-search", api.url),), patience=QUICK)).scenes
    assert found.datetime == datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC)
