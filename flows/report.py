"""What a run found and made, as one summary: a table for people, a mapping for machines."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from flows import terminal
from flows.models import properties_of, table_of
from flows.pipeline import Run
from flows.refs import ItemRef, RunRequest
from ringmoe.evaluate import Scores, scores


class Stopwatch:
    """Seconds since it was made, and where its Dask workers could be watched."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.dashboards: list[str] = []

    def told(self, step: str, done: float, total: float, note: str) -> None:
        """Keep what `flows.workers` tells; to be handed to `flows.progress.watch`."""
        if step == "workers":
            self.dashboards.append(note)

    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._start


def summarise(run: Run, request: RunRequest, seconds: float) -> dict[str, Any]:
    """Everything a run can say of itself, JSON-able."""
    cubes = [_cube(ref) for ref in run.cubes]
    shifts = [s for c in cubes for s in c["shifts"] if s.get("verdict") == "accepted"]
    teacher = properties_of(run.models[0])
    maps = [properties_of(ref) for ref in run.maps]
    tables = [t for t in (table_of(ref, "score") for ref in run.maps) if t is not None]
    scored, baseline = _scores(tables), _scores([t["baseline"] for t in tables])
    return {
        "scenes": run.scenes,
        "cubes": [{k: v for k, v in c.items() if k != "shifts"} for c in cubes],
        "coreg_px_before": _median(s["before_px"] for s in shifts),
        "coreg_px_after": _median(s["after_px"] for s in shifts),
        "coreg_accepted": len(shifts),
        "coreg_measured": sum("reference" in s for c in cubes for s in c["shifts"]),
        "loss_first": teacher["ringmoe:loss_first"],
        "loss_last": teacher["ringmoe:loss_last"],
        "params": properties_of(run.models[-1]).get("ringmoe:params", [teacher["mlm:total_parameters"]]),
        "stages": properties_of(run.models[-1]).get("ringmoe:stages", ["pre-trained"]),
        "map_accuracy": None if scored is None else round(scored.accuracy, 6),
        "map_mean_iou": None if scored is None else round(scored.mean_iou, 6),
        "baseline_accuracy": None if baseline is None else round(baseline.accuracy, 6),
        "area_ha": _areas(maps),
        "items": [ref.href for ref in (*run.cubes, *run.models, *run.maps)],
        "catalog": str(run.catalog),
        "left_out": teacher.get("ringmoe:left_out", []),
        "seconds": round(seconds, 1),
        "recomputed": len(run.fresh),
    }


def show(summary: dict[str, Any]) -> None:
    """The summary as tables."""
    terminal.table("Scenes found", ("sensor", "scenes"), [(k, v) for k, v in summary["scenes"].items() if v])
    rows = [(c["sensor"], c["tile"], c["size"], f"{c['valid_share']:.1%}", c["quantity"]) for c in summary["cubes"]]
    terminal.table("Cubes", ("sensor", "tile", "time x band x y x x", "valid", "quantity"), rows)
    lines: list[tuple[str, str]] = []
    if summary["coreg_px_before"] is not None:
        of = f"{summary['coreg_accepted']} of {summary['coreg_measured']} scenes moved"
        lines.append(
            (
                "co-registration residual",
                f"{summary['coreg_px_before']:.2f} -> {summary['coreg_px_after']:.2f} px, {of}",
            )
        )
    lines.append(("pre-training loss", f"{summary['loss_first']:.3f} -> {summary['loss_last']:.3f}"))
    lines += [
        (f"parameters, {name}", f"{count:,}") for name, count in zip(summary["stages"], summary["params"], strict=True)
    ]
    if summary["map_accuracy"] is not None:
        lines.append(("map accuracy, region never trained on", f"{summary['map_accuracy']:.1%}"))
        lines.append(("nearest centroid, same labels and bands", f"{summary['baseline_accuracy']:.1%}"))
    terminal.table("Model and map", ("what", "value"), lines)
    if summary["area_ha"]:
        areas = [(k, "unknown (grid in degrees)" if v is None else v) for k, v in summary["area_ha"].items()]
        terminal.table("Area", ("class", "ha"), areas)
    for left in summary["left_out"]:
        terminal.say(f"left out of pre-training: {left[0]}: {left[1]}")
    made = summary["recomputed"]
    done = len(summary["items"]) - made
    verb = (
        f"{made} units made, {done} found finished" if made else f"nothing recomputed: all {done} units found finished"
    )
    terminal.out.print(f"{verb}; {summary['seconds']:.0f} s\npublished in {summary['catalog']}", highlight=False)


def _cube(ref: ItemRef) -> dict[str, Any]:
    properties = properties_of(ref)
    extents = properties["cube:dimensions"]
    shape = [len(extents["time"]["values"]), len(extents["band"]["values"]), *properties["ringmoe:shape"]]
    return {
        "id": ref.id,
        "sensor": properties["ringmoe:sensor"],
        "tile": properties["ringmoe:tile"],
        "size": " x ".join(str(v) for v in shape),
        "valid_share": properties["ringmoe:valid_share"],
        "quantity": properties["ringmoe:quantity"],
        "shifts": properties["ringmoe:coregistration"],
    }


def _median(values: Any) -> float | None:
    found = [float(v) for v in values if v is not None and math.isfinite(float(v))]
    return round(median(found), 4) if found else None


def _scores(tables: Sequence[dict[str, Any]]) -> Scores | None:
    """Of all maps together, every scored pixel counting once; None where nothing was scored."""
    return scores(np.sum([t["confusion"] for t in tables], axis=0)) if tables else None


def _areas(maps: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    total: dict[str, float | None] = {}
    for properties in maps:
        for name, area in properties["ringmoe:area_ha"].items():
            before = total.get(name, 0.0)
            total[name] = None if area is None or before is None else round(before + area, 4)
    return total
