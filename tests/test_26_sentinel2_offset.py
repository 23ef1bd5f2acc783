"""Sentinel-2's offset: who is asked, what the pixels allow, what a contradiction becomes; the record arrives."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import offset_cases as bench
import offset_scenes as scenes
import pystac
import pytest
import tiny_products as tiny
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from typer.testing import CliRunner

from catalog import cube, laws
from catalog.calibrate.floor import LEAST_PIXELS, PixelVerdict, pixel_verdicts
from catalog.calibrate.offset import Claim, settle, steps_of, weigh
from catalog.errors import CalibrationError, CatalogError, MetadataError
from catalog.formats.sentinel2 import resolve_offset
from catalog.formats.sentinel2_offset import RULES, claims_of, provider_rule, verdicts_of
from catalog.ingest import ingest
from catalog.ledger import Ledger
from catalog.metadata import sentinel2
from catalog.publish import lonlat
from catalog.quantify import Reading
from catalog.scene import BandSource, Scene
from catalog.sensors import SENSORS
from catalog.units import plan

CENTRES = {b.name: b.centre_nm or 0.0 for b in SENSORS["sentinel-2"].bands}
STEP = dict.fromkeys(scenes.BANDS, 1000.0)
YES, NO, OPEN = (PixelVerdict(state, "seen") for state in (True, False, None))


def numbers(cover: Mapping[str, float], offset: float) -> dict[str, np.ndarray]:
    """Digital numbers of a surface, so much above reflectance times 10000."""
    return {b: np.round(v * 10_000) + offset for b, v in scenes.surface(cover).items()}


def states(samples: Mapping[str, np.ndarray]) -> set[bool | None]:
    return {v.offset_present for v in pixel_verdicts(samples, CENTRES, STEP).values()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {row["case"]: row for row in bench.run_cases(tmp_path_factory.mktemp("cases"))[2]}


@pytest.mark.parametrize("name", [c.name for c in bench.CASES])
def test_every_contradiction_is_classified_settled_and_recorded(name: str, rows: dict[str, dict[str, Any]]) -> None:
    """Finding, refusal by default, offset by policy, confidence and reason are as the case says."""
    assert rows[name]["right"], rows[name]


def test_more_than_twelve_items_contradict_themselves(rows: dict[str, dict[str, Any]]) -> None:
    """The bench has at least twelve cases, and garbage in a baseline is refused by item and field."""
    assert len(rows) >= 12
    assert all(row["right"] for row in rows.values())


@pytest.mark.parametrize("cover", ["LAND", "green", "lake"])
@pytest.mark.parametrize("seed", range(4))
def test_pixels_tell_where_water_shadow_or_leaves_are(cover: str, seed: int) -> None:
    """Any scene with water or leaves says which of the two hypotheses holds, in every band."""
    shares = {"LAND": scenes.LAND, "green": {"forest": 0.6, "crop": 0.4}, "lake": {"water": 0.3, "soil": 0.7}}[cover]
    rho = scenes.surface(shares, seed)
    assert states({b: v * 10_000 for b, v in rho.items()}) == {False}
    assert states({b: v * 10_000 + 1000 for b, v in rho.items()}) == {True}


@pytest.mark.parametrize(
    "cover", [{"sand": 1.0}, scenes.DESERT, scenes.LAVA, {"cloud": 1.0}, {"soil": 0.6, "town": 0.4}]
)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_bright_pixels_are_never_judged_wrongly(cover: dict[str, float], offset: float) -> None:
    """Desert, lava, cloud and bare soil are undecidable or right, never wrong."""
    assert states(numbers(cover, offset)) <= {None, offset > 0}


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ("dark rock, brighter towards the infrared", {"B03": 0.09, "B04": 0.105, "B11": 0.125, "B12": 0.115}),
        ("haze over water", {"B03": 0.19, "B04": 0.17, "B11": 0.15, "B12": 0.14}),
        ("leaves under a veil", {"B03": 0.195, "B04": 0.19, "B08": 0.50}),
        ("greyish green roofs", {"B03": 0.135, "B04": 0.13, "B08": 0.20}),
        ("dim soil", {"B03": 0.07, "B04": 0.09, "B11": 0.2, "B12": 0.18}),
    ],
)
def test_what_resembles_a_floor_is_none(what: str, field: dict[str, float]) -> None:
    """Without an offset these lie about where one would put water or leaves; the spectrum tells them apart."""
    rng = np.random.default_rng(1)
    samples = {b: np.round(v * 10_000 + 20 * rng.standard_normal((100, 100))) for b, v in field.items()}
    assert states(samples) == {None}, what


def test_few_pixels_are_no_statistic() -> None:
    """Of fewer than 4096 pixels nothing is said, however dark they are."""
    side = 63
    assert side**2 + 2 * side + 1 == LEAST_PIXELS
    found = pixel_verdicts({"B04": np.full((side, side), 200.0)}, CENTRES, {"B04": 1000.0})
    assert found["B04"].offset_present is None
    assert f"{side * side} valid pixels" in found["B04"].reason


def test_cirrus_band_tells_even_over_desert() -> None:
    """At level 1C the cirrus band sees no ground: 10 means no offset, 1010 means one, over any surface."""
    for offset in (0.0, 1000.0):
        sand = numbers({"sand": 1.0}, offset) | {"B10": np.full((scenes.SIDE, scenes.SIDE), 10.0 + offset)}
        found = pixel_verdicts(sand, CENTRES, STEP | {"B10": 1000.0})
        assert {v.offset_present for v in found.values()} == {offset > 0}


def test_claims_are_heard_in_order_and_a_date_is_none(tmp_path: Path) -> None:
    """XML before tile, raster:offset before the item's baseline; the same claims whatever the date."""
    case = bench.Case(
        "all",
        -1000.0,
        "agreed",
        product=("05.10", -1000.0),
        tile="03.01",
        raster_dn=-1000.0,
        properties={"processing:version": "05.10"},
    )
    scene = bench.scene_of(case, tmp_path)
    sources = [c.source.split(" of ")[0].split(":")[0] for c in claims_of(scene).claims]
    assert sources == ["BOA_ADD_OFFSET", "baseline 03.01 (TILE_ID", "item", "item"]
    for year in (2016, 2023):
        moved = dataclasses.replace(scene, datetime=scene.datetime.replace(year=year))
        assert claims_of(moved) == claims_of(scene)


def test_providers_are_known_by_address_and_each_rule_links_its_source() -> None:
    """Collections of one name differ by provider; a rule without a link is none."""
    assert all(rule.link.startswith("https://github.com/") for rule in RULES)
    plain = bench.scene("x", {}, {}, bench.Case("x", 0.0, ""))
    assert provider_rule(plain) is None
    known = {
        "Planetary Computer": "https://planetarycomputer.microsoft.com/api/x",
        "Earth Search": "https://earth-search.aws.element84.com/v1/x",
        "Copernicus Data Space": "https://stac.dataspace.copernicus.eu/v1/x",
    }
    for name, href in known.items():
        rule = provider_rule(dataclasses.replace(plain, href=href))
        assert rule is not None
        assert rule.provider == name


def test_weighing_knows_no_policy_and_settling_no_metadata() -> None:
    """Three voices of one band: first claim, other claim, pixels; each policy takes what its name says."""
    claims = (Claim("XML", {"B04": -1000.0}), Claim("item", {"B04": 0.0}))
    for seen, by_pixels in ((YES, -1000.0), (NO, 0.0)):
        found = weigh(claims, {"B04": seen}, ["B04"])
        assert found.finding == "metadata against metadata"
        assert settle(found, "trust-product", "x").offset_dn == {"B04": -1000.0}
        assert settle(found, "trust-pixels", "x").offset_dn == {"B04": by_pixels}
        with pytest.raises(CalibrationError, match="cannot all be true"):
            settle(found, "error", "x")
    blind = weigh(claims, {"B04": OPEN}, ["B04"])
    assert settle(blind, "trust-product", "x").confidence == "undecidable"
    for policy in ("error", "trust-pixels"):
        with pytest.raises(CalibrationError):
            settle(blind, policy, "x")  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="no policy"):
        settle(blind, "guess", "x")  # type: ignore[arg-type]


def test_steps_follow_the_claims_and_uncertainty_follows_the_step() -> None:
    """An offset of -1200 is asked for as 1200, and an unconfirmed one may be wrong by as much."""
    claims = (Claim("XML", {"B04": -1200.0}),)
    assert steps_of(claims, ["B04", "B08"]) == {"B04": 1200.0, "B08": 1000.0}
    found = settle(weigh(claims, {"B04": OPEN}, ["B04"]), "error", "x")
    record = found.record(["B04"], 10_000.0)
    assert (record["offset_confidence"], record["offset_uncertainty"]) == ("undecidable", {"B04": 0.12})
    sure = settle(weigh(claims, {"B04": YES}, ["B04"]), "error", "x").record(["B04"], 10_000.0)
    assert (sure["offset_confidence"], sure["offset_uncertainty"]) == ("certain", {"B04": 0.0})


def test_a_contradiction_names_item_claims_and_ways_out(tmp_path: Path) -> None:
    """What a scientist reads: which scene, who says what, which options there are; it survives a worker's pickle."""
    with pytest.raises(CalibrationError) as refused:
        laws.constants_of(bench.scene_of(bench.CASES[0], tmp_path), scenes.BANDS)
    error = pickle.loads(pickle.dumps(refused.value))
    assert error.item == "S2 flag false, offset already taken off"
    for part in ("05.11", "-1000", "no longer hold", "B04"):
        assert part in error.what
    assert "--offset-policy trust-product" in error.todo
    assert "--offset-policy trust-pixels" in error.todo


def test_a_subset_of_bands_is_judged_by_all(tmp_path: Path) -> None:
    """Asked for near infrared alone, which cannot tell over land, the other bands still do."""
    found = resolve_offset(bench.scene_of(bench.CASES[0], tmp_path), ["B8A"], "trust-pixels")
    assert found is not None
    assert dict(found.offset) == {"B8A": 0.0}
    assert list(found.record["offset_dn"]) == ["B8A"]


def test_rims_beside_no_data_do_not_count(tmp_path: Path) -> None:
    """Decimation mixes edges with no-data: a rim of small numbers around a hole is no sign of a missing offset."""
    case = bench.Case("rim", -1000.0, "agreed", product=("05.10", -1000.0))
    scene = bench.scene_of(case, tmp_path)
    for source in scene.bands.values():
        dn = np.round(scenes.surface(scenes.LAND)[source.band] * 10_000 + 1000).astype(np.uint16)
        dn[40:120, 40:120] = 300
        dn[42:118, 42:118] = 0
        tiny.write_tif(Path(source.href), dn)
    heard = claims_of(scene)
    found = verdicts_of(scene, heard.claims, heard.quantification)
    assert {v.offset_present for v in found.values()} == {True}


BAD = {
    "truncated XML": (lambda p: p.write_bytes(p.read_bytes()[:400]), "cut off"),
    "zero quantification": (lambda p: scenes.product_xml(p, "05.10", -1000.0, scale="0"), "BOA_QUANTIFICATION_VALUE"),
    "NaN quantification": (lambda p: scenes.product_xml(p, "05.10", -1000.0, scale="nan"), "BOA_QUANTIFICATION_VALUE"),
    "no quantification": (lambda p: scenes.product_xml(p, "05.10", -1000.0, scale=""), "BOA_QUANTIFICATION_VALUE"),
    "garbled baseline": (lambda p: scenes.product_xml(p, "five", -1000.0), "PROCESSING_BASELINE"),
    "unknown baseline": (lambda p: scenes.product_xml(p, "07.00", None), r"baseline 07\.00"),
    "missing list": (lambda p: scenes.product_xml(p, "05.10", None), "BOA_ADD_OFFSET"),
    "gone": (lambda p: p.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_damaged_product_xml_is_refused_by_file_and_field(kind: str, tmp_path: Path) -> None:
    """Each names the file and the field; none falls back on another source in silence."""
    spoil, field = BAD[kind]
    scene = bench.scene_of(bench.Case("bad", -1000.0, "", product=("05.10", -1000.0), tile="05.10"), tmp_path)
    spoil(Path(scene.metadata["product"]))
    with pytest.raises(MetadataError, match=field) as refused:
        laws.constants_of(scene, scenes.BANDS, "trust-pixels")
    assert "MTD_MSIL2A.xml" in refused.value.item


def test_a_tile_of_a_baseline_not_yet_known_is_refused(tmp_path: Path) -> None:
    """N07.00 without a product XML: nobody can say whether its offset is still ESA's; at registering and after."""
    scene = bench.scene_of(bench.Case("new", -1000.0, "", tile="07.00"), tmp_path)
    with pytest.raises(MetadataError, match=r"07\.00"):
        laws.constants_of(scene, scenes.BANDS, "trust-pixels")
    with pytest.raises(MetadataError, match=r"07\.00"):
        sentinel2.radiometry(None, sentinel2.read_tile(Path(scene.metadata["tile"])))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scale": 0.0, "offset": 0.0}, "raster:scale"),
        ({"scale": float("nan"), "offset": 0.0}, "raster:scale"),
        ({"scale": 1e-4, "offset": float("nan")}, "raster:offset"),
        ({"scale": 2e-4, "offset": -0.1}, "two quantifications"),
    ],
)
def test_bad_numbers_of_the_item_are_refused_by_field(changes: dict[str, Any], field: str, tmp_path: Path) -> None:
    """A scale that is zero or not a number, an offset that is none, a scale other than the product's."""
    scene = bench.scene_of(bench.Case("bad item", -1000.0, "", product=("05.10", -1000.0)), tmp_path)
    bands = scene.bands | {"B04": dataclasses.replace(scene.bands["B04"], **changes)}
    with pytest.raises(CalibrationError, match=field) as refused:
        laws.constants_of(dataclasses.replace(scene, bands=bands), scenes.BANDS)
    assert "bad item" in refused.value.item


def test_a_flag_that_is_no_flag_is_refused(tmp_path: Path) -> None:
    """boa_offset_applied "yes" is neither true nor false."""
    scene = bench.scene_of(bench.Case("flag", 0.0, "", properties={"earthsearch:boa_offset_applied": "yes"}), tmp_path)
    with pytest.raises(MetadataError, match="boa_offset_applied"):
        claims_of(scene)


def test_older_raster_bands_of_an_item_are_read(tmp_path: Path) -> None:
    """raster:bands[0] of STAC 1.0 gives scale, offset, no-data and type of a band; the newer fields come first."""
    fields = {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}]}
    item = pystac.Item(
        "old",
        {"type": "Point", "coordinates": [11, 46]},
        [11, 46, 11, 46],
        bench.dt.datetime(2024, 6, 1),
        {"platform": "sentinel-2a", "processing:level": "L2A"},
    )
    bands = {"eo:bands": [{"name": "B04", "common_name": "red"}]}
    item.add_asset("red", pystac.Asset("/x/B04.tif", roles=["data", "reflectance"], extra_fields=fields | bands))
    band = Scene.from_item(item).bands["B04"]
    assert (band.scale, band.offset, band.nodata, band.dtype) == (1e-4, -0.1, 0.0, "uint16")
    item.assets["red"].extra_fields["raster:offset"] = 0.0
    assert Scene.from_item(item).bands["B04"].offset == 0.0


def placed(case: bench.Case, folder: Path) -> Scene:
    """A case's scene with its place on the ground."""
    scene = bench.scene_of(case, folder)
    grid = GeoBox((scenes.SIDE, scenes.SIDE), Affine(10.0, 0, tiny.ORIGIN[0], 0, -10.0, tiny.ORIGIN[1]), tiny.UTM)
    place = {"shape": tuple(grid.shape), "transform": tuple(grid.affine)[:6], "crs": tiny.UTM}
    bands: dict[str, BandSource] = {b: dataclasses.replace(s, **place) for b, s in scene.bands.items()}
    return dataclasses.replace(
        scene, bands=bands, geometry=lonlat(grid.extent), bbox=grid.geographic_extent.boundingbox.bbox
    )


def test_policy_and_record_reach_cube_and_item(tmp_path: Path) -> None:
    """A contradiction stops the unit; under a policy finding, offset, source and evidence stand in cube and item."""
    case = dataclasses.replace(bench.CASES[10], name="harmonised")
    scene = placed(case, tmp_path / "scene")
    area, ledger = Geometry(dict(scene.geometry), "EPSG:4326"), Ledger(tmp_path / "published")
    (strict,) = plan([scene], area, "2024", tile_m=1280.0)[:1]
    with pytest.raises(CalibrationError, match="no longer hold"):
        ingest(strict, ledger)
    units = {
        p: plan([scene], area, "2024", tile_m=1280.0, how=Reading(offset_policy=p))[0]
        for p in ("trust-product", "trust-pixels")
    }
    assert len({strict.id, *(u.id for u in units.values())}) == 3
    made = {p: ingest(u, ledger) for p, u in units.items()}
    means = {}
    for policy, item in made.items():
        path = ledger.item_path("cubes", units[policy].item_id)
        item = json.loads(path.read_text())
        opened = cube.open(path.parent / item["assets"]["cube"]["href"])
        for record in (item["properties"]["ringmoe:provenance"], opened.attrs["provenance"]):
            told = record[scene.id]
            assert told["offset_policy"] == policy
            assert told["offset_finding"] == "pixels against metadata"
            assert told["offset_confidence"] == ("likely" if policy == "trust-pixels" else "undecidable")
            assert set(told["offset_uncertainty"].values()) == {0.1}
            assert any("BOA_ADD_OFFSET of MTD_MSIL2A.xml: -1000" in e for e in told["offset_evidence"])
            assert any("no offset left" in e for e in told["offset_evidence"])
        means[policy] = float(opened["data"].mean())
    assert means["trust-pixels"] - means["trust-product"] == pytest.approx(0.1, abs=1e-6)


def test_the_command_line_takes_a_policy_and_refuses_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--offset-policy reaches the settings and what flows are told; an unknown one names what there is."""
    from flows import cli
    from flows.refs import Where
    from flows.verbs import options

    monkeypatch.setattr(options, "prepare", lambda settings, debug: None)  # else this process's environment changes
    assert Where.of(options.settings_of(tmp_path, "trust-pixels")).offset_policy == "trust-pixels"
    assert Where.of(options.settings_of(tmp_path)).offset_policy == "error"
    result = CliRunner().invoke(cli.app, ["ingest", "--home", str(tmp_path), "--offset-policy", "guess"])
    assert result.exit_code != 0
    assert "trust-product" in str(result.exception)


def test_errors_are_of_the_family() -> None:
    """Whoever catches CatalogError catches these."""
    assert issubclass(CalibrationError, CatalogError)
