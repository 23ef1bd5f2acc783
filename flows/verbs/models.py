"""From cubes to a small model: `pretrain`, `adapt`, `prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.verbs.lists import factors, shares
from flows.verbs.options import (
    SENSOR,
    AreaFile,
    Bbox,
    Debug,
    From,
    Home,
    Json,
    Model,
    To,
    app,
    refuse_idle,
    report_items,
    settings_of,
    working,
)


@app.command()
def pretrain(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    preset: Annotated[str, typer.Option(help="A configuration of ringmoe.presets.")] = "nano",
    steps: Annotated[int, typer.Option(min=1, help="Steps to learn.")] = 200,
    chips: Annotated[int, typer.Option(min=1, help="Chips of a batch, over all modalities.")] = 32,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches to a step.")] = 1,
    rate: Annotated[float, typer.Option(min=1e-9, help="Peak learning rate; 1e-3 and more is unstable.")] = 3e-4,
    mix: Annotated[
        str | None,
        typer.Option(metavar="SHARES", help="As in opt=70,ms=30. [default: opt 70, ms 20, sar_l1, sar_l2 5]"),
    ] = None,
    scale: Annotated[str, typer.Option(metavar="FROM,TO", help="Factors of an optical chip's pixel size.")] = "0.7,1.4",
    turns: Annotated[bool, typer.Option(help="Lay chips in any of the eight ways of a square.")] = True,
    views: Annotated[float, typer.Option(min=0.0, help="Weight of telling two views of a chip; 0: one view.")] = 0.5,
    sparse: Annotated[bool, typer.Option("--sparse", help="Encode only what is shown of a chip.")] = False,
    without: Annotated[
        list[str] | None, typer.Option(metavar="TERM", help="Leave a term of the loss out, repeatable.")
    ] = None,
    most_lost: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the pixels' blocks that may be unreadable.")
    ] = 0.05,
    loaders: Annotated[int | None, typer.Option(min=1, help="Threads that make batches ahead. [default: 2]")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the work: one a GPU.")] = 1,
    experts: Annotated[int, typer.Option(min=1, help="Processes over which each block's experts are spread.")] = 1,
    recompute: Annotated[
        str,
        typer.Option(metavar="WHAT", help="Computed again to save memory: nothing, activations or branches."),
    ] = "nothing",
    moments: Annotated[
        str, typer.Option(metavar="DTYPE", help="Of the optimiser's moments: float32, bfloat16 or 8bit.")
    ] = "float32",
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Compile the model, if it then learns the same; one process.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Another seed, another run.", min=0)] = 0,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Pre-train a model on the cubes of an area; killed, the same command goes on from the last state kept."""
    settings = settings_of(home, loaders=loaders)
    from flows import asking, shelf
    from flows.pretrain import pretrain as flow
    from flows.refs import PretrainRequest

    place = asking.area_of(settings, bbox, area)
    request = PretrainRequest(
        area=place,
        preset=preset,
        steps=steps,
        chips=chips,
        accumulate=accumulate,
        rate=rate,
        mix=shares(mix) if mix else None,
        scale=factors(scale),
        turns=turns,
        views=views,
        sparse=sparse,
        without=tuple(without or ()),
        most_lost=most_lost,
        precision="bfloat16" if bf16 else "float32",
        processes=processes,
        experts=experts,
        recompute=recompute,  # type: ignore[arg-type]  # pydantic refuses what is none
        moments=moments,  # type: ignore[arg-type]
        compiled=compiled,
        seed=seed,
    )
    with working(settings):
        made = flow(shelf.cubes(asking.where(settings), place), request, asking.where(settings))
    report_items("Model", [made], json)


@app.command()
def adapt(
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    end: To = None,
    sensor: SENSOR = "sentinel-2",
    model: Model = None,
    steps: Annotated[int, typer.Option(help="Batches to learn from.")] = 300,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Teach a pre-trained model the classes of registered label rasters."""
    settings = settings_of(home)
    from flows import asking, shelf
    from flows.adapt import adapt as flow

    request = asking.adapt_request(settings, bbox, area, start, end, sensor, steps)
    with working(settings):
        parent = shelf.model(asking.where(settings), "pretrain", model)
        made = flow(parent, shelf.cubes(asking.where(settings), request.area), request, asking.where(settings))
    report_items("Model", [made], json)


@app.command()
def prune(
    context: typer.Context,
    home: Home = None,
    bbox: Bbox = None,
    area: AreaFile = None,
    start: From = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="SIZE|DATE",
            help="How small: 1B or 250M parameters, 25% of the parent's, 200MB of weights, 6 experts a block, or "
            "9,6,3,1: a model of each. [default: one dense expert a block] A date is the last day, as elsewhere.",
        ),
    ] = None,
    sensor: Annotated[str, typer.Option("--for", "--sensor", help="Whose images it will serve.")] = "sentinel-2",
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="Of adapt, pretrain or prune. [default: latest adapted]")
    ] = None,
    method: Annotated[str, typer.Option(help="How experts become one: neurons, kc, ks or ka.")] = "neurons",
    refit: Annotated[bool, typer.Option(help="Solve that one's second matrix for the experts' answers.")] = True,
    criterion: Annotated[str, typer.Option(help="By what experts are kept: error, norm or usage.")] = "error",
    dropped: Annotated[
        str, typer.Option(help="What tokens of experts gone take: the best survivor, or nothing but the mean.")
    ] = "mean",
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A profile that an earlier run published.")
    ] = None,
    streamed: Annotated[
        bool,
        typer.Option(
            "--streamed", help="Cut from file to file, a block in memory at a time; no refitting, no recovery."
        ),
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Recovery steps.")] = 100,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Cut a model down for one sensor to the size asked for, let it recover, and report what that cost and gained."""
    if streamed:
        refuse_idle(context, ("refit", "steps"), "--streamed")
    settings = settings_of(home)
    from flows import asking, shelf
    from flows.prune import prune as flow

    end, size = asking.day_and_size(to or [])
    task = asking.adapt_request(settings, bbox, area, start, end, sensor, 1)
    request = asking.prune_request(
        to=size,
        method=method,
        criterion=criterion,
        dropped=dropped,
        refit=refit,
        profile=profile,
        streamed=streamed,
        steps=steps,
    )
    with working(settings):
        parent = shelf.model(asking.where(settings), "adapt", model)
        made = flow(parent, shelf.cubes(asking.where(settings), task.area), request, task, asking.where(settings))
    report_items("Model", [made], json)
