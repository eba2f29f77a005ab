"""The rule by which a series passes a level: what "formed", "memorised" and "fell" mean.

A series has passed a level at the first saved step from which on it stays past it, up to the last
saved step (see `stays_past`). Spikes do not count: a return of up to `SPIKE` checkpoints is one
where at least `FLANK` times as many on either side are past the level. The level of a head's score
is a distance above its null (see `pipeline.measures.head_patterns`).

Whether the change was sudden is a question of its own: `carrying` returns the transition (see
`pipeline.aggregate.transitions`) that takes a series past a level.

Results are saved steps: nothing is interpolated between two checkpoints.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Real

from pipeline.aggregate.transitions import Transition

Direction = Literal["below", "above"]

SPIKE = 5  # checkpoints that a spike has at most
FLANK = 5  # times as many are past the level before it, and after it
LASTING = 3  # checkpoints without which a stretch that has ended is none

SPIKES = f"spikes, returns of up to {SPIKE} checkpoints between {FLANK} times as many, do not count"


class Stretch(NamedTuple):
    """Saved steps over which a series is past a level. last: None where no later step ends it."""

    first: int
    last: int | None


def first_past(series: xr.DataArray, level: float, direction: Direction = "below") -> int | None:
    """Return the first saved step at which `series` (dims: step) is past a level, or None.

    Past means finite and strictly below, or strictly above, the level. A series that begins past
    it is so at its first step. Raises ValueError for a series with dimensions other than step.
    """
    steps, values = _ordered(series)
    past = _past(values, level, direction)
    return int(steps[past.argmax()]) if past.any() else None  # `argmax`: the first True


def stays_past(series: xr.DataArray, level: float, direction: Direction = "below") -> int | None:
    """Return the first saved step from which on a series stays past a level, or None.

    Up to the last saved step, spikes aside. A value that is not finite is not past it. The last
    step alone is enough: no saved value contradicts it, but sentences must say that no later step
    confirms it.
    """
    found = stretches(series, level, direction)
    return found[-1].first if found and found[-1].last is None else None


def longest_past(
    series: xr.DataArray, level: float, direction: Direction = "below"
) -> Stretch | None:
    """Return the stretch that lasts to the last step, else the one of most checkpoints, or None.

    A stretch that has ended has at least `LASTING` checkpoints.
    """
    found = stretches(series, level, direction)
    if found and found[-1].last is None:
        return found[-1]
    steps, _ = _ordered(series)
    sizes = [int(((steps >= first) & (steps <= last)).sum()) for first, last in found]
    if not sizes or max(sizes) < LASTING:
        return None
    return found[int(np.argmax(sizes))]


def stretches(series: xr.DataArray, level: float, direction: Direction = "below") -> list[Stretch]:
    """Return all stretches over which a series is past a level, in order, without spikes."""
    steps, values = _ordered(series)
    return [
        Stretch(int(steps[start]), int(steps[end - 1]) if end < len(steps) else None)
        for start, end in _without_spikes(_past(values, level, direction))
    ]


def carrying(
    series: xr.DataArray, level: float, direction: Direction, found: Sequence[Transition]
) -> Transition | None:
    """Return the last transition that takes a series past a level, or None.

    It is one before which the median, from the end of the one before it on, is not past the level,
    and after which the median, up to the onset of the next one, is. Between two that overlap, the
    median is that between their midpoints. found: the transitions of the series, in order.
    """
    steps, values = _ordered(series)
    ends = [-np.inf, *(one.end for one in found)]
    onsets = [*(one.onset for one in found), np.inf]
    middles = [-np.inf, *(one.midpoint for one in found), np.inf]
    medians = []
    for i, between in enumerate(zip(ends, onsets, strict=True)):
        apart = between[0] <= between[1]
        start, end = between if apart else (middles[i], middles[i + 1])
        medians.append(_median(values[(steps >= start) & (steps <= end)]))
    past = _past(np.array(medians), level, direction)
    carried = [one for i, one in enumerate(found) if past[i + 1] and not past[i]]
    return carried[-1] if carried else None


def _past(
    values: Float[np.ndarray, " step"], level: float, direction: Direction
) -> Bool[np.ndarray, " step"]:
    past = values < level if direction == "below" else values > level
    return past & np.isfinite(values)  # -inf is below every level


def _without_spikes(past: Bool[np.ndarray, " step"]) -> list[tuple[int, int]]:
    """Return where stretches of True begin and end; spikes between two do not part them."""
    edges = np.flatnonzero(np.diff(past, prepend=False, append=False)).reshape(-1, 2)
    found: list[tuple[int, int]] = []
    for start, end in edges.tolist():
        if found:
            before, away = found[-1][1] - found[-1][0], start - found[-1][1]
            if away <= SPIKE and min(before, end - start) >= FLANK * away:
                start = found.pop()[0]
        found.append((start, end))
    return found


def _median(values: Float[np.ndarray, " step"]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def _ordered(
    series: xr.DataArray,
) -> tuple[Real[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    """Return the steps in ascending order and the values there."""
    if series.dims != ("step",):
        raise ValueError(f"a series over step alone is needed, not one over {series.dims}")
    ordered = series.sortby("step")
    return ordered["step"].values, ordered.values.astype(np.float64)
