"""The trajectory of a run through loss space: two components of the losses on all tokens."""

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.loss_space import loss_space
from pipeline.errors import InputError
from pipeline.findings.sentences import by_measure
from pipeline.report.drawing import BOTTOM, LEFT, TOP, Scale, y_axis
from pipeline.report.plates import Plate
from pipeline.report.theme import FAINT, QUIET, VERMILLION, sequence, styled

MOST_NUMBERS = 2**26  # stored losses beyond which the figure is left to `ontogeny losses`
_HEIGHT = 400
_LABELS = 8  # steps that are written at their points


def loss_space_plate(run: xr.DataTree) -> Iterator[Plate]:
    """Yield the figure of a run's first group of per-token losses, if it has one of a fair size."""
    for group in by_measure(run).get("token_loss", {}).values():
        if "loss" not in group or group["loss"].size > MOST_NUMBERS:
            return
        try:
            space = loss_space({"run": group}, components=2)
        except InputError:  # fewer than three checkpoints are finite
            return
        if space.sizes["component"] == 2 and np.isfinite(space["share"].values).all():
            caption, corner = _corner(space)
            caption = (
                "Each checkpoint's losses on all tokens, on their two principal components over "
                "checkpoints (Olsson et al. 2022). The second component is often the arch of the "
                f"first. {caption}"
            )
            yield Plate("Trajectory through loss space", caption, (trajectory(space, corner),))
        return


def trajectory(space: xr.Dataset, corner: int | None = None) -> go.Figure:
    """Return the checkpoints of a space on its first two components, in order, with some steps.

    corner: a step to mark.
    """
    x, y = space["scores"].values[:, :2].T
    steps = space["step"].values
    figure = go.Figure(
        go.Scatter(
            x=x, y=y, mode="lines+markers", line={"color": FAINT, "width": 1.4},
            marker={"color": sequence(len(x)), "size": 6}, showlegend=False,
            text=[f"step {int(step):,}" for step in steps],
            hovertemplate="<b>%{text}</b><br>%{x:.3f}, %{y:.3f} nats<extra></extra>",
        )
    )  # fmt: skip
    scales = [_roomy(values) for values in (x, y)]
    titles = [
        f"component {i} (nats; {share:.1%} of the variance)"
        for i, share in enumerate(space["share"].values[:2], start=1)
    ]
    styled(figure, _HEIGHT, (LEFT, 18, TOP, BOTTOM))
    y_axis(figure, titles[1], scales[1])
    y_axis(figure, titles[0], scales[0], name="xaxis")
    for i in _apart(x / np.ptp(x), y / np.ptp(y)):
        _label(figure, x, y, i, f"{int(steps[i]):,}", QUIET)
    for i in np.flatnonzero(steps == corner):
        _label(figure, x, y, int(i), f"corner: step {corner:,}", VERMILLION)
    return figure


def _roomy(values: np.ndarray) -> Scale:
    """Return a scale with room for the labels of the outermost points."""
    room = 0.13 * float(np.ptp(values))
    return Scale(float(values.min()) - room, float(values.max()) + room)


def _apart(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Return the points nearest to places evenly spaced along the path."""
    path = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])
    places = np.linspace(0, path[-1], _LABELS)
    return np.unique([int(np.abs(path - at).argmin()) for at in places]).tolist()


def _label(
    figure: go.Figure, x: np.ndarray, y: np.ndarray, point: int, text: str, colour: str
) -> None:
    """Write a text beside a point, on the side away from the middle of the figure."""
    away = [2 * (one[point] - one.min()) / np.ptp(one) - 1 for one in (x, y)]
    right, up = np.array(away) / max(float(np.hypot(*away)), 1e-9)
    figure.add_annotation(
        text=text, x=x[point], y=y[point], xanchor="left" if right > 0 else "right",
        yanchor="middle", xshift=round(8 * right), yshift=round(14 * up), showarrow=False,
        font={"size": 11, "color": colour},
    )  # fmt: skip


def _corner(space: xr.Dataset) -> tuple[str, int | None]:
    """Return a sentence on the sharpest corner, and its step where it is outside the null."""
    try:
        found = find_corner(space).sel(window="whole")
    except InputError:  # too few checkpoints
        return "", None
    p = float(max(found["p_walks"], found["p_flipped"]))
    where = f"step {int(found['candidate']):,}"
    if np.isnan(float(found["step"])):
        return (
            f"No corner beyond those of random walks: the sharpest, at {where}, has p = {p:.2g}.",
            None,
        )
    return (
        f"It turns a corner at {where} (p = {p:.2g} under random walks in 2 to 1,000 dimensions "
        "with the same step lengths).",
        int(found["step"]),
    )
