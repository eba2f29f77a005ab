"""The command `ontogeny experiment`: claims of the field, tested by training small models."""

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import print_table, say, say_error, say_json
from pipeline.errors import InputError

if TYPE_CHECKING:
    from flows.experiments import Settings
    from pipeline.experiments.experiment import Experiment, Outcome


@app.command()
def experiment(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Experiments, or `all`.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the claims, and end.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds, shorter runs.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of all runs and pages.")] = Path("experiments"),
    table: Annotated[
        Path | None, typer.Option(help="Write the table of claims to this file, as Markdown.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Train on this UTF-8 file, instead of Python's standard library."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time (default: one per core).")
    ] = None,
    serial: Annotated[
        bool, typer.Option(help="Compute in this process, without Ray and Prefect.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Test claims of the field: train models, analyse them, and print what holds.

    Finished runs are kept and used again; an interrupted one is continued. Exit code 1 if an
    experiment could not be carried out.
    """
    from flows.experiments import Settings
    from pipeline.experiments.registry import EXPERIMENTS, chosen_experiments

    if listed:
        _print_claims(list(EXPERIMENTS.values()), as_json)
        return
    if not names:
        raise InputError("name an experiment, or `all`: `ontogeny experiment --list` names them")
    chosen = chosen_experiments(names)
    settings = Settings(out, quick, _file(text), workers or os.cpu_count() or 1)
    outcomes, errors = _carried_out(chosen, settings, serial)
    _write(outcomes, out, table, _command(names, quick, text))
    if as_json:
        from pipeline.experiments.table import as_json as in_json

        say_json([in_json(one) for one in outcomes])
    else:
        _print_findings(outcomes)
    for error in errors:
        say_error(error)
    if errors:
        raise typer.Exit(1)


def _file(text: Path | None) -> str | None:
    if text is not None and not text.is_file():
        raise InputError(f"{text}: there is no such file: give a text file")
    return None if text is None else str(text.resolve())


def _print_claims(experiments: "Sequence[Experiment]", as_json: bool) -> None:
    claims = [(one.name, claim) for one in experiments for claim in one.claims]
    if as_json:
        say_json(
            [
                {"experiment": name, "claim": claim.name, "sentence": claim.sentence,
                 "source": claim.source}
                for name, claim in claims
            ]
        )  # fmt: skip
        return
    print_table(["experiment", "claim"], [[name, claim.sentence] for name, claim in claims])


def _carried_out(
    experiments: "Sequence[Experiment]", settings: "Settings", serial: bool
) -> "tuple[list[Outcome], list[Exception]]":
    """Carry out experiments; return the outcomes, and the errors of those that failed."""
    from flows.console import show_progress
    from flows.experiments import run_experiments, run_serially

    outcomes: list[Outcome] = []
    errors: list[Exception] = []
    run = run_serially if serial else run_experiments
    # Ray prints messages of its workers to stdout; their errors are in the outcomes.
    with redirect_stdout(io.StringIO()):
        for found in run(experiments, settings, show_progress):
            if isinstance(found, Exception):
                errors.append(found)
            else:
                outcomes.append(found)
    return outcomes, errors


def _command(names: Sequence[str], quick: bool, text: Path | None) -> str:
    """Return the command that was given, without the places that it writes to."""
    options = ["--quick"] * quick + ([f"--text {text.name}"] if text else [])
    return " ".join(["ontogeny experiment", *names, *options])


def _write(outcomes: "Sequence[Outcome]", out: Path, table: Path | None, command: str) -> None:
    from pipeline.experiments.page import write_claims
    from pipeline.experiments.table import markdown_page

    if not outcomes:
        return
    page = write_claims(outcomes, out / "report", command)
    say(f"Claimed against found: {page}", err=True)
    if table is not None:
        table.write_text(markdown_page(outcomes, command), encoding="utf-8")
        say(f"Table: {table}", err=True)


def _print_findings(outcomes: "Sequence[Outcome]") -> None:
    from pipeline.experiments.table import COLUMNS, finding_row

    rows = [finding_row(one) for outcome in outcomes for one in outcome.findings]
    print_table(list(COLUMNS), [[row[column] for column in COLUMNS] for row in rows])
    if any(one.quick for one in outcomes):
        say("Quick: with fewer seeds and shorter runs than `ontogeny experiment` without --quick.")
