"""What a person sees: progress bars, tables, errors in four parts; and JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from catalog.errors import Refusal
from flows import progress

out = Console()
err = Console(stderr=True)


@contextmanager
def bars() -> Iterator[None]:
    """A bar for every step that tells how far it is, on standard error."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=err, transient=False, redirect_stdout=False, redirect_stderr=False) as bar:

        def watcher(step: str, done: float, total: float, note: str) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total, note="")
            bar.update(tasks[step], completed=done, total=total, note=note[:60])

        progress.watch(watcher)
        try:
            yield
        finally:
            progress.unwatch(watcher)


def refuse(error: Refusal) -> None:
    """Print an error in its four parts."""
    err.print(f"[bold red]error[/]  {escape(error.what)}")
    for label, text in (("on", error.item), ("enough", error.enough), ("to do", error.todo)):
        if text:
            err.print(f"  [bold]{label:<6}[/] {escape(text)}")


def say(text: str) -> None:
    """One line for the person, on standard error so that standard output stays for results."""
    err.print(text, markup=False, highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table of results; numbers to the right."""
    shown = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        number = bool(rows) and all(isinstance(r[index], int | float) for r in rows)
        shown.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(v) for v in row))
    out.print(shown)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return escape(str(value))


def csv_tables(files: Sequence[Path]) -> None:
    """Areas per parcel and class, as far as they were written; classes without area are left out."""
    for file in files:
        if file.exists():
            frame = pd.read_csv(file)
            frame = frame[frame["area_ha"] > 0]
            rows = [(str(r.parcel), r.class_name, float(r.area_ha), f"{r.share:.1%}") for r in frame.itertuples()]
            table(str(file), ("parcel", "class", "ha", "share"), rows)


def machine(value: Mapping[str, Any] | Sequence[Any], target: Path | None) -> None:
    """Write JSON to a file, or to standard output where the file is `-`; nothing where there is no file."""
    if target is None:
        return
    text = json.dumps(value, indent=1, default=str)
    if str(target) == "-":
        sys.stdout.write(text + "\n")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n")
