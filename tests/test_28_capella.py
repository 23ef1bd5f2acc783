"""Capella: dates, a factor per channel, a rotated affine that is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
import tiny_capella as tiny

from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene


def test_capella_dates_come_from_tags_or_a_recorded_campaign(tmp_path: Path) -> None:
    """A time in the tags is used; without one, and away from any campaign, the product is refused."""
    dated = tiny.capella(tmp_path / "dated", {"start_timestamp": "2024-06-18T10:00:00Z", "platform": "capella-2"})
    scene = Scene.from_item(register(dated, tmp_path / "out").items[0])
    assert scene.datetime == datetime(2024, 6, 18, 10, tzinfo=UTC)
    assert (scene.encoding, scene.bands["VV"].scale) == ("complex", 2e-4)
    assert scene.bands["VV"].transform is not None
    assert scene.bands["VV"].transform[1] == -2.5
    assert "no acquisition time" in register(tiny.capella(tmp_path / "undated"), tmp_path / "out2").failed[0][1]


def test_rotated_complex_pixels_are_left_where_they_are(tmp_path: Path) -> None:
    """A rotated complex product keeps its affine in attrs and its pixels as stored."""
    folder = tiny.capella(tmp_path / "c", {"start_timestamp": "2024-06-18T10:00:00Z"})
    scene = Scene.from_item(register(folder, tmp_path / "out").items[0])
    got = read_native(scene)
    assert got.dtype == np.complex64
    assert got.attrs["transform"][1] == -2.5
    with rasterio.open(scene.bands["VV"].href) as src:
        np.testing.assert_array_equal(got.sel(band="VV").values, src.read(1))
