"""A Sen1Floods11 chip: Sentinel-1 in decibels, Sentinel-2 top-of-atmosphere, and a hand-drawn water label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from catalog.calibrate.constants import Decibels
from catalog.errors import MetadataError
from catalog.formats.product import Product, ProductFile
from catalog.metadata.sentinel2 import BAND_NAMES, QUANTIFICATION
from catalog.metadata.xml import refuse
from catalog.scene import Scene
from catalog.sensors import SENTINEL_1, SENTINEL_2

RECORD = "Sen1Floods11_Metadata.geojson"
LABEL_CLASSES = {0: "not water", 1: "water"}
LABEL_NODATA = -1


def products(folder: Path) -> tuple[Product, ...]:
    """The chips of a folder with the data set's metadata record; () where the folder holds no chip.

    Raises
    ------
    MetadataError
        When the record is missing or knows no such place: the files themselves hold no date.
    """
    chips = _files(folder, "S1Hand") + _files(folder, "S2Hand")
    if not chips:
        return ()
    record = folder / RECORD
    return tuple(_chip(path, record, _place(record, path.stem.split("_")[0])) for path in chips)


def calibration(scene: Scene, bands: Sequence[str]) -> Decibels | None:
    """Radar chips are decibels; of optical ones the item holds scale and offset."""
    return Decibels("the data set's documentation: dB") if scene.encoding == "db" else None


def labels_of(folder: Path) -> tuple[tuple[Path, datetime, datetime], ...]:
    """The hand labels of a folder with the period of the Sentinel-1 scene they were drawn on."""
    record = folder / RECORD
    found = _files(folder, "LabelHand")
    return tuple((p, *_day(record, _place(record, p.stem.split("_")[0]), "s1_date")) for p in found)


def _files(folder: Path, kind: str) -> list[Path]:
    """In the folder or one below, no deeper: the data set keeps each kind in a folder of its own."""
    return sorted(p for depth in ("", "*/") for p in folder.glob(f"{depth}*_{kind}.tif"))


def _chip(path: Path, record: Path, place: Mapping[str, Any]) -> Product:
    radar = path.stem.endswith("_S1Hand")
    start, stop = _day(record, place, "s1_date" if radar else "s2_date")
    names = ("VV", "VH") if radar else BAND_NAMES
    sensor = SENTINEL_1 if radar else SENTINEL_2
    orbit = {"sat:relative_orbit": int(place["rel_orbit_num"]), "sat:orbit_state": str(place["orbit"]).lower()}
    acquisition = {
        "sar:instrument_mode": "IW",
        "sar:frequency_band": "C",
        "sar:center_frequency": sensor.bands[0].frequency_ghz,
        "sar:polarizations": list(names),
        "sar:product_type": "GRD",
        **orbit,
    }
    return Product(
        id=path.stem,
        sensor=sensor.id,
        level="GRD" if radar else "L1C",
        platform="sentinel-1" if radar else "sentinel-2",
        instruments=("c-sar",) if radar else ("msi",),
        start=start,
        stop=stop,
        files=(
            ProductFile(
                "image",
                path,
                names,
                scale={} if radar else dict.fromkeys(names, 1.0 / QUANTIFICATION),
                offset={} if radar else dict.fromkeys(names, 0.0),
                gsd_m=10.0,
            ),
        ),
        metadata={"record": record},
        geolocation="affine",
        encoding="db" if radar else "dn",
        properties={
            **(acquisition if radar else {}),
            "ringmoe:datetime_source": f"{'s1_date' if radar else 's2_date'} of {RECORD}, a day without a time",
            **({} if radar else {"ringmoe:offset_source": "the data set's documentation: reflectance times 10000"}),
        },
    )


def _place(record: Path, location: str) -> Mapping[str, Any]:
    try:
        features = json.loads(record.read_text("utf-8"))["features"]
    except OSError:
        raise MetadataError(
            "the chips hold no date and the data set's record is missing",
            item=str(record),
            enough=f"{RECORD} in the chips' folder",
            todo="fetch it from the data set's repository",
        ) from None
    except (ValueError, KeyError) as error:
        raise refuse(record, "features", f"cannot be read ({error!r})") from None
    for feature in features:
        if feature["properties"].get("location") == location:
            found: Mapping[str, Any] = feature["properties"]
            return found
    raise refuse(record, f"location {location}", "is missing", "a feature of the chip's location")


def _day(record: Path, place: Mapping[str, Any], field: str) -> tuple[datetime, datetime]:
    try:
        start = datetime.strptime(str(place[field]), "%Y/%m/%d").replace(tzinfo=UTC)
    except (KeyError, ValueError) as error:
        raise refuse(record, field, f"is no day ({error!r})", "a day as in 2019/09/17") from None
    return start, start + timedelta(days=1, seconds=-1)
