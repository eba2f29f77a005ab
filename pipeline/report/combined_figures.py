"""Figures that show several measures at once, with marked changes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from pipeline.aggregate.phases import MILESTONES, SOLVED, milestones
from pipeline.aggregate.transitions import scan_series
from pipeline.findings.gaps import has_numbers
from pipeline.findings.heads import Heads, onsets, strongest
from pipeline.findings.number_format import in_words
from pipeline.report.downsample import kept_indices
from pipeline.report.drawing import (
    BOTTOM,
    LABEL_HEIGHT,
    LEFT,
    TOP,
    Scale,
    end_names,
    last,
    line,
    log_ticks,
    mark_span,
    mark_step,
    room_for,
    scale_of,
    step_axis,
    y_axis,
)
from pipeline.report.figures import HEIGHT, heat_map, lines
from pipeline.report.theme import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    PURPLE,
    QUIET,
    VERMILLION,
    sequence,
    styled,
)

LOSSES = {
    "train_loss": BLUE,
    "restricted_loss": GREEN,
    "test_loss": VERMILLION,
    "excluded_loss": PURPLE,
}
_PROFILES = 7  # checkpoints whose loss by position is drawn as a line
_PANEL, _GAP = 150, 0.035  # height in pixels, and the share of the figure between two panels


class Panel(NamedTuple):
    """One of several plots that share a step axis: its y axis, and lines with their colours."""

    axis: str
    lines: Mapping[str, tuple[xr.DataArray, str]]


def losses_and_heads(losses: xr.Dataset, heads: Heads | None) -> go.Figure | None:
    """Return mean loss, in-context score and the strongest heads over one step axis.

    The band marks the largest change of the in-context score; the line, the first induction head.
    Panels without a finite number are left out; None where no panel of a loss is left.
    """
    score = losses["in_context_score"]
    each = {
        "mean loss (nats)": {"mean loss": (losses["mean"], INK)},
        "in-context score (nats)": {"in-context score": (score, VERMILLION)},
    }
    drawn = {
        axis: series
        for axis, series in each.items()
        if all(has_numbers(values) for values, _ in series.values())
    }
    panels = [Panel(axis, series) for axis, series in drawn.items()]
    if not panels:
        return None
    induction = None if heads is None else heads.excess("induction")
    previous = None if heads is None else heads.excess("previous_token")
    if heads is None or induction is None or previous is None or not has_numbers(induction):
        induction = None
        figure = stacked(panels, marks=1)
    else:
        above = strongest(induction)
        both = {"induction": (above, BLUE), "previous token": (strongest(previous), GREEN)}
        both = {name: series for name, series in both.items() if has_numbers(series[0])}
        figure = stacked([*panels, Panel("score above null", both)], marks=2)
        if formed := onsets(heads, "induction"):
            first = formed[0].step
            label = f"first head {heads.threshold:g} above its null: step {first:,}"
            mark_step(figure, first, label, BLUE, 0)
    if (change := scan_series(score).largest) is not None:
        start, end = round(change.onset), round(change.end)
        label = f"largest transition of the in-context score: {start:,} to {end:,}"
        mark_span(figure, start, end, label, VERMILLION, int(induction is not None))
    return figure


def stacked(panels: Sequence[Panel], marks: int = 0) -> go.Figure:
    """Return panels over one step axis, with room for `marks` lines of text above them."""
    figure, share = go.Figure(), 1 / len(panels)
    for i, panel in enumerate(panels):
        below = _GAP if i < len(panels) - 1 else 0.0
        _add_panel(figure, panel, i, [1 - (i + 1) * share + below, 1 - i * share])
    # The axis title names the line of a panel that has only one.
    named = [name for panel in panels if len(panel.lines) > 1 for name in panel.lines]
    top = TOP + LABEL_HEIGHT * marks
    height = _PANEL * len(panels) + top + BOTTOM
    styled(figure, height, (LEFT, room_for(named), top, BOTTOM))
    step_axis(figure)
    figure.update_xaxes(anchor=_ref(len(panels) - 1))  # below the lowest panel
    return figure


def loss_profiles(by_position: xr.DataArray, tokens: Sequence[int] = ()) -> go.Figure:
    """Return loss by token at a few checkpoints (dims: step, position), later ones lighter.

    tokens: those that the in-context score compares, which are marked. Checkpoints without a finite
    loss are left out.
    """
    known = np.isfinite(by_position.transpose("step", ...).values).any(axis=1)
    by_position = by_position.isel(step=np.flatnonzero(known))
    chosen = by_position.isel(step=kept_indices(by_position["step"].values, _PROFILES))
    colours, scale = sequence(chosen.sizes["step"]), scale_of([chosen])
    figure = go.Figure([_profile(one, colour) for one, colour in zip(chosen, colours, strict=True)])
    names = [f"step {int(step):,}" for step in chosen["step"].values]
    top = TOP + LABEL_HEIGHT
    styled(figure, HEIGHT, (LEFT, room_for(names), top, BOTTOM))
    y_axis(figure, "loss (nats)", scale)
    shown = Scale(0, np.log10(chosen.sizes["position"] + 1), log=True)
    figure.update_xaxes(title_text="token predicted", **log_ticks(shown))
    ends = [
        (name, last(one), colour) for name, one, colour in zip(names, chosen, colours, strict=True)
    ]
    end_names(figure, ends, scale, HEIGHT - top - BOTTOM)
    for token in tokens:
        _mark_token(figure, token)
    return figure


def loss_by_position(by_position: xr.DataArray, at_most: int = 128) -> go.Figure:
    """Return loss by token (y, logarithmic) over training; dims: step, position."""
    # Position t holds the loss of token t + 1; the shift also makes the axis positive, for its log.
    tokens = by_position.assign_coords(position=by_position["position"] + 1)
    kept = kept_indices(tokens["position"].values, at_most)
    return heat_map(tokens.isel(position=kept), "position", "token predicted", "nats", log=True)


def progress(group: xr.Dataset) -> go.Figure:
    """Return the losses on one logarithmic axis, with the steps of the milestones."""
    losses = {in_words(name): group[name] for name in LOSSES if has_numbers(group[name])}
    reached = {name: step for name, step in milestones(group).items() if step is not None}
    top = TOP + LABEL_HEIGHT * len(reached)
    colours = [colour for name, colour in LOSSES.items() if in_words(name) in losses]
    figure = lines(losses, "loss (nats)", log=True, colours=colours, height=380 + top, top=top)
    figure.add_hline(SOLVED, line={"color": QUIET, "width": 1, "dash": "dot"})
    figure.add_annotation(
        # On logarithmic axes plotly takes annotations in powers of ten, but lines in plain numbers.
        text=f"{SOLVED} nats", x=1, xref="paper", xanchor="right", xshift=-4, y=np.log10(SOLVED),
        yanchor="top", showarrow=False, font={"size": 11, "color": QUIET},
    )  # fmt: skip
    latest_first = sorted(reached, key=lambda name: -reached[name])
    for row, name in enumerate(latest_first):
        label = f"{MILESTONES[name]}: {in_words(name)} at step {reached[name]:,}"
        mark_step(figure, reached[name], label, LOSSES[name], row)
    return figure


def frequencies(norms: xr.DataArray, keys: Sequence[int] = ()) -> go.Figure:
    """Return the norm of the embedding at each frequency over training; arrows mark key ones.

    norms: dims step, frequency.
    """
    figure = heat_map(norms, "frequency", "frequency k", "norm")
    for key in keys:
        figure.add_annotation(
            text="◂", x=1, xref="paper", xanchor="left", xshift=-1, y=key, yanchor="middle",
            showarrow=False, font={"size": 12, "color": VERMILLION},
        )  # fmt: skip
    return figure


def _add_panel(figure: go.Figure, panel: Panel, index: int, domain: list[float]) -> None:
    ref, name = _ref(index), _ref(index).replace("y", "yaxis")
    for label, (values, colour) in panel.lines.items():
        figure.add_trace(line(label, values, colour).update(yaxis=ref))
    scale = scale_of([values for values, _ in panel.lines.values()])
    figure.update_layout({name: {"domain": domain, "anchor": "x"}})
    y_axis(figure, panel.axis, scale, name=name)
    if len(panel.lines) > 1:
        ends = [(label, last(values), colour) for label, (values, colour) in panel.lines.items()]
        end_names(figure, ends, scale, _PANEL, yref=ref)


def _ref(index: int) -> str:
    """Return plotly's name of the y axis of the panel with that index."""
    return "y" if index == 0 else f"y{index + 1}"


def _mark_token(figure: go.Figure, token: int) -> None:
    figure.add_vline(token, line={"color": FAINT, "width": 1, "dash": "dot"})
    figure.add_annotation(
        text=f"token {token:,}", x=np.log10(token), y=1, yref="paper", yanchor="bottom",
        showarrow=False, font={"size": 11, "color": QUIET},
    )  # fmt: skip


def _profile(profile: xr.DataArray, colour: str) -> go.Scatter:
    name = f"step {int(profile['step']):,}"
    return go.Scatter(
        x=profile["position"].values + 1,
        y=profile.values,
        name=name,
        mode="lines",
        line={"color": colour, "width": 1.6},
        hovertemplate=f"<b>{name}</b> %{{y:.4~g}} nats<br>token %{{x}}<extra></extra>",
        showlegend=False,
    )
