"""Horizontal bars for changes: onset to end, the midpoint, and its interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from pipeline.report.drawing import BOTTOM, TOP, plain_label, room_for, step_axis
from pipeline.report.theme import GRID, styled

_ROW = 21  # pixels of a row with one bar
_LANE = 5  # pixels of each further bar in a row
_MOST_LANES = 12  # beyond this many bars of a row overlap


class Bar(NamedTuple):
    """A change: its row on the figure, and its places in steps; onset and end: NaN if not drawn.

    rises: the direction of its marker. name, detail: of its hover text. lane: its place within the
    row. legend: the entry that shows its colour; empty for none.
    """

    row: int
    name: str
    colour: str
    midpoint: float
    low: float
    high: float
    rises: bool
    onset: float = float("nan")
    end: float = float("nan")
    detail: str = ""
    lane: int = 0
    legend: str = ""


def interval_bars(labels: Sequence[str], bars: Sequence[Bar]) -> go.Figure:
    """Return bars in labelled rows, the first at the top, on a logarithmic axis of steps.

    A triangle is the midpoint (upwards: a rise), the broad line its interval, the thin line reaches
    from onset to end. The axis reaches as far as the bars do.
    """
    lanes = 1 + max((bar.lane for bar in bars), default=0)
    figure, places = go.Figure(), [_place(bar, lanes) for bar in bars]
    for colour, legend in dict.fromkeys((bar.colour, bar.legend) for bar in bars):
        mine = [i for i, bar in enumerate(bars) if (bar.colour, bar.legend) == (colour, legend)]
        chosen, y = [bars[i] for i in mine], [places[i] for i in mine]
        _lines(figure, [(bar.onset, bar.end) for bar in chosen], y, colour, 1.6, 1.0)
        _lines(figure, [(bar.low, bar.high) for bar in chosen], y, colour, 7, 0.35)
        _dots(figure, chosen, y, colour, legend)
    height = round((_ROW + _LANE * (min(lanes, _MOST_LANES) - 1)) * len(labels)) + TOP + BOTTOM
    named = list(dict.fromkeys(bar.legend for bar in bars if bar.legend))
    top = TOP + (20 if named else 0)
    styled(figure, height + top - TOP, (room_for(labels), 16, top, BOTTOM))
    step_axis(figure, log=True)
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], tickmode="array", tickvals=list(range(len(labels))),
        ticktext=[plain_label(label) for label in labels], gridcolor=GRID, ticks="",
        fixedrange=True,
    )  # fmt: skip
    return figure


def _place(bar: Bar, lanes: int) -> float:
    """Return the height of a bar on the axis of rows."""
    return bar.row + (0.7 * ((bar.lane + 0.5) / lanes - 0.5) if lanes > 1 else 0.0)


def _lines(
    figure: go.Figure,
    ends: Sequence[tuple[float, float]],
    heights: Sequence[float],
    colour: str,
    width: float,
    opacity: float,
) -> None:
    """Add one trace of horizontal lines, with gaps between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    for (low, high), at in zip(ends, heights, strict=True):
        if np.isfinite(low) and np.isfinite(high):
            x += [round(low), round(high), None]
            y += [at, at, None]
    if x:
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines", line={"color": colour, "width": width}, opacity=opacity,
                hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip


def _dots(
    figure: go.Figure, bars: Sequence[Bar], heights: Sequence[float], colour: str, legend: str
) -> None:
    # "text" is set by the page: the step, and the tokens seen where a checkpoint lies there.
    about = [f"<b>{plain_label(bar.name)}</b> {plain_label(bar.detail)}" for bar in bars]
    figure.add_trace(
        go.Scatter(
            x=[round(bar.midpoint) for bar in bars], y=list(heights), mode="markers",
            marker={"color": colour, "size": 8, "symbol": _symbols(bars)},
            customdata=about, name=plain_label(legend), showlegend=bool(legend),
            hovertemplate="%{customdata}<br>%{text}<extra></extra>",
        )
    )  # fmt: skip


def _symbols(bars: Sequence[Bar]) -> list[str]:
    return ["triangle-up" if bar.rises else "triangle-down" for bar in bars]
