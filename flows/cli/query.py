"""`ontogeny query`: print what stores hold, one variable of a store, or of several side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import DaskAddress, Json, app
from flows.cli.output import say
from flows.collector import uncollected_imports
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
    places: Annotated[list[str], typer.Argument(metavar="STORE... [GROUP[/VARIABLE]]")],
    step: Labels = None,
    layer: Labels = None,
    head: Labels = None,
    sequence: Labels = None,
    position: Labels = None,
    at: At = None,
    mean: Mean = None,
    where: Where = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="Order by it.")] = None,
    descending: Annotated[bool, typer.Option("--descending", help="The largest first.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows.")] = None,
    align: Annotated[
        str, typer.Option(help="Align several stores on step or tokens_seen.")
    ] = "step",
    origin: Origin = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Allow stores measured differently.")
    ] = False,
    dask_address: DaskAddress = None,
    format: Annotated[str | None, typer.Option(help="table, csv, json or parquet.")] = None,
    as_json: Json = False,
    output: Annotated[Path | None, typer.Option(help="A file, instead of the terminal.")] = None,
) -> None:
    """List what stores hold, or print one variable of a store, or of several side by side.

    Labels select first; then follow means, the condition, sorting and the limit. Without --format,
    the suffix of the output's name says the format.
    """
    with uncollected_imports():
        from pipeline.query import Asked, ask
        from pipeline.query.dask_client import dask_scheduler

    chosen = _chosen_format(format, as_json, output)
    stores, address = _split(places)
    by_name = {"step": step, "layer": layer, "head": head, "sequence": sequence}
    by_name |= {"position": position}
    labels = {dim: text for dim, text in by_name.items() if text is not None}
    if "/" not in address:
        comparing = origin or mixed or align != "step" or dask_address
        if labels or at or mean or where or sort or descending or limit or comparing:
            raise InputError("query: options about numbers need a variable: GROUP/VARIABLE")
        _list(stores, address or None, chosen, output)
        return
    selection = _parse_labels(labels, at or [])
    asked = Asked(mean or (), where, sort, descending, limit)
    with dask_scheduler(dask_address):
        tree = _open(stores, address.partition("/")[0], align, origin, mixed)
        _write(ask(tree, address, asked, **selection), chosen, output)


def _split(places: list[str]) -> tuple[list[str], str]:
    """Return the stores, and the group or variable that follows them; "" where none does."""
    last = places[-1]
    named_so = "://" in last or last.rstrip("/").endswith(".zarr")
    # Of the present layout, or of layout 1: any folder may have the name of a group.
    is_store = named_so or any((Path(last) / part).is_dir() for part in ("versions", "rows"))
    return (places, "") if is_store or len(places) == 1 else (places[:-1], last)


def _chosen_format(format: str | None, as_json: bool, output: Path | None) -> str:
    """Return the format that is asked for. Raises InputError for an unknown one."""
    from pipeline.query.tables import format_of, require_format

    if format is None and not as_json and output is not None:
        return format_of(output)
    return require_format(format or ("json" if as_json else "table"))


def _list(stores: list[str], group: str | None, format: str, output: Path | None) -> None:
    """Write the groups and variables of stores; what they leave out is said on stderr."""
    from pipeline.query.contents import contents, in_few_columns, notes
    from pipeline.query.trainer_log import open_with_trainer_log
    from pipeline.store.store_names import store_names

    trees = {name: open_with_trainer_log(uri) for name, uri in store_names(stores).items()}
    frame = contents(trees, group)
    if format == "table":
        frame = in_few_columns(frame)
    _write(iter([frame]), format, output)
    for sentence in notes(trees):
        say(f"note: {sentence}", err=True)


def _parse_labels(given: dict[str, str], at: list[str]) -> dict[str, Any]:
    """Parse the labels of each dimension, as given by its own option or by --at."""
    from pipeline.query import parse_selection

    labels = given | dict(_split_pair("--at", text) for text in at)
    return {dim: parse_selection(text) for dim, text in labels.items()}


def _write(pieces: "Iterator[pd.DataFrame]", format: str, output: Path | None) -> None:
    """Write a table to a file, or to stdout."""
    from pipeline.query.tables import write, write_file

    if output is None:
        write(pieces, format, sys.stdout)
    else:
        write_file(pieces, output, format)


def _open(
    stores: list[str], group: str, align: str, origin: list[str] | None, mixed: bool
) -> "xr.DataTree":
    """Open one store as it is, a group of several as a collection with the dimension `run`."""
    from pipeline.query import open_runs
    from pipeline.query.trainer_log import GROUP, open_with_trainer_log
    from pipeline.store.store_names import store_names

    if len(stores) == 1:
        return open_with_trainer_log(stores[0])
    if group == GROUP:
        raise InputError(f"query: {GROUP} is no measure, and not put side by side: give one store")
    tree = open_runs(stores, align, parse_origin(origin or []), mixed, [group])
    for run in store_names(stores).keys() - set(tree[group].to_dataset()["run"].values.tolist()):
        say(f"note: {run} has no group {group!r}: left out", err=True)
    return tree


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
