"""Writes catalog/README.md from the sensor table: python tests/sensor_table.py > catalog/README.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from catalog.sensors import PROVIDERS, SENSORS, Band, QualityLayer, Sensor

_OPENING = """# The Earth's data

Scenes of the satellites below are found through STAC or registered from product folders, calibrated to physical
quantities, placed on the Earth and written as cubes. All that differs from one instrument to the next is its row in
[sensors.py](sensors.py), its formats in [formats/](formats) and their parsers in [metadata/](metadata).

This page is made of that table by `python tests/sensor_table.py > catalog/README.md`, and a test holds the two
together.
"""


def reference() -> str:
    """The page, ending in a newline."""
    rows = list(SENSORS.values())
    parts = [
        _OPENING,
        "## Instruments\n",
        _table(
            (
                "sensor",
                "platforms",
                "modality",
                "law",
                "what its levels become",
                "stored as",
                "no data",
                "placed by",
            ),
            (_instrument(s) for s in rows),
        ),
        "## Collections\n\nOf one mission at one provider the first is taken where there is a choice.\n",
        _table(("sensor", "provider", "collections", "bands by asset"), (c for s in rows for c in _collections(s))),
        "## Providers\n",
        _table(("provider", "catalogue"), PROVIDERS.items()),
        "## Bands\n",
        _table(
            ("sensor", "band", "common name", "centre", "width", "GSD in m", "irradiance in W m-2 um-1"),
            (_band(s, b) for s in rows for b in s.bands),
        ),
        "## Quality layers\n\nA sensor that is not listed ships none: its clouds, if it sees any, count as clear.\n",
        _table(("sensor", "layer", "holds", "meanings"), (_layer(s, q) for s in rows for q in s.quality_layers)),
        "## Licences\n",
        _table(("sensor", "licence"), ((s.id, s.licence) for s in rows)),
        "## Traps\n",
        *(f"- **{s.id}**: {trap}" for s in rows for trap in s.traps),
    ]
    return "\n".join(parts) + "\n"


def _instrument(s: Sensor) -> tuple[str, ...]:
    kinds = {q: [level for level, of in s.quantities.items() if of == q] for q in s.quantities.values()}
    levels = "; ".join(f"{quantity} at {', '.join(at)}" for quantity, at in kinds.items())
    span = "" if s.valid_range is None else f", {s.valid_range[0]:g} to {s.valid_range[1]:g}"
    nodata = "" if s.nodata is None else f"{s.nodata:g}"
    return s.id, ", ".join(s.platforms), s.modality, s.law, levels, s.encoding + span, nodata, s.geolocation


def _collections(s: Sensor) -> Iterator[tuple[str, ...]]:
    for provider, names in s.collections.items():
        renamed = [f"{b.name} {s.asset(provider, b.name)}" for b in s.bands if s.asset(provider, b.name) != b.name]
        yield s.id, provider, ", ".join(f"`{n}`" for n in names), ", ".join(renamed) or "by their own names"


def _band(s: Sensor, b: Band) -> tuple[str, ...]:
    if b.centre_nm is None:
        return s.id, b.name, "", f"{b.frequency_ghz:g} GHz", "", f"{b.gsd_m:g}", ""
    held = {p: s.irradiance_of(p, b.name) for p in s.platforms}
    values = sorted({v for v in held.values() if v is not None})
    told = f"{values[0]:g}" if len(values) == 1 else ", ".join(f"{v:g} ({p})" for p, v in held.items() if v is not None)
    return s.id, b.name, b.common_name, f"{b.centre_nm:g} nm", f"{b.width_nm:g} nm", f"{b.gsd_m:g}", told


def _layer(s: Sensor, q: QualityLayer) -> tuple[str, ...]:
    keys = ", ".join(f"`{key}` at {provider}" for provider, key in q.assets.items())
    return s.id, f"{q.name}{f' ({keys})' if keys else ''}", q.kind, ", ".join(f"{n} {t}" for n, t in q.meanings.items())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, tuple("-" * 3 for _ in head), *rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
