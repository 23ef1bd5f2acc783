"""Capella metadata: the extended JSON beside a channel's file, or in its tags, with a scale factor per channel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.metadata.raster import RasterHeader
from catalog.metadata.xml import finite, refuse, utc

TAG = "TIFFTAG_IMAGEDESCRIPTION"
RADIOMETRIES = ("beta_nought", "sigma_nought", "gamma_nought")


@dataclass(frozen=True)
class CapellaTags:
    """What the metadata of one channel say."""

    source: str
    """File, or file and tag, that they are from."""
    scale_factor: float
    """Amplitude per digital number: |scale_factor DN|^2 is the radiometry."""
    radiometry: str | None
    """beta_nought, sigma_nought or gamma_nought; None where the metadata say nothing."""
    polarisation: str | None
    """Transmit and receive, as in HH; None where the metadata say nothing."""
    shape: tuple[int, int] | None
    """Rows, columns; None where the metadata say nothing."""
    platform: str | None
    """STAC platform name; None where the metadata say nothing."""
    mode: str | None
    """As in stripmap or spotlight; None where the metadata say nothing."""
    start: datetime | None
    """UTC; None where the metadata say nothing."""
    stop: datetime | None
    """UTC; None where the metadata say nothing."""
    frequency_ghz: float | None
    """Radar centre frequency; None where the metadata say nothing."""
    nesz_db: float | None
    """Noise level, dB; None where the metadata say nothing."""


def extended_json(path: Path) -> Path | None:
    """The extended JSON beside a channel's file, by its name; None where there is none."""
    found = path.with_name(f"{path.stem}_extended.json")
    return found if found.exists() else None


def has_tags(header: RasterHeader) -> bool:
    """True where the file's description is Capella's JSON."""
    text = header.tags.get(TAG, "")
    return text.lstrip().startswith("{") and '"collect"' in text


def read_tags(header: RasterHeader) -> CapellaTags:
    """Parse the metadata of one channel: the extended JSON beside the file where there is one, else the file's tags.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    beside = extended_json(Path(header.href))
    if beside is None:
        return parse(Path(header.href), header.tags.get(TAG, ""), f"{TAG} ")
    try:
        text = beside.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(beside, "the file", f"cannot be read ({error})") from None
    return parse(beside, text, "")


def parse(path: Path, text: str, where: str) -> CapellaTags:
    """Parse the JSON of one channel.

    Parameters
    ----------
    path
        The file, named in every refusal.
    text
        JSON with the group `collect`.
    where
        Put before a field's name in a refusal, as the tag that holds the JSON.

    Raises
    ------
    MetadataError
        Naming the file and the field: JSON that is cut off, no factor, one that is not finite or not above 0.
    """
    field = f"{where}collect.image.scale_factor"
    try:
        collect: dict[str, Any] = json.loads(text)["collect"]
        image: dict[str, Any] = collect["image"]
        factor = finite(path, field, str(image["scale_factor"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refuse(path, field, f"cannot be read ({error!r})") from None
    if factor <= 0:
        raise refuse(path, field, f"{factor} is not above 0", "a factor above 0")
    radiometry = image.get("radiometry")
    if radiometry is not None and radiometry not in RADIOMETRIES:
        raise refuse(path, f"{where}collect.image.radiometry", f"is {radiometry}", f"one of {', '.join(RADIOMETRIES)}")
    radar: Mapping[str, Any] = collect.get("radar") or {}
    start, stop = (collect.get(f) for f in ("start_timestamp", "stop_timestamp"))
    frequency, nesz = radar.get("center_frequency"), image.get("nesz_peak")
    return CapellaTags(
        source=f"{where}{path.name}",
        scale_factor=factor,
        radiometry=radiometry,
        polarisation=_polarisation(radar),
        shape=_shape(path, where, image),
        platform=collect.get("platform"),
        mode=collect.get("mode"),
        start=utc(path, "collect.start_timestamp", start) if start else None,
        stop=utc(path, "collect.stop_timestamp", stop) if stop else None,
        frequency_ghz=None if frequency is None else finite(path, "radar.center_frequency", str(frequency)) / 1e9,
        nesz_db=None if nesz is None else finite(path, "image.nesz_peak", str(nesz)),
    )


def _shape(path: Path, where: str, image: Mapping[str, Any]) -> tuple[int, int] | None:
    if not {"rows", "columns"} <= set(image):
        return None
    rows, columns = (finite(path, f"{where}collect.image.{f}", str(image[f])) for f in ("rows", "columns"))
    return int(rows), int(columns)


def _polarisation(radar: Mapping[str, Any]) -> str | None:
    pair = f"{radar.get('transmit_polarization') or ''}{radar.get('receive_polarization') or ''}"
    return pair if len(pair) == 2 else None
