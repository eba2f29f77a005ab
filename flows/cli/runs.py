"""Commands about runs: train one, list its checkpoints, audit them, analyse it."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, app, print_table
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.analysis.summary import Summary
    from pipeline.checkpoints import LeftOut
    from pipeline.config import Analysis


Model = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=VALUE", help="What .pth files do not say, as `model` of an analysis."
    ),
]


@app.command()
def demo() -> None:
    """Train two small models into ./demo, analyse all their checkpoints, say what formed when."""
    from flows.console import progress_of
    from flows.demo import demonstrate

    with redirect_stdout(io.StringIO()):
        shown = demonstrate(progress_of)
    for preset, sentences in shown.findings.items():
        typer.echo(f"\n{preset}")
        for sentence in sentences:
            typer.echo(f"  - {sentence}")
    typer.echo(f"\nReport: {shown.page}")
    typer.echo("The runs in Prefect: `ontogeny ui`, then http://127.0.0.1:4200/runs")
    _exit_by(*shown.summaries.values())


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    output: Annotated[str | None, typer.Option(help="The run's folder.")] = None,
) -> None:
    """Train a model organism and save its checkpoints; an interrupted run goes on."""
    from flows.console import progress_of
    from pipeline.training import train as train_organism
    from pipeline.training.sweep import load_trainings

    trainings = load_trainings(config)
    if output and len(trainings) > 1:
        raise InputError(f"{config}: is a sweep, each run has its own folder: leave --output out")
    for training in trainings:
        chosen = training.model_copy(update={"output": output} if output else {})
        with progress_of(f"train {chosen.name}") as step:
            folder = train_organism(
                chosen,
                lambda done, total, loss, step=step: step(done, total, f"loss {loss:.3g} nats"),
            )
        typer.echo(str(folder))


@app.command()
def checkpoints(
    uri: str,
    tokens_per_step: Annotated[
        int | None, typer.Option(help="Where the run does not say it.", min=1)
    ] = None,
    model: Model = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """List the checkpoints of a run, in order of step, and what is left out of the list."""
    from pipeline.analysis.survey import list_with_tokens

    given = _fields(model)
    _tell_notes(uri, given)
    listing = list_with_tokens(uri, tokens_per_step, given)
    if as_json:
        typer.echo(json.dumps({"uri": uri, **listing.as_json()}, indent=1))
        return
    print_table(
        ["step", "tokens_seen", "uri"],
        [[str(c.step), str(c.tokens_seen or ""), c.uri] for c in listing.checkpoints],
    )
    _tell_left_out(listing.left_out)


def _fields(model: list[str]) -> dict[str, Any]:
    """The fields that are given as `--model NAME=VALUE`; a value is read as in YAML."""
    import yaml

    from pipeline.config import saved_model

    pairs = [one.partition("=") for one in model]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise InputError(f"--model {wrong[0]}: expected NAME=VALUE, as in act_fn=relu")
    return saved_model({name: yaml.safe_load(value) for name, _, value in pairs}, "--model")


def _tell_notes(uri: str, model: dict[str, Any]) -> None:
    """Say on stderr what is left out of a run of `.pth` files."""
    from pipeline.checkpoints.foreign import conversion_notes, converted_uri

    for note in conversion_notes(converted_uri(uri, model)):
        typer.echo(f"note: {note}", err=True)


@app.command()
def audit(
    uri: str,
    deep: Annotated[
        bool, typer.Option(help="Read all weights too: what only the bytes can show.")
    ] = False,
    model: Model = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Say which checkpoints of a run are not what they seem; exit code 1 if there are any."""
    from flows.console import progress_of
    from pipeline.auditing import audit as audited

    given = _fields(model)
    _tell_notes(uri, given)
    with progress_of("audit") as step:
        verdict = audited(uri, deep, step, given)
    if as_json:
        typer.echo(json.dumps(verdict.as_json(), indent=1))
    else:
        if verdict.faults:
            rows = [[str(fault.step), fault.kind, fault.detail] for fault in verdict.faults]
            print_table(["step", "kind", "detail"], rows)
        typer.echo(verdict.sentence())
        _tell_left_out(verdict.left_out)
    if verdict.faults:
        raise typer.Exit(1)


@app.command()
def analyze(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a preset.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A packaged analysis, in place of a file.")
    ] = None,
    serial: Annotated[
        bool, typer.Option(help="In this process alone, without Ray and Prefect.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute what the store lacks, write the report, and say what was found.

    A Prefect flow over Ray workers; with --serial, one checkpoint after another in this process, as
    the function pipeline.analyze does. Both write the same store.
    """
    from flows.cli.stores import sweep
    from pipeline.config import load_analysis, load_preset
    from pipeline.query.sweeps import analyses_of

    if (config is None) == (preset is None):
        raise InputError("analyze: give a YAML file, or --preset with a name")
    analyses = analyses_of(load_analysis(config) if config else load_preset(str(preset)))
    if dry_run:
        _tell_estimates(analyses, as_json)
        return
    done = [_analyzed_here(one) if serial else _analyzed_by_flow(one) for one in analyses]
    told = [{**asdict(summary), "report": str(page)} for summary, page in done]
    if len(analyses) == 1:
        typer.echo(json.dumps(told[0], indent=1)) if as_json else _tell(*done[0])
    elif as_json:
        typer.echo(json.dumps(told, indent=1))
    else:
        for summary, page in done:
            _tell(summary, page)
    if len(analyses) > 1 and "modular_addition" in analyses[0].measures and not as_json:
        sweep(analyses[0].store.rpartition("/")[0])
    _exit_by(*(summary for summary, _ in done))


def _tell_estimates(analyses: "list[Analysis]", as_json: bool) -> None:
    from pipeline.analysis.estimate import dry_run

    estimates = [dry_run(analysis) for analysis in analyses]
    if as_json:
        told = [asdict(estimate) for estimate in estimates]
        typer.echo(json.dumps(told[0] if len(told) == 1 else told, indent=1))
    else:
        for analysis, estimate in zip(analyses, estimates, strict=True):
            print_table(["takes", analysis.store], [list(row) for row in estimate.rows()])
            for note in estimate.notes:
                typer.echo(f"note: {note}")
    failed = [reason for estimate in estimates for reason in estimate.failed.values()]
    for reason in failed:
        typer.echo(reason, err=True)
    if failed:
        raise typer.Exit(1)


def _analyzed_here(analysis: "Analysis") -> "tuple[Summary, Path]":
    from flows.console import progress_of
    from flows.reporting import write_beside
    from pipeline.analysis.run import analyze

    with progress_of("analyse") as step:
        summary = analyze(analysis, step)
    return summary, write_beside(analysis.store)


def _analyzed_by_flow(analysis: "Analysis") -> "tuple[Summary, Path]":
    from flows.analyze import run_analysis
    from flows.console import progress_of
    from flows.reporting import page_of

    # Ray prints what it makes of a lost worker; ours is told by its task, and by the summary.
    with progress_of("analyse") as step, redirect_stdout(io.StringIO()):
        return run_analysis(analysis, step), page_of(analysis.store)


def _tell(summary: "Summary", page: Path) -> None:
    from pipeline.findings import findings

    typer.echo(summary.sentence())
    _tell_left_out(summary.left_out)
    for exception in summary.exceptions():
        typer.echo(f"  {exception}")
    for note in summary.notes:
        typer.echo(f"note: {note}")
    if summary.drawn_from:
        typer.echo(summary.drawn())
    if summary.computed:
        typer.echo(summary.loading())
    for group, why in summary.undefined.items():
        typer.echo(f"  ! {group}: {why}")
    for sentence in findings(summary.store):
        typer.echo(f"  - {sentence}")
    typer.echo(f"Report: {page}")


def _tell_left_out(left_out: "Iterable[LeftOut]") -> None:
    """One line a kind, on stderr: what was asked for is on stdout."""
    from pipeline.checkpoints.left_out import in_lines

    for line in in_lines(left_out):
        typer.echo(f"left out, {line}", err=True)


def _exit_by(*summaries: "Summary") -> None:
    """Each failure by name on stderr, and exit code 1 if there is one, or what is not finite."""
    for summary in summaries:
        for _, reason in sorted(summary.failed.items()):
            typer.echo(reason, err=True)
        if not summary.worked:
            typer.echo(summary.sentence(), err=True)
    if not all(summary.worked for summary in summaries):
        raise typer.Exit(1)
