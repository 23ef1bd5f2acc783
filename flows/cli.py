"""The terminal's way in: runs a verb, and prints a refusal in its four parts with an exit code that is not 0."""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
import warnings

import typer
from pydantic import ValidationError
from rich.markup import escape

from catalog.errors import CatalogError, NothingFound, Refusal, StorageFull
from flows import terminal
from flows.verbs.options import app

# Their order is that of the help.
# isort: off
from flows.verbs import scenes
from flows.verbs import composites
from flows.verbs import models
from flows.verbs import maps
from flows.verbs import runs
# isort: on

__all__ = ["app", "composites", "main", "maps", "models", "runs", "scenes"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells know it."""


def main() -> None:
    """Run a verb; a refusal is printed in its four parts and ends with a code that is not 0."""
    # What a verb imports lives as long as the process: to look through it for garbage at every 700 new objects, and
    # once more at the end, took 3 of the 8 seconds of a command that has nothing to do.
    gc.set_threshold(50_000, 20, 50)
    atexit.register(gc.freeze)
    debug = "--debug" in sys.argv
    if not debug:
        warnings.simplefilter("ignore")  # what libraries tell programmers
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(_explain(error, debug))
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        _say_interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def _say_interrupted() -> None:
    terminal.err.print("[bold]interrupted[/]  what was finished is kept; run the same command to go on")


def _of_request(error: ValidationError) -> Refusal:
    """What a request says of values that it cannot take; its own errors have what would be enough behind a colon."""
    first = error.errors()[0]
    option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
    said = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error":
        what, _, enough = said.partition(": ")
    else:
        what, enough = f"{option}: not a value", said
    return CatalogError(what, item=option if first["loc"] else "the options together", enough=enough, todo="see --help")


def _explain(error: Exception, debug: bool) -> int:
    """Print an error for a person; returns the exit code."""
    if isinstance(error, typer.Abort):
        _say_interrupted()
        return INTERRUPTED
    show = getattr(error, "show", None)
    if callable(show):  # what typer says of options it cannot read
        show()
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, ValidationError):
        terminal.refuse(_of_request(error))
        return 2
    if isinstance(error, Refusal):
        terminal.refuse(error)
        return 3 if isinstance(error, NothingFound) else 4 if isinstance(error, StorageFull) else 1
    hint = "" if debug else "; --debug shows where"
    terminal.err.print(
        f"[bold red]error[/]  unexpected {type(error).__name__}: {escape(str(error))}{hint}", markup=True
    )
    return 70


if __name__ == "__main__":
    main()
