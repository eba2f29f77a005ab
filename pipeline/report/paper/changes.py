"""Figures for papers of what changed when: transitions as intervals, and the loss space."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.query.transitions import joined, transition_table
from pipeline.report.paper.style import (
    FAINT,
    INK,
    QUIET,
    ROLES,
    VERMILLION,
    blank,
    ordered,
    plain,
    step_axis,
)
from pipeline.report.transition_rows import LEAST, head_rows, loss_rows, row_label

MOST_ROWS = 24
_NAMED = 6  # steps that are written at their points
_ROW = 0.13  # inches


def intervals(found: xr.Dataset, steps: np.ndarray, width: float) -> Figure | None:
    """Return the sudden changes of losses and heads as intervals; None where there is none.

    found: the stored transitions. A thin bar is from 10 to 90% of a change, a thick one the 90%
    interval of its midpoint; a triangle points to where the series goes. The axis is log(1 + step),
    on which a sudden change takes at most one decade.
    """
    every, labels, _ = _chosen(found)
    shown = labels[:MOST_ROWS]
    if not shown:
        return None
    figure = blank(width, _ROW * len(shown) + 0.6)
    axes = figure.subplots()
    for label, row in every:
        if label in shown:
            y, colour = shown.index(label), ROLES.get(str(row.variable), INK)
            axes.plot([row.onset, row.end], [y, y], color=colour, linewidth=0.8)
            middle = [row.midpoint_low, row.midpoint_high]
            axes.plot(middle, [y, y], color=colour, linewidth=3.2, alpha=0.45)
            marker = "^" if row.amplitude > 0 else "v"
            axes.plot([row.midpoint], [y], marker, color=colour, markersize=3.2)
    axes.set_yticks(range(len(shown)), [plain(label) for label in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    step_axis(axes, steps, "log")
    # Steps before all that is drawn would leave it little room.
    earliest = min(min(row.onset, row.midpoint_low) for label, row in every if label in shown)
    axes.set_xlim(max(earliest / 2, float(steps[0])), float(steps[-1]))
    return figure


def left_out(found: xr.Dataset) -> str:
    """Return what `intervals` does not draw; "" where it draws all."""
    _, labels, small = _chosen(found)
    beyond = len(labels) - MOST_ROWS
    return "; ".join(
        [f"{beyond} series whose changes are smaller than those drawn"] * (beyond > 0)
        + [f"{small} changes of heads by less than {LEAST:g} above the null"] * (small > 0)
    )


def _chosen(found: xr.Dataset) -> tuple[list[tuple[str, Any]], list[str], int]:
    """Return the labelled rows, the labels in order, and how many small changes are left out."""
    table = transition_table(joined({"": found}))
    heads = head_rows(table)
    large = heads.loc[heads["above"] >= LEAST]
    every = [(row_label(row), row) for row in pd.concat([loss_rows(table), large]).itertuples()]
    labels = list(dict.fromkeys(label for label, _ in every))
    return every, labels, len(heads) - len(large)


def loss_space(space: xr.Dataset, corner: int | None, width: float) -> Figure | None:
    """Return the checkpoints on the first two components of their losses, or None without them.

    space: the stored loss space of one run. corner: a step to mark.
    """
    shares = space["share"].values[:2]
    if len(shares) < 2 or not np.isfinite(shares).all():
        return None
    x, y = space["scores"].values[:, :2].T
    steps = space["step"].values
    figure = blank(width, min(0.8 * width, 3.2))
    axes = figure.subplots()
    axes.plot(x, y, color=FAINT, linewidth=0.8)
    axes.scatter(x, y, c=ordered(len(x)), s=6, zorder=3)
    for i in _apart(x / np.ptp(x), y / np.ptp(y)):
        if steps[i] != corner:
            _name(axes, x[i], y[i], f"{int(steps[i]):,}", QUIET)
    for i in np.flatnonzero(steps == corner):
        axes.plot(x[i], y[i], "o", color=VERMILLION, markersize=4, fillstyle="none")
        _name(axes, x[i], y[i], f"corner, step {corner:,}", VERMILLION)
    axes.margins(0.1)
    names = [f"component {n} (nats; {share:.0%} of variance)" for n, share in enumerate(shares, 1)]
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    return figure


def _name(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(text, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6, color=colour)


def _apart(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Return the points nearest to places evenly spaced along the path."""
    path = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])
    places = np.linspace(0, path[-1], _NAMED)
    return np.unique([int(np.abs(path - at).argmin()) for at in places]).tolist()
