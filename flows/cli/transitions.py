"""`ontogeny transitions`: the sudden changes of every series of a store, or of several."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import DaskAddress, Json, app
from flows.cli.output import print_table, say, say_json
from flows.cli.query import Origin, parse_origin
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Table = Any  # a DataFrame: pandas is not imported before a command needs it
Axis = Annotated[
    str | None,
    typer.Option(
        metavar="AXIS", help="Compare the runs on this axis: steps, tokens or origin (--origin)."
    ),
]


@app.command()
def transitions(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...")],
    smallest: Annotated[
        float, typer.Option(help="Leave out changes of a smaller amplitude.", min=0)
    ] = 0.0,
    axis: Axis = None,
    origin: Origin = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Say which changes coincide, what share of heads changes in steps, and what rose "
            "and fell.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="A file for the whole table: .csv, .json or .parquet.")
    ] = None,
    dask_address: DaskAddress = None,
    as_json: Json = False,
) -> None:
    """Print the sudden changes of every series of a store: when, how large, how certain.

    A series is a number over checkpoints, such as the mean loss or one score of one head. With
    --axis, print the same changes of several runs side by side, and their spread. See
    docs/transitions.md for the rule, and for how often it errs.
    """
    if together and (axis is not None or origin or output):
        raise InputError("--together takes no --axis, --origin or --output: ask for one of them")
    from pipeline.query.dask_client import dask_scheduler
    from pipeline.query.tables import format_of

    if output is not None:
        format_of(output)  # an unknown suffix is refused before anything is read

    with dask_scheduler(dask_address):
        if together:
            _together(stores, as_json)
        elif axis is not None or origin:
            parsed = parse_origin(origin or [])
            _side_by_side(stores, axis or "origin", parsed, smallest, output, as_json)
        else:
            _each(stores, smallest, output, as_json)


def _together(stores: list[str], as_json: bool) -> None:
    from flows.cli.together import together_lines
    from pipeline.query.together import together_answers

    found = together_answers(stores)
    if as_json:
        say_json(found)
    else:
        for line in together_lines(found):
            say(line)


def _each(stores: list[str], smallest: float, output: Path | None, as_json: bool) -> None:
    """Print every transition of every store."""
    from pipeline.query.tables import write_file
    from pipeline.query.transitions import stored_transitions, transition_table

    found = stored_transitions(stores)
    table: Table = transition_table(found)
    table = table[table["amplitude"].abs() >= smallest]
    shapes = Counter(str(shape) for shape in found["shape"].values)
    if output is not None:
        write_file(table, output)
    if as_json:
        about = {"shapes": shapes, "left_out": found.attrs["left_out"]}
        say_json(about | {"transitions": _records(table)})
        return
    _print(table, several=len(stores) > 1)
    say(
        f"{found.sizes['series']} series: {shapes['sudden']} change suddenly, {shapes['smooth']} "
        f"smoothly, {shapes['none']} not at all; {shapes['cannot tell']} cannot be told."
    )
    if replaced := int(found["spikes"].sum()):
        say(f"Values replaced, as spikes: {replaced}.")
    if missing := int(found["not_finite"].sum()):
        say(f"Values left out, as not finite: {missing}.")
    if (hidden := shapes["sudden"] - table.drop_duplicates(_SERIES).shape[0]) > 0:
        say(f"Of those that change suddenly, {hidden} only by less than {smallest:g}.")
    _say_left_out(found.attrs["left_out"])


_SERIES = ["run", "group", "variable", "layer", "head"]
_EVENT = ["group", "variable", "layer", "change"]


def _print(table: Table, several: bool) -> None:
    columns = ["series", "midpoint (90%)", "onset, end", "amplitude", "above null"]
    rows = []
    for row in table.itertuples():
        cells = [
            f"{row.group}/{row.variable} {_head(row.layer, row.head)}",
            f"{row.midpoint:,.0f} ({row.midpoint_low:,.0f} to {row.midpoint_high:,.0f})",
            f"{row.onset:,.0f}, {row.end:,.0f}",
            f"{row.amplitude:+.3g}",
            _number(row.excess_after, "+.2f"),
        ]
        rows.append([row.run, *cells] if several else cells)
    print_table(["run", *columns] if several else columns, rows)


def _side_by_side(
    stores: list[str],
    axis: str,
    origin: "Mapping[str, float] | str | None",
    smallest: float,
    output: Path | None,
    as_json: bool,
) -> None:
    from pipeline.query.side_by_side import event_table, events_of_runs, spread_table
    from pipeline.query.tables import write_file

    made = events_of_runs(stores, axis, origin)
    each: Table = event_table(made)
    spread: Table = spread_table(made)
    largest = each.assign(size=each["amplitude"].abs()).groupby(_EVENT)["size"].max()
    kept = set(largest.index[largest >= smallest])
    each, spread = (
        one.loc[[key in kept for key in one[_EVENT].itertuples(index=False, name=None)]]
        for one in (each, spread)
    )
    if output is not None:
        write_file(each, output)
    if as_json:
        names = ("axis", "rule", "spread", "left_out", "origin")
        about = {name: made.attrs[name] for name in names if name in made.attrs}
        say_json(about | {"events": _records(each), "over_runs": _records(spread)})
        return
    _print_events(each, spread, made.attrs["axis"], made.sizes["set"] > 1)
    if not len(each):
        say("No series of these runs changes suddenly.")
    if (hidden := len(largest) - len(kept)) > 0:
        say(f"Left out: {hidden} events of less than {smallest:g} in every run.")
    say(made.attrs["spread"])
    say(made.attrs["rule"])
    _say_left_out(made.attrs["left_out"])


def _print_events(each: Table, spread: Table, axis: str, sets: bool) -> None:
    """Print each event: its place in each run that has it, and the spread over the runs."""
    from pipeline.query.side_by_side import event_name

    wide = max((len(run) for run in each["run"]), default=0)
    for key in spread[_EVENT].drop_duplicates().itertuples(index=False, name=None):
        say(f"{event_name(*key)} ({axis}, 90% interval)")
        for row in each[_is(each, key)].sort_values("place").itertuples():
            between = f"({_place(row.place_low)} to {_place(row.place_high)})"
            head = _head(row.layer_of, row.head_of)
            say(f"  {row.run:{wide}}  {_place(row.place):>11} {between}  {head}".rstrip())
        for row in spread[_is(spread, key)].itertuples():
            say(f"  {_spread(row, sets, axis)}")
        say("")


def _spread(row: "Any", sets: bool, axis: str) -> str:
    """Return a sentence on one set of runs."""
    of = f"{row.set}: " if sets else ""
    text = f"{of}{row.having} of {row.stored} runs, median {_place(row.median)}"
    if row.having > 1:
        text += (
            f", from {_place(row.first)} to {_place(row.last)}, standard deviation "
            f"{row.deviation:.3f} decades (the interval of one run: {row.uncertainty:.3f})"
        )
    if axis.endswith("since origin"):
        text += f", lag {_number(row.lag, '+.3f')} decades"
    return text


def _is(table: Table, key: "tuple[object, ...]") -> Any:
    return (table[_EVENT] == list(key)).all(axis=1)


def _records(table: Table) -> list[dict[str, object]]:
    """Return rows for JSON, undefined numbers as null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _head(layer: int, head: int) -> str:
    return "" if layer < 0 else f"L{layer}" + (f"H{head}" if head >= 0 else "")


def _place(value: float) -> str:
    return "?" if value != value else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"


def _number(value: float, form: str) -> str:
    return "" if value != value else format(value, form)


def _say_left_out(names: list[str]) -> None:
    if names:
        say(f"Left out, as they are no series over steps: {', '.join(names)}.", err=True)
