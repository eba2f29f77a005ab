"""Commands that answer questions over all checkpoints of stores: `transitions`, `losses`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, app
from flows.cli.output import print_table, say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@app.command()
def losses(
    store: str,
    group: Annotated[str, typer.Option(help="The group of the losses.")] = "token_loss",
    as_json: Json = False,
) -> None:
    """Print what the losses of a run say: loss space, in-context score, derivative, tokens.

    See docs/losses.md for the definitions, and for more in Python.
    """
    from pipeline.query.losses import loss_answers

    found = loss_answers(store, group)
    if as_json:
        say_json(found)
        return
    for line in _loss_lines(found):
        say(line)


def _loss_lines(found: "dict[str, Any]") -> "Iterator[str]":
    space, context, steep, tokens = (
        found[key] for key in ("space", "in_context", "derivative", "tokens")
    )
    shares = ", ".join(f"{share:.1%}" for share in space["shares"])
    yield f"Loss space: the first components explain {shares} of the variance over checkpoints."
    verdicts = ", ".join(
        f"{verdict} for {of}" for of, verdict in space["first_is_overall_loss"].items()
    )
    yield f'"The first component is overall loss": {verdicts}.'
    where, p = f"step {space['corner_candidate']:,}", f"p = {space['corner_p']:.2g}"
    yield (
        f"The trajectory turns a corner at {where} ({p} under random walks)."
        if space["corner"] is not None
        else f"No corner beyond those of random walks (sharpest at {where}, {p})."
    )
    yield (
        f"In-context score at step {context['step']:,} (loss at token {context['late_token']} "
        f"minus token {context['early_token']}): {context['score']:.3f} nats, standard error "
        f"{context['standard_error']:.3f}."
    )
    yield (
        f"Steepest at step {steep['step']:,}: {steep['derivative']:.2f} nats per e-fold of "
        f"{steep['axis']} (90% interval {steep['low']:.2f} to {steep['high']:.2f}, bandwidth "
        f"{steep['bandwidth']:g})."
    )
    age = (
        "" if tokens["median_age"] is None else f", the median at step {tokens['median_age']:,.0f}"
    )
    yield f"{tokens['with_age']:,} of {tokens['tokens']:,} tokens have an age of acquisition{age}."
    if tokens["forgotten_share"] is not None:
        yield (
            f"{tokens['forgotten_share']:.0%} of the {tokens['learned']:,} tokens that were "
            "learned were forgotten at least once."
        )
    if space["left_out"]:
        yield f"Left out, as not finite: {', '.join(map(str, space['left_out']))}."
