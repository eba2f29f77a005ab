"""Numbers of runs of modular arithmetic: how well they know the test pairs, and when they learn."""

from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.aggregate.levels import first_past
from pipeline.aggregate.phases import SOLVED, milestones
from pipeline.experiments.runs import Result

ANSWERED = float(np.exp(-SOLVED))  # the probability of an answer whose loss counts as solved
PROBABILITY = "probability of a test pair's answer at the end"
_LAST = 5  # checkpoints of which the median is taken, so that a spike at the end does not count


def by_seed(results: Iterable[Result], effect: Callable[[Result], float]) -> dict[int, float]:
    """Return an effect of each result by its seed."""
    return {one.seed: effect(one) for one in results}


def progress(result: Result) -> xr.Dataset:
    """Return the group `modular_addition` in memory, in order of step."""
    return result.group("modular_addition").sortby("step").load()


def generalised_at(result: Result) -> int | None:
    """Return the step from which the test loss stays below 0.1 nats; None without one."""
    return milestones(progress(result), SOLVED)["test_loss"]


def probability(result: Result) -> float:
    """Return the probability of the answer to a test pair at the end: the geometric mean of pairs.

    The median of the last five checkpoints. By chance it is 1 / p.
    """
    return median_of_last(np.exp(-progress(result)["test_loss"].values))


def last_value(result: Result, group: str, variable: str) -> float:
    """Return the median of the last five checkpoints of a variable over `step`."""
    return median_of_last(result.group(group)[variable].sortby("step").values)


def median_of_last(values: Float[np.ndarray, " step"]) -> float:
    """Return the median of the last five values."""
    return float(np.median(values[-_LAST:]))


def fall_width(loss: xr.DataArray) -> float:
    """Return the number of steps in which a loss falls from 9/10 to 1/10 of its largest value.

    From the last step before its first one below a tenth at which it is at least nine tenths. A
    loss that does not fall so far has not fallen at its last step: the width up to there is a
    lower bound. At least one saving interval, the resolution.
    """
    steps, values = loss["step"].values, loss.values
    largest = float(np.nanmax(values)) if np.isfinite(values).any() else np.nan
    if not largest > 0:
        return np.nan
    low = first_past(loss, largest / 10)
    end = len(steps) - 1 if low is None else int(np.flatnonzero(steps == low)[0])
    high = np.flatnonzero(values[: end + 1] >= 0.9 * largest)
    start = int(high[-1]) if len(high) else 0
    return float(max(steps[end] - steps[start], steps[-1] - steps[-2]))
