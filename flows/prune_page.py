"""The report of a pruning as text: tables, and a page of HTML that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CAPTIONS = {
    "experts": "Where the tokens go: blocks down, experts across, s specialized and c collaborative. "
    "Crosses are gone from the model pruned for the first panel's modality.",
    "similarity": "How alike modalities choose collaborative experts: 1 alike, 0 no expert in common.",
    "recovery": "What is left to learn, by step.",
    "scores": "Against the teacher before and after: agreement with it, and labels told right.",
}


def stage_rows(told: Mapping[str, Any], speed: Mapping[str, float]) -> list[dict[str, str]]:
    """The stages as a table of text."""
    return [
        {
            "model": s["name"],
            "experts a block": _span(s["slots"]),
            "parameters": f"{s['parameters']:,}",
            "GFLOP an image": f"{s['flops'] / 1e9:.4g}",
            "images a second": f"{speed[s['name']]:.4g}" if s["name"] in speed else "",
            "weights, MB": f"{s['weights_mb']:.4g}",
            "memory, MB": "" if s["memory_mb"] is None else f"{s['memory_mb']:.4g}",
        }
        for s in told["stages"]
    ]


def _span(slots: Sequence[int]) -> str:
    low, high = min(slots), max(slots)
    return str(low) if low == high else f"{low} to {high}"


def score_rows(told: Mapping[str, Any]) -> list[dict[str, str]]:
    """The scores as a table of text, each with its deviation from batch to batch."""
    meaning = {
        "stage3": "error of stage 3",
        "stage4": "error of stage 4",
        "agreement": "agrees with the teacher",
        "accuracy": "labels told right",
        "mean_iou": "mean IoU",
    }
    spread = told["deviations"]
    return [
        {"model": stage} | {meaning.get(k, k): f"{v:.4f} ± {spread[stage][k]:.4f}" for k, v in values.items()}
        for stage, values in told["scores"].items()
    ]


def page(folder: Path, told: Mapping[str, Any], speed: Mapping[str, float]) -> str:
    """The report as one file of HTML that needs no other."""
    title = html.escape(f"Pruned for {told['sensor']}")
    asked = html.escape(told["request"]["to"] or "one dense expert a block")
    parts = [
        f"<h1>{title}</h1><p>From {html.escape(told['parent'])}, to {asked}.</p>",
        "<h2>What each step left</h2>" + _table(stage_rows(told, speed)),
        "<h2>What it is worth</h2>" + _worth(told),
    ]
    for name, caption in CAPTIONS.items():
        picture = folder / f"{name}.png"
        if picture.exists():
            data = base64.b64encode(picture.read_bytes()).decode()
            parts.append(
                f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _worth(told: Mapping[str, Any]) -> str:
    if not told["scores"]:
        return f"<p>{UNSCORED}</p>"
    return (
        _table(score_rows(told))
        + "<p>Errors of a stage are squared, over the variance of the teacher's features: 0 agrees, 1 knows only their "
        f"mean; ± is the deviation from batch to batch. Scored on {html.escape(told['scored_on'])}.</p>"
    )


UNSCORED = "Not scored, nor taught: it was cut from file to file, and its models were never in memory."

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}figure{margin:1.5rem 0}img{max-width:100%}"
    "figcaption{color:#555;font-size:13px}"
)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(row.get(name, ''))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of text as Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(row.get(name, "") for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
