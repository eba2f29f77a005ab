"""Commands about stores, which need neither checkpoints nor workers: query and report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Json, app
from pipeline.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


@app.command()
def query(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...")],
    address: Annotated[str, typer.Argument(metavar="GROUP/VARIABLE")],
    step: Annotated[str | None, typer.Option(help="512, 0:1000, or 1,2,4")] = None,
    layer: Annotated[str | None, typer.Option()] = None,
    head: Annotated[str | None, typer.Option()] = None,
    sequence: Annotated[str | None, typer.Option()] = None,
    position: Annotated[str | None, typer.Option()] = None,
    at: Annotated[
        list[str] | None, typer.Option(metavar="DIMENSION=LABEL", help="Any other dimension.")
    ] = None,
    mean: Annotated[
        list[str] | None, typer.Option(metavar="DIMENSION", help="Average over it, in float64.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help='"induction > 0.4 and layer >= 2"')
    ] = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    descending: Annotated[bool, typer.Option("--descending", help="The largest first.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="The most rows.")] = None,
    align: Annotated[
        str, typer.Option(help="Several stores side by side: on step or tokens_seen.")
    ] = "step",
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN=PLACE",
            help="What becomes a run's zero; or when it was: "
            '"head_scores/induction - induction_null > 0.3".',
        ),
    ] = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Also stores that were not measured alike.")
    ] = False,
    dask_address: Annotated[
        str | None, typer.Option(help="A Dask scheduler that computes means; else threads here.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="table, csv, json or parquet; else as the output's name says")
    ] = None,
    as_json: Json = False,
    output: Annotated[Path | None, typer.Option(help="A file, in place of the terminal.")] = None,
) -> None:
    """Print one variable of a store, or of several side by side.

    Labels select first; then come means, the condition, sorting and the limit.
    """
    from pipeline.query import Asked, ask, parse_selection, write
    from pipeline.query.tables import computing_on

    given = {
        "step": step, "layer": layer, "head": head, "sequence": sequence, "position": position,
    }  # fmt: skip
    labels = {dim: label for dim, label in given.items() if label is not None}
    labels |= dict(_named("--at", text) for text in at or [])
    asked = Asked(mean or (), where, sort, descending, limit)
    format = format or ("json" if as_json else _format_of(output))
    with computing_on(dask_address):
        tree = _opened(stores, align, origin, mixed)
        selection = {dim: parse_selection(text) for dim, text in labels.items()}
        pieces = ask(tree, address, asked, **selection)
        if output is None:
            write(pieces, format, sys.stdout)
            return
        with output.open("wb" if format == "parquet" else "w") as stream:
            write(pieces, format, stream)


def _opened(stores: list[str], align: str, origin: list[str] | None, mixed: bool) -> "xr.DataTree":
    """One store as it is; several as a collection with the dimension `run`."""
    from pipeline.query import open_run
    from pipeline.query.collection import open_runs

    if len(stores) == 1:
        return open_run(stores[0])
    return open_runs(stores, align, _origin(origin or []), mixed)


def _origin(given: list[str]) -> dict[str, float] | str | None:
    """A moment that is the same for all runs, or the place of each."""
    if len(given) == 1 and set("<>") & set(given[0]):
        return given[0]
    places = dict(_named("--origin", text) for text in given)
    return {run: _number(f"--origin {run}", place) for run, place in places.items()} or None


def _named(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        expected = "RUN=PLACE" if option == "--origin" else "DIMENSION=LABEL, as in frequency=7"
        raise InputError(f"{option} {text}: expected {expected}")
    return name, value


def _number(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{what}={text}: expected a number of steps or tokens") from None


def _format_of(output: Path | None) -> str:
    return output.suffix.removeprefix(".") if output else "table"


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
    from pipeline.query.sweeps import grokking_table, stores_in

    table = grokking_table(stores_in(stores))
    if as_json:
        typer.echo(table.to_json(orient="records", indent=1))
    else:
        shown = table.astype(object).where(table.notna(), "-")
        typer.echo(shown.to_string(index=False, float_format="{:.3g}".format))
