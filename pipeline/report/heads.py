"""Figures of a score of heads: its trajectories, and the mosaic of all heads."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from pipeline.findings.number_format import head_name
from pipeline.report.drawing import (
    BOTTOM,
    LEFT,
    TOP,
    Scale,
    colour_bar,
    end_names,
    plain_label,
    step_axis,
    y_axis,
)
from pipeline.report.theme import AROUND_ZERO, FROM_ZERO, sequence, styled

HEIGHT = 300
_LEGEND = 20  # pixels, above the plot
_IN_LEGEND = 6  # the most layers in a legend; more are shown by a colour bar
_FEW = 80  # heads: lines can be strong, and scores can be written into the cells of a mosaic
_NAMED = 4  # heads whose lines are strong and named


def head_lines(score: xr.DataArray, axis: str) -> go.Figure:
    """Return the trajectory of every head (dims: step, layer, head), coloured by layer.

    One trace per layer holds its heads' lines, separated by gaps: plotly is slow with hundreds of
    traces. The heads that end highest, in the upper half of the scale, are drawn again, thicker and
    with their names.
    """
    score = score.load().transpose("layer", "head", "step")
    layers = score.sizes["layer"]
    colours, crowd = sequence(layers), layers * score.sizes["head"] > _FEW
    figure = go.Figure()
    for one, colour in zip(score, colours, strict=True):
        figure.add_trace(_layer_lines(one, colour, crowd))
    # For a score that can be negative the middle of its positive half: strong means far above 0.
    span = score_range(score)
    highest = _highest(score, middle=(max(span.low, 0) + span.high) / 2)
    for layer, head in highest:
        figure.add_trace(_highlighted(score[layer, head], colours[layer]))
    in_legend = layers <= _IN_LEGEND
    if not in_legend:
        figure.update_traces(showlegend=False)
        figure.add_trace(_layer_colour_bar(score["layer"].values))
    styled(figure, HEIGHT, (LEFT, 60 if in_legend else 96, TOP + _LEGEND, BOTTOM))
    step_axis(figure)
    room = 0.03 * (span.high - span.low)
    scale = Scale(span.low - room, span.high + room)
    y_axis(figure, axis, scale)
    ends = [(_name(score[i, j]), float(score[i, j, -1]), colours[i]) for i, j in highest]
    end_names(figure, ends, scale, HEIGHT - TOP - _LEGEND - BOTTOM)
    return figure


def mosaic(score: xr.DataArray) -> go.Figure:
    """Return a heat map of layer by head, with a frame for each step; it shows the last step.

    score: dims step, layer, head. All frames share one colour scale, so that colours are comparable
    between steps.
    """
    score = score.transpose("step", "layer", "head")
    span, few = score_range(score), score[0].size <= _FEW
    figure = go.Figure(
        go.Heatmap(
            x=score["head"].values.tolist(),
            y=score["layer"].values.tolist(),
            z=score.values[-1],
            zmin=span.low,
            zmax=span.high,
            colorscale=AROUND_ZERO if span.low < 0 else FROM_ZERO,
            xgap=1.5 if few else 0.5,
            ygap=1.5 if few else 0.5,
            texttemplate="%{z:.2f}" if few else None,
            textfont={"size": 11},
            colorbar=colour_bar(),
            hovertemplate="<b>L%{y}H%{x}</b> %{z:.4~g}<extra></extra>",
        )
    )
    figure.frames = [
        go.Frame(name=str(int(step)), data=[go.Heatmap(z=values)])
        for step, values in zip(score["step"].values, score.values, strict=True)
    ]
    styled(figure, HEIGHT, (46, 10, TOP + _LEGEND, BOTTOM))
    figure.update_xaxes(title_text="head", showgrid=False, **_whole_ticks(score.sizes["head"]))
    figure.update_yaxes(title_text="layer", showgrid=False, **_whole_ticks(score.sizes["layer"]))
    figure.update_yaxes(autorange="reversed")  # layer 0 at the top, as in a matrix
    return figure


def score_range(score: xr.DataArray) -> Scale:
    """Return the limits of a score's scale: [0, 1] or [-1, 1] if they hold it, else its own.

    With negative values the limits are symmetric, so that 0 has the colour of the page.
    """
    values = score.values[np.isfinite(score.values)]
    largest = float(np.abs(values).max()) if values.size else 1.0
    largest = 1.0 if largest <= 1 + 1e-6 else largest  # rounding may exceed 1
    return Scale(-largest if values.size and values.min() < -1e-6 else 0.0, largest)


def _layer_lines(score: xr.DataArray, colour: str, crowd: bool) -> go.Scatter:
    """Return the lines of one layer's heads (dims: head, step), with a gap after each."""
    layer, heads, steps = int(score["layer"]), score["head"].values, score["step"].values
    gap = np.full((len(heads), 1), np.nan)
    return go.Scatter(
        # Plotly breaks a line at NaN; the gap needs an x, and repeats the last step.
        x=np.tile(np.append(steps, steps[-1:]), len(heads)),
        y=np.hstack([score.values, gap]).astype(np.float32).ravel(),
        customdata=np.repeat(heads, len(steps) + 1),
        name=f"layer {layer}",
        mode="lines" if len(steps) > 1 else "markers",
        line={"color": colour, "width": 1 if crowd else 1.4},
        opacity=0.45 if crowd else 0.85,
        hovertemplate=f"<b>L{layer}H%{{customdata}}</b> %{{y:.4~g}}<br>%{{text}}<extra></extra>",
    )


def _highlighted(score: xr.DataArray, colour: str) -> go.Scatter:
    """Return one head's line (dims: step) for a second, thicker drawing.

    Without hover: the line below it has the hover text.
    """
    return go.Scatter(
        x=score["step"].values,
        y=score.values,
        name=_name(score),
        mode="lines",
        line={"color": colour, "width": 2.4},
        showlegend=False,
        hoverinfo="skip",
    )


def _layer_colour_bar(layers: np.ndarray[tuple[int], np.dtype[Any]]) -> go.Scatter:
    """Return a trace without points that holds the colour bar of the layers.

    In plotly a colour bar belongs to a trace with a colour scale; lines have none.
    """
    colours = sequence(len(layers))
    scale = [[i / (len(layers) - 1), colour] for i, colour in enumerate(colours)]
    bar = colour_bar("layer") | {"x": 1.0, "xpad": 46}
    limits = {"cmin": int(layers[0]), "cmax": int(layers[-1])}
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"color": [0], "colorscale": scale, "showscale": True, "colorbar": bar, **limits},
        showlegend=False,
        hoverinfo="skip",
    )


def _highest(score: xr.DataArray, middle: float) -> list[tuple[int, int]]:
    """Return the indices of the heads that end highest, of those above `middle`."""
    final = np.nan_to_num(score.values[..., -1], nan=-np.inf)
    order = np.argsort(-final, axis=None, kind="stable")[:_NAMED]
    places = [divmod(int(i), final.shape[1]) for i in order]
    return [place for place in places if final[place] > middle]


def _name(score: xr.DataArray) -> str:
    return plain_label(head_name(int(score["layer"]), int(score["head"])))


def _whole_ticks(count: int) -> dict[str, Any]:
    """Return a tick for every head or layer, or for every few where there are many."""
    return {"tickmode": "linear", "tick0": 0, "dtick": max(1, -(-count // 12))}
