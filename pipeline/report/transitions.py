"""The section on transitions: when losses and heads change, and how suddenly."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import xarray as xr

from pipeline.aggregate.transitions import FEWEST
from pipeline.findings.number_format import number
from pipeline.query.transitions import joined, transition_table
from pipeline.report.interval_bars import Bar, interval_bars
from pipeline.report.plates import Plate, Section
from pipeline.report.theme import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILLION
from pipeline.report.trajectory import loss_space_plate
from pipeline.report.transition_rows import LEAST, counts, head_rows, loss_rows, row_label

MOST_ROWS = 30
_COLOURS = {
    "mean": INK, "in_context_score": VERMILLION, "induction": BLUE, "previous_token": GREEN,
    "duplicate_token": PURPLE, "first_token": ORANGE, "current_token": SKY,
    "train_loss": BLUE, "restricted_loss": GREEN, "test_loss": VERMILLION, "excluded_loss": PURPLE,
}  # fmt: skip


def transition_section(run: xr.DataTree, found: xr.Dataset) -> Section | None:
    """Return the section of a run; None where it has no series.

    found: its transitions. With too few checkpoints it has no figure and says so. The trajectory
    through loss space is added where per-token losses are stored.
    """
    if not found.sizes["series"]:
        return None
    steps = max(node.sizes["step"] for node in run.children.values())
    plates = [] if steps < FEWEST else [*_plate(found), *loss_space_plate(run)]
    return Section("", "Transitions", "", tuple(plates), note=counts(found, steps))


def _plate(found: xr.Dataset) -> Iterator[Plate]:
    table = transition_table(joined({"": found}))
    losses, heads = loss_rows(table), head_rows(table)
    kept = heads.loc[heads["above"] >= LEAST]
    every = [(row_label(row), row) for row in pd.concat([losses, kept]).itertuples()]
    labels = list(dict.fromkeys(label for label, _ in every))[:MOST_ROWS]
    if not labels:
        return
    bars = [_bar(labels.index(label), label, row) for label, row in every if label in labels]
    caption = (
        "From 10 to 90% of a change, its midpoint (upwards where the series rises), and the 90% "
        "interval of the midpoint (broad). The axis is logarithmic: a sudden change takes at most "
        "one decade. "
    )
    if len(heads):
        caption += (
            f"Heads: changes of at least {LEAST:g} above their null, the largest first"
            f"{_left_out(len(every) - len(bars), len(heads) - len(kept))}."
        )
    yield Plate(
        "When losses and heads changed suddenly",
        caption,
        (interval_bars(labels, bars),),
        wide=True,
    )


def _left_out(beyond: int, small: int) -> str:
    parts = [f"{beyond} more" if beyond else "", f"{small} smaller" if small else ""]
    named = " and ".join(part for part in parts if part)
    return f" (not drawn: {named})" if named else ""


def _bar(place: int, label: str, row: Any) -> Bar:
    change = f"{'rises' if row.amplitude > 0 else 'falls'} by {number(abs(row.amplitude))}"
    detail = (
        f"{change}; 10 to 90%: steps {row.onset:,.0f} to {row.end:,.0f}; midpoint between "
        f"{row.midpoint_low:,.0f} and {row.midpoint_high:,.0f}"
    )
    return Bar(
        place, label, _COLOURS.get(str(row.variable), INK), row.midpoint, row.midpoint_low,
        row.midpoint_high, row.amplitude > 0, row.onset, row.end, detail,
    )  # fmt: skip
