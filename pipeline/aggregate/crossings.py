"""When a series over training steps passed a threshold, and where it moved most.

Both answers are saved steps: between two checkpoints nothing is known, and nothing is interpolated.
"""

from typing import Literal, NamedTuple

import numpy as np
import xarray as xr

Direction = Literal["below", "above"]


class Change(NamedTuple):
    """A move between two neighbouring saved steps, and the values there."""

    before: int
    after: int
    value_before: float
    value_after: float

    @property
    def size(self) -> float:
        """value_after - value_before."""
        return self.value_after - self.value_before


def first_crossing(
    series: xr.DataArray, threshold: float, direction: Direction = "below", *, stays: bool = False
) -> int | None:
    """The first saved step at which `series` (dims: step) is past `threshold`; None if it never is.

    Past means strictly below, or strictly above, the threshold. A series that begins past it
    crosses at its first step. A step whose value is NaN (undefined) is passed over, as if it had
    not been saved: it neither crosses nor ends a crossing.
    stays: the first step from which on ALL later values are past the threshold.
    """
    steps, values = _defined(series)
    past = values < threshold if direction == "below" else values > threshold
    if stays:
        past = np.logical_and.accumulate(past[::-1])[::-1]
    return int(steps[past.argmax()]) if past.any() else None


def largest_change(series: xr.DataArray) -> Change | None:
    """The neighbouring saved steps between which `series` (dims: step) moved most, up or down.

    The move is the absolute difference of the two values, whatever the number of steps between
    them. Of equal moves the earliest counts. Steps whose value is NaN are passed over: the steps
    on either side of one are neighbours. None where the series never moves.
    """
    steps, values = _defined(series)
    moves = np.abs(np.diff(values))
    if not moves.any():
        return None
    i = int(moves.argmax())
    return Change(int(steps[i]), int(steps[i + 1]), float(values[i]), float(values[i + 1]))


def _defined(series: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Steps in ascending order and the values there, without those that are NaN."""
    if series.dims != ("step",):
        raise ValueError(f"a series over step alone is needed, not one over {series.dims}")
    ordered = series.sortby("step")
    steps, values = ordered["step"].values, ordered.values.astype(np.float64)
    defined = ~np.isnan(values)
    return steps[defined], values[defined]
