"""Bad input: an error in four parts and a code that is not 0, no traceback, and nothing that was finished is lost."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import tiny_products as tiny
from command_line import COMMAND, Run, copy_of, environment, own_prefect, ringmoe, start
from odc.geo.geom import Geometry
from own_scenes import search
from shapely.geometry import box

from catalog import sandbox
from catalog.ingest import ingest
from catalog.ledger import Ledger
from catalog.quantify import Reading
from catalog.search import dems
from catalog.serve import served
from catalog.units import plan
from flows import cli

TILE = ("--tile", "2560")
Refuse = Callable[..., tuple[int, str]]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Refuse]:
    """Call with the words of a command that must fail before a flow begins; gives its exit code and what it said."""
    before, thresholds = dict(os.environ), gc.get_threshold()
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ringmoe", *(str(w) for w in words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        caught = capsys.readouterr()
        return int(str(ended.value.code)), caught.out + caught.err

    yield run
    gc.set_threshold(*thresholds)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the products of a tiny sandbox, registered; take a copy."""
    home = tmp_path_factory.mktemp("earth") / "home"
    sandbox.write(home / "sandbox", size_px=64)
    heights = [word for path in sorted(home.glob("sandbox/dem/*.tif")) for word in ("--dem", str(path))]
    done = ringmoe(home, "register", str(home / "sandbox" / "products"), *heights)
    assert done.code == 0, done.said
    return home


def tells(said: str, *words: str) -> None:
    """The four parts are there, and these words; and nothing that only a programmer can read."""
    assert "Traceback" not in said, said
    assert "unexpected" not in said, said
    for part in ("error ", "  on ", "  enough ", "  to do "):
        assert part in said, (part, said)
    for word in words:
        assert word in said, (word, said)


ASKED: dict[str, tuple[list[str], list[str]]] = {
    "an area outside every scene": (["search", "--bbox", "20,40,20.5,40.5"], ["20", "--bbox"]),
    "a period with no scene": (["search", "--from", "2024-01-01", "--to", "2024-02-01"], ["2024-01-01", "2025-05-10"]),
    "no scene of that sensor": (["search", "--sensor", "landsat"], ["landsat"]),
    "an unknown sensor": (["search", "--sensor", "sputnik"], ["sputnik", "sentinel-2"]),
    "a box of three numbers": (["search", "--bbox", "11,46,12"], ["11,46,12", "west,south,east,north"]),
    "a box upside down": (["search", "--bbox", "12,47,11,46"], ["12"]),
    "a size that is none": (["prune", "--to", "big"], ["--to big", "9,6,3,1"]),
    "two sizes": (["prune", "--to", "1B", "--to", "25%"], ["--to was given twice", "9,6,3,1"]),
    "a criterion that is none": (["prune", "--criterion", "luck"], ["--criterion", "usage, norm, error"]),
    "a day that is none": (["search", "--from", "2025-02-30", "--to", "2025-03-01"], ["--from 2025-02-30"]),
    "a period that ends before it begins": (["search", "--from", "2025-06-01", "--to", "2025-05-01"], ["2025-06-01"]),
    "an area file that is not there": (["search", "--area", "nowhere.gpkg"], ["nowhere.gpkg"]),
    "experts that processes cannot share": (
        ["pretrain", "--processes", "2", "--experts", "3"],
        ["2 processes", "a divisor of 2"],
    ),
    "a word that is none": (["pretrain", "--recompute", "all"], ["--recompute", "'branches'"]),
    "an engine that is none": (["ingest", "--engine", "mule"], ["--engine"]),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_cannot_be_asked_is_refused(case: str, earth: Path, refuse: Refuse) -> None:
    """Areas, periods, sensors, boxes and files that cannot be: four parts that name the option and what there is."""
    words, named = ASKED[case]
    code, said = refuse(*words, "--home", earth)
    assert code not in (0, 70)
    tells(said, *named)
    assert all(word in said for word in named)
    assert "Traceback" not in said


def test_options_that_are_not_understood(refuse: Refuse, tmp_path: Path) -> None:
    """Unknown verbs and options, a number that is none, and a run of nothing say so and point to --help; code 2."""
    numbers = ["sandbox", "--size", "big"], ["pretrain", "--seed", "-1"]
    for words in (["fly"], ["search", "--colour", "red"], *numbers, ["run", "--home", tmp_path]):
        code, said = refuse(*words)
        assert code == 2, said
        assert "Traceback" not in said
        assert "rror" in said


def test_an_error_nobody_foresaw_is_told_as_it_is(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square brackets in what it says are not taken for colours: the message is whole, and the code 70."""

    def fail(**_: object) -> None:
        raise RuntimeError("no [/data/x.tif] and [type=int, input=x]")

    monkeypatch.setattr(cli, "app", fail)
    code, said = refuse("status")
    assert code == 70
    assert "unexpected RuntimeError: no [/data/x.tif] and [type=int, input=x]; --debug" in " ".join(said.split())


def test_options_of_the_other_mode_are_not_dropped_in_silence(refuse: Refuse, tmp_path: Path) -> None:
    """`run` says which options would do nothing on the sandbox, or on products."""
    for words, named in (
        (["--sandbox", "--steps", "3", "--train-bbox", "1,2,3,4"], ["--train-bbox", "--steps", "--sandbox"]),
        (["--products", tmp_path, "--size", "300"], ["--size", "--products"]),
    ):
        code, said = refuse("run", *words, "--home", tmp_path / "home")
        assert code == 2
        assert all(word in said for word in named), said


def test_a_home_without_scenes(refuse: Refuse, tmp_path: Path) -> None:
    """Nothing registered: it says where it looked and which verb to start with."""
    code, said = refuse("search", "--home", tmp_path / "empty")
    assert code == 3
    tells(said, "nothing is registered", str(tmp_path), "ringmoe register")


def test_a_folder_that_is_no_product(refuse: Refuse, tmp_path: Path) -> None:
    """Neither a metadata file nor tags: the folder is named, and the product beside it is registered all the same."""
    (tmp_path / "products" / "stray").mkdir(parents=True)
    tiny.write_tif(tmp_path / "products" / "stray" / "image.tif", tiny.ramp(8, 8), nodata=0)
    good = tiny.sentinel2(tmp_path / "products")
    code, said = refuse("register", tmp_path / "products" / "stray", "--home", tmp_path / "none")
    assert code == 1
    tells(said, "stray")
    code, said = refuse("register", tmp_path / "products" / "stray", good.parent, "--home", tmp_path / "some")
    assert code == 1
    tells(said, "stray", "could not be registered")
    assert len(list((tmp_path / "some").glob("scenes/sentinel-2*/*/*.json"))) == 1


def test_parcels_without_a_crs(refuse: Refuse, tmp_path: Path, earth: Path) -> None:
    """Polygons in a file that names no CRS, and a file without polygons, are refused by name."""
    gpd.GeoDataFrame({"id": [1]}, geometry=[box(0, 0, 1, 1)]).to_file(tmp_path / "bare.shp")
    code, said = refuse("map", "--parcels", tmp_path / "bare.shp", "--home", earth)
    assert code == 1
    tells(said, "bare.shp", "CRS")
    gpd.GeoDataFrame({"id": [1]}, geometry=[box(0, 0, 1, 1).centroid], crs=4326).to_file(tmp_path / "points.gpkg")
    code, said = refuse("map", "--parcels", tmp_path / "points.gpkg", "--home", earth)
    assert code == 1
    tells(said, "points.gpkg", "polygon")


def item(home: Path, collection: str, words: str) -> Path:
    (found,) = (p for p in home.glob(f"scenes/{collection}/*/*.json") if words in p.name)
    return found


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def elsewhere(content: dict[str, Any]) -> None:
    """The footprint 0.004 degrees, half its width, further east than the pixels."""
    content["geometry"]["coordinates"] = [[[x + 0.004, y] for x, y in r] for r in content["geometry"]["coordinates"]]
    content["bbox"] = [content["bbox"][0] + 0.004, content["bbox"][1], content["bbox"][2] + 0.004, content["bbox"][3]]


def other_zone(content: dict[str, Any]) -> None:
    for part in (content["properties"], *content["assets"].values()):
        if "proj:code" in part:
            part["proj:code"] = "EPSG:32633"


def other_place(content: dict[str, Any]) -> None:
    for asset in content["assets"].values():
        if "proj:transform" in asset:
            asset["proj:transform"][2] += 1000


def damage(home: Path) -> None:
    """A measurement is gone, another is cut in half; the CRS, the affine and the footprint of three items lie."""
    products = home / "sandbox" / "products"
    next(sorted(products.glob("S1A*"))[1].glob("measurement/*-vv-*")).unlink()
    images = sorted(products.glob("*_MUL/*.TIF"))
    images[0].write_bytes(images[0].read_bytes()[: images[0].stat().st_size // 2])
    rewrite(item(home, "worldview", images[1].stem), elsewhere)
    rewrite(item(home, "sentinel-2-l2a", "20250813T101031_N0511_R022_T32TQT"), other_zone)
    rewrite(item(home, "sentinel-2-l2a", "20250813T101031_N0511_R022_T33TTN"), other_place)


def published(home: Path) -> dict[str, str]:
    """Item of each cube to its checksum."""
    items = Ledger(home / "catalog").items("cubes")
    return {found["id"]: found["assets"]["cube"]["file:checksum"] for _, found in items}


def test_assets_and_items_that_lie_fail_alone_and_are_made_once_mended(earth: Path, tmp_path: Path) -> None:
    """Missing, truncated, wrong CRS, wrong affine, wrong footprint: each is told in full, all other cubes are made;
    when the causes are mended the same command makes the rest, and only that."""
    home = Path(shutil.copytree(earth, tmp_path / "home"))
    damage(home)
    failed = ringmoe(home, "ingest", *TILE)
    assert failed.code == 1
    causes = ["a file is missing", "cannot be read", "its CRS is EPSG:32632, the item says EPSG:32633", "its affine is"]
    tells(
        failed.said, *causes, "geometry reaches far beyond", "S1A_IW_GRDH", "fetch the file again", "made now are kept"
    )
    kept = published(home)
    assert {i.split("_")[0] for i in kept} == {"gaofen-3", "sentinel-1", "sentinel-2"}

    status = ringmoe(home, "status", "--json", "-")
    assert status.code == 0
    records = json.loads(status.out[status.out.index("\n{\n") :])["failed"]
    for record in records:
        assert record["unit"] not in kept
        for part in ("\n  on: ", "\n  enough would have been: ", "\n  what to do: "):
            assert part in record["reason"]
    assert {r["unit"].split("_")[0] for r in records} == {"sentinel-1", "sentinel-2", "worldview"}

    for name in ("sandbox", "scenes"):
        shutil.rmtree(home / name)
        shutil.copytree(earth / name, home / name)
    mended = ringmoe(home, "ingest", *TILE, "--json", str(tmp_path / "cubes.json"))
    assert mended.code == 0, mended.said
    cubes = json.loads((tmp_path / "cubes.json").read_text())
    asked = {c["id"]: c["checksum"] for c in cubes}
    fresh = {c["id"] for c in cubes if c["fresh"]}
    assert fresh.isdisjoint(kept)
    whole = {k: v for k, v in kept.items() if k in asked}  # not the cube of a scene that lay in another zone
    assert {k: v for k, v in asked.items() if k not in fresh} == whole
    assert len(whole) >= 4
    assert {r["unit"] for r in records} & set(asked) <= fresh


def test_a_model_of_another_contract(small_run: Run, tmp_path: Path) -> None:
    """Cubes of a sensor the model was not made for: the difference is named, and the catalogue is as it was."""
    home = copy_of(small_run.home, tmp_path / "home")
    items = sorted(p.name for p in home.glob("catalog/*/*/*.json"))
    failed = ringmoe(home, "infer", "--sensor", "worldview")
    assert failed.code == 1
    tells(failed.said, "has not learned the modality opt", "worldview", "choose another checkpoint")
    assert sorted(p.name for p in home.glob("catalog/*/*/*.json")) == items


def wait_for(home: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 600
    while not list(home.glob(pattern)):
        assert process.poll() is None, "the command ended before it was interrupted"
        assert time.monotonic() < end, f"no {pattern} after ten minutes"
        time.sleep(0.004)


def interrupt(process: subprocess.Popen[bytes], log: Path) -> str:
    """Ctrl-C as a terminal sends it, to all of a process group; gives what was said."""
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=300) == 130
    said = "".join(Path(f"{log}.{end}").read_text() for end in ("out", "err"))
    assert "Traceback" not in said, said
    assert "interrupted" in said
    assert "run the same command to go on" in said
    return said


def test_ctrl_c_while_cubes_are_made(earth: Path, tmp_path: Path) -> None:
    """Code 130 and one line; what was finished is found by the next run, which makes the rest."""
    home = Path(shutil.copytree(earth, tmp_path / "home"))
    process = start(home, "ingest", *TILE, log=tmp_path / "log")
    wait_for(home, "catalog/cubes/*/*.json", process)
    interrupt(process, tmp_path / "log")
    kept = published(home)
    assert kept
    again = ringmoe(home, "ingest", *TILE, "--json", str(tmp_path / "cubes.json"))
    assert again.code == 0, again.said
    found = {c["id"]: c for c in json.loads((tmp_path / "cubes.json").read_text())}
    assert len(found) > len(kept)
    assert all(not found[i]["fresh"] and found[i]["checksum"] == checksum for i, checksum in kept.items())


def test_ctrl_c_while_a_model_learns(small_run: Run, tmp_path: Path) -> None:
    """Code 130 and one line; no half model is published, what the attempt left is counted by status."""
    home = copy_of(small_run.home, tmp_path / "home")
    models = sorted(home.glob("catalog/models/*/*.json"))
    process = start(home, "pretrain", "--steps", "5000", log=tmp_path / "log")
    before = set(home.glob("catalog/models/*/attempt-*"))
    end = time.monotonic() + 600
    while not set(home.glob("catalog/models/*/attempt-*")) - before:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.004)
    time.sleep(2)
    interrupt(process, tmp_path / "log")
    assert sorted(home.glob("catalog/models/*/*.json")) == models
    status = ringmoe(home, "status", "--json", "-")
    assert len(json.loads(status.out[status.out.index("\n{\n") :])["unfinished"]) == 1


def make_cubes(home: Path, sensor: str) -> set[str]:
    """Cubes of a sensor as `ringmoe ingest` makes them, without Prefect; gives their ids."""
    with served(home / "scenes") as url:
        scenes = search(url, bbox=(11, 46, 13, 48), start="2025-05-01", end="2025-08-31", sensors=[sensor])
        heights = dems(url, bbox=(11, 46, 13, 48))
    area = Geometry(box(11, 46, 13, 48).__geo_interface__, "EPSG:4326")
    units = plan(scenes, area, "2025-05-01/2025-08-31", tile_m=2560.0, how=Reading(dems=heights))
    return {ingest(unit, Ledger(home / "catalog"))["id"] for unit in units}


FULL = """
set -e
mount -t tmpfs -o size=64m tiny "$DISK"
cp -r "$EARTH" "$DISK/home"
set +e
{ until ls -d "$DISK/home"/catalog/cubes/sentinel-*/attempt-1; do sleep 0.01; done; } >/dev/null 2>&1 \\
  && head -c 100000000 /dev/zero > "$DISK/filling" 2>/dev/null &
"$COMMAND" ingest --tile 2560 --home "$DISK/home"; echo "code $?"
wait
rm "$DISK/filling"
"$COMMAND" ingest --tile 2560 --home "$DISK/home" --json -; echo "code $?"
"""


def test_a_disk_that_fills_up(earth: Path, tmp_path: Path) -> None:
    """Code 4 and the words for it, whoever met it; with room again the same command finds what was finished."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = shutil.which("unshare")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tiny", str(disk)]
    if unshare is None or subprocess.run([unshare, "-Urm", *mount], check=False).returncode:
        pytest.skip("this machine lets us mount no small disk (unshare -Urm mount -t tmpfs)")
    home = Path(shutil.copytree(earth, tmp_path / "home"))
    finished = make_cubes(home, "gaofen-3")
    places = {"DISK": str(disk), "EARTH": str(home), "COMMAND": str(COMMAND), **own_prefect(disk / "home")}
    command = [unshare, "-Urm", "sh", "-c", FULL]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**places), check=False, timeout=1800)
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["code 4", "code 0"], done.stdout + done.stderr
    tells(done.stderr, "the disk is full", "free space or choose another home")
    cubes = json.loads(done.stdout[done.stdout.index("\n[\n") : done.stdout.rindex("]") + 1])
    assert finished == {c["id"] for c in cubes if c["id"].startswith("gaofen-3") and not c["fresh"]}
    assert any(c["fresh"] for c in cubes)


def test_a_disk_without_room_to_begin(refuse: Refuse, earth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run does not begin where its own records have no room."""
    usage = shutil.disk_usage(earth)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, said = refuse("ingest", *TILE, "--home", earth)
    assert code == 4
    tells(said, "the disk is full", str(earth))
