"""The style of all figures: colours that are safe for the colour-blind, fonts, axes, size."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, QUIET, FAINT, GRID = "#24292f", "#6a737d", "#c3c8ce", "#eceef0"

# Okabe & Ito 2008, without its yellow, which is too light for a line on white.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9",
)  # fmt: skip
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

# One hue, lightness falling evenly: from 0 (the page) to 1.
FROM_ZERO = [
    [0.0, "#f6f8fa"], [0.2, "#d3e3f0"], [0.4, "#9fc3df"], [0.6, "#5c9bc8"], [0.8, "#22699f"],
    [1.0, "#0a3357"],
]  # fmt: skip
AROUND_ZERO = [
    [0.0, "#8f3e05"], [0.25, "#e2a272"], [0.5, "#f6f8fa"], [0.75, "#7fb0d6"], [1.0, "#0a4a7d"],
]  # fmt: skip
MAGNITUDE = "Cividis"  # for a quantity without a natural zero

_LIGHTEST = 0.74  # of Plasma: beyond this it is too light for a line on white


def sequence(count: int) -> list[str]:
    """Return colours for an ordered set (layers, checkpoints), from dark blue to orange."""
    if count == 1:
        return [BLUE]
    if count == 2:
        return [BLUE, VERMILLION]
    return [str(c) for c in sample_colorscale("Plasma", np.linspace(0, _LIGHTEST, count).tolist())]


# `automargin` off, because figures compute their margins (see `drawing.room_for`).
_AXIS = {
    "showgrid": True, "gridcolor": GRID, "gridwidth": 1, "zeroline": False, "linecolor": FAINT,
    "showline": True, "ticks": "outside", "tickcolor": FAINT, "ticklen": 4,
    "tickfont": {"size": 11, "color": QUIET},
    "title": {"font": {"size": 12, "color": INK}, "standoff": 8},
    "exponentformat": "power", "separatethousands": True, "automargin": False,
}  # fmt: skip

_STYLE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "white", "bordercolor": FAINT,
                       "font": {"size": 12, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom", "xanchor": "left",
                   "font": {"size": 11}, "itemwidth": 30},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": INK},
        "dragmode": "zoom",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)  # fmt: skip


def styled(figure: go.Figure, height: int, margin: Sequence[int]) -> go.Figure:
    """Apply the report's style to a figure. margin: left, right, top, bottom in pixels."""
    sides = dict(zip("lrtb", margin, strict=True))
    return figure.update_layout(template=_STYLE, height=height, margin=sides)
