"""Figures of labelled arrays: lines, heat maps, parameters. (For heads: `heads`.)

Every figure holds the stored numbers at their true optimizer steps. An x axis of steps is
declared in `layout.meta["step_axis"]`: the page may draw it as log(1 + step).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from pipeline.report.drawing import (
    BOTTOM,
    LEFT,
    TOP,
    Scale,
    colour_bar,
    end_names,
    last,
    line,
    log_ticks,
    plain_label,
    room_for,
    scale_of,
    step_axis,
    y_axis,
)
from pipeline.report.theme import FAINT, LINES, MAGNITUDE, styled

HEIGHT = 320
MOST_PARAMETERS = 60
_NAMED = 6  # parameters that are coloured and named
_LONGEST_NAME = 22


def lines(
    series: Mapping[str, xr.DataArray],
    axis: str,
    *,
    colours: Sequence[str] = (),
    log: bool = False,
    height: int = HEIGHT,
    top: int = TOP,
) -> go.Figure:
    """Return one line for each named series (dims: step), with names at line ends if several.

    axis: the title of the y axis, with its unit. log: a logarithmic y axis. top: the upper margin.
    """
    figure = go.Figure()
    colours = colours or [LINES[i % len(LINES)] for i in range(len(series))]
    for (name, values), colour in zip(series.items(), colours, strict=True):
        figure.add_trace(line(name, values, colour))
    named = list(series) if len(series) > 1 else []
    styled(figure, height, (LEFT, room_for(named), top, BOTTOM))
    step_axis(figure)
    scale = scale_of(list(series.values()), log)
    y_axis(figure, axis, scale)
    ends = [(name, last(series[name]), colours[i]) for i, name in enumerate(named)]
    end_names(figure, ends, scale, height - top - BOTTOM)
    return figure


def heat_map(
    values: xr.DataArray, dim: str, axis: str, unit: str, *, log: bool = False
) -> go.Figure:
    """Return a heat map over training (x) and one other dimension (y); dims: step and `dim`.

    axis: the title of the y axis; log: whether it is logarithmic. unit: of the colour bar.
    """
    values = values.transpose(dim, "step")
    rows = values[dim].values
    names = rows.tolist() if rows.dtype.kind in "iuf" else [plain_label(str(row)) for row in rows]
    figure = go.Figure(
        go.Heatmap(
            x=values["step"].values,
            y=names,
            z=values.values.astype(np.float32),  # half of the page's size, and precise enough
            colorscale=MAGNITUDE,
            colorbar=colour_bar(unit),
            hovertemplate=f"{plain_label(axis)} %{{y}}: "
            "<b>%{z:.4~g}</b><br>%{text}<extra></extra>",
        )
    )
    styled(figure, HEIGHT, (LEFT, 10, TOP, BOTTOM))
    step_axis(figure)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title_text=plain_label(axis), showgrid=False)
    if log:
        figure.update_yaxes(log_ticks(Scale(*np.log10([rows[0], rows[-1]]), log=True)))
    return figure


def parameter_lines(values: xr.DataArray, axis: str) -> tuple[go.Figure, str]:
    """Return a line for each parameter (dims: step, parameter), on a logarithmic axis, and a note.

    Those with the largest last finite value are coloured and named, the others grey. At most
    `MOST_PARAMETERS` are drawn, and none without a finite value; the note states what is left out.
    """
    ending = np.array([last(one) for one in values.transpose("parameter", "step")])
    known = int(np.isfinite(ending).sum())
    order = np.argsort(-ending, kind="stable")[:known]  # NaN sorts last
    kept = values.isel(parameter=order[:MOST_PARAMETERS])
    names = [str(name) for name in kept["parameter"].values]
    colours = [*LINES[:_NAMED], *[FAINT] * len(names)]
    figure = go.Figure()
    for i in reversed(range(len(names))):  # plotly draws later traces on top
        figure.add_trace(line(names[i], kept.isel(parameter=i), colours[i]))
    shown = [_shortened(name) for name in names[:_NAMED]]
    styled(figure, HEIGHT, (LEFT, room_for(shown), TOP, BOTTOM))
    step_axis(figure)
    scale = scale_of([kept], log=True)
    y_axis(figure, axis, scale)
    ends = [(name, last(kept.isel(parameter=i)), colours[i]) for i, name in enumerate(shown)]
    end_names(figure, ends, scale, HEIGHT - TOP - BOTTOM)
    total = values.sizes["parameter"]
    notes = [f"Drawn: the {len(names)} of {known} that end largest."] if len(names) < known else []
    if known < total:
        notes.append(f"Not drawn: {total - known} of {total}, which have no finite value.")
    return figure, " ".join(notes)


def _shortened(parameter: str) -> str:
    """Return a parameter's name without ".weight"; of a long one, its last parts."""
    name = rest = parameter.removesuffix(".weight")
    while len(rest) > _LONGEST_NAME and "." in rest:
        rest = rest.partition(".")[2]
    return rest if rest == name else f"…{rest}"
