"""Commands that only read stores: `ontogeny report` and `sweep`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import say, say_json, say_lines
from pipeline.errors import InputError


@app.command()
def report(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...")],
    output: Annotated[
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

    if output is not None and (output / "index.html").exists() and not is_site(output):
        raise InputError(f"{output}: holds an index.html of something else: choose another folder")
    with results_not_stored() if in_progress else nullcontext():
        if figures is not None:  # first: without matplotlib nothing is written
            write_figures(stores, figures)
        say(str(write_report(stores, output or report_folder(stores[0], len(stores) - 1))))


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
