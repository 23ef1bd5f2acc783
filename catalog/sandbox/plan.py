"""What flies over the sandbox and when, and how far each image is displaced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Pass:
    """One acquisition over every region."""

    sensor: str
    """Our name of the instrument."""
    platform: str
    """Letters that name the satellite in its products."""
    when: datetime
    """UTC at the region's centre."""
    season: str
    """Which of the two states of the land it sees."""
    shift_m: tuple[float, float]
    """Optical: how far the content is displaced, east and north. Radar: along the flight and across it, away from the
    satellite on the ground."""
    cloud_share: float = 0.0
    """Share of the region under clouds."""
    wedge: bool = False
    """Whether a swath edge cuts off a part."""

    @property
    def date(self) -> str:
        """Day as YYYYMMDD."""
        return f"{self.when:%Y%m%d}"


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


PASSES: tuple[Pass, ...] = (
    Pass("sentinel-2", "S2A", _utc(2025, 5, 10, 10, 10, 31, 24_000), "spring", (0.0, 0.0)),
    Pass("sentinel-2", "S2B", _utc(2025, 8, 8, 10, 10, 29, 24_000), "summer", (3.1, -4.4), 0.25, wedge=True),
    Pass("sentinel-2", "S2A", _utc(2025, 8, 13, 10, 10, 31, 24_000), "summer", (-5.2, 2.7), 0.20),
    Pass("sentinel-1", "S1A", _utc(2025, 8, 9, 5, 26, 13, 250_000), "summer", (6.0, -4.0)),
    Pass("gaofen-3", "GF3", _utc(2025, 8, 10, 17, 3, 41, 500_000), "summer", (-3.0, 5.0)),
    Pass("worldview", "WV03", _utc(2025, 8, 11, 10, 24, 17, 125_000), "summer", (2.3, -1.6)),
)
"""Every acquisition."""


@dataclass(frozen=True)
class Product:
    """One product as written."""

    folder: str
    """Its folder below products/."""
    sensor: str
    """Our name of the instrument."""
    region: str
    """Name of the region."""
    date: str
    """Day as YYYYMMDD."""
    shift_m: tuple[float, float]
    """How far its content is displaced on the map, east and north."""
    cloud_share: float
    """Share of its valid pixels under clouds."""
