"""The step at which a number of a run rises, and how fast it does."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Num

from pipeline.experiments.runs import Result
from pipeline.measures.head_patterns import THRESHOLD


@dataclass(frozen=True)
class Rise:
    """The rise of a series from its first to its largest value.

    middle: the step (interpolated) at which half of it is done. width: steps from a tenth to nine
    tenths of it.
    """

    middle: float
    width: float

    @property
    def relative_width(self) -> float:
        """Width over middle: 1.6 for a series that grows in proportion to the step."""
        return self.width / self.middle


def strongest(result: Result, score: str = "induction", layer: int | None = None) -> xr.DataArray:
    """Return the largest of a score over heads, or over those of a layer (dims: step)."""
    scores = result.group("head_scores")[score]
    return (scores if layer is None else scores.sel(layer=[layer])).max(("layer", "head")).load()


def in_context(result: Result) -> xr.DataArray:
    """Return the in-context score in nats (dims: step); the more negative, the more is learned."""
    return result.group("token_loss").in_context_score.load()


def rise(series: xr.DataArray) -> Rise:
    """Return the rise of a series over `step`; NaN where it never rises above its first value."""
    steps, values = series["step"].values.astype(float), series.values.astype(float)
    first, largest = values[0], np.nanmax(values)
    if not largest > first:
        return Rise(np.nan, np.nan)
    at = [reached(steps, values, first + share * (largest - first)) for share in (0.1, 0.5, 0.9)]
    return Rise(at[1], at[2] - at[0])


def formed_at(series: xr.DataArray, threshold: float = THRESHOLD) -> tuple[float, bool]:
    """Return the step at which a series reaches a threshold, and whether it does.

    Where it does not, the step is the last one: a lower bound of the step at which it would.
    """
    steps = series["step"].values.astype(float)
    step = reached(steps, series.values.astype(float), threshold)
    return (step, True) if np.isfinite(step) else (float(steps[-1]), False)


def reached(
    steps: Num[np.ndarray, " step"], values: Float[np.ndarray, " step"], level: float
) -> float:
    """Return the first step at which values reach a level, interpolated linearly; NaN if never."""
    above = np.flatnonzero(values >= level)
    if not len(above):
        return np.nan
    i = above[0]
    if i == 0:
        return float(steps[0])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
