"""Forecasts of the grokking step: from components of the logits, and from progress measures."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from pipeline.aggregate.backtest import Prefix, backtest
from pipeline.aggregate.forecast import (
    GRAM,
    leaky_logit_component,
    logit_component,
    now,
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
_SEEDS = 3


def answer(runs: Runs) -> Iterator[Finding]:
    """Yield the findings, over the runs that generalised."""
    shares = (0.5, 0.6, 0.7) if runs.quick else (0.35, 0.4, 0.45, 0.5, 0.6)
    steps = 1500 if runs.quick else 3000
    every = {"log_until": 16, "every": 40}
    results = runs.results([
        Run(modular(31 if runs.quick else 37, share, seed, steps, checkpoints=every,
                    optimizer={"learning_rate": 5e-3 if runs.quick else 3e-3}), _MEASURES)
        for share in shares for seed in range(_SEEDS)
    ])  # fmt: skip
    errors = _errors({str(i): _series(one) for i, one in enumerate(results)})
    baseline, whole = errors.sel(of="baseline"), errors.sel(of=WHOLE.name)
    soonest = float(np.exp(np.log(errors.sel(of="now") / baseline).mean()))
    for claim, over, region, than in (
        (WHOLE, baseline, Below(1.0), "the mean of other runs"),
        (PREFIX, whole, Above(1.0), "the whole run's component"),
        *((claim, baseline, Below(1.0), "the mean of other runs") for claim in _TRENDS),
    ):
        ratios = errors.sel(of=claim.name) / over
        known = ratios[np.isfinite(ratios.values)]
        name = f"error of the forecast over that of {than}"
        found = (f"geometric means over {len(known)} of {len(results)} runs, those that generalise "
                 f"and have a forecast; errors are factors, at most {_MOST:g}; to expect it at "
                 f"once has {soonest:.2f} of the error of the mean of other runs")  # fmt: skip
        yield finding(claim, Effect(name, "1", _by_seed(known), geometric=True), region, found,
                      why_empty="no run generalised that has a forecast")  # fmt: skip


def _by_seed(ratios: xr.DataArray) -> dict[int, float]:
    """Return the geometric mean of each seed's runs, which share initial weights and splits."""
    seeds = ratios["run"].values.astype(int) % _SEEDS
    logs = np.log(ratios.values)
    return {int(seed): float(np.exp(logs[seeds == seed].mean())) for seed in np.unique(seeds)}


def _series(result: Result) -> xr.Dataset:
    """Return the series of a run that predictors read."""
    groups = {name: group.to_dataset() for name, group in result.data.children.items()}
    series, own = series_of(groups).load(), groups["table_logits"]
    name = "restricted_loss_own_keys"
    series[name] = own[name].reset_coords(drop=True)
    series[GRAM] = logit_gram(own["logits"].reset_coords(drop=True).load())
    return series


def _errors(runs: Mapping[str, xr.Dataset]) -> xr.DataArray:
    """Return the factor of error (dims: of, run) of each claim's forecast, and of two baselines."""
    predictors = [
        others_mean(), now(), leaky_logit_component(), logit_component(),
        *(trend_of(measure) for measure in _TRENDS.values()),
    ]  # fmt: skip
    factor = backtest(runs, predictors, (_HALF,))["factor"].isel(prefix=0, drop=True)
    names = ["baseline", "now", WHOLE.name, PREFIX.name, *(claim.name for claim in _TRENDS)]
    # Where a predictor was left out, for a variable that a run lacks, names would be wrong.
    assert factor.sizes["predictor"] == len(names)
    return factor.drop_vars(("predictor", "leaky")).rename(predictor="of").assign_coords(
        of=names
    ).clip(max=_MOST)  # fmt: skip


EXPERIMENT = Experiment(
    "forecast", "Forecasts of the step at which a model generalises", (WHOLE, PREFIX, *_TRENDS),
    answer,
)  # fmt: skip
