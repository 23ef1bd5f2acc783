"""What all verbs share: the app, the options by name, and how a verb begins and reports."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import CatalogError, Refusal, StorageFull
from flows import terminal
from flows.orphans import end_orphans
from flows.settings import Settings, prepare

app = typer.Typer(
    name="ringmoe",
    help="Satellite scenes to maps with one multi-modal mixture-of-experts model.\n\n"
    "Start with `ringmoe run --sandbox`: it makes a small Earth, learns on one region of it and maps another. "
    "Each verb is one step of that; what a step finished is kept and never made twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Home = Annotated[Path | None, typer.Option("--home", help="Folder of everything kept. [default: ringmoe-data]")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON; - prints it.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]
Bbox = Annotated[str | None, typer.Option("--bbox", help="West,south,east,north in degrees.")]
AreaFile = Annotated[Path | None, typer.Option("--area", help="Polygons of the area, any vector file.")]
From = Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day, as in 2025-05-01.")]
To = Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last day, included.")]
Sensors = Annotated[list[str] | None, typer.Option("--sensor", help="A sensor, repeatable. [default: all]")]
Model = Annotated[str | None, typer.Option("--model", metavar="ID", help="Item id. [default: the latest]")]
SENSOR = Annotated[str, typer.Option("--sensor", help="Whose cubes are mapped.")]

Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        help="Who is asked, repeatable, in order: local, earth-search, planetary-computer. [default: local]",
    ),
]
Fill = Annotated[str | None, typer.Option(metavar="PROVIDER", help="A provider that fills what the others lack.")]
Offline = Annotated[bool, typer.Option("--offline", help="Only replay what was answered before.")]
Anew = Annotated[bool, typer.Option("--anew", help="Ask again even for what is settled.")]
Every = Annotated[
    str,
    typer.Option(
        "--every", metavar="PART", help="Scenes that share a cube: those of a month, of a year, or of the whole period."
    ),
]

OffsetChoice = Annotated[
    str | None,
    typer.Option(
        "--offset-policy",
        metavar="POLICY",
        help="Where Sentinel-2's metadata and pixels contradict each other on the radiometric offset: error, "
        "trust-product or trust-pixels. [default: error]",
    ),
]

UnitSeconds = Annotated[
    float | None,
    typer.Option("--unit-seconds", help="End a unit that is at work for longer, and list it. [default: 3600]"),
]
Performance = Annotated[
    Path | None, typer.Option("--performance", metavar="FILE", help="HTML of Dask's account of what its workers did.")
]

ROOM_BYTES = 8 * 2**20
"""With less than this on the disk a run does not begin: the database of an embedded Prefect takes 6 MB."""


def settings_of(home: Path | None, offset_policy: str | None = None, **more: Any) -> Settings:
    """Settings with the options over the environment; Prefect is told before it is imported.

    Parameters
    ----------
    more
        Settings by name, provider as several names; what is None or False leaves the environment's.
    """
    given = {"home": home, "offset_policy": offset_policy, **more}
    given["provider"] = ",".join(more.get("provider") or ()) or None
    settings = Settings.model_validate({k: v for k, v in given.items() if v not in (None, False)})
    prepare(settings, debug="--debug" in sys.argv)
    end_orphans(settings)
    return settings


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """Bars for a person, an API for the flows, and a full disk called so whoever met it."""
    from flows.interrupt import with_api

    _check_room(settings)
    with terminal.bars():
        try:
            with with_api():
                yield
        except Refusal:
            raise
        except Exception:  # of Prefect's, whose database has no room either
            _check_room(settings)
            raise


def refuse_idle(context: typer.Context, options: Sequence[str], mode: str) -> None:
    """Refuse options that would do nothing in this mode."""
    given = [o for o in options if (found := context.get_parameter_source(o)) and found.name == "COMMANDLINE"]
    if given:
        named = ", ".join(f"--{o.replace('_', '-')}" for o in given)
        raise typer.BadParameter(f"{named} would do nothing with {mode}")


def _check_room(settings: Settings) -> None:
    settings.root.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(settings.root).free < ROOM_BYTES:
        raise StorageFull(
            "the disk is full",
            item=str(settings.root),
            enough=f"{ROOM_BYTES // 2**20} MB for a run's own records, and room for what it makes",
            todo="free space or choose another home (--home), then run the same command again",
        )


def report_items(title: str, refs: list[Any], json: Path | None) -> None:
    """A table of items for a person, their addresses for a machine."""
    rows = [(ref.id, "made" if ref.fresh else "found finished", ref.asset) for ref in refs]
    terminal.table(title, ("item", "state", "where"), rows)
    terminal.machine([ref.model_dump(mode="json") for ref in refs], json)


def report_unreadable(unreadable: Sequence[tuple[str, str]]) -> None:
    """List items that are no scene, and end with an error that names them."""
    if unreadable:
        terminal.table("Not readable", ("item", "reason"), [(i, " ".join(r.split())) for i, r in unreadable])
        raise CatalogError(
            f"{len(unreadable)} items cannot be read as scenes; everything else is done",
            item=", ".join(item for item, _ in unreadable),
            enough=unreadable[0][1],
            todo="mend these items at their catalogue, or ask another provider (--provider)",
        )


def report_failed(failed: list[tuple[str, str]]) -> None:
    """List folders that could not be registered, and end with an error that names them."""
    if failed:
        terminal.table("Not registered", ("folder", "reason"), [(f, r.splitlines()[0]) for f, r in failed])
        raise CatalogError(
            f"{len(failed)} folders could not be registered; everything else is done",
            item=", ".join(folder for folder, _ in failed),
            enough=failed[0][1],
            todo="mend or leave out these folders and run the same command again",
        )
