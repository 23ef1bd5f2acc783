"""Product formats by name: what a folder of one holds, what its numbers are worth, how its pixels find their place."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from catalog.calibrate.constants import Calibration
from catalog.formats.product import Product
from catalog.scene import Scene
from catalog.sensors import SENSORS


class Format(Protocol):
    """What every module of this package offers. A sensor's row names its formats; nothing else lists them."""

    def products(self, folder: Path) -> tuple[Product, ...]:
        """What a folder of this format holds; () where the folder is of another."""
        ...

    def calibration(self, scene: Scene, bands: Sequence[str]) -> Calibration | None:
        """The constants of those bands with their source; None where the scene has no metadata of this format."""
        ...


def format_named(name: str) -> Format:
    """The module of a format."""
    return cast(Format, importlib.import_module(f"catalog.formats.{name}"))


def formats() -> Iterator[tuple[str, Format]]:
    """Name and module of every format, in the order of the sensor table."""
    names = dict.fromkeys(name for sensor in SENSORS.values() for name in sensor.formats)
    return ((name, format_named(name)) for name in names)


def geometry_of(scene: Scene) -> Any:
    """How a scene in radar or image geometry is placed: its format's RadarGrid or rational polynomials."""
    return importlib.import_module(f"catalog.formats.{scene.format}").geometry(scene)
