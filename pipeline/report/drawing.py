"""Parts of figures: axes, lines, names at line ends, marked steps."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from pipeline.printable import printable
from pipeline.report.theme import FAINT, QUIET

LABEL_HEIGHT = 14  # pixels of one line of text
TOP, BOTTOM, LEFT = 14, 46, 62  # margins that axes need, in pixels
_MOST_DOTS = 120  # beyond this many checkpoints their dots would merge into a thicker line
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain_label(text: str) -> str:
    """Return a text for plotly, which interprets tags and `%{...}` in labels and hover texts."""
    return escape(printable(text)).replace("{", "&#123;")


class Scale(NamedTuple):
    """The range of a y axis; on a logarithmic one low and high are exponents of ten."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return a value's coordinate on the axis; that of the bottom for NaN, and log of 0."""
        if self.log:
            value = math.log10(value) if value > 0 else math.nan
        return self.low if math.isnan(value) else value


def scale_of(series: Sequence[xr.DataArray], log: bool = False) -> Scale:
    """Return the scale that holds all finite (if logarithmic: positive) values, with a margin."""
    values = np.concatenate([one.values.ravel() for one in series]).astype(np.float64)
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    if not values.size:
        return Scale(-1.0, 0.0, log) if log else Scale(0.0, 1.0)
    values = np.log10(values) if log else values
    # A constant series has no range: it gets room around its value, or around 0.
    room = 0.05 * (values.max() - values.min()) or 0.5 * abs(values[0]) or 0.5
    return Scale(float(values.min() - room), float(values.max() + room), log)


def step_axis(figure: go.Figure, log: bool = False) -> None:
    """Declare that the x axis shows optimizer steps. log: always log(1 + step)."""
    figure.update_layout(meta={"step_axis": "log" if log else True})
    figure.update_xaxes(title_text="optimizer step", tickformat=",d")


def y_axis(figure: go.Figure, title: str, scale: Scale, name: str = "yaxis") -> None:
    """Set a y axis's title, which holds the unit, and its scale."""
    axis = {"title": {"text": plain_label(title)}, "range": scale[:2], "type": "linear"}
    figure.update_layout({name: axis | (log_ticks(scale) if scale.log else {})})


def log_ticks(scale: Scale) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at decades, or at 1, 2 and 5 for few decades."""
    powers = range(math.floor(scale.low), math.ceil(scale.high) + 1)
    every = max(1, len(powers) // 9)  # about nine labels fit
    multiples = (1, 2, 5) if scale.high - scale.low < 2 else (1,)
    candidates = [m * 10.0**power for power in powers[::every] for m in multiples]
    ticks = [tick for tick in candidates if scale.low <= math.log10(tick) <= scale.high]
    text = [_tick_text(tick) for tick in ticks]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": text}


def colour_bar(title: str = "") -> dict[str, Any]:
    """Return a thin colour bar beside the plot."""
    return {
        "thickness": 9, "outlinewidth": 0, "ticklen": 3, "tickcolor": FAINT, "xpad": 8,
        "tickfont": {"size": 11, "color": QUIET},
        "title": {"text": plain_label(title), "side": "top", "font": {"size": 11, "color": QUIET}},
    }  # fmt: skip


def line(name: str, values: xr.DataArray, colour: str) -> go.Scatter:
    """Return a series (dims: step) as a line, with dots at checkpoints unless there are many."""
    dots = values.sizes["step"] <= _MOST_DOTS
    return go.Scatter(
        x=values["step"].values,
        y=values.values,
        name=plain_label(name),
        mode="lines+markers" if dots else "lines",
        line={"color": colour, "width": 1.8},
        marker={"size": 3.5, "color": colour},
        hovertemplate=f"<b>{plain_label(name)}</b> %{{y:.4~g}}<br>%{{text}}<extra></extra>",
        showlegend=False,
    )


def end_names(
    figure: go.Figure,
    ends: Sequence[tuple[str, float, str]],
    scale: Scale,
    pixels: float,
    yref: str = "y",
) -> None:
    """Write the names of lines at their right ends, moved apart where they would overlap.

    ends: name, last value and colour of each. pixels: the height of the plot.
    """
    apart = LABEL_HEIGHT * (scale.high - scale.low) / pixels
    places = _spread([scale.place(value) for _, value, _ in ends], apart, scale.low, scale.high)
    for (name, _, colour), y in zip(ends, places, strict=True):
        figure.add_annotation(
            text=plain_label(name), x=1, xref="paper", xanchor="left", xshift=6, y=y, yref=yref,
            yanchor="middle", showarrow=False, font={"size": 11, "color": colour},
        )  # fmt: skip


def room_for(names: Sequence[str]) -> int:
    """Return the right margin, in pixels, that names at line ends need.

    An estimate: 6.1 pixels is the mean width of a character at size 11.
    """
    return 18 + max((round(6.1 * len(name)) for name in names), default=0)


def mark_step(figure: go.Figure, step: int, label: str, colour: str, line_of_text: int) -> None:
    """Draw a vertical line at a saved step, with a label on its own line of text above the plot."""
    figure.add_shape(
        type="line", x0=step, x1=step, xref="x", y0=0, y1=1, yref="paper",
        line={"color": colour, "width": 1.2, "dash": "dot"},
    )  # fmt: skip
    _label_above(figure, step, label, colour, line_of_text)


def mark_span(
    figure: go.Figure, before: int, after: int, label: str, colour: str, line_of_text: int
) -> None:
    """Draw a band between two saved steps, with a label on its own line of text above the plot."""
    figure.add_shape(
        type="rect", x0=before, x1=after, xref="x", y0=0, y1=1, yref="paper", layer="below",
        fillcolor=colour, opacity=0.14, line={"width": 0},
    )  # fmt: skip
    _label_above(figure, after, label, colour, line_of_text)


def last(values: xr.DataArray) -> float:
    """Return the last finite value of a series (one dimension); NaN where there is none."""
    defined = values.values[np.isfinite(values.values)]
    return float(defined[-1]) if defined.size else math.nan


def _label_above(figure: go.Figure, step: int, label: str, colour: str, line_of_text: int) -> None:
    figure.add_annotation(
        text=plain_label(label), x=step, xref="x", xanchor="right", y=1, yref="paper",
        yanchor="bottom", yshift=2 + LABEL_HEIGHT * line_of_text, showarrow=False,
        font={"size": 11, "color": colour},
    )  # fmt: skip


def _spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Return the places, moved so that neighbours are `apart` and all are within the limits.

    Where there is no room for that, they are spaced evenly.
    """
    order = np.argsort(places, kind="stable")
    if (len(places) - 1) * apart > high - low:
        moved = np.linspace(low, high, len(places))
    else:
        moved = np.clip(np.array(places, dtype=float)[order], low, high)
        # Upwards, each at least `apart` above the one below; then down again from the ceiling.
        for i in range(1, len(moved)):
            moved[i] = max(moved[i], moved[i - 1] + apart)
        ceiling = high
        for i in reversed(range(len(moved))):
            moved[i] = min(moved[i], ceiling)
            ceiling = moved[i] - apart
    return moved[np.argsort(order)].tolist()


def _tick_text(value: float) -> str:
    """Return a tick's text: plain from a thousandth to ten thousand, else with a power of ten."""
    power = math.floor(math.log10(value) + 1e-9)  # log10(1000) may come out below 3
    if -4 < power < 5:
        return f"{value:,.{max(0, -power)}f}"
    leading = round(value / 10.0**power)
    return f"{'' if leading == 1 else f'{leading}·'}10{str(power).translate(_SUPERSCRIPTS)}"
