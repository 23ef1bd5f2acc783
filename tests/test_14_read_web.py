"""Files on the web: asked for again within bounds, cut ones noticed, failures listed, settings on every worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tiny_products as tiny
from affine import Affine
from dask.distributed import Client, LocalCluster
from file_server import Files, serving
from odc.geo.geobox import GeoBox

from catalog.errors import AssetError
from catalog.grid import Tile
from catalog.ingest import ingest
from catalog.ledger import Ledger
from catalog.patience import Patience
from catalog.read import attempts, read, read_quality, settings
from catalog.register import register
from catalog.scene import Scene
from catalog.signing import signed, use_signer
from catalog.units import Unit

GRID = GeoBox((40, 40), Affine(10.0, 0, tiny.ORIGIN[0], 0, -10.0, tiny.ORIGIN[1]), tiny.UTM)
SECRET = "sv=2025&sig=do-not-tell"


@pytest.fixture
def at_home(tmp_path: Path) -> Scene:
    """A tiny Sentinel-2 product on this disk, its bands large enough to be fetched in several ranges."""
    found = register(tiny.sentinel2(tmp_path / "p"), tmp_path / "out")
    return Scene.from_item(found.items[0])


@pytest.fixture
def files(at_home: Scene, tmp_path: Path) -> Iterator[Files]:
    """The scene's files, in one folder of a server, under their layers' names."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, source in (*at_home.bands.items(), *at_home.quality.items()):
        (folder / f"{name}.tif").write_bytes(Path(source.href).read_bytes())
    with serving(Files(folder)) as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in a test; GDAL's own retries are off, so that the attempts are ours."""
    monkeypatch.setattr(attempts, "PATIENCE", Patience(retries=3, first_wait_s=0.001))
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")


def away(scene: Scene, files: Files, query: str = "") -> Scene:
    """The scene as a provider serves it."""
    tail = f"?{query}" if query else ""
    bands, quality = (
        {k: replace(s, href=f"{files.url}/{k}.tif{tail}") for k, s in layers.items()}
        for layers in (scene.bands, scene.quality)
    )
    return replace(scene, bands=bands, quality=quality)


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_a_refusal_that_passes_costs_nothing_but_time(at_home: Scene, files: Files, engine: str) -> None:
    """Each file is refused twice by 503: what is read is what lies on the disk."""
    files.fate = lambda name, number: "503" if number < 2 else "ok"
    got = read(away(at_home, files), GRID, ["B04", "B08"], engine=engine)
    np.testing.assert_array_equal(got.values, read(at_home, GRID, ["B04", "B08"]).values)
    classes = read_quality(away(at_home, files), GRID, "SCL")
    np.testing.assert_array_equal(classes.values, read_quality(at_home, GRID, "SCL").values)


def test_attempts_are_bounded_and_all_that_failed_is_listed(at_home: Scene, files: Files) -> None:
    """One band is refused for ever, one is gone, one is there: both failures are in the error, with their attempts."""
    (files.folder / "B08.tif").unlink()
    files.fate = lambda name, number: "502" if name == "B04.tif" else "ok"
    scene = away(at_home, files, SECRET)
    with pytest.raises(AssetError, match="2 files") as refused:
        read(scene, GRID, ["B03", "B04", "B08"])
    found = {f.name: f for f in refused.value.failed}
    assert {k: f.attempts for k, f in found.items()} == {"B04": 4, "B08": 1}
    assert found["B04"].href == f"{files.url}/B04.tif"
    assert "502" in found["B04"].reason
    assert "404" in found["B08"].reason
    assert "do-not-tell" not in f"{refused.value} {refused.value!r} {refused.value.failed}"


@pytest.mark.parametrize("fate", ["half", "cut"])
def test_a_truncated_file_is_noticed(at_home: Scene, files: Files, fate: str) -> None:
    """A file that ends in its middle, or a body shorter than promised: an error that names it, never zeros or holes."""
    noise = np.random.default_rng(5).integers(1, 60_000, (512, 512)).astype("uint16")
    path = tiny.write_tif(files.folder / "B04.tif", noise)
    scene = away(at_home, files)
    large = {"B04": replace(scene.bands["B04"], shape=(512, 512))}
    scene = replace(scene, bands=large, geometry=_footprint(path))
    wide = GeoBox((512, 512), GRID.affine, GRID.crs)
    np.testing.assert_array_equal(read(scene, wide).values[0], noise)
    start = files.asked["B04.tif"]
    files.fate = lambda name, number: fate if number >= start else "ok"
    os.utime(path)
    fresh = replace(scene, bands={"B04": replace(large["B04"], href=f"{files.url}/B04.tif?again")})
    with pytest.raises(AssetError) as refused:
        read(fresh, wide)
    assert refused.value.failed[0].attempts == 4
    assert scene.id in refused.value.item


def _footprint(path: Path) -> dict[str, Any]:
    with rasterio.open(path) as src:
        return dict(GeoBox((src.height, src.width), src.transform, str(src.crs)).extent.to_crs("EPSG:4326").json)


def test_each_attempt_is_signed_anew(at_home: Scene, files: Files) -> None:
    """A signature that expired between two attempts is no failure."""
    given: list[str] = []

    def signer(href: str) -> str:
        given.append(href)
        return f"{href}?token={len(given)}"

    use_signer("test-provider", signer)
    files.fate = lambda name, number: "503" if number < 2 else "ok"
    scene = replace(away(at_home, files), properties={**at_home.properties, "ringmoe:provider": "test-provider"})
    read(scene, GRID, ["B04"])
    assert len(given) >= 2
    assert set(given) == {f"{files.url}/B04.tif"}


def test_no_signature_is_kept_in_a_cube_or_its_item(at_home: Scene, files: Files, tmp_path: Path) -> None:
    """A unit made of signed addresses: neither its store nor its item nor a failure's record holds the signature."""
    scene = away(at_home, files, SECRET)
    unit = Unit("sentinel-2", Tile("t", GRID), (scene,), "2025", None)
    ledger = Ledger(tmp_path / "published")
    ingest(unit, ledger)
    files.fate = lambda name, number: "404"
    gone = away(at_home, files, f"{SECRET}&again")  # another address: GDAL keeps what it has read of one
    with pytest.raises(AssetError):
        ingest(replace(unit, scenes=(gone,), tile=Tile("other", GRID[:20, :20])), ledger)
    written = [p for p in ledger.root.rglob("*") if p.is_file()]
    assert len(ledger.failures()) == 1
    assert len(written) > 5
    assert not [p for p in written if b"do-not-tell" in p.read_bytes()]


def _seen(names: list[str]) -> dict[str, Any]:
    """On a worker: what its environment and GDAL hold, and how it signs."""
    with rasterio.Env():
        return {
            **{k: os.environ.get(k) for k in names},
            "signed": signed("https://x/y.tif", {"ringmoe:provider": "cluster-test"}),
        }


class Stamp:
    """A signer with a credential of one's own."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, href: str) -> str:
        return f"{href}?key={self.key}"


def test_settings_and_credentials_reach_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster known by its address only, on workers there and on one that comes later; secrets are not shown."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "7")
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    use_signer("cluster-test", Stamp("do-not-tell"))
    names = ["AWS_SECRET_ACCESS_KEY", "GDAL_HTTP_MAX_RETRY", "GDAL_DISABLE_READDIR_ON_OPEN", "GDAL_HTTP_TIMEOUT"]
    without = dict.fromkeys(names, "")
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, env=without) as made,
        Client(made.scheduler_address) as client,
        rasterio.Env(GDAL_HTTP_TIMEOUT=33),
    ):
        carried = settings.carry(client)
        made.scale(2)
        client.wait_for_workers(2, timeout=120)
        found = client.run(_seen, names)
    assert len(found) == 2
    for seen in found.values():
        assert seen == {
            "AWS_SECRET_ACCESS_KEY": "do-not-tell",
            "GDAL_HTTP_MAX_RETRY": "7",
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
            "GDAL_HTTP_TIMEOUT": "33",
            "signed": "https://x/y.tif?key=do-not-tell",
        }
    assert "do-not-tell" not in f"{carried} {carried!r}"
    assert "AWS_SECRET_ACCESS_KEY" in str(carried)
