"""The page of a run's changes: all sudden ones, with their 90% intervals."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.aggregate.transitions import FEWEST
from pipeline.findings.number_format import counted, listed, number
from pipeline.models.head_names import head_name
from pipeline.query import aggregates
from pipeline.query.transitions import joined, transition_table
from pipeline.report.site.blocks import Cell, Column, Page, Section, Table, Text, number_cell
from pipeline.report.site.run_data import Run
from pipeline.report.site.specs import Figure, Source, figure, role_of, series, shell_word
from pipeline.report.transition_rows import (
    LEAST,
    LOSSES,
    counts,
    head_rows,
    loss_rows,
    other_rows,
    row_label,
    rows_of,
    series_name,
)

MOST_ROWS = 30  # of the figure
MOST_CHANGES = 300  # of the table
_COLUMNS = (
    Column("series", "series"),
    Column("change", "change", True, "size, in the unit of the series"),
    Column("unit", "unit"),
    Column("midpoint", "midpoint", True, "step at which half of the change is done"),
    Column("interval", "90% interval", True, "of the midpoint, in steps"),
    Column("interval-decades", "in decades", True, "width of the 90% interval"),
    Column("extent", "10 to 90%", True, "steps between which the change happens"),
    Column("width", "width (decades)", True, "decades of the step from 10 to 90%"),
    Column("evidence", "evidence", True, "twice the log likelihood ratio to a smooth curve"),
)


def changes_page(run: Run, names: Collection[str]) -> Page | None:
    """Return the page of all transitions; None without series. names: of heads with a page."""
    found = aggregates.transitions(run.uri)
    if not found.sizes["series"]:
        return None
    steps = max(node.sizes["step"] for node in run.tree.children.values())
    notes = [*_notes(found)]
    sections = [Section("notes", "What was left out", [Text(notes, as_list=True)])] if notes else []
    table = _with_units(found, transition_table(joined({"": found})))
    if steps >= FEWEST and len(table):
        losses, others, heads = loss_rows(table), other_rows(table), head_rows(table)
        shown = Section("largest", "The largest changes",
                        [_figure(run, losses, others, heads, names)])  # fmt: skip
        every = pd.concat([losses, heads, others])
        sections = [shown, Section("all", "All changes", [_table(every, names)]), *sections]
    return Page("changes.html", "Changes", _title(table), counts(found, steps), sections)


def _with_units(found: xr.Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the unit of each series, "" where it has none."""
    keys = zip(
        *(found[name].values.tolist() for name in ("group", "variable", "unit")), strict=True
    )
    units = {(group, variable): "" if unit == "1" else unit for group, variable, unit in keys}
    each = [units[row.group, row.variable] for row in rows_of(table)]
    return table.assign(unit=pd.Series(each, index=table.index, dtype=object))


def _title(table: pd.DataFrame) -> str:
    return f"{counted(len(table), 'sudden change')}" if len(table) else "No sudden change"


def _figure(
    run: Run, losses: pd.DataFrame, others: pd.DataFrame, heads: pd.DataFrame,
    names: Collection[str],
) -> Figure:  # fmt: skip
    """Return the changes of losses, of heads by size, and of series of no head, by midpoint."""
    large, alone = heads.loc[heads["above"] >= LEAST], others.loc[others["head"] < 0]
    every = pd.concat([losses, large, alone])
    drawn = every.head(MOST_ROWS).sort_values(by="midpoint", kind="stable")
    rows = [
        {"name": name, "role": _role(row)} | ({"href": href} if (href := _href(row, names)) else {})
        for name, row in zip(_distinct(drawn), rows_of(drawn), strict=True)
    ]
    low, high = (drawn[name].to_numpy() for name in ("midpoint_low", "midpoint_high"))
    midpoints = series("midpoint", drawn["midpoint"].to_numpy(), low=low, high=high)
    spec = {"kind": "intervals", "rows": rows, "series": [midpoints],
            "x": {"label": "step", "scale": "step"}}  # fmt: skip
    note = "Midpoint of each change with its 90% interval, by midpoint."
    if len(large):
        note += f" Heads: changes of at least {LEAST:g} above their null, the largest first."
    if len(drawn) < len(every) or len(large) < len(heads):
        beyond, small = len(every) - len(drawn), len(heads) - len(large)
        parts = [f"{beyond} more"] * (beyond > 0) + [f"{small} smaller of heads"] * (small > 0)
        note += f" In the table only: {listed(parts)}."
    return figure("changes", "When series change suddenly", note, spec, run.slug, _source(run))


def _source(run: Run) -> Source:
    return Source(
        f"pipeline.query.aggregates.transitions({run.uri!r})",
        f"ontogeny transitions {shell_word(run.uri)}",
    )


def _distinct(table: pd.DataFrame) -> list[str]:
    """Return a name for each row: series and direction, numbered where one occurs again."""
    seen: Counter[str] = Counter()
    names = []
    for row in rows_of(table):
        name = f"{row_label(row)} {'rises' if row.amplitude > 0 else 'falls'}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _role(row: Any) -> str:
    measure = str(row.group).partition(".")[0]
    return LOSSES.get(measure, {}).get(row.variable) or role_of(str(row.variable))


def _href(row: Any, names: Collection[str]) -> str:
    name = head_name(row.layer, row.head) if row.head >= 0 else ""
    return f"head-{name}.html" if name in names else ""


def _table(every: pd.DataFrame, names: Collection[str]) -> Table:
    rows = [_row(row, names) for row in rows_of(every.head(MOST_CHANGES))]
    note = "Losses first, then heads by their change above the null, then all others."
    if len(every) > len(rows):
        note += f" {len(every) - len(rows):,} more are left out; ontogeny transitions prints them."
    return Table("changes-table", "Sudden changes", _COLUMNS, rows, note)


def _row(row: Any, names: Collection[str]) -> list[Cell]:
    def between(low: float, high: float) -> Cell:
        known = np.isfinite([low, high]).all()
        return Cell(f"{low:,.0f}–{high:,.0f}", float(low)) if known else number_cell(np.nan)

    low, high = row.midpoint_low, row.midpoint_high
    decades = float(np.log10(high / low)) if low > 0 else float("nan")
    size = ("+" if row.amplitude > 0 else "") + number(row.amplitude)
    return [
        Cell(row_label(row), href=_href(row, names), role=_role(row)),
        Cell(size, float(row.amplitude)),
        Cell(str(row.unit)), Cell(f"{row.midpoint:,.0f}", float(row.midpoint)), between(low, high),
        number_cell(decades), between(row.onset, row.end), number_cell(float(row.width)),
        number_cell(float(row.evidence)),
    ]  # fmt: skip


def _notes(found: xr.Dataset) -> Iterator[str]:
    """Yield what was replaced or left out before series were scanned."""
    for key, said in (("spikes", "replaced by their running median, as spikes"),
                      ("not_finite", "left out, as not finite")):  # fmt: skip
        some = found.isel(series=found[key].values > 0)
        if some.sizes["series"]:
            total = counted(int(some[key].sum()), "value")
            yield f"{total} {said}: of {_names(some)}."
    doubtful = found.isel(series=found["shape"].values == "cannot tell")
    if doubtful.sizes["series"]:
        yield f"Whether these change suddenly cannot be told: {_names(doubtful)}."
    if left := list(found.attrs["left_out"]):
        yield f"Not scanned, as they are no single series over training: {', '.join(left)}."


def _names(some: xr.Dataset) -> str:
    """Return the names of series, those of heads with how many heads they are of."""
    keys = zip(*(some[key].values.tolist() for key in ("group", "variable", "head")), strict=True)
    each = Counter((series_name(group, name), head >= 0) for group, name, head in keys)
    return listed(
        [f"{name} ({counted(count, 'head')})" if of_head else name
         for (name, of_head), count in each.items()], 12
    )  # fmt: skip
