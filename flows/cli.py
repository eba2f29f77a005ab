"""The command `ontogeny`: the one module that sees everything.

Exit codes: 0 only when all of it worked, 1 where some checkpoints could not be analysed, 2 where
what was asked for cannot be done as it stands, 130 after an interruption.
"""

import io
import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.config import Analysis
    from pipeline.main import Summary

# Each command imports what it needs: a word of help should not wait for torch, Prefect and Ray.
# What these have to say in passing goes to the run's log (see the Prefect UI), not to the user.
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class _Commands(TyperGroup):
    """Turns what the user can put right into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: what was computed is kept, run it again to go on", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="When did each mechanism inside a language model form? Read it from its checkpoints.",
)

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for a program.")]


@app.callback()
def _main() -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


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
    typer.echo("The runs in Prefect: `prefect server start`, then http://127.0.0.1:4200/runs")
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
def checkpoints(uri: str, as_json: Json = False) -> None:
    """List the checkpoints of a run, in order of step."""
    from pipeline.checkpoints import list_checkpoints

    found = list_checkpoints(uri)
    if as_json:
        typer.echo(json.dumps([asdict(checkpoint) for checkpoint in found], indent=1))
        return
    _print_table(
        ["step", "tokens_seen", "uri"],
        [[str(c.step), str(c.tokens_seen or ""), c.uri] for c in found],
    )


@app.command()
def analyze(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    serial: Annotated[
        bool, typer.Option(help="In this process alone, without Ray and Prefect.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute what the store lacks, write the report, and say what was found."""
    from pipeline.config import load_analysis
    from pipeline.sweeps import analyses_of, grokking_table

    analyses = analyses_of(load_analysis(config))
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
        typer.echo(grokking_table(analyses).to_string(index=False, na_rep="-"))
    _exit_by(*(summary for summary, _ in done))


def _analyzed_here(analysis: "Analysis") -> "tuple[Summary, Path]":
    from flows.console import progress_of
    from flows.reporting import write_beside
    from pipeline.main import analyze

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
    from pipeline.report import findings

    typer.echo(summary.sentence())
    for sentence in findings(summary.store):
        typer.echo(f"  - {sentence}")
    typer.echo(f"Report: {page}")


def _exit_by(*summaries: "Summary") -> None:
    """Each failure by name on stderr, and exit code 1 if there is one."""
    for summary in summaries:
        for _, reason in sorted(summary.failed.items()):
            typer.echo(reason, err=True)
        if summary.failed:
            typer.echo(summary.sentence(), err=True)
    if any(summary.failed for summary in summaries):
        raise typer.Exit(1)


@app.command()
def query(
    store: str,
    address: Annotated[str, typer.Argument(metavar="GROUP/VARIABLE")],
    step: Annotated[str | None, typer.Option(help="512, 0:1000, or 1,2,4")] = None,
    layer: Annotated[str | None, typer.Option()] = None,
    head: Annotated[str | None, typer.Option()] = None,
    sequence: Annotated[str | None, typer.Option()] = None,
    position: Annotated[str | None, typer.Option()] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="DIMENSION=LABEL", help="Any other dimension.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="table, csv, json or parquet; else as the output's name says")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A file, in place of the terminal.")] = None,
) -> None:
    """Print one variable of a store, selected by the labels of its dimensions."""
    from pipeline.query import open_run, parse_selection, select, to_frame, write

    given = {
        "step": step, "layer": layer, "head": head, "sequence": sequence, "position": position,
    }  # fmt: skip
    labels = {dim: label for dim, label in given.items() if label is not None}
    labels |= dict(_dimension_and_label(text) for text in where or [])
    chosen = select(
        open_run(store), address, **{dim: parse_selection(text) for dim, text in labels.items()}
    )
    format = format or (output.suffix.removeprefix(".") if output else "table")
    if output is None:
        write(to_frame(chosen), format, sys.stdout)  # pyright: ignore[reportArgumentType]
        return
    with output.open("wb" if format == "parquet" else "w") as stream:
        write(to_frame(chosen), format, stream)  # pyright: ignore[reportArgumentType]


def _dimension_and_label(text: str) -> tuple[str, str]:
    dim, equals, label = text.partition("=")
    if not equals:
        raise InputError(f"--where {text}: expected DIMENSION=LABEL, as in --where frequency=7")
    return dim, label


@app.command()
def report(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...")],
    output: Annotated[Path | None, typer.Option(help="A folder.")] = None,
) -> None:
    """Write the report of one or several stores and print the page to open."""
    from flows.reporting import report_folder
    from pipeline.report import write_report

    typer.echo(str(write_report(stores, output or report_folder(stores[0]))))


@app.command()
def measures(as_json: Json = False) -> None:
    """List the measures: what they compute, from what input, with which parameters."""
    from pipeline.measures import describe

    described = describe()
    if as_json:
        typer.echo(json.dumps(described, indent=1))
        return
    for measure in described:
        typer.echo(f"{measure['name']} (version {measure['version']})")
        typer.echo(f"  input: {measure['default_input'] or 'none, it reads weights only'}")
        for name, default in measure["parameters"].items():
            typer.echo(f"  parameter {name} = {default}")
        for variable in measure["variables"]:
            typer.echo(f"  {variable['name']} ({', '.join(variable['dims'])}) [{variable['unit']}]")
            typer.echo(f"      {variable['definition']}")


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)
