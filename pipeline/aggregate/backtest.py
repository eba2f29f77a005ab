"""Backtest of forecasts: each run of a sweep predicted by the others, at several prefixes.

A prefix ends at a step, or at a share of the run's own time to generalisation. Only runs that
generalise after the prefix are asked. A share of the true time can be chosen only with hindsight:
it says how early a forecast is of use, and "now" is then wrong by the same factor in every run.
A censored run has no true step; at a prefix that ends at a step, forecasts that lie within the run
are refuted, and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from pipeline.aggregate.forecast import (
    Observed,
    Predictor,
    forecast_of,
    leaky_logit_component,
    logit_component,
    now,
    others_mean,
    regression_on,
    trend_of,
    value_regression,
)
from pipeline.aggregate.outcomes import RULE, Outcome, Rule, generalised, outcomes
from pipeline.aggregate.scoring import VERDICT, factor_of_error, median_interval, verdict
from pipeline.aggregate.threshold import ProgressMeasure
from pipeline.aggregate.variables import attributes
from pipeline.errors import InputError


@dataclass(frozen=True)
class Prefix:
    """A step, or with `share` a share of the time that the run took to generalise."""

    length: float
    share: bool = False

    def __str__(self) -> str:
        return f"{100 * self.length:g}% of the time" if self.share else f"step {self.length:g}"

    def end(self, run: Outcome) -> int | None:
        """Return the last saved step of the prefix, or None where the run cannot be asked.

        Such is a run that has generalised by then, one that is not as long, and a censored one if
        the prefix is a share of a time that is not known.
        """
        steps = run.series["step"].values
        limit = self.length * run.time if self.share else self.length
        known = steps[steps <= limit]
        if not known.size or steps[-1] <= limit or known[-1] >= run.time:
            return None
        return int(known[-1])


PREFIXES = (
    Prefix(200), Prefix(400), Prefix(0.25, True), Prefix(0.5, True), Prefix(0.75, True),
)  # fmt: skip

TRENDS = (
    ProgressMeasure("gini_embedding", rises=True),
    ProgressMeasure("gini_neuron_logit", rises=True),
    ProgressMeasure("sum_of_squares", rises=False),
    ProgressMeasure("excluded_loss_of_one", rises=True, log=True),
    ProgressMeasure("restricted_loss_own_keys", rises=False, log=True),
)
# Leaky: at every step these use the key frequencies of the run's last checkpoint.
LEAKY_TRENDS = (
    ProgressMeasure("restricted_loss", rises=False, log=True),
    ProgressMeasure("excluded_loss", rises=True, log=True),
)
VALUES = (*TRENDS, ProgressMeasure("test_loss", rises=False, log=True))


def default_predictors(settings: Sequence[str] = ()) -> list[Predictor]:
    """Return the baseline and all other predictors. settings: those to regress on."""
    return [
        others_mean(),
        now(),
        *(regression_on(setting) for setting in settings),
        *(trend_of(measure) for measure in TRENDS),
        *(value_regression(measure) for measure in VALUES),
        logit_component(),
        *(trend_of(measure, leaky=True) for measure in LEAKY_TRENDS),
        leaky_logit_component(),
    ]


def backtest(
    runs: Mapping[str, xr.Dataset],
    predictors: Sequence[Predictor],
    prefixes: Sequence[Prefix] = PREFIXES,
    rule: Rule = generalised,
) -> xr.Dataset:
    """Return forecasts of each run by the others, their errors, and a verdict on each predictor.

    runs: by name, each with the variables of the group `modular_addition`, and what else the
    predictors read. The first predictor is the baseline that the others are judged against.
    Predictors whose variables some run lacks are named in the attribute `left_out`. Dimensions:
    `predictor`, `prefix`, `run` (those that generalised) and `censored`. Raises InputError for
    fewer than three runs that generalised, and where the baseline is left out.
    """
    finished, censored = outcomes(runs, rule)
    known = [p for p in predictors if all(n in run for n in p.needs for run in runs.values())]
    if not known or known[0] is not predictors[0]:
        raise InputError("the baseline, the first predictor, reads a variable that some run lacks")
    result = _asked(known, prefixes, finished, censored)
    result.attrs = {
        "rule": RULE if rule is generalised else "a rule of the caller's",
        "verdict": VERDICT,
        "baseline": known[0].name,
        "left_out": [one.name for one in predictors if one not in known],
        "runs_generalised": len(finished),
        "runs_censored": len(censored),
    }
    last = xr.DataArray([float(one.series["step"][-1]) for one in censored], dims="censored")
    return _described(_judged(result, last))


def _asked(
    predictors: Sequence[Predictor],
    prefixes: Sequence[Prefix],
    finished: Sequence[Outcome],
    censored: Sequence[Outcome],
) -> xr.Dataset:
    """Return all forecasts, for the runs that generalised and for those that did not."""
    dims = ("predictor", "prefix")
    ahead, never = (_forecasts(predictors, prefixes, r, finished) for r in (finished, censored))
    return xr.Dataset(
        {
            "generalised": ("run", np.array([one.time for one in finished])),
            "forecast": ((*dims, "run"), ahead),
            "censored_forecast": ((*dims, "censored"), never),
        },
        {
            "predictor": [one.name for one in predictors],
            "prefix": [str(one) for one in prefixes],
            "run": [one.name for one in finished],
            "censored": np.array([one.name for one in censored], dtype=object),
            "leaky": ("predictor", [one.leaky for one in predictors]),
        },
    )


def _forecasts(
    predictors: Sequence[Predictor],
    prefixes: Sequence[Prefix],
    asked: Sequence[Outcome],
    finished: Sequence[Outcome],
) -> np.ndarray:
    """Return forecasts (predictor, prefix, run) of each run by all finished runs but itself."""
    found = np.full((len(predictors), len(prefixes), len(asked)), np.nan)
    for k, run in enumerate(asked):
        others = [one for one in finished if one is not run]
        for j, prefix in enumerate(prefixes):
            if (until := prefix.end(run)) is None:
                continue
            cut = Observed.of(run.series, until)
            for i, predictor in enumerate(predictors):
                observed = replace(cut, whole=run.series) if predictor.leaky else cut
                found[i, j, k] = forecast_of(observed, others, predictor)
    return found


def _judged(result: xr.Dataset, last: xr.DataArray) -> xr.Dataset:
    factor = xr.apply_ufunc(factor_of_error, result["forecast"], result["generalised"])
    ratio = factor / factor[0]
    judged = xr.apply_ufunc(
        _summary, factor, ratio, input_core_dims=[["run"], ["run"]], vectorize=True,
        output_core_dims=[[]] * 6,
    )  # fmt: skip
    names = ("median_factor", "median_factor_low", "median_factor_high", "worst_factor", "asked",
             "verdict")  # fmt: skip
    result["factor"] = factor
    result["verdict"] = judged[-1].astype(object)
    for name, values in zip(names[:-1], judged[:-1], strict=True):
        result[name] = values
    result["verdict"][0] = "the baseline"
    result["refuted"] = (result["censored_forecast"] <= last).sum("censored")
    result["censored_asked"] = result["censored_forecast"].notnull().sum("censored")
    return result


def _summary(factor: np.ndarray, ratio: np.ndarray) -> tuple[float, float, float, float, int, str]:
    answered = int(np.count_nonzero(~np.isnan(factor)))
    worst = float(np.nanmax(factor)) if answered else np.nan
    return (*median_interval(factor), worst, answered, verdict(ratio))


def _described(result: xr.Dataset) -> xr.Dataset:
    for name, (units, definition) in _DEFINITIONS.items():
        result[name].attrs = attributes(units, definition)
    return result


_DEFINITIONS = {
    "generalised": ("steps", "Step at which the run generalised."),
    "forecast": (
        "steps",
        "Predicted step; infinite where it is not to come, NaN where there is no forecast.",
    ),
    "censored_forecast": ("steps", "Predicted step of a run that did not generalise."),
    "factor": ("1", "Factor of error of the predicted step."),
    "median_factor": ("1", "Median over runs of the factor of error."),
    "median_factor_low": ("1", "2.5% bootstrap quantile of the median factor."),
    "median_factor_high": ("1", "97.5% bootstrap quantile of the median factor."),
    "worst_factor": ("1", "Largest factor of error of a run."),
    "asked": ("1", "Runs for which there is a forecast."),
    "verdict": ("1", "Verdict on the predictor against the baseline, over the same runs."),
    "refuted": ("1", "Forecasts for runs that did not generalise that lie within the run."),
    "censored_asked": ("1", "Forecasts for runs that did not generalise."),
}
