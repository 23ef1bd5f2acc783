"""Pictures of a training run: its loss, and what the model guesses; equal numbers give equal bytes."""

# Shape suffixes: C channels, H rows, W columns.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors import safe_open

RGB = ("red", "green", "blue")
_LEAD = 10


def loss_curve(target: Path, loss: Sequence[float], terms: Mapping[str, Sequence[float]]) -> None:
    """The loss over the steps that counted, smoothed over a twentieth of them, and each term as it changed.

    Parameters
    ----------
    target
        PNG to write.
    loss
        One a step.
    terms
        By name; each is drawn over its value at the start.
    """
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    whole, parts = figure.subplots(1, 2)
    window = max(1, len(loss) // 20)
    whole.plot(loss, color="0.75", linewidth=0.8)
    whole.plot(np.arange(window - 1, len(loss)), smooth(loss, window), color="C0")
    whole.set(xlabel="step", ylabel="loss", title="all terms")
    for name, values in sorted(terms.items()):
        start = float(np.mean(values[:_LEAD])) if values else 0.0
        if start > 0:
            curve = smooth(values, max(1, len(values) // 20))
            parts.plot(np.linspace(0, len(loss), len(curve)), curve / start, label=name, linewidth=1)
    parts.set(xlabel="step", ylabel="over the start", title="each term")
    if parts.lines:
        parts.legend(fontsize=6, ncols=2)
    write(figure, target)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """The running mean over a window, of which the ends fall off."""
    return np.convolve(np.asarray(values, dtype=np.float64), np.full(window, 1 / window), mode="valid")


def reconstructions(target: Path, guesses: Path) -> None:
    """A row for each modality: the chip, the chip as the model is shown it, and with its guess where it is hidden.

    Parameters
    ----------
    target
        PNG to write.
    guesses
        What `flows.learn` keeps: per modality MODALITY/truth_CHW, known_CHW, guess_CHW and hidden_HW.
    """
    with safe_open(guesses, framework="np") as file:
        channels = {name: tuple(text.split(",")) if text else () for name, text in (file.metadata() or {}).items()}
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    names = sorted(channels)
    figure = Figure(figsize=(7.2, 2.5 * len(names)), layout="constrained")
    rows = figure.subplots(len(names), 3, squeeze=False)
    for axes, name in zip(rows, names, strict=True):
        parts = [arrays[f"{name}/{part}"] for part in ("truth_CHW", "known_CHW", "guess_CHW", "hidden_HW")]
        _row(axes, name, channels[name], *parts)
    write(figure, target)


def _row(
    axes: Sequence[Axes],
    name: str,
    channels: tuple[str, ...],
    truth_CHW: np.ndarray,
    known_CHW: np.ndarray,
    guess_CHW: np.ndarray,
    hidden_HW: np.ndarray,
) -> None:
    shown = [channels.index(c) for c in RGB] if set(RGB) <= set(channels) else [0]
    known_HW = known_CHW[shown].all(axis=0)
    values = truth_CHW[shown][:, known_HW]
    low, high = np.percentile(values, (2, 98)) if values.size else (0.0, 1.0)
    masked_CHW = np.where(known_HW & ~hidden_HW, truth_CHW[shown], np.nan)
    filled_CHW = np.where(hidden_HW, guess_CHW[shown], np.where(known_HW, truth_CHW[shown], np.nan))
    whole_CHW = np.where(known_HW, truth_CHW[shown], np.nan)
    what = "red, green, blue" if len(shown) > 1 else channels[0] if channels else "log power"
    for axis, title, image_CHW in zip(
        axes, (f"{name}: {what}", "shown", "guess where hidden"), (whole_CHW, masked_CHW, filled_CHW), strict=True
    ):
        scaled = np.clip((image_CHW - low) / max(float(high - low), 1e-9), 0, 1)
        picture = np.nan_to_num(np.moveaxis(scaled, 0, -1), nan=0.5)
        axis.imshow(
            picture if len(shown) > 1 else picture[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest"
        )
        axis.set_title(title, fontsize=8)
        axis.set_axis_off()


def write(figure: Figure, target: Path) -> None:
    """As PNG, without the name of the software, which would make other bytes of the same picture."""
    FigureCanvasAgg(figure)
    figure.savefig(target, dpi=100, metadata={"Software": None})
