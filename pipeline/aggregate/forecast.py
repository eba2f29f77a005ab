"""Predict the step at which a run will generalise, from a prefix of it and from finished runs.

A predictor is a function of `Observed` (the run up to a step, and no further) and of the finished
runs that calibrate it. It returns a step; infinity where what it extrapolates never arrives; NaN
where it has nothing to go by. `forecast` never returns a step that has passed: the soonest is one
saving interval after the prefix.

- `others' mean`: the geometric mean of the steps of the finished runs that took longer than the
  prefix; the baseline.
- `now`: the soonest step, always.
- `regression on S`: the logarithm of the step on that of a setting S of training.
- `value of M, regression`: the logarithm of the step on the value of a measure at the end of the
  prefix, over the finished runs that had not generalised then.
- `trend of M`: the line through the last half of the prefix (Theil and Sen's, which spikes do not
  move), continued to the median level at which the finished runs generalised.

Measures of losses are taken in logarithms. Leaky predictors use what is known only once the run is
over; they are there to show by how much that flatters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Real
from scipy.stats import theilslopes

from pipeline.aggregate.logit_components import component_scores
from pipeline.aggregate.outcomes import Outcome, Rule, generalised, in_order, outcomes
from pipeline.aggregate.threshold import ProgressMeasure, value_at

FEWEST_FITTED = 3  # points of a regression, checkpoints of a trend
GRAM = "logit_gram"


@dataclass(frozen=True)
class Observed:
    """A run up to the step `until`. whole: the series of the whole run, for leaky predictors."""

    series: xr.Dataset
    until: int
    whole: xr.Dataset | None = None

    @classmethod
    def of(cls, series: xr.Dataset, until: int, leaky: bool = False) -> "Observed":
        """Cut a run off after the step `until`; keep the whole only for a leaky predictor."""
        dims = [dim for dim in ("step", "other_step") if dim in series.dims]
        cut = series.sel({dim: slice(None, until) for dim in dims})
        return cls(cut, until, series if leaky else None)

    @property
    def soonest(self) -> float:
        """The earliest step that a forecast can name: a saving interval after the prefix."""
        steps = self.series["step"].values
        return float(self.until + (steps[-1] - steps[-2] if len(steps) > 1 else 1))


Forecast = Callable[[Observed, Sequence[Outcome]], float]
# The values over the steps of a series, of which those up to a step are known.
Values = Callable[[xr.Dataset, int], Float[np.ndarray, " step"]]


@dataclass(frozen=True)
class Predictor:
    """A way to predict. needs: the variables of a run that it reads. leaky: it uses the future."""

    name: str
    forecast: Forecast
    needs: tuple[str, ...] = ()
    leaky: bool = False


def forecast(
    run: xr.Dataset,
    until: int,
    finished: Mapping[str, xr.Dataset],
    predictor: Predictor,
    rule: Rule = generalised,
) -> float:
    """Return the predicted step at which a run generalises, from its checkpoints up to `until`.

    finished: runs that calibrate the predictor, by name; those that never generalised are not used.
    NaN where the predictor does not apply; infinity where it says that the step will not come.
    Raises InputError for fewer than three finished runs that generalised.
    """
    known, _ = outcomes(finished, rule)
    observed = Observed.of(in_order(run), until, predictor.leaky)
    return forecast_of(observed, known, predictor)


def forecast_of(observed: Observed, known: Sequence[Outcome], predictor: Predictor) -> float:
    """Return a predictor's step, or the soonest one that is left if the step has passed."""
    return float(np.maximum(predictor.forecast(observed, known), observed.soonest))


def others_mean() -> Predictor:
    """Return the baseline: the geometric mean over the runs that took longer than the prefix."""

    def forecast(observed: Observed, known: Sequence[Outcome]) -> float:
        later = [one.time for one in known if one.time > observed.until]
        return float(np.exp(np.mean(np.log(later)))) if later else observed.soonest

    return Predictor("others' mean", forecast)


def now() -> Predictor:
    """Return the predictor that always expects generalisation at the next checkpoint."""
    return Predictor("now", lambda observed, known: observed.soonest)


def regression_on(setting: str) -> Predictor:
    """Return the regression on a setting of training, a positive variable without dimensions."""

    def forecast(observed: Observed, known: Sequence[Outcome]) -> float:
        x = np.log([float(one.series[setting]) for one in known])
        return _regressed(x, known, float(np.log(observed.series[setting])))

    return Predictor(f"regression on {setting}", forecast, (setting,))


def value_regression(measure: ProgressMeasure) -> Predictor:
    """Return the regression on the value of a measure at the end of the prefix."""

    def forecast(observed: Observed, known: Sequence[Outcome]) -> float:
        still = [one for one in known if one.time > observed.until]
        values = [value_at(one.series[measure.name], observed.until) for one in still]
        own = value_at(observed.series[measure.name], observed.until)
        return _regressed(
            measure.scaled(np.array(values)), still, float(measure.scaled(np.array(own)))
        )

    return Predictor(f"value of {measure.name}, regression", forecast, (measure.name,))


def trend_of(measure: ProgressMeasure, leaky: bool = False) -> Predictor:
    """Return the trend of a measure, continued to the level at which other runs generalised.

    leaky: the caller knows that the measure's values at a step depend on later checkpoints.
    """

    def values(run: xr.Dataset, until: int) -> Float[np.ndarray, " step"]:
        return measure.scaled(run[measure.name].values.astype(np.float64))

    return _trend(f"trend of {measure.name}", values, measure.rises, (measure.name,), leaky)


def logit_component() -> Predictor:
    """Return the trend of the first principal component of the logits, fitted to the prefix.

    Needs the variable `logit_gram`; the calibrating runs' components are fitted to prefixes up to
    the same step, so that their levels are levels of the same kind of component.
    """

    def values(run: xr.Dataset, until: int) -> Float[np.ndarray, " step"]:
        fitted = int(np.searchsorted(run["step"].values, until, side="right"))
        return component_scores(run[GRAM].values, fitted)

    return _trend("trend of logit component, fitted to the prefix", values, True, (GRAM,), False)


def leaky_logit_component() -> Predictor:
    """Return the trend of the first principal component of the logits of the WHOLE run."""

    def values(run: xr.Dataset, until: int) -> Float[np.ndarray, " step"]:
        return component_scores(run[GRAM].values, run.sizes["step"])

    return _trend("trend of logit component, fitted to the whole run", values, True, (GRAM,), True)


def _trend(
    name: str, values: Values, rises: bool, needs: tuple[str, ...], leaky: bool
) -> Predictor:
    def forecast(observed: Observed, known: Sequence[Outcome]) -> float:
        source = observed.series if observed.whole is None else observed.whole
        steps = source["step"].values
        past = steps <= observed.until
        level = _level(values, known, observed.until)
        return reach(steps[past], values(source, observed.until)[past], level, rises)

    return Predictor(name, forecast, needs, leaky)


def _level(values: Values, known: Sequence[Outcome], until: int) -> float:
    """Return the median over the finished runs of their values when they generalised."""
    levels = np.array(
        [values(one.series, until)[one.series["step"].values == one.time][0] for one in known]
    )
    levels = levels[np.isfinite(levels)]
    return float(np.median(levels)) if levels.size else np.nan


def reach(
    steps: Real[np.ndarray, " step"],
    values: Float[np.ndarray, " step"],
    level: float,
    rises: bool,
) -> float:
    """Return the step at which a line through the last half of the steps reaches the level.

    The last of the steps where the line is past the level there; infinity where it leads away from
    the level; NaN with fewer than `FEWEST_FITTED` finite values.
    """
    if not len(steps) or not np.isfinite(level):
        return np.nan
    used = (steps >= steps[-1] / 2) & np.isfinite(values)
    if np.count_nonzero(used) < FEWEST_FITTED:
        return np.nan
    line = theilslopes(values[used], steps[used], method="joint")
    slope, intercept = np.asarray(line, dtype=np.float64)[:2]
    missing = level - (intercept + slope * steps[-1])
    if not rises:
        missing, slope = -missing, -slope
    if missing <= 0:
        return float(steps[-1])
    return float(steps[-1] + missing / slope) if slope > 0 else np.inf


def _regressed(x: Float[np.ndarray, " run"], known: Sequence[Outcome], at: float) -> float:
    """Return the step by the regression of the runs' log steps on x; NaN where it has no slope."""
    y = np.log([one.time for one in known])
    used = np.isfinite(x)
    if np.count_nonzero(used) < FEWEST_FITTED or np.ptp(x[used]) == 0 or not np.isfinite(at):
        return np.nan
    slope, intercept = np.polyfit(x[used], y[used], 1)
    return float(np.exp(intercept + slope * at))
