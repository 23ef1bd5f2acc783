"""Real Sentinel-2: sun angles against an independent ephemeris; the offset's resolver on real pixels and real items."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import tiny_products as tiny

from catalog import laws
from catalog.calibrate.floor import pixel_verdicts
from catalog.errors import CalibrationError
from catalog.formats.sentinel2_offset import claims_of, provider_rule
from catalog.metadata.sentinel2_angles import TileAngles, read_angles, sun_at
from catalog.register import register
from catalog.scene import Scene
from catalog.sensors import SENTINEL_2

REALDATA = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata"))
pytestmark = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"the real products are not at {REALDATA}")
BANDS = [b.name for b in SENTINEL_2.bands]
CENTRES = {b.name: b.centre_nm or 0.0 for b in SENTINEL_2.bands}
TEN = ["B02", "B03", "B04", "B08"]


@pytest.fixture(scope="module")
def wagl(tmp_path_factory: pytest.TempPathFactory) -> tuple[TileAngles, np.ndarray, np.ndarray, tuple[float, ...]]:
    """Angles of tile 48LWP by its XML, and zenith, azimuth and geotransform of wagl's 110 x 110."""
    h5py = pytest.importorskip("h5py")
    folder = REALDATA / "s2_angles_wagl"
    path = tmp_path_factory.mktemp("wagl") / "MTD_TL.xml"
    with zipfile.ZipFile(next(folder.glob("*.zip"))) as archive:
        path.write_bytes(archive.read(next(n for n in archive.namelist() if n.endswith("MTD_TL.xml"))))
    with h5py.File(next(folder.glob("*.h5"))) as file:
        group = next(iter(file.values()))["RES-GROUP-0/SATELLITE-SOLAR"]
        zenith, azimuth = (group[f"SOLAR-{k}"][:].astype(float) for k in ("ZENITH", "AZIMUTH"))
        place = tuple(float(v) for v in group["SOLAR-ZENITH"].attrs["geotransform"])
    return read_angles(path), zenith, azimuth, place


def test_sun_angles_agree_with_an_independent_ephemeris(
    wagl: tuple[TileAngles, np.ndarray, np.ndarray, tuple[float, ...]],
) -> None:
    """Zenith and azimuth between the 23 x 23 nodes lie within 0.05 degrees of wagl's on the grid's interior."""
    angles, zenith, azimuth, (left, dx, _, top, _, dy) = wagl
    rows, columns = zenith.shape
    x, y = left + dx * (np.arange(columns) + 0.5), top + dy * (np.arange(rows) + 0.5)
    ours = sun_at(angles, x[None, :], y[:, None])
    inner = (slice(1, -1), slice(1, -1))
    apart = (ours[1] - azimuth + 180) % 360 - 180
    assert np.abs(ours[0] - zenith)[inner].max() <= 0.05
    assert np.abs(apart)[inner].max() <= 0.05


def test_mean_sun_of_the_tile_is_the_mean_of_its_nodes(
    wagl: tuple[TileAngles, np.ndarray, np.ndarray, tuple[float, ...]],
) -> None:
    """48LWP: 40.928 degrees by metadata and nodes, 40.908 by wagl; 55JGF: 60.254 twice."""
    angles, zenith, *_ = wagl
    assert angles.mean_sun_deg[0] == pytest.approx(40.928, abs=5e-4)
    assert angles.sun_zenith_deg.mean() == pytest.approx(angles.mean_sun_deg[0], abs=1e-6)
    assert zenith.mean() == pytest.approx(40.908, abs=5e-4)
    other = read_angles(REALDATA / "s2_l1c_t55jgf_250m/metadata.xml")
    assert other.sun_zenith_deg.mean() == pytest.approx(other.mean_sun_deg[0], abs=1e-5)
    assert other.mean_sun_deg[0] == pytest.approx(60.254, abs=5e-4)
    assert len(other.mean_view_deg) == 13


def spain() -> dict[str, np.ndarray]:
    with rasterio.open(REALDATA / "sen1floods11_spain/S2/Spain_7370579_S2Hand.tif") as source:
        return dict(zip(BANDS, source.read().astype(float), strict=True))


def austria(first: int) -> dict[str, np.ndarray]:
    with rasterio.open(REALDATA / "ftw_s2_bitemporal/inference-img.tif") as source:
        return dict(zip(("B04", "B03", "B02", "B08"), source.read().astype(float)[first : first + 4], strict=True))


def germany() -> dict[str, np.ndarray]:
    h5py = pytest.importorskip("h5py")
    with h5py.File(REALDATA / "s2_l1c_dsen2/S2A_MSIL1C_20170527_T33UUB.mat") as file:
        fine, coarse = file["im10"][:][:, ::2, ::2].astype(float), file["im20"][:].astype(float)
    names = ("B05", "B06", "B07", "B8A", "B11", "B12")
    return dict(zip(TEN, fine, strict=True)) | dict(zip(names, coarse, strict=True))


def slovenia(number: int) -> dict[str, np.ndarray]:
    scenes = np.load(REALDATA / "eolearn_timeseries/REFERENCE_SCENES.npy")
    return dict(zip(BANDS, np.moveaxis(scenes[number], -1, 0) * 10_000.0, strict=True))


SCENES = {
    "Spain, level 1C": spain,
    "Austria, level 2A": lambda: austria(0),
    "Austria, another date": lambda: austria(4),
    "Germany, level 1C": germany,
    **{f"Slovenia, cloudy {k}": (lambda k=k: slovenia(k)) for k in range(5)},
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("subset", ["all", "no cirrus", "10 m"])
def test_real_pixels_are_never_judged_wrongly(name: str, subset: str) -> None:
    """As stored and with 1000 added: right or undecidable, by all bands, without the cirrus band, with four bands."""
    stored = {b: np.where(v == 0, np.nan, v) for b, v in SCENES[name]().items()}
    bands = {"all": list(stored), "no cirrus": [b for b in stored if b != "B10"], "10 m": TEN}[subset]
    for offset in (0.0, 1000.0):
        samples = {b: stored[b] + offset for b in bands}
        found = pixel_verdicts(samples, CENTRES, dict.fromkeys(bands, 1000.0))
        assert {v.offset_present for v in found.values()} <= {None, offset > 0}
        if "B10" in bands:
            assert {v.offset_present for v in found.values()} == {offset > 0}


def test_a_real_tile_of_baseline_0206_is_certain_of_its_offset(tmp_path: Path) -> None:
    """55JGF of 2018: tile XML of 02.06 and the pixels agree on 0; with 1000 added to its pixels they contradict."""
    made = register([REALDATA / "s2_l1c_t55jgf_250m"], tmp_path / "scenes")
    scene = Scene.from_item(made.items[0])
    record = laws.constants_of(scene, BANDS).record
    assert set(record["offset_dn"].values()) == {0.0}
    assert (record["offset_confidence"], record["offset_finding"]) == ("certain", "agreed")
    bands = {}
    for name, source in scene.bands.items():
        with rasterio.open(source.href) as file:
            dn = file.read(1)
        raised = np.where(dn > 0, dn + 1000, 0).astype(np.uint16)
        bands[name] = dataclasses.replace(source, href=str(tiny.write_tif(tmp_path / f"{name}.tif", raised)))
    raised_scene = dataclasses.replace(scene, bands=bands)
    with pytest.raises(CalibrationError, match="still hold"):
        laws.constants_of(raised_scene, BANDS)
    settled = laws.constants_of(raised_scene, BANDS, "trust-pixels").record
    assert set(settled["offset_dn"].values()) == {-1000.0}


def first_item(collection: str, start: str) -> Scene:
    """A recorded item of a provider as a scene; links that pystac would follow are left out."""
    features = json.loads((REALDATA / f"stac_items/extracted/{collection}.json").read_text())["features"]
    known = next(f for f in features if f["id"].startswith(start) and "assets" in f and "properties" in f)
    item = pystac.Item.from_dict(known | {"links": []})
    item.properties.setdefault("processing:level", "L1C" if collection.endswith("l1c") else "L2A")
    return Scene.from_item(item)


@pytest.mark.parametrize(
    ("collection", "start", "provider", "offset", "sources"),
    [
        ("sentinel-2-c1-l2a", "S2B_T20EPT", "Earth Search", -1000.0, ["item: raster:offset", "item: baseline 05.11"]),
        ("sentinel-2-l1c", "S2B_20EPT", None, -1000.0, ["item: raster:offset", "item: baseline 05.11"]),
        ("sentinel-2-l2a", "S2B_20EPT", "Earth Search", 0.0, ["item: earthsearch:boa_offset_applied true"]),
        ("sentinel-2-l2a", "S2A_MSIL2A_20190101", "Planetary Computer", 0.0, ["item: baseline 02.12"]),
    ],
)
def test_recorded_items_of_providers_say_what_their_rule_means(
    collection: str, start: str, provider: str | None, offset: float, sources: list[str]
) -> None:
    """raster:offset -0.1 is a claim in one Earth Search collection, and ESA's number repeated in the other."""
    scene = first_item(collection, start)
    heard, rule = claims_of(scene), provider_rule(scene)
    assert (rule and rule.provider) == provider
    assert [c.source.split(" (")[0] for c in heard.claims] == sources
    assert {v for c in heard.claims for b, v in c.offset_dn.items() if b in scene.bands} == {offset}
    repeated = any("repeats from ESA's product" in n for n in heard.notes)
    assert repeated == (offset == 0.0 and provider == "Earth Search")
