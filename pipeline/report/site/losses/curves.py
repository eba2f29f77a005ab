"""Learning curves of tokens on the page of losses: examples, ages, and kinds of token."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.findings.number_format import in_words
from pipeline.query import aggregates
from pipeline.report.site.blocks import Cell, Column, Table, number_cell
from pipeline.report.site.run_data import Run, axis_of
from pipeline.report.site.specs import (
    Figure,
    Source,
    figure,
    lines,
    series,
    shell_word,
    source,
    y_axis,
)

EXAMPLE_ROLES = ("train", "test", "restricted", "excluded", "current_token", "q")
CURVES = 6  # tokens whose learning curves are drawn
BINS = 30


def curve_items(
    run: Run, group: str, rows: xr.Dataset, answers: Mapping[str, Any] | None
) -> Iterator[Figure | Table]:
    """Yield examples, ages and kinds of tokens. answers: of `loss_answers`; None without."""
    compute = aggregates.learning_curves
    curves = run.losses(compute, "learning curves") if answers is not None else None
    if answers is None or curves is None:
        return
    ages = curves["age_of_acquisition"].values
    known = ages[np.isfinite(ages)]
    if not known.size:
        run.leave_out("learning curves of tokens", "no token has an age of acquisition")
        return
    yield _examples(run, group, rows, curves)
    yield _ages(run, group, curves, known)
    if kinds := answers["tokens"].get("kinds", {}).get("repetition"):
        yield _kinds_table(kinds)


def _ages(run: Run, group: str, curves: xr.Dataset, known: Float[np.ndarray, " token"]) -> Figure:
    """Return how many tokens are acquired when. known: the ages of those that have one."""
    counts, edges = np.histogram(known, age_edges(known))
    bars = [f"{a:,.0f}–{b:,.0f}" for a, b in pairwise(edges)]
    spec = {
        "kind": "bars", "rows": bars, "y": y_axis("tokens"),
        "series": [series("tokens", counts, "loss")],
    }  # fmt: skip
    note = (
        f"{curves['age_of_acquisition'].attrs.get('definition', '')} {known.size:,} of "
        f"{curves.attrs['tokens']:,} tokens have one; the median is step {np.median(known):,.0f}."
    )
    return figure("ages", "Age of acquisition", note, spec, run.slug,
                  losses_source(run.uri, group, "learning_curves"))  # fmt: skip


def age_edges(ages: Float[np.ndarray, " token"]) -> Float[np.ndarray, " edge"]:
    """Return the edges of bins of about the same width in log steps, which hold all ages.

    They are whole steps, so that of early ages there may be fewer than `BINS` bins.
    """
    first, last = np.floor(ages.min()), np.ceil(ages.max())
    last = max(last, first + 1)
    inner = np.round(np.geomspace(max(first, 1), max(last, 1), BINS + 1))
    return np.unique(np.clip([first, *inner, last], first, last))


def losses_source(uri: str, group: str, function: str, *more: object) -> Source:
    """Return the lines for an answer about losses. function: of `pipeline.query.aggregates`."""
    arguments = ", ".join(map(repr, (uri, group, *more)))
    return Source(
        f"pipeline.query.aggregates.{function}({arguments})",
        f"ontogeny losses {shell_word(uri)} --group {shell_word(group)}",
    )


def _examples(run: Run, group: str, rows: xr.Dataset, curves: xr.Dataset) -> Figure:
    """Return the losses of a few tokens, evenly spaced in the order of their ages."""
    ages = curves["age_of_acquisition"].values
    order = np.argsort(np.where(np.isfinite(ages), ages, np.inf), axis=None, kind="stable")
    order = order[: int(np.isfinite(ages).sum())]
    chosen = order[np.unique(np.linspace(0, len(order) - 1, CURVES).astype(int))]
    drawn = []
    for sequence, position in zip(*np.unravel_index(chosen, ages.shape), strict=True):
        labels = {"sequence": int(curves["sequence"][sequence]),
                  "position": int(curves["position"][position])}  # fmt: skip
        values = rows["loss"].sel(labels).values
        name = f"sequence {labels['sequence']}, position {labels['position']}"
        role = EXAMPLE_ROLES[len(drawn) % len(EXAMPLE_ROLES)]
        drawn.append(series(name, values, role, of=f"{group}/loss", at=labels))
    note = "Tokens evenly spaced in the order of their ages of acquisition, the youngest first."
    return figure("curves", "Losses of single tokens", note,
                  lines(axis_of(rows), y_axis("loss", "nats"), drawn), run.slug,
                  source(run.uri, group, "loss"))  # fmt: skip


def _kinds_table(kinds: list[Mapping[str, Any]]) -> Table:
    columns = [
        Column("kind", "kind of token"), Column("tokens", "tokens", True),
        Column("final", "final loss", True), Column("age", "age of acquisition", True),
        Column("with_age", "share with an age", True),
    ]  # fmt: skip
    rows = [
        [Cell(in_words(str(one["kind"]))), Cell(f"{one['tokens']:,}", one["tokens"]),
         *(number_cell(_number(one.get(key))) for key in
           ("final_surprisal", "age_of_acquisition", "with_age"))]
        for one in kinds
    ]  # fmt: skip
    note = (
        "Means over the tokens of a kind; the mean age is geometric, of the tokens that have one."
    )
    return Table("kinds", "By kind of token", columns, rows, note)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
