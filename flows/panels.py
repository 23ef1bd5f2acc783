"""Pictures of a pruning: who serves whom and what is left, how alike modalities are, how the student learned."""

# Shape suffixes: L blocks, M modalities, E experts of a router.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.pictures import smooth, write


def experts(target: Path, panels: Mapping[str, np.ndarray], kinds: Sequence[int], kept_LE: np.ndarray | None) -> None:
    """A panel for each modality, blocks down and experts across: the darker, the more of its tokens go there.

    Parameters
    ----------
    target
        PNG to write.
    panels
        By modality (L, E): share of its tokens, specialized experts first; NaN where a block has no such expert.
    kinds
        How many of the columns are specialized experts, and how many collaborative ones.
    kept_LE
        bool, what is left of them for the modality pruned for, which stands first; None marks nothing.
    """
    blocks, columns = next(iter(panels.values())).shape
    figure = Figure(figsize=(0.6 + (0.28 * columns + 0.9) * len(panels), 1.4 + 0.2 * blocks), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (axis, (name, share_LE)) in enumerate(zip(row, panels.items(), strict=True)):
        image = axis.imshow(share_LE, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axis.axvline(kinds[0] - 0.5, color="0.4", linewidth=0.8)
        axis.set(title=name, xlabel="expert", ylabel="block" if place == 0 else "")
        ids = [*(f"s{i}" for i in range(kinds[0])), *(f"c{i}" for i in range(kinds[1]))]
        axis.set_xticks(range(columns), ids, fontsize=6)
        axis.set_yticks(range(0, blocks, max(1, blocks // 12)))
        if place == 0 and kept_LE is not None:
            _mark(axis, ~kept_LE & np.isfinite(share_LE))
    figure.colorbar(image, ax=list(row), label="share of tokens", shrink=0.8)
    write(figure, target)


def _mark(axis: Axes, gone_LE: np.ndarray) -> None:
    rows, columns = np.nonzero(gone_LE)
    axis.scatter(columns, rows, marker="x", color="C3", s=14, linewidths=0.9)


def similarity(target: Path, alike_MM: np.ndarray, names: Sequence[str]) -> None:
    """How alike modalities choose collaborative experts, as a square of numbers from 0 to 1."""
    figure = Figure(figsize=(1.6 + 0.8 * len(names), 1.2 + 0.7 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(alike_MM, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    for row, column in np.argwhere(np.isfinite(alike_MM)):
        value = float(alike_MM[row, column])
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    axis.set_title("collaborative experts in common", fontsize=9)
    write(figure, target)


def recovery(target: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """The terms of each phase of learning, over its steps, on a logarithmic scale.

    Parameters
    ----------
    curves
        Losses by phase and term; both may be of one.
    """
    figure = Figure(figsize=(4.8 * len(curves), 3.4), layout="constrained")
    for axis, (phase, terms) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, values in sorted(terms.items()):
            window = max(1, len(values) // 20)
            axis.plot(np.arange(window - 1, len(values)), smooth(values, window), label=name, linewidth=1.2)
        axis.set(xlabel="step", ylabel="loss", title=phase, yscale="log")
        axis.legend(fontsize=7)
    write(figure, target)


def scores(target: Path, measured: Mapping[str, Mapping[str, float]]) -> None:
    """Bars of each score, a group for each score and a bar for each stage of the work."""
    names = list(next(iter(measured.values())))
    figure = Figure(figsize=(1.6 + 1.5 * len(names), 3.0), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(measured)
    for place, (stage, values) in enumerate(measured.items()):
        at = np.arange(len(names)) + (place - (len(measured) - 1) / 2) * width
        axis.bar(at, [values.get(name, np.nan) for name in names], width, label=stage)
    axis.set_xticks(range(len(names)), [n.replace("_", " ") for n in names])
    axis.legend(fontsize=7)
    write(figure, target)
