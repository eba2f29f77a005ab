"""`ontogeny transitions`: the sudden changes of every series of a store."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import print_table, say, say_json

if TYPE_CHECKING:
    import pandas as pd


@app.command()
def transitions(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...")],
    smallest: Annotated[
        float, typer.Option(help="Leave out changes of a smaller amplitude.", min=0)
    ] = 0.0,
    output: Annotated[Path | None, typer.Option(help="A CSV file for the whole table.")] = None,
    as_json: Json = False,
) -> None:
    """Print the sudden changes of every series of a store: when, how large, how certain.

    A series is a number over checkpoints, such as the mean loss or one score of one head. See
    docs/transitions.md for the rule, and for how often it errs.
    """
    from pipeline.query.transitions import stored_transitions, transition_table

    found = stored_transitions(stores)
    table = transition_table(found)
    table = table[table["amplitude"].abs() >= smallest]
    shapes = Counter(str(shape) for shape in found["shape"].values)
    if output is not None:
        table.to_csv(output, index=False)
    if as_json:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        say_json({"shapes": shapes, "left_out": found.attrs["left_out"], "transitions": rows})
        return
    _print(table, several=len(stores) > 1)
    say(
        f"{found.sizes['series']} series: {shapes['sudden']} change suddenly, {shapes['smooth']} "
        f"smoothly, {shapes['none']} not at all; {shapes['cannot tell']} cannot be told."
    )
    if (hidden := shapes["sudden"] - table.drop_duplicates(_SERIES).shape[0]) > 0:
        say(f"Of those that change suddenly, {hidden} only by less than {smallest:g}.")
    if found.attrs["left_out"]:
        say(f"No series, left out: {', '.join(found.attrs['left_out'])}.", err=True)


_SERIES = ["run", "group", "variable", "layer", "head"]


def _print(table: "pd.DataFrame", several: bool) -> None:
    columns = ["head", "midpoint (90%)", "onset, end", "amplitude", "above null", "series"]
    rows = []
    for row in table.itertuples():
        head = "" if row.layer < 0 else f"L{row.layer}" + (f"H{row.head}" if row.head >= 0 else "")
        cells = [
            head,
            f"{row.midpoint:,.0f} ({row.midpoint_low:,.0f} to {row.midpoint_high:,.0f})",
            f"{row.onset:,.0f}, {row.end:,.0f}",
            f"{row.amplitude:+.3g}",
            "" if row.excess_after != row.excess_after else f"{row.excess_after:+.2f}",
            f"{row.group}/{row.variable}",
        ]
        rows.append([row.run, *cells] if several else cells)
    print_table(["run", *columns] if several else columns, rows)
