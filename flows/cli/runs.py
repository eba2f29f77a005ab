"""Commands about the checkpoints of a run: `ontogeny train`, `checkpoints` and `audit`."""

from typing import Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import print_table, say, say_json
from flows.cli.run_options import (
    Base,
    Config,
    FollowLinks,
    Model,
    Names,
    TokensPerStep,
    parse_model,
    print_conversion_notes,
    print_left_out,
    run_layout,
)
from pipeline.errors import InputError
from pipeline.extras import require


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    output: Annotated[str | None, typer.Option(help="Folder of the run.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of steps, instead of that of the file.", min=1)
    ] = None,
) -> None:
    """Train a model organism and save its checkpoints; an interrupted run is continued."""
    from pipeline.training.sweep import load_trainings

    trainings = load_trainings(config)
    if output and len(trainings) > 1:
        raise InputError(f"{config}: is a sweep, each run has its own folder: leave out --output")
    require("torch")
    say("train: starting…", err=True)  # torch is imported next, which takes seconds
    from flows.console import loss_progress, show_progress
    from pipeline.training import train as train_organism

    given = {"output": output} if output else {}
    given |= {"steps": steps} if steps else {}
    for training in trainings:
        chosen = training.model_copy(update=given)
        with show_progress(f"train {chosen.name}", "steps") as progress:
            folder = train_organism(chosen, loss_progress(progress))
        say(str(folder))


@app.command()
def checkpoints(
    uri: str,
    tokens_per_step: TokensPerStep = None,
    names: Names = None,
    config: Config = None,
    base: Base = None,
    follow_links: FollowLinks = False,
    model: Model = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """List the checkpoints of a run by step, and what is left out of the list."""
    from pipeline.analysis.listing import list_with_tokens

    given, layout = parse_model(model), run_layout(names, config, follow_links, base)
    print_conversion_notes(uri, given, layout)
    listing = list_with_tokens(uri, tokens_per_step, given, layout)
    for note in listing.notes:
        say(f"note: {note}", err=True)
    if as_json:
        say_json({"uri": uri, **listing.as_json()})
        return
    print_table(
        ["step", "tokens_seen", "uri"],
        [[str(c.step), str(c.tokens_seen or ""), c.uri] for c in listing.checkpoints],
    )
    print_left_out(listing.left_out)


@app.command()
def audit(
    uri: str,
    deep: Annotated[bool, typer.Option("--deep", help="Also read all weights.")] = False,
    names: Names = None,
    config: Config = None,
    base: Base = None,
    follow_links: FollowLinks = False,
    model: Model = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Find checkpoints of a run that are damaged or mislabelled; exit code 1 if there are any."""
    from flows.console import show_progress
    from pipeline.auditing import audit as run_audit

    given, layout = parse_model(model), run_layout(names, config, follow_links, base)
    print_conversion_notes(uri, given, layout)
    with show_progress("audit") as progress:
        verdict = run_audit(uri, deep, progress, given, layout)
    for note in verdict.notes:
        say(f"note: {note}", err=True)
    if as_json:
        say_json(verdict.as_json())
    else:
        if verdict.faults:
            rows = [[str(fault.step), fault.kind, fault.detail] for fault in verdict.faults]
            print_table(["step", "kind", "detail"], rows)
        say(verdict.sentence())
        print_left_out(verdict.left_out)
    if verdict.faults:
        raise typer.Exit(1)
