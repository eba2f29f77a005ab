"""The changes of several runs: when each has them, their spread, and what lies between two runs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.aggregate.lag import Place, lag_between
from pipeline.findings.number_format import counted, in_words, number
from pipeline.query.side_by_side import event_table, spread_table
from pipeline.report.site.blocks import Cell, Column, Section, Table, number_cell
from pipeline.report.site.heads import PATTERNS
from pipeline.report.site.several.sets import Sets, set_in_words
from pipeline.report.site.specs import Figure, Source, figure, series, shell_word
from pipeline.report.transition_rows import LOSSES, rows_of, series_name

MOST_ROWS = 40  # of the figure: an event has one for each run
_KEY = ["group", "variable", "layer", "change"]
_VERBS = {"rise": "rises", "fall": "falls"}


def event_sections(runs: Sets, made: xr.Dataset) -> Iterator[Section]:
    """Yield the sections on the events that at least two runs have; made: of all runs."""
    table = _ordered(event_table(made))
    runs_with: Any = table.groupby("event")["run"].nunique()
    shared = table.loc[table["event"].map(runs_with) >= 2]
    if not len(shared):
        return
    if len(runs.runs) == 2:
        yield Section("between", "Between the two runs", [_between(runs, shared)])
    alone = int((runs_with < 2).sum())
    yield Section("events", "When the runs change", [_figure(runs, shared, made, alone)])
    if len(runs.runs) > 2:
        over = _ordered(spread_table(made))
        over = over.loc[over["event"].isin(shared["event"])]
        yield Section("spread", "Spread over runs", [_spread(over)])


def event_in_words(group: str, variable: str, layer: int, change: str) -> str:
    """Return an event in words: "mean loss falls", "first induction head"."""
    measure, _, given = group.partition(".")
    if change == "first head":
        return f"first {in_words(variable)} head" + (f" ({given})" if given else "")
    name = series_name(group, variable)
    if measure == "head_scores":
        name = f"any head's {name} score"
    at = f", layer {layer}," if layer >= 0 else ""
    return f"{name}{at} {_VERBS[change]}"


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their events in words: losses, then first heads, then all others."""
    names = [event_in_words(one.group, one.variable, one.layer, one.change)
             for one in rows_of(table)]  # fmt: skip
    ranks = [_rank(one) for one in rows_of(table)]
    table = table.assign(
        event=pd.Series(names, table.index, dtype=object),
        rank=pd.Series(ranks, table.index, dtype=float),
    )
    keys = ["rank", *_KEY] + (["run"] if "run" in table else ["set"])
    return table.sort_values(by=keys, kind="stable", ignore_index=True)


def _rank(event: Any) -> int:
    """Return the place of an event: losses as `LOSSES` has them, first heads, all others."""
    losses = [(measure, name) for measure, names in LOSSES.items() for name in names]
    of = (str(event.group).partition(".")[0], event.variable)
    if of in losses:
        return losses.index(of)
    if event.change == "first head":
        return 100 + (PATTERNS.index(event.variable) if event.variable in PATTERNS else 99)
    return 1000


def _figure(runs: Sets, shared: pd.DataFrame, made: xr.Dataset, alone: int) -> Figure:
    events = list(dict.fromkeys(shared["event"]))
    sizes: Any = shared["event"].value_counts().loc[events].cumsum()
    kept = events[: max(1, int((sizes <= MOST_ROWS).sum()))]
    drawn = shared.loc[shared["event"].isin(kept)]
    slugs = {run.name: run.slug for run in runs.runs}
    rows = [{"name": f"{one.event} · {one.run}", "role": runs.roles[str(one.run)],
             "href": f"{slugs[str(one.run)]}/overview.html"}
            for one in rows_of(drawn)]  # fmt: skip
    low, high = (drawn[name].to_numpy() for name in ("place_low", "place_high"))
    midpoints = series("midpoint", drawn["midpoint"].to_numpy(), low=low, high=high)
    spec = {"kind": "intervals", "rows": rows, "series": [midpoints],
            "x": {"label": "step", "scale": "step"}}  # fmt: skip
    note = "Midpoint of each run's change with its 90% interval. " + made.attrs["rule"]
    if len(events) > len(kept):
        note += f" In the table only: {counted(len(events) - len(kept), 'event')}."
    if alone:
        note += f" On the page of its own run: {counted(alone, 'event')} of one run only."
    return figure("events", "When the runs change", note, spec, "runs", _source(runs))


def _source(runs: Sets) -> Source:
    uris = [run.uri for run in runs.runs]
    words = " ".join(map(shell_word, uris))
    return Source(
        f"pipeline.query.side_by_side.events_of_runs({uris!r})",
        f"ontogeny transitions {words} --axis steps",
    )


def _spread(over: pd.DataFrame) -> Table:
    columns = [
        Column("event", "change"), Column("set", "set"), Column("having", "runs with it", True),
        Column("median", "median step", True), Column("first", "first", True),
        Column("last", "last", True), Column("deviation", "deviation (decades)", True),
        Column("uncertainty", "interval within a run (decades)", True),
    ]  # fmt: skip
    rows = [
        [Cell(one.event), Cell(set_in_words(str(one.set))),
         Cell(f"{one.having:.0f} of {one.stored:.0f}", float(one.having)),
         *(number_cell(float(getattr(one, key)))
           for key in ("median", "first", "last", "deviation", "uncertainty"))]
        for one in rows_of(over)
    ]  # fmt: skip
    note = "Of the changes that at least two runs have. Deviation: standard deviation over runs."
    return Table("spread-table", "Steps of each change", columns, rows, note)


def _between(runs: Sets, shared: pd.DataFrame) -> Table:
    """Return how much later the second run has each change than the first."""
    first, second = (run.name for run in runs.runs)
    columns = [
        Column("event", "change"), Column("first", first, True), Column("second", second, True),
        Column("steps", "later by (steps)", True), Column("lag", "later by (decades)", True),
        Column("interval", "90% interval (decades)", True),
    ]  # fmt: skip
    rows = [_difference(str(event), of, (first, second))
            for event, of in shared.groupby("event", sort=False)]  # fmt: skip
    note = (
        f"{second} after {first}; negative where it is earlier. The interval follows from those "
        "of both midpoints, and holds where their errors are independent."
    )
    return Table("between-table", "How much later the second run changes", columns, rows, note)


def _difference(event: str, of: pd.DataFrame, names: Sequence[str]) -> list[Cell]:
    by_run: Any = of.set_index("run")
    places = [
        Place(*(float(by_run.loc[name, key]) for key in ("midpoint", "place_low", "place_high")))
        for name in names
    ]
    # Logarithms need steps above 0.
    known = all(place.low > 0 for place in places)
    lag = lag_between(*(place.in_decades() for place in places)) if known else None
    apart = number_cell(np.nan if lag is None else lag.apart, sign=True)
    interval = number_cell(np.nan) if lag is None else Cell(
        f"{number(lag.low)} to {number(lag.high)}", lag.low)  # fmt: skip
    steps = [Cell(f"{place.step:,.0f}", place.step) for place in places]
    later = places[1].step - places[0].step
    whole = Cell(f"{later:+,.0f}".replace("-", "−"), later)  # a minus sign instead of a hyphen
    return [Cell(event), *steps, whole, apart, interval]
