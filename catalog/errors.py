"""Every way the catalogue can say no: what failed, on which item, what would have been enough, what to do now."""

from __future__ import annotations

from dataclasses import dataclass


class Refusal(Exception):
    """An error in four parts, meant to be read by the person at the terminal.

    Parameters
    ----------
    what
        What failed, in one sentence without a full stop.
    item
        The scene, file, field or option it failed on.
    enough
        What would have been enough.
    todo
        What to do now.
    """

    def __init__(self, what: str, *, item: str = "", enough: str = "", todo: str = "") -> None:
        self.what = what
        self.item = item
        self.enough = enough
        self.todo = todo
        super().__init__(what, item, enough, todo)

    def __str__(self) -> str:
        parts = [self.what]
        parts += [f"on: {self.item}"] if self.item else []
        parts += [f"enough would have been: {self.enough}"] if self.enough else []
        parts += [f"what to do: {self.todo}"] if self.todo else []
        return "\n  ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.item, self.enough, self.todo))


def _rebuild(kind: type[Refusal], what: str, item: str, enough: str, todo: str) -> Refusal:
    return kind(what, item=item, enough=enough, todo=todo)


class CatalogError(Refusal):
    """The family of everything the catalogue refuses."""


class NothingFound(CatalogError):
    """No scene answers the area, the period and the sensors asked for."""


class UnknownProduct(CatalogError):
    """A folder holds neither a metadata file we know nor tags that stand for one."""


class MetadataError(CatalogError):
    """A product's metadata file is missing a field, contradicts itself or cannot be parsed."""


@dataclass(frozen=True)
class FailedAsset:
    """A file that could not be had."""

    scene: str
    """Item id."""
    name: str
    """Band, or quality layer."""
    href: str
    """Path or address, without a signature."""
    reason: str
    """What the reader said, last."""
    attempts: int
    """How often it was asked for."""

    def __str__(self) -> str:
        often = "" if self.attempts == 1 else f", asked {self.attempts} times"
        return f"{self.scene} {self.name}: {self.href} ({self.reason}{often})"


class AssetError(CatalogError):
    """An item's file is missing, truncated or unreadable.

    Parameters
    ----------
    failed
        Every file that failed, where several were asked for.
    """

    def __init__(
        self, what: str, *, item: str = "", enough: str = "", todo: str = "", failed: tuple[FailedAsset, ...] = ()
    ) -> None:
        super().__init__(what, item=item, enough=enough, todo=todo)
        self.failed = failed

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.item, self.enough, self.todo), {"failed": self.failed})


class FootprintError(CatalogError):
    """A file does not lie where, or in the CRS that, its item says."""


class CalibrationError(CatalogError):
    """Digital numbers cannot become a physical quantity with what is known."""


class GeolocationError(CatalogError):
    """A pixel cannot be placed on the Earth with what is known."""


class GridError(CatalogError):
    """An area does not fit the grid asked of it."""


class CubeError(CatalogError):
    """A cube is damaged, half written or not what its item says."""


class LedgerError(CatalogError):
    """A unit of work cannot be recorded, or its record is damaged."""


class PublishError(CatalogError):
    """A map, a model or an item cannot be written as asked."""


class ServiceError(CatalogError):
    """A STAC API does not answer, or not as the standard says."""


class StorageFull(CatalogError):
    """The disk has no room for what is to be written; finished units are kept."""
