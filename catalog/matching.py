"""How the scenes of a unit lie on its reference: measured, and said so that a cube and its item can keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from catalog import coregister, quantify
from catalog.displacement import Model, Move
from catalog.scene import Scene
from catalog.units import REFERENCE_SENSOR, Unit

MATCH_M = 10.0
"""Pixel size at which shifts are measured."""
MODELS: tuple[Model, ...] = ("shift", "affine", "field")
"""What a scene may be moved by, the simplest first."""


@dataclass(frozen=True)
class Match:
    """What is known of one scene's place."""

    move: Move
    """To add to its map coordinates: (0, 0) unless a measured one was accepted."""
    record: Mapping[str, Any]
    """JSON-able: scene, verdict and reason; where one was measured also reference, pixel_m, and the fields of
    coregister.Shift with lengths in metres beside those in pixels. What was not measured is None."""


class Matcher:
    """Measures how scenes lie on the reference of a unit, whose image is read once."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._reference: quantify.MatchImage | None = None

    def match(self, scene: Scene) -> Match:
        """How a scene lies on its tile's reference."""
        unit = self.unit
        why_not = _why_not(unit, scene)
        if why_not or unit.tile is None or unit.reference is None:
            return Match((0.0, 0.0), {"scene": scene.id, "verdict": "not attempted", "reason": why_not})
        grid = unit.tile.geobox
        grid = grid.zoom_to(resolution=MATCH_M) if grid.resolution.x < MATCH_M else grid
        if self._reference is None:
            self._reference = quantify.match_image(unit.reference, grid, unit.how)
        moving = quantify.match_image(scene, grid, unit.how)
        shift = coregister.estimate_shift(
            self._reference.data,
            moving.data,
            self._reference.usable,
            moving.usable,
            float(grid.resolution.x),
            method="structure",  # fields turn from darker to brighter than their neighbours between dates, too
            models=MODELS,
        )
        move = shift.move(_centre(grid))
        return Match(move, {"scene": scene.id, "reference": unit.reference.id, **_plain(shift, grid, move)})


def _why_not(unit: Unit, scene: Scene) -> str:
    """Why a scene is not measured against a reference; empty where it is."""
    if unit.tile is None:
        return "the cube stays in radar geometry"
    if unit.reference is None:
        return f"no {REFERENCE_SENSOR} scene over this tile"
    if scene.id == unit.reference.id:
        return "this scene is the reference"
    return "the tile is the scene's own raster" if unit.tile.id.startswith("native_") else ""


def _centre(grid: GeoBox) -> tuple[float, float]:
    x, y = grid.affine * (grid.shape[1] / 2, grid.shape[0] / 2)
    return float(x), float(y)


def _plain(shift: coregister.Shift, grid: GeoBox, move: Move) -> dict[str, Any]:
    """A shift as JSON takes it: rounded, metres beside pixels, None for what was not measured or not accepted."""
    pixel_m = float(grid.resolution.x)
    found = asdict(shift) | {
        "pixel_m": pixel_m,
        "ce90_m": shift.ce90_px * pixel_m,
        "rmse_before_m": shift.rmse_before_px * pixel_m,
        "rmse_after_m": shift.rmse_after_px * pixel_m,
        "displacement": None if isinstance(move, tuple) else asdict(move),
    }
    if shift.verdict != "accepted":
        found |= {"dx_m": None, "dy_m": None, "model": None}
    return {k: (round(v, 4) if np.isfinite(v) else None) if isinstance(v, float) else v for k, v in found.items()}
