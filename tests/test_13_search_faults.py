"""A page that fails is asked again on its own; a count that was stated is held; who answers is recorded."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from stac_faults import FAULTS, RETRY_AFTER_S, Faulty, sentinel2, serving, year_of_scenes

from catalog.errors import NothingFound, ServiceError
from catalog.patience import Again, Patience, persist, retry_after_s
from catalog.providers import Provider
from catalog.search import Asking, Query, Shortfall, discover
from catalog.search.pages import ask, counted, opened

QUICK = Patience(retries=8, first_wait_s=0.001, longest_wait_s=0.01)
BOX = (11.2, 46.2, 11.8, 46.8)
YEAR = Query(("sentinel-2",), bbox=BOX, start="2024-01-01", end="2024-12-31", part_months=12)
COLLECTIONS = ["sentinel-2-c1-l2a"]


def provider(api: Faulty, name: str = "earth-search", page: int = 10) -> Provider:
    return Provider(name, api.url, page=page)


def test_no_item_is_lost_to_a_hundred_faults_on_pages() -> None:
    """Every kind of fault at random, half of all requests, until 100 were met: all 120 items in order every time."""
    dice, met, retried, kinds = random.Random(4), 0, 0, set()
    items = year_of_scenes()

    def fate(number: int, path: str) -> str:
        return dice.choice(FAULTS) if dice.random() < 0.5 else "ok"

    rounds = 0
    while met < 100:
        with serving(Faulty(items, fate)) as api:
            client = opened(api.url, QUICK)
            answer = ask(client, api.url, COLLECTIONS, {"bbox": list(BOX)}, None, 10)
            assert list(answer.items) == items
            assert answer.verified
            met += api.faulty_requests()
            retried += len(client._stac_io.refused)
            kinds |= {fate for _, _, fate in api.seen}
            assert len(api.pages()) == 12
        rounds += 1
    assert retried == met
    assert kinds == {*FAULTS, "ok"}
    print(f"{met} faults in {rounds} searches, {retried} pages repeated, 0 of {rounds * len(items)} items lost")


def test_a_retry_repeats_the_page_and_not_the_search() -> None:
    """The seventh page drops its connection twice: it alone is asked again."""
    with serving(Faulty(year_of_scenes(), lambda n, path: "drop" if n in (7, 8) else "ok")) as api:
        answer = ask(opened(api.url, QUICK), api.url, COLLECTIONS, {"bbox": list(BOX)}, None, 10)
    tokens = [body.get("token", 0) for path, body, _ in api.seen if path == "/search"]
    assert tokens == [0, 10, 20, 30, 40, 50, 60, 60, 60, 70, 80, 90, 100, 110]
    assert len(answer.refused) == 2


def test_retries_are_bounded_and_the_reason_is_told() -> None:
    """A page that never comes: as many tries as allowed, then an error with the last reason."""
    with serving(Faulty(year_of_scenes(), lambda n, path: "503" if n > 3 else "ok")) as api:
        with pytest.raises(ServiceError, match="HTTP 503") as caught:
            ask(opened(api.url, QUICK), api.url, COLLECTIONS, {"bbox": list(BOX)}, None, 10)
        assert len(api.seen) == 4 + 9
    assert caught.value.enough == "an answer within 9 tries"


def test_a_server_that_says_nothing_is_asked_again() -> None:
    """A page that stalls beyond the time allowed is repeated; one that is merely slow is waited for."""
    with serving(Faulty(year_of_scenes(20), lambda n, path: "stall" if n == 2 else "slow")) as api:
        client = opened(api.url, QUICK, timeout_s=3)
        answer = ask(client, api.url, COLLECTIONS, {"bbox": list(BOX)}, None, 10)
    assert len(answer.items) == 20
    assert answer.refused
    assert {reason.split(":")[0] for reason in answer.refused} <= {"ReadTimeout", "ConnectionError"}


def test_a_wait_that_the_server_asks_for_is_kept() -> None:
    """Retry-After decides over the doubling; a wait beyond the bound ends the tries at once."""
    waited: list[float] = []
    patience = Patience(retries=3, first_wait_s=100.0, sleep=waited.append)
    with serving(Faulty(year_of_scenes(5), lambda n, path: "429" if n in (0, 1) else "ok")) as api:
        opened(api.url, patience)
    assert waited == [RETRY_AFTER_S, RETRY_AFTER_S]

    def press() -> None:
        raise Again("HTTP 429", 301.0)

    waited.clear()
    with pytest.raises(Again):
        persist(press, patience, [])
    assert waited == []


def test_waits_double_within_their_bound_and_jitter_spreads_them() -> None:
    """Between half and all of 0.2, 0.4, 0.8, ... s, at most 30 s."""
    low, high = Patience(dice=lambda: 0.0), Patience(dice=lambda: 1.0)
    assert [low.wait_s(n) for n in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert [high.wait_s(n) for n in (1, 2, 20)] == pytest.approx([0.2, 0.4, 30.0])


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    """Both forms of RFC 9110, section 10.2.3; nonsense asks for nothing."""
    assert retry_after_s({"Retry-After": "7"}) == 7.0
    now = datetime(2026, 1, 1, 0, 0, 0, tzinfo=UTC)
    assert retry_after_s({"Retry-After": "Thu, 01 Jan 2026 00:01:30 GMT"}, lambda: now) == 90.0
    assert retry_after_s({"Retry-After": "soon"}) is None
    assert retry_after_s({}) is None


@pytest.mark.parametrize(("stated", "said"), [(123, "3 are missing"), (117, "3 too many")])
def test_a_count_that_is_not_kept_is_a_hard_error(stated: int, said: str) -> None:
    """numberMatched of three more or fewer: both numbers are named, and no other provider steps in silently."""
    with serving(Faulty(year_of_scenes(), states=stated)) as api, serving(Faulty(year_of_scenes())) as other:
        both = Asking((provider(api), provider(other, "planetary-computer")), patience=QUICK)
        with pytest.raises(Shortfall, match=f"states {stated} matching items and answers 120: {said}") as caught:
            discover(YEAR, both)
    assert caught.value.item == api.url
    assert caught.value.enough == f"{stated} different items"
    assert caught.value.todo
    assert other.seen == []


def test_without_a_count_the_result_is_unverified() -> None:
    """A provider that states none is believed, and the record says so."""
    with serving(Faulty(year_of_scenes(), states=None)) as api:
        found = discover(YEAR, Asking((provider(api),), patience=QUICK))
    assert len(found.scenes) == 120
    assert not found.verified
    assert found.record()[0]["stated"] is None


def test_items_on_two_pages_are_kept_once_and_noted() -> None:
    """Paging that repeats the last item of each page: 120 scenes, a note, and the count still holds."""
    with serving(Faulty(year_of_scenes(), repeats=True)) as api:
        found = discover(YEAR, Asking((provider(api),), patience=QUICK))
    assert len(found.scenes) == 120
    assert found.verified
    assert found.parts[0].notes == ("11 items came on two pages and are kept once",)


def test_a_repeated_item_does_not_hide_a_lost_one() -> None:
    """Two features, one twice, two stated: the second item is missing."""
    one = sentinel2("a", "2024-01-01T10:00:00Z")
    with pytest.raises(Shortfall, match="states 2 matching items and answers 1"):
        counted("here", [{"features": [one, dict(one)], "numberMatched": 2}])


def test_two_different_items_of_one_id_are_refused() -> None:
    """The same id with another content is no repetition."""
    one, other = sentinel2("a", "2024-01-01T10:00:00Z"), sentinel2("a", "2024-01-02T10:00:00Z")
    with pytest.raises(ServiceError, match="two different items of one id"):
        counted("here", [{"features": [one, other]}])


def test_the_next_provider_answers_when_the_first_fails_and_both_are_recorded() -> None:
    """The first always answers 502: the second's scenes come, saying who answered and who failed why."""
    items = year_of_scenes()
    other = [{**item, "collection": "sentinel-2-l2a"} for item in items]
    with serving(Faulty(items, lambda n, path: "502")) as bad, serving(Faulty(other)) as good:
        asking = Asking((provider(bad), provider(good, "planetary-computer")), patience=QUICK)
        found = discover(YEAR, asking)
    assert {s.properties["ringmoe:provider"] for s in found.scenes} == {"planetary-computer"}
    assert len(found.scenes) == 120
    (row,) = found.record()
    assert row["provider"] == "planetary-computer"
    assert "HTTP 502" in row["failures"]["earth-search"]


def test_every_provider_that_failed_is_named() -> None:
    """Both fail: one error with both reasons."""
    with serving(Faulty([], lambda n, path: "502")) as one, serving(Faulty([], lambda n, path: "drop")) as other:
        asking = Asking((provider(one), provider(other, "planetary-computer")), patience=Patience(1, 0.001))
        with pytest.raises(ServiceError, match="no provider answers a part") as caught:
            discover(YEAR, asking)
    assert one.url in caught.value.what
    assert other.url in caught.value.what
    assert caught.value.enough == "an answer of one of earth-search, planetary-computer"


def test_a_search_that_matches_nothing_says_who_was_asked() -> None:
    """Nothing there: sensor, period, area and the answer of each part."""
    with (
        serving(Faulty(year_of_scenes())) as api,
        pytest.raises(NothingFound, match="no provider has a scene of sentinel-2 from 2020-01-01") as caught,
    ):
        discover(Query(("sentinel-2",), bbox=BOX, start="2020-01-01", end="2020-01-31"), Asking((provider(api),)))
    assert "earth-search 0 items" in caught.value.item
    with pytest.raises(NothingFound, match="no provider asked has scenes of worldview"):
        discover(Query(("worldview",)), Asking((Provider("earth-search", "http://127.0.0.1:9"),)))


def test_an_empty_page_holds_a_count_too() -> None:
    """Nothing answered and five stated is a shortfall; nothing answered and nothing stated is verified."""
    january = Query(("sentinel-2",), bbox=BOX, start="2023-01-01", end="2023-01-31")
    with serving(Faulty(year_of_scenes(), states=5)) as api:
        with pytest.raises(Shortfall, match="states 5 matching items and answers 0: 5 are missing"):
            discover(january, Asking((provider(api),), patience=QUICK))
        api.states = "true"
        found = discover(Query(("sentinel-2",), start="2023-12-01", end="2024-01-31"), Asking((provider(api),)))
    assert [(row["items"], row["verified"]) for row in found.record()] == [(0, True), (11, True)]


def test_pages_that_go_in_a_circle_end() -> None:
    """A server whose last page leads to its first: told, not followed for ever."""

    class Circle(Faulty):
        def page(self, body: dict[str, Any]) -> dict[str, Any]:
            page = super().page({**body, "token": int(body.get("token", 0)) % 20})
            page["links"] = [
                {"rel": "next", "method": "POST", "href": f"{self.url}/search", "body": {**body, "token": t}}
                for t in [(int(body.get("token", 0)) + 10) % 20]
            ]
            return page

    with serving(Circle(year_of_scenes(20))) as api, pytest.raises(ServiceError, match="go in a circle"):
        ask(opened(api.url, QUICK), api.url, COLLECTIONS, {"bbox": list(BOX)}, None, 10)


def test_a_refusal_that_is_no_fault_names_its_code() -> None:
    """HTTP 400 is not asked again, and its code is in the reason."""
    with serving(Faulty([], lambda n, path: "400" if n else "ok")) as api:
        with pytest.raises(ServiceError, match="HTTP 400"):
            ask(opened(api.url, QUICK), api.url, COLLECTIONS, {"bbox": list(BOX)}, None, 10)
        assert len(api.seen) == 2
