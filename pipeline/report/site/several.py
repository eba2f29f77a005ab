"""The page of several runs side by side: their changes with the spread, and their curves."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.findings.gaps import has_numbers
from pipeline.findings.heads import onsets, strongest
from pipeline.findings.number_format import in_words
from pipeline.query.side_by_side import (
    event_name,
    event_table,
    events_of_runs,
    sets_of,
    spread_table,
)
from pipeline.report.site.arrays import Json, exact
from pipeline.report.site.blocks import Cell, Column, Page, Section, Table, number_cell
from pipeline.report.site.heads import main_scores
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import Figure, figure, series, y_axis
from pipeline.report.site.text import title_of

MOST_EVENTS = 12
_CURVES = {
    "token_loss": ("mean", "in_context_score"),
    "modular_addition": ("train_loss", "test_loss", "restricted_loss", "excluded_loss"),
}
# Colours that are told apart, for runs or sets of runs.
_ROLES = ("previous_token", "induction", "restricted", "excluded", "current_token", "q", "v", "k")
Onsets = Mapping[str, float]


def index_page(runs: Sequence[Run]) -> Page:
    """Return the page of all runs, with links into each."""
    sets, spread = sets_of({run.name: run.tree for run in runs})
    made = events_of_runs([run.uri for run in runs])
    curves = list(_curves(runs, sets))
    sections = [
        Section("runs", "Runs", [_runs_table(runs, sets)]),
        Section("events", "Changes of all runs", [*_events(runs, made, spread)]),
        Section("curves", "On one axis", curves,
                "By step, tokens or the onset of induction heads: each figure has a choice."),
    ]  # fmt: skip
    return Page("index.html", "", f"{len(runs)} runs side by side", spread,
                [section for section in sections if section.items])  # fmt: skip


def _runs_table(runs: Sequence[Run], sets: Mapping[str, str]) -> Table:
    columns = [
        Column("run", "run"), Column("finding", "finding"), Column("set", "set"),
        Column("steps", "last step", True), Column("checkpoints", "checkpoints", True),
    ]  # fmt: skip
    rows = [
        [Cell(run.name, href=f"{run.slug}/overview.html"), Cell(title_of(run)),
         Cell(sets[run.name]), Cell(f"{run.steps[-1]:,}", run.steps[-1]) if run.steps else Cell(""),
         Cell(str(len(run.steps)), len(run.steps))]
        for run in runs
    ]  # fmt: skip
    return Table("runs-table", "All runs", columns, rows)


def _events(runs: Sequence[Run], made: xr.Dataset, spread: str) -> Iterator[Figure | Table]:
    """Yield the midpoints of the changes of losses and first heads, and their spread."""
    if not made.sizes["event"]:
        return
    table, over = (_named(one) for one in (event_table(made), spread_table(made)))
    over = over.head(MOST_EVENTS)
    slugs = {run.name: run.slug for run in runs}
    table = table.loc[table["event"].isin(over["event"])]
    if not len(table):
        return
    order = {event: i for i, event in enumerate(over["event"])}
    table = table.sort_values(by="event", key=lambda of: of.map(order), kind="stable")
    rows = [
        {"name": f"{one.event} · {one.run}", "role": _ROLES[order[one.event] % len(_ROLES)],
         "href": f"{slugs[one.run]}/overview.html"}
        for one in table.itertuples()
    ]  # fmt: skip
    low, high = (table[name].to_numpy() for name in ("place_low", "place_high"))
    intervals = series("midpoint", table["midpoint"].to_numpy(), low=low, high=high)
    spec = {"kind": "intervals", "rows": rows, "series": [intervals],
            "x": {"label": "step", "scale": "step"}}  # fmt: skip
    note = f"Midpoint of each run's change with its 90% interval. {made.attrs['rule']} {spread}"
    yield figure("events", "When the runs change", note, spec, "runs")
    yield _spread(over)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    names = [event_name(one.group, one.variable, one.layer, one.change)
             for one in table.itertuples()]  # fmt: skip
    return table.assign(event=pd.Series(names, index=table.index, dtype=object))


def _spread(over: pd.DataFrame) -> Table:
    columns = [
        Column("event", "change"), Column("set", "set"), Column("having", "runs with it", True),
        Column("median", "median step", True), Column("first", "first", True),
        Column("last", "last", True), Column("deviation", "deviation (decades)", True),
        Column("uncertainty", "interval within a run (decades)", True),
    ]  # fmt: skip
    rows = [
        [Cell(one.event), Cell(str(one.set)),
         Cell(f"{one.having:.0f} of {one.stored:.0f}", float(one.having)),
         *(number_cell(float(getattr(one, key)))
           for key in ("median", "first", "last", "deviation", "uncertainty"))]
        for one in over.itertuples()
    ]  # fmt: skip
    return Table("spread", "Spread over runs", columns, rows)


def _curves(runs: Sequence[Run], sets: Mapping[str, str]) -> Iterator[Figure]:
    onsets = {run.name: onset for run in runs if (onset := _first_onset(run)) is not None}
    roles = {of: _ROLES[i % len(_ROLES)] for i, of in enumerate(dict.fromkeys(sets.values()))}
    for measure, names in _CURVES.items():
        for name in names:
            lines = {run.name: (run, found[1][name]) for run in runs
                     if (found := run.first(measure)) and name in found[1]
                     and has_numbers(found[1][name])}  # fmt: skip
            if len(lines) > 1:
                title = "Mean loss" if name == "mean" else in_words(name).capitalize()
                yield _curve(title, f"{measure}-{name}", "nats", lines, sets, roles, onsets)
    best = {run.name: (run, strongest(heads[1].scores["induction"])) for run in runs
            if (heads := main_scores(run)) and "induction" in heads[1].scores}  # fmt: skip
    if len(best) > 1:
        title = "Highest induction score of any head"
        yield _curve(title, "induction", "", best, sets, roles, onsets)


def _curve(
    title: str, id: str, unit: str, lines: Mapping[str, tuple[Run, xr.DataArray]],
    sets: Mapping[str, str], roles: Mapping[str, str], onsets: Onsets,
) -> Figure:  # fmt: skip
    """Return one number of all runs: a line for each, over the range of the runs of its set."""
    drawn = [
        series(name, values.values, roles[sets[name]], href=f"{run.slug}/overview.html")
        for name, (run, values) in lines.items()
    ]
    steps = [values["step"].values for _, values in lines.values()]
    bands = list(_ranges(lines, sets, roles))
    drawn += [one for one, _ in bands]
    steps += [of for _, of in bands]
    axes = [{"name": "steps", "label": "step", "scale": "step",
             "values": [exact(one) for one in steps]}]  # fmt: skip
    seen = [_tokens(values) for _, values in lines.values()]
    if not bands and all(one is not None for one in seen):
        tokens = [exact(one) for one in seen if one is not None]
        axes.append({"name": "tokens", "label": "tokens seen", "scale": "step", "values": tokens})
    if not bands and len(onsets.keys() & lines.keys()) == len(lines):
        since = [exact(values["step"].values - onsets[name])
                 for name, (_, values) in lines.items()]  # fmt: skip
        axes.append({"name": "onset", "label": "steps since the first induction head",
                     "scale": "linear", "values": since})  # fmt: skip
    spec: Json = {"kind": "lines", "x": axes[0], "axes": axes, "y": y_axis(title.lower(), unit),
                  "series": drawn}  # fmt: skip
    note = "A line for each run; areas: the range of the runs that differ by seed only." if (
        bands) else "A line for each run."  # fmt: skip
    return figure(f"runs-{id}", title, note, spec, "runs")


def _ranges(
    lines: Mapping[str, tuple[Run, xr.DataArray]], sets: Mapping[str, str], roles: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield the range over runs of each set with three runs or more at the same steps."""
    for of, role in roles.items():
        inside = [values for name, (_, values) in lines.items() if sets[name] == of]
        same = all(np.array_equal(one["step"], inside[0]["step"]) for one in inside)
        if len(inside) >= 3 and same:
            every = np.stack([one.values for one in inside]).astype(np.float64)
            middle = np.median(every, axis=0)
            made = series(f"median of {of}", middle, role, low=every.min(0), high=every.max(0),
                          emphasis=True)  # fmt: skip
            yield made, inside[0]["step"].values


def _tokens(values: xr.DataArray) -> np.ndarray | None:
    """Return the tokens seen at each step; None where any is unknown."""
    seen = values["tokens_seen"].values if "tokens_seen" in values.coords else np.array([np.nan])
    return seen if np.isfinite(seen).all() else None


def _first_onset(run: Run) -> float | None:
    found = main_scores(run)
    if found is None:
        return None
    formed = onsets(found[1], "induction")
    return float(formed[0].step) if formed else None
