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
from pipeline.errors import InputError, first_line

if TYPE_CHECKING:
    from flows.experiments import Settings
    from pipeline.experiments.experiment import Experiment, Outcome

_LEAST_TEXT = 8_000_000  # bytes, of which five-tokens reads 1,000 held-out sequences of 256 tokens


@app.command()
def experiment(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Experiments, or `all`.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the claims, and end.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds, shorter runs.")] = False,
    output: Annotated[Path, typer.Option(help="Folder of all runs and pages.")] = Path(
        "experiments"
    ),
    table: Annotated[
        Path | None, typer.Option(help="Write the table of claims to this file, as Markdown.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="Train on this UTF-8 file of at least 8 MB, not Python's standard library."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time (default: one per core).")
    ] = None,
    serial: Annotated[
        bool, typer.Option("--serial", help="Compute in this process, without Ray and Prefect.")
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
    settings = Settings(output, quick, _file(text), workers or os.cpu_count() or 1)
    _require_writable(table)
    outcomes, errors = _carried_out(chosen, settings, serial)
    _write(outcomes, errors, output / "report" / _report_name(names, quick), table,
           _command(names, quick, text))  # fmt: skip
    if as_json:
        from pipeline.experiments.table import as_json as in_json

        say_json([in_json(one) for one in outcomes])
    else:
        _print_findings(outcomes)
    for error in errors:
        say_error(InputError(error))
    if errors:
        raise typer.Exit(1)


def _file(text: Path | None) -> str | None:
    """Return the path of the text; InputError unless it has enough for all experiments."""
    if text is None:
        return None
    if not text.is_file():
        raise InputError(f"{text}: there is no such file: give a text file")
    if (size := text.stat().st_size) < _LEAST_TEXT:
        raise InputError(
            f"{text}: has {size / 1e6:.1f} MB, expected at least {_LEAST_TEXT / 1e6:.0f} MB: a "
            "tenth is held out, and must have the sequences that the experiments read"
        )
    return str(text.resolve())


def _require_writable(table: Path | None) -> None:
    """Raise InputError before the work, rather than after it."""
    if table is not None and not table.parent.is_dir():
        raise InputError(f"{table.parent}: there is no such folder for the table: make it first")


def _report_name(names: Sequence[str], quick: bool) -> str:
    return "-".join([*names, *["quick"] * quick])


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
) -> "tuple[list[Outcome], list[str]]":
    """Carry out experiments; return the outcomes, and a sentence for each that failed."""
    from flows.console import show_progress
    from flows.experiments import run_experiments, run_serially

    outcomes: list[Outcome] = []
    errors: list[str] = []
    run = run_serially if serial else run_experiments
    # Ray prints messages of its workers to stdout; their errors are in the outcomes.
    with redirect_stdout(io.StringIO()):
        made = run(experiments, settings, show_progress)
        for one, found in zip(experiments, made, strict=True):
            if isinstance(found, Exception):
                errors.append(f"{one.name}: {first_line(found)}")
            else:
                outcomes.append(found)
    return outcomes, errors


def _command(names: Sequence[str], quick: bool, text: Path | None) -> str:
    """Return the command that was given, without the places that it writes to."""
    options = ["--quick"] * quick + ([f"--text {text.name}"] if text else [])
    return " ".join(["ontogeny experiment", *names, *options])


def _write(
    outcomes: "Sequence[Outcome]", errors: Sequence[str], folder: Path, table: Path | None,
    command: str,
) -> None:  # fmt: skip
    from pipeline.experiments.page import write_claims
    from pipeline.experiments.table import markdown_page

    if not outcomes:
        return
    if any(one.stores for one in outcomes):
        page = write_claims(outcomes, errors, folder, command)
        say(f"Claimed against found: {page}", err=True)
    if table is not None:
        table.write_text(markdown_page(outcomes, errors, command), encoding="utf-8")
        say(f"Table: {table}", err=True)


def _print_findings(outcomes: "Sequence[Outcome]") -> None:
    from pipeline.experiments.table import COLUMNS, finding_row

    rows = [finding_row(one) for outcome in outcomes for one in outcome.findings]
    print_table(list(COLUMNS), [[row[column] for column in COLUMNS] for row in rows])
    if any(one.quick for one in outcomes):
        say("Quick: with fewer seeds and shorter runs than `ontogeny experiment` without --quick.")
