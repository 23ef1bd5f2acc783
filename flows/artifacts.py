"""What Prefect's pages show of a training run: how far it is, its loss, its guesses and its table."""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext

from flows import pictures


def within_a_run() -> bool:
    """Whether Prefect runs this; elsewhere nothing is shown, and no API is asked."""
    return TaskRunContext.get() is not None or FlowRunContext.get() is not None


class Watched:
    """A training run on Prefect's pages: its share done and its loss so far, renewed at most every so many seconds.

    Parameters
    ----------
    name
        Of the run, as a hash; lower-case letters, digits and dashes.
    steps
        Of the whole run.
    """

    def __init__(self, name: str, steps: int, *, every_s: float = 60.0) -> None:
        self.name, self.steps, self.every_s = name, steps, every_s
        self._loss: list[float] = []
        self._last = time.monotonic()
        self._progress: UUID | None = None

    def tell(self, done: int, loss: float) -> None:
        """So many steps are done, the last with this loss."""
        self._loss.append(loss)
        if time.monotonic() - self._last >= self.every_s and within_a_run():
            self._last = time.monotonic()
            share, text = 100.0 * done / self.steps, f"step {done} of {self.steps}, loss {loss:.3f}"
            if self._progress is None:
                made = create_progress_artifact(share, key=f"progress-{self.name}", description=text)
                self._progress = cast(UUID, made)
            else:
                update_progress_artifact(self._progress, share, description=text)
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "loss.png"
                pictures.loss_curve(target, self._loss, {})
                show_picture(f"loss-{self.name}", target, "Loss so far")


def show_picture(key: str, picture: Path, text: str) -> None:
    """A PNG, carried in the artifact itself, for nobody serves files where a run is embedded."""
    if within_a_run():
        data = base64.b64encode(picture.read_bytes()).decode()
        create_image_artifact(f"data:image/png;base64,{data}", key=key, description=text)


def show_table(key: str, rows: Sequence[Mapping[str, Any]], text: str) -> None:
    """A table, by rows."""
    if within_a_run():
        create_table_artifact([dict(row) for row in rows], key=key, description=text)


def show_text(key: str, markdown: str, text: str) -> None:
    """A page of Markdown."""
    if within_a_run():
        create_markdown_artifact(markdown, key=key, description=text)
