"""Figures for papers whose data are series: over training, and over positions."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.aggregate.phases import SOLVED, Phase
from pipeline.findings.gaps import has_numbers
from pipeline.findings.heads import Heads, onsets
from pipeline.findings.number_format import in_words
from pipeline.measures.head_patterns import NULLS
from pipeline.models.head_names import head_name
from pipeline.report.paper.style import (
    FAINT,
    QUIET,
    ROLES,
    StepScale,
    blank,
    end_names,
    ordered,
    step_axis,
)

_PANEL = 1.05  # inches
_BELOW = 0.45  # for the step axis
_PROFILES = 5
_LONG = 128  # positions from which on their axis is logarithmic
_PHASES = ("#dce9f4", "#dcefe6", "#f8e3d5")  # light tints, under lines of full colour


def what_happened_when(
    losses: xr.Dataset,
    heads: Heads | None,
    changes: Sequence[tuple[float, float]],
    width: float,
    scale: StepScale,
) -> Figure | None:
    """Return mean loss, in-context score and the heads that formed over one step axis, or None.

    losses: the group `token_loss`. heads: those that formed a pattern are drawn, by their score.
    changes: from 10 to 90% of each sudden change of the in-context score, which are shaded.
    """
    names = [
        name
        for name in ("mean", "in_context_score")
        if name in losses and has_numbers(losses[name])
    ]
    formed = {} if heads is None else _formed(heads)
    panels = len(names) + bool(formed)
    if not panels:
        return None
    figure = blank(width, _PANEL * panels + _BELOW)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for one, name in zip(axes, names, strict=False):
        one.plot(losses["step"], losses[name], color=ROLES[name])
        one.set_title(f"{'mean loss' if name == 'mean' else in_words(name)} (nats)")
    if heads is not None and formed:
        _draw_heads(axes[-1], heads, formed)
    for one in axes:
        for start, end in changes:
            one.axvspan(start, end, color=FAINT, alpha=0.5, linewidth=0)
    step_axis(axes[-1], losses["step"].values, scale)
    for one in axes[:-1]:
        one.set_xlabel("")
    if heads is not None and formed:
        end_names(axes[-1], _names(heads, formed))
    return figure


def _draw_heads(axes: Axes, heads: Heads, formed: dict[tuple[int, int, int], str]) -> None:
    axes.set_title("score of the heads that formed")
    axes.set_ylim(0, 1)
    for (_, layer, head), pattern in formed.items():
        line = heads.scores[pattern].sel(layer=layer, head=head)
        axes.plot(line["step"], line, color=ROLES[pattern], linewidth=0.8)


def loss_by_position(by_position: xr.DataArray, width: float) -> Figure | None:
    """Return the loss at each token at a few checkpoints (dims: step, position), or None."""
    known = np.isfinite(by_position.transpose("step", ...).values).any(axis=1)
    by_position = by_position.isel(step=np.flatnonzero(known))
    if not by_position.sizes["step"]:
        return None
    saved = by_position.sizes["step"]
    chosen = by_position.isel(
        step=np.unique(np.linspace(0, saved - 1, _PROFILES).round().astype(int))
    )
    figure = blank(width, 2.1)
    axes = figure.subplots()
    # Position t holds the loss of token t + 1.
    tokens = chosen["position"].values + 1
    colours = ordered(chosen.sizes["step"])
    for profile, colour in zip(chosen, colours, strict=True):
        step = f"{int(profile['step']):,}"
        axes.plot(tokens, profile, color=colour, label=step)
    if len(tokens) > _LONG:
        axes.set_xscale("log")
    axes.set_xlim(tokens[0], tokens[-1])
    axes.set_xlabel("token predicted")
    axes.set_ylabel("mean loss (nats)")
    figure.legend(title="step", title_fontsize=6, loc="outside right upper")
    return figure


def progress(
    group: xr.Dataset, found: Sequence[Phase], width: float, scale: StepScale
) -> Figure | None:
    """Return the progress measures of modular addition, with the phases shaded, or None."""
    panels = [
        (("train_loss", "test_loss", "restricted_loss", "excluded_loss"), "loss (nats)"),
        (("gini_embedding", "gini_neuron_logit", "logit_variance_explained"), "share or Gini"),
    ]
    drawn = [([n for n in names if has_numbers(group[n])], label) for names, label in panels]
    drawn = [(names, label) for names, label in drawn if names]
    if not drawn:
        return None
    figure = blank(width, 1.7 * len(drawn) + _BELOW)
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for one, (names, label) in zip(axes, drawn, strict=True):
        for name in names:
            one.plot(group["step"], group[name], color=ROLES[name], label=in_words(name))
        one.set_ylabel(label)
        if "train_loss" in names or "test_loss" in names:
            one.set_yscale("log")
            one.axhline(SOLVED, color=QUIET, linewidth=0.6, linestyle=":", gid="rule")
        # Beside the axes in a wide figure, above them in a narrow one.
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2 if width < 5 else 4}
        one.legend(**place, borderaxespad=0.2, handlelength=1.5, columnspacing=1)
    _shade_phases(figure, list(axes), found, int(group["step"].max()))
    step_axis(axes[-1], group["step"].values, scale)
    for one in axes[:-1]:
        one.set_xlabel("")
    return figure


def formed_patterns(heads: Heads) -> list[str]:
    """Return the patterns that some head formed, in the order of the scores."""
    return list(dict.fromkeys(pattern for pattern in NULLS if onsets(heads, pattern)))


def _formed(heads: Heads) -> dict[tuple[int, int, int], str]:
    """Return the heads that formed, by (onset, layer, head), with the pattern they end as.

    Of several patterns, that whose null the head exceeds most at the last checkpoint.
    """
    best: dict[tuple[int, int], tuple[float, int, str]] = {}
    for pattern in NULLS:
        if (excess := heads.excess(pattern)) is None:
            continue
        for one in onsets(heads, pattern):
            above = float(excess.sel(layer=one.layer, head=one.head)[-1])
            now = best.get((one.layer, one.head))
            if now is None or above > now[0]:
                best[one.layer, one.head] = (above, one.step, pattern)
    return {(step, *at): pattern for at, (_, step, pattern) in sorted(best.items())}


def _names(heads: Heads, formed: dict[tuple[int, int, int], str]) -> list[tuple[str, float, str]]:
    """Return a name for each line, or for each pattern where there are too many lines."""
    ends = [
        (
            head_name(layer, head),
            pattern,
            float(heads.scores[pattern].sel(layer=layer, head=head)[-1]),
        )
        for (_, layer, head), pattern in formed.items()
    ]
    if len(ends) <= 8:
        return [(f"{name} {in_words(of)}", value, ROLES[of]) for name, of, value in ends]
    patterns = dict.fromkeys(of for _, of, _ in ends)
    highest = {of: max(value for _, one, value in ends if one == of) for of in patterns}
    count = {of: sum(one == of for _, one, _ in ends) for of in patterns}
    return [(f"{in_words(of)} ({count[of]})", highest[of], ROLES[of]) for of in patterns]


def _shade_phases(figure: Figure, axes: Sequence[Axes], found: Sequence[Phase], last: int) -> None:
    if not found:
        return
    for phase, tint in zip(found, _PHASES, strict=False):
        end = last if phase.end is None else phase.end
        for one in axes:
            one.axvspan(phase.start, end, color=tint, linewidth=0, zorder=0)
    key = [Patch(color=tint, label=one.name) for one, tint in zip(found, _PHASES, strict=False)]
    figure.legend(handles=key, loc="outside lower left", ncols=3, handlelength=1)
