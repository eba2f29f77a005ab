"""Clauses on changes: how suddenly, when, how certain, and how long after another one."""

import xarray as xr

from pipeline.aggregate.lag import Place, lag_between
from pipeline.aggregate.transitions import FEWEST, Scanned, Transition
from pipeline.findings.number_format import counted, finite, number


def dated(one: Transition) -> str:
    """Return when a transition happened: its midpoint with an interval, its onset and its end."""
    low, high = one.midpoint_interval
    return (
        f"at step {one.midpoint:,.0f} (90% interval {low:,.0f} to {high:,.0f}; 10 to 90% of it "
        f"between steps {one.onset:,.0f} and {one.end:,.0f})"
    )


_HOW = {
    "smooth": ", smoothly, so that no step can be named",
    "none": ", by no more than it scatters",
    "sudden": ", by more than one sudden change",
}


def not_sudden(found: Scanned, checkpoints: int) -> str:
    """Return a clause on how a series changed that no single transition describes."""
    few = f": {counted(checkpoints, 'checkpoint')} are too few (at least {FEWEST} are needed)"
    unknown = "; whether suddenly cannot be told" + (few if checkpoints < FEWEST else "")
    return _HOW.get(found.shape, unknown)


def checkpoints_of(series: xr.DataArray) -> int:
    """Return at how many checkpoints a series is finite."""
    return int(finite(series).size)


def lag(one: Transition, other: Transition, name: str) -> str:
    """Return how long after or before `other`, of that name, a transition happened."""
    apart, low, high = lag_between(Place.of(other).in_decades(), Place.of(one).in_decades())
    if low <= 0 <= high:
        return f"at the same time as {name} ({number(apart)} decades, {_interval(low, high)})"
    steps = counted(round(abs(one.midpoint - other.midpoint)), "step")
    side = "after" if apart > 0 else "before"
    low, high = sorted((abs(low), abs(high)))
    return f"{steps} {side} {name} ({number(abs(apart))} decades, {_interval(low, high)})"


def _interval(low: float, high: float) -> str:
    return f"90% interval {number(low)} to {number(high)}"
