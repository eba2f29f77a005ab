"""Forecasts of the grokking step: from components of the logits, and from progress measures."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from pipeline.aggregate.backtest import Prefix, backtest
from pipeline.aggregate.forecast import (
    GRAM,
    leaky_logit_component,
    logit_component,
    others_mean,
    trend_of,
)
from pipeline.aggregate.logit_components import logit_gram
from pipeline.aggregate.outcomes import series_of
from pipeline.aggregate.threshold import ProgressMeasure
from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import modular
from pipeline.experiments.sources import INTERVIEW

WHOLE = Claim(
    "forecast-whole-run",
    "The first principal component of the logits over the whole run, extrapolated from half of "
    "the time, forecasts the step of generalisation better than the mean of other runs.",
    INTERVIEW,
)
PREFIX = Claim(
    "forecast-prefix",
    "Fitted to the first half of the time alone, the component forecasts worse than fitted to the "
    "whole run.",
    INTERVIEW,
)
_BETTER = "{} up to half of the time forecasts the step better than the mean of other runs."
RESTRICTED = Claim("forecast-restricted", _BETTER.format("Restricted loss"), INTERVIEW)
GINI = Claim("forecast-gini", _BETTER.format("The Gini coefficient of W_L"), INTERVIEW)
NORM = Claim("forecast-norm", _BETTER.format("The weight norm"), INTERVIEW)

_TRENDS = {
    RESTRICTED: ProgressMeasure("restricted_loss_own_keys", rises=False, log=True),
    GINI: ProgressMeasure("gini_neuron_logit", rises=True),
    NORM: ProgressMeasure("sum_of_squares", rises=False),
}
_MEASURES = {"modular_addition": {}, "weight_norm": {}, "table_logits": {}}
_HALF = Prefix(0.5, share=True)
_MOST = 10.0  # a factor of error: that of a forecast of "never"
_BOUND = f"runs that generalised, numbered from 0; an error is a factor, of at most {_MOST:g}"


def answer(runs: Runs) -> Iterator[Finding]:
    """Yield the findings, over the runs that generalised."""
    shares = (0.5, 0.6, 0.7) if runs.quick else (0.35, 0.4, 0.45, 0.5, 0.6)
    steps = 1500 if runs.quick else 3000
    every = {"log_until": 16, "every": 40}
    results = runs.results(
        [
            Run(modular(31 if runs.quick else 37, share, seed, steps, checkpoints=every,
                        optimizer={"learning_rate": 5e-3 if runs.quick else 3e-3}), _MEASURES)
            for share in shares
            for seed in range(3)
        ]
    )  # fmt: skip
    errors = _errors({str(i): _series(one) for i, one in enumerate(results)})
    baseline, whole = errors["baseline"], errors[WHOLE.name]
    known = np.isfinite(list(errors.values())).all(axis=0)
    found = f"{_BOUND}; {(~known).sum()} left out, of which a forecast is undefined"
    for claim, of, over, region, than in (
        (WHOLE, whole, baseline, Below(1.0), "the mean of other runs"),
        (PREFIX, errors[PREFIX.name], whole, Above(1.0), "the whole run's component"),
        *(
            (claim, errors[claim.name], baseline, Below(1.0), "the mean of other runs")
            for claim in _TRENDS
        ),
    ):
        ratio = {run: float(of[run] / over[run]) for run in map(int, np.flatnonzero(known))}
        name = f"error of the forecast over that of {than}"
        yield finding(claim, Effect(name, "1", ratio, geometric=True), region, found)


def _series(result: Result) -> xr.Dataset:
    """Return the series of a run that predictors read."""
    groups = {name: group.to_dataset() for name, group in result.data.children.items()}
    series, own = series_of(groups).load(), groups["table_logits"]
    name = "restricted_loss_own_keys"
    series[name] = own[name].reset_coords(drop=True)
    series[GRAM] = logit_gram(own["logits"].reset_coords(drop=True).load())
    return series


def _errors(runs: Mapping[str, xr.Dataset]) -> dict[str, np.ndarray]:
    """Return the factor of error of each forecast, by the claim that it is for, of each run."""
    predictors = [
        others_mean(), leaky_logit_component(), logit_component(),
        *(trend_of(measure) for measure in _TRENDS.values()),
    ]  # fmt: skip
    factor = backtest(runs, predictors, (_HALF,))["factor"].isel(prefix=0).values
    names = ["baseline", WHOLE.name, PREFIX.name, *(claim.name for claim in _TRENDS)]
    return {name: np.minimum(of, _MOST) for name, of in zip(names, factor, strict=True)}


EXPERIMENT = Experiment(
    "forecast",
    "Forecasts of the step at which a model generalises",
    (WHOLE, PREFIX, *_TRENDS),
    answer,
)
