"""Capella TIFF tags: the extended JSON in TIFFTAG_IMAGEDESCRIPTION with a scale factor per channel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.metadata.raster import RasterHeader
from catalog.metadata.xml import finite, refuse, utc

TAG = "TIFFTAG_IMAGEDESCRIPTION"


@dataclass(frozen=True)
class CapellaTags:
    """What the tags of one channel's file say."""

    scale_factor: float
    """Amplitude per digital number: sigma nought = |scale_factor DN|^2."""
    platform: str | None
    """STAC platform name; None where the tags say nothing."""
    start: datetime | None
    """UTC; None where the tags say nothing."""
    stop: datetime | None
    """UTC; None where the tags say nothing."""
    frequency_ghz: float | None
    """Radar centre frequency; None where the tags say nothing."""


def has_tags(header: RasterHeader) -> bool:
    """True where the file's description is Capella's JSON."""
    text = header.tags.get(TAG, "")
    return text.lstrip().startswith("{") and '"collect"' in text


def read_tags(header: RasterHeader) -> CapellaTags:
    """Parse the tags of one channel's file.

    Raises
    ------
    MetadataError
        Naming the file and the field that is missing or wrong.
    """
    path = Path(header.href)
    try:
        collect: dict[str, Any] = json.loads(header.tags.get(TAG, ""))["collect"]
        scale = collect["image"]["scale_factor"]
    except (ValueError, KeyError, TypeError) as error:
        raise refuse(path, f"{TAG} collect.image.scale_factor", f"cannot be read ({error!r})") from None
    factor = finite(path, f"{TAG} collect.image.scale_factor", str(scale))
    if factor <= 0:
        raise refuse(path, f"{TAG} collect.image.scale_factor", f"{factor} is not above 0", "a factor above 0")
    start, stop = (collect.get(field) for field in ("start_timestamp", "stop_timestamp"))
    frequency = (collect.get("radar") or {}).get("center_frequency")
    return CapellaTags(
        scale_factor=factor,
        platform=collect.get("platform"),
        start=utc(path, "collect.start_timestamp", start) if start else None,
        stop=utc(path, "collect.stop_timestamp", stop) if stop else None,
        frequency_ghz=None if frequency is None else finite(path, "radar.center_frequency", str(frequency)) / 1e9,
    )
