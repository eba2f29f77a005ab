"""The page of several runs side by side: their changes with the spread, and their curves."""

from collections.abc import Sequence

from pipeline.query.side_by_side import events_of_runs
from pipeline.report.site.blocks import Cell, Column, Page, Section, Table
from pipeline.report.site.run_data import Run
from pipeline.report.site.several.curves import curves
from pipeline.report.site.several.events import event_sections
from pipeline.report.site.several.mosaics import mosaics_section
from pipeline.report.site.several.sets import Sets, sets_in
from pipeline.report.site.text import title_of

MOST_SETTINGS = 4  # columns of the table of runs


def index_page(runs: Sequence[Run]) -> Page:
    """Return the page of all runs, with links into each."""
    sets = sets_in(runs)
    made = events_of_runs([run.uri for run in runs])
    mosaics = mosaics_section(runs)
    sections = [
        Section("runs", "Runs", [_runs_table(sets)]),
        Section("curves", "On one axis", [*curves(sets)]),
        *([mosaics] if mosaics else []),
        *event_sections(sets, made),
    ]
    # Two runs are compared with each other: no spread is shown.
    lead = made.attrs["spread"] if len(runs) > 2 else ""
    return Page("index.html", "", f"{len(runs)} runs side by side", lead,
                [section for section in sections if section.items])  # fmt: skip


def _runs_table(sets: Sets) -> Table:
    settings = sets.settings or {}
    keys = list(next(iter(settings.values()), {}))
    shown = keys[:MOST_SETTINGS]
    columns = [
        Column("run", "run"), Column("finding", "finding"),
        *(Column(key, key.replace("_", " ")) for key in shown),
        Column("steps", "last step", True), Column("checkpoints", "checkpoints", True),
    ]  # fmt: skip
    rows = [
        [Cell(run.name, href=f"{run.slug}/overview.html", role=sets.roles[run.name]),
         Cell(title_of(run)), *(Cell(settings[run.name][key]) for key in shown),
         Cell(f"{run.steps[-1]:,}", run.steps[-1]) if run.steps else Cell(""),
         Cell(str(len(run.steps)), len(run.steps))]
        for run in sets.runs
    ]  # fmt: skip
    note = f"Settings that differ too: {', '.join(keys[MOST_SETTINGS:])}." if (
        len(keys) > MOST_SETTINGS) else ""  # fmt: skip
    return Table("runs-table", "All runs", columns, rows, note)
