"""Commands about stores, which need neither checkpoints nor workers: query and report."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import Json, app
from pipeline.errors import InputError


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
def sweep(
    stores: Annotated[str, typer.Argument(metavar="STORES", help="A folder of stores, or one.")],
    as_json: Json = False,
) -> None:
    """Table when each run of a sweep of modular arithmetic memorised and generalised."""
    from pipeline.sweeps import grokking_table, stores_in

    table = grokking_table(stores_in(stores))
    if as_json:
        typer.echo(table.to_json(orient="records", indent=1))
    else:
        typer.echo(table.to_string(index=False, na_rep="-", float_format="{:.3g}".format))


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
