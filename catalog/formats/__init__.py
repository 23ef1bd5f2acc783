"""Product formats by name: what a folder of one holds, what its numbers are worth, how its pixels find their place."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from catalog.calibrate.constants import Calibration
from catalog.calibrate.offset import Policy
from catalog.errors import GeolocationError
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


@runtime_checkable
class Disputed(Protocol):
    """What a format offers beside, whose metadata can contradict each other or the pixels."""

    def resolve_offset(self, scene: Scene, bands: Sequence[str], policy: Policy) -> Calibration | None:
        """As `calibration`, a contradiction settled by policy."""
        ...


@runtime_checkable
class Placing(Protocol):
    """What a format offers beside, whose pixels lie in radar or image geometry."""

    def geometry(self, scene: Scene) -> Any:
        """What places them: a catalog.geocode.RadarGrid, or rational polynomials (rasterio.rpc.RPC)."""
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
    module = format_named(scene.format)
    if not isinstance(module, Placing):
        raise GeolocationError(
            f"format {scene.format} does not say how a pixel in {scene.geolocation} geometry finds its place",
            item=scene.id,
            enough="a geocoded product, or a format with orbit or rational polynomials",
            todo="take the geocoded product of the same scene",
        )
    return module.geometry(scene)
