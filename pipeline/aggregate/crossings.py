"""Threshold crossings and largest changes of series over training steps.

Results are saved steps: nothing is interpolated between two checkpoints.
"""

from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Real

Direction = Literal["below", "above"]


class Change(NamedTuple):
    """A change between two neighbouring saved steps, with the values there."""

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
    """Return the first saved step at which `series` (dims: step) is past `threshold`, or None.

    Past means finite and strictly below, or strictly above, the threshold. A series that begins
    past it crosses at its first step. NaN and infinity are never past it.
    stays: the first step from which on ALL saved values are past the threshold. A later value that
    is not finite is not past it either. The last step alone is enough: no saved value contradicts
    it, but sentences must say that no later step confirms it. Raises ValueError for a series with
    dimensions other than step.
    """
    steps, values = _ordered(series)
    past = values < threshold if direction == "below" else values > threshold
    past &= np.isfinite(values)  # -inf is below every threshold
    if stays:
        past = np.logical_and.accumulate(past[::-1])[::-1]
    # `argmax` of booleans is the first True.
    return int(steps[past.argmax()]) if past.any() else None


def largest_change(series: xr.DataArray) -> Change | None:
    """Return the neighbouring saved steps between which `series` (dims: step) changed most.

    The change is the absolute difference of the two values, whatever the number of steps between
    them. Of equal changes the earliest is returned. Steps whose value is not finite are skipped:
    the steps on either side of one are neighbours. None where the series never changes. Raises
    ValueError for a series with dimensions other than step.
    """
    steps, values = _ordered(series)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    moves = np.abs(np.diff(values))
    if not moves.any():
        return None
    i = int(moves.argmax())
    return Change(int(steps[i]), int(steps[i + 1]), float(values[i]), float(values[i + 1]))


def _ordered(
    series: xr.DataArray,
) -> tuple[Real[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    """Return the steps in ascending order and the values there."""
    if series.dims != ("step",):
        raise ValueError(f"a series over step alone is needed, not one over {series.dims}")
    ordered = series.sortby("step")
    return ordered["step"].values, ordered.values.astype(np.float64)
