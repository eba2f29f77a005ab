"""The tables of a head's page: every score, and the strongest composition partners."""

from collections.abc import Iterator

import numpy as np

from pipeline.report.site.blocks import DASH, Cell, Column, Table, number_cell
from pipeline.report.site.composition.partners import MOST_PARTNERS
from pipeline.report.site.head.shared import RunHeads
from pipeline.report.site.heads import Head
from pipeline.report.site.scores import Score
from pipeline.report.site.specs import role_of
from pipeline.report.site.thumbnails import NOTE, thumbnail


def score_table(shared: RunHeads, head: Head) -> Table:
    """Return every score of a head: at the end, its null, its highest value and its course."""
    columns = [
        Column("score", "score"), Column("end", "at the end", True),
        Column("null", "null then", True), Column("highest", "highest", True),
        Column("step", "at step", True), Column("line", "over training"),
    ]  # fmt: skip
    rows = [row for one in shared.scores if (row := _score_row(one, head))]
    return Table("score-table", "Scores", columns, rows, NOTE)


def _score_row(score: Score, head: Head) -> list[Cell] | None:
    values = score.of(head.layer, head.head)
    if values is None or not np.isfinite(values).any():
        return None
    null = score.null_of(head.layer, head.head)
    top = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
    role = role_of(score.variable)
    small = thumbnail(values, *score.limits, role, f"{score.title} over training")
    return [
        Cell(score.title, role=role), number_cell(float(values[-1])),
        Cell(DASH, float("nan")) if null is None else number_cell(float(null[-1])),
        number_cell(float(values[top])), Cell(f"{score.steps[top]:,}", int(score.steps[top])),
        Cell(small),
    ]  # fmt: skip


def partner_tables(shared: RunHeads, head: Head) -> Iterator[Table]:
    """Yield the heads that a head reads from most, and those that read it most."""
    found = shared.partners.get(head.name)
    if found is None:
        return
    reads = [(one.read, one) for one in found.reads]
    read_by = [(one.reader, one) for one in found.read_by]
    for id, title, other, pairs, count in (
        ("reads", "Reads from, by composition", "earlier head", reads, found.count_reads),
        ("read-by", "Read by, by composition", "later head", read_by, found.count_read_by),
    ):
        if not pairs:
            continue
        columns = [
            Column("head", other), Column("by", "by"), Column("composition", "composition", True),
            Column("above", "above random mean", True),
        ]  # fmt: skip
        rows = [
            [Cell(name, href=f"head-{name}.html"), Cell(one.path.upper(), role=one.path),
             number_cell(one.value), number_cell(one.above, sign=True)]
            for name, one in pairs
        ]  # fmt: skip
        more = f" Of {count:,}, the {MOST_PARTNERS} strongest by each of K, Q and V."
        note = (
            f"Above the mean of random matrices of the same shape, at step {shared.step:,}."
            f"{more * (count > len(pairs))}"
        )
        yield Table(f"partners-{id}", title, columns, rows, note)
