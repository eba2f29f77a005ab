"""When a number of a run rises, and how fast: the middle and the width of its rise."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Num

from pipeline.experiments.runs import Result


@dataclass(frozen=True)
class Formation:
    """The rise of a number from its first to its largest value.

    middle: the step (interpolated) at which half of the rise is done. width: steps from a tenth to
    nine tenths. formed: whether the largest value reaches the threshold asked for; if not, middle
    is the run's last step, a lower bound of the step at which it would form.
    """

    seed: int
    middle: float
    width: float
    formed: bool


def formation(result: Result, threshold: float = 0.3) -> Formation:
    """Return when the strongest induction head of a run forms.

    The rise is that of the largest `head_scores/induction` over heads.
    """
    strongest = result.data["head_scores"].induction.max(("layer", "head")).load()
    return rise(strongest, result.seed, threshold)


def rise(series: xr.DataArray, seed: int, threshold: float) -> Formation:
    """Return the rise of a series over `step`."""
    steps, values = series["step"].values.astype(float), series.values.astype(float)
    if not np.nanmax(values) >= threshold:
        return Formation(seed, float(steps[-1]), float(steps[-1] - steps[0]), formed=False)
    first, largest = values[0], np.nanmax(values)
    at = [reached(steps, values, first + share * (largest - first)) for share in (0.1, 0.5, 0.9)]
    return Formation(seed, at[1], at[2] - at[0], formed=True)


def reached(
    steps: Num[np.ndarray, " step"], values: Float[np.ndarray, " step"], level: float
) -> float:
    """Return the first step at which values reach a level, interpolated linearly; NaN if never."""
    above = np.flatnonzero(values >= level)
    if not len(above):
        return float("nan")
    i = above[0]
    if i == 0:
        return float(steps[0])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
