"""Commands that only read stores: `ontogeny query`, `report` and `sweep`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, app
from flows.cli.output import say, say_json, say_lines
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    import xarray as xr


Labels = Annotated[
    str | None, typer.Option(metavar="LABELS", help="One label, a range 0:1000, or a list 1,2,4.")
]
At = Annotated[
    list[str] | None, typer.Option(metavar="DIMENSION=LABELS", help="Any other dimension.")
]
Mean = Annotated[
    list[str] | None, typer.Option(metavar="DIMENSION", help="Average over it, in float64.")
]
Where = Annotated[
    str | None, typer.Option(metavar="CONDITION", help='"induction > 0.4 and layer >= 2"')
]
Origin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN=STEP",
        help="The step (or tokens) that becomes 0 for a run, or a condition for the first such "
        'step: "head_scores/induction - induction_null > 0.3".',
    ),
]


@app.command()
def query(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...")],
    address: Annotated[str, typer.Argument(metavar="GROUP/VARIABLE")],
    step: Labels = None,
    layer: Labels = None,
    head: Labels = None,
    sequence: Labels = None,
    position: Labels = None,
    at: At = None,
    mean: Mean = None,
    where: Where = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    descending: Annotated[bool, typer.Option("--descending", help="The largest first.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows.")] = None,
    align: Annotated[
        str, typer.Option(help="Align several stores on step or tokens_seen.")
    ] = "step",
    origin: Origin = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Allow stores measured differently.")
    ] = False,
    dask_address: Annotated[
        str | None, typer.Option(help="Dask scheduler that computes means.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="table, csv, json or parquet.")] = None,
    as_json: Json = False,
    output: Annotated[Path | None, typer.Option(help="A file, instead of the terminal.")] = None,
) -> None:
    """Print one variable of a store, or of several side by side.

    Labels select first; then follow means, the condition, sorting and the limit. Without --format,
    the suffix of the output's name says the format.
    """
    from pipeline.query import Asked, ask
    from pipeline.query.dask_client import dask_scheduler

    by_name = {"step": step, "layer": layer, "head": head, "sequence": sequence}
    selection = _parse_labels(by_name | {"position": position}, at or [])
    asked = Asked(mean or (), where, sort, descending, limit)
    with dask_scheduler(dask_address):
        tree = _open(stores, align, origin, mixed)
        pieces = ask(tree, address, asked, **selection)
        _write(pieces, format or ("json" if as_json else _format_of(output)), output)


def _parse_labels(given: "dict[str, str | None]", at: list[str]) -> dict[str, Any]:
    """Parse the labels of each dimension, as given by its own option or by --at."""
    from pipeline.query import parse_selection

    labels = {dim: text for dim, text in given.items() if text is not None}
    labels |= dict(_split_pair("--at", text) for text in at)
    return {dim: parse_selection(text) for dim, text in labels.items()}


def _write(pieces: "Iterator[pd.DataFrame]", format: str, output: Path | None) -> None:
    """Write a table to a file, or to stdout."""
    from pipeline.query import write

    if output is None:
        write(pieces, format, sys.stdout)
        return
    with output.open("wb" if format == "parquet" else "w") as stream:
        write(pieces, format, stream)


def _open(stores: list[str], align: str, origin: list[str] | None, mixed: bool) -> "xr.DataTree":
    """Open one store as it is, several as a collection with the dimension `run`."""
    from pipeline.query import open_runs
    from pipeline.query.trainer_log import open_with_trainer_log

    if len(stores) == 1:
        return open_with_trainer_log(stores[0])
    parsed = parse_origin(origin or [])
    return open_runs(stores, align, parsed, mixed)


def parse_origin(given: list[str]) -> dict[str, float] | str | None:
    """Return a condition for all runs, or the origin of each run. Raises InputError if neither."""
    if len(given) == 1 and set("<>") & set(given[0]):
        return given[0]
    origins = dict(_split_pair("--origin", text) for text in given)
    return {run: _number(f"--origin {run}", text) for run, text in origins.items()} or None


def _split_pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        expected = "RUN=STEP" if option == "--origin" else "DIMENSION=LABELS, as in frequency=7"
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
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder. By default, one beside the first store."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder for figures for papers, too: PDF, SVG and PNG."),
    ] = None,
    in_progress: Annotated[
        bool,
        typer.Option("--in-progress", help="Of runs that still go on: store no results in them."),
    ] = False,
) -> None:
    """Write a site of one or several runs, with a page for every head; print the page to open.

    Its pages need no server and no network: copy the folder to wherever they are to be read.
    """
    from contextlib import nullcontext

    from flows.reporting import report_folder
    from pipeline.query.aggregates import results_not_stored
    from pipeline.report import write_report
    from pipeline.report.paper.write import write_figures
    from pipeline.report.site.folder import is_site

    if out is not None and (out / "index.html").exists() and not is_site(out):
        raise InputError(f"{out}: holds an index.html of something else: choose another folder")
    with results_not_stored() if in_progress else nullcontext():
        if figures is not None:  # first: without matplotlib nothing is written
            write_figures(stores, figures)
        say(str(write_report(stores, out or report_folder(stores[0], len(stores) - 1))))


@app.command()
def sweep(
    stores: Annotated[
        str, typer.Argument(metavar="STORES", help="A folder of stores, or one store.")
    ],
    as_json: Json = False,
) -> None:
    """Print when each run of a sweep of modular arithmetic memorised and generalised."""
    from pipeline.query.sweeps import grokking_table, stores_in

    table = grokking_table(stores_in(stores))
    if as_json:
        say_json(json.loads(str(table.to_json(orient="records"))))
    else:
        # pandas has no placeholder of its own for missing integers.
        shown = table.astype(object).where(table.notna(), "-")
        say_lines(shown.to_string(index=False, float_format="{:.3g}".format))
