"""Recorded answers of Earth Search and Planetary Computer are searched and parsed; each oddity has a test."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from stac_faults import Faulty, serving

from catalog.errors import MetadataError
from catalog.patience import Patience
from catalog.providers import PROVIDERS, Provider
from catalog.scene import Scene
from catalog.search import Asking, Found, Query, Shortfall, discover
from catalog.search.dialect import scene_of, translated
from catalog.search.overpass import place_of
from catalog.search.pages import ask, opened
from catalog.sensors import SENSORS

REAL = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[2] / "shared" / "realdata"))
ITEMS = REAL / "stac_items"
pytestmark = pytest.mark.skipif(not ITEMS.is_dir(), reason=f"the recorded answers are not at {ITEMS}")
QUICK = Patience(retries=3, first_wait_s=0.001, longest_wait_s=0.01)


@dataclass
class Recorded(Faulty):
    """Answers what a provider answered once, its own address in place of the provider's."""

    items: Any = ()
    cassettes: tuple[str, ...] = ()
    counts: int | None = None
    """Stated instead of the recorded count; None leaves that as it is."""
    said: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.cassettes:
            for one in yaml.safe_load((ITEMS / "pystac_client_cassettes" / name).read_text())["interactions"]:
                uri, body = one["request"]["uri"], json.loads(one["request"]["body"] or "{}")
                path = urlsplit(uri).path.rstrip("/")
                token = str(body.get("next") or body.get("token") or "")
                root = uri[: uri.index("/v1") + 3]
                answer = one["response"]["body"]["string"].replace(root, f"@{urlsplit(root).path}")
                self.said.setdefault((one["request"]["method"], path, token), json.loads(answer))

    def answer(self, path: str, body: Any) -> Any:
        method = "POST" if path.endswith("/search") else "GET"
        token = str(body.get("next") or body.get("token") or "")
        answer = self.said.get((method, path.rstrip("/"), token), {"type": "FeatureCollection", "features": []})
        if self.counts is not None and "numberMatched" in answer:
            answer = {**answer, "numberMatched": self.counts}
        return json.loads(json.dumps(answer).replace('"@/', f'"{self.url}/'))


EARTH_SEARCH = ("TestCLISearch.test_filter_inprocess.yaml",)
PLANETARY = ("test_fallback_strategy.yaml", "TestItemSearch.test_datetime_results.yaml")
NAIP = ("test_fallback_strategy.yaml", "TestItemSearch.test_result_paging.yaml")


def asked(server: Recorded, name: str, root: str, query: Query, keep: Path | None = None) -> Found:
    return discover(query, Asking((Provider(name, server.url + root),), keep, patience=QUICK))


def planetary_search(server: Recorded, keep: Path | None = None) -> Found:
    query = Query(("sentinel-2",), start="2019-01-01", end="2019-01-01")
    return asked(server, "planetary-computer", "/api/stac/v1", query, keep)


def recorded(name: str, **where: str) -> list[dict[str, Any]]:
    """Extracted features that have geometry and assets."""
    features = json.loads((ITEMS / "extracted" / f"{name}.json").read_text())["features"]
    return [f for f in features if f.get("geometry") and f.get("assets")]


def by_host(items: list[dict[str, Any]], host: str) -> list[dict[str, Any]]:
    return [item for item in items if any(host in asset["href"] for asset in item["assets"].values())]


def test_planetary_computer_states_no_count_so_its_answer_is_unverified() -> None:
    """33 recorded scenes of ten seconds, all found, none verified."""
    with serving(Recorded(cassettes=PLANETARY)) as server:
        found = planetary_search(server)
    (row,) = found.record()
    assert (row["items"], row["stated"], row["verified"]) == (33, None, False)
    assert len(found.scenes) + sum(len(d.dropped) for d in found.duplicates) == 33
    assert found.unreadable == ()
    assert {s.properties["ringmoe:provider"] for s in found.scenes} == {"planetary-computer"}


def test_planetary_computer_is_replayed_from_its_kept_part(tmp_path: Path) -> None:
    """What it answered once is kept verbatim: the second search asks nobody."""
    with serving(Recorded(cassettes=PLANETARY)) as server:
        first = planetary_search(server, tmp_path)
        asked_once = len(server.seen)
        again = planetary_search(server, tmp_path)
        assert len(server.seen) == asked_once
    assert again == first


def test_planetary_computer_pages_by_a_token_in_the_body_and_also_links_back() -> None:
    """Two recorded pages of ten, in order, each once; the link to the previous page is not followed."""
    with serving(Recorded(cassettes=NAIP)) as server:
        url = f"{server.url}/api/stac/v1"
        answer = ask(opened(url, QUICK), url, ["naip"], {"bbox": [-73.21, 43.99, -73.12, 44.05]}, None, 10)
        tokens = [body.get("token") for _, body, _ in server.seen if body]
    assert [item["id"] for item in answer.items] == [f["id"] for f in recorded("naip")]
    assert tokens[0] is None
    assert tokens[1] == "next:naip:vt_m_4307307_nw_18_060_20211029"
    assert len(answer.items) == 20


def test_planetary_computer_writes_platforms_in_capitals_and_no_processing_level() -> None:
    """Sentinel-2B, no processing:level: read as sentinel-2b at L2A, twelve bands."""
    raw = by_host(recorded("sentinel-2-l2a"), "blob.core.windows.net")[0]
    assert raw["properties"]["platform"] in ("Sentinel-2A", "Sentinel-2B")
    assert "processing:level" not in raw["properties"]
    scene = scene_of(raw, "planetary-computer")
    assert (scene.sensor, scene.level, scene.quantity) == ("sentinel-2", "L2A", "surface_reflectance")
    assert tuple(scene.bands) == tuple(b.name for b in SENSORS["sentinel-2"].bands if b.name != "B10")
    assert scene.bands["B04"].crs == "EPSG:" + str(raw["properties"]["proj:epsg"])


def test_planetary_computer_names_bands_on_its_true_colour_image() -> None:
    """`visual` carries B04, B03 and B02 with the role of data: the bands stay those of their own files."""
    raw = by_host(recorded("sentinel-2-l2a"), "blob.core.windows.net")[0]
    assert [b["name"] for b in raw["assets"]["visual"]["eo:bands"]] == ["B04", "B03", "B02"]
    assert raw["assets"]["visual"]["roles"] == ["data"]
    scene = scene_of(raw, "planetary-computer")
    assert scene.bands["B04"].href.endswith("_B04_10m.tif")
    assert "TCI" not in json.dumps([b.href for b in scene.bands.values()])


def test_planetary_computer_says_nothing_of_no_data() -> None:
    """No raster:bands on Sentinel-2: no scale is invented, the row's no-data number is taken."""
    raw = by_host(recorded("sentinel-2-l2a"), "blob.core.windows.net")[0]
    band = scene_of(raw, "planetary-computer").bands["B04"]
    assert (band.scale, band.offset, band.nodata) == (None, None, 0.0)


def test_planetary_computer_prefixes_landsat_bands_and_has_products_without_temperature() -> None:
    """OLI_B4 is found by its common name; L2SR is surface reflectance like L2SP; tier and path are kept."""
    scenes = [scene_of(raw, "planetary-computer") for raw in recorded("landsat-c2-l2")]
    assert {s.level for s in scenes} == {"L2SP", "L2SR"}
    assert {s.quantity for s in scenes} == {"surface_reflectance"}
    red = scenes[0].bands["B4"]
    assert (red.scale, red.offset, red.nodata, red.dtype) == (2.75e-05, -0.2, 0.0, "uint16")
    assert red.transform == (30.0, 0.0, 466185.0, 0.0, -30.0, -3395085.0)
    assert "QA_PIXEL" in scenes[0].quality
    place = place_of(scenes[0])
    assert place is not None
    assert place.name == "84/82"


def test_earth_search_states_a_count_that_moves_and_a_shortfall_is_hard() -> None:
    """115,912,757 and then 115,912,758 matched; the recording holds twenty: the shortfall is named."""
    with serving(Recorded(cassettes=EARTH_SEARCH)) as server:
        url = f"{server.url}/v1"
        with pytest.raises(Shortfall, match="states 115912758 matching items and answers 20: 115912738 are missing"):
            ask(opened(url, QUICK), url, ["sentinel-2-c1-l2a"], {"intersects": {}}, None, 10)
        server.said = {k: v for k, v in server.said.items() if "115912758" not in json.dumps(v)}
        server.said = {k: {**v, "numberMatched": 10} if "numberMatched" in v else v for k, v in server.said.items()}
        answer = ask(opened(url, QUICK), url, ["sentinel-2-c1-l2a"], {"intersects": {}}, None, 10)
    assert answer.verified
    assert answer.stated == 10


def test_earth_search_drops_the_question_from_its_next_link_and_forbids_merging() -> None:
    """The second request holds the token alone, as the link says; both pages come, in order."""
    with serving(Recorded(cassettes=EARTH_SEARCH, counts=20)) as server:
        url = f"{server.url}/v1"
        answer = ask(opened(url, QUICK), url, ["sentinel-2-c1-l2a"], {"intersects": {}}, None, 10)
        bodies = [body for path, body, _ in server.seen if path.endswith("/search")]
    assert len(answer.items) == 20
    assert bodies[1] == {"next": "2025-07-31T13:03:25.899000Z,S2B_T24MVV_20250731T130245_L2A,sentinel-2-c1-l2a"}


def test_earth_search_mixes_missions_and_gives_radar_scenes_that_are_no_scene_of_ours() -> None:
    """Sentinel-2 of three collections is read; HH-only Sentinel-1 is listed with its reason, not lost."""
    with serving(Recorded(cassettes=EARTH_SEARCH, counts=20)) as server:
        query = Query(("sentinel-2", "sentinel-1"), start="2025-07-31", end="2025-07-31")
        found = asked(server, "earth-search", "/v1", query)
    assert found.verified
    assert {s.sensor for s in found.scenes} == {"sentinel-2"}
    assert {s.level for s in found.scenes} == {"L1C", "L2A"}
    reasons = dict(found.unreadable)
    assert len(reasons) == 3
    assert all("none of its assets is a band" in reason for reason in reasons.values())


def test_earth_search_has_one_overpass_in_two_collections_and_the_preferred_one_is_taken() -> None:
    """`sentinel-2-l2a` and `sentinel-2-c1-l2a` hold the same product: one scene, the other one recorded."""
    with serving(Recorded(cassettes=EARTH_SEARCH, counts=20)) as server:
        query = Query(("sentinel-2",), start="2025-07-31", end="2025-07-31")
        found = asked(server, "earth-search", "/v1", query)
    places = [(s.properties["grid:code"], s.quantity, s.datetime) for s in found.scenes]
    assert len(places) == len(set(places))
    assert found.duplicates
    for duplicate in found.duplicates:
        kept, (dropped, *_) = duplicate.kept, duplicate.dropped
        assert kept.properties["grid:code"] == dropped.properties["grid:code"]
        assert (kept.collection, dropped.collection) == ("sentinel-2-c1-l2a", "sentinel-2-l2a")
        assert duplicate.why == "preference"


def test_earth_search_states_an_offset_for_pixels_that_had_it_already() -> None:
    """boa_offset_applied with an offset of -0.1 beside it: the offset is 0; without the flag it is as stated."""
    flagged = by_host(recorded("sentinel-2-l2a"), "sentinel-cogs")[0]
    assert flagged["properties"]["earthsearch:boa_offset_applied"] is True
    assert flagged["assets"]["red"]["raster:bands"][0]["offset"] == -0.1
    assert scene_of(flagged, "earth-search").bands["B04"].offset == 0.0
    assert scene_of(recorded("sentinel-2-c1-l2a")[0], "earth-search").bands["B04"].offset == -0.1


def test_earth_search_lists_each_band_twice_as_cog_and_as_jp2() -> None:
    """`red` and `red-jp2` carry B04: the cloud-optimised file is taken."""
    raw = by_host(recorded("sentinel-2-l2a"), "sentinel-cogs")[0]
    assert "red-jp2" in raw["assets"]
    scene = scene_of(raw, "earth-search")
    assert {b.href.rsplit(".", 1)[1] for b in scene.bands.values()} == {"tif"}
    backwards = {**raw, "assets": dict(reversed(raw["assets"].items()))}
    assert scene_of(backwards, "earth-search").bands == scene.bands


def test_earth_search_calls_the_quality_layer_scl_in_small_letters() -> None:
    """`scl` has the role of data there: it becomes the sensor's quality layer."""
    scene = scene_of(recorded("sentinel-2-c1-l2a")[0], "earth-search")
    assert scene.quality["SCL"].href.endswith("/SCL.tif")
    assert len(scene.bands) == 12


def test_earth_search_gives_a_radar_scene_an_affine_that_it_does_not_have() -> None:
    """A GRD with proj:transform in degrees: placed by that it lies wrong, so the affine is not taken over."""
    raw = copy.deepcopy(recorded("sentinel-1-grd")[0])
    assert raw["properties"]["proj:transform"][0] == pytest.approx(2.7e-4, rel=0.01)
    raw["assets"]["vv"] = raw["assets"].pop("hh")
    scene = scene_of(raw, "earth-search")
    assert scene.geolocation == "radar-grid"
    assert (scene.bands["VV"].transform, scene.bands["VV"].crs, scene.bands["VV"].shape) == (None, None, None)


def test_two_assets_of_one_kind_for_one_band_are_refused_unless_they_are_one_file() -> None:
    """An asset listed twice: the same address counts once, another address is a contradiction."""
    raw = copy.deepcopy(recorded("sentinel-2-c1-l2a")[0])
    raw["assets"]["again"] = copy.deepcopy(raw["assets"]["red"])
    assert scene_of(raw, "earth-search").bands == scene_of(recorded("sentinel-2-c1-l2a")[0], "earth-search").bands
    raw["assets"]["again"]["href"] = "https://example.com/other.tif"
    with pytest.raises(MetadataError, match="two assets carry the band B04: red and again") as caught:
        scene_of(raw, "earth-search")
    assert raw["id"] in caught.value.item


def test_an_item_without_a_crs_is_refused_by_name() -> None:
    """Neither the item nor its assets say in which CRS the affine is."""
    raw = copy.deepcopy(recorded("sentinel-2-c1-l2a")[0])
    del raw["properties"]["proj:epsg"]
    with pytest.raises(MetadataError, match="names no CRS") as caught:
        scene_of(raw, "earth-search")
    assert raw["id"] in caught.value.item
    assert "proj:code" in caught.value.enough


def test_every_recorded_sentinel_2_and_landsat_item_becomes_a_scene_and_stays_as_it_was() -> None:
    """51 items of both providers: parsed, translated without touching the original, times in UTC."""
    count = 0
    for name in ("sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-2-l1c", "landsat-c2-l2"):
        for raw in recorded(name):
            before = copy.deepcopy(raw)
            scene = scene_of(raw, "anyone")
            assert isinstance(scene, Scene)
            assert raw == before
            assert scene.datetime.tzinfo == UTC
            assert scene.datetime == datetime.fromisoformat(raw["properties"]["datetime"])
            assert translated(raw, "anyone")["properties"]["ringmoe:provider"] == "anyone"
            count += 1
    assert count == 51


TESTED = {
    "the link to the next page holds the token and drops a filter": "earth_search_drops_the_question",
    "a radar scene in its own geometry is given an affine in degrees": "earth_search_gives_a_radar_scene_an_affine",
    "the count moves while paging through collections that still grow": "earth_search_states_a_count_that_moves",
    "the offset is stated for Sentinel-2 pixels that it was already applied to": "earth_search_states_an_offset",
    "one overpass lies in two collections": "earth_search_has_one_overpass_in_two_collections",
    "each band is listed twice, cloud-optimised and as JPEG 2000": "earth_search_lists_each_band_twice",
    "the quality layer is written scl and has the role of data": "earth_search_calls_the_quality_layer_scl",
    "radar scenes of one polarisation that the row does not have lie among the others": "earth_search_mixes_missions",
    "no count is stated": "planetary_computer_states_no_count",
    "tokens for its files expire within the hour": "a_token_is_kept_until_shortly_before_it_expires",
    "the platform is written Sentinel-2B, and the time is the datatake's, not the tile's": "computer_writes_platforms",
    "the true-colour image carries the names of the bands that it shows": "computer_names_bands_on_its_true_colour",
    "Sentinel-2 items say nothing of no-data, scale and offset": "planetary_computer_says_nothing_of_no_data",
    "Landsat bands are prefixed, and some products come without a temperature": "computer_prefixes_landsat_bands",
}
"""Each oddity that the table of providers names, and a part of the name of its test."""


def test_every_oddity_that_a_provider_is_said_to_have_is_tested() -> None:
    """The table of providers and the tests of this folder name the same ones."""
    assert set(TESTED) == {trap for provider in PROVIDERS.values() for trap in provider.traps}
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_13_search_*.py"))
    assert [name for name in TESTED.values() if f"{name}" not in tests.replace(f'"{name}"', "")] == []
