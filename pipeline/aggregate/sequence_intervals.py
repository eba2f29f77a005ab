"""Intervals of transitions of a mean loss from resampled sequences.

The interval of `find_transitions` is that of the fit: it has the noise between checkpoints, with
the sequences as given. Sequences of another sample would fall at other steps; resampling them
shows by how much. A transition table gets the hull of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer

from pipeline.aggregate.blocks import in_order
from pipeline.aggregate.derivative import sequence_means
from pipeline.aggregate.shares import resampled_units
from pipeline.aggregate.transitions import Interval, Scanned, Transition, scan, scan_series

RESAMPLES = 100
_TAILS = (0.05, 0.95)
_LEAST = 0.5  # share of the resamples that must have the transition
RESIDUALS, BOTH = "residuals", "sequences and residuals"


def sequence_series(group: xr.Dataset) -> dict[str, Float[np.ndarray, "step sequence"]]:
    """Return the series of a group of losses for each sequence, by the name of their mean.

    group: `token_loss`. `mean`: of each sequence's losses, weighted so that their mean is that of
    all tokens; `in_context_score`: the late token's loss less the early one's, where the group
    says which. Steps ascend. Sequences of padding alone are left out.
    """
    loss = in_order(group["loss"].transpose("step", "sequence", "position"))
    found = {"mean": sequence_means(loss)}
    parameters = group.attrs.get("parameters") or {}
    early, late = (parameters.get(name, np.inf) for name in ("early_token", "late_token"))
    if max(early, late) <= loss.sizes["position"]:
        ends = loss.isel(position=[early - 1, late - 1]).values.astype(np.float64)
        found["in_context_score"] = ends[:, :, 1] - ends[:, :, 0]
    return {name: of[:, np.isfinite(of).any(axis=0)] for name, of in found.items()}


class Change(NamedTuple):
    """A transition's quantities, as a table has them."""

    onset: float
    midpoint: float
    end: float
    amplitude: float


def sequence_intervals(
    steps: Integer[np.ndarray, " step"],
    sequences: Float[np.ndarray, "step sequence"],
    transitions: Sequence[Transition | Change],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """Return 90% intervals of transitions of the sequences' mean, by a bootstrap over sequences.

    transitions: of the mean over sequences, as `find_transitions` returns them. Sequences are drawn
    with replacement and the mean of each resample is fitted again. A resample has a transition if
    one of its own has the same sign and its midpoint between half of the onset and twice the end;
    the one with the nearest midpoint (in log steps) counts. Dims: transition. `<quantity>_low` and
    `_high`, for onset, midpoint, end (steps) and amplitude: 5 and 95% quantiles over the resamples
    that have it; NaN where fewer than half of them do, and for a single sequence. `found_again`:
    the share of resamples that have it.
    """
    weights = resampled_units(sequences.shape[1], resamples, np.random.default_rng(seed))
    refitted = scan(steps, weights @ sequences.T / sequences.shape[1]) if len(weights) else []
    bounds = np.full((len(Change._fields), 2, len(transitions)), np.nan)
    share = np.full(len(transitions), np.nan)
    for place, one in enumerate(transitions):
        rows = [row for each in refitted if (row := _matched(each.transitions, one)) is not None]
        if refitted:
            share[place] = len(rows) / len(refitted)
        if refitted and share[place] >= _LEAST:
            bounds[:, :, place] = np.quantile(np.array(rows), _TAILS, axis=0).T
    named = {f"{name}_{side}": ("transition", bounds[i, at])
             for i, name in enumerate(Change._fields)
             for at, side in enumerate(("low", "high"))}  # fmt: skip
    about = {"resamples": len(refitted), "seed": seed}
    return xr.Dataset(named | {"found_again": ("transition", share)}, attrs=about)


def _matched(found: Sequence[Transition], one: Transition | Change) -> Change | None:
    """Return the transition that is the same as another one, or None."""
    same = [
        other
        for other in found
        if other.amplitude * one.amplitude > 0 and one.onset / 2 <= other.midpoint <= 2 * one.end
    ]
    if not same:
        return None
    nearest = min(same, key=lambda other: abs(np.log(other.midpoint / one.midpoint)))
    return Change(*(getattr(nearest, name) for name in Change._fields))


def scan_losses(group: xr.Dataset, name: str, *, resamples: int = RESAMPLES) -> Scanned:
    """Return the shape and the transitions of a series of a group of losses.

    name: `mean` or `in_context_score`. The intervals are the hull of those of the fit and, where
    the group stores losses over step, sequence and position, of resampled sequences.
    """
    found = scan_series(group[name])
    if not found.transitions or "loss" not in group:
        return found
    sequences = sequence_series(group).get(name)
    if sequences is None:
        return found
    steps = np.sort(group["step"].values)
    again = sequence_intervals(steps, sequences, found.transitions, resamples=resamples)
    return replace(
        found,
        transitions=tuple(_hull(one, again, place) for place, one in enumerate(found.transitions)),
    )


def _hull(one: Transition, again: xr.Dataset, place: int) -> Transition:
    """Return a transition with intervals that hold its own and those of resampled sequences."""

    def wider(name: str) -> Interval:
        low, high = getattr(one, f"{name}_interval")
        others = (float(again[f"{name}_{side}"][place]) for side in ("low", "high"))
        other_low, other_high = others
        return float(np.fmin(low, other_low)), float(np.fmax(high, other_high))

    return replace(one, **{f"{name}_interval": wider(name) for name in Change._fields})


def with_sequence_intervals(
    table: xr.Dataset, groups: Mapping[str, xr.Dataset], *, resamples: int = RESAMPLES
) -> xr.Dataset:
    """Return a table of transitions whose intervals have the choice of sequences in them too.

    table: of `run_transitions.transitions_of`. groups: those of its groups, by name, that store a
    loss over step, sequence and position. In the rows of their `mean` and `in_context_score` that
    have transitions, `<quantity>_low` and `_high` become the hull of both intervals.
    `interval_from` says where each is from ("" where there is no transition), and `found_again`
    which share of the resamples has the transition (NaN where sequences are not stored).
    """
    table = table.copy(deep=True)
    there = np.isfinite(table["midpoint"].values)
    table["interval_from"].values = np.where(there, RESIDUALS, "").astype(object)
    for name, group in groups.items():
        mine = np.flatnonzero((table["group"].values == name) & there.any(axis=1))
        # Losses are read only where there is something to resample.
        series = sequence_series(group) if len(mine) else {}
        for row in mine:
            values = series.get(str(table["variable"].values[row]))
            if values is not None:
                _widen(table, int(row), np.sort(group["step"].values), values, resamples)
    return table


def _widen(
    table: xr.Dataset,
    row: int,
    steps: Integer[np.ndarray, " step"],
    sequences: Float[np.ndarray, "step sequence"],
    resamples: int,
) -> None:
    """Widen the intervals of a row of a table in place."""
    columns = np.stack([table[name].values[row] for name in Change._fields], axis=1)
    known = np.flatnonzero(np.isfinite(columns[:, 1]))
    changes = [Change(*(float(one) for one in columns[place])) for place in known]
    found = sequence_intervals(steps, sequences, changes, resamples=resamples)
    for name in Change._fields:
        for side, outer in (("low", np.fmin), ("high", np.fmax)):
            mine = table[f"{name}_{side}"].values
            mine[row, known] = outer(mine[row, known], found[f"{name}_{side}"].values)
    table["found_again"].values[row, known] = found["found_again"].values
    both = known[np.isfinite(found["midpoint_low"].values)]
    table["interval_from"].values[row, both] = BOTH
